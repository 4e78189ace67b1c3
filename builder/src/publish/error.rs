//! What can go wrong with publishing and pulling.

use crate::attest::{AttestError, GateError};
use crate::base::Digest;
use crate::channel::ChannelError;
use crate::remote::RemoteError;
use crate::store::StoreError;

/// An error of publishing or pulling: what was tried, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The remote failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The channel cannot be read or changed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A signature, an attestation or the gate.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The gate says no.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A release that is not what came through the gate.
    #[error(
        "release {0} is not made of the images that came through the gate; build it again with `slipform build --locked`, and test it"
    )]
    OtherRelease(Digest),
    /// A list of sources that breaks a rule.
    #[error("the list of a release's sources cannot be used: {0}")]
    Sources(String),
    /// The remote lacks what one of its records names.
    #[error(
        "{remote} does not have {digest}, {what} of a release that it lists; publish that release again from where it was built"
    )]
    Incomplete {
        /// Where.
        remote: String,
        /// What is missing.
        digest: Digest,
        /// What it is.
        what: &'static str,
    },
    /// A text that names no release.
    #[error(
        "'{0}' names no release: write a channel (`stable`), a channel and a number or digest (`stable@3`), or `sha256:` and 64 digits"
    )]
    Reference(String),
    /// No channel has it.
    #[error(
        "no channel in {remote} ever had {digest}, so nothing says that it was tested; `slipform channels` lists what there is"
    )]
    Unlisted {
        /// Where.
        remote: String,
        /// What was asked for.
        digest: Digest,
    },
    /// Without a key there is nothing to check with.
    #[error(
        "no public key to check {0} with; name one with --key, SLIPFORM_TRUSTED_KEYS, or `keys` in [gate] of slipform.toml"
    )]
    NoKey(String),
    /// Who signs is nobody to those who read.
    #[error(
        "the key {0} that signs is not among the trusted ones: whoever trusts only those would find the channel broken; sign with one of them, or trust it with --trusted-key"
    )]
    Signer(Digest),
    /// A release for several boards.
    #[error("the release is for {boards}; choose one with --board")]
    Board {
        /// Their names.
        boards: String,
    },
    /// The earlier release that there is none of.
    #[error("channel '{0}' has had one release only, there is nothing to roll back to")]
    NoEarlier(String),
}

impl PublishError {
    /// The caller's input is at fault.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Reference(_)
            | Self::Unlisted { .. }
            | Self::NoKey(_)
            | Self::Signer(_)
            | Self::Board { .. }
            | Self::NoEarlier(_) => true,
            Self::Channel(error) => error.is_bad_input(),
            Self::Remote(error) => matches!(error, RemoteError::Uri { .. } | RemoteError::Tag(_)),
            _ => false,
        }
    }
}
