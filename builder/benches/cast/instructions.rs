//! What init costs in instructions, beside a PID 1 that does nothing and beside
//! busybox' init, on the same kernel: a machine that counts (QEMU's `-icount
//! shift=0,sleep=off`) and whose clock is the count, so that a nanosecond is an
//! instruction whatever the host does. Time that passes idle is counted, too.
//!
//! Disk I/O would spoil it: the image lies in a memory device (NVDIMM), which the
//! kernel reads as it reads memory. Nothing else differs from a real stack: partitions,
//! dm-verity, overlayfs, switch root, a service.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use slipform::base::progress::Quiet;
use slipform::filesystem::Initrd;
use slipform::output::OutputFormat;
use slipform::pipeline::{Locking, Settings, load, testing};
use slipform_init::contract::event::{Event, NONCE_FW_CFG, Phase, Record, ServiceState};
use slipform_qemu_tests::{BootPath, Emulator};

/// As init wants it: letters and digits.
const NONCE: &str = "0123456789abcdef";
/// Seconds that a counted boot may take on the host.
const LIMIT: Duration = Duration::from_secs(180);
/// What an NVDIMM's size must be a multiple of.
const ALIGNMENT: u64 = 128 << 20;

const SPEC: &str = r#"name = "instructions"
version = "1"
boards = ["memory"]

[[layer]]
use = "busybox"

[[service]]
name = "true"
exec = ["/usr/bin/busybox", "true"]
type = "oneshot"
"#;

/// The shipped board, whose disk is memory; its other modules are as shipped. With `late` its
/// late modules are late, else they are loaded as the last of the others.
fn board(late: bool) -> String {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../boards/qemu-x86_64.toml");
    let text = fs::read_to_string(shipped).unwrap();
    let disks = "    \"virtio_blk\",\n    \"nvme\",\n";
    let (head, tail) = text.split_once(disks).unwrap();
    let text = format!("{head}    \"nfit\",\n    \"nd_pmem\",\n{tail}");
    let text = text.replace("name = \"qemu-x86_64\"", "name = \"memory\"");
    if late {
        return text;
    }
    let (before, behind) = text.split_once("late-modules = [").unwrap();
    let (modules, behind) = behind.split_once(']').unwrap();
    // The first list of the file ends where the first line is a bracket alone.
    let (head, tail) = before.split_once("\n]\n").unwrap();
    format!("{head}\n    {modules},\n]\n{tail}late-modules = []{behind}")
}

/// Counts the three, and ours once more with no module late, and tells.
pub(crate) fn measure(folder: &Path) -> String {
    let Some(tools) = testing::tools("bench-busybox", &["busybox-static"])
        .expect("busybox comes from Debian's packages")
    else {
        return String::new();
    };
    let image = Image::cast(&folder.join("instructions"), &board(true));
    let nothing = image.kernel_to_mark(&nothing(folder), "nothing");
    let busybox = image.kernel_to_mark(&busybox(folder, tools.root()), "busybox");
    let ours = image.ours();
    let early = Image::cast(&folder.join("instructions-early"), &board(false)).ours();
    let mut text = String::from("instructions from the kernel's start, 10^6 (icount)\n");
    let mut line = |name: &str, micros: u64| {
        // Writing to a string cannot fail; a microsecond is a thousand instructions.
        let _ = writeln!(text, "{name:52} {:8.1}", micros as f64 / 1e3);
    };
    line("init that does nothing: ready", nothing);
    line("busybox init: its first program runs", busybox);
    line("slipform-init: begins", ours.begin);
    line(
        "slipform-init: kernel modules are loaded, after",
        ours.modules,
    );
    line(
        "slipform-init: its own work up to the service, after",
        ours.own,
    );
    line("slipform-init: service done, all is ready", ours.ready);
    line("the same, no late modules: service starts", early.service);
    line("late modules as shipped: service starts", ours.service);
    line("the same, no late modules: all is ready", early.ready);
    line("late modules as shipped: all is ready", ours.ready);
    let saved = |early: u64, late: u64| (early as f64 - late as f64) / 1e3;
    let _ = writeln!(
        text,
        "late modules save {:.1} million instructions before the service starts, {:.1} before ready",
        saved(early.service, ours.service),
        saved(early.ready, ours.ready),
    );
    let _ = writeln!(
        text,
        "init's own work by the one that does nothing: +{:.1} %  (aim: at most 15 %, beside services); with the modules of a verified stack: +{:.1} %",
        100.0 * ours.own as f64 / nothing as f64,
        100.0 * (ours.modules + ours.own) as f64 / nothing as f64,
    );
    text
}

/// Microseconds of the counting clock.
struct Ours {
    begin: u64,
    modules: u64,
    own: u64,
    service: u64,
    ready: u64,
}

struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
    disk: PathBuf,
    bytes: u64,
    emulator: Emulator,
}

impl Image {
    fn cast(folder: &Path, board: &str) -> Self {
        fs::create_dir_all(folder.join("boards")).unwrap();
        fs::write(folder.join("slipform.toml"), SPEC).unwrap();
        fs::write(folder.join("boards/memory.toml"), board).unwrap();
        let settings = Settings::new(None, None, false, Arc::new(Quiet)).unwrap();
        let image = load(folder).unwrap();
        let lock = settings.lock(&image, &Locking::IfNeeded).unwrap();
        let cast = settings.cast(&image, &lock, "memory").unwrap();
        let disk = folder.join("disk.raw");
        let artifact = settings.write(&cast, OutputFormat::Raw, &disk).unwrap();
        let bytes = artifact.bytes.next_multiple_of(ALIGNMENT);
        File::options()
            .write(true)
            .open(&disk)
            .and_then(|file| file.set_len(bytes))
            .unwrap();
        let BootPath::Direct {
            kernel,
            initrd,
            cmdline,
        } = settings.direct(&cast, folder).unwrap()
        else {
            unreachable!("it was asked for that");
        };
        Self {
            kernel,
            initrd,
            cmdline,
            disk,
            bytes,
            emulator: settings
                .emulator(&image, slipform::base::Arch::TOOLS, "locked")
                .unwrap(),
        }
    }

