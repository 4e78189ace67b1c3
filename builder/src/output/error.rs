//! What can go wrong in writing or opening an image file.

use std::path::PathBuf;

use crate::base::fs::FsError;
use crate::disk::DiskError;
use crate::store::{StoreError, is_full};

/// An image file that could not be written or opened.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refused.
    #[error(transparent)]
    Fs(FsError),
    /// No room left where the image is to be.
    #[error(
        "cannot {operation} {path}: {source}; make room there, or name a folder with more by --out",
        path = path.display()
    )]
    Full {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The map is wrong.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An image file that cannot be read.
    #[error("cannot open the image {path}: {source}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// A disk that the format cannot hold.
    #[error("cannot write {path}: {source}", path = path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// The rule, and what to do.
        source: std::io::Error,
    },
    /// A disk of this host that must not be overwritten.
    #[error("cannot write onto {path}: {why}", path = path.display())]
    Target {
        /// The disk.
        path: PathBuf,
        /// The rule, and what to do.
        why: String,
    },
    /// What was written is not what was read back.
    #[error(
        "cannot keep {path}: byte {offset} of its disk reads back as another; the disk that it is written on or this program is broken: try another, and report it",
        path = path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// First byte of the disk that differs.
        offset: u64,
    },
    /// A path that names no file.
    #[error("cannot write an image to {path}: the path has no file name; name a file", path = path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
}

impl From<FsError> for OutputError {
    fn from(error: FsError) -> Self {
        if !is_full(&error.source) {
            return Self::Fs(error);
        }
        let FsError {
            operation,
            path,
            source,
        } = error;
        Self::Full {
            operation,
            path,
            source,
        }
    }
}
