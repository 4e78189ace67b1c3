//! The life of one service: a pure state machine on a clock that comes from outside.
//!
//! ```text
//! Waiting -> Spawning -> Starting -> Running -> Ended
//!               ^                       |
//!               +------ Backoff <-------+   (restart policy)
//! Starting, Running -> Stopping -> Ended | Backoff
//! a timer: Running -> Sleeping -> Spawning
//! ```
//!
//! Whoever drives it carries out the [`Action`]s and reports back with [`Input`]s. It
//! never asks for a second process while there is one, and an input that does not fit
//! the state is ignored: late news about an old process are normal.

use std::fmt;
use std::time::Duration;

use slipform_init::contract::event::ServiceState;
use slipform_init::contract::machine::Restart;
use slipform_init::contract::service::{Kind, StartLimit, Then};

use super::escalate::{Patience, Restarts};

/// Pause before the first restart; each unhealthy end in a row doubles it.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a restart.
pub(crate) const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// So long ready, and the count of unhealthy ends begins anew.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// So many unhealthy ends in a row are a crash loop.
pub(crate) const CRASH_LOOP: u32 = 5;
/// How long a process may outlive SIGKILL (in the kernel, on a dead disk) before
/// the machine goes down without it.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(5);

/// What machine.json says about the service's life.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// When to start again.
    pub(crate) restart: Restart,
    /// From the start of the process to ready.
    pub(crate) ready_timeout: Duration,
    /// From the stop signal to SIGKILL.
    pub(crate) stop_timeout: Duration,
    /// Daemon, oneshot or timer.
    pub(crate) kind: Kind,
    /// Starts in vain, and what then; none: it is tried for ever, at the capped pace.
    pub(crate) start_limit: Option<StartLimit>,
    /// Restarts for its health, and what then.
    pub(crate) patience: Option<Patience>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            restart: Restart::OnFailure,
            ready_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
            kind: Kind::Daemon,
            start_limit: None,
            patience: None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
}

impl End {
    /// Reads a status of waitpid(2).
    pub(crate) fn from_wait(status: i32) -> End {
        match status & 0x7f {
            0 => End::Status((status >> 8) & 0xff),
            signal => End::Signal(signal),
        }
    }

    fn good(self) -> bool {
        self == End::Status(0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            End::Status(status) => write!(f, "exit status {status}"),
            End::Signal(signal) => {
                let name = match signal {
                    libc::SIGHUP => "SIGHUP",
                    libc::SIGINT => "SIGINT",
                    libc::SIGILL => "SIGILL",
                    libc::SIGTRAP => "SIGTRAP",
                    libc::SIGABRT => "SIGABRT",
                    libc::SIGBUS => "SIGBUS",
                    libc::SIGFPE => "SIGFPE",
                    libc::SIGKILL => "SIGKILL",
                    libc::SIGSEGV => "SIGSEGV",
                    libc::SIGPIPE => "SIGPIPE",
                    libc::SIGTERM => "SIGTERM",
                    libc::SIGXCPU => "SIGXCPU",
                    libc::SIGXFSZ => "SIGXFSZ",
                    libc::SIGSYS => "SIGSYS",
                    _ => return write!(f, "killed by signal {signal}"),
                };
                write!(f, "killed by {name}")
            }
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// All services of `after` are ready.
    DepsReady,
    /// It can never start.
    Refused(String),
    /// The process is there, on its way to exec.
    Spawned(i32),
    /// exec went well.
    Execed,
    /// There is no process (any more): fork or a step up to exec failed.
    SpawnFailed(String),
    /// The process ended.
    Exited(End),
    /// It is ready.
    Ready,
    /// A program of `pre-start` ended well, and this process follows it.
    Followed(i32),
    /// It was ready, and its probes or its watchdog say that it is not well.
    Unhealthy(String),
    /// Time has passed; the text is what the readiness probe saw last, or empty.
    Tick(String),
    /// All services go down: this one is not started again, its turn to stop comes.
    NoRestart,
    /// It shall end for good.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the process; answer with `Spawned` or `SpawnFailed`.
    Spawn,
    /// The stop signal to the process group.
    Terminate,
    /// SIGKILL to all that it started.
    Kill,
    /// The machine shall start again, for this reason.
    Reboot(String),
    /// Tell the world.
    Report {
        /// New state.
        state: ServiceState,
        /// Process, 0 if none.
        pid: i32,
        /// Why or how.
        detail: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Spawning,
    Starting {
        pid: i32,
        not_ready_at: Duration,
    },
    Running {
        pid: i32,
        not_ready_at: Duration,
        ready_since: Option<Duration>,
    },
    Stopping {
        pid: i32,
        next_kill: Duration,
        killed: bool,
        ready_since: Option<Duration>,
    },
    Backoff {
        until: Duration,
    },
    /// A timer between two runs.
    Sleeping {
        until: Duration,
    },
    Ended {
        well: bool,
    },
}

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    policy: Policy,
    state: State,
    /// The end is final.
    stop: bool,
    /// This start was the last.
    last: bool,
    /// It is being stopped because it did not get ready.
    timed_out: bool,
    /// It is being stopped because it is not well.
    sick: bool,
    /// It is not started again after this end, and that is no good end.
    given_up: Option<String>,
    /// Ends in a row without [`HEALTHY_AFTER`] before them.
    unhealthy: u32,
    /// Restarts for its health.
    restarts: Restarts,
    /// When the last start was tried.
    started: Duration,
}

impl Life {
    /// A service that waits for those before it.
    pub(crate) fn new(policy: Policy) -> Life {
        Life {
            policy,
            state: State::Waiting,
            stop: false,
            last: false,
            timed_out: false,
            sick: false,
            given_up: None,
            unhealthy: 0,
            restarts: Restarts::default(),
            started: Duration::ZERO,
        }
    }

    /// Takes one input at time `now`; what is to be done goes to `out`.
    pub(crate) fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::DepsReady => self.deps_ready(now, out),
            Input::Refused(why) => self.refused(why, out),
            Input::Spawned(pid) => self.spawned(now, pid, out),
            Input::Execed => self.execed(out),
            Input::SpawnFailed(why) => self.spawn_failed(now, why, out),
            Input::Exited(end) => self.exited(now, end, out),
            Input::Ready => self.ready(now, out),
            Input::Followed(pid) => self.followed(pid),
            Input::Unhealthy(why) => self.unwell(now, &why, out),
            Input::Tick(seen) => self.tick(now, &seen, out),
            Input::NoRestart => self.last = true,
            Input::Stop => self.stop(now, out),
        }
    }

