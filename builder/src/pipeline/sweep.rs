//! Sweeps over a cast artifact: the harness does them, here they get its bytes.

use std::path::Path;

use slipform_qemu_tests::sweep::{
    self, Condition, ConditionReport, PowerCutReport, Sweep, TamperReport,
};
use slipform_qemu_tests::{BootReport, Emulator, Plan, write_report};

use super::{PipelineError, Settings};
use crate::base::fs::At;
use crate::output;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct SweepRequest {
    /// One byte in each region; only in regions with one of these texts, if there are any.
    pub tamper: Option<Vec<String>>,
    /// So many power cuts.
    pub power_cuts: usize,
    /// Other machines.
    pub conditions: Vec<Condition>,
    /// Chooses what is chosen by chance.
    pub seed: u64,
    /// Machines at a time.
    pub jobs: usize,
    /// Seconds that a healthy boot took until ready; measured if nobody knows them.
    pub ready_seconds: Option<f64>,
}

impl SweepRequest {
    /// Nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tamper.is_none() && self.power_cuts == 0 && self.conditions.is_empty()
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Sweeps {
    /// The matrix of changed bytes.
    pub tamper: Option<TamperReport>,
    /// The power cuts.
    pub power_cut: Option<PowerCutReport>,
    /// The other machines.
    pub conditions: Option<ConditionReport>,
}

impl Sweeps {
    /// Nothing was missed, all came back, no condition failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.tamper.as_ref().is_none_or(|report| report.passed)
            && self.power_cut.as_ref().is_none_or(|report| report.passed)
            && self.conditions.as_ref().is_none_or(|report| report.passed)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = [
            self.tamper.as_ref().map(TamperReport::matrix),
            self.power_cut.as_ref().map(PowerCutReport::lines),
            self.conditions.as_ref().map(ConditionReport::lines),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

impl Settings {
    /// Makes the sweeps of a plan whose boot was green, and keeps `tamper.json`,
    /// `powercut.json` and `conditions.json` in its evidence folder.
    ///
    /// # Errors
    /// [`PipelineError::Sweep`] when a sweep itself could not be made.
    pub fn sweep(
        &self,
        plan: &Plan,
        emulator: &Emulator,
        accelerator: &str,
        request: &SweepRequest,
    ) -> Result<Sweeps, PipelineError> {
        let setup = Sweep {
            plan,
            emulator,
            accel: self.accel(emulator, accelerator)?,
            seed: request.seed,
            jobs: request.jobs,
        };
        let (_, mut disk) = output::open(&plan.disk)?;
        let size = disk
            .seek(std::io::SeekFrom::End(0))
            .at("read", &plan.disk)?;
        let progress = self.progress.clone();
        let told = move |line: &str| progress.note(line);
        let mut sweeps = Sweeps::default();
        if let Some(only) = &request.tamper {
            let report = sweep::tamper(&setup, &mut disk, only, &told)?;
            keep(&plan.evidence.join("tamper.json"), &report)?;
            sweeps.tamper = Some(report);
        }
        if request.power_cuts > 0 {
            let tampered = sweeps.tamper.as_ref();
            let ready = request
                .ready_seconds
                .or_else(|| tampered.and_then(|report| report.ready_seconds));
            let report = sweep::power_cuts(&setup, size, request.power_cuts, ready, &told)?;
            keep(&plan.evidence.join("powercut.json"), &report)?;
            sweeps.power_cut = Some(report);
        }
        if !request.conditions.is_empty() {
            let report = sweep::conditions(&setup, size, &request.conditions, &told)?;
            keep(&plan.evidence.join("conditions.json"), &report)?;
            sweeps.conditions = Some(report);
        }
        Ok(sweeps)
    }
}

/// Writes into `report` what the attestation tells of the sweeps, and keeps it so.
///
/// # Errors
/// [`PipelineError::Harness`].
pub fn tell_report(
    report: &mut BootReport,
    sweeps: &Sweeps,
    folder: &Path,
) -> Result<(), PipelineError> {
    report.unprotected = sweeps.tamper.as_ref().and_then(TamperReport::unprotected);
    Ok(write_report(report, folder)?)
}

fn keep(path: &Path, report: &impl serde::Serialize) -> Result<(), PipelineError> {
    let mut json = serde_json::to_vec_pretty(report)
        .map_err(|error| PipelineError::Internal(error.to_string()))?;
    json.push(b'\n');
    Ok(std::fs::write(path, json).at("write", path)?)
}
