//! A machine with a debug layer, run for a person: its console in a pseudo-terminal, and
//! `ps` and `logs` beside it; what it keeps is there in the next run. Two boots by
//! firmware for all of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::common::{Outcome, outcome, write};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use slipform::base::progress::Quiet;
use slipform::pipeline::{Settings, testing};

/// Only reached when something hangs: the machine is emulated, and may share the host.
const LIMIT: Duration = Duration::from_secs(300);

const SPEC: &str = r#"name = "peek"
version = "0.1.0"

[[layer]]
use = "base"

[[layer]]
name = "app"
files = [{ from = "srv", to = "/srv" }]

[[layer]]
use = "debug"

[state]
size = "16MiB"
paths = [{ path = "/var/lib/app", quota = "4MiB" }]

[[service]]
name = "talker"
exec = ["/usr/bin/busybox", "sh", "/srv/talker.sh"]
resources = { memory = "64MiB" }
ready = { log = "talker is up" }
"#;

const TALKER: &str = "echo '<3>this is bad'
echo \"kept: $(/usr/bin/busybox cat /var/lib/app/note)\"
echo talker is up
while /usr/bin/busybox sleep 1; do echo beat; done
";

struct Person {
    folder: tempfile::TempDir,
}

impl Person {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipform"));
        let ordinary = Settings::new(None, None, false, Arc::new(Quiet)).unwrap();
        command
            .args(args)
            .current_dir(self.project())
            .env("SLIPFORM_STORE", ordinary.store().root())
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        outcome(&mut self.command(args))
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("peek")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// `slipform run` with a terminal; killed if it does not end.
struct Machine {
    child: Child,
    keys: File,
    console: Arc<Mutex<String>>,
    stderr: PathBuf,
}

impl Machine {
    fn start(person: &Person) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(Path::new(name.to_str().unwrap()))
            .unwrap();
        let stderr = person.path("stderr");
        let mut child = person
            .command(&["--quiet", "run", "--accel", "tcg", "--state", "state.disk"])
            .stdin(Stdio::from(terminal))
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let console = Arc::new(Mutex::new(String::new()));
        let mut out = child.stdout.take().unwrap();
        let seen = Arc::clone(&console);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Self {
            child,
            keys: File::from(keys),
            console,
            stderr,
        }
    }

