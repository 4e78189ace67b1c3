//! A machine without the harness, whose report channel the test itself holds: for
//! what the harness never does, such as asking for a reboot.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use slipform_init::contract::event::{Event, NONCE_FW_CFG, REPORT_PORT, Record};
use slipform_qemu_tests::{BootPath, Plan};

use super::lab::emulator;

/// Only reached when something hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// Which way init's records come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// By the virtio-serial port.
    Port,
    /// There is no port: by the console, with this nonce.
    Console(&'a str),
}

/// What differs from a machine that leaves no trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// The disk's file is written to.
    pub(crate) writes: bool,
    /// Files of further disks, and their serial numbers; empty: they have none.
    pub(crate) disks: Vec<(PathBuf, String)>,
    /// Ports of the host's loopback, and the guest's ports that they lead to.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// `-netdev` of another network than QEMU's own.
    pub(crate) netdev: Option<String>,
    /// Hardware address, where there are two machines on a link.
    pub(crate) mac: Option<String>,
    /// A second interface, on a network of QEMU's of its own.
    pub(crate) second_nic: bool,
    /// Places to plug something in later: a PCI Express slot, and USB.
    pub(crate) places: bool,
}

impl Extra {
    fn more_disks(&self) -> Vec<String> {
        let words = |(number, (file, serial)): (usize, &(PathBuf, String))| {
            let named = if serial.is_empty() { "" } else { ",serial=" };
            [
                "-drive".to_owned(),
                format!("if=none,id=more{number},format=raw,file={}", file.display()),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive=more{number}{named}{serial}"),
            ]
        };
        self.disks.iter().enumerate().flat_map(words).collect()
    }

    fn second_nic(&self) -> &'static [&'static str] {
        let nic = &[
            "-netdev",
            "user,id=net2",
            "-device",
            "virtio-net-pci,netdev=net2,id=nic2,romfile=",
        ];
        if self.second_nic { nic } else { &[] }
    }

    fn places(&self) -> &'static [&'static str] {
        let places = &[
            "-device",
            "pcie-root-port,id=place,chassis=1",
            "-device",
            "qemu-xhci,id=usb",
        ];
        if self.places { places } else { &[] }
    }

    fn mac(&self) -> String {
        let mac = self.mac.as_ref();
        mac.map_or_else(String::new, |mac| format!(",mac={mac}"))
    }

    fn network(&self) -> String {
        if let Some(netdev) = &self.netdev {
            return netdev.clone();
        }
        let forwards = self
            .forwards
            .iter()
            .map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        format!("user,id=net{}", forwards.collect::<String>())
    }
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    lines: Receiver<String>,
    prefix: String,
    monitor: PathBuf,
    pub(crate) records: Vec<Record>,
}

impl Machine {
    /// Starts a direct boot of `plan`. QEMU ends when the guest reboots.
    pub(crate) fn start(plan: &Plan, way: Way<'_>) -> Self {
        Self::start_with(plan, way, &Extra::default())
    }

    /// The same with what differs.
    pub(crate) fn start_with(plan: &Plan, way: Way<'_>, extra: &Extra) -> Self {
        let BootPath::Direct {
            kernel,
            initrd,
            cmdline,
        } = &plan.boot
        else {
            panic!("the plan boots by firmware");
        };
        let mut command = Self::command(plan, extra);
        command
            .args(["-action", "reboot=shutdown"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", cmdline]);
        Self::run(plan, command, way)
    }

    /// Starts `plan` by firmware, with variables of its own that live as long as QEMU.
    /// The guest reboots as it wants, and has a watchdog.
    pub(crate) fn start_by_firmware(plan: &Plan) -> Self {
        let emulator = emulator();
        let vars = plan.disk.with_file_name("vars");
        std::fs::copy(&emulator.firmware_vars, &vars).expect("a copy of the variables");
        let mut command = Self::command(plan, &Extra::default());
        let code = emulator.firmware_code.display();
        command
            .arg("-drive")
            .arg(format!(
                "if=pflash,unit=0,format=raw,readonly=on,file={code}"
            ))
            .arg("-drive")
            .arg(format!(
                "if=pflash,unit=1,format=raw,file={}",
                vars.display()
            ))
            .args(["-device", "i6300esb"]);
        Self::run(plan, command, Way::Port)
    }

    fn command(plan: &Plan, extra: &Extra) -> Command {
        let emulator = emulator();
        let mut command = Command::new(&emulator.command[0]);
        command
            .args(&emulator.command[1..])
            .envs(&emulator.env)
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-machine", "q35", "-accel", "tcg", "-m", "512M"])
            .args(["-cpu", &plan.emulation.cpu])
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=raw,snapshot={},file={}",
                if extra.writes { "off" } else { "on" },
                plan.disk.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .args(extra.more_disks())
            // The harness's network is closed, and then QEMU's server names no name server.
            .arg("-netdev")
            .arg(extra.network())
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net,id=nic,romfile={}",
                extra.mac()
            ))
            .args(extra.second_nic())
            .args(extra.places());
        command
    }

