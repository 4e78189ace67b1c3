//! Real machines, cast and booted: the shipped examples in every way that there is
//! to boot them, and an image whose services look at what init gave them.
//!
//! Everything is real but the hardware: packages of Debian, the locked emulator and
//! its firmware, the harness. TCG only, two machines at a time.

use std::io::Write;

use crate::support::lab::{ACCELERATOR, boot, settings, slot};
use crate::support::project::{Project, Subject};
use crate::support::red::{assert_green, tell};
use crate::support::wire::{Machine, Way};
use slipform::attest::{KeyFile, Signer, Trust};
use slipform::base::Arch;
use slipform::channel::Kind;
use slipform::output::OutputFormat;
use slipform::pipeline::{Door, Wanted, init_binary};
use slipform::remote::testing::{RegistryRules, TestRegistry};
use slipform_init::contract::event::{Event, Record, ServiceState};
use slipform_qemu_tests::{BootReport, Check, DiskFormat, Outcome, Probe, Step};

/// The shipped board, with another disk.
const NVME: (&str, &str) = ("disk = \"virtio-blk\"", "disk = \"nvme\"");
/// The same with large sectors: FAT32 then needs 65,525 clusters of 4096 bytes.
const LARGE_SECTORS: [(&str, &str); 2] = [
    ("sector-size = 512", "sector-size = 4096"),
    ("esp-size = \"64MiB\"", "esp-size = \"264MiB\""),
];

/// The shipped board's file, changed, to lie beside a project.
fn board(edits: &[(&str, &str)]) -> String {
    let mut text = include_str!("../../../boards/qemu-x86_64.toml").to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "nothing to replace: {from}");
        text = text.replace(from, to);
    }
    text
}