    fn console(&self) -> String {
        self.console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for the text on the console, from byte `from` on; where it ends.
    fn until(&mut self, from: usize, text: &str) -> usize {
        let start = Instant::now();
        loop {
            let console = self.console();
            if let Some(at) = console.get(from..).and_then(|rest| rest.find(text)) {
                return from + at + text.len();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                start.elapsed() < LIMIT && ended.is_none(),
                "no {text:?} on the console ({ended:?}): {console}\n{}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_line(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\r").as_bytes()).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_machine_with_a_debug_layer_is_looked_into_from_outside_and_from_its_console() {
    if testing::is_offline() {
        return testing::skipped("a look into a machine");
    }
    let person = Person {
        folder: tempfile::tempdir().unwrap(),
    };
    write(&person.project().join("slipform.toml"), SPEC);
    write(&person.project().join("srv/talker.sh"), TALKER);
    person
        .run(&["ps"])
        .refused(1, &["no machine runs", "slipform run"]);

    let mut machine = Machine::start(&person);
    let banner = machine.until(0, "*** DEBUG IMAGE, not for production *** peek 0.1.0");
    let up = machine.until(banner, "slipform: ready");
    ps_shows_it(&person);
    two_ask_at_once(&person);
    logs_come(&person);
    let at = the_shell_has_a_terminal(&mut machine, up);

    machine.type_line("echo a$((40 + 2)) >/var/lib/app/note");
    // As busybox asks for it: SIGUSR2.
    machine.type_line("poweroff");
    machine.until(at, "signal USR2");
    assert!(
        machine.child.wait().unwrap().success(),
        "{}",
        machine.stderr()
    );
    person
        .run(&["ps", "peek"])
        .refused(2, &["'peek' does not run"]);
    let left = fs::read_dir(person.path("slipform")).unwrap().count();
    assert_eq!(left, 0, "the socket goes with the run");
    let disk = person.project().join("state.disk");
    let inspected = person.run(&["inspect", disk.to_str().unwrap()]).good();
    assert!(
        inspected.stdout.contains("DEBUG IMAGE"),
        "{}",
        inspected.stdout
    );
    the_state_is_kept(&person);
    the_gate_refuses_it(&person);
}

/// The next run on the same file finds what the last one kept. It ends in order: what comes
/// next needs the machine's name, its key and its memory.
fn the_state_is_kept(person: &Person) {
    let mut machine = Machine::start(person);
    let kept = machine.until(0, "kept: a42");
    let up = machine.until(kept, "slipform: ready");
    machine.type_line("poweroff");
    machine.until(up, "signal USR2");
    assert!(
        machine.child.wait().unwrap().success(),
        "{}",
        machine.stderr()
    );
}

fn ps_shows_it(person: &Person) {
    let table = person.run(&["ps"]).good().stdout;
    let line = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {table}")).to_owned()
    };
    assert!(line("peek 0.1.0").ends_with("DEBUG IMAGE"), "{table}");
    assert!(line("talker").contains(" ready "), "{table}");
    assert!(line("talker").contains("of 64.0 MiB"), "{table}");
    assert!(line("debug-console").contains(" ready "), "{table}");
    let kept = line("/var/lib/app");
    assert!(kept.contains(" of 4.0 MiB "), "{table}");
    let all = once_it_has_a_lease(person);
    assert_eq!(all["machine"]["debug"], true, "{all}");
    assert_eq!(all["machine"]["phase"], "running", "{all}");
    let talker = &all["services"][0];
    assert_eq!(talker["name"], "talker", "{all}");
    assert!(
        talker["pid"].as_u64() > Some(1) && talker["processes"].as_u64() >= Some(1),
        "{all}"
    );
    assert!(all["memory"]["available"].as_u64() > Some(1 << 20), "{all}");
    assert_eq!(all["state"][0]["quota"], 4 << 20, "{all}");
    let list = |key: &str| all[key].as_array().cloned().unwrap_or_default();
    let root = list("mounts")
        .into_iter()
        .find(|mount| mount["target"] == "/");
    assert_eq!(root.unwrap()["filesystem"], "overlay", "{all}");
    let wired = list("interfaces")
        .into_iter()
        .find(|link| link["name"] != "lo");
    let addresses = wired.unwrap()["addresses"].to_string();
    assert!(addresses.contains("10.0.2.15/24"), "{addresses}");
    let way = list("routes")
        .into_iter()
        .find(|route| route["to"] == "default" && route["via"] == "10.0.2.2");
    assert!(way.is_some(), "{all}");
    assert!(
        all["dns"]["servers"].to_string().contains("10.0.2.3"),
        "{all}"
    );
    let text = person.run(&["ps", "--network", "--mounts"]).good().stdout;
    assert!(
        text.contains("10.0.2.15/24") && text.contains("MOUNT "),
        "{text}"
    );
    person
        .run(&["ps", "other"])
        .refused(2, &["'other' does not run", "peek"]);
}

/// What the machine says once DHCP has answered. A machine is ready when its services are,
/// so an address may come a moment later, and an IPv6 router may well be the first to speak.
fn once_it_has_a_lease(person: &Person) -> serde_json::Value {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let all = person.run(&["ps", "peek", "--json"]).good().json();
        let said = |key: &str, what: &str| all[key].to_string().contains(what);
        let leased = said("interfaces", "10.0.2.15/24")
            && said("routes", "\"10.0.2.2\"")
            && said("dns", "10.0.2.3");
        if leased || Instant::now() > end {
            break all;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn two_ask_at_once(person: &Person) {
    let ask = || {
        let mut command = person.command(&["ps", "--json"]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    for child in [ask(), ask(), ask()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let names = [&all["services"][0]["name"], &all["services"][1]["name"]];
        assert_eq!(names, ["talker", "debug-console"], "{all}");
    }
}

/// The very image boots and is signed, and still the gate refuses it, until somebody who
/// may write the specification wants it.
fn the_gate_refuses_it(person: &Person) {
    person.run(&["key", "new", "--no-passphrase"]).good();
    let key = person.path(".config/slipform/key.pem");
    let key = key.to_str().unwrap();
    let remote = format!("file://{}", person.path("releases").display());
    let publish = ["--quiet", "publish", "--remote", &remote];
    let test = ["--quiet", "test", "--accel", "tcg"];
    let signed = [&test[..], &["--key", key]].concat();
    person
        .run(&signed)
        .refused(2, &["debug layer", "accept-debug"]);
    person.run(&test).good();
    person
        .run(&publish)
        .refused(1, &["debug layer", "accept-debug"]);
    let accepting = format!("{SPEC}\n[gate]\naccept-debug = true\n");
    write(&person.project().join("slipform.toml"), &accepting);
    // What is wanted is no part of the image: it need not boot again.
    person.run(&publish).good();
    let log = person.run(&["log", "candidate", "--remote", &remote]);
    assert!(log.good().stdout.contains("peek"));
}

fn logs_come(person: &Person) {
    let all = person.run(&["logs"]).good().stdout;
    assert!(all.contains(" slipform: service talker: ready"), "{all}");
    assert!(all.contains(" talker: error: this is bad"), "{all}");
    person
        .run(&["logs", "--service", "web"])
        .refused(2, &["no such service", "talker", "kernel"]);
    let mut follower = person
        .command(&["logs", "--service", "talker", "--lines", "1", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // What was there comes first, whichever it was.
    let beats: Vec<String> = lines.skip(1).take(3).map(Result::unwrap).collect();
    assert!(
        beats.iter().all(|line| line.ends_with(" talker: beat")),
        "{beats:?}"
    );
    follower.kill().unwrap();
    follower.wait().unwrap();
    // One line, which is the last one: the beat goes on.
    let own = person
        .run(&["logs", "--service", "talker", "--json", "-n", "1"])
        .good();
    let line = own.json();
    assert_eq!(
        (&line["service"], &line["line"]),
        (&"talker".into(), &"beat".into())
    );
}

/// Its answers are sums, so that what is typed is no answer.
fn the_shell_has_a_terminal(machine: &mut Machine, from: usize) -> usize {
    machine.type_line("echo $((40 + 2)) of $(tty)");
    let at = machine.until(from, "42 of /dev/");
    // Ctrl-C reaches what runs in front, and the shell goes on.
    machine.type_line("sleep 1000");
    std::thread::sleep(Duration::from_secs(1));
    machine.keys.write_all(b"\x03").unwrap();
    machine.type_line("echo $((50 + 3)) goes on");
    let at = machine.until(at, "53 goes on");
    // It comes back when somebody leaves it.
    machine.type_line("exit");
    let at = machine.until(at, "debug-console: ready");
    machine.type_line("echo $((60 + 4)) is back");
    let at = machine.until(at, "64 is back");
    let console = machine.console();
    assert!(!console.contains("job control turned off"), "{console}");
    at
}
