//! What can go wrong while a layer's entries are gathered.

use std::io;

use crate::base::fs::FsError;
use crate::store::{StatError, StoreError};

/// A layer that cannot be gathered, and why.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The host's file system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the user's has no digest.
    #[error(transparent)]
    Stat(#[from] StatError),
    /// Reading or unpacking an archive broke off.
    #[error(
        "cannot {operation} {archive}: {source}; fetch or make it again, or report it to its maker"
    )]
    Archive {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Which archive.
        archive: String,
        /// What the reader said.
        source: io::Error,
    },
    /// An archive that is not what it should be.
    #[error("{archive}: {problem}; use a whole one, as dpkg-deb or tar writes it")]
    Malformed {
        /// Which archive.
        archive: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry of an archive that must not reach an image.
    #[error("{archive}: refused '{path}': {rule}; make the archive without it")]
    Refused {
        /// Which archive.
        archive: String,
        /// The entry as written there, escaped.
        path: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A limit that keeps a hostile archive from exhausting the machine.
    #[error("{archive}: {what} is more than the limit of {limit}; such an archive cannot be used")]
    TooLarge {
        /// Which archive.
        archive: String,
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// What was named as a container image is none, or not a fitting one.
    #[error("container {container}: {problem}")]
    Container {
        /// As the specification names it.
        container: String,
        /// Value, rule and remedy.
        problem: String,
    },
    /// A rule of the layer (`files[0] www`) that cannot be followed.
    #[error("layer '{layer}', {rule}: {problem}")]
    Rule {
        /// The layer.
        layer: String,
        /// Which rule of it.
        rule: String,
        /// Value, rule and remedy.
        problem: String,
    },
    /// Two sources of one layer want different things at one path.
    #[error(
        "layer '{layer}': {path} is {first} and also {second}; leave one out with `exclude`, or move it"
    )]
    Collision {
        /// The layer.
        layer: String,
        /// The guest path.
        path: String,
        /// What brings it, and as what.
        first: String,
        /// What else brings it, and as what.
        second: String,
    },
    /// Bytes that differ from those that were planned.
    #[error("{path} changed while it was read ({problem}); run again when it is at rest")]
    Changed {
        /// The file.
        path: String,
        /// In what.
        problem: String,
    },
}
