//! How services and the machine are looked after: what may be said, and what not.

use std::fs;
use std::time::Duration;

use slipform_init::contract::machine::Ready as Probe;
use slipform_init::contract::service::{
    Health, Kind, MachineHealth, Resources, SocketAddress, StartLimit, Then,
};

use super::*;

const HEAD: &str = "name = \"app\"\nversion = \"1\"\n";
const LAYER: &str = "[[layer]]\nname = \"app\"\n";

fn load_text(text: &str) -> Result<Image, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SPEC_FILE), text).unwrap();
    load(dir.path()).map_err(|error| error.to_string())
}

fn service(text: &str) -> Result<ServiceSpec, String> {
    let text = format!("{HEAD}{LAYER}[[service]]\nname = \"web\"\nexec = [\"/w\"]\n{text}");
    load_text(&text).map(|mut image| image.services.remove(0))
}

#[test]
fn everything_at_once() {
    let spec = service(
        r#"
stop-signal = "SIGQUIT"
pre-start = [["/bin/a", "x"], ["/bin/b"]]
env-file = ["/etc/app.env"]
start-limit = { starts = 5, then = "reboot" }
resources = { memory = "64MiB", cpu = "150%", pids = 40, read = "1MiB", write-ops = 100 }
sandbox = { private-tmp = true, read-only = true, writable = ["/var/lib/app/"], seccomp = false }
sockets = [{ name = "http", tcp = "0.0.0.0:80" }, { name = "app", unix = "/run/app.sock" }]
watchdog = "30s"
health = { http = "http://127.0.0.1/ok", interval = "5s", failures = 2, restarts = 0, within = "10min", then = "give-up" }
"#,
    )
    .unwrap();
    assert_eq!(spec.stop_signal, 3);
    assert_eq!(spec.pre_start.len(), 2);
    assert_eq!(spec.env_files, ["/etc/app.env"]);
    let limit = StartLimit {
        starts: 5,
        then: Then::Reboot,
    };
    assert_eq!(spec.start_limit, Some(limit));
    let resources = Resources {
        memory: 64 << 20,
        cpu_milli: 1500,
        pids: 40,
        read_bytes: 1 << 20,
        write_ops: 100,
        ..Resources::default()
    };
    assert_eq!(spec.resources, resources);
    assert!(spec.sandbox.private_tmp && spec.sandbox.read_only && spec.sandbox.unfiltered);
    assert_eq!(spec.sandbox.writable, ["/var/lib/app"]);
    let addresses: Vec<_> = spec.sockets.iter().map(|socket| &socket.address).collect();
    let expected = [
        &SocketAddress::Tcp("0.0.0.0:80".to_owned()),
        &SocketAddress::Unix("/run/app.sock".to_owned()),
    ];
    assert_eq!(addresses, expected);
    assert_eq!(spec.watchdog, Some(Duration::from_secs(30)));
    let health = Health {
        probe: Probe::Http("http://127.0.0.1:80/ok".to_owned()),
        interval_ms: 5000,
        timeout_ms: 5000,
        failures: 2,
        restarts: 0,
        within_ms: 600_000,
        then: Then::GiveUp,
    };
    assert_eq!(spec.health, Some(health));
}

#[test]
fn what_is_not_said_is_the_contracts_default() {
    let spec = service("").unwrap();
    let contract = slipform_init::contract::machine::Service::default();
    assert_eq!(spec.kind, contract.kind);
    assert_eq!(spec.resources, contract.resources);
    assert_eq!(spec.sandbox, contract.sandbox);
    assert_eq!((spec.stop_signal, spec.watchdog), (0, None));
    assert_eq!(
        service("every = \"1h\"\n").unwrap().kind,
        Kind::Every(3_600_000)
    );
    assert_eq!(service("type = \"oneshot\"\n").unwrap().kind, Kind::Oneshot);
}

