//! One service with all that the kernel holds for it: process, pipes, cgroup,
//! notify socket, probe. What it sees becomes [`Input`]s for the state machine.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipform_init::contract::event::Event;
use slipform_init::contract::machine::{Ready, Service};
use slipform_init::contract::service::{Kind, Resources};

use super::cgroup::Cgroup;
use super::env_file;
use super::logs::{Allowance, Capture};
use super::meter::Meter;
use super::notify::{Message, Notify};
use super::ready::Probe;
use super::sockets::Sockets;
use super::state::{End, Input};
use super::vitals::{Verdict, Vitals};
use super::voice::{refusal, voice};
use crate::sys::process::{self, Extra, Failure, Handed, Program};
use crate::turn::Turn;

/// Where services meet the file system.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The cgroup2 mount.
    pub(crate) cgroup: PathBuf,
    /// Folder of the notify sockets.
    pub(crate) notify: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            cgroup: "/sys/fs/cgroup".into(),
            notify: "/run/slipform/notify".into(),
        }
    }
}

/// What lives as long as a process.
#[derive(Debug)]
struct Running {
    pid: i32,
    program: Program,
    /// Which of `pre_start` it is; their number for the service itself.
    stage: usize,
    /// It was told to end.
    told: bool,
    stdout: Capture,
    stderr: Capture,
    /// Until exec is decided.
    outcome: Option<File>,
    failure: Option<String>,
}

/// One service.
#[derive(Debug)]
pub(crate) struct Unit {
    service: Service,
    probe: Probe,
    vitals: Vitals,
    cgroup: Option<Cgroup>,
    meter: Option<Meter>,
    sockets: Sockets,
    notify: Option<Notify>,
    notify_path: PathBuf,
    allowance: Allowance,
    running: Option<Running>,
}

impl Unit {
    /// Takes a service; the text says why it can never start.
    pub(crate) fn new(service: Service, places: &Places) -> (Unit, Result<(), String>) {
        let mut problems = Vec::new();
        let probe = or_note(
            Probe::new(&service.ready).map_err(|error| error.to_string()),
            Probe::never(),
            &mut problems,
        );
        let watchdog = Some(Duration::from_millis(service.watchdog_ms)).filter(|at| !at.is_zero());
        let vitals = or_note(
            Vitals::new(service.health.as_ref(), watchdog).map_err(|error| error.to_string()),
            Vitals::default(),
            &mut problems,
        );
        let notify_path = places.notify.join(&service.name);
        let notifies = service.ready == Ready::Notify || watchdog.is_some();
        let notify = match notifies.then(|| bind(&notify_path, &service)) {
            None => None,
            Some(bound) => or_note(bound.map(Some), None, &mut problems),
        };
        let sockets = Sockets::open(&service.sockets, owner(&service));
        let sockets = or_note(sockets, Sockets::default(), &mut problems);
        let cgroup = Cgroup::create(&places.cgroup, &service.name);
        match &cgroup {
            Some(cgroup) => or_note(cgroup.limit(&service.resources), (), &mut problems),
            None if service.resources == Resources::default() => {}
            None => problems.push("it asks for limits, and there is no cgroup2 at hand".to_owned()),
        }
        let unit = Unit {
            meter: cgroup.as_ref().map(Cgroup::meter),
            service,
            probe,
            vitals,
            cgroup,
            sockets,
            notify,
            notify_path,
            allowance: Allowance::new(Duration::ZERO),
            running: None,
        };
        // What stands in the way of every start is known before the first.
        if let Err(error) = unit.program(unit.service.pre_start.len(), Vec::new()) {
            problems.insert(0, error);
        }
        let possible = problems.into_iter().next().map_or(Ok(()), Err);
        (unit, possible)
    }

