//! Services that use all that init offers, and services that are hostile, in one
//! machine: the others and init stay well.
//!
//! TCG only.

use std::time::Duration;

use crate::support::lab::{is_nightly, slot};
use crate::support::project::Project;
use crate::support::wire::{Machine, Way};
use slipform_init::contract::event::{EndReason, Event, LimitKind, Record, ServiceState};

/// What a machine said, and what it is looked for.
struct Told<'a>(&'a [Record]);

impl<'a> Told<'a> {
    fn lines(&self, wanted: &str) -> Vec<&'a str> {
        let lines = self.0.iter().filter_map(|record| match &record.event {
            Event::Log { service, line, .. } if service == wanted => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    #[track_caller]
    fn says(&self, service: &str, expected: &[&str]) {
        let lines = self.lines(service);
        for line in expected {
            assert!(
                lines
                    .iter()
                    .any(|said| said.split_whitespace().eq(line.split_whitespace())),
                "{service} did not say {line:?}: {lines:#?}\n{}",
                self.service(service).join("\n")
            );
        }
    }

    /// All states of a service, with their details.
    fn service(&self, wanted: &str) -> Vec<String> {
        let events = self.0.iter().filter_map(|record| match &record.event {
            Event::Service {
                name,
                state,
                detail,
                ..
            } if name == wanted => Some(format!("{state:?} {detail}")),
            _ => None,
        });
        events.collect()
    }

    fn limits(&self, wanted: &str) -> Vec<(LimitKind, u64, u64, u64)> {
        let events = self.0.iter().filter_map(|record| match &record.event {
            Event::Limit {
                service,
                kind,
                count,
                limit,
                peak,
            } if service == wanted => Some((*kind, *count, *limit, *peak)),
            _ => None,
        });
        events.collect()
    }
}

/// Resident memory of init as it said at `ready`.
fn resident(records: &[Record]) -> u64 {
    let kib = records.iter().find_map(|record| match record.event {
        Event::Ready { rss_kib } => Some(rss_kib),
        _ => None,
    });
    kib.expect("it was ready")
}

#[test]
#[allow(clippy::print_stdout)]
fn the_others_and_init_stay_well() {
    let _slot = slot();
    let subject = Project::own("hardened").cast();
    let mut machine = Machine::start(&subject.direct("hardened"), Way::Port);
    assert!(
        machine.until(|event| matches!(event, Event::Ready { .. })),
        "{:#?}",
        machine.records
    );
    // The flood may end before or after that.
    let over = |event: &Event| matches!(event, Event::Log { service, line, .. } if service == "flood" && line == "the flood is over");
    let is_over = machine.records.iter().any(|record| over(&record.event));
    assert!(is_over || machine.until(over));
    let calm = |records: &[Record]| Told(records).lines("calm").len();
    let before = calm(&machine.records);
    assert!(
        machine.until(|event| matches!(event, Event::Log { service, .. } if service == "calm"))
    );
    assert!(calm(&machine.records) > before);
    machine.send(r#"{"command":"power-off"}"#);
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    assert!(matches!(
        records.last().map(|record| &record.event),
        Some(Event::End { clean: true })
    ));
    println!(
        "init takes {} KiB at ready, then {:?}",
        resident(&records),
        health_of_init(&records)
    );
    let told = Told(&records);
    gifts(&told);
    boxes(&told);
    hostile(&told);
}

/// By health, by a panic, by a frozen init; each time the next boot knows, and after the
/// third the machine takes its time. Four boots by firmware: only in a nightly run.
#[test]
fn a_machine_knows_how_it_died() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let subject = Project::own("restless").cast();
    let mut machine = Machine::start_by_firmware(&subject.by_firmware("restless"));
    let last = |event: &Event| {
        matches!(
            event,
            Event::LastBoot {
                reason: EndReason::Watchdog,
                ..
            }
        )
    };
    assert!(machine.until(last), "{:#?}", machine.records);
    assert!(machine.until(|event| matches!(event, Event::Ready { .. })));
    machine.send(r#"{"command":"power-off"}"#);
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let boots: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::LastBoot {
                reason,
                unhealthy,
                pause_seconds,
                ..
            } => Some((*reason, *unhealthy, *pause_seconds)),
            _ => None,
        })
        .collect();
    let expected = [
        (EndReason::Unknown, 0, 0),
        (EndReason::Health, 1, 0),
        (EndReason::Panic, 2, 0),
        (EndReason::Watchdog, 3, 10),
    ];
    assert_eq!(boots, expected);
    let words = records.iter().find_map(|record| match &record.event {
        Event::LastBoot {
            reason: EndReason::Panic,
            detail,
            ..
        } => Some(detail.as_str()),
        _ => None,
    });
    assert_eq!(
        words,
        Some("Kernel panic - not syncing: sysrq triggered crash")
    );
    let armed = records.iter().filter(|record| {
        matches!(&record.event, Event::Watchdog { device, seconds } if device.contains("6300ESB") && *seconds == 10)
    });
    assert_eq!(armed.count(), 4);
    // The last boot waited before its services, and said so.
    let last = records
        .iter()
        .rposition(|record| matches!(record.event, Event::LastBoot { .. }));
    let started = records.iter().rposition(|record| {
        matches!(
            &record.event,
            Event::Service {
                state: ServiceState::Started,
                ..
            }
        )
    });
    let (Some(last), Some(started)) = (last, started) else {
        panic!("{records:#?}");
    };
    assert!(records[started].t - records[last].t >= 10_000_000);
}

/// What the doctor says of init: KiB, descriptors, zombies.
fn health_of_init(records: &[Record]) -> Vec<[u64; 3]> {
    let lines = Told(records).lines("doctor").into_iter();
    lines
        .filter_map(|line| {
            let mut numbers = line
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse().ok());
            Some([numbers.next()?, numbers.next()?, numbers.next()?])
        })
        .collect()
}

