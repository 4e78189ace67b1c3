//! Packages and tars of the store, unpacked once each.

use std::fs::File;

use super::{PipelineError, Settings, output, value};
use crate::base::Digest;
use crate::base::fs::At;
use crate::layers::{self, UnpackedDeb, UnpackedTar};
use crate::lock::{LockFile, LockedTar};
use crate::spec::{Image, TarRule};
use crate::store::{Output, Outputs, Step, StepLog, StepState};

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

impl Settings {
    /// The image's tars that the store lacks come into it, as the lock has them.
    pub(super) fn bring_tars(&self, image: &Image, lock: &LockFile) -> Result<(), PipelineError> {
        for (name, locked) in lock.tars() {
            let layer = image.layers.iter().find(|layer| layer.name == name);
            if let Some(rule) = layer.and_then(|layer| layer.tar.as_ref()) {
                self.bring_tar(rule, locked)?;
            }
        }
        Ok(())
    }

    fn bring_tar(&self, rule: &TarRule, locked: &LockedTar) -> Result<(), PipelineError> {
        if self.store.size(&locked.sha256) == Some(locked.size) {
            return Ok(());
        }
        let _task = self
            .progress
            .begin(&format!("tar {}", rule.written), Some(locked.size));
        let mut file = File::open(&rule.path).at("open", &rule.path)?;
        let mut writer = self.store.writer()?;
        std::io::copy(&mut file, &mut writer).at("read", &rule.path)?;
        writer.finish_as(&locked.sha256, &rule.path.display().to_string())?;
        Ok(())
    }

    /// A layer's tar as an uncompressed one in the store, made once for each archive.
    pub(super) fn unpack_tar(
        &self,
        rule: &TarRule,
        locked: &LockedTar,
    ) -> Result<UnpackedTar, PipelineError> {
        self.bring_tar(rule, locked)?;
        let step = Step::new("unpack tar 1", locked.sha256.short()).input("tar", locked.sha256);
        let unpacked = match self.store.step(&step, &StepLog::default()) {
            StepState::Hit(outputs) => value(&outputs, "unpacked")?,
            StepState::Miss { .. } => {
                let _task = self
                    .progress
                    .begin(&format!("unpack {}", rule.written), None);
                let unpacked = layers::rootfs::unpack(&self.store, &locked.sha256, &rule.written)?;
                let outputs = Outputs::from([
                    ("tar".to_owned(), Output::Blob(unpacked.tar)),
                    ("unpacked".to_owned(), output(&unpacked)?),
                ]);
                self.store.record(&step, &outputs)?;
                unpacked
            }
        };
        if unpacked.devices > 0 {
            self.progress.note(&format!(
                "tar {}: left out {} device nodes; the machine's /dev has its own",
                rule.written, unpacked.devices
            ));
        }
        Ok(unpacked)
    }
}
