//! The life of one service: a pure state machine on a clock that comes from outside.
//!
//! ```text
//! Waiting -> Spawning -> Starting -> Running -> Ended
//!               ^                       |
//!               +------ Backoff <-------+   (restart policy)
//! Starting, Running -> Stopping -> Ended | Backoff
//! ```
//!
//! Whoever drives it carries out the [`Action`]s and reports back with [`Input`]s. It
//! never asks for a second process while there is one, and an input that does not fit
//! the state is ignored: late news about an old process are normal.

use std::fmt;
use std::time::Duration;

use slipform_init::contract::event::ServiceState;
use slipform_init::contract::machine::Restart;

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
    /// From SIGTERM to SIGKILL.
    pub(crate) stop_timeout: Duration,
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
    /// SIGTERM to the process group.
    Terminate,
    /// SIGKILL to all that it started.
    Kill,
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
        was_ready: bool,
    },
    Backoff {
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
    /// Ends in a row without [`HEALTHY_AFTER`] before them.
    unhealthy: u32,
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
            unhealthy: 0,
        }
    }

    /// Takes one input at time `now`; what is to be done goes to `out`.
    pub(crate) fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::DepsReady => self.deps_ready(out),
            Input::Refused(why) => self.refused(why, out),
            Input::Spawned(pid) => self.spawned(now, pid, out),
            Input::Execed => self.execed(out),
            Input::SpawnFailed(why) => self.spawn_failed(now, why, out),
            Input::Exited(end) => self.exited(now, end, out),
            Input::Ready => self.ready(now, out),
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
            State::Backoff { until } => Some(until),
            _ => None,
        }
    }

    /// It waits for those in `after`.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// It is ready, or has done its work and ended well.
    pub(crate) fn is_ready(&self) -> bool {
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

    fn deps_ready(&mut self, out: &mut Vec<Action>) {
        if self.state == State::Waiting {
            self.spawn(out);
        }
    }

    fn spawn(&mut self, out: &mut Vec<Action>) {
        self.state = State::Spawning;
        self.timed_out = false;
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
            self.terminate(now, pid, false, out);
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
        if self.policy.restart == Restart::Never {
            return self.end(false, ServiceState::Failed, why, out);
        }
        report(out, ServiceState::Failed, 0, why);
        self.back_off(now, false, "it cannot be started", out);
    }

    fn ready(&mut self, now: Duration, out: &mut Vec<Action>) {
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
        let (pid, ready_since, was_ready) = match self.state {
            State::Starting { pid, .. } => (pid, None, false),
            State::Running {
                pid, ready_since, ..
            } => (pid, ready_since, ready_since.is_some()),
            State::Stopping { pid, was_ready, .. } => (pid, None, was_ready),
            _ => return,
        };
        report(out, ServiceState::Exited, pid, end.to_string());
        if self.stop || self.last {
            return self.end(true, ServiceState::Stopped, end.to_string(), out);
        }
        let good = end.good() && !self.timed_out;
        let again = match self.policy.restart {
            Restart::Always => true,
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
                self.terminate(now, pid, false, out);
            }
            State::Stopping {
                pid,
                killed,
                was_ready,
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
                    was_ready,
                };
            }
            State::Backoff { .. } => self.spawn(out),
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
            State::Backoff { .. } => self.end(
                true,
                ServiceState::Stopped,
                "it was not running".into(),
                out,
            ),
            State::Starting { pid, .. } => self.terminate(now, pid, false, out),
            State::Running {
                pid, ready_since, ..
            } => self.terminate(now, pid, ready_since.is_some(), out),
            // Already being stopped after a missed ready_timeout: that end is final now.
            // Spawning: as soon as there is a process.
            State::Stopping { .. } | State::Spawning | State::Ended { .. } => {}
        }
    }

    fn terminate(&mut self, now: Duration, pid: i32, was_ready: bool, out: &mut Vec<Action>) {
        let next_kill = now.saturating_add(self.policy.stop_timeout);
        self.state = State::Stopping {
            pid,
            next_kill,
            killed: false,
            was_ready,
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
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);
    const READY: Duration = Duration::from_secs(30);

    fn life(restart: Restart) -> Life {
        Life::new(Policy {
            restart,
            ready_timeout: READY,
            stop_timeout: GRACE,
        })
    }

    /// One input and what it leads to, in words.
    fn say(life: &mut Life, seconds: f64, input: Input) -> Vec<String> {
        let mut out = Vec::new();
        life.step(Duration::from_secs_f64(seconds), input, &mut out);
        let word = |action: &Action| match action {
            Action::Spawn => "spawn".to_owned(),
            Action::Terminate => "terminate".to_owned(),
            Action::Kill => "kill".to_owned(),
            Action::Report { state, pid, detail } => {
                format!("{state:?} {pid} {detail}").trim_end().to_owned()
            }
        };
        out.iter().map(word).collect()
    }

    type Row<'a> = (f64, Input, &'a [&'a str]);

    fn run(restart: Restart, rows: &[Row<'_>]) -> Life {
        let mut life = life(restart);
        for (number, (seconds, input, expected)) in rows.iter().enumerate() {
            assert_eq!(
                &say(&mut life, *seconds, input.clone()),
                expected,
                "row {number}: {input:?} at {seconds}"
            );
        }
        life
    }

    fn tick() -> Input {
        Input::Tick(String::new())
    }

    fn exit(status: i32) -> Input {
        Input::Exited(End::Status(status))
    }

    #[test]
    fn a_service_starts_gets_ready_and_is_stopped() {
        let life = run(
            Restart::Always,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::DepsReady, &[]),
                (0.0, Input::Spawned(7), &[]),
                (0.1, Input::Execed, &["Started 7"]),
                (1.0, Input::Ready, &["Ready 7"]),
                (1.1, Input::Ready, &[]),
                (50.0, tick(), &[]),
                (60.0, Input::Stop, &["terminate"]),
                (60.0, Input::Stop, &[]),
                (
                    61.0,
                    Input::Exited(End::Signal(15)),
                    &["Exited 7 killed by SIGTERM", "Stopped 0 killed by SIGTERM"],
                ),
                (90.0, tick(), &[]),
            ],
        );
        assert!(life.is_over() && life.is_ready());
    }

    #[test]
    fn work_done_once_counts_as_ready() {
        let life = run(
            Restart::Never,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (0.1, Input::Execed, &["Started 7"]),
                (0.1, Input::Ready, &["Ready 7"]),
                (0.2, exit(0), &["Exited 7 exit status 0", "Stopped 0 done"]),
            ],
        );
        assert!(life.is_ready() && life.is_over() && !life.is_lost());
    }

    #[test]
    fn an_end_before_ready_is_a_failure_even_with_status_0() {
        let life = run(
            Restart::OnFailure,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (0.1, Input::Execed, &["Started 7"]),
                (
                    0.2,
                    exit(0),
                    &[
                        "Exited 7 exit status 0",
                        "Failed 0 ended before it was ready (exit status 0)",
                    ],
                ),
            ],
        );
        assert!(life.is_lost());
    }

    #[test]
    fn restart_policies() {
        let start: [Row<'_>; 4] = [
            (0.0, Input::DepsReady, &["spawn"]),
            (0.0, Input::Spawned(7), &[]),
            (0.0, Input::Execed, &["Started 7"]),
            (0.0, Input::Ready, &["Ready 7"]),
        ];
        let again = "Backoff 0 starts again in 100 ms";
        let cases: [(Restart, i32, &[&str]); 6] = [
            (Restart::Always, 0, &["Exited 7 exit status 0", again]),
            (Restart::Always, 1, &["Exited 7 exit status 1", again]),
            (
                Restart::OnFailure,
                0,
                &["Exited 7 exit status 0", "Stopped 0 done"],
            ),
            (Restart::OnFailure, 1, &["Exited 7 exit status 1", again]),
            (
                Restart::Never,
                0,
                &["Exited 7 exit status 0", "Stopped 0 done"],
            ),
            (
                Restart::Never,
                1,
                &[
                    "Exited 7 exit status 1",
                    "Failed 0 exit status 1; restart = \"never\"",
                ],
            ),
        ];
        for (restart, status, expected) in cases {
            let mut rows = start.to_vec();
            rows.push((1.0, exit(status), expected));
            run(restart, &rows);
        }
    }

    #[test]
    fn a_crash_loop_is_reported_and_tried_slowly() {
        let mut life = life(Restart::OnFailure);
        let mut now = 0.0;
        let mut told = Vec::new();
        say(&mut life, now, Input::DepsReady);
        for _ in 0..8 {
            say(&mut life, now, Input::Spawned(7));
            say(&mut life, now, Input::Execed);
            say(&mut life, now, Input::Ready);
            let said = say(&mut life, now, Input::Exited(End::Signal(libc::SIGSEGV)));
            told.push(said[1].clone());
            let until = life.deadline().expect("it starts again").as_secs_f64();
            told.push(format!("{:.1}", until - now));
            now = until;
            assert_eq!(say(&mut life, now, tick()), ["spawn"]);
        }
        let pause = |ms: u32| format!("Backoff 0 starts again in {ms} ms");
        let failed = "Failed 0 crash loop: ended 5 times in a row without 10 s of health, \
                      last: killed by SIGSEGV; it is tried again every 10 s";
        let expected = [
            [pause(100), "0.1".into()],
            [pause(200), "0.2".into()],
            [pause(400), "0.4".into()],
            [pause(800), "0.8".into()],
            [failed.to_owned(), "10.0".into()],
            [pause(10_000), "10.0".into()],
            [pause(10_000), "10.0".into()],
            [pause(10_000), "10.0".into()],
        ];
        assert_eq!(told, expected.concat());

        // Ten good seconds, and the count begins anew.
        say(&mut life, now, Input::Spawned(8));
        say(&mut life, now, Input::Execed);
        say(&mut life, now, Input::Ready);
        assert_eq!(say(&mut life, now + 10.0, exit(1))[1], pause(100));
    }

    #[test]
    fn not_ready_in_time_is_stopped_and_started_again() {
        run(
            Restart::OnFailure,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (0.1, Input::Execed, &["Started 7"]),
                (29.9, tick(), &[]),
                (
                    30.0,
                    Input::Tick("connect: Connection refused".into()),
                    &[
                        "Failed 7 not ready within 30 s; last seen: connect: Connection refused",
                        "terminate",
                    ],
                ),
                (31.0, Input::Ready, &[]),
                (33.0, tick(), &["kill"]),
                (
                    33.1,
                    exit(0),
                    &["Exited 7 exit status 0", "Backoff 0 starts again in 100 ms"],
                ),
                (33.2, tick(), &["spawn"]),
            ],
        );
    }

    #[test]
    fn not_ready_in_time_without_restart_stays_down() {
        let life = run(
            Restart::Never,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (
                    30.0,
                    tick(),
                    &["Failed 7 not ready within 30 s", "terminate"],
                ),
                (30.1, exit(0), &["Exited 7 exit status 0"]),
            ],
        );
        assert!(life.is_lost());
    }

    #[test]
    fn a_program_that_cannot_start_is_failed_with_the_reason() {
        let why = || Input::SpawnFailed("exec /usr/bin/x: No such file or directory".into());
        let failed = "Failed 0 exec /usr/bin/x: No such file or directory";
        let again = "Backoff 0 starts again in 100 ms";
        run(
            Restart::OnFailure,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (0.0, why(), &[failed, again]),
                (0.1, tick(), &["spawn"]),
                (0.1, why(), &[failed, "Backoff 0 starts again in 200 ms"]),
            ],
        );
        let life = run(
            Restart::Never,
            &[(0.0, Input::DepsReady, &["spawn"]), (0.0, why(), &[failed])],
        );
        assert!(life.is_lost());
    }

    #[test]
    fn a_stop_reaches_every_state() {
        let stopped = |text: &str| vec![format!("Stopped 0 {text}")];
        let mut waiting = life(Restart::Always);
        assert_eq!(
            say(&mut waiting, 0.0, Input::Stop),
            stopped("it had not been started")
        );
        assert_eq!(say(&mut waiting, 0.0, Input::DepsReady), [""; 0]);

        let mut spawning = life(Restart::Always);
        say(&mut spawning, 0.0, Input::DepsReady);
        assert_eq!(say(&mut spawning, 0.0, Input::Stop), [""; 0]);
        assert_eq!(say(&mut spawning, 0.0, Input::Spawned(7)), ["terminate"]);
        assert_eq!(say(&mut spawning, 0.0, Input::Execed), [""; 0]);
        say(&mut spawning, 1.0, exit(0));
        assert!(spawning.is_over());

        let mut backoff = life(Restart::Always);
        say(&mut backoff, 0.0, Input::DepsReady);
        say(&mut backoff, 0.0, Input::SpawnFailed("no".into()));
        assert_eq!(
            say(&mut backoff, 0.0, Input::Stop),
            stopped("it was not running")
        );
        assert_eq!(say(&mut backoff, 9.0, tick()), [""; 0]);
    }

    #[test]
    fn a_process_that_survives_sigkill_holds_nobody_up() {
        let life = run(
            Restart::Always,
            &[
                (0.0, Input::DepsReady, &["spawn"]),
                (0.0, Input::Spawned(7), &[]),
                (0.0, Input::Execed, &["Started 7"]),
                (1.0, Input::Stop, &["terminate"]),
                (4.0, tick(), &["kill"]),
                (8.9, tick(), &[]),
                (
                    9.0,
                    tick(),
                    &["Failed 0 process 7 is still there 5 s after SIGKILL"],
                ),
                (99.0, exit(0), &[]),
            ],
        );
        assert!(life.is_over());
    }

    #[test]
    fn wait_statuses() {
        for (status, expected) in [
            (0, "exit status 0"),
            (3 << 8, "exit status 3"),
            (libc::SIGKILL, "killed by SIGKILL"),
            (libc::SIGSEGV | 0x80, "killed by SIGSEGV"),
            (42, "killed by signal 42"),
        ] {
            assert_eq!(End::from_wait(status).to_string(), expected);
        }
    }
}
