//! The supervisor with real processes. As root they change user and rights; elsewhere
//! they run as the caller, and the tests of rights say that they were skipped.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use slipform_init::contract::event::{Event, ServiceState};
use slipform_init::contract::machine::{Ready, Restart, Service};

use super::Supervisor;
use super::unit::Places;
use crate::sys::process::{effective_uid, testing};
pub(super) use crate::turn::Events;
use crate::turn::{Turn, Watched};

/// Far beyond anything that a loaded machine needs; only a broken supervisor gets here.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) supervisor: Supervisor,
    pub(super) events: Events,
    began: Instant,
    pub(super) folder: PathBuf,
}

pub(super) fn service(name: &str, script: &str) -> Service {
    // As nobody in particular: root keeps its id unless a test says otherwise.
    Service {
        name: name.into(),
        exec: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        uid: effective_uid(),
        gid: 0,
        groups: Vec::new(),
        workdir: "/".into(),
        restart: Restart::Never,
        ready: Ready::Started,
        ready_timeout_ms: 50_000,
        after: Vec::new(),
        capabilities: Vec::new(),
        limits: BTreeMap::new(),
        stop_timeout_ms: 10_000,
        ..Service::default()
    }
}

impl Bench {
    pub(super) fn new(test: &str, services: Vec<Service>) -> Bench {
        let folder = std::env::temp_dir().join(format!("slipform-{test}-{}", std::process::id()));
        let places = Places {
            cgroup: folder.join("no-cgroup"),
            notify: folder.join("notify"),
        };
        let supervisor = Supervisor::at(services, &places);
        let mut bench = Bench {
            supervisor,
            events: Events::default(),
            began: Instant::now(),
            folder,
        };
        bench.turn(Supervisor::start);
        bench
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Supervisor, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now: self.began.elapsed(),
            report: &mut self.events,
        };
        act(&mut self.supervisor, &mut turn)
    }

    /// The event loop, until `done`.
    pub(super) fn until(&mut self, what: &str, done: impl Fn(&Bench) -> bool) {
        while !done(self) {
            assert!(
                self.began.elapsed() < PATIENCE,
                "{what}: not reached; events: {:#?}",
                self.events.0
            );
            let mut fds = Vec::new();
            self.supervisor.fds(&mut fds);
            let now = self.began.elapsed();
            let wait = self
                .supervisor
                .deadline()
                .map_or(Duration::from_millis(20), |at| at.saturating_sub(now));
            testing::poll(&mut fds, wait.min(Duration::from_millis(20)));
            for fd in fds.iter().filter(|fd| fd.revents != 0) {
                self.turn(|supervisor, turn| supervisor.ready(fd.fd, turn));
            }
            self.reap();
            self.turn(Watched::tick);
        }
    }

    fn reap(&mut self) {
        let pids: Vec<i32> = self.pids();
        for pid in pids {
            if let Some(status) = testing::ended(pid) {
                self.turn(|supervisor, turn| assert!(supervisor.child_ended(pid, status, turn)));
            }
        }
    }

    fn pids(&self) -> Vec<i32> {
        let all = 0..self.supervisor.units.len();
        all.filter_map(|number| self.supervisor.fleet.life(number)?.pid())
            .collect()
    }

    pub(super) fn states(&self, service: &str) -> Vec<(ServiceState, &str)> {
        let of = |event: &'_ Event| matches!(event, Event::Service { name, .. } if name == service);
        let states = self.events.0.iter().filter(|event| of(event));
        states
            .filter_map(|event| match event {
                Event::Service { state, detail, .. } => Some((*state, detail.as_str())),
                _ => None,
            })
            .collect()
    }

    pub(super) fn saw(&self, service: &str, wanted: ServiceState) -> bool {
        self.states(service)
            .iter()
            .any(|(state, _)| *state == wanted)
    }

    pub(super) fn log(&self, service: &str, stream: &str) -> Vec<&str> {
        let lines = self.events.0.iter().filter_map(|event| match event {
            Event::Log {
                service: of,
                stream: on,
                line,
            } if of == service && on == stream => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    pub(super) fn stop(&mut self) {
        self.turn(Supervisor::stop);
        self.until("stopped", |bench| bench.supervisor.stopped());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = crate::sys::process::signal_group(pid, libc::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn output_comes_line_by_line_and_the_last_one_without_its_end() {
    let mut bench = Bench::new(
        "output",
        vec![service("a", "echo one; echo two >&2; printf three")],
    );
    bench.until("done", |bench| bench.saw("a", ServiceState::Stopped));
    assert_eq!(bench.log("a", "out"), ["one", "three"]);
    assert_eq!(bench.log("a", "err"), ["two"]);
    assert!(bench.supervisor.all_ready());
    let states: Vec<ServiceState> = bench.states("a").iter().map(|(state, _)| *state).collect();
    let expected = [
        ServiceState::Started,
        ServiceState::Ready,
        ServiceState::Exited,
        ServiceState::Stopped,
    ];
    assert_eq!(states, expected);
}

#[test]
fn the_child_starts_clean() {
    let script = "ls -l /proc/self/fd | grep -c . ; umask; cat /proc/self/oom_score_adj; readlink /proc/self/fd/0; \
                  pwd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ps -o sid= $$ >/dev/null 2>&1; echo $X-$Y; \
                  grep NoNewPrivs /proc/self/status; ulimit -n; ulimit -c";
    let mut one = service("a", script);
    one.workdir = "/usr".into();
    one.env.insert("X".into(), "x y".into());
    one.limits = BTreeMap::from([(libc::RLIMIT_NOFILE, 99), (libc::RLIMIT_CORE, 0)]);
    let mut bench = Bench::new("clean", vec![one]);
    bench.until("done", |bench| bench.saw("a", ServiceState::Exited));
    let log = bench.log("a", "out");
    // `total`, the three standard streams and the folder that ls itself reads.
    assert_eq!(log[0], "5", "{log:?}");
    assert_eq!(&log[1..5], ["0022", "0", "/dev/null", "/usr"], "{log:?}");
    assert!(log[5].ends_with("0000000000000000"), "blocked: {}", log[5]);
    assert!(log[6].ends_with("0000000000000000"), "ignored: {}", log[6]);
    assert_eq!(log[8], "x y-");
    assert_eq!(log[9].split_whitespace().last(), Some("1"));
    assert_eq!(&log[10..], ["99", "0"]);
}

#[test]
fn what_cannot_start_says_why_and_hurts_nobody() {
    let mut missing = service("missing", "");
    missing.exec = vec!["/nonexistent/program".into()];
    let mut folder = service("folder", "true");
    folder.workdir = "/nonexistent".into();
    let mut relative = service("relative", "");
    relative.exec = vec!["sh".into()];
    let mut nul = service("nul", "a\0b");
    nul.env.insert("A".into(), "b".into());
    let script = std::env::temp_dir().join(format!("slipform-script-{}", std::process::id()));
    fs::write(&script, "#!/nonexistent/interpreter\n").expect("script");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("mode");
    let mut loader = service("loader", "");
    loader.exec = vec![script.to_string_lossy().into_owned()];
    let good = service("good", "exec sleep 600");

    let mut bench = Bench::new("cannot", vec![missing, folder, relative, nul, loader, good]);
    bench.until("all have failed", |bench| {
        ["missing", "folder", "relative", "nul", "loader"]
            .iter()
            .all(|name| bench.saw(name, ServiceState::Failed))
            && bench.saw("good", ServiceState::Ready)
    });
    for (name, expected) in [
        (
            "missing",
            "exec /nonexistent/program: No such file or directory",
        ),
        ("folder", "chdir /nonexistent: No such file or directory"),
        (
            "relative",
            "exec = \"sh\": the program must be an absolute path; correct the service in slipform.toml",
        ),
        (
            "nul",
            "argument \"a\\0b\": must not contain a NUL byte; correct the service in slipform.toml",
        ),
    ] {
        assert_eq!(
            bench.states(name),
            [(ServiceState::Failed, expected)],
            "{name}"
        );
    }
    let loader = bench.states("loader");
    assert!(
        loader[0]
            .1
            .ends_with("its loader or the interpreter after #! is not)"),
        "{loader:?}"
    );
    bench.stop();
    fs::remove_file(&script).expect("clean up");
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let mut first = service("first", "sleep 0.1; echo up and running; exec sleep 600");
    first.ready = Ready::Log("up and".into());
    let mut second = service("second", "exec sleep 600");
    second.after = vec!["first".into()];
    let mut bench = Bench::new("order", vec![second, first]);
    bench.until("ready", |bench| bench.supervisor.all_ready());
    bench.stop();
    let steps: Vec<String> = bench
        .events
        .0
        .iter()
        .filter_map(|event| match event {
            Event::Service { name, state, .. } if *state != ServiceState::Exited => {
                Some(format!("{name} {state:?}"))
            }
            _ => None,
        })
        .collect();
    let expected = [
        "second Waiting",
        "first Started",
        "first Ready",
        "second Started",
        "second Ready",
        "second Stopped",
        "first Stopped",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_crashing_service_is_started_again() {
    let mut one = service("a", "echo start; kill -SEGV $$");
    one.restart = Restart::OnFailure;
    let mut bench = Bench::new("crash", vec![one]);
    bench.until("three starts", |bench| bench.log("a", "out").len() >= 3);
    assert!(
        bench
            .states("a")
            .contains(&(ServiceState::Exited, "killed by SIGSEGV"))
    );
    assert!(
        bench
            .states("a")
            .contains(&(ServiceState::Backoff, "starts again in 100 ms"))
    );
    bench.stop();
}

#[test]
fn who_ignores_sigterm_is_killed_with_its_children() {
    let mut one = service("a", "trap '' TERM; sleep 600 & echo $!; wait; sleep 600");
    one.stop_timeout_ms = 100;
    let mut bench = Bench::new("stubborn", vec![one]);
    bench.until("child", |bench| !bench.log("a", "out").is_empty());
    let child = bench.log("a", "out")[0].to_owned();
    bench.stop();
    assert!(
        bench
            .states("a")
            .contains(&(ServiceState::Exited, "killed by SIGKILL"))
    );
    // A killed child is a zombie of whoever adopted it, or gone.
    bench.until("the child is gone, too", |_| {
        match fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.contains(") Z") || !stat.contains("(sleep)"),
            Err(_) => true,
        }
    });
}

#[test]
fn not_ready_in_time_is_failed_with_what_was_seen() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address").port()
    };
    let mut one = service("a", "exec sleep 600");
    one.ready = Ready::Tcp(format!("127.0.0.1:{port}"));
    one.ready_timeout_ms = 300;
    let mut bench = Bench::new("late", vec![one]);
    bench.until("failed", |bench| bench.saw("a", ServiceState::Failed));
    let expected =
        format!("not ready within 0.3 s; last seen: connect 127.0.0.1:{port}: Connection refused");
    assert!(
        bench
            .states("a")
            .contains(&(ServiceState::Failed, &expected)),
        "{:?}",
        bench.states("a")
    );
    bench.until("down", |bench| bench.saw("a", ServiceState::Exited));
    assert!(!bench.supervisor.all_ready());
}

#[test]
fn a_flood_of_output_starves_nobody() {
    let flood = service(
        "flood",
        "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
    );
    let mut quiet = service("quiet", "sleep 0.2; echo I live; exec sleep 600");
    quiet.ready = Ready::Log("I live".into());
    let mut bench = Bench::new("flood", vec![flood, quiet]);
    bench.until("ready", |bench| bench.supervisor.all_ready());
    bench.until("a loss is told", |bench| {
        bench
            .log("flood", "out")
            .iter()
            .any(|line| line.starts_with("[slipform: ") && line.contains("lines dropped"))
    });
    bench.stop();
}

/// The test's own program as a service: it speaks the protocol of sd_notify.
pub(super) fn talker(name: &str) -> Service {
    let mut one = service(name, "");
    let own = std::env::current_exe().expect("own path");
    one.exec = vec![
        own.to_string_lossy().into_owned(),
        "--exact".into(),
        "supervise::tests::speaks_sd_notify_when_asked".into(),
        "--nocapture".into(),
    ];
    one
}

#[test]
fn notifications_count_from_the_service_only() {
    let mut one = talker("talker");
    one.ready = Ready::Notify;
    let mut bench = Bench::new("notify", vec![one]);
    // The test itself is none of the service's processes.
    let socket = bench.folder.join("notify/talker");
    let stranger = std::os::unix::net::UnixDatagram::unbound().expect("socket");
    stranger.send_to(b"READY=1", &socket).expect("send");
    bench.until("refused", |bench| {
        bench
            .log("talker", "notify")
            .iter()
            .any(|line| line.contains("ignored"))
    });
    assert!(!bench.saw("talker", ServiceState::Ready));
    fs::write(bench.folder.join("go"), "").expect("the sign to go on");
    bench.until("ready", |bench| bench.supervisor.all_ready());
    bench.until("done", |bench| bench.saw("talker", ServiceState::Stopped));
    assert!(bench.log("talker", "notify").contains(&"STATUS=warming up"));
    assert!(!socket.exists(), "the socket goes with the service");
}

#[test]
fn speaks_sd_notify_when_asked() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from) else {
        return;
    };
    let go = socket
        .parent()
        .and_then(|folder| folder.parent())
        .expect("folders")
        .join("go");
    while !go.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let client = std::os::unix::net::UnixDatagram::unbound().expect("socket");
    let Ok(talk) = std::env::var("TALK") else {
        client
            .send_to(b"STATUS=warming up\nREADY=1", &socket)
            .expect("send");
        return;
    };
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    let own = text("WATCHDOG_PID") == std::process::id().to_string();
    #[allow(clippy::print_stdout)]
    {
        println!("WATCHDOG_USEC={} own={own}", text("WATCHDOG_USEC"));
    }
    for word in talk.split(' ') {
        match word {
            "wait" => std::thread::sleep(Duration::from_secs(1000)),
            _ => client
                .send_to(word.as_bytes(), &socket)
                .map(|_| ())
                .expect("send"),
        }
    }
}

/// Needs root: on another host it says that it was skipped.
#[test]
#[allow(clippy::print_stderr)]
fn privileges_are_dropped_to_what_was_asked() {
    if effective_uid() != 0 {
        eprintln!("SKIPPED privileges_are_dropped_to_what_was_asked: needs root");
        return;
    }
    let script = "grep -E '^(Uid|Gid|Groups|Cap[A-Za-z]+|NoNewPrivs):' /proc/self/status; echo again >/dev/stdout";
    let mut one = service("a", script);
    (one.uid, one.gid, one.groups) = (12_345, 23_456, vec![34_567, 45_678]);
    one.capabilities = vec![10];
    let mut plain = service("plain", script);
    (plain.uid, plain.gid) = (12_345, 23_456);
    let mut bench = Bench::new("rights", vec![one, plain]);
    bench.until("done", |bench| {
        ["a", "plain"]
            .iter()
            .all(|name| bench.saw(name, ServiceState::Exited))
    });
    for (name, caps, groups) in [
        ("a", "0000000000000400", "34567 45678"),
        ("plain", "0000000000000000", ""),
    ] {
        let log: Vec<String> = bench
            .log(name, "out")
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "Uid: 12345 12345 12345 12345".to_owned(),
            "Gid: 23456 23456 23456 23456".to_owned(),
            format!("Groups: {groups}").trim().to_owned(),
            format!("CapInh: {caps}"),
            format!("CapPrm: {caps}"),
            format!("CapEff: {caps}"),
            format!("CapBnd: {caps}"),
            format!("CapAmb: {caps}"),
            "NoNewPrivs: 1".to_owned(),
            "again".to_owned(),
        ];
        assert_eq!(log, expected, "{name}: {:?}", bench.states(name));
    }
}

#[test]
fn strange_children_are_not_ours() {
    let mut bench = Bench::new("strange", vec![service("a", "true")]);
    let status = std::process::ExitStatus::from_raw(0).into_raw();
    assert!(!bench.turn(|supervisor, turn| supervisor.child_ended(1, status, turn)));
    assert!(!bench.turn(|supervisor, turn| supervisor.child_ended(-1, status, turn)));
    bench.until("done", |bench| bench.saw("a", ServiceState::Exited));
}