/// Ten minutes among hostile services: init's memory and descriptors stay as they are.
/// Only in a nightly run.
#[test]
#[allow(clippy::print_stdout)]
fn ten_minutes_leave_no_trace_in_init() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let edits = [("THOUSANDS = \"1\"", "THOUSANDS = \"10\"")];
    let subject = Project::own("hardened").variant("soak", &edits, &[]).cast();
    let mut machine = Machine::start(&subject.direct("soak"), Way::Port);
    assert!(machine.until(|event| matches!(event, Event::Ready { .. })));
    let start = machine.records.last().map_or(0, |record| record.t);
    while machine.records.last().map_or(0, |record| record.t) < start + 600_000_000 {
        assert!(machine.until(|_| true), "{:#?}", machine.records.last());
    }
    machine.send(r#"{"command":"power-off"}"#);
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let health = health_of_init(&records);
    // What comes first still holds the boot and the flood.
    let (early, late) = health.split_at(health.len() / 2);
    let most =
        |part: &[[u64; 3]], what: usize| part.iter().map(|line| line[what]).max().unwrap_or(0);
    for (what, name) in ["KiB", "descriptors", "zombies"].into_iter().enumerate() {
        println!(
            "{name}: at most {} in the first half, {} in the second",
            most(early, what),
            most(late, what)
        );
    }
    assert!(health.len() >= 60, "{health:?}");
    assert!(most(late, 0) <= most(early, 0) + 64, "{health:?}");
    assert!(most(late, 1) <= most(early, 1), "{health:?}");
    assert!(
        late.iter().filter(|line| line[2] > 0).count() <= late.len() / 10,
        "{health:?}"
    );
}

