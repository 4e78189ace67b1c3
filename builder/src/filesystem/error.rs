//! What can go wrong while a file system is written.

use std::io;

use crate::base::Digest;
use crate::store::StoreError;

/// A file system that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The store, in which images are written, refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path that the format cannot hold.
    #[error("cannot put /{path} into the {format} image: {rule}")]
    Path {
        /// Guest path without the leading slash.
        path: String,
        /// `ext4` or `cpio`.
        format: &'static str,
        /// The rule that it breaks, and what to do.
        rule: String,
    },
    /// Content that could not be read.
    #[error("cannot read the content of /{path}: {source}")]
    Content {
        /// Guest path without the leading slash.
        path: String,
        /// What the reader reported.
        source: io::Error,
    },
    /// Content of another length than declared.
    #[error(
        "the content of /{path} is {found} than the {expected} bytes it was declared with; it changed while it was read: run again"
    )]
    Length {
        /// Guest path without the leading slash.
        path: String,
        /// Declared length in bytes.
        expected: u64,
        /// `shorter` or `longer`.
        found: &'static str,
    },
    /// Content with another digest than declared.
    #[error(
        "the content of /{path} has {found}, but {expected} was expected; it changed while it was read: run again"
    )]
    Digest {
        /// Guest path without the leading slash.
        path: String,
        /// Declared.
        expected: Digest,
        /// Found.
        found: Digest,
    },
    /// The ext4 writer refused the whole image.
    #[error("cannot lay out an ext4 image of {blocks} blocks of 4096 bytes: {reason}")]
    Layout {
        /// Size that was tried.
        blocks: u64,
        /// What the writer said.
        reason: String,
    },
}
