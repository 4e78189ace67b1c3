//! What can go wrong in writing or opening an image file.

use std::path::PathBuf;

use crate::base::fs::FsError;
use crate::disk::DiskError;
use crate::store::StoreError;

/// An image file that could not be written or opened.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
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
    /// A path that names no file.
    #[error("cannot write an image to {path}: the path has no file name; name a file", path = path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
}
