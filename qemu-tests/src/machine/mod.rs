//! One emulated machine: its command line ([`args`]), firmware copy ([`firmware`]),
//! overlay ([`overlay`]), sockets ([`sockets`]), process ([`process`]), monitor ([`qmp`]) and forwarded
//! ports ([`usernet`]), or a start over the network ([`netboot`]), started paused and watched through one channel.

pub(crate) mod args;
#[cfg(test)]
mod args_tests;
pub(crate) mod firmware;
pub(crate) mod hardware;
mod netboot;
pub(crate) mod overlay;
pub(crate) mod process;
pub(crate) mod qmp;
pub(crate) mod sockets;
pub(crate) mod usernet;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::accel::Accel;
use crate::error::HarnessError;
use crate::evidence::Evidence;
use crate::metadata::{Metadata, Server};
use crate::plan::{BootPath, Emulator, Plan};
use args::{Forward, Setup};
use hardware::Hardware;
use overlay::Kept;
use process::Process;
use qmp::{Monitor, MonitorEvent};
use sockets::{Channel, Sockets};

/// How many chunks may wait for the watcher: with [`CHUNK`] the bound on memory.
const QUEUE: usize = 512;
/// How long a reset of a machine that stands still may take.
const RESET: Duration = Duration::from_secs(30);
/// Longest chunk.
const CHUNK: usize = 4096;

/// What comes from the machine.
#[derive(Debug)]
pub(crate) enum Observation {
    /// Bytes of the serial console.
    Console(Vec<u8>),
    /// Bytes of the report channel.
    Report(Vec<u8>),
    /// An event of the monitor.
    Monitor(MonitorEvent),
    /// A channel ended.
    Closed,
    /// The process ended; its status for people.
    Exited(String),
}

/// What differs between a test and an interactive run.
#[derive(Debug, Clone)]
pub(crate) struct Mode {
    /// Ports to forward.
    pub(crate) forwards: Vec<Forward>,
    /// The guest reaches nothing but the harness.
    pub(crate) isolated: bool,
    /// A reboot ends the machine.
    pub(crate) reboot_ends: bool,
    /// What outlives the process: the disk is written to there.
    pub(crate) kept: Option<Arc<Kept>>,
    /// It starts by a BIOS this time, whatever the plan says.
    pub(crate) bios: bool,
    /// The cloud that it wakes up in.
    pub(crate) metadata: Option<Metadata>,
    /// How long the emulator may take until its monitor answers.
    pub(crate) start_limit: Duration,
    /// What differs from the board's machine.
    pub(crate) hardware: Hardware,
}

impl Mode {
    /// The way in.
    pub(crate) fn boot<'a>(&self, plan: &'a Plan) -> &'a BootPath {
        if self.bios {
            &BootPath::Bios
        } else {
            &plan.boot
        }
    }
}

/// A machine that stands still until [`Machine::power_on`].
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) process: Process,
    pub(crate) monitor: Monitor,
    console: UnixStream,
    report: UnixStream,
    observations: Receiver<Observation>,
    /// Of this run, for records on the console.
    pub(crate) nonce: String,
    /// Guest port to host port.
    pub(crate) ports: BTreeMap<u16, u16>,
    open_channels: usize,
    exit_told: bool,
    metadata: Option<Server>,
    _netboot: Option<netboot::Server>,
    // Removed last, when QEMU is gone.
    _overlay: TempDir,
    _run: TempDir,
}

