//! What can go wrong while fetching.

use std::path::PathBuf;

use crate::base::fs::FsError;
use crate::store::StoreError;

/// What can go wrong while fetching. URIs in here carry no password.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A text that is no URI that can be fetched.
    #[error("'{uri}' cannot be fetched: {why}; write http://…, https:// or file:/…")]
    Uri {
        /// As written.
        uri: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The network, the proxy or the server failed, also after trying again.
    #[error("cannot fetch {uri}: {why}")]
    Transport {
        /// What was asked for.
        uri: String,
        /// What came back, and the remedy where there is one.
        why: String,
    },
    /// More bytes than allowed.
    #[error("{uri} has more than the {limit} bytes that are read of it")]
    TooBig {
        /// What was asked for.
        uri: String,
        /// The most that is read.
        limit: u64,
    },
    /// Other bytes than the lock names.
    #[error(
        "{what}: {uri} has {found}, but the lock says {expected}; it was refused. \
         Somebody changed the file: ask the mirror's keeper, or use another mirror (--mirror)"
    )]
    Tampered {
        /// The package.
        what: String,
        /// Where the bytes came from.
        uri: String,
        /// What they are.
        found: String,
        /// What was locked.
        expected: String,
    },
    /// A package that the mirrors no longer have.
    #[error("{package} {locked} is no longer on {mirror}{}; run `slipform lock --update {package}`{}",
        .now.as_ref().map(|v| format!(", which has {v} now")).unwrap_or_default(),
        if *.snapshot { "" } else { ", or set `snapshot` in the user's config to fetch old versions" })]
    Gone {
        /// Name of the package.
        package: String,
        /// Version in the lock.
        locked: String,
        /// Where it was looked for.
        mirror: String,
        /// The version that is there now, if known.
        now: Option<String>,
        /// Whether a snapshot mirror was asked, too.
        snapshot: bool,
    },
    /// A local package that is not where the lock says.
    #[error("{what}: there is no file {path}; put it there, or run `slipform lock --update {what}`", path = path.display())]
    NoLocal {
        /// The package.
        what: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A path in a lock or an index that leaves its archive.
    #[error(
        "the path '{0}' leaves its folder; paths in a lock are relative and without '..': lock again"
    )]
    Escape(String),
    /// A package of an archive that nobody told of.
    #[error(
        "{package} comes from '{suite}', which is none of the known archives ({known}); run `slipform lock`"
    )]
    NoSuite {
        /// The package.
        package: String,
        /// The archive's name in the lock.
        suite: String,
        /// The names that are known.
        known: String,
    },
    /// Nothing says where an archive is.
    #[error("{0}")]
    NoMirror(String),
    /// The user's configuration is wrong.
    #[error("{path}:{line}: {why}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, and the remedy.
        why: String,
    },
    /// Not allowed to ask the network.
    #[error(
        "{what} is not in the store, and --offline was given; run `slipform fetch` once without it"
    )]
    Offline {
        /// What is missing.
        what: String,
    },
    /// Several packages could not be fetched.
    #[error("{} packages could not be fetched:\n{}", .0.len(), lines(.0))]
    Several(Vec<SourceError>),
}

/// At most this many packages are named in one message.
const NAMED: usize = 20;

fn lines(errors: &[SourceError]) -> String {
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
