//! The tree of one layer, sorted, complete, ready to be written.

use std::collections::BTreeMap;

use crate::layers::{Kind, Meta};

/// What one layer's file system holds. Every parent of a path is in the map
/// too; the root is the empty path `""`, its children `usr`, then `usr/bin`
/// (no leading slash). Iteration order is byte order of the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Nodes by path. A hard link is a node of [`Kind::Hardlink`] whose target is a path in the same form.
    pub nodes: BTreeMap<String, Node>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time, attributes. A whiteout is `CharDevice(0, 0)`; an
    /// opaque folder has `trusted.overlay.opaque` = `y`.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}