#[test]
fn each_mistake_is_told_with_its_remedy() {
    for (text, expected) in [
        ("stop-signal = \"SIGTREM\"\n", "did you mean 'SIGTERM'?"),
        ("pre-start = [[]]\n", "a program is empty"),
        (
            "pre-start = [[\"a\"]]\n",
            "pre-start: 'a' is no path in the image",
        ),
        (
            "env-file = [\"etc/env\"]\n",
            "env-file: 'etc/env' is no path",
        ),
        (
            "start-limit = { starts = 0, then = \"reboot\" }\n",
            "0 must be from 1 to 100",
        ),
        (
            "start-limit = { starts = 3, then = \"panic\" }\n",
            "unknown value 'panic'",
        ),
        (
            "resources = { memory = \"1KiB\" }\n",
            "'1KiB' is too little",
        ),
        ("resources = { memoy = \"1GiB\" }\n", "memoy"),
        (
            "resources = { cpu = \"0.5\" }\n",
            "'0.5' is no share of a processor",
        ),
        ("resources = { cpu = \"0%\" }\n", "'0%' is no share"),
        ("resources = { pids = 0 }\n", "0 would stop it"),
        (
            "sandbox = { writable = [\"/a\"] }\n",
            "needs read-only = true",
        ),
        (
            "sandbox = { read-only = true, writable = [\"/\"] }\n",
            "'/' is everything",
        ),
        (
            "sockets = [{ name = \"a\" }]\n",
            "exactly one of tcp, udp and unix",
        ),
        (
            "sockets = [{ name = \"a\", tcp = \"web:80\" }]\n",
            "socket a: 'web:80' is no address",
        ),
        (
            "sockets = [{ name = \"a b\", tcp = \"127.0.0.1:80\" }]\n",
            "socket name: 'a b' is no name",
        ),
        ("watchdog = \"1ms\"\n", "'1ms' is too short"),
        (
            "watchdog = \"1s\"\nrestart = \"never\"\n",
            "restart = \"never\" forbids it",
        ),
        (
            "health = { interval = \"1s\" }\n",
            "exactly one of tcp and http",
        ),
        (
            "health = { tcp = \"127.0.0.1:1\", failures = 0 }\n",
            "health.failures: 0 must be",
        ),
        (
            "health = { tcp = \"127.0.0.1:1\", interval = \"1ms\" }\n",
            "'1ms' is too short",
        ),
        ("every = \"1h\"\ntype = \"oneshot\"\n", "leave out `type`"),
        ("every = \"10ms\"\n", "must be a second at least"),
        (
            "every = \"1h\"\nrestart = \"always\"\n",
            "a timer's next run is its restart",
        ),
        (
            "type = \"oneshot\"\nrestart = \"always\"\n",
            "a oneshot that ended well is done",
        ),
        (
            "type = \"oneshot\"\nready = { notify = true }\n",
            "ready by what it does",
        ),
        (
            "type = \"oneshot\"\nwatchdog = \"10s\"\n",
            "for a service that keeps running",
        ),
    ] {
        let error = service(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let timer = format!(
        "{HEAD}{LAYER}[[service]]\nname = \"a\"\nexec = [\"/a\"]\nevery = \"1h\"\n[[service]]\nname = \"b\"\nexec = [\"/b\"]\nafter = [\"a\"]\n"
    );
    let error = load_text(&timer).unwrap_err();
    assert!(
        error.contains("'b' is after 'a', which is a timer"),
        "{error}"
    );
}

#[test]
fn the_machines_own_health() {
    let load = |text: &str| load_text(&format!("{HEAD}{LAYER}[health]\n{text}"));
    let image = load("").unwrap();
    assert_eq!(
        (image.health, image.panic_seconds),
        (MachineHealth::default(), 10)
    );
    let image =
        load("watchdog = \"0s\"\npanic = \"1min\"\nboots = 5\nhealthy-after = \"2min\"\n").unwrap();
    let expected = MachineHealth {
        watchdog_seconds: 0,
        boots: 5,
        healthy_seconds: 120,
    };
    assert_eq!((image.health, image.panic_seconds), (expected, 60));
    for (text, expected) in [
        (
            "watchdog = \"1s\"\n",
            "'1s' must be whole seconds from 5 to 600",
        ),
        ("watchdog = \"5500ms\"\n", "must be whole seconds"),
        (
            "panic = \"0s\"\n",
            "'0s' must be whole seconds from 1 to 3600",
        ),
        ("boots = 0\n", "health.boots: 0 must be from 1 to 100"),
        ("watchdgo = \"1s\"\n", "watchdgo"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
