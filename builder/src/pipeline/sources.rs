//! What the lock names comes into the store; packages are unpacked once.

use serde::Serialize;

use super::{PipelineError, Settings, output, value};
use crate::base::Digest;
use crate::layers::{self, UnpackedDeb};
use crate::lock::{LockFile, LockedBoard, LockedPackage};
use crate::spec::Image;
use crate::store::{Output, Outputs, Step, StepLog, StepState};

/// What `fetch` came to.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Fetched {
    /// Packages that the lock names.
    pub packages: usize,
    /// Those that were not in the store before.
    pub fetched: usize,
}

impl Settings {
    /// Everything that the lock names, tools included.
    ///
    /// # Errors
    /// [`PipelineError::Source`].
    pub fn fetch_all(&self, image: &Image, lock: &LockFile) -> Result<Fetched, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let packages: Vec<LockedPackage> = lock.packages().cloned().collect();
        let missing = packages.iter().filter(|p| !self.store.has(&p.sha256)).count();
        self.fetch_packages(image, &packages)?;
        let root = crate::store::Root { path: super::locking::lock_path(image), digests: packages.iter().map(|p| p.sha256).collect() };
        if !self.store.roots()?.contains_key(&root.path) {
            self.store.set_root(&root)?;
        }
        Ok(Fetched { packages: packages.len(), fetched: missing })
    }

    /// What an image for one board is made of.
    pub(super) fn fetch_image(&self, image: &Image, lock: &LockFile, board: &LockedBoard) -> Result<(), PipelineError> {
        let layers = lock.layers.iter().flat_map(|layer| &layer.packages);
        let packages: Vec<LockedPackage> = layers.chain([&board.kernel, &board.stub]).cloned().collect();
        self.fetch_packages(image, &packages)
    }
}

/// A package's files as a tar in the store, made once for each package.
pub(super) fn unpack(settings: &Settings, deb: &Digest) -> Result<UnpackedDeb, PipelineError> {
    let step = Step::new("unpack 1", deb.short()).input("package", *deb);
    // Packages are many and never change: they are no news for --explain.
    if let StepState::Hit(outputs) = settings.store.step(&step, &StepLog::default()) {
        return value(&outputs, "unpacked");
    }
    let unpacked = layers::deb::unpack(&settings.store, deb)?;
    let outputs = Outputs::from([
        ("tar".to_owned(), Output::Blob(unpacked.tar)),
        ("unpacked".to_owned(), output(&unpacked)?),
    ]);
    settings.store.record(&step, &outputs)?;
    Ok(unpacked)
}