    /// The program of a stage: one of `pre_start`, or behind them the service's own.
    fn program(&self, stage: usize, files: Vec<(String, String)>) -> Result<Program, String> {
        let argv = self.service.pre_start.get(stage).map(Vec::as_slice);
        let mut extra = Extra {
            argv,
            defaults: files,
            ..Extra::default()
        };
        if argv.is_none() {
            if self.notify.is_some() {
                let path = self.notify_path.to_string_lossy().into_owned();
                extra.env.push(("NOTIFY_SOCKET".to_owned(), path));
            }
            if self.service.watchdog_ms > 0 {
                let micros = self.service.watchdog_ms.saturating_mul(1000);
                extra
                    .env
                    .push(("WATCHDOG_USEC".to_owned(), micros.to_string()));
                extra.own_ids.push("WATCHDOG_PID");
            }
            let sockets = self.sockets.env();
            if !sockets.is_empty() {
                extra.own_ids.push("LISTEN_PID");
            }
            extra.env.extend(sockets);
        }
        let program = Program::new(&self.service, &extra).map_err(|error| error.to_string())?;
        #[cfg(test)]
        let program = as_whoever_tests(program);
        Ok(program)
    }

    /// What machine.json says of it.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// More environment, before its first start; what is there goes before.
    pub(crate) fn add_environment(&mut self, env: Vec<(String, String)>) {
        for (name, value) in env {
            self.service.env.entry(name).or_insert(value);
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.service.name
    }

    /// Whether `pid` is its process.
    pub(crate) fn is(&self, pid: i32) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.pid == pid)
    }

    /// Starts the process, or the first of those that run before it.
    pub(crate) fn spawn(&mut self) -> Input {
        self.vitals.reset();
        match self.spawn_stage(0) {
            Ok(pid) => Input::Spawned(pid),
            Err(why) => Input::SpawnFailed(why),
        }
    }

    fn spawn_stage(&mut self, stage: usize) -> Result<i32, String> {
        let mut files = Vec::new();
        for path in &self.service.env_files {
            files.extend(env_file::read(path)?);
        }
        let program = self.program(stage, files)?;
        let is_main = stage >= self.service.pre_start.len();
        let handed = Handed {
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.procs().as_fd()),
            sockets: if is_main {
                self.sockets.fds()
            } else {
                Vec::new()
            },
        };
        let child = process::spawn(&program, &handed).map_err(|error| error.to_string())?;
        self.running = Some(Running {
            pid: child.pid,
            program,
            stage,
            told: false,
            stdout: Capture::new(child.stdout),
            stderr: Capture::new(child.stderr),
            outcome: Some(child.outcome),
            failure: None,
        });
        Ok(child.pid)
    }

    /// The stop signal to its process group.
    pub(crate) fn terminate(&mut self) {
        let signal = match self.service.stop_signal {
            0 => libc::SIGTERM,
            signal => signal,
        };
        if let Some(running) = &mut self.running {
            running.told = true;
            // ESRCH: it has just ended, its status is on the way.
            let _ = process::signal_group(running.pid, signal);
        }
    }

    /// SIGKILL to everything that it started.
    pub(crate) fn kill(&self) {
        if self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            return;
        }
        if let Some(running) = &self.running {
            let _ = process::signal_group(running.pid, libc::SIGKILL);
        }
    }

    /// Takes away what stays in the file system when the service is over.
    pub(crate) fn close(&mut self) {
        self.notify = None;
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    /// Descriptors to poll.
    pub(crate) fn fds(&self, out: &mut Vec<libc::pollfd>) {
        let mut add = |fd: RawFd, events: i16| {
            out.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        };
        if let Some(running) = &self.running {
            let outcome = running.outcome.as_ref().map(AsRawFd::as_raw_fd);
            for fd in [outcome, running.stdout.fd(), running.stderr.fd()]
                .into_iter()
                .flatten()
            {
                add(fd, libc::POLLIN);
            }
        }
        if let Some(notify) = &self.notify {
            add(notify.fd(), libc::POLLIN);
        }
        for (fd, events) in self.probe.fd().into_iter().chain(self.vitals.fd()) {
            add(fd, events);
        }
        for fd in self.meter.iter().flat_map(Meter::fds).flatten() {
            add(fd, libc::POLLPRI);
        }
    }

    /// When it wants [`Unit::due`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        [
            self.probe.deadline(),
            self.vitals.deadline(),
            self.allowance.deadline(),
            self.meter.as_ref().and_then(Meter::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A descriptor is ready; false if it is none of this service's.
    pub(crate) fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>, out: &mut Vec<Input>) -> bool {
        if self.notify.as_ref().is_some_and(|notify| notify.fd() == fd) {
            self.read_notifications(turn, out);
            return true;
        }
        if self.probe.fd().is_some_and(|(probe, _)| probe == fd) {
            self.advance_probe(turn.now, out);
            return true;
        }
        if self.vitals.fd().is_some_and(|(probe, _)| probe == fd) {
            let verdict = self.vitals.advance(turn.now);
            self.hear(verdict, turn, out);
            return true;
        }
        let meter = self.meter.as_ref().map_or([None; 2], Meter::fds);
        if meter.contains(&Some(fd)) {
            self.look(turn);
            return true;
        }
        let Some(running) = &mut self.running else {
            return false;
        };
        if running
            .outcome
            .as_ref()
            .is_some_and(|outcome| outcome.as_raw_fd() == fd)
        {
            self.read_outcome(turn.now, out);
            return true;
        }
        let is_stdout = running.stdout.fd() == Some(fd);
        if !is_stdout && running.stderr.fd() != Some(fd) {
            return false;
        }
        let (capture, stream) = if is_stdout {
            (&mut running.stdout, "out")
        } else {
            (&mut running.stderr, "err")
        };
        let mut voice = voice(&self.service, &mut self.allowance, turn);
        let passed = Cell::new(0);
        let more = capture.read(&passed, &mut |line| {
            let out = voice.say(stream, line);
            passed.set(passed.get() + u32::from(out));
        });
        if voice.found {
            out.push(Input::Ready);
        }
        self.allowance.press(turn.now, more);
        true
    }

    /// A deadline has passed.
    pub(crate) fn due(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        if self
            .probe
            .deadline()
            .is_some_and(|deadline| deadline <= turn.now)
        {
            self.advance_probe(turn.now, out);
        }
        if self
            .allowance
            .deadline()
            .is_some_and(|deadline| deadline <= turn.now)
        {
            voice(&self.service, &mut self.allowance, turn).say_lost("out", false);
        }
        if self.vitals.deadline().is_some_and(|at| at <= turn.now) {
            let verdict = self.vitals.advance(turn.now);
            self.hear(verdict, turn, out);
        }
        if self
            .meter
            .as_ref()
            .is_some_and(|meter| meter.is_due(turn.now))
        {
            self.look(turn);
        }
        out.push(Input::Tick(self.probe.seen().to_owned()));
    }

    /// It is ready: its signs of life count from now on.
    pub(crate) fn watch(&mut self, now: Duration) {
        self.vitals.begin(now);
    }

    /// It is not ready any more.
    pub(crate) fn unwatch(&mut self) {
        self.vitals.pause();
    }

    /// Reports what the kernel counted.
    fn look(&mut self, turn: &mut Turn<'_>) {
        let findings = self.meter.as_mut().map(|meter| meter.look(turn.now));
        for finding in findings.into_iter().flatten() {
            turn.report.event(Event::Limit {
                service: self.service.name.clone(),
                kind: finding.kind,
                count: finding.count,
                limit: finding.limit,
                peak: finding.peak,
            });
        }
    }

    /// Reports what the signs of life say, and hands it on.
    fn hear(&mut self, verdict: Option<Verdict>, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        let Some(verdict) = verdict else { return };
        let (healthy, detail) = match verdict {
            Verdict::Well => (true, "its probe is answered again".to_owned()),
            Verdict::Sick(why) => {
                out.push(Input::Unhealthy(why.clone()));
                (false, why)
            }
        };
        turn.report.event(Event::Health {
            service: self.service.name.clone(),
            healthy,
            detail,
        });
    }

    /// Its process was reaped.
    pub(crate) fn ended(&mut self, status: i32, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        // News that came before the end must be told before it.
        self.read_outcome(turn.now, out);
        self.read_notifications(turn, out);
        self.look(turn);
        let Some(running) = self.running.take() else {
            return;
        };
        // Whatever it left behind goes with it, so that the next start finds a clean place.
        if !self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            process::kill_rest_of_group(running.pid);
        }
        self.probe.end();
        self.vitals.pause();
        let mut voice = voice(&self.service, &mut self.allowance, turn);
        for (capture, stream) in [(running.stdout, "out"), (running.stderr, "err")] {
            capture.finish(&mut |line| {
                voice.say(stream, line);
            });
        }
        voice.say_lost("out", true);
        if voice.found {
            out.push(Input::Ready);
        }
        let end = End::from_wait(status);
        let hook = self.service.pre_start.get(running.stage);
        out.push(match (running.failure, hook) {
            (Some(why), _) => Input::SpawnFailed(why),
            (None, Some(_)) if end == End::Status(0) && !running.told => {
                match self.spawn_stage(running.stage + 1) {
                    Ok(pid) => Input::Followed(pid),
                    Err(why) => Input::SpawnFailed(why),
                }
            }
            (None, Some(hook)) if !running.told => {
                let program = hook.first().map_or("", String::as_str);
                Input::SpawnFailed(format!("pre-start {program}: {end}"))
            }
            (None, _) => Input::Exited(end),
        });
    }

    /// It is ready, or being stopped: nothing is probed any more.
    pub(crate) fn end_probe(&mut self) {
        self.probe.end();
    }

    /// Reads whether exec went well. Without an answer yet nothing changes.
    fn read_outcome(&mut self, now: Duration, out: &mut Vec<Input>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(outcome) = &mut running.outcome else {
            return;
        };
        let mut record = [0; 16];
        match outcome.read(&mut record) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return;
            }
            Ok(0) if running.stage < self.service.pre_start.len() => {}
            Ok(0) => {
                out.push(Input::Execed);
                if self.service.ready == Ready::Started && self.service.kind != Kind::Oneshot {
                    out.push(Input::Ready);
                }
                self.probe.begin(now);
            }
            Ok(count) => {
                let failure = Failure::decode(&record[..count]);
                running.failure = Some(match failure {
                    Some(failure) => failure.describe(&running.program),
                    None => "it was not started".into(),
                });
            }
            Err(error) => running.failure = Some(format!("read the outcome of exec: {error}")),
        }
        running.outcome = None;
    }

    fn advance_probe(&mut self, now: Duration, out: &mut Vec<Input>) {
        if self.probe.advance(now) {
            out.push(Input::Ready);
        }
    }

    fn read_notifications(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        let Some(notify) = &self.notify else { return };
        let messages = notify.read();
        for message in messages {
            let own = message.sender.is_some_and(|sender| self.owns(sender));
            let mut voice = voice(&self.service, &mut self.allowance, turn);
            if !own {
                voice.say("notify", refusal(&message));
                continue;
            }
            if let Some(status) = &message.status {
                voice.say("notify", format!("STATUS={status}"));
            }
            if message.stopping {
                voice.say("notify", "STOPPING=1".into());
            }
            self.take_signs(&message, turn, out);
        }
    }

    fn take_signs(&mut self, message: &Message, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        if message.ready && self.service.ready == Ready::Notify {
            out.push(Input::Ready);
        }
        if message.stopping {
            self.vitals.rest();
        }
        if let Some(micros) = message.watchdog {
            self.vitals
                .set_limit(turn.now, Duration::from_micros(micros));
        }
        if message.alive {
            self.vitals.sign(turn.now);
        }
        if message.trigger {
            let verdict = self.vitals.trigger();
            self.hear(verdict, turn, out);
        }
    }

    fn owns(&self, sender: i32) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        sender == running.pid
            || process::session_of(sender) == Some(running.pid)
            || self
                .cgroup
                .as_ref()
                .is_some_and(|cgroup| cgroup.contains(sender))
    }
}

fn bind(socket: &Path, service: &Service) -> Result<Notify, String> {
    Notify::bind(socket, owner(service)).map_err(|error| error.to_string())
}

/// Whose the service's sockets are.
fn owner(service: &Service) -> Option<(u32, u32)> {
    let owner = (service.uid, service.gid);
    #[cfg(test)]
    let owner = (process::effective_uid() == 0).then_some(owner);
    #[cfg(not(test))]
    let owner = Some(owner);
    owner
}

/// The value, or another and a note why.
fn or_note<T>(result: Result<T, String>, instead: T, problems: &mut Vec<String>) -> T {
    result.unwrap_or_else(|problem| {
        problems.push(problem);
        instead
    })
}

/// Tests run as anybody; only root can become somebody else.
#[cfg(test)]
fn as_whoever_tests(mut program: Program) -> Program {
    if process::effective_uid() != 0 {
        program.keep_identity();
    }
    program
}
