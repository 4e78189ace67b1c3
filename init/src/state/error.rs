//! Why there is no state.

use std::io;

use super::plan::PlanError;
use super::record::RecordError;
use super::separate::SeparateError;

/// What came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// From the kernel.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No partition.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No disk of its own.
    #[error(transparent)]
    Separate(#[from] SeparateError),
    /// What the machine started from keeps nothing.
    #[error(
        "/dev/{0} is a CD or memory, and nothing can be kept on it: start from a disk or a USB stick, or name a disk for the state alone ([state] disk)"
    )]
    Fleeting(String),
    /// Somebody else's, or newer.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Made for quotas, of which the image knows nothing.
    #[error(
        "it counts quotas, and nothing in this image can: name the `quota` of a path again, or [kernel] modules = [\"quota_v2\"]"
    )]
    QuotaDriver,
    /// It is there, but no file system that can be used.
    #[error(
        "{0}; it is left as it is: repair it (e2fsck), or boot an image whose [state] says policy = \"recreate\""
    )]
    Mount(io::Error),
}
