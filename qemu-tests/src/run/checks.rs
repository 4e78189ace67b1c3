//! The user's checks, step by step, in their order. What the guest says by itself is
//! looked for when all others are done: by then it has said it, or never will.

use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use slipform_init::contract::event::ServiceState;

use crate::error::HarnessError;
use crate::plan::{CHECK_LIMIT, Check, Plan, Probe, Step};
use crate::probes::{Attempt, Patience, guest_port};
use crate::report::Outcome;

use super::file::Wanted;
use super::stages::{Run, TICK};

/// How long one wait lasts while a probe is on its way.
const SHORT: Duration = Duration::from_millis(20);

/// Whether the run makes this check of its plan: all, or those of its shard.
pub(crate) fn is_ours(plan: &Plan, number: usize) -> bool {
    plan.run.shard.is_none_or(|(part, of)| {
        let (part, of) = (part as usize, of as usize);
        of == 0 || number % of + 1 == part
    })
}

/// The only probe of a check that watches from power-on to the end.
fn watcher(check: &Check) -> Option<&Probe> {
    let watches = |probe: &&Probe| {
        matches!(
            probe,
            Probe::Console { .. } | Probe::ConsoleAbsent { .. } | Probe::Log { .. }
        )
    };
    check.single().filter(watches)
}

