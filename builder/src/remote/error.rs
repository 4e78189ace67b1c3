//! What can go wrong with a store further away.

use std::io;
use std::path::PathBuf;

use crate::base::Digest;
use crate::sources::SourceError;
use crate::store::StoreError;

/// What can go wrong with a store further away. URIs in here carry no password.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A text that names no remote.
    #[error(
        "'{uri}' is no place to publish to: {why}; write oci://host[:port]/repository, s3://bucket/prefix or file:///folder"
    )]
    Uri {
        /// As written, without a login.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that not all remotes allow.
    #[error("'{0}' is no tag; use letters, digits and single . _ - between them (at most 128)")]
    Tag(String),
    /// The local store, or a folder that is published to.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address, a proxy or a certificate of this host.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What is to be sent cannot be read.
    #[error("cannot read blob {digest} to send it: {source}")]
    Read {
        /// The blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// What came cannot be written down.
    #[error("cannot write down what came of {what}: {source}")]
    Write {
        /// What was fetched.
        what: String,
        /// What the sink said.
        source: io::Error,
    },
    /// The network or the server failed, also after trying again.
    #[error("cannot {operation} at {uri}: {why}")]
    Transport {
        /// What was tried, as a verb with its object.
        operation: String,
        /// Where.
        uri: String,
        /// What came back, and the remedy where there is one.
        why: String,
    },
    /// The server says no.
    #[error("cannot {operation} at {uri}: it answers {status}{why}")]
    Refused {
        /// What was tried, as a verb with its object.
        operation: String,
        /// Where.
        uri: String,
        /// HTTP's status.
        status: u16,
        /// `: ` and what it said, and the remedy where there is one.
        why: String,
    },
    /// A cloud's service says no.
    #[error("{operation} at {place} failed: it answers {status} {code}{why}")]
    Service {
        /// The action, as the service names it.
        operation: &'static str,
        /// Service and region.
        place: String,
        /// HTTP's status.
        status: u16,
        /// The service's own name of the failure.
        code: String,
        /// `: ` and what it said, and the remedy where there is one.
        why: String,
    },
    /// Logins cannot be had.
    #[error("cannot read logins from {path}: {why}", path = path.display())]
    Login {
        /// The file or program.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        why: String,
    },
    /// Somebody else has the tag, or had it first.
    #[error("the tag '{tag}' at {uri} is {}, not what was expected: somebody else published meanwhile; look at what is there, and publish again",
        .found.map_or_else(|| "not there".to_owned(), |d| format!("at {d}")))]
    Conflict {
        /// Where.
        uri: String,
        /// The tag.
        tag: String,
        /// What it names now.
        found: Option<Digest>,
    },
    /// Other bytes than their name says.
    #[error(
        "{what} at {uri} is damaged or was changed: it should have {expected} and has {found}; it was refused"
    )]
    Damaged {
        /// What was fetched.
        what: String,
        /// Where.
        uri: String,
        /// Promised: a digest or a size.
        expected: String,
        /// Found.
        found: String,
    },
    /// Content that is not there.
    #[error("{what} is not at {uri}; publish it again")]
    Missing {
        /// What was asked for.
        what: String,
        /// Where.
        uri: String,
    },
    /// An answer that cannot be understood.
    #[error("cannot read {what} from {uri}: {why}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// Where.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// Several blobs could not be moved.
    #[error("{} blobs could not be moved:\n{}", .0.len(), lines(.0))]
    Several(Vec<RemoteError>),
}

impl RemoteError {
    /// The name that a cloud's service gave the failure; empty for any other.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Service { code, .. } => code,
            _ => "",
        }
    }
}

/// At most this many failures are named in one message.
const NAMED: usize = 10;

fn lines(errors: &[RemoteError]) -> String {
    let mut lines: Vec<_> = errors
        .iter()
        .take(NAMED)
        .map(|error| format!("  {error}"))
        .collect();
    if errors.len() > NAMED {
        lines.push(format!("  and {} more", errors.len() - NAMED));
    }
    lines.join("\n")
}
