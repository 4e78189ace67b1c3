//! Why no lock could be made, or read.

use std::path::PathBuf;

use super::relation::RelationError;

/// Everything that can go wrong in this room.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The archive could not be read.
    #[error("cannot read {path} of {suite}: {problem}")]
    Archive {
        /// Name of the suite.
        suite: String,
        /// Path below its base URI.
        path: String,
        /// What the archive's reader said.
        problem: String,
    },
    /// Nothing at the place of the InRelease.
    #[error(
        "{suite} has no {path}; check the name of the suite and, for an [[apt]] source, its uri (flat archives and those with only Release and Release.gpg are not supported)"
    )]
    NoRelease {
        /// Name of the suite.
        suite: String,
        /// Path below its base URI.
        path: String,
    },
    /// The InRelease's signature is not good.
    #[error("cannot trust the InRelease of {suite}: {source}")]
    Signature {
        /// Name of the suite.
        suite: String,
        /// What is wrong with it.
        source: slipform_openpgp::Error,
    },
    /// A key file that cannot be read.
    #[error("cannot read the key of {name}: {source}")]
    Key {
        /// Name of the source.
        name: String,
        /// What is wrong with it.
        source: slipform_openpgp::Error,
    },
    /// A Release whose fields make no sense.
    #[error("the Release of {suite} cannot be used: {problem}; tell the archive's owner")]
    Release {
        /// Name of the suite.
        suite: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A Release of another suite.
    #[error(
        "the Release of {suite} is that of another suite: '{wanted}' was asked for, {found} came; check the suite and the mirror"
    )]
    WrongSuite {
        /// Name of the suite.
        suite: String,
        /// What was asked for.
        wanted: String,
        /// What the Release says it is.
        found: String,
    },
    /// A Release that is no longer valid.
    #[error(
        "the Release of {suite} was valid until {until}, and now is {now}; the mirror is stale: use another one, or allow expired archives"
    )]
    Expired {
        /// Name of the suite.
        suite: String,
        /// Its `Valid-Until`.
        until: String,
        /// The host's time.
        now: String,
    },
    /// A Release that is not valid yet.
    #[error("the Release of {suite} is of {date}, and now is {now}; set this host's clock")]
    FromFuture {
        /// Name of the suite.
        suite: String,
        /// Its `Date`.
        date: String,
        /// The host's time.
        now: String,
    },
    /// A component or architecture that the suite does not have.
    #[error("{suite} has no {path}; check its components")]
    NoIndex {
        /// Name of the suite.
        suite: String,
        /// Path below `dists/<suite>/`.
        path: String,
    },
    /// An index that is not what the Release promises.
    #[error(
        "{path} of {suite} is not what its Release promises: {problem}; the mirror is in the middle of an update, or it was tampered with: try again in a few minutes, or use another mirror"
    )]
    Mismatch {
        /// Name of the suite.
        suite: String,
        /// Path below its base URI.
        path: String,
        /// Sizes or digests, promised and found.
        problem: String,
    },
    /// An index that cannot be read.
    #[error("{path} of {suite}: {problem}; tell the archive's owner")]
    Index {
        /// Name of the suite.
        suite: String,
        /// Path below its base URI.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A local package whose control paragraph cannot be used.
    #[error("cannot use {path}: {problem}")]
    Local {
        /// Path of the `.deb`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two sources of one name.
    #[error("two package sources are named '{0}'; rename one [[apt]]")]
    DoubleSource(String),
    /// A wish that is no wish.
    #[error("{set}: {source}")]
    Wish {
        /// `layer 'app'`, `board 'qemu-x86_64'` or `tool 'emulator'`.
        set: String,
        /// What is wrong with it.
        source: RelationError,
    },
    /// A set of packages that cannot be installed together.
    #[error("{set}: {problem}")]
    Unsolvable {
        /// `layer 'app'`, `board 'qemu-x86_64'` or `tool 'emulator'`.
        set: String,
        /// What is missing, who needs it, and what is there.
        problem: String,
    },
    /// A package to update that the lock does not have.
    #[error("cannot update '{name}': the lock has no such package{}", did_you_mean(.nearest))]
    NotLocked {
        /// The name.
        name: String,
        /// Names that the lock has.
        nearest: Vec<String>,
    },
    /// A lock of a newer Slipform.
    #[error(
        "{path} has version {found} of the lock format, this slipform reads {known}; use the slipform that wrote it, or write it anew with `slipform lock`",
        path = path.display()
    )]
    Newer {
        /// Of the lock.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that is read.
        known: u32,
    },
    /// A lock that cannot be read.
    #[error("{path} is no lock file: {problem}; write it anew with `slipform lock`", path = path.display())]
    File {
        /// Of the lock.
        path: PathBuf,
        /// What is wrong with it, with the line.
        problem: String,
    },
}

/// `; did you mean a or b?`, or nothing.
pub(crate) fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    format!("; did you mean {}?", nearest.join(" or "))
}

/// The up to three names most like `name`, most like first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    const LIKE_ENOUGH: f64 = 0.85;
    let mut found: Vec<(f64, &str)> = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.truncate(3);
    found
        .into_iter()
        .map(|(_, known)| known.to_owned())
        .collect()
}
