//! The composition: the only file (with its folder) that knows every room.
//!
//! ```text
//! locking.rs  specification -> lock          sources.rs, packages.rs  lock -> store, unpacked
//! parts.rs    an image for each architecture   changes.rs   what moved in a lock
//! layers.rs   packages, files -> sealed layers           machine.rs  machine.json
//! kernel.rs   kernel package -> kernel, constant initrd  cargo.rs    a layer's cargo rule
//! image.rs    UKI, disk, manifest, files                 tools.rs    emulator from locked packages
//! harness.rs  boot test and interactive run             sweep.rs     many boots, each with one thing changed
//! bases.rs   layers that were published, and images on them
//! elsewhere.rs  stores of the team's: inputs kept for good    cache.rs  steps that others did
//! testing.rs  tools for tests
//! diff.rs     two images -> what is different
//! bundle.rs   what a release was built from             bom.rs       what is in it
//! gate.rs     evidence, and who gets through    publishing.rs  to a remote and its channels
//! pulling.rs  back from a remote, verified   clouds.rs     images of clouds, parameters that name them
//! ```

mod bases;
mod bom;
mod bundle;
mod cache;
mod cargo;
mod changes;
mod clouds;
mod container_project;
mod containers;
pub mod diff;
mod elsewhere;
mod error;
mod exporting;
mod firmware;
mod gate;
mod harness;
mod image;
mod keeping;
mod kernel;
mod layers;
mod locking;
mod machine;
mod packages;
mod parts;
mod publishing;
mod pulling;
mod sources;
mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tools;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::{Digest, Progress};
use crate::spec::{self, Image};
use crate::store::{CAME_FROM, Output, Outputs, Step, StepLog, StepState, Store, StoreError};

pub use cache::CacheMode;
pub use changes::changes;
pub use clouds::{CloudWish, Clouds};
use elsewhere::Elsewhere;
pub use elsewhere::{Copied, Team};
pub use error::PipelineError;
pub use gate::{Door, ReadyToPublish};
pub use image::Cast;
pub use keeping::KeptDisk;
pub use kernel::BootParts;
pub use locking::{LOCK_FILE, Locking, init_binary};
pub use publishing::{Wanted, WouldMove};
pub use pulling::{Checked, Finding, Pulled};
pub use sources::Fetched;
pub use sweep::{SweepRequest, Sweeps, tell_report};

/// What all steps share: the store, where packages come from, who listens.
#[derive(Debug)]
pub struct Settings {
    pub(crate) store: Store,
    pub(crate) mirror: Option<String>,
    pub(crate) offline: bool,
    pub(crate) progress: Arc<dyn Progress>,
    /// Nothing is made: what was not made before is an error.
    only_known: bool,
    /// Only what was made here counts, not what a cache says.
    own_only: bool,
    steps: StepLog,
    /// Stores of the team's further away.
    elsewhere: Arc<Elsewhere>,
}

/// Loads and checks the specification in `dir`.
///
/// # Errors
/// [`PipelineError::Spec`].
pub fn load(dir: &Path) -> Result<Image, PipelineError> {
    Ok(spec::load(dir)?)
}

