//! Quotas of the state's paths, as the kernel holds them, on a disk of the state's own.

use std::fs::File;
use std::path::Path;

use crate::state::{MIB, error, fsck, news};
use crate::support::lab::{is_nightly, slot};
use crate::support::project::Project;
use crate::support::wire::{Extra, Machine, Way};
use slipform_init::contract::event::{Event, StateNews};
use slipform_init::contract::inside::{Item, MountSeen, StateSeen};
use slipform_qemu_tests::Plan;

/// A blank disk.
fn disk(path: &Path) -> File {
    let file = File::create(path).expect("a file");
    file.set_len(64 * MIB).expect("its length");
    file
}

/// What a machine told.
#[derive(Debug)]
struct Boot {
    said: Vec<String>,
    news: Vec<StateNews>,
    error: Option<String>,
    mounts: Vec<MountSeen>,
    state: Vec<StateSeen>,
}

/// Boots until the filler is done, or the machine gives up, and powers off; with what it said.
fn boot(plan: &Plan, data: &Path) -> Boot {
    let extra = Extra {
        writes: true,
        disks: vec![(data.to_owned(), "data".to_owned())],
        ..Extra::default()
    };
    let mut machine = Machine::start_with(plan, Way::Port, &extra);
    let done = |event: &Event| matches!(event, Event::Log { line, .. } if line == "done");
    let ended = |event: &Event| matches!(event, Event::Shutdown { .. });
    machine.until(|event| done(event) || ended(event));
    if !machine.records.iter().any(|record| ended(&record.event)) {
        machine.send(r#"{"command":"show","id":1,"sections":["services","mounts"]}"#);
        let told = |event: &Event| matches!(event, Event::Inside { item, .. } if matches!(**item, Item::End(_)));
        assert!(machine.until(told), "{:#?}", machine.records);
        machine.press_power();
    }
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    let said = records.iter().filter_map(|record| match &record.event {
        Event::Log { service, line, .. } if service == "filler" => Some(line.clone()),
        _ => None,
    });
    let mounts = records.iter().filter_map(|record| match &record.event {
        Event::Inside { item, .. } => match &**item {
            Item::Mount(mount) => Some(mount.clone()),
            _ => None,
        },
        _ => None,
    });
    let state = records.iter().filter_map(|record| match &record.event {
        Event::Inside { item, .. } => match &**item {
            Item::State(seen) => Some(seen.clone()),
            _ => None,
        },
        _ => None,
    });
    Boot {
        state: state.collect(),
        said: said.collect(),
        news: news(&records),
        error: error(&records),
        mounts: mounts.collect(),
    }
}

impl Boot {
    /// KiB that `stat -f` said of a path: in all, and used.
    fn counted(&self, path: &str) -> (u64, u64) {
        let line = self.said.iter().find_map(|line| line.strip_prefix(path));
        let words = line.unwrap_or_else(|| panic!("{self:?}"));
        let numbers = words.split(' ').filter_map(|word| word.parse().ok());
        let numbers: Vec<u64> = numbers.collect();
        (numbers[0], numbers[1])
    }
}

#[test]
fn a_path_holds_its_quota_and_leaves_the_rest_to_the_others() {
    let _slot = slot();
    let subject = Project::own("quota").cast();
    let plan = subject.direct("state-quota");
    let data = subject.folder.path().join("data.raw");
    let file = disk(&data);
    let mut told = vec![StateNews::Made, StateNews::Mounted];
    for before in ["app, before: written", "app, before: quota"] {
        let boot = boot(&plan, &data);
        assert_eq!((&boot.news, &boot.error), (&told, &None), "{boot:?}");
        let expected = [before, "app: quota", "other: written"];
        assert_eq!(boot.said[..3], expected, "{boot:?}");
        let (all, used) = boot.counted("/var/lib/app:");
        assert!(all == 4096 && (4000..=4096).contains(&used), "{boot:?}");
        assert!(boot.counted("/var/lib/other:").0 > 16 << 10, "{boot:?}");
        // As `slipform ps --mounts` has it.
        let app = boot.mounts.iter().find(|at| at.target == "/var/lib/app");
        assert_eq!(app.and_then(|at| at.size), Some(4 * MIB), "{boot:?}");
        // And `slipform ps` by itself.
        let [app, other] = &boot.state[..] else {
            panic!("{boot:?}");
        };
        assert_eq!((app.quota, other.quota), (Some(4 * MIB), None), "{boot:?}");
        assert_eq!(app.used.map(|bytes| bytes / 1024), Some(used), "{boot:?}");
        assert!(
            other.used.is_none() && other.available > Some(MIB),
            "{boot:?}"
        );
        told = vec![StateNews::Grown, StateNews::Mounted];
        file.set_len(300 * MIB).expect("a larger disk");
    }
    fsck(&data, &(0..300 * MIB));
}

/// Five boots.
#[test]
fn quotas_come_to_a_state_and_leave_it() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let project = Project::own("quota");
    // Versions of one image: the state is the same one's.
    let version = |name: &str, from: &str, to: &str| {
        let own = format!("name = \"{name}\"");
        let edits = [(own.as_str(), "name = \"quota\""), (from, to)];
        project.variant(name, &edits, &[]).cast()
    };
    let with = project.cast();
    let without = version("quota-none", ", quota = \"4MiB\"", "");
    let other = "\"/var/lib/other\", owner = \"app:app\"";
    let more = "\"/var/lib/other\", owner = \"app:app\", quota = \"12MiB\"";
    let both = version("quota-both", other, more);
    let [with_plan, without_plan, both_plan] =
        [&with, &without, &both].map(|subject| subject.direct("state-quotas"));
    let data = with.folder.path().join("data.raw");
    disk(&data);

    // Made without, it is used without, and that is said.
    let first = boot(&without_plan, &data);
    assert_eq!((first.news.len(), &first.error), (2, &None), "{first:?}");
    let next = boot(&with_plan, &data);
    let why = next.error.as_ref().expect("it is said");
    assert!(why.contains("this state was made without quotas"), "{why}");
    assert_eq!(next.said[1], "app: written", "{next:?}");
    let app = &next.state[0];
    assert_eq!((app.quota, app.used), (Some(4 * MIB), None), "{next:?}");

    // One more path gets one: what was kept before counts.
    disk(&data);
    let first = boot(&with_plan, &data);
    assert_eq!(first.error, None);
    assert_eq!(first.said[1], "app: quota", "{first:?}");
    let next = boot(&both_plan, &data);
    assert_eq!(next.error, None);
    let (all, used) = next.counted("/var/lib/other:");
    assert!(all == 12 << 10 && used >= 8192, "{next:?}");
    fsck(&data, &(0..64 * MIB));

    // An image that cannot count does not write uncounted.
    let last = boot(&without_plan, &data);
    assert!(last.said.is_empty(), "{last:?}");
    let why = last.error.expect("it is refused");
    assert!(why.contains("[kernel] modules = [\"quota_v2\"]"), "{why}");
    fsck(&data, &(0..64 * MIB));
}
