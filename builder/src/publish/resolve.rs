//! What a person means by `stable`, `stable@3`, `stable@1f2e3d` or a digest.

use std::fmt;
use std::str::FromStr;

use super::PublishError;
use crate::attest::PublicKey;
use crate::base::Digest;
use crate::channel::{self, Entry, History};
use crate::remote::Remote;

/// A release as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A channel's newest release.
    Channel(String),
    /// One of a channel's releases, by number or the beginning of a digest.
    Past(String, String),
    /// A release, an image or a record, wherever it was published.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let wrong = || PublishError::Reference(text.to_owned());
        if text.starts_with("sha256:") {
            return text.parse().map(Self::Digest).map_err(|_| wrong());
        }
        let (channel, past) = match text.split_once('@') {
            Some((channel, past)) if !past.is_empty() => (channel, Some(past)),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        channel::check_name(channel).map_err(|_| wrong())?;
        Ok(match past {
            Some(past) => Self::Past(channel.to_owned(), past.to_owned()),
            None => Self::Channel(channel.to_owned()),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(channel) => f.write_str(channel),
            Self::Past(channel, past) => write!(f, "{channel}@{past}"),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// The record that a reference stands for. A channel's whole history is read and
/// proven on the way, so that a release behind a broken record is never handed out.
///
/// # Errors
/// [`PublishError::Channel`], [`PublishError::Unlisted`].
pub fn resolve(
    remote: &dyn Remote,
    reference: &Reference,
    keys: &[PublicKey],
) -> Result<Entry, PublishError> {
    match reference {
        Reference::Channel(channel) => {
            let history = History::read(remote, channel, keys)?;
            // A history has at least the record that its tag names.
            let newest = history.entries.into_iter().next();
            newest.ok_or_else(|| PublishError::Reference(channel.clone()))
        }
        Reference::Past(channel, past) => {
            Ok(History::read(remote, channel, keys)?.find(past)?.clone())
        }
        Reference::Digest(digest) => {
            for channel in channel::channels(remote)? {
                if channel == channel::REVOKED {
                    continue;
                }
                let history = History::read(remote, &channel, keys)?;
                let found = history.entries.into_iter().find(|entry| {
                    entry.digest == *digest || entry.record.names().any(|name| name == *digest)
                });
                if let Some(entry) = found {
                    return Ok(entry);
                }
            }
            Err(PublishError::Unlisted {
                remote: remote.uri().to_owned(),
                digest: *digest,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_written() {
        let digest = Digest::of("x");
        let table = [
            ("stable", Some(Reference::Channel("stable".to_owned()))),
            (
                "stable@3",
                Some(Reference::Past("stable".to_owned(), "3".to_owned())),
            ),
            (&digest.to_string(), Some(Reference::Digest(digest))),
            ("stable@", None),
            ("Stable", None),
            ("", None),
            ("sha256:00", None),
            ("oci://host/repo", None),
        ];
        for (text, wanted) in table {
            let read = text.parse::<Reference>();
            match wanted {
                Some(wanted) => {
                    let read = read.unwrap();
                    assert_eq!(read, wanted);
                    assert_eq!(read.to_string(), text);
                }
                None => assert!(read.is_err(), "{text}"),
            }
        }
    }
}
