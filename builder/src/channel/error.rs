//! What can go wrong with channels.

use crate::attest::AttestError;
use crate::base::Digest;
use crate::remote::RemoteError;

/// An error of a channel: what was tried, on which channel and record, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The remote failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Signing or checking a signature failed.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// Not a channel's name.
    #[error(
        "'{0}' is no channel: use 1 to 64 lower-case letters, digits and '-', a letter first, and neither 'sha256-' nor 'revoked'"
    )]
    Name(String),
    /// No such channel.
    #[error(
        "there is no channel '{channel}' in {remote}; `slipform channels` lists those there are"
    )]
    NoChannel {
        /// Its name.
        channel: String,
        /// Where it was looked for.
        remote: String,
    },
    /// A record that breaks a rule.
    #[error("a release record cannot be read: {0}")]
    Malformed(String),
    /// The chain is broken.
    #[error(
        "channel '{channel}' is broken at record {record}: {why}; what stands above it can be trusted, nothing below"
    )]
    Broken {
        /// The channel.
        channel: String,
        /// Digest of the record's manifest.
        record: Digest,
        /// What is wrong.
        why: String,
    },
    /// Somebody else was quicker.
    #[error(
        "channel '{channel}' was changed by somebody else meanwhile ({what}); nothing of theirs was touched: look at `slipform log {channel}` and run the command again"
    )]
    Lost {
        /// The channel.
        channel: String,
        /// What was seen.
        what: String,
    },
    /// No such release in the channel.
    #[error("channel '{channel}' has no release '{wanted}'; `slipform log {channel}` lists them")]
    NotThere {
        /// The channel.
        channel: String,
        /// As it was asked for.
        wanted: String,
    },
    /// Several releases fit.
    #[error("'{wanted}' fits several releases of channel '{channel}': {found}; write more of it")]
    Ambiguous {
        /// The channel.
        channel: String,
        /// As it was asked for.
        wanted: String,
        /// Those that fit.
        found: String,
    },
    /// Must not be used.
    #[error("{image} was revoked on {when} by {who}: {why}")]
    Revoked {
        /// The image or release.
        image: Digest,
        /// The day.
        when: String,
        /// By whom.
        who: String,
        /// Why.
        why: String,
    },
}

impl ChannelError {
    /// The caller's input is at fault, not the remote.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Self::Name(_) | Self::NoChannel { .. } | Self::NotThere { .. } | Self::Ambiguous { .. }
        )
    }
}
