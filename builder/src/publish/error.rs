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
    /// Boards that no cloud has.
    #[error(
        "no image of this release is for the board {wanted} (there is {boards}): build and test it for such a board, or name one with --board"
    )]
    NoCloudBoard {
        /// The board asked for.
        wanted: String,
        /// Those that there are.
        boards: String,
    },
    /// A release without images in a cloud.
    #[error(
        "release {0} has no images in a cloud that a parameter could name; publish it with --to aws://region"
    )]
    NoCloud(Digest),
    /// The channel is right and the parameter is not.
    #[error(
        "channel '{channel}' names the release, but {parameter} was not switched everywhere: {error}; do that with `slipform promote {channel} {channel}`"
    )]
    NotSwitched {
        /// The channel.
        channel: String,
        /// The parameter.
        parameter: String,
        /// What went wrong.
        error: String,
    },
    /// Where images of a cloud go to cannot be used.
    #[error("'{text}': {why}")]
    Target {
        /// As written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// The disk cannot be read.
    #[error("cannot read the disk of image {image}: {source}")]
    Disk {
        /// The image.
        image: Digest,
        /// What the store or the system said.
        source: std::io::Error,
    },
    /// The disk is none for that cloud.
    #[error("image {image}: {why}")]
    Unfit {
        /// The image.
        image: Digest,
        /// Value, rule and remedy.
        why: String,
    },
    /// Something in a cloud came to nothing.
    #[error("{what} failed{}; delete it, and publish again", .said.strip_prefix(' ').map_or_else(String::new, |said| format!(": {said}")))]
    CloudFailed {
        /// What, with its id and region.
        what: String,
        /// A space and what the service said, or nothing.
        said: String,
    },
    /// Something in a cloud takes too long.
    #[error(
        "{what} was not ready after about {after} seconds; publish again: it is looked at anew, and nothing is sent twice"
    )]
    CloudSlow {
        /// What.
        what: String,
        /// How long it was waited for.
        after: u64,
    },
    /// A name in a cloud is somebody else's.
    #[error(
        "the name {name} is taken in {region} by {id}, which is not made of image {image}; deregister it, or give the release another version"
    )]
    CloudName {
        /// The name.
        name: String,
        /// Where.
        region: String,
        /// What has it.
        id: String,
        /// The image that should have it.
        image: Digest,
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
            | Self::Target { .. }
            | Self::NoCloudBoard { .. }
            | Self::NoCloud(_)
            | Self::Unfit { .. }
            | Self::NoEarlier(_) => true,
            Self::Channel(error) => error.is_bad_input(),
            Self::Remote(error) => matches!(error, RemoteError::Uri { .. } | RemoteError::Tag(_)),
            _ => false,
        }
    }
}
