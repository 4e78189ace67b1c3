//! Why a sweep could not be made.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::HarnessError;

/// Why a sweep gave no verdict.
#[derive(Debug, Error)]
pub enum SweepError {
    /// The harness could not judge a boot.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// The machine is not healthy to begin with.
    #[error(
        "cannot sweep {name}: its untouched boot is not green ({phase}: {line}); mend that first, its evidence is in {evidence}"
    )]
    Baseline {
        /// Image name.
        name: String,
        /// Where it died.
        phase: String,
        /// Of what.
        line: String,
        /// Folder.
        evidence: PathBuf,
    },
    /// The disk does not have the structure that a cast disk has.
    #[error(
        "cannot find the regions of the disk: {what} {rule}; sweep a disk that slipform has cast"
    )]
    Structure {
        /// Which structure.
        what: String,
        /// What it must be.
        rule: String,
    },
    /// The disk's bytes did not come.
    #[error("cannot read the disk at byte {offset}: {source}; build the image again")]
    Read {
        /// Where.
        offset: u64,
        /// What the system answered.
        source: io::Error,
    },
    /// A file of the sweep could not be used.
    #[error(
        "cannot {operation} {path}: {source}; check that the folder can be written and the disk is not full"
    )]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// No region has such a name.
    #[error("no region's name contains {0:?}; run the sweep without it to see their names")]
    Region(String),
    /// There is no such condition.
    #[error("no condition is called {0:?}; there are: {1}")]
    Condition(String, String),
}

impl SweepError {
    /// For `map_err`.
    pub(crate) fn structure(what: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Structure {
            what: what.into(),
            rule: rule.into(),
        }
    }

    /// For `map_err`.
    pub(crate) fn file<'a>(
        operation: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}