/// Kinds, hooks, sockets.
fn gifts(told: &Told<'_>) {
    told.says("follower", &["once left its work"]);
    let once = told.service("once");
    assert!(
        once.iter().any(|state| state == "Exited exit status 3"),
        "{once:?}"
    );
    assert!(once.iter().any(|state| state == "Stopped done"), "{once:?}");
    assert!(
        told.lines("clock").len() >= 3,
        "{:?}",
        told.service("clock")
    );
    told.says("boxed", &["hooks first second", "asked by SIGUSR1"]);
    told.says("boxed", &["FROM_FILE=two words OWN=from the specification"]);
    told.says(
        "passed",
        &[
            "LISTEN_PID is its own",
            "LISTEN_FDS=2 LISTEN_FDNAMES=web:local",
            "descriptor 3: socket",
            "descriptor 4: socket",
            "socket srw-rw---- app",
        ],
    );
    let deaf = told.service("deaf");
    assert!(
        deaf.iter().any(|state| state.contains("SIGKILL")),
        "{deaf:?}"
    );
}

/// What services are kept from.
fn boxes(told: &Told<'_>) {
    told.says(
        "boxed",
        &[
            "its own folder works",
            "another folder refused",
            "/run refused",
            "private /tmp works",
            "/dev/null works",
            "sees its own /tmp only",
            "Seccomp: 2",
            "NoNewPrivs: 1",
            "cgroup /boxed",
            "memory.max 33554432",
            "pids.max 20",
            "cpu.max 50000 100000",
            "memory.oom.group 1",
            "io.max is set",
        ],
    );
    told.says(
        "filtered",
        &[
            "Seccomp: 2",
            "mount refused",
            "unshare refused",
            "hostname refused",
            "swapoff refused",
            "date refused",
            "threads and children works",
        ],
    );
    told.says("unfiltered", &["Seccomp: 0", "mount works"]);
}

#[allow(clippy::print_stdout)]
fn hostile(told: &Told<'_>) {
    let bomb = told.limits("bomb");
    assert!(
        bomb.iter()
            .any(|(kind, count, limit, _)| *kind == LimitKind::Pids && *count > 0 && *limit == 30),
        "{bomb:?}"
    );
    let hog = told.limits("hog");
    let most = 16 << 20;
    assert!(
        hog.iter().any(|(kind, count, limit, peak)| {
            *kind == LimitKind::Memory
                && *count >= 1
                && *limit == most
                && *peak > most / 2
                && *peak <= most
        }),
        "{hog:?}"
    );
    let killed = told.service("hog");
    assert!(
        killed
            .iter()
            .any(|state| state == "Exited killed by SIGKILL"),
        "{killed:?}"
    );
    let flood = told.lines("flood");
    let lost: u64 = flood
        .iter()
        .filter_map(|line| {
            line.strip_prefix("[slipform: ")?
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    println!(
        "flood: {} lines came, {lost} were counted as lost",
        flood.len()
    );
    assert!(lost > 1000, "{lost}");
    told.says("zombies", &["zombies left: 0"]);
    // Who did no harm was not touched.
    for name in [
        "calm", "boxed", "filtered", "follower", "passed", "zombies", "bomb",
    ] {
        let states = told.service(name);
        let before_the_end = states
            .iter()
            .take_while(|state| !state.starts_with("Exited"));
        assert!(before_the_end.count() >= 2, "{states:?}");
        let troubles =
            |state: &&String| state.starts_with("Failed") || state.starts_with("Backoff");
        assert_eq!(states.iter().filter(troubles).count(), 0, "{states:?}");
    }
    // A second without a line of the calm one would show in the gaps.
    let times: Vec<u64> = told
        .0
        .iter()
        .filter(|record| matches!(&record.event, Event::Log { service, .. } if service == "calm"))
        .map(|record| record.t)
        .collect();
    let gap = times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or(0);
    println!(
        "calm: {} lines, longest gap {:.1} s",
        times.len(),
        Duration::from_micros(gap).as_secs_f64()
    );
    assert!(gap < 15_000_000, "{times:?}");
    let states = [ServiceState::Ready];
    assert!(states.iter().all(|state| told.0.iter().any(
        |record| matches!(&record.event, Event::Service { name, state: s, .. } if name == "calm" && s == state)
    )));
}
