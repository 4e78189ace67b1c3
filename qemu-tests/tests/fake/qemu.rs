//! Plays QEMU and a guest for the harness's own tests: takes QEMU's arguments,
//! connects the same sockets, speaks QMP, and does what the script says whose path
//! is in the environment variable `FAKE_SCRIPT`, one step a line:
//!
//! | step | does |
//! |---|---|
//! | `console TEXT` | a line on the console (`\e` is ESC) |
//! | `event JSON` | a record on the report channel, `t` added |
//! | `console-event JSON` | the same on the console, with the run's nonce |
//! | `report TEXT` | a line on the report channel as it is |
//! | `flood console`, `flood report` | text without end |
//! | `http BODY` | answers GETs on every forwarded port from now on |
//! | `tcp FROM TO` | answers chunks that contain FROM with TO on every forwarded port from now on |
//! | `qmp NAME JSON` | an event of the monitor with this data |
//! | `wait-power`, `wait-report` | until the power button, or a line on the report channel |
//! | `wait-start` | until the machine is reset and let go again |
//! | `screen` | from now on there is a screen to take pictures of |
//! | `echo` | what is typed on the console comes back, until the power button |
//! | `trace SECTOR COUNT` | a read of the disk, in the file of `-D` if there is one |
//! | `lives PATH N` | goes on the first N times, then hangs; PATH keeps the count |
//! | `touch PATH`, `pid PATH` | writes to a file that is there; writes its process id |
//! | `sleep MS`, `hang`, `exit CODE`, `abort` | |
//!
//! `FAKE_BEFORE` is done before anything is connected. `fake-qemu interactive …`
//! calls the harness's interactive run on itself, for tests with a terminal.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the forwarded ports answer: none is silence.
type Answers = Arc<Mutex<Vec<(String, String)>>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().map(String::as_str) == Some("interactive") {
        return interactive(&arguments[1..]);
    }
    for step in env::var("FAKE_BEFORE").unwrap_or_default().lines() {
        if let Some(words) = step.strip_prefix("stderr ") {
            std::io::stderr().write_all(format!("{words}\n").as_bytes())?;
        } else {
            generic(step.trim())?;
        }
    }
    if arguments.iter().any(|word| word == "-bios") {
        return probe(&arguments);
    }
    let mut machine = Machine::connect(&arguments)?;
    machine.power_on.recv()?;
    let path = std::path::PathBuf::from(env::var("FAKE_SCRIPT")?);
    let script = std::fs::read_to_string(&path)?;
    // A machine that is started again does what the next script says.
    let next = path.with_extension("1");
    if next.exists() {
        std::fs::rename(next, &path)?;
    }
    for step in script.lines() {
        machine.step(step.trim())?;
    }
    Ok(())
}

/// The accelerator's probe: `FAKE_PROBE` is what the guest writes, and `FAKE_RUNNING`
/// what the monitor says afterwards.
fn probe(arguments: &[String]) -> Result<()> {
    let socket = |id: &str| -> Result<UnixStream> {
        let start = format!("socket,id={id},path=");
        let path = arguments
            .iter()
            .find_map(|word| word.strip_prefix(&start))
            .ok_or("no chardev")?;
        Ok(UnixStream::connect(path)?)
    };
    if !arguments.windows(2).any(|pair| pair == ["-accel", "kvm"]) {
        return Err("no kvm".into());
    }
    let (mut console, mut monitor) = (socket("console")?, socket("qmp")?);
    console.write_all(env::var("FAKE_PROBE")?.as_bytes())?;
    monitor.write_all(b"{\"QMP\": {}}\r\n")?;
    let running = env::var("FAKE_RUNNING")? == "yes";
    for line in BufReader::new(monitor.try_clone()?).lines() {
        let command: Value = serde_json::from_str(&line?)?;
        let status = json!({"running": running, "status": if running { "running" } else { "internal-error" }});
        monitor.write_all(
            format!("{}\r\n", json!({"return": status, "id": command["id"]})).as_bytes(),
        )?;
    }
    Ok(())
}

/// Steps that need no machine.
fn generic(step: &str) -> Result<()> {
    let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
    match verb {
        "" => {}
        "sleep" => thread::sleep(Duration::from_millis(rest.parse()?)),
        "hang" => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        "exit" => exit(rest.parse()?),
        "abort" => std::process::abort(),
        "touch" => {
            OpenOptions::new().write(true).open(rest)?.write_all(b"x")?;
        }
        "lives" => {
            let (path, limit) = rest.split_once(' ').ok_or("lives PATH N")?;
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let count = text.trim().parse::<u32>().unwrap_or(0) + 1;
            std::fs::write(path, count.to_string())?;
            if count > limit.parse()? {
                return generic("hang");
            }
        }
        "pid" => std::fs::write(rest, std::process::id().to_string())?,
        _ => return Err(format!("no step: {step}").into()),
    }
    Ok(())
}

#[allow(clippy::exit, reason = "the status is what is played")]
fn exit(code: i32) {
    std::process::exit(code);
}

