//! Logs outlast a power cut on the state partition: nobody hears the first boot, and the
//! second tells all of it.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use slipform_init::contract::event::Event;
use slipform_init::contract::inside::Item;

use crate::support::lab::{is_nightly, slot};
use crate::support::otlp;
use crate::support::project::{Project, Subject};
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

/// The image with the test's own ports for its receivers.
fn spooled(name: &str, [json, otlp]: [u16; 2], files: &[(&str, &str)]) -> Subject {
    let edits =
        [(1602, json), (1603, otlp)].map(|(from, to)| (format!(":{from}\""), format!(":{to}\"")));
    let edits = edits
        .each_ref()
        .map(|(from, to)| (from.as_str(), to.as_str()));
    Project::own("spooled").variant(name, &edits, files).cast()
}

/// Two boots, some 35 s on a busy host: only in a nightly run.
#[test]
fn the_next_boot_tells_what_nobody_heard_before_a_power_cut() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let [json, otlp] = free_ports::<2>();
    let subject = spooled("spooled-ports", [json, otlp], &[]);
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

/// Far more than the spool takes, at a pace that no line is dropped before it.
const LOUD: &str = "\
pad=$(busybox printf '%01000d' 0)
n=0
while [ $n -lt 1800 ]; do
    echo \"line $n $pad\"
    n=$((n + 1))
    [ $((n % 100)) = 0 ] && busybox sleep 1
done
echo quiet
exec busybox sleep 100000
";
const LOUD_LINES: u64 = 1800;

/// Two boots and a pause between the lines: only in a nightly run.
#[test]
fn a_clean_power_off_keeps_the_newest_and_what_did_not_fit_is_counted() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let [json, otlp] = free_ports::<2>();
    let talker = [("srv/talker.sh", LOUD)];
    let subject = spooled("spooled-loud", [json, otlp], &talker);
    let plan = subject.direct("spooled-loud");
    let extra = Extra {
        writes: true,
        ..Extra::default()
    };
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    let quiet = |event: &Event| matches!(event, Event::Log { line, .. } if line == "quiet");
    assert!(machine.until(quiet), "{:#?}", machine.records);
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let last = records.last().map(|record| &record.event);
    assert!(matches!(last, Some(Event::End { clean: true })), "{last:?}");
    let counted = |sink: &str| {
        records.iter().any(|record| matches!(&record.event, Event::LogLoss { sink: of, total: 1.., .. } if of == sink))
    };
    assert!(counted("json") && counted("otlp"), "{records:#?}");

    let lines = Lines::listen(json);
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    let left = |event: &Event| matches!(event, Event::Spool { .. });
    assert!(machine.until(left), "{:#?}", machine.records);
    let (found, lost) = machine
        .records
        .iter()
        .find_map(|record| match record.event {
            Event::Spool { records, lost } => Some((records, lost)),
            _ => None,
        })
        .expect("it was there");
    let first: Vec<String> = within(LIMIT, "the last line of the first boot", || {
        let all = lines.all();
        let told = told(&all);
        let boot = told.first()?.0;
        let first = told.iter().filter(|(id, _)| *id == boot);
        let first: Vec<_> = first.map(|(_, line)| (*line).to_owned()).collect();
        first.iter().any(|line| line == "quiet").then_some(first)
    });
    // The newest ones, none between them missing, and all others are counted.
    let numbers = first
        .iter()
        .filter_map(|line| line.split(' ').nth(1)?.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let expected: Vec<u64> = (LOUD_LINES - numbers.len() as u64..LOUD_LINES).collect();
    assert_eq!(numbers, expected);
    assert!(numbers.len() > 400, "half of the spool: {}", numbers.len());
    assert!(lost >= expected[0], "{lost} of {}", expected[0]);
    assert!(found + lost > LOUD_LINES, "{found} and {lost}");
    let why = format!("of earlier boots {lost} records are lost");
    let reported =
        |event: &Event| matches!(event, Event::Error { why: text, .. } if text.contains(&why));
    assert!(machine.was_or_until(reported), "{:#?}", machine.records);
}

/// Writes and makes sure of it, and says what came back.
const KEEPER: &str = "\
n=0
while :; do
    echo \"line $n\"
    if busybox dd if=/dev/zero of=/var/lib/app/kept bs=4k count=1 conv=fsync 2>/dev/null; then
        echo \"kept $n\"
    else
        echo \"refused $n\"
    fi
    n=$((n + 1))
    busybox sleep 0.2
done
";

/// From one moment on every read and write of the disk fails (EIO), for services and spool:
/// the machine says so, answers, and goes down when it is told to.
#[test]
fn a_state_disk_that_dies_takes_nothing_with_it() {
    let _slot = slot();
    let ports = free_ports::<2>();
    let talker = [("srv/talker.sh", KEEPER)];
    let edits = [
        ("[state]\n", "[state]\ndisk = { serial = \"data\" }\n"),
        ("ready = { log = \"line 99\" }\n", ""),
    ];
    let [json, otlp] = ports.map(|port| format!(":{port}\""));
    let edits = [edits[0], edits[1], (":1602\"", &json), (":1603\"", &otlp)];
    let project = Project::own("spooled").variant("spooled-dies", &edits, &talker);
    let subject = project.cast();
    let plan = subject.direct("spooled-dies");
    let data = subject.folder.path().join("data.raw");
    let file = fs::File::create(&data).expect("a file");
    file.set_len(16 << 20).expect("its length");
    let extra = Extra {
        writes: true,
        disks: vec![(data, "data".to_owned())],
        ..Extra::default()
    };
    let mut machine = Machine::start_with(&plan, Way::Port, &extra);
    let says = |word: &'static str| move |event: &Event| matches!(event, Event::Log { line, .. } if line.starts_with(word));
    assert!(machine.until(says("kept 9")), "{:#?}", machine.records);
    machine.take_away_disk(0);
    assert!(machine.until(says("refused")), "{:#?}", machine.records);
    // The service goes on.
    assert!(machine.until(says("refused")), "{:#?}", machine.records);
    let spool =
        |event: &Event| matches!(event, Event::Error { what, .. } if what.contains("keep logs"));
    assert!(machine.was_or_until(spool), "{:#?}", machine.records);
    machine.send(r#"{"command":"show","id":1,"sections":["mounts","memory"]}"#);
    let told = |event: &Event| matches!(event, Event::Inside { item, .. } if matches!(**item, Item::End(_)));
    assert!(machine.until(told), "{:#?}", machine.records);
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let last = records.last().map(|record| &record.event);
    assert!(matches!(last, Some(Event::End { .. })), "{last:?}");
}
