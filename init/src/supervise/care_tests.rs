//! What services are given and kept from, with real processes on this host.

use std::fs;

use slipform_init::contract::event::{Event, ServiceState};
use slipform_init::contract::machine::{Ready, Restart};
use slipform_init::contract::service::{Health, Kind, Socket, SocketAddress, Then};

use super::tests::{Bench, service, talker};

fn health(events: &[Event]) -> Vec<&str> {
    let events = events.iter().filter_map(|event| match event {
        Event::Health { detail, .. } => Some(detail.as_str()),
        _ => None,
    });
    events.collect()
}

#[test]
fn hooks_run_in_their_order_and_one_that_fails_keeps_the_service_down() {
    let hook = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let mut good = service("good", "echo three");
    good.pre_start = vec![hook("echo one"), hook("echo two")];
    let mut bad = service("bad", "echo never");
    bad.pre_start = vec![hook("echo one"), hook("exit 4"), hook("echo never")];
    let mut slow = service("slow", "echo never");
    slow.pre_start = vec![hook("echo waits; exec sleep 1000")];
    let mut bench = Bench::new("hooks", vec![good, bad, slow]);
    bench.until("done", |bench| {
        bench.saw("good", ServiceState::Stopped)
            && bench.saw("bad", ServiceState::Failed)
            && bench.log("slow", "out") == ["waits"]
    });
    assert_eq!(bench.log("good", "out"), ["one", "two", "three"]);
    assert_eq!(bench.log("bad", "out"), ["one"]);
    let why = (ServiceState::Failed, "pre-start /bin/sh: exit status 4");
    assert_eq!(bench.states("bad").last(), Some(&why));
    // A stop during a hook ends it, and nothing follows.
    bench.stop();
    assert_eq!(bench.log("slow", "out"), ["waits"]);
    assert!(!bench.saw("slow", ServiceState::Started));
}

#[test]
fn environment_comes_from_files_at_each_start() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("env");
    fs::write(&path, "A=1\nB=file\n").expect("write");
    let mut one = service("a", "echo $A-$B; echo A=2 >$F; exit 1");
    one.env.insert("B".into(), "own".into());
    one.env
        .insert("F".into(), path.to_string_lossy().into_owned());
    one.env_files = vec![path.to_string_lossy().into_owned()];
    one.restart = Restart::OnFailure;
    let mut missing = service("b", "echo never");
    missing.env_files = vec!["/nonexistent/env".into()];
    let mut bench = Bench::new("env", vec![one, missing]);
    bench.until("twice", |bench| bench.log("a", "out").len() == 2);
    assert_eq!(bench.log("a", "out"), ["1-own", "2-own"]);
    let states = bench.states("b");
    assert!(
        states
            .iter()
            .any(|(_, why)| why.contains("env-file /nonexistent/env")),
        "{states:?}"
    );
    bench.stop();
}

#[test]
fn sockets_are_handed_over_from_three_on() {
    let script = "[ $LISTEN_PID = $$ ] && echo own; echo $LISTEN_FDS $LISTEN_FDNAMES; ls /proc/self/fd | wc -l; \
                  readlink /proc/self/fd/3 | cut -d: -f1; readlink /proc/self/fd/4 | cut -d: -f1";
    let mut one = service("a", script);
    let socket = |name: &str| Socket {
        name: name.into(),
        address: SocketAddress::Tcp("127.0.0.1:0".into()),
    };
    one.sockets = vec![socket("x"), socket("y")];
    let mut bench = Bench::new("sockets", vec![one]);
    bench.until("done", |bench| bench.saw("a", ServiceState::Stopped));
    // Standard streams, two sockets, and the folder that ls reads.
    assert_eq!(
        bench.log("a", "out"),
        ["own", "2 x:y", "6", "socket", "socket"]
    );
}

#[test]
fn the_filter_is_on_unless_it_is_opted_out_of() {
    let script =
        "grep '^Seccomp:' /proc/self/status; unshare -U true 2>/dev/null && echo free || echo kept";
    let mut open = service("open", script);
    open.sandbox.unfiltered = true;
    let mut bench = Bench::new("filter", vec![service("kept", script), open]);
    bench.until("done", |bench| {
        bench.saw("kept", ServiceState::Stopped) && bench.saw("open", ServiceState::Exited)
    });
    assert_eq!(bench.log("kept", "out"), ["Seccomp:\t2", "kept"]);
    assert_eq!(bench.log("open", "out")[0].trim_end(), "Seccomp:\t0");
}

#[test]
fn a_timer_ticks_and_a_oneshot_holds_up_its_followers() {
    let mut timer = service("timer", "echo tick");
    timer.kind = Kind::Every(200);
    let mut once = service("once", "sleep 0.3; echo work");
    once.kind = Kind::Oneshot;
    let mut then = service("then", "echo after");
    then.after = vec!["once".into()];
    let mut bench = Bench::new("kinds", vec![timer, once, then]);
    bench.until("ticks", |bench| bench.log("timer", "out").len() >= 3);
    bench.until("after", |bench| bench.saw("then", ServiceState::Stopped));
    let place = |name: &str, state: ServiceState| {
        bench.events.0.iter().position(
            |event| matches!(event, Event::Service { name: n, state: s, .. } if n == name && *s == state),
        )
    };
    assert!(place("once", ServiceState::Stopped) < place("then", ServiceState::Started));
    bench.stop();
}

#[test]
fn who_does_not_say_that_it_lives_is_restarted() {
    let mut one = talker("talker");
    one.ready = Ready::Notify;
    one.watchdog_ms = 300;
    one.restart = Restart::OnFailure;
    one.env
        .insert("TALK".into(), "READY=1 WATCHDOG=1 WATCHDOG=1 wait".into());
    let mut bench = Bench::new("watchdog", vec![one]);
    fs::write(bench.folder.join("go"), "").expect("the sign to go on");
    bench.until("restarted", |bench| {
        bench.saw("talker", ServiceState::Backoff)
    });
    assert_eq!(health(&bench.events.0), ["no WATCHDOG=1 within 0.3 s"]);
    assert!(
        bench
            .log("talker", "out")
            .iter()
            .any(|line| line.contains("WATCHDOG_USEC=300000 own=true"))
    );
    bench.stop();
}

#[test]
fn a_probe_that_fails_ends_in_a_reboot_when_restarts_do_not_help() {
    let mut one = service("a", "exec sleep 1000");
    one.restart = Restart::Always;
    one.health = Some(Health {
        // Nobody listens there: the port was only just given back.
        probe: Ready::Tcp(closed()),
        interval_ms: 100,
        timeout_ms: 1000,
        failures: 2,
        restarts: 1,
        within_ms: 60_000,
        then: Then::Reboot,
    });
    let mut bench = Bench::new("health", vec![one]);
    bench.until("lost", |bench| bench.saw("a", ServiceState::Failed));
    assert!(bench.supervisor.take_reboot());
    assert!(!bench.supervisor.take_reboot(), "once");
    let said = health(&bench.events.0);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with("2 probes in a row failed, last: connect"),
        "{said:?}"
    );
    assert!(said[2].ends_with("the machine starts again"), "{said:?}");
}

fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").to_string()
}