    fn run(plan: &Plan, mut command: Command, way: Way<'_>) -> Self {
        let monitor = plan.disk.with_file_name("monitor");
        command
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(["-chardev", "stdio,id=report,signal=off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let prefix = match way {
            Way::Port => {
                let port = format!("virtserialport,chardev=report,name={REPORT_PORT}");
                command.args(["-device", "virtio-serial-pci", "-device", &port]);
                String::new()
            }
            Way::Console(nonce) => {
                let nonce_file = format!("name={NONCE_FW_CFG},string={nonce}");
                command.args(["-serial", "chardev:report", "-fw_cfg", &nonce_file]);
                format!("@slipform-{nonce} ")
            }
        };
        let mut child = command.spawn().expect("the emulator starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            prefix,
            monitor,
            records: Vec::new(),
        }
    }

    /// Takes records until one is `wanted`; false if the machine ended before, or does not
    /// come to it in time, whatever else it tells meanwhile.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> bool {
        let end = Instant::now() + LIMIT;
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            let Some(record) = line.trim_end().strip_prefix(&self.prefix) else {
                continue;
            };
            let record: Record =
                serde_json::from_str(record).unwrap_or_else(|error| panic!("{error}: {line}"));
            let found = wanted(&record.event);
            self.records.push(record);
            if found {
                return true;
            }
        }
        false
    }

    /// The same, unless one was there already.
    pub(crate) fn was_or_until(&mut self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.records.iter().any(|record| wanted(&record.event)) || self.until(wanted)
    }

    /// Says a line on the report channel.
    pub(crate) fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("its input");
        input
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| input.flush())
            .expect("the channel is open");
    }

    /// Presses the power button.
    pub(crate) fn press_power(&self) {
        self.monitor("system_powerdown");
    }

    /// Pulls the network cable, or puts it back.
    pub(crate) fn set_link(&self, up: bool) {
        self.monitor(if up {
            "set_link nic on"
        } else {
            "set_link nic off"
        });
    }

    /// Takes the file of a further disk away: whatever the guest reads or writes there fails.
    pub(crate) fn take_away_disk(&self, number: usize) {
        self.monitor(&format!("drive_del more{number}"));
    }

    /// A command of QEMU's human monitor, which must not be refused.
    pub(crate) fn order(&self, command: &str) {
        let answer = self.monitor(command);
        assert!(!answer.contains("Error"), "{command}: {answer}");
    }

    fn monitor(&self, command: &str) -> String {
        let mut monitor = UnixStream::connect(&self.monitor).expect("the monitor");
        monitor
            .write_all(format!("{command}\n").as_bytes())
            .expect("a command");
        // Whoever hangs up before the answer may not be heard.
        monitor
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        let mut answer = Vec::new();
        let mut monitor = BufReader::new(monitor);
        while monitor
            .read_until(b')', &mut answer)
            .is_ok_and(|read| read > 0)
        {
            if answer.windows(6).filter(|part| part == b"(qemu)").count() == 2 {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Takes the records that are there.
    pub(crate) fn take_waiting(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            if let Some(record) = line.trim_end().strip_prefix(&self.prefix) {
                self.records
                    .extend(serde_json::from_str::<Record>(record).ok());
            }
        }
    }

    /// Takes what is left; the machine must end by itself.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<Record>) {
        self.until(|_| false);
        let status = self.child.wait().expect("its status");
        (status, std::mem::take(&mut self.records))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
