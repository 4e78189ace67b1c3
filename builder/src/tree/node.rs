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

impl Tree {
    /// The first path that breaks what is promised above, and how: a parent that
    /// is missing or no folder, a name that no file system takes, a hard link
    /// whose target is not an earlier file of the same tree.
    #[must_use]
    pub fn fault(&self) -> Option<(&str, &'static str)> {
        let root = self.nodes.get("").map(|node| &node.kind);
        if !self.nodes.is_empty() && root != Some(&Kind::Directory) {
            return Some(("", "must be a folder"));
        }
        self.nodes
            .iter()
            .filter(|(path, _)| !path.is_empty())
            .find_map(|(path, node)| {
                self.fault_of(path, node)
                    .map(|fault| (path.as_str(), fault))
            })
    }

    fn fault_of(&self, path: &str, node: &Node) -> Option<&'static str> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") || name.len() > 255 || name.contains('\0') {
            return Some("has a name that no file system takes");
        }
        if self.nodes.get(parent).map(|parent| &parent.kind) != Some(&Kind::Directory) {
            return Some("has no folder above it");
        }
        if let Kind::Hardlink(target) = &node.kind {
            let file = self.nodes.get(target).map(|target| &target.kind);
            if !matches!(file, Some(Kind::File(_))) || target.as_str() >= path {
                return Some("is a hard link, but not to an earlier file");
            }
        }
        None
    }
}
