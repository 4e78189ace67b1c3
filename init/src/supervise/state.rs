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
//!
//! ```text
//! words.rs   policy, inputs and actions    ends.rs   what comes after a process
//! ```

mod ends;
mod words;

use std::time::Duration;

use slipform_init::contract::event::ServiceState;
use slipform_init::contract::service::{Kind, Then};

pub(crate) use self::words::{Action, End, Input, Policy};
use super::escalate::Restarts;

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

#[cfg(test)]
mod care_tests;
#[cfg(test)]
mod tests;