struct Machine {
    console: UnixStream,
    report: UnixStream,
    monitor: UnixStream,
    power_on: Receiver<()>,
    power_button: Receiver<()>,
    nonce: String,
    answers: Answers,
    trace: Option<String>,
    has_screen: Arc<AtomicBool>,
    t: u64,
}

impl Machine {
    fn connect(arguments: &[String]) -> Result<Self> {
        let socket = |id: &str| -> Result<UnixStream> {
            let start = format!("socket,id={id},path=");
            let path = arguments.iter().find_map(|word| word.strip_prefix(&start));
            Ok(UnixStream::connect(
                path.ok_or_else(|| format!("no chardev {id}"))?,
            )?)
        };
        let nonce = arguments
            .iter()
            .find_map(|word| word.strip_prefix("name=opt/org.slipform/nonce,string="))
            .ok_or("no nonce")?
            .to_owned();
        let answers = Answers::default();
        let ports = forward(arguments, &answers)?;
        let (console, report, monitor) = (socket("console")?, socket("report")?, socket("qmp")?);
        let (started, power_on) = channel();
        let (pressed, power_button) = channel();
        let stream = monitor.try_clone()?;
        let has_screen = Arc::new(AtomicBool::new(false));
        let screen = Arc::clone(&has_screen);
        thread::spawn(move || serve_monitor(stream, &ports, &started, &pressed, &screen));
        Ok(Self {
            console,
            report,
            monitor,
            power_on,
            power_button,
            nonce,
            answers,
            trace: arguments
                .windows(2)
                .find_map(|pair| (pair[0] == "-D").then(|| pair[1].clone())),
            has_screen,
            t: 0,
        })
    }

    fn step(&mut self, step: &str) -> Result<()> {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "console" => self
                .console
                .write_all(format!("{}\r\n", rest.replace("\\e", "\x1b")).as_bytes())?,
            "event" => {
                let line = self.record(rest)?;
                self.report.write_all(line.as_bytes())?;
            }
            "console-event" => {
                let record = self.record(rest)?;
                let line = format!("@slipform-{} {record}", self.nonce);
                self.console.write_all(line.as_bytes())?;
            }
            "report" => self.report.write_all(format!("{rest}\n").as_bytes())?,
            "flood" => {
                let stream = if rest == "console" {
                    &mut self.console
                } else {
                    &mut self.report
                };
                let block = [b'x'; 65536];
                loop {
                    stream.write_all(&block)?;
                }
            }
            "http" => self.answer("GET ", &format!("HTTP/1.0 200 OK\r\n\r\n{rest}")),
            "tcp" => {
                let (from, to) = rest.split_once(' ').ok_or("tcp FROM TO")?;
                self.answer(from, &format!("{to}\r\n"));
            }
            "qmp" => {
                let (name, data) = rest.split_once(' ').ok_or("qmp NAME JSON")?;
                let data: Value = serde_json::from_str(data)?;
                self.monitor.write_all(
                    format!("{}\r\n", json!({"event": name, "data": data})).as_bytes(),
                )?;
            }
            "trace" => {
                let (sector, count) = rest.split_once(' ').ok_or("trace SECTOR COUNT")?;
                if let Some(path) = &self.trace {
                    let line = format!(
                        "virtio_blk_handle_read vdev 0x1 req 0x2 sector {sector} nsectors {count}\n"
                    );
                    let mut options = OpenOptions::new();
                    let mut file = options.create(true).append(true).open(path)?;
                    file.write_all(line.as_bytes())?;
                }
            }
            "wait-power" => self.power_button.recv()?,
            "wait-start" => self.power_on.recv()?,
            "screen" => self.has_screen.store(true, Ordering::Relaxed),
            "wait-report" => {
                let mut line = String::new();
                BufReader::new(self.report.try_clone()?).read_line(&mut line)?;
            }
            "echo" => {
                let mut stream = self.console.try_clone()?;
                thread::spawn(move || -> std::io::Result<()> {
                    let mut keys = [0; 64];
                    loop {
                        let read = stream.read(&mut keys)?;
                        let typed = format!("typed {}\r\n", keys[..read].escape_ascii());
                        stream.write_all(typed.as_bytes())?;
                    }
                });
                self.power_button.recv()?;
            }
            _ => generic(step)?,
        }
        Ok(())
    }

    fn record(&mut self, text: &str) -> Result<String> {
        let mut record: Value = serde_json::from_str(text)?;
        self.t += 1000;
        record["t"] = self.t.into();
        Ok(format!("{record}\n"))
    }

    fn answer(&self, from: &str, to: &str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((from.to_owned(), to.to_owned()));
    }
}

