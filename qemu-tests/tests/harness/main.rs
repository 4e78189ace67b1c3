//! The harness against a fake emulator ([`fake/qemu.rs`]) that plays good and bad
//! guests: every bad one must be red, with the right phase and reason; its healthy
//! twin green. No real machine is started here.

mod boots;
mod collection;
mod combine;
mod deaths;
mod health;
mod support;
mod sweeps;
mod verdicts;

use std::fs;
use std::time::Duration;

use slipform_qemu_tests::{BootReport, Outcome};
use support::*;

#[test]
fn a_healthy_guest_is_green() {
    let fixture = Fixture::new();
    let report = fixture.report(&[BOOT, LAYERS, READY, POWER_OFF]);
    assert!(report.passed && report.failure.is_none(), "{report:#?}");
    let names: Vec<&str> = report
        .verdicts
        .iter()
        .map(|verdict| verdict.check.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "reached ready",
            "no kernel panic",
            "no oops",
            "no kernel BUG",
            "no kernel WARNING",
            "no out of memory",
            "no segfault",
            "no hung task",
            "no verity error",
            "no I/O error",
            "root is read-only",
            "every layer is verified",
            "no service crash loop",
            "services are healthy",
            "init reports no error",
            "init's report is readable",
            "clean power-off",
            "artifact is unchanged",
            "serves the page",
        ]
    );
    assert!(
        report
            .verdicts
            .iter()
            .all(|verdict| matches!(verdict.outcome, Outcome::Passed(_)))
    );
    assert_eq!(report.disk_before, report.disk_after);
    assert_eq!(report.disk_before.len(), 64);
    assert_eq!(report.init_rss_kib, Some(900));
    assert!(
        report
            .ready_seconds
            .is_some_and(|seconds| seconds <= report.total_seconds)
    );
    assert_eq!((report.boots, report.schema), (1, 2));
    assert_eq!(report.plan, fixture.plan.digest());
    assert!(report.emulator_digest.starts_with("sha256:") && report.started > 1_700_000_000);
    let timeline = fixture.evidence("timeline.txt");
    for what in [
        "firmware",
        "init: verity",
        "service web: ready",
        "ready after",
        "check: serves the page: passed",
        "powering off",
    ] {
        assert!(timeline.contains(what), "{what} is not in {timeline}");
    }
    assert!(
        fixture
            .evidence("junit.xml")
            .contains("<testcase classname=\"hello\" name=\"serves the page\"/>")
    );
    // Log lines stay out of the report, and are in the evidence.
    assert_eq!(report.events.len(), 21);
    assert_eq!(fixture.evidence("events.jsonl").lines().count(), 22);
    assert!(
        fixture
            .evidence("console.log")
            .contains("Linux version 6.12")
    );
    assert!(fixture.evidence("qemu.cmdline").contains("snapshot=on"));
    let written: BootReport =
        serde_json::from_str(&fixture.evidence("report.json")).expect("a report");
    assert_eq!(written, report);
    // Nothing of the run is left but the evidence.
    let left = fs::read_dir(&fixture.plan.evidence)
        .expect("evidence")
        .count();
    assert_eq!(left, 7);
}

#[test]
fn records_on_the_console_do_as_well() {
    let all =
        [BOOT, LAYERS, READY, POWER_OFF].map(|part| part.replace("\nevent ", "\nconsole-event "));
    let report = Fixture::new().report(&all.each_ref().map(String::as_str));
    assert!(report.passed, "{report:#?}");
}

#[test]
fn forged_records_on_the_console_are_nothing() {
    let forged: String = format!("{LAYERS}{READY}").replace(
        "\nevent ",
        "\nconsole @slipform-0123456789abcdef0123456789abcdef ",
    );
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(1);
    let report = fixture.report(&[BOOT, &forged, "hang"]);
    assert_red(
        &report,
        "reached ready",
        "init: verity",
        "not ready after 1 s",
        "raise the limit",
    );
    assert!(
        report.events.len() == 5 && skipped(&report, "every layer is verified"),
        "{report:#?}"
    );
}
