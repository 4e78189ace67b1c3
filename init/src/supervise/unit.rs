//! One service with all that the kernel holds for it: process, pipes, cgroup,
//! notify socket, probe. What it sees becomes [`Input`]s for the state machine.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipform_init::contract::event::Event;
use slipform_init::contract::machine::{Ready, Service};

use super::cgroup::Cgroup;
use super::logs::{Allowance, Capture};
use super::notify::{Message, Notify};
use super::ready::Probe;
use super::state::{End, Input};
use crate::sys::process::{self, Failure, Program};
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
    program: Option<Program>,
    probe: Probe,
    cgroup: Option<Cgroup>,
    notify: Option<Notify>,
    allowance: Allowance,
    running: Option<Running>,
}

/// Says lines under a service's name, as far as its allowance goes.
struct Voice<'a, 'b> {
    name: &'a str,
    allowance: &'a mut Allowance,
    turn: &'a mut Turn<'b>,
    /// Text that means ready.
    wanted: Option<&'a str>,
    found: bool,
}

impl Voice<'_, '_> {
    fn say(&mut self, stream: &str, line: String) {
        self.found |= self.wanted.is_some_and(|wanted| line.contains(wanted));
        self.say_lost(stream, false);
        if self.allowance.take(self.turn.now, line.len()) {
            self.turn.report.event(Event::Log {
                service: self.name.to_owned(),
                stream: stream.to_owned(),
                line,
            });
        }
    }

    fn say_lost(&mut self, stream: &str, force: bool) {
        if let Some(lost) = self.allowance.lost(self.turn.now, force) {
            let line = format!("[slipform: {lost} lines dropped, the service writes too fast]");
            self.turn.report.event(Event::Log {
                service: self.name.to_owned(),
                stream: stream.to_owned(),
                line,
            });
        }
    }
}