    /// When it wants a tick.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Starting { not_ready_at, .. }
            | State::Running {
                not_ready_at,
                ready_since: None,
                ..
            } => Some(not_ready_at),
            State::Stopping { next_kill, .. } => Some(next_kill),
            State::Backoff { until } | State::Sleeping { until } => Some(until),
            _ => None,
        }
    }

    /// It waits for those in `after`.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// It is ready, or has done its work and ended well.
    pub(crate) fn is_ready(&self) -> bool {
        if matches!(self.policy.kind, Kind::Every(_)) {
            // Nobody waits for the work of a timer.
            return !matches!(self.state, State::Waiting | State::Ended { well: false });
        }
        matches!(
            self.state,
            State::Running {
                ready_since: Some(_),
                ..
            } | State::Ended { well: true }
        )
    }

    /// It will never be ready again by itself.
    pub(crate) fn is_lost(&self) -> bool {
        self.state == State::Ended { well: false }
    }

    /// No process, and none to come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// It waits for the readiness of a running process.
    pub(crate) fn wants_probe(&self) -> bool {
        matches!(
            self.state,
            State::Running {
                ready_since: None,
                ..
            }
        )
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self.state {
            State::Starting { pid, .. }
            | State::Running { pid, .. }
            | State::Stopping { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// It is ready, and its health is watched.
    pub(crate) fn wants_health(&self) -> bool {
        matches!(
            self.state,
            State::Running {
                ready_since: Some(_),
                ..
            }
        )
    }

    fn deps_ready(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.state == State::Waiting {
            self.spawn(now, out);
        }
    }

    fn spawn(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.state = State::Spawning;
        self.timed_out = false;
        self.sick = false;
        self.started = now;
        out.push(Action::Spawn);
    }

    fn refused(&mut self, why: String, out: &mut Vec<Action>) {
        if self.state == State::Waiting {
            self.state = State::Ended { well: false };
            report(out, ServiceState::Failed, 0, why);
        }
    }

    fn spawned(&mut self, now: Duration, pid: i32, out: &mut Vec<Action>) {
        if self.state != State::Spawning {
            return;
        }
        self.state = State::Starting {
            pid,
            not_ready_at: now.saturating_add(self.policy.ready_timeout),
        };
        if self.stop {
            self.terminate(now, pid, None, out);
        }
    }

    fn followed(&mut self, next: i32) {
        if let State::Starting { pid, .. } | State::Stopping { pid, .. } = &mut self.state {
            *pid = next;
        }
    }

    fn execed(&mut self, out: &mut Vec<Action>) {
        if let State::Starting { pid, not_ready_at } = self.state {
            self.state = State::Running {
                pid,
                not_ready_at,
                ready_since: None,
            };
            report(out, ServiceState::Started, pid, String::new());
        }
    }

    fn spawn_failed(&mut self, now: Duration, why: String, out: &mut Vec<Action>) {
        let alive = matches!(
            self.state,
            State::Spawning | State::Starting { .. } | State::Stopping { .. }
        );
        if !alive {
            return;
        }
        if self.stop || self.last {
            return self.end(true, ServiceState::Stopped, why, out);
        }
        if let Kind::Every(period) = self.policy.kind {
            return self.sleep(now, period, ServiceState::Failed, &why, out);
        }
        if self.policy.restart == Restart::Never {
            return self.end(false, ServiceState::Failed, why, out);
        }
        report(out, ServiceState::Failed, 0, why.clone());
        self.back_off(now, false, &why, out);
    }

    fn ready(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.policy.kind == Kind::Oneshot {
            return;
        }
        if let State::Running {
            pid,
            not_ready_at,
            ready_since: None,
        } = self.state
        {
            self.state = State::Running {
                pid,
                not_ready_at,
                ready_since: Some(now),
            };
            report(out, ServiceState::Ready, pid, String::new());
        }
    }

    fn exited(&mut self, now: Duration, end: End, out: &mut Vec<Action>) {
        let (pid, ready_since) = match self.state {
            State::Starting { pid, .. } => (pid, None),
            State::Running {
                pid, ready_since, ..
            }
            | State::Stopping {
                pid, ready_since, ..
            } => (pid, ready_since),
            _ => return,
        };
        let was_ready = ready_since.is_some() || self.policy.kind == Kind::Oneshot;
        report(out, ServiceState::Exited, pid, end.to_string());
        if self.stop || self.last {
            return self.end(true, ServiceState::Stopped, end.to_string(), out);
        }
        let good = end.good() && !self.timed_out && !self.sick;
        if let Some(why) = self.given_up.take() {
            return self.end(false, ServiceState::Failed, why, out);
        }
        if let Kind::Every(period) = self.policy.kind {
            let state = if good {
                ServiceState::Waiting
            } else {
                ServiceState::Failed
            };
            return self.sleep(now, period, state, &end.to_string(), out);
        }
        let again = match self.policy.restart {
            Restart::Always => self.policy.kind == Kind::Daemon || !good,
            Restart::OnFailure => !good,
            Restart::Never => false,
        };
        if again {
            let healthy =
                ready_since.is_some_and(|since| now.saturating_sub(since) >= HEALTHY_AFTER);
            self.back_off(now, healthy, &end.to_string(), out);
        } else if self.timed_out {
            // Said when the time was up; `restart` keeps it down.
            self.state = State::Ended { well: false };
        } else if good && was_ready {
            self.end(true, ServiceState::Stopped, "done".into(), out);
        } else if good {
            self.end(
                false,
                ServiceState::Failed,
                format!("ended before it was ready ({end})"),
                out,
            );
        } else {
            self.end(
                false,
                ServiceState::Failed,
                format!("{end}; restart = \"never\""),
                out,
            );
        }
    }

    fn end(&mut self, well: bool, state: ServiceState, detail: String, out: &mut Vec<Action>) {
        self.state = State::Ended { well };
        report(out, state, 0, detail);
    }

    fn back_off(&mut self, now: Duration, healthy: bool, last: &str, out: &mut Vec<Action>) {
        self.unhealthy = if healthy {
            0
        } else {
            self.unhealthy.saturating_add(1)
        };
        if let Some(limit) = self.policy.start_limit
            && self.unhealthy >= limit.starts
        {
            return self.limit_reached(limit, last, out);
        }
        let pause = pause(self.unhealthy);
        self.state = State::Backoff {
            until: now.saturating_add(pause),
        };
        let milliseconds = pause.as_millis();
        if self.unhealthy == CRASH_LOOP {
            let detail = format!(
                "crash loop: ended {CRASH_LOOP} times in a row without {} s of health, last: {last}; \
                 it is tried again every {} s",
                HEALTHY_AFTER.as_secs(),
                BACKOFF_CAP.as_secs()
            );
            report(out, ServiceState::Failed, 0, detail);
        } else {
            report(
                out,
                ServiceState::Backoff,
                0,
                format!("starts again in {milliseconds} ms"),
            );
        }
    }

    fn limit_reached(&mut self, limit: StartLimit, last: &str, out: &mut Vec<Action>) {
        let what = match limit.then {
            Then::GiveUp => "it is given up",
            Then::Reboot => "the machine reboots",
        };
        let why = format!(
            "start limit: ended {} times in a row without {} s of health, last: {last}; {what}",
            limit.starts,
            HEALTHY_AFTER.as_secs()
        );
        self.end(false, ServiceState::Failed, why.clone(), out);
        if limit.then == Then::Reboot {
            out.push(Action::Reboot(why));
        }
    }

    /// A timer's run is over, in whatever way: the next one comes when it is its time.
    fn sleep(
        &mut self,
        now: Duration,
        period_ms: u64,
        state: ServiceState,
        last: &str,
        out: &mut Vec<Action>,
    ) {
        // Not at once, however long the last run took.
        let until = self
            .started
            .saturating_add(Duration::from_millis(period_ms))
            .max(now.saturating_add(BACKOFF_FIRST));
        self.state = State::Sleeping { until };
        let seconds = until.saturating_sub(now).as_secs();
        report(
            out,
            state,
            0,
            format!("{last}; the next run comes in {seconds} s"),
        );
    }

    /// Restarts it, as often as the policy allows.
    fn unwell(&mut self, now: Duration, why: &str, out: &mut Vec<Action>) {
        let State::Running {
            pid,
            ready_since: Some(since),
            ..
        } = self.state
        else {
            return;
        };
        self.sick = true;
        let helps = self
            .policy
            .patience
            .is_none_or(|patience| self.restarts.allow(now, &patience));
        if let Some(patience) = self.policy.patience.filter(|_| !helps) {
            let why = format!(
                "{why}; {} restarts within {} s did not help",
                patience.restarts,
                patience.within.as_secs()
            );
            if patience.then == Then::Reboot {
                out.push(Action::Reboot(why.clone()));
            }
            self.given_up = Some(why);
        }
        self.terminate(now, pid, Some(since), out);
    }

    fn tick(&mut self, now: Duration, seen: &str, out: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Starting { pid, .. } | State::Running { pid, .. } => {
                let seconds = self.policy.ready_timeout.as_secs_f64();
                let seen = if seen.is_empty() {
                    String::new()
                } else {
                    format!("; last seen: {seen}")
                };
                report(
                    out,
                    ServiceState::Failed,
                    pid,
                    format!("not ready within {seconds} s{seen}"),
                );
                self.timed_out = true;
                self.terminate(now, pid, None, out);
            }
            State::Stopping {
                pid,
                killed,
                ready_since,
                ..
            } => {
                if killed && self.stop {
                    let detail = format!(
                        "process {pid} is still there {} s after SIGKILL",
                        KILL_GRACE.as_secs()
                    );
                    return self.end(false, ServiceState::Failed, detail, out);
                }
                out.push(Action::Kill);
                self.state = State::Stopping {
                    pid,
                    next_kill: now.saturating_add(KILL_GRACE),
                    killed: true,
                    ready_since,
                };
            }
            State::Backoff { .. } | State::Sleeping { .. } => self.spawn(now, out),
            State::Waiting | State::Spawning | State::Ended { .. } => {}
        }
    }

    fn stop(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.stop {
            return;
        }
        self.stop = true;
        match self.state {
            State::Waiting => self.end(
                true,
                ServiceState::Stopped,
                "it had not been started".into(),
                out,
            ),
            State::Backoff { .. } | State::Sleeping { .. } => self.end(
                true,
                ServiceState::Stopped,
                "it was not running".into(),
                out,
            ),
            State::Starting { pid, .. } => self.terminate(now, pid, None, out),
            State::Running {
                pid, ready_since, ..
            } => self.terminate(now, pid, ready_since, out),
            // Already being stopped after a missed ready_timeout: that end is final now.
            // Spawning: as soon as there is a process.
            State::Stopping { .. } | State::Spawning | State::Ended { .. } => {}
        }
    }

    fn terminate(
        &mut self,
        now: Duration,
        pid: i32,
        ready_since: Option<Duration>,
        out: &mut Vec<Action>,
    ) {
        let next_kill = now.saturating_add(self.policy.stop_timeout);
        self.state = State::Stopping {
            pid,
            next_kill,
            killed: false,
            ready_since,
        };
        out.push(Action::Terminate);
    }
}

fn report(out: &mut Vec<Action>, state: ServiceState, pid: i32, detail: String) {
    out.push(Action::Report { state, pid, detail });
}

/// Pause after so many unhealthy ends in a row.
pub(crate) fn pause(unhealthy: u32) -> Duration {
    if unhealthy >= CRASH_LOOP {
        return BACKOFF_CAP;
    }
    (BACKOFF_FIRST * 2_u32.pow(unhealthy.saturating_sub(1))).min(BACKOFF_CAP)
}

#[cfg(test)]
mod care_tests;
#[cfg(test)]
mod tests;
