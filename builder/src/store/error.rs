//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use crate::base::Digest;
use crate::base::fs::FsError;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error(transparent)]
    Fs(FsError),
    /// No room left where the store lies.
    #[error(
        "cannot {operation} {path}: {source}; make room there, run `slipform gc`, or set SLIPFORM_STORE to a folder with more",
        path = path.display()
    )]
    Full {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A blob that is not there.
    #[error("blob {0} is not in the store; run without --offline, or `slipform fetch`")]
    Missing(Digest),
    /// A blob whose bytes are not what its name says.
    #[error(
        "blob {name} in the store is damaged (its bytes have {found}); it was set aside, run again to make it anew"
    )]
    Damaged {
        /// The name.
        name: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Bytes that are not what was promised.
    #[error("{what} has digest {found}, but {expected} was expected")]
    Unexpected {
        /// What was being put.
        what: String,
        /// Promised.
        expected: Digest,
        /// Found.
        found: Digest,
    },
    /// A blob that is too big for what it is to be.
    #[error("{what} {digest} has {size} bytes; at most {limit} are read")]
    TooBig {
        /// What it was read as.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A document of the store that cannot be understood.
    #[error("cannot read {what}: {why}")]
    Malformed {
        /// The document: a path, or a kind and its digest.
        what: String,
        /// What is wrong with it, and the remedy where there is one.
        why: String,
    },
    /// A name that an OCI layout does not allow.
    #[error(
        "'{0}' is no name for an image; use letters, digits and single . _ - + / : @ between them (at most 255 bytes)"
    )]
    Name(String),
}

impl From<FsError> for StoreError {
    fn from(error: FsError) -> Self {
        let FsError {
            operation,
            path,
            source,
        } = error;
        match Self::from_writer(source) {
            // A blob's writer has told all already.
            Ok(own) => own,
            Err(source) if is_full(&source) => Self::Full {
                operation,
                path,
                source,
            },
            Err(source) => Self::Fs(FsError {
                operation,
                path,
                source,
            }),
        }
    }
}

impl StoreError {
    /// The store's own error in what a [`BlobWriter`](super::BlobWriter) said as a writer.
    ///
    /// # Errors
    /// The error as it was, when it is not the store's.
    pub fn from_writer(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

/// Whether an error says that a file system, a quota or a size limit is exhausted.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