impl Machine {
    /// Starts QEMU, paused, with everything connected.
    pub(crate) fn start(
        plan: &Plan,
        emulator: &Emulator,
        accel: &Accel,
        mode: &Mode,
        evidence: &Evidence,
    ) -> Result<Self, HarnessError> {
        let sockets = Sockets::create()?;
        let run = sockets.dir.path();
        let overlay = tempfile::Builder::new()
            .prefix(".overlay-")
            .tempdir_in(evidence.dir())
            .map_err(HarnessError::io(
                "make a folder for the throw-away overlay in",
                evidence.dir(),
                "check that it can be written and the disk is not full",
            ))?;
        let keep = mode.kept.as_ref().map_or(run, |kept| kept.folder());
        let vars = firmware::copy_vars(mode.boot(plan), emulator, keep)?;
        let netboot = netboot::prepare(plan, &vars)?;
        if let (Some(server), BootPath::Firmware) = (&netboot, mode.boot(plan))
            && plan.emulation.disk == netboot::IPXE
        {
            netboot::lay_out(server, emulator, run)?;
        }
        let disk = mode.kept.as_ref().map(|kept| kept.disk());
        let state = state_disk(plan, keep)?;
        let nonce = nonce()?;
        let setup = Setup {
            plan,
            emulator,
            accel,
            run,
            vars: &vars,
            overlay: disk.as_deref(),
            state: state.as_deref(),
            script: netboot
                .as_ref()
                .filter(|_| plan.emulation.disk == netboot::IPXE)
                .map(netboot::Server::url),
            nonce: &nonce,
            mode,
        };
        let server = emulate(emulator, mode, run)?;
        let argv = args::command_line(&setup);
        let mut environment: Vec<(OsString, OsString)> = emulator
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        environment.push(("TMPDIR".into(), overlay.path().as_os_str().to_owned()));
        evidence.command_line(&environment, &argv)?;
        let mut process = Process::spawn(&process::Start {
            argv: &argv,
            environment: &environment,
            stderr: &evidence.dir().join("qemu.stderr"),
            remove: &[run, overlay.path()],
        })?;
        let deadline = Instant::now() + mode.start_limit;
        let not_started = |how: String| HarnessError::EmulatorStart {
            program: emulator.version.clone(),
            how,
            stderr: evidence.stderr(),
            evidence: evidence.dir().to_owned(),
        };
        let mut connect = |channel| {
            sockets
                .accept(channel, deadline, &mut || process.exited())
                .map_err(not_started)
        };
        let console = connect(Channel::Console)?;
        let report = connect(Channel::Report)?;
        let qmp = connect(Channel::Monitor)?;
        let (sender, observations) = sync_channel(QUEUE);
        watch(&console, Channel::Console, sender.clone())?;
        watch(&report, Channel::Report, sender.clone())?;
        let monitor = Monitor::start(qmp, sender, mode.start_limit).map_err(|error| {
            // QEMU connects before it looks at the rest of its options: its own words say more.
            std::thread::sleep(Duration::from_millis(200));
            match process.exited() {
                Some(status) => not_started(format!("it ended at once with {status}")),
                None => error,
            }
        })?;
        let mut machine = Self {
            process,
            monitor,
            console,
            report,
            observations,
            nonce,
            ports: BTreeMap::new(),
            open_channels: 3,
            exit_told: false,
            metadata: server,
            _netboot: netboot,
            _overlay: overlay,
            _run: sockets.dir,
        };
        machine.learn_ports(mode)?;
        Ok(machine)
    }

    /// The cloud has heard that the machine is ready.
    pub(crate) fn is_reported(&self) -> bool {
        self.metadata.as_ref().is_some_and(Server::is_reported)
    }

    /// Lets the machine run.
    pub(crate) fn power_on(&mut self) -> Result<(), HarnessError> {
        self.monitor.execute("cont", None).map(drop)
    }

