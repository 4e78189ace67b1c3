//! Every time limit of a run, scaled by the measured speed.

use std::time::Duration;

use crate::accel::Accel;
use crate::plan::Plan;

/// Longest limit of any kind: a wrong plan must not wait for days.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// The limits of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// QEMU's start until its monitor answers.
    pub(crate) start: Duration,
    /// Power-on to ready.
    pub(crate) ready: Duration,
    /// Factor on every limit that a plan names.
    pub(crate) slowdown: f64,
    /// One check with a wrong answer: a service may still be filling a cache.
    pub(crate) settle: Duration,
    /// Silence of init after an error, until it counts as dead.
    pub(crate) silence: Duration,
    /// Request to power off until QEMU ends.
    pub(crate) power_off: Duration,
    /// How long a dead guest may go on talking (call traces), once it is silent less.
    pub(crate) last_words: Duration,
}

impl Limits {
    /// For this plan on this host.
    pub(crate) fn new(plan: &Plan, accel: &Accel) -> Self {
        let slowdown = accel.slowdown.max(1.0);
        let scale = |limit: Duration| scaled(limit, slowdown);
        Self {
            slowdown,
            // Loading QEMU is the host's work: only the host's own slowness counts, but generously.
            start: Duration::from_secs(60),
            ready: scale(plan.ready_limit),
            settle: scale(Duration::from_secs(2)),
            silence: scale(Duration::from_secs(2)),
            power_off: scale(Duration::from_secs(20)),
            last_words: Duration::from_secs(2),
        }
    }

    /// A limit of the plan on this host.
    pub(crate) fn scaled(&self, limit: Duration) -> Duration {
        scaled(limit, self.slowdown)
    }
}

fn scaled(limit: Duration, slowdown: f64) -> Duration {
    let scaled = limit.as_secs_f64() * slowdown;
    Duration::from_secs_f64(scaled.min(LONGEST.as_secs_f64()))
}