impl Run<'_> {
    /// All checks that can be made of a machine that is up.
    pub(crate) fn checks(&mut self) -> Result<(), HarnessError> {
        let plan = self.plan;
        let ours = || {
            let numbered = plan.checks.iter().enumerate();
            numbered.filter(|(number, _)| is_ours(plan, *number))
        };
        for (number, check) in ours() {
            if watcher(check).is_some() || !self.is_here(check) {
                continue;
            }
            if !self.is_up() {
                break;
            }
            if let Some(outcome) = self.check(number, check)? {
                self.told(number, outcome);
            }
        }
        let since = Instant::now();
        for (number, check) in ours() {
            if !self.is_here(check) {
                continue;
            }
            let (what, pattern) = match watcher(check) {
                Some(Probe::Console { matches }) => ("console line".to_owned(), matches),
                Some(Probe::Log { service, matches }) => {
                    (format!("line of service {service}"), matches)
                }
                _ => continue,
            };
            let patience = self.patience(check, true).limit;
            while self.matched(number, check).is_none()
                && self.is_up()
                && since.elapsed() < patience
            {
                self.pump(TICK)?;
            }
            let outcome = match self.matched(number, check) {
                Some(line) => Outcome::Passed(format!("{what}: {line}")),
                None if !self.is_up() => continue,
                None => Outcome::Failed(format!(
                    "no {what} matches `{pattern}`, up to {:.1} s after all other checks",
                    since.elapsed().as_secs_f64()
                )),
            };
            self.told(number, outcome);
        }
        self.report_to_the_cloud()
    }

    /// A cloud that never hears of a ready machine takes it for broken and stops it: then
    /// no check in it has passed.
    fn report_to_the_cloud(&mut self) -> Result<(), HarnessError> {
        if !self.awaits_report() {
            return Ok(());
        }
        let (since, patience) = (Instant::now(), self.limits.scaled(CHECK_LIMIT));
        while !self.machine.is_reported() && self.is_up() && since.elapsed() < patience {
            self.pump(TICK)?;
        }
        if self.machine.is_reported() || !self.is_up() {
            return Ok(());
        }
        let plan = self.plan;
        for (number, check) in plan.checks.iter().enumerate() {
            let passed = matches!(self.outcomes.get(number), Some(Some(Outcome::Passed(_))));
            if passed && self.is_here(check) {
                let told = "the machine never reported to its cloud that it is ready; let [metadata] sources name it";
                self.told(number, Outcome::Failed(told.to_owned()));
            }
        }
        Ok(())
    }

    /// The line that a watching check waits for: of all boots, or of the one in its cloud.
    fn matched(&self, number: usize, check: &Check) -> Option<&str> {
        match check.metadata {
            None => self.watch.patterns.ever(number, 0),
            Some(_) => self.watch.patterns.now(number, 0),
        }
    }

    /// Patterns that must not be there are judged when nothing more can come.
    pub(crate) fn absences(&mut self) {
        let plan = self.plan;
        let reached = self.watch.ready.is_some();
        for (number, check) in plan.checks.iter().enumerate() {
            let Some(Probe::ConsoleAbsent { matches }) = watcher(check) else {
                continue;
            };
            if !is_ours(plan, number) {
                continue;
            }
            let outcome = match self.watch.patterns.ever(number, 0) {
                Some(line) => {
                    Outcome::Failed(format!("a console line matches `{matches}`: {line}"))
                }
                None if reached => Outcome::Passed("no such line".to_owned()),
                None => continue,
            };
            self.told(number, outcome);
        }
    }

    /// Goes through one check; none if the machine died meanwhile.
    fn check(&mut self, number: usize, check: &Check) -> Result<Option<Outcome>, HarnessError> {
        let count = check.steps.len();
        let mut last = String::new();
        for (n, step) in check.steps.iter().enumerate() {
            let place = match count {
                1 => String::new(),
                _ => format!("step {} ({}): ", n + 1, describe(step)),
            };
            let outcome = match step {
                Step::Probe(probe) => self.probe((number, n), check, probe)?,
                Step::Wait(time) => self.wait(self.limits.scaled(*time))?,
                Step::Reboot => {
                    self.reboot()?;
                    self.came_back()
                }
                Step::PowerCut => {
                    self.power_cut()?;
                    self.came_back()
                }
            };
            match outcome {
                Some(Outcome::Passed(detail)) => last = format!("{place}{detail}"),
                Some(Outcome::Failed(text)) => {
                    return Ok(Some(Outcome::Failed(format!("{place}{text}"))));
                }
                Some(Outcome::Skipped(_)) | None => return Ok(None),
            }
        }
        Ok(Some(Outcome::Passed(last)))
    }

    fn came_back(&self) -> Option<Outcome> {
        Some(if self.is_up() {
            Outcome::Passed("ready again".to_owned())
        } else {
            Outcome::Failed("the machine did not get ready again".to_owned())
        })
    }

    fn wait(&mut self, time: Duration) -> Result<Option<Outcome>, HarnessError> {
        let until = Instant::now() + time;
        while self.is_up() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Some(Outcome::Passed("waited".to_owned())));
            }
            self.pump(left.min(TICK))?;
        }
        Ok(None)
    }

    fn probe(
        &mut self,
        at: (usize, usize),
        check: &Check,
        probe: &Probe,
    ) -> Result<Option<Outcome>, HarnessError> {
        if guest_port(probe).is_some() {
            return self.network(check, probe);
        }
        if let Probe::File {
            path,
            exists,
            contains,
        } = probe
        {
            let wanted = Wanted {
                path,
                exists: *exists,
                contains: contains.as_deref(),
            };
            let limit = self.patience(check, false).limit;
            return self.file(&wanted, limit);
        }
        let patience = self.patience(check, true).limit;
        let since = Instant::now();
        loop {
            let (fits, saw) = self.look(at, probe);
            if fits {
                return Ok(Some(Outcome::Passed(saw)));
            }
            if !self.is_up() {
                return Ok(None);
            }
            // What is there will not go away again.
            let hopeless = matches!(probe, Probe::ConsoleAbsent { .. });
            if hopeless || since.elapsed() >= patience {
                let seconds = since.elapsed().as_secs_f64();
                return Ok(Some(Outcome::Failed(format!(
                    "{saw}, after {seconds:.1} s"
                ))));
            }
            self.pump(TICK)?;
        }
    }

    /// Whether a probe that looks at the watch fits now, and what it saw.
    fn look(&self, (check, step): (usize, usize), probe: &Probe) -> (bool, String) {
        let found = self.watch.patterns.now(check, step);
        match (probe, found) {
            (Probe::Service { name, state }, _) => match self.watch.services.state(name) {
                Some((now, _)) if now == *state => (true, format!("{name} is {}", word(now))),
                Some((now, detail)) => (
                    false,
                    format!("{name} is {}, not {}: {detail}", word(now), word(*state)),
                ),
                None => (false, format!("init never spoke of a service {name}")),
            },
            (Probe::ConsoleAbsent { .. }, None) => (true, "no such line".to_owned()),
            (Probe::ConsoleAbsent { matches }, Some(line)) => {
                (false, format!("a console line matches `{matches}`: {line}"))
            }
            (_, Some(line)) => (true, line.to_owned()),
            (Probe::Console { matches } | Probe::Log { matches, .. }, None) => {
                (false, format!("no line of this boot matches `{matches}`"))
            }
            (Probe::Http(_) | Probe::Tcp { .. } | Probe::File { .. }, None) => {
                (false, "no answer".to_owned())
            }
        }
    }

    fn network(&mut self, check: &Check, probe: &Probe) -> Result<Option<Outcome>, HarnessError> {
        let patience = self.patience(check, false);
        let attempt = Attempt::start(probe.clone(), self.machine.ports.clone(), patience);
        loop {
            match attempt.outcome.try_recv() {
                Ok(outcome) => return Ok(Some(outcome)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            if self.watch.is_dead() {
                return Ok(None);
            }
            self.pump(SHORT)?;
        }
    }

    fn patience(&self, check: &Check, by_itself: bool) -> Patience {
        let limit = match check.limit {
            Some(limit) => self.limits.scaled(limit),
            None if by_itself => self.limits.settle,
            None => self.limits.scaled(CHECK_LIMIT),
        };
        Patience {
            limit,
            settle: self.limits.settle.min(limit),
            retries: check.retries,
        }
    }

    fn told(&mut self, number: usize, outcome: Outcome) {
        let plan = self.plan;
        let Some(check) = plan.checks.get(number) else {
            return;
        };
        self.tell(&match &outcome {
            Outcome::Passed(_) => format!("check: {}: passed", check.name),
            Outcome::Failed(text) => format!("check: {}: FAILED: {text}", check.name),
            Outcome::Skipped(text) => format!("check: {}: skipped: {text}", check.name),
        });
        if let Some(slot) = self.outcomes.get_mut(number) {
            *slot = Some(outcome);
        }
    }
}

/// For people.
fn describe(step: &Step) -> String {
    match step {
        Step::Reboot => "reboot".to_owned(),
        Step::PowerCut => "power-cut".to_owned(),
        Step::Wait(time) => format!("wait {:.1} s", time.as_secs_f64()),
        Step::Probe(probe) => match probe {
            Probe::Http(http) => format!("http on port {}", http.port),
            Probe::Tcp { port, .. } => format!("tcp on port {port}"),
            Probe::Console { .. } => "console".to_owned(),
            Probe::ConsoleAbsent { .. } => "console-absent".to_owned(),
            Probe::Service { name, .. } => format!("service {name}"),
            Probe::Log { service, .. } => format!("log of {service}"),
            Probe::File { path, .. } => format!("file {path}"),
        },
    }
}

/// As slipform.toml and records have it.
fn word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Started => "started",
        ServiceState::Ready => "ready",
        ServiceState::Exited => "exited",
        ServiceState::Backoff => "backoff",
        ServiceState::Failed => "failed",
        ServiceState::Stopped => "stopped",
    }
}
