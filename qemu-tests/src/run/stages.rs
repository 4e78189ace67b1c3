//! The stages of a run over one machine: boot, checks, power-off, end.

use std::time::{Duration, Instant};

use crate::error::HarnessError;
use crate::evidence::Evidence;
use crate::limits::Limits;
use crate::machine::{Machine, Observation};
use crate::phase::Stage;
use crate::plan::Plan;
use crate::probes::Runner;
use crate::report::Outcome;
use crate::watch::Watch;

/// How long one wait for the machine lasts.
const TICK: Duration = Duration::from_millis(100);
/// A dead guest that is silent for so long has said its last words.
const SILENCE: Duration = Duration::from_millis(300);
/// How long channels may take to their end once the process is gone.
const DRAIN: Duration = Duration::from_secs(5);

/// A run on its way.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    limits: Limits,
    pub(crate) machine: Machine,
    pub(crate) watch: Watch,
    pub(crate) evidence: Evidence,
    progress: &'a dyn Fn(&str),
    power_on: Instant,
    pub(crate) ready_seconds: Option<f64>,
    outcomes: Vec<Option<Outcome>>,
    power_off: Option<PowerOff>,
}

/// How the power-off went.
#[derive(Debug, Clone)]
pub(crate) struct PowerOff {
    /// Until QEMU ended, or the limit.
    pub(crate) seconds: f64,
    /// The monitor refused the button.
    pub(crate) refused: Option<String>,
    /// The button was ignored; the report channel was tried.
    pub(crate) asked_by_report: bool,
}