impl Unit {
    /// Takes a service; the text says why it can never start.
    pub(crate) fn new(service: Service, places: &Places) -> (Unit, Result<(), String>) {
        let (probe, probe_error) = match Probe::new(&service.ready) {
            Ok(probe) => (probe, None),
            Err(error) => (Probe::never(), Some(error.to_string())),
        };
        let socket = places.notify.join(&service.name);
        let address = socket.to_string_lossy();
        let notifies = service.ready == Ready::Notify;
        let env: &[(&str, &str)] = if notifies {
            &[("NOTIFY_SOCKET", &*address)]
        } else {
            &[]
        };
        let (program, program_error) = match Program::new(&service, env) {
            Ok(program) => (Some(program), None),
            Err(error) => (None, Some(error.to_string())),
        };
        #[cfg(test)]
        let program = program.map(as_whoever_tests);
        let (notify, notify_error) = match notifies.then(|| bind(&socket, &service)) {
            None => (None, None),
            Some(Ok(notify)) => (Some(notify), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let cgroup = Cgroup::create(&places.cgroup, &service.name);
        let allowance = Allowance::new(Duration::ZERO);
        let unit = Unit {
            service,
            program,
            probe,
            cgroup,
            notify,
            allowance,
            running: None,
        };
        let error = program_error.or(probe_error).or(notify_error);
        (unit, error.map_or(Ok(()), Err))
    }

    /// What machine.json says of it.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// More environment, before its first start.
    pub(crate) fn add_environment(&mut self, env: Vec<(String, String)>) -> Result<(), String> {
        match &mut self.program {
            Some(program) => program
                .add_environment(env)
                .map_err(|error| error.to_string()),
            None => Ok(()),
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

    /// Starts the process.
    pub(crate) fn spawn(&mut self) -> Input {
        let Some(program) = &self.program else {
            return Input::SpawnFailed("it has no program".into());
        };
        let procs = self.cgroup.as_ref().map(|cgroup| cgroup.procs().as_fd());
        match process::spawn(program, procs) {
            Ok(child) => {
                self.running = Some(Running {
                    pid: child.pid,
                    stdout: Capture::new(child.stdout),
                    stderr: Capture::new(child.stderr),
                    outcome: Some(child.outcome),
                    failure: None,
                });
                Input::Spawned(child.pid)
            }
            Err(error) => Input::SpawnFailed(error.to_string()),
        }
    }

    /// SIGTERM to its process group.
    pub(crate) fn terminate(&self) {
        if let Some(running) = &self.running {
            // ESRCH: it has just ended, its status is on the way.
            let _ = process::signal_group(running.pid, libc::SIGTERM);
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
        if let Some((fd, events)) = self.probe.fd() {
            add(fd, events);
        }
    }

    /// When it wants [`Unit::due`].
    pub(crate) fn deadline(&self) -> Option<Duration> {
        [self.probe.deadline(), self.allowance.deadline()]
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
        capture.read(&mut |line| voice.say(stream, line));
        if voice.found {
            out.push(Input::Ready);
        }
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
        out.push(Input::Tick(self.probe.seen().to_owned()));
    }

    /// Its process was reaped.
    pub(crate) fn ended(&mut self, status: i32, turn: &mut Turn<'_>, out: &mut Vec<Input>) {
        // News that came before the end must be told before it.
        self.read_outcome(turn.now, out);
        self.read_notifications(turn, out);
        let Some(running) = self.running.take() else {
            return;
        };
        // Whatever it left behind goes with it, so that the next start finds a clean place.
        if !self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            process::kill_rest_of_group(running.pid);
        }
        self.probe.end();
        let mut voice = voice(&self.service, &mut self.allowance, turn);
        running.stdout.finish(&mut |line| voice.say("out", line));
        running.stderr.finish(&mut |line| voice.say("err", line));
        voice.say_lost("out", true);
        if voice.found {
            out.push(Input::Ready);
        }
        out.push(match running.failure {
            Some(why) => Input::SpawnFailed(why),
            None => Input::Exited(End::from_wait(status)),
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
            Ok(0) => {
                out.push(Input::Execed);
                if self.service.ready == Ready::Started {
                    out.push(Input::Ready);
                }
                self.probe.begin(now);
            }
            Ok(count) => {
                let failure = Failure::decode(&record[..count]);
                running.failure = Some(match (failure, &self.program) {
                    (Some(failure), Some(program)) => failure.describe(program),
                    _ => "it was not started".into(),
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
            if let Some(status) = message.status {
                voice.say("notify", format!("STATUS={status}"));
            }
            if message.stopping {
                voice.say("notify", "STOPPING=1".into());
            }
            if message.ready {
                out.push(Input::Ready);
            }
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

fn refusal(message: &Message) -> String {
    match message.sender {
        Some(sender) => {
            format!("[slipform: message of process {sender} ignored: it is none of this service's]")
        }
        None => "[slipform: message ignored: too long, or without a sender]".into(),
    }
}

fn voice<'a, 'b>(
    service: &'a Service,
    allowance: &'a mut Allowance,
    turn: &'a mut Turn<'b>,
) -> Voice<'a, 'b> {
    let wanted = match &service.ready {
        Ready::Log(text) => Some(text.as_str()),
        _ => None,
    };
    Voice {
        name: &service.name,
        allowance,
        turn,
        wanted,
        found: false,
    }
}

fn bind(socket: &Path, service: &Service) -> Result<Notify, String> {
    let owner = (service.uid, service.gid);
    #[cfg(test)]
    let owner = (process::effective_uid() == 0).then_some(owner);
    #[cfg(not(test))]
    let owner = Some(owner);
    Notify::bind(socket, owner).map_err(|error| error.to_string())
}

/// Tests run as anybody; only root can become somebody else.
#[cfg(test)]
fn as_whoever_tests(mut program: Program) -> Program {
    if process::effective_uid() != 0 {
        program.keep_identity();
    }
    program
}