/// Listens for every `hostfwd`; guest port to host port.
fn forward(arguments: &[String], answers: &Answers) -> Result<BTreeMap<u16, u16>> {
    let mut ports = BTreeMap::new();
    let netdev = arguments
        .iter()
        .find(|word| word.starts_with("user,id=net0"))
        .ok_or("no netdev")?;
    for part in netdev
        .split(',')
        .filter_map(|part| part.strip_prefix("hostfwd=tcp:127.0.0.1:"))
    {
        let (host, guest) = part.split_once("-:").ok_or("hostfwd")?;
        let listener = TcpListener::bind(("127.0.0.1", host.parse()?))?;
        ports.insert(guest.parse()?, listener.local_addr()?.port());
        let answers = Arc::clone(answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answers = Arc::clone(&answers);
                thread::spawn(move || serve_port(stream, &answers));
            }
        });
    }
    Ok(ports)
}

fn serve_port(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&chunk[..read]).into_owned();
        let answer = {
            let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers
                .iter()
                .find(|(from, _)| text.contains(from))
                .map(|(_, to)| to.clone())
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        stream.write_all(answer.as_bytes())?;
        if answer.starts_with("HTTP/") {
            return Ok(());
        }
    }
}

fn serve_monitor(
    mut stream: UnixStream,
    ports: &BTreeMap<u16, u16>,
    started: &Sender<()>,
    pressed: &Sender<()>,
    screen: &AtomicBool,
) -> Option<()> {
    let mut send = {
        let mut stream = stream.try_clone().ok()?;
        move |value: &Value| stream.write_all(format!("{value}\r\n").as_bytes()).ok()
    };
    send(
        &json!({"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}}, "capabilities": []}}),
    )?;
    let (mut may_reset, mut was_reset) = (false, false);
    let reader = BufReader::new(&mut stream);
    for line in reader.lines() {
        let command: Value = serde_json::from_str(&line.ok()?).ok()?;
        let mut answer = json!({"return": {}, "id": command["id"]});
        if command["execute"] == "human-monitor-command" {
            let mut text = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n".to_owned();
            for (guest, host) in ports {
                text.push_str(&format!("  TCP[HOST_FORWARD]  13       127.0.0.1 {host}       10.0.2.15  {guest}     0     0\r\n"));
            }
            answer["return"] = text.into();
        }
        // As QEMU does it: where a reboot ends the machine, a reset is no reset.
        match command["execute"].as_str()? {
            "set-action" => may_reset = command["arguments"]["reboot"] == "reset",
            "system_reset" => was_reset = may_reset,
            "query-status" => {
                let status = if was_reset { "prelaunch" } else { "shutdown" };
                answer["return"] = json!({ "status": status });
            }
            _ => {}
        }
        if command["execute"] == "screendump" {
            if screen.load(Ordering::Relaxed) {
                std::fs::write(command["arguments"]["filename"].as_str()?, b"PNG").ok()?;
            } else {
                answer = json!({"error": {"desc": "no surface"}, "id": command["id"]});
            }
        }
        send(&answer)?;
        // Answered first: the script may end the process at once.
        match command["execute"].as_str()? {
            "cont" => started.send(()).ok()?,
            "system_powerdown" => pressed.send(()).ok()?,
            _ => {}
        }
    }
    Some(())
}

/// `fake-qemu interactive DISK EVIDENCE [HOST:GUEST …]`: prints how the run ended.
fn interactive(arguments: &[String]) -> Result<()> {
    use slipform_qemu_tests::{
        Accel, AccelKind, BootPath, DiskFormat, Emulation, Emulator, Plan, RunOptions,
        run_interactive,
    };
    let [disk, evidence, publish @ ..] = arguments else {
        return Err("DISK EVIDENCE".into());
    };
    let mut plan = Plan {
        name: "hello".into(),
        image: "sha256:00".into(),
        disk: disk.into(),
        format: DiskFormat::Raw,
        sector_size: 512,
        emulation: Emulation {
            machine: "q35".into(),
            cpu: "Nehalem".into(),
            processors: 1,
            memory_mib: 256,
            disk: "virtio-blk".into(),
            network: "virtio-net".into(),
        },
        boot: BootPath::Direct {
            kernel: disk.into(),
            initrd: disk.into(),
            cmdline: String::new(),
        },
        also_bios: false,
        layers: Vec::new(),
        checks: Vec::new(),
        ready_limit: Duration::from_secs(20),
        allowances: Vec::new(),
        run: RunOptions::default(),
        publish: Vec::new(),
        state_disk: None,
        evidence: evidence.into(),
    };
    for pair in publish {
        let (host, guest) = pair.split_once(':').ok_or("HOST:GUEST")?;
        plan.publish.push((host.parse()?, guest.parse()?));
    }
    let emulator = Emulator {
        command: vec![env::current_exe()?.into()],
        env: BTreeMap::new(),
        firmware_code: disk.into(),
        firmware_vars: disk.into(),
        ipxe: None,
        relay: Vec::new(),
        version: "fake".into(),
    };
    let accel = Accel {
        kind: AccelKind::Tcg,
        slowdown: 1.0,
    };
    let end = run_interactive(&plan, &emulator, accel, None)?;
    std::io::stdout().write_all(format!("END {end:?}\n").as_bytes())?;
    Ok(())
}
