//! Checks OpenPGP clear-signed files, as Debian's `InRelease` is one
//! (RFC 9580, section 7), against a keyring.
//!
//! The `pgp` crate does the mathematics; what it leaves to its callers is done
//! here: signing subkeys are tried and must be bound both ways, expired and
//! revoked keys are refused, weak hashes are refused, and the only text handed
//! out is the one that the good signature covers.
//!
//! A crate of its own, because it brings two hundred others: an edit elsewhere
//! need not build them again.

mod keyring;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;

pub use keyring::{KeyInfo, Keyring};
pub use verify::{Moment, Signer, Verified, verify_clearsigned};

/// Why a text or a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a clear-signed text at all.
    #[error(
        "this is no OpenPGP clear-signed text: {0}; the archive, or a proxy in between, answered with something else"
    )]
    Unreadable(String),
    /// No key in what was given as a key file.
    #[error(
        "this is no OpenPGP public key: {0}; give the archive's key as exported by `gpg --export`, armoured or binary"
    )]
    Key(String),
    /// No signature that can be relied on.
    #[error(
        "no good signature by an accepted key ({problems}); accepted: {accepted}",
        problems = .problems.join("; "),
        accepted = if .accepted.is_empty() { "none".to_owned() } else { .accepted.join(", ") }
    )]
    Refused {
        /// What is wrong with each signature.
        problems: Vec<String>,
        /// Fingerprints of the keyring's primary keys.
        accepted: Vec<String>,
    },
}
