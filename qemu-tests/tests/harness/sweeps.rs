//! Sweeps of fake guests: what a sweep says of guards that do not notice, of machines
//! that do not come back, and of their healthy twins.

#[allow(
    dead_code,
    unused_qualifications,
    reason = "shared with the library's own tests"
)]
#[path = "../../src/sweep/testing_disk.rs"]
mod small;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::time::Duration;

use slipform_qemu_tests::sweep::{
    Class, Condition, Sweep, SweepError, TamperReport, conditions, power_cuts, tamper,
};
use slipform_qemu_tests::{Check, Outcome, Step};

use crate::support::*;

/// A guest of one layer that is up and well whatever its disk holds.
const UP: &str = r#"
trace 0 448
event {"event":"root-write","refused":true,"detail":"EROFS"}
event {"event":"service","name":"web","state":"ready","pid":70}
event {"event":"ready","rss_kib":900}
console web: up
http hello
"#;
const READ: &str = r#"
wait-report
event {"event":"layer-read","name":"base","bytes":65536,"error":""}
hang
"#;
const UNREADABLE: &str = r#"
wait-report
event {"event":"layer-read","name":"base","bytes":4096,"error":"at byte 4096: Input/output error"}
hang
"#;

fn layer() -> String {
    format!(
        "event {{\"event\":\"layer\",\"name\":\"base\",\"root_hash\":\"{}\"}}",
        small::ROOT_HASH
    )
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fs::write(&fixture.plan.disk, small::disk()).expect("a disk");
    fixture.plan.layers = vec![("base".into(), small::ROOT_HASH.into())];
    fixture
}

fn swept(fixture: &Fixture, script: &[&str], only: &[&str]) -> Result<TamperReport, SweepError> {
    let emulator = fixture.emulator(&[script]);
    let sweep = Sweep {
        plan: &fixture.plan,
        emulator: &emulator,
        accel: fixture.accel,
        seed: 7,
        jobs: 2,
    };
    let only: Vec<String> = only.iter().map(|text| (*text).to_owned()).collect();
    let mut disk = File::open(&fixture.plan.disk).expect("the disk");
    tamper(&sweep, &mut disk, &only, &|_| {})
}

#[test]
fn a_guard_that_does_not_notice_is_missed() {
    let fixture = fixture();
    let only = [
        "layer base, unused block",
        "verity superblock",
        "boot image .text",
        "GPT primary table",
    ];
    let report = swept(&fixture, &[BOOT, &layer(), UP, READ], &only).expect("a matrix");
    let classes: BTreeMap<&str, Class> = report
        .cells
        .iter()
        .map(|cell| (cell.region.as_str(), cell.class))
        .collect();
    let expected = BTreeMap::from([
        ("layer base, unused block", Class::Missed),
        ("layer base, verity superblock", Class::Harmless),
        ("boot image .text", Class::Unprotected),
        ("GPT primary table", Class::Repaired),
        ("GPT primary table, unused entries", Class::Repaired),
    ]);
    assert_eq!(classes, expected, "{}", report.matrix());
    assert!(!report.passed, "{}", report.matrix());
    // Only a part of the regions: no figure for an attestation.
    assert_eq!(report.unprotected(), None);
    assert_eq!(
        fs::read(&fixture.plan.disk).expect("the disk"),
        small::disk(),
        "the artifact is never written to"
    );
    let again = swept(&fixture, &[BOOT, &layer(), UP, READ], &only).expect("a matrix");
    let bytes = |report: &TamperReport| -> Vec<(u64, u8)> {
        let cells = report.cells.iter();
        cells.map(|cell| (cell.byte, cell.mask)).collect()
    };
    assert_eq!(bytes(&again), bytes(&report), "the seed chooses");
}

#[test]
fn a_machine_that_is_ill_before_is_not_swept() {
    let ill = swept(&fixture(), &[BOOT, &layer(), UP, UNREADABLE], &[]);
    let error = ill.expect_err("no matrix").to_string();
    assert!(error.contains("Input/output error"), "{error}");
    let unknown = swept(&fixture(), &[BOOT, &layer(), UP, READ], &["the moon"]);
    assert!(matches!(unknown, Err(SweepError::Region(text)) if text == "the moon"));
}

/// The guest of [`swept`] hangs when it is told to reboot.
#[test]
fn a_changed_byte_is_judged_without_the_checks_that_restart() {
    let mut fixture = fixture();
    let check = Check::of_steps("comes back", vec![Step::Reboot]);
    fixture.plan.checks.push(check);
    let report = swept(
        &fixture,
        &[BOOT, &layer(), UP, READ],
        &["verity superblock"],
    );
    let report = report.expect("a matrix");
    assert_eq!(
        report.cells[0].class,
        Class::Harmless,
        "{}",
        report.matrix()
    );
}

