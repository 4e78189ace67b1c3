//! Packages of the store, unpacked once each.

use super::{PipelineError, Settings, output, value};
use crate::base::Digest;
use crate::layers::{self, UnpackedDeb};
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
