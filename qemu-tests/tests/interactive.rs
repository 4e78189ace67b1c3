//! The interactive run in a terminal of its own (a pseudo-terminal) and without
//! one, over the fake emulator: keys, power button, plug, signals, the terminal's
//! settings afterwards, and that nothing outlives a killed harness.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use tempfile::TempDir;

/// Nothing here takes a second; a hang must end.
const LIMIT: Duration = Duration::from_secs(60);

const SHUTDOWN: &str = "qmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\nexit 0";

struct Session {
    _dir: TempDir,
    evidence: PathBuf,
    child: Child,
    lines: Receiver<String>,
}

impl Session {
    fn start(script: &str, stdin: Stdio, publish: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("disk"), b"disk").expect("a disk");
        let script = script.replace("DIR", &dir.path().display().to_string());
        fs::write(path("script"), script).expect("a script");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fake-qemu"))
            .arg("interactive")
            .args([path("disk"), path("evidence")])
            .args(publish)
            .env("FAKE_SCRIPT", path("script"))
            .env("FAKE_BEFORE", "")
            .env("TMPDIR", dir.path())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::from(File::create(path("stderr")).expect("stderr")))
            .spawn()
            .expect("a session");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        Self {
            evidence: path("evidence"),
            _dir: dir,
            child,
            lines,
        }
    }

    /// Reads the console up to a line with the text.
    fn until(&self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => seen.push_str(&line),
                Err(_) => panic!(
                    "the console ended before {text:?}: {seen}; {}",
                    self.stderr()
                ),
            }
        }
        seen
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("kill");
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.evidence.with_file_name("stderr")).unwrap_or_default()
    }

    /// Waits for what `condition` gives.
    fn wait_for<T>(&self, what: &str, condition: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(start.elapsed() < LIMIT, "{what}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Our end, the session's end, and the latter once more to look at.
fn terminal() -> (File, Stdio, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&ours).expect("grantpt");
    unlockpt(&ours).expect("unlockpt");
    let name = ptsname(&ours, Vec::new()).expect("ptsname");
    let name = Path::new(name.to_str().expect("a name")).to_owned();
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .open(&name)
            .expect("the terminal")
    };
    (File::from(ours), Stdio::from(open()), OwnedFd::from(open()))
}

fn is_raw(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal).expect("settings").local_modes;
    !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

#[test]
fn keys_reach_the_guest_and_ctrl_bracket_powers_off() {
    let (mut ours, theirs, look) = terminal();
    assert!(!is_raw(&look));
    let mut session = Session::start(&format!("console login:\necho\n{SHUTDOWN}"), theirs, &[]);
    session.until("login:");
    assert!(is_raw(&look));
    // Ctrl-C is the guest's.
    ours.write_all(b"ls\x03\r").expect("keys");
    session.until("ls\\x03\\r");
    ours.write_all(b"\x1d").expect("keys");
    session.until("END Asked");
    assert!(session.child.wait().expect("an end").success());
    assert!(!is_raw(&look));
    assert!(
        session.stderr().contains("Ctrl-] powers it off"),
        "{}",
        session.stderr()
    );
}

#[test]
fn ctrl_bracket_twice_pulls_the_plug() {
    let (mut ours, theirs, look) = terminal();
    let mut session = Session::start("console up\nhang", theirs, &[]);
    session.until("up");
    ours.write_all(b"\x1d\x1d").expect("keys");
    session.until("END Killed");
    assert!(session.child.wait().expect("an end").success());
    assert!(!is_raw(&look));
}

#[test]
fn signals_power_off_and_the_terminal_is_put_back() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (_ours, theirs, look) = terminal();
        let mut session =
            Session::start(&format!("console up\nwait-power\n{SHUTDOWN}"), theirs, &[]);
        session.until("up");
        assert!(is_raw(&look));
        session.signal(signal);
        session.until("END Asked");
        assert!(session.child.wait().expect("an end").success());
        assert!(!is_raw(&look));
    }
}

#[test]
fn without_a_terminal_the_console_is_only_shown() {
    let session = Session::start(
        &format!("console up\nsleep 100\n{SHUTDOWN}"),
        Stdio::null(),
        &[],
    );
    session.until("END PoweredOff");
    let session = Session::start("console up\nexit 3", Stdio::null(), &[]);
    let seen = session.until("END Died");
    assert!(seen.contains("exit status 3"), "{seen}");
}

#[test]
fn published_ports_are_printed_and_answer() {
    let script = format!("http hello\nconsole up\nwait-power\n{SHUTDOWN}");
    let session = Session::start(&script, Stdio::null(), &["0:8080"]);
    session.until("up");
    let stderr = session.stderr();
    let port = stderr
        .split("http://127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split_once(" -> guest 8080"))
        .map(|(port, _)| port.to_owned())
        .expect("a port");
    let mut stream =
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).expect("a connection");
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("hello"), "{answer}");
    session.signal(Signal::TERM);
    session.until("END Asked");
    let mut session = Session::start("hang", Stdio::null(), &["0:80", "0:80"]);
    session.child.wait().expect("an end");
    assert!(
        session.stderr().contains("can be published once"),
        "{}",
        session.stderr()
    );
}

#[test]
fn a_killed_harness_leaves_no_machine_and_no_folder() {
    let mut session = Session::start("pid DIR/pid\nconsole up\nhang", Stdio::null(), &[]);
    session.until("up");
    let dir = session.evidence.parent().expect("a folder").to_owned();
    let folders = |session: &Session| {
        let below = |dir: &Path| {
            fs::read_dir(dir)
                .map(|entries| entries.flatten().collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let mut all = below(&dir);
        all.extend(below(&session.evidence));
        all.iter()
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with("slipform-") || name.starts_with(".overlay-")
            })
            .count()
    };
    assert_eq!(folders(&session), 2);
    let pid: i32 = fs::read_to_string(dir.join("pid"))
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a process id");
    session.child.kill().expect("kill");
    session.wait_for("the machine outlives the harness", |_| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Gone, or a zombie that nobody reaps in this container.
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    session.wait_for("folders are left", |session| {
        (folders(session) == 0).then_some(())
    });
}