#[test]
fn a_condition_makes_the_checks_that_pull_the_plug_on_a_disk_that_stays() {
    let mut fixture = fixture();
    let check = Check::of_steps("comes back", vec![Step::PowerCut]);
    fixture.plan.checks.push(check);
    let emulator = fixture.emulator(&[&[BOOT, &layer(), UP, POWER_OFF]]);
    let sweep = Sweep {
        plan: &fixture.plan,
        emulator: &emulator,
        accel: fixture.accel,
        seed: 7,
        jobs: 1,
    };
    let size = small::disk().len() as u64;
    let chosen = [Condition::OneProcessor];
    let report = conditions(&sweep, size, &chosen, &|_| {}).expect("verdicts");
    assert!(report.passed, "{}", report.lines());
    let verdicts = &report.conditions[0].verdicts;
    let back = verdicts
        .iter()
        .find(|verdict| verdict.check == "comes back");
    let back = back.map(|verdict| &verdict.outcome);
    assert!(matches!(back, Some(Outcome::Passed(_))), "{back:?}");
    let folder = fixture.plan.evidence.join("condition/cpus-1");
    let command = fs::read_to_string(folder.join("qemu.cmdline")).expect("evidence");
    assert!(command.contains("/.kept-"), "{command}");
    let left = fs::read_dir(&folder).expect("evidence");
    let mut left = left.map(|entry| entry.expect("an entry").file_name());
    assert!(!left.any(|name| name.to_string_lossy().starts_with(".kept-")));
}

fn cut(fixture: &Fixture, script: &[&str]) -> slipform_qemu_tests::sweep::PowerCutReport {
    let emulator = fixture.emulator(&[script]);
    let sweep = Sweep {
        plan: &fixture.plan,
        emulator: &emulator,
        accel: fixture.accel,
        seed: 7,
        jobs: 1,
    };
    let size = small::disk().len() as u64;
    power_cuts(&sweep, size, 1, None, &|_| {}).expect("a verdict")
}

#[test]
fn a_machine_that_does_not_come_back_is_red_and_its_twin_is_green() {
    let mut fixture = fixture();
    fixture.plan.ready_limit = Duration::from_secs(3);
    let healthy = cut(&fixture, &[BOOT, &layer(), UP, POWER_OFF]);
    assert!(
        healthy.passed && healthy.cuts[0].healthy,
        "{}",
        healthy.lines()
    );
    // Undisturbed, cut, and then never again.
    let count = fixture.dir.path().join("count");
    let lives = format!("lives {} 2", count.display());
    let ill = cut(&fixture, &[BOOT, &lives, &layer(), UP, POWER_OFF]);
    assert!(!ill.passed, "{}", ill.lines());
    assert!(
        ill.cuts[0].detail.contains("not ready after"),
        "{}",
        ill.lines()
    );
    assert_eq!(ill.cuts[0].moment, healthy_moment(&ill));
}

/// Within the span that the report itself names.
fn healthy_moment(report: &slipform_qemu_tests::sweep::PowerCutReport) -> f64 {
    report.cuts[0].moment.clamp(0.0, report.ready_seconds + 4.0)
}

#[test]
fn a_wrong_clock_must_be_mended() {
    let fixture = fixture();
    let mended = "console slipform: clock: was 7 seconds behind the image, set forward";
    for (line, good) in [(mended, true), ("console slipform: ready", false)] {
        let emulator = fixture.emulator(&[&[BOOT, line, &layer(), UP, POWER_OFF]]);
        let sweep = Sweep {
            plan: &fixture.plan,
            emulator: &emulator,
            accel: fixture.accel,
            seed: 7,
            jobs: 1,
        };
        let size = small::disk().len() as u64;
        let chosen = [Condition::WrongClock, Condition::LargerDisk];
        let report = conditions(&sweep, size, &chosen, &|_| {}).expect("verdicts");
        assert_eq!(report.passed, good, "{}", report.lines());
        let larger = &report.conditions[1].outcome;
        assert!(matches!(larger, Outcome::Passed(_)), "{}", report.lines());
        let command = fs::read_to_string(
            fixture
                .plan
                .evidence
                .join("condition/wrong-clock/qemu.cmdline"),
        );
        assert!(
            command
                .expect("evidence")
                .contains("-rtc base=2001-01-01T00:00:00")
        );
    }
}
