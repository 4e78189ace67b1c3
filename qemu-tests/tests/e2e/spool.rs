//! Logs outlast a power cut on the state partition: nobody hears the first boot, and the
//! second tells all of it.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use slipform_init::contract::event::Event;

use crate::support::lab::{is_nightly, slot};
use crate::support::otlp;
use crate::support::project::Project;
use crate::support::receivers::{Lines, Posts, free_ports, within};
use crate::support::wire::{Extra, Machine, Way};

/// Only reached when something hangs.
const LIMIT: Duration = Duration::from_secs(300);
/// What all lines of two boots take on their way, on a busy host.
const SETTLE: Duration = Duration::from_secs(60);
const LINES: usize = 100;
const STATE: usize = 16 << 20;

fn expected() -> Vec<String> {
    (0..LINES).map(|number| format!("line {number}")).collect()
}

/// Boot ids and lines of the talker, in the order of their coming.
fn told(records: &[Value]) -> Vec<(&str, &str)> {
    let own = records
        .iter()
        .filter(|record| record["service"] == "talker");
    let told =
        own.filter_map(|record| Some((record["boot"].as_str()?, record["message"].as_str()?)));
    told.collect()
}

/// The same from OTLP.
fn posted(bodies: &[Value]) -> Vec<(&str, &str)> {
    let mut told = Vec::new();
    for resource in bodies
        .iter()
        .flat_map(|body| body["resourceLogs"].as_array().expect("some"))
    {
        let of = |key| otlp::attribute(&resource["resource"], key);
        if of("service.name") == Some("talker") {
            let boot = of("slipform.boot.id").expect("a boot");
            let records = resource["scopeLogs"][0]["logRecords"].as_array();
            let lines = records.expect("records").iter();
            told.extend(
                lines.filter_map(|line| Some((boot, line["body"]["stringValue"].as_str()?))),
            );
        }
    }
    told
}

/// Waits until all has come, or nothing more will.
fn settle(count: impl Fn() -> usize) {
    let end = Instant::now() + SETTLE;
    while count() < LINES * 2 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Two boots, all lines of the first before those of the second, each once.
#[track_caller]
fn is_whole(told: &[(&str, &str)]) {
    assert_eq!(told.len(), LINES * 2, "{told:?}");
    let (first, second) = told.split_at(LINES);
    assert_ne!(first[0].0, second[0].0);
    for boot in [first, second] {
        assert!(boot.iter().all(|(id, _)| *id == boot[0].0), "{boot:?}");
        let lines: Vec<_> = boot.iter().map(|(_, line)| *line).collect();
        assert_eq!(lines, expected());
    }
}

/// A device on the state can be made by whom may, and opened by nobody.
fn state_gives_no_power(machine: &Machine) {
    let lines: Vec<&str> = machine
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Log { service, line, .. } if service == "intruder" => Some(line.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        lines[..3],
        ["elsewhere: opened", "device: made", "device: refused"],
        "{lines:?}"
    );
    let options = lines[3].split(' ').nth(3).expect("mount options");
    let options: Vec<&str> = options.split(',').collect();
    assert!(
        options.contains(&"nosuid") && options.contains(&"nodev"),
        "{options:?}"
    );
}

/// Two boots, some 35 s on a busy host: only in a nightly run.
#[test]
fn the_next_boot_tells_what_nobody_heard_before_a_power_cut() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let [json, otlp] = free_ports::<2>();
    let edits =
        [(1602, json), (1603, otlp)].map(|(from, to)| (format!(":{from}\""), format!(":{to}\"")));
    let edits = edits
        .each_ref()
        .map(|(from, to)| (from.as_str(), to.as_str()));
    let subject = Project::own("spooled")
        .variant("spooled-ports", &edits, &[])
        .cast();
    let plan = subject.direct("spooled");
    let extra = Extra {
        writes: true,
        ..Extra::default()
    };
    let ready = |event: &Event| matches!(event, Event::Ready { .. });
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    assert!(machine.until(ready), "{:#?}", machine.records);
    state_gives_no_power(&machine);
    within(LIMIT, "the last line on the disk", || {
        let disk = fs::read(&plan.disk).expect("the disk");
        // The state is the last of it; elsewhere the machine is told what makes it ready.
        let mut places = disk[disk.len() - STATE..].windows(7);
        places.any(|place| place == b"line 99").then_some(())
    });
    // The bytes come first, then what says how long the file is.
    std::thread::sleep(Duration::from_secs(2));
    drop(machine);

    let (lines, posts) = (Lines::listen(json), Posts::listen(otlp));
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    // The disk is read beside the services' start: either may be first.
    assert!(machine.until(ready), "{:#?}", machine.records);
    let left = |event: &Event| matches!(event, Event::Spool { .. });
    assert!(machine.was_or_until(left), "{:#?}", machine.records);
    let all = machine.records.iter();
    let found = all.filter(|record| left(&record.event)).collect::<Vec<_>>();
    assert!(
        matches!(
            found.as_slice(),
            [one] if matches!(one.event, Event::Spool { records: 100.., lost: 0 })
        ),
        "{found:?}"
    );
    let all = || lines.all();
    settle(|| told(&all()).len());
    is_whole(&told(&all()));
    let bodies = || -> Vec<Value> { posts.all().into_iter().map(|post| post.body).collect() };
    settle(|| posted(&bodies()).len());
    is_whole(&posted(&bodies()));
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let last = records.last().map(|record| &record.event);
    assert!(matches!(last, Some(Event::End { clean: true })), "{last:?}");
}