    /// The machine, with `initrd`; its console is what it prints.
    fn machine(&self, initrd: &Path, with_disk: bool) -> Child {
        let words = &self.emulator.command;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(&self.emulator.env);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-accel",
            "tcg",
            "-icount",
            "shift=0,sleep=off",
            "-rtc",
            "base=2026-01-01T00:00:00,clock=vm",
            "-cpu",
            "Nehalem",
        ]);
        if with_disk {
            let mut memory = OsString::from(format!(
                "memory-backend-file,id=disk,share=off,size={},mem-path=",
                self.bytes
            ));
            memory.push(&self.disk);
            command
                .args(["-machine", "q35,nvdimm=on", "-m", "512M,slots=1,maxmem=4G"])
                .arg("-object")
                .arg(memory)
                .args(["-device", "nvdimm,memdev=disk"]);
        } else {
            command.args(["-machine", "q35", "-m", "512M"]);
        }
        command
            .arg("-fw_cfg")
            .arg(format!("name={NONCE_FW_CFG},string={NONCE}"))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(&self.cmdline)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Boots, hands each line to `each` until it gives something, and ends the machine.
    fn boot<T>(
        &self,
        initrd: &Path,
        with_disk: bool,
        mut each: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let mut machine = self.machine(initrd, with_disk);
        let console = BufReader::new(machine.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let end = Instant::now() + LIMIT;
        let mut seen = String::new();
        let result = loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let _ = writeln!(seen, "{line}");
                    if let Some(result) = each(line.trim_end()) {
                        break Some(result);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break None,
            }
        };
        drop(machine.kill());
        drop(machine.wait());
        result.unwrap_or_else(|| panic!("the counted machine did not come so far:\n{seen}"))
    }

    /// When a PID 1 had the kernel log `@NAME ready`.
    fn kernel_to_mark(&self, initrd: &Path, name: &str) -> u64 {
        let mark = format!("@{name} ready");
        self.boot(initrd, false, |line| {
            let (time, _) = line.strip_prefix('[')?.split_once(']')?;
            let (seconds, micros) = time.trim().split_once('.')?;
            let micros: u64 = line.ends_with(&mark).then(|| micros.parse().ok())??;
            Some(seconds.parse::<u64>().ok()? * 1_000_000 + micros)
        })
    }

    fn ours(&self) -> Ours {
        let prefix = format!("@slipform-{NONCE} ");
        let (mut begin, mut modules, mut loaded, mut service) = (0, 0, 0, 0);
        self.boot(&self.initrd, true, |line| {
            let record: Record = serde_json::from_str(line.strip_prefix(&prefix)?).ok()?;
            match record.event {
                Event::Phase { phase } => match phase {
                    Phase::Start => begin = record.t,
                    Phase::Modules => modules = record.t,
                    Phase::Disk => loaded = record.t,
                    _ => {}
                },
                Event::Service {
                    state: ServiceState::Started,
                    ..
                } => service = record.t,
                Event::Ready { .. } => {
                    return Some(Ours {
                        begin,
                        modules: loaded - modules,
                        own: service - begin - (loaded - modules),
                        service,
                        ready: record.t,
                    });
                }
                _ => {}
            }
            None
        })
    }
}

/// An initrd around one program.
fn initrd(path: &Path, fill: impl FnOnce(&mut Initrd<File>)) -> PathBuf {
    let mut initrd = Initrd::new(File::create(path).unwrap());
    initrd.folder("dev", 0o755).unwrap();
    initrd.device("dev/console", 0o600, 5, 1).unwrap();
    initrd.device("dev/kmsg", 0o600, 1, 11).unwrap();
    fill(&mut initrd);
    initrd.finish().unwrap();
    path.to_owned()
}

fn nothing(folder: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cast/nothing.rs");
    let program = folder.join("nothing");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args([
            "--edition=2024",
            "-Copt-level=z",
            "-Cpanic=abort",
            "-Cstrip=symbols",
        ])
        .args(["-Ctarget-feature=+crt-static", "--crate-name=nothing", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success(), "rustc: {status}");
    initrd(&folder.join("nothing.cpio"), |initrd| {
        initrd
            .file("init", 0o755, &fs::read(&program).unwrap())
            .unwrap();
    })
}

fn busybox(folder: &Path, tools: &Path) -> PathBuf {
    let places = ["usr/bin/busybox", "bin/busybox"].map(|place| tools.join(place));
    let program = places.iter().find(|place| place.is_file()).unwrap();
    let bytes = fs::read(program).unwrap();
    initrd(&folder.join("busybox.cpio"), |initrd| {
        initrd.file("init", 0o755, &bytes).unwrap();
        initrd.folder("bin", 0o755).unwrap();
        initrd.symlink("bin/sh", "/init").unwrap();
        initrd.folder("etc", 0o755).unwrap();
        let table = b"::sysinit:/bin/sh -c 'echo \"<1>@busybox ready\" > /dev/kmsg'\n";
        initrd.file("etc/inittab", 0o644, table).unwrap();
    })
}
