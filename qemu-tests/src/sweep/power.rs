//! The power-cut sweep: QEMU is killed at chosen moments between power-on and some
//! seconds behind ready, and started again on the same disk with the same variables
//! of the firmware. It must come back with every check green.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::seed::Random;
use super::trial::{Shown, Trial, Until, run};
use super::{SWEEP_SCHEMA, Sweep, SweepError, in_parallel, table};
use crate::machine::hardware::Hardware;
use crate::machine::overlay::Kept;
use crate::plan::Plan;

/// So long behind ready the plug may still be pulled.
const BEHIND_READY: f64 = 4.0;

/// One cut, and what came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerCut {
    /// From 1.
    pub number: usize,
    /// Seconds after power-on.
    pub moment: f64,
    /// Where the machine was then.
    pub phase: String,
    /// It came back with every check green.
    pub healthy: bool,
    /// What was seen.
    pub detail: String,
    /// Seconds of both boots.
    pub seconds: f64,
    /// Folder of its evidence, below the report's.
    pub evidence: String,
}

/// All cuts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerCutReport {
    /// [`SWEEP_SCHEMA`].
    pub schema: u32,
    /// Image name.
    pub name: String,
    /// Manifest digest.
    pub image: String,
    /// Digest of the plan.
    pub plan: String,
    /// What chose the moments.
    pub seed: u64,
    /// Seconds from power-on to ready, undisturbed.
    pub ready_seconds: f64,
    /// Every machine came back healthy.
    pub passed: bool,
    /// One for each cut.
    pub cuts: Vec<PowerCut>,
    /// Seconds of the whole sweep.
    pub total_seconds: f64,
}

impl PowerCutReport {
    /// One line a cut, for people.
    #[must_use]
    pub fn lines(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .cuts
            .iter()
            .map(|cut| {
                vec![
                    format!("power cut {}", cut.number),
                    if cut.healthy { "healthy" } else { "FAILED" }.to_owned(),
                    format!("after {:.2} s, in {}", cut.moment, cut.phase),
                    cut.detail.clone(),
                ]
            })
            .collect();
        let healthy = self.cuts.iter().filter(|cut| cut.healthy).count();
        format!(
            "{}\npower cut: {healthy} of {} came back healthy in {:.0} s (seed {})\n",
            table(&rows),
            self.cuts.len(),
            self.total_seconds,
            self.seed
        )
    }
}

/// Seconds after power-on, for each cut.
fn moments(seed: u64, count: usize, ready: f64) -> Vec<f64> {
    let mut random = Random::new(seed, "power cuts");
    let span = (1000.0 * (ready + BEHIND_READY)) as u64;
    (0..count)
        .map(|_| random.below(span.max(1)) as f64 / 1000.0)
        .collect()
}

/// Cuts the power `count` times. `size` is the disk's length in bytes; `ready` are the
/// seconds that a healthy boot took until ready, measured here if nobody knows them.
///
/// # Errors
/// [`SweepError`]: the undisturbed boot is not green, or the harness cannot work. A
/// machine that does not come back is a report with `passed` false.
pub fn power_cuts(
    sweep: &Sweep<'_>,
    size: u64,
    count: usize,
    ready: Option<f64>,
    progress: &dyn Fn(&str),
) -> Result<PowerCutReport, SweepError> {
    let start = Instant::now();
    progress(&format!("power cut: {count} times (seed {})", sweep.seed));
    let ready = match ready {
        Some(ready) => ready,
        None => undisturbed(sweep)?,
    };
    let mut done = 0;
    let cuts = in_parallel(
        &moments(sweep.seed, count, ready),
        sweep.jobs,
        |index, moment| cut(sweep, index + 1, *moment, size),
        |_, cut| {
            done += 1;
            let word = if cut.healthy { "healthy" } else { "FAILED" };
            progress(&format!(
                "power cut {done}/{count}: after {:.2} s, in {}: {word}",
                cut.moment, cut.phase
            ));
        },
    )?;
    Ok(PowerCutReport {
        schema: SWEEP_SCHEMA,
        name: sweep.plan.name.clone(),
        image: sweep.plan.image.clone(),
        plan: sweep.plan.digest(),
        seed: sweep.seed,
        ready_seconds: ready,
        passed: cuts.iter().all(|cut| cut.healthy),
        cuts,
        total_seconds: start.elapsed().as_secs_f64(),
    })
}

/// Seconds until ready of a boot that nobody disturbs.
fn undisturbed(sweep: &Sweep<'_>) -> Result<f64, SweepError> {
    let first = boot(sweep, "undisturbed", None, Until::Checks)?;
    match (first.failure, first.ready_seconds) {
        (None, Some(ready)) => Ok(ready),
        (failure, _) => {
            let (phase, line) = failure.map(|f| (f.phase, f.line)).unwrap_or_default();
            Err(SweepError::Baseline {
                name: sweep.plan.name.clone(),
                phase,
                line,
                evidence: first.evidence,
            })
        }
    }
}

fn cut(sweep: &Sweep<'_>, number: usize, moment: f64, size: u64) -> Result<PowerCut, SweepError> {
    let name = format!("{number:03}");
    let folder = sweep.plan.evidence.join("power-cut").join(&name);
    std::fs::create_dir_all(&folder).map_err(SweepError::file("make folder", &folder))?;
    let kept = Arc::new(Kept::create(&folder, size, None)?);
    let until = Until::Cut(Duration::from_secs_f64(moment));
    let first = boot(sweep, &format!("{name}/cut"), Some(&kept), until)?;
    let second = boot(sweep, &name, Some(&kept), Until::PowerOff)?;
    let detail = match (&second.failure, second.ready_seconds) {
        (Some(failure), _) => format!("{}: {}", failure.phase, failure.line),
        (None, Some(ready)) => format!("ready again after {ready:.1} s, every check passed"),
        (None, None) => "never ready".to_owned(),
    };
    Ok(PowerCut {
        number,
        moment,
        phase: first.stage,
        healthy: second.failure.is_none() && second.ready_seconds.is_some(),
        detail,
        seconds: first.seconds + second.seconds,
        evidence: format!("power-cut/{name}"),
    })
}

fn boot(
    sweep: &Sweep<'_>,
    name: &str,
    kept: Option<&Arc<Kept>>,
    until: Until,
) -> Result<Shown, SweepError> {
    let plan = Plan {
        evidence: sweep.plan.evidence.join("power-cut").join(name),
        ..sweep.plan.clone()
    };
    run(&Trial {
        plan: &plan,
        emulator: sweep.emulator,
        accel: sweep.accel,
        hardware: Hardware::default(),
        kept: kept.cloned(),
        until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_reach_from_power_on_to_behind_ready_and_come_again() {
        let first = moments(5, 200, 8.0);
        assert_eq!(first, moments(5, 200, 8.0));
        assert_ne!(first, moments(6, 200, 8.0));
        assert!(first.iter().all(|moment| (0.0..12.0).contains(moment)));
        assert!(first.iter().any(|moment| *moment < 1.0));
        assert!(first.iter().any(|moment| *moment > 8.0));
    }
}