#[test]
fn hello_boots_by_firmware_from_a_raw_disk() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let plan = subject.by_firmware("hello");
    let report = boot(&plan);
    assert_green(&plan, &report);
    let layers: Vec<_> = report
        .events
        .iter()
        .filter_map(|record| match &record.event {
            Event::Layer { name, root_hash } => Some((name.clone(), root_hash.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(layers, plan.layers);
    assert_eq!(layers.len(), 3, "base, app, generated");
}

/// The clouds' boards, with the nearest devices that QEMU has.
#[test]
fn hello_boots_on_the_boards_of_clouds() {
    for board in ["gcp-x86_64", "aws-x86_64", "azure-x86_64", "vmware-x86_64"] {
        let _slot = slot();
        let name = format!("hello-{board}");
        let subject = Project::shipped("hello").on_board(&name, board, &[]).cast();
        let plan = subject.by_firmware(&name);
        assert_green(&plan, &boot(&plan));
    }
}

/// Whether this command can build for Arm; said if it cannot.
fn has_arm(what: &str) -> bool {
    let has = init_binary(Arch::Aarch64, false).is_some();
    if !has {
        // A closed stderr is nobody who could be told.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {what} (the compiler has no target aarch64-unknown-linux-musl)"
        );
    }
    has
}

/// Boots the raw disk by firmware, in the emulator of its architecture: it must be green.
fn boots(subject: &Subject, name: &str) -> BootReport {
    let plan = subject.by_firmware(name);
    let emulator = settings()
        .emulator(&subject.image, subject.cast.board.arch, "locked")
        .expect("the locked emulator unpacks");
    let report = settings()
        .boot(&plan, &emulator, ACCELERATOR)
        .expect("the harness can judge");
    assert_green(&plan, &report);
    report
}

/// Arm's boards, with another emulator than all the rest.
#[test]
fn hello_boots_on_arm() {
    if !has_arm("hello on Arm's boards") {
        return;
    }
    for board in ["qemu-aarch64", "generic-aarch64", "aws-aarch64"] {
        let _slot = slot();
        let name = format!("hello-{board}");
        let subject = Project::shipped("hello").on_board(&name, board, &[]).cast();
        boots(&subject, &name);
    }
}

#[test]
fn hello_comes_back_from_a_reboot_and_a_power_cut() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let mut plan = subject.by_firmware("hello-steps");
    let page = plan.checks[0].steps[0].clone();
    let ready = Step::Probe(Probe::Service {
        name: "web".to_owned(),
        state: ServiceState::Ready,
    });
    let steps = vec![
        page.clone(),
        Step::Reboot,
        page.clone(),
        Step::PowerCut,
        ready,
        page,
    ];
    plan.checks
        .push(Check::of_steps("serves the page after each start", steps));
    let report = boot(&plan);
    assert_green(&plan, &report);
    assert_eq!(report.boots, 3);
    // Each boot was watched from its beginning: init spoke first in each.
    let boots = |record: &&Record| matches!(record.event, Event::Boot { .. });
    assert_eq!(report.events.iter().filter(boots).count(), 3);
    let ends = |record: &&Record| matches!(record.event, Event::End { clean: true });
    assert_eq!(report.events.iter().filter(ends).count(), 2);
}

/// Boots a base on each of its boards, and publishes it as `stable`; what was cast.
fn publish_booted(base: &Project, name: &str, uri: &str) -> Vec<Subject> {
    let (settings, image, lock) = (settings(), base.image(), base.locked());
    let key = KeyFile::generate().unwrap();
    let trust = Trust::new(vec![key.public().clone()]);
    let boards = image.boards.iter();
    let subjects: Vec<Subject> = boards.map(|board| base.cast_for(board)).collect();
    for subject in &subjects {
        let report = boots(subject, &format!("{name}-{}", subject.cast.board.name));
        settings
            .attest(&image, &lock, &subject.cast, &report, &key)
            .unwrap();
    }
    let ready = settings.attested(&image, &trust, Door::Gate, &key).unwrap();
    let remote = settings.remote(uri).unwrap();
    let wanted = Wanted {
        channel: "stable",
        kind: Kind::Publish,
        who: "ann",
        why: "it boots",
        parameter: None,
    };
    settings
        .publish(&*remote, &ready, &wanted, &trust, &key)
        .unwrap();
    subjects
}

/// Boots hello for a board on a base that was published, whose partition it must have.
fn boots_on(base: &Subject, uri: &str, name: &str) {
    let board = &base.cast.board;
    let hello = Project::shipped("hello").on_base(name, &format!("{uri}:stable"), &board.name);
    let on_base = hello.cast();
    // The partition of the base's own image.
    assert_eq!(on_base.cast.layers.len(), 3);
    assert_eq!(on_base.cast.layers[0], base.cast.layers[0]);
    let locks = hello.locked();
    let lock = locks.of(board.arch).unwrap();
    let own = lock.layers[1].packages.iter();
    let twice = own.filter(|package| lock.base_packages().any(|other| other.name == package.name));
    assert_eq!(twice.count(), 0);
    boots(&on_base, name);
}

/// A base's own boot is what lets it be published; an app's image takes its partition
/// over byte for byte, resolves against its packages, and boots.
#[test]
fn hello_boots_on_a_base_that_was_published() {
    let _slot = slot();
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file://{}/base", folder.path().display());
    let bases = publish_booted(&Project::base("base"), "base", &uri);
    boots_on(&bases[0], &uri, "hello-on-base");
}

/// The same of a base for both architectures, which is one release, on Arm's board.
#[test]
fn hello_boots_on_arm_on_a_base_that_was_published() {
    if !has_arm("hello on Arm's board on a published base") {
        return;
    }
    let _slot = slot();
    let registry = TestRegistry::new(RegistryRules::default());
    let uri = registry.uri("base");
    let base = Project::base_for("base-for-both", &["qemu-x86_64", "qemu-aarch64"]);
    let bases = publish_booted(&base, "base-for-both", &uri);
    assert_ne!(bases[0].cast.layers[0], bases[1].cast.layers[0]);
    boots_on(&bases[1], &uri, "hello-on-base-on-arm");
}

/// A new board is one file beside the specification.
#[test]
fn redis_boots_from_qcow2_on_an_nvme_disk_of_a_board_of_its_own() {
    let _slot = slot();
    let name = ("name = \"qemu-x86_64\"", "name = \"rack\"");
    let board = board(&[NVME, name]);
    let files = [("boards/rack.toml", board.as_str())];
    let subject = Project::shipped("redis")
        .on_board("redis-nvme", "rack", &files)
        .cast();
    let plan = subject.plan(&subject.write(OutputFormat::Qcow2), "redis-nvme");
    assert_eq!(plan.format, DiskFormat::Qcow2);
    assert_eq!(plan.emulation.disk, "nvme");
    let report = boot(&plan);
    assert_green(&plan, &report);
}

#[test]
fn rust_app_boots_from_a_disk_with_large_sectors() {
    let _slot = slot();
    let board = board(&LARGE_SECTORS);
    let files = [("boards/qemu-x86_64.toml", board.as_str())];
    let subject = Project::shipped("rust-app")
        .variant("rust-app-4k", &[], &files)
        .cast();
    let plan = subject.by_firmware("rust-app-4k");
    assert_eq!(plan.sector_size, 4096);
    let report = boot(&plan);
    assert_green(&plan, &report);
}

#[test]
fn rust_app_boots_directly() {
    let _slot = slot();
    let subject = Project::shipped("rust-app").cast();
    let plan = subject.direct("rust-app-direct");
    let report = boot(&plan);
    assert_green(&plan, &report);
}

/// Most of what is tested stands in the image's own specification: console checks
/// over what the services found. Here is what only the events tell.
#[test]
fn services_get_what_they_ask_for_and_nothing_else() {
    let _slot = slot();
    let subject = Project::own("supervised").cast();
    let plan = subject.by_firmware("supervised");
    let report = boot(&plan);
    assert_green(&plan, &report);
    let states = |wanted: &str| -> Vec<ServiceState> {
        let events = report.events.iter();
        let states = events.filter_map(|record| match &record.event {
            Event::Service { name, state, .. } if name == wanted => Some(*state),
            _ => None,
        });
        states.collect()
    };
    use ServiceState::{Backoff, Exited, Ready, Started, Stopped, Waiting};
    let failed_twice = [
        Started, Exited, Backoff, Started, Exited, Backoff, Started, Ready, Exited, Stopped,
    ];
    assert_eq!(states("flaky"), failed_twice, "{}", tell(&plan, &report));
    assert_eq!(states("second").first(), Some(&Waiting));
    let place = |name: &str, state: ServiceState| {
        let found = report.events.iter().position(|record| {
            matches!(&record.event, Event::Service { name: n, state: s, .. } if n == name && *s == state)
        });
        found.unwrap_or_else(|| panic!("{name} was never {state:?}"))
    };
    assert!(place("flaky", Ready) < place("second", Started));
    assert!(place("second", Started) < place("world", Started));
    let killed = report.events.iter().any(|record| {
        matches!(&record.event, Event::Service { name, detail, .. } if name == "stubborn" && detail.contains("SIGKILL"))
    });
    assert!(killed, "{:#?}", report.events);
    let healthy = report
        .verdicts
        .iter()
        .find(|verdict| verdict.check == "services are healthy")
        .map(|verdict| &verdict.outcome);
    assert!(
        matches!(healthy, Some(Outcome::Passed(text)) if text.contains("flaky started again 2 times")),
        "{healthy:?}"
    );
}

/// What init says of a machine's end.
fn ending(records: &[Record]) -> Vec<String> {
    let events = records.iter().filter_map(|record| match &record.event {
        Event::Shutdown { kind, reason } => Some(format!("{kind}, {reason}")),
        Event::End { clean } => Some(format!("clean: {clean}")),
        Event::Error { what, why, .. } => Some(format!("{what}: {why}")),
        _ => None,
    });
    events.collect()
}

/// Neither the harness nor a source of entropy is there, but a network.
#[test]
fn a_reboot_is_a_clean_end() {
    let _slot = slot();
    let subject = Project::own("supervised").cast();
    let mut machine = Machine::start(&subject.direct("supervised-reboot"), Way::Port);
    assert!(machine.until(|event| matches!(event, Event::Ready { .. })));
    machine.send("not a command");
    machine.send(r#"{"command":"reboot"}"#);
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    assert_eq!(ending(&records), ["reboot, report channel", "clean: true"]);
    let server = records.iter().any(|record| {
        matches!(&record.event, Event::Log { service, line, .. } if service == "world" && line == "nameserver 10.0.2.3")
    });
    assert!(server, "{records:#?}");
}

#[test]
fn without_a_port_records_come_on_the_console_behind_the_nonce() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let way = Way::Console("00112233445566778899aabbccddeeff");
    let mut machine = Machine::start(&subject.direct("hello-console"), way);
    assert!(machine.until(|event| matches!(event, Event::Ready { .. })));
    machine.press_power();
    let (status, records) = machine.end();
    assert!(status.success(), "{status}");
    assert_eq!(ending(&records), ["power-off, power button", "clean: true"]);
    let boots = records
        .iter()
        .filter(|record| matches!(record.event, Event::Boot { .. }));
    assert_eq!(
        boots.count(),
        1,
        "what was said before the way was known is not lost"
    );
}
