//! What a whole run can fail of: each room's error, and which of them are the input's fault.

use std::path::PathBuf;

use slipform_qemu_tests::sweep::SweepError;

use crate::base::Digest;
use crate::base::fs::FsError;
use crate::board::BoardError;
use crate::disk::DiskError;
use crate::filesystem::FilesystemError;
use crate::layers::LayersError;
use crate::lock::LockError;
use crate::output::OutputError;
use crate::publish::PublishError;
use crate::sources::SourceError;
use crate::spec::SpecError;
use crate::store::{StatError, StoreError};
use crate::tree::TreeError;
use crate::uki::UkiError;
use crate::uki::grub::GrubError;
use crate::uki::modules::ModuleError;
use crate::verity::VerityError;

/// Any failure of a run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant carries a room's own error, documented there
pub enum PipelineError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stat(#[from] StatError),
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("layer '{layer}': {error}")]
    Layer { layer: String, error: TreeError },
    #[error(transparent)]
    Filesystem(#[from] FilesystemError),
    #[error(transparent)]
    Verity(#[from] VerityError),
    #[error("board '{board}': {error}")]
    Module { board: String, error: ModuleError },
    #[error(transparent)]
    Uki(#[from] UkiError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Harness(#[from] slipform_qemu_tests::HarnessError),
    /// A sweep could not be made.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// Neither SLIPFORM_STORE nor a home folder is known.
    #[error("no place for the store: set SLIPFORM_STORE, XDG_CACHE_HOME or HOME")]
    NoStore,
    /// Resolving asks the archives, which `--offline` forbids.
    #[error("the lock must be resolved, which needs the network; run once without --offline")]
    OfflineResolve,
    /// `--locked` and the lock does not fit.
    #[error("{lock}: {reason}; mend it with: slipform lock {dir}", lock = lock.display(), dir = dir.display())]
    Stale {
        lock: PathBuf,
        dir: PathBuf,
        reason: String,
    },
    /// The specification asks for what the image does not have.
    #[error("{file}: {message}", file = file.display())]
    Machine { file: PathBuf, message: String },
    /// One disk was asked for, and the digest names those of several boards.
    #[error("{digest} is a release for {} boards; name one of its images: {}", .images.len(), .images.join(", "))]
    SeveralBoards { digest: Digest, images: Vec<String> },
    /// The disk of an earlier run cannot be taken on.
    #[error("{path}: {why}", path = path.display())]
    Kept { path: PathBuf, why: String },
    /// What was named as an image cannot be read as one.
    #[error("{what}: {why}")]
    NoImage { what: String, why: String },
    /// A cargo rule failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("{subject} is not built as it would be now: {} changed since; run `slipform test` on it, then publish what passed", .changed.join(", "))]
    NotBuilt {
        subject: String,
        changed: Vec<String>,
    },
    /// What `use` names is not there offline.
    #[error(
        "the base {written} ({image}) is not in the store; run `slipform fetch` once without --offline"
    )]
    BaseOffline { written: String, image: Digest },
    /// What `use` names is something else.
    #[error("use = \"{what}\" names no base: {why}")]
    NoBase { what: String, why: String },
    /// A result that nobody here has made proves nothing of the lock.
    #[error(
        "{subject} came from the cache {from}, which says what it likes; run `slipform test`, which makes it here, then publish what passed"
    )]
    FromCache { subject: String, from: String },
    /// A cache's result is not what the same inputs come to here.
    #[error("the image {tested} has steps from a cache, and made here from the same inputs it is {own}: {} the cache holds something else, or a step cannot be repeated; it is not attested. Look at what differs with `slipform diff {tested} {own}`, and test without --cache",
        if .layers.is_empty() { String::new() } else { format!("layers {} differ;", .layers.join(", ")) })]
    Poisoned {
        tested: Digest,
        own: Digest,
        layers: Vec<String>,
    },
    #[error("{folder} is not empty; name a folder that is empty or not there yet", folder = .0.display())]
    NotEmpty(PathBuf),
    #[error("layer '{layer}': cargo cannot build {package}: {why}", package = package.display())]
    Cargo {
        layer: String,
        package: PathBuf,
        why: String,
    },
    /// The kernel or stub package is not as expected.
    #[error("board '{board}': {what}")]
    Kernel { board: String, what: String },
    /// The package with GRUB is not as expected.
    #[error("the package of a board with a BIOS: {0}")]
    Grub(#[from] GrubError),
    /// There is no emulator to boot with.
    #[error("no emulator: {0}")]
    Emulator(String),
    /// A fault of Slipform itself.
    #[error("this is a fault of slipform, please report it: {0}")]
    Internal(String),
}

impl PipelineError {
    /// Whether the input is wrong (exit code 2), rather than the operation failed (1).
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Spec(_)
            | Self::Board(_)
            | Self::Module { .. }
            | Self::Stale { .. }
            | Self::Machine { .. }
            | Self::Layer { .. }
            | Self::NotBuilt { .. }
            | Self::NotEmpty(_)
            | Self::NoBase { .. }
            | Self::FromCache { .. }
            | Self::SeveralBoards { .. }
            | Self::Kept { .. }
            | Self::NoImage { .. } => true,
            Self::Publish(error) => error.is_bad_input(),
            Self::Output(error) => matches!(
                error,
                OutputError::Unfit { .. } | OutputError::Target { .. }
            ),
            Self::Tree(TreeError::Layers(error)) => layers_are_input(error),
            Self::Tree(_) => true,
            Self::Sweep(error) => matches!(error, SweepError::Region(_)),
            Self::Lock(error) => lock_is_input(error),
            Self::Layers(error) => layers_are_input(error),
            Self::Filesystem(error) => matches!(error, FilesystemError::Path { .. }),
            Self::Disk(error) => matches!(
                error,
                DiskError::Fact { .. }
                    | DiskError::EspFull { .. }
                    | DiskError::SameLayer { .. }
                    | DiskError::TooManyLayers(_)
                    | DiskError::Grub(GrubError::Word(_))
            ),
            Self::Source(error) => matches!(
                error,
                SourceError::Config { .. }
                    | SourceError::Uri { .. }
                    | SourceError::NoLocal { .. }
                    | SourceError::Escape(_)
            ),
            _ => false,
        }
    }
}

/// What the specification or the lock says, rather than what the archives do.
fn lock_is_input(error: &LockError) -> bool {
    matches!(
        error,
        LockError::Key { .. }
            | LockError::Local { .. }
            | LockError::DoubleSource(_)
            | LockError::Wish { .. }
            | LockError::Unsolvable { .. }
            | LockError::NotLocked { .. }
            | LockError::Newer { .. }
            | LockError::File { .. }
    )
}

/// What the user's rules and files are, rather than what the system does.
fn layers_are_input(error: &LayersError) -> bool {
    matches!(
        error,
        LayersError::Malformed { .. }
            | LayersError::Container { .. }
            | LayersError::Refused { .. }
            | LayersError::TooLarge { .. }
            | LayersError::Rule { .. }
            | LayersError::Collision { .. }
    )
}
