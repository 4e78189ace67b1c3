//! What can be wrong with a specification.

use std::path::PathBuf;

use crate::base::fs::FsError;

/// A specification that cannot be used: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// TOML that cannot be read: file, line and remedy.
    #[error("{0}")]
    Parse(String),
    /// A place in a file.
    #[error("{file}:{line}: {message}", file = file.display())]
    At {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Value, rule and remedy.
        message: String,
    },
    /// The file as a whole.
    #[error("{file}: {message}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Value, rule and remedy.
        message: String,
    },
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
}