    /// The next observation, or none within the time. The process's end is told
    /// after everything that its channels still held.
    pub(crate) fn next(&mut self, wait: Duration) -> Option<Observation> {
        let until = Instant::now() + wait;
        loop {
            // A closed channel is told at once, a process's end by asking.
            let slice = until
                .saturating_duration_since(Instant::now())
                .min(Duration::from_millis(20));
            match self.observations.recv_timeout(slice) {
                Ok(observation) => {
                    if matches!(observation, Observation::Closed) {
                        self.open_channels = self.open_channels.saturating_sub(1);
                    }
                    return Some(observation);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(slice);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !self.exit_told
                && let Some(status) = self.process.exited()
            {
                self.exit_told = true;
                return Some(Observation::Exited(status));
            }
            if Instant::now() >= until {
                return None;
            }
        }
    }

    /// Every channel is at its end and the process has been reaped.
    pub(crate) fn is_over(&self) -> bool {
        self.exit_told && self.open_channels == 0
    }

    /// From now on a guest that ends stands still, with all that it said still to be
    /// read, until [`Machine::start_again`].
    pub(crate) fn hold_at_end(&mut self) -> Result<(), HarnessError> {
        self.set_actions("shutdown", "pause")
    }

    /// Resets a machine that stands still, and lets it run.
    pub(crate) fn start_again(&mut self) -> Result<(), HarnessError> {
        // A reset counts as a reboot: where that ends the machine, even ours would.
        self.set_actions("reset", "pause")?;
        self.monitor.execute("system_reset", None)?;
        // The answer only says that the reset was asked for.
        let until = Instant::now() + RESET;
        while self.monitor.execute("query-status", None)?["status"] == "shutdown" {
            if Instant::now() >= until {
                return Err(HarnessError::Monitor {
                    command: "system_reset".into(),
                    why: format!("no reset in {} s", RESET.as_secs()),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.set_actions("shutdown", "poweroff")?;
        self.power_on()
    }

    /// What QEMU does when the guest reboots, and when it ends.
    fn set_actions(&mut self, reboot: &str, shutdown: &str) -> Result<(), HarnessError> {
        let action = serde_json::json!({ "reboot": reboot, "shutdown": shutdown });
        self.monitor.execute("set-action", Some(action)).map(drop)
    }

    /// Saves what the screen shows, as PNG.
    pub(crate) fn screen(&mut self, path: &Path) -> Result<(), HarnessError> {
        let arguments = serde_json::json!({ "filename": path, "format": "png" });
        self.monitor
            .execute("screendump", Some(arguments))
            .map(drop)
    }

    /// Presses the power button.
    pub(crate) fn press_power(&mut self) -> Result<(), HarnessError> {
        self.monitor.execute("system_powerdown", None).map(drop)
    }

    /// Sends a line to init.
    pub(crate) fn send_report(&mut self, line: &str) -> std::io::Result<()> {
        self.report
            .set_write_timeout(Some(Duration::from_secs(1)))?;
        self.report.write_all(line.as_bytes())?;
        self.report.write_all(b"\n")
    }

    /// Types on the serial console.
    pub(crate) fn send_console(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.console
            .set_write_timeout(Some(Duration::from_secs(1)))?;
        self.console.write_all(bytes)
    }

    /// Ends QEMU if it still runs.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    fn learn_ports(&mut self, mode: &Mode) -> Result<(), HarnessError> {
        if mode.forwards.is_empty() {
            return Ok(());
        }
        let text = self.monitor.human("info usernet")?;
        self.ports = usernet::forwarded_ports(&text);
        for forward in &mode.forwards {
            if !self.ports.contains_key(&forward.guest) {
                return Err(HarnessError::Monitor {
                    command: "info usernet".into(),
                    why: format!(
                        "no forwarded port for guest port {} in {text:?}",
                        forward.guest
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Makes the cloud that the machine wakes up in.
fn emulate(emulator: &Emulator, mode: &Mode, run: &Path) -> Result<Option<Server>, HarnessError> {
    let Some(metadata) = &mode.metadata else {
        return Ok(None);
    };
    metadata.prepare(run)?;
    if !metadata.has_server() || mode.hardware.no_network {
        return Ok(None);
    }
    if emulator.relay.is_empty() {
        return Err(HarnessError::Plan {
            what: "metadata".into(),
            value: metadata.source.name().into(),
            rule: "it needs a relay, and the emulator names none".into(),
            remedy: "set Emulator::relay to a program that calls relay_if_asked".into(),
        });
    }
    Server::start(metadata, run).map(Some)
}

/// Reads a channel in a thread until it ends.
fn watch(
    stream: &UnixStream,
    channel: Channel,
    sender: SyncSender<Observation>,
) -> Result<(), HarnessError> {
    let mut stream = stream.try_clone().map_err(HarnessError::io(
        "duplicate the socket of",
        Path::new(channel.name()),
        "raise the limit of open files",
    ))?;
    std::thread::spawn(move || {
        let mut chunk = [0; CHUNK];
        loop {
            let told = match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => sender.send(match channel {
                    Channel::Console => Observation::Console(chunk[..read].to_vec()),
                    _ => Observation::Report(chunk[..read].to_vec()),
                }),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
                Err(_) => break,
            };
            if told.is_err() {
                return;
            }
        }
        // Nobody may listen any more.
        drop(sender.send(Observation::Closed));
    });
    Ok(())
}

/// The file of the state's own disk: the plan's, or one in `folder`; if it is new, as the plan says.
fn state_disk(plan: &Plan, folder: &Path) -> Result<Option<PathBuf>, HarnessError> {
    let Some(disk) = &plan.state_disk else {
        return Ok(None);
    };
    let own = || folder.join("state.raw");
    let path = disk.file.clone().unwrap_or_else(own);
    if !path.exists() {
        let remedy = "check that it can be written and the disk is not full";
        std::fs::File::create(&path)
            .and_then(|file| {
                file.set_len(disk.bytes)?;
                let mut content = disk.content.iter();
                content.try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))
            })
            .map_err(HarnessError::io("make", &path, remedy))?;
    }
    Ok(Some(path))
}

/// 128 random bits, hexadecimal.
fn nonce() -> Result<String, HarnessError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(HarnessError::io("read", path, "mount a /dev with urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{StateDisk, testing};

    #[test]
    fn a_new_disk_for_the_state_has_what_the_plan_says_and_an_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = testing::plan();
        plan.state_disk = Some(StateDisk {
            serial: String::new(),
            bytes: 1 << 20,
            content: vec![
                (512, b"EFI PART".to_vec()),
                ((1 << 20) - 4, b"end.".to_vec()),
            ],
            file: None,
        });
        let made = state_disk(&plan, folder.path()).unwrap().unwrap();
        let mut bytes = std::fs::read(&made).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert_eq!(bytes[512..520], *b"EFI PART");
        assert_eq!(bytes[(1 << 20) - 4..], *b"end.");
        bytes[512] = b'x';
        std::fs::write(&made, &bytes).unwrap();
        state_disk(&plan, folder.path()).unwrap();
        assert_eq!(std::fs::read(&made).unwrap(), bytes);
    }
}