impl Settings {
    /// Opens the store: where the caller or `SLIPFORM_STORE` says, else below
    /// `XDG_CACHE_HOME`, else `~/.cache`.
    ///
    /// # Errors
    /// [`PipelineError::Store`]; [`PipelineError::NoStore`] without a home.
    pub fn new(
        store: Option<PathBuf>,
        mirror: Option<String>,
        offline: bool,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, PipelineError> {
        let from = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = store
            .or_else(|| from("SLIPFORM_STORE"))
            .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("slipform")))
            .or_else(|| from("HOME").map(|dir| dir.join(".cache/slipform")))
            .ok_or(PipelineError::NoStore)?;
        Ok(Self {
            store: Store::open(root)?,
            mirror,
            offline,
            progress,
            only_known: false,
            own_only: false,
            steps: StepLog::default(),
            elsewhere: Arc::default(),
        })
    }

    /// The same, but nothing is made any more: a step that was not done before is
    /// [`PipelineError::NotBuilt`], which says what differs. Publishing looks at the
    /// specification with these, so that what it publishes is what was tested.
    #[must_use]
    pub fn only_known(&self) -> Self {
        Self {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            offline: true,
            progress: Arc::clone(&self.progress),
            only_known: true,
            own_only: true,
            steps: StepLog::default(),
            elsewhere: Arc::clone(&self.elsewhere),
        }
    }

    /// The same, but what a cache said is made anew, here: what is attested is what the
    /// lock's inputs come to.
    pub(crate) fn own_only(&self) -> Self {
        Self {
            only_known: self.only_known,
            own_only: true,
            offline: self.offline,
            ..self.only_known()
        }
    }

    /// The same with another store, in which nothing was built yet. Packages that are
    /// here are there, too: they are inputs, known by their digests.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    fn with_fresh_store(&self, root: PathBuf) -> Result<Self, PipelineError> {
        Ok(Self {
            store: Store::open(root)?,
            mirror: self.mirror.clone(),
            offline: self.offline,
            progress: Arc::clone(&self.progress),
            only_known: false,
            own_only: true,
            steps: StepLog::default(),
            elsewhere: Arc::clone(&self.elsewhere),
        })
    }

    /// The open store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Does `work`; when it fails on blobs of the store that turn out to be
    /// damaged, says so and does it again: they are set aside by then, so that
    /// packages are fetched and steps are done anew.
    ///
    /// # Errors
    /// What `work` says, when no damage is behind it, or the same blob's for the second time.
    pub fn healed<T, E>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut seen = BTreeSet::new();
        loop {
            let result = work();
            let mut found = false;
            for digest in self.store.take_damaged() {
                if seen.insert(digest) {
                    found = true;
                    self.progress.note(&format!(
                        "blob {digest} in the store was damaged; it is set aside and made anew"
                    ));
                }
            }
            if result.is_ok() || !found {
                return result;
            }
            self.steps.clear();
        }
    }

    /// One line a step: hit, or miss and which input changed.
    #[must_use]
    pub fn explain(&self) -> String {
        self.steps
            .events()
            .iter()
            .map(|event| format!("{event}\n"))
            .collect()
    }

    /// The same for machines.
    #[must_use]
    pub fn steps_json(&self) -> serde_json::Value {
        serde_json::to_value(self.steps.events()).unwrap_or_default()
    }

    /// Returns what `step` made, now or before.
    fn step(
        &self,
        step: &Step,
        make: impl FnOnce() -> Result<Outputs, PipelineError>,
    ) -> Result<Outputs, PipelineError> {
        match self.store.step(step, &self.steps) {
            StepState::Hit(outputs) => Ok(outputs),
            StepState::Miss { changed } => {
                self.may_make(step, changed)?;
                let outputs = make()?;
                self.store.record(step, &outputs)?;
                Ok(outputs)
            }
        }
    }
}

impl Settings {
    /// Whether a step that was not done before may be done now.
    fn may_make(&self, step: &Step, changed: Vec<String>) -> Result<(), PipelineError> {
        if self.only_known {
            if let Some(from) = changed.first().and_then(|why| why.strip_prefix(CAME_FROM)) {
                return Err(PipelineError::FromCache {
                    subject: step.subject().to_owned(),
                    from: from.to_owned(),
                });
            }
            return Err(PipelineError::NotBuilt {
                subject: step.subject().to_owned(),
                changed,
            });
        }
        Ok(())
    }
}

/// The blob named `name` among a step's outputs.
fn blob(outputs: &Outputs, name: &str) -> Result<Digest, PipelineError> {
    match outputs.get(name) {
        Some(Output::Blob(digest)) => Ok(*digest),
        _ => Err(PipelineError::Store(damaged(name))),
    }
}

/// The value named `name` among a step's outputs.
fn value<T: serde::de::DeserializeOwned>(
    outputs: &Outputs,
    name: &str,
) -> Result<T, PipelineError> {
    match outputs.get(name) {
        Some(Output::Value(value)) => {
            serde_json::from_value(value.clone()).map_err(|_| PipelineError::Store(damaged(name)))
        }
        _ => Err(PipelineError::Store(damaged(name))),
    }
}

fn damaged(name: &str) -> StoreError {
    StoreError::Malformed {
        what: "a step's record".to_owned(),
        why: format!("it has no output '{name}'"),
    }
}

/// A value as a step's output.
fn output(value: &impl serde::Serialize) -> Result<Output, PipelineError> {
    serde_json::to_value(value)
        .map(Output::Value)
        .map_err(|error| PipelineError::Internal(error.to_string()))
}

/// Seconds since 1970: evidence carries real time.
fn now() -> Result<i64, PipelineError> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .ok_or_else(|| {
            PipelineError::Internal("the host's clock is before 1970; set it".to_owned())
        })
}