/// What the judge looks at.
pub(crate) struct Seen<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) limits: &'a Limits,
    pub(crate) watch: &'a Watch,
    pub(crate) ready_seconds: Option<f64>,
    pub(crate) outcomes: &'a [Option<Outcome>],
    pub(crate) power_off: Option<&'a PowerOff>,
    pub(crate) evidence: &'a Evidence,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        limits: Limits,
        machine: Machine,
        watch: Watch,
        evidence: Evidence,
        progress: &'a dyn Fn(&str),
    ) -> Self {
        Self {
            plan,
            limits,
            machine,
            watch,
            evidence,
            progress,
            power_on: Instant::now(),
            ready_seconds: None,
            outcomes: vec![None; plan.checks.len()],
            power_off: None,
        }
    }

    /// What was seen, for the judge.
    pub(crate) fn seen(&self) -> Seen<'_> {
        Seen {
            plan: self.plan,
            limits: &self.limits,
            watch: &self.watch,
            ready_seconds: self.ready_seconds,
            outcomes: &self.outcomes,
            power_off: self.power_off.as_ref(),
            evidence: &self.evidence,
        }
    }

    /// All stages. Afterwards QEMU is gone.
    pub(crate) fn all(&mut self) -> Result<(), HarnessError> {
        self.boot()?;
        if self.watch.ready.is_some() && !self.watch.is_dead() {
            self.checks()?;
        }
        // Init that reported a failed service still takes orders; one that is late may not.
        if !self.watch.is_dead() {
            self.power_off()?;
        }
        self.last_words()?;
        self.watch.unplug();
        self.machine.kill();
        let until = Instant::now() + DRAIN;
        while !self.machine.is_over() && Instant::now() < until {
            self.pump(TICK)?;
        }
        Ok(())
    }

    pub(crate) fn boot(&mut self) -> Result<(), HarnessError> {
        self.machine.power_on()?;
        self.power_on = Instant::now();
        let until = self.power_on + self.limits.ready;
        let mut suspect: Option<Instant> = None;
        while self.watch.ready.is_none() && !self.watch.is_hopeless() {
            suspect = self
                .watch
                .is_suspect()
                .then(|| suspect.unwrap_or_else(Instant::now));
            if suspect.is_some_and(|since| since.elapsed() > self.limits.silence) {
                self.watch.condemn();
                return Ok(());
            }
            if Instant::now() >= until {
                let limit = self.limits.ready.as_secs_f64();
                self.watch.too_late(&format!("{limit:.0} s"));
                return Ok(());
            }
            self.pump(TICK)?;
        }
        Ok(())
    }

    pub(crate) fn checks(&mut self) -> Result<(), HarnessError> {
        let runner = Runner::start(&self.plan.checks, &self.machine.ports, self.limits);
        let network = self
            .plan
            .checks
            .iter()
            .filter(|check| crate::probes::guest_port(&check.probe).is_some())
            .count();
        let mut done = 0;
        let console_until = Instant::now() + self.limits.check;
        loop {
            let console = self.watch.console_checks.is_done() || Instant::now() >= console_until;
            if (done >= network && console) || self.watch.is_dead() {
                break;
            }
            self.pump(TICK.min(Duration::from_millis(20)))?;
            while let Ok((index, outcome)) = runner.outcomes.try_recv() {
                done += 1;
                self.told(index, outcome);
            }
        }
        let console: Vec<_> = self.watch.console_checks.outcomes(&self.limits).collect();
        for (index, outcome) in console {
            let found = matches!(outcome, Outcome::Passed(_));
            if found || !self.watch.is_dead() {
                self.told(index, outcome);
            }
        }
        Ok(())
    }

    fn told(&mut self, index: usize, outcome: Outcome) {
        if let (Some(slot), Some(check)) =
            (self.outcomes.get_mut(index), self.plan.checks.get(index))
        {
            (self.progress)(&match &outcome {
                Outcome::Passed(_) => format!("check: {}: passed", check.name),
                Outcome::Failed(text) => format!("check: {}: FAILED: {text}", check.name),
                Outcome::Skipped(text) => format!("check: {}: skipped: {text}", check.name),
            });
            *slot = Some(outcome);
        }
    }

    fn power_off(&mut self) -> Result<(), HarnessError> {
        (self.progress)("powering off");
        self.watch.expect_end();
        let start = Instant::now();
        let mut result = PowerOff {
            seconds: 0.0,
            refused: self
                .machine
                .press_power()
                .err()
                .map(|error| error.to_string()),
            asked_by_report: false,
        };
        while !self.machine.is_over()
            && !self.watch.is_dead()
            && start.elapsed() < self.limits.power_off
        {
            let ignored =
                self.watch.shutdown.is_none() && start.elapsed() > self.limits.power_off / 2;
            if ignored && !result.asked_by_report {
                // Only to learn whether init lives at all: the verdict is red by now.
                result.asked_by_report = true;
                drop(self.machine.send_report("{\"command\":\"power-off\"}"));
            }
            self.pump(TICK)?;
        }
        result.seconds = start.elapsed().as_secs_f64();
        self.power_off = Some(result);
        Ok(())
    }

    /// A dead guest may still print why: until it is silent, or too long.
    pub(crate) fn last_words(&mut self) -> Result<(), HarnessError> {
        let start = Instant::now();
        while self.watch.is_dead()
            && !self.machine.is_over()
            && start.elapsed() < self.limits.last_words
        {
            if !self.pump(SILENCE)? {
                break;
            }
        }
        self.watch.settle();
        Ok(())
    }

    /// Takes one observation; false if none came in time.
    pub(crate) fn pump(&mut self, wait: Duration) -> Result<bool, HarnessError> {
        let Some(observation) = self.machine.next(wait) else {
            return Ok(false);
        };
        let before = self.watch.stage;
        match observation {
            Observation::Console(bytes) => {
                self.evidence.console(&bytes)?;
                self.watch.console_bytes(&bytes);
            }
            Observation::Report(bytes) => self.watch.report_bytes(&bytes),
            Observation::Monitor(event) => self.watch.monitor(&event),
            Observation::Exited(status) => self.watch.process_end(&status),
            Observation::Closed => {}
        }
        for line in std::mem::take(&mut self.watch.record_lines) {
            self.evidence.event(&line)?;
        }
        if self.watch.ready.is_some() && self.ready_seconds.is_none() {
            let seconds = self.power_on.elapsed().as_secs_f64();
            self.ready_seconds = Some(seconds);
            (self.progress)(&format!("ready after {seconds:.1} s"));
        } else if self.watch.stage > before && self.watch.stage < Stage::PowerOff {
            (self.progress)(&self.watch.stage.name());
        }
        Ok(true)
    }
}
