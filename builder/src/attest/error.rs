//! What can go wrong with keys, signatures and attestations. What the gate says
//! no for is a type of its own: [`super::GateError`].

use std::path::PathBuf;

use crate::base::fs::FsError;
use crate::store::StoreError;

/// An operation of this room that failed.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file with a key that cannot be used.
    #[error("key {path}: {why}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Value, rule and remedy.
        why: String,
    },
    /// A public key that cannot be read.
    #[error(
        "the public key of {origin} cannot be used: {why}; it must be an ECDSA P-256 key as PEM, `-----BEGIN PUBLIC KEY-----`"
    )]
    PublicKey {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// No passphrase could be had.
    #[error("no passphrase: {0}")]
    Passphrase(String),
    /// There is no place for keys.
    #[error("no place for the key: set XDG_CONFIG_HOME or HOME, or name a file")]
    NoPlace,
    /// The command that should have signed did not.
    #[error("the signer `{command}` {why}")]
    Signer {
        /// The command.
        command: String,
        /// What it did, and the remedy.
        why: String,
    },
    /// A document that is not what it must be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// No signature of an envelope is by a trusted key.
    #[error("{0}")]
    Untrusted(String),
    /// A run that nothing may be attested of.
    #[error("this run cannot be attested: {why}; run {remedy}")]
    Run {
        /// Why not.
        why: String,
        /// The command that makes one that can.
        remedy: &'static str,
    },
}

impl AttestError {
    /// Whether the user's input is at fault, and not the system.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::Key { .. } | Self::PublicKey { .. } | Self::Passphrase(_) | Self::NoPlace
        )
    }
}

/// Names the document in an error.
#[allow(clippy::needless_pass_by_value)] // callers hand over what they have just made
pub(super) fn malformed(what: &'static str, why: impl ToString) -> AttestError {
    AttestError::Malformed {
        what,
        why: why.to_string(),
    }
}
