//! Checks with steps: machines that start more than once in a run.

use std::time::Duration;

use crate::support::*;
use slipform_qemu_tests::{Check, Outcome, Probe, Step};

/// Init reboots when it is told to.
const REBOOT: &str = r#"
wait-report
event {"event":"phase","phase":"shutdown"}
event {"event":"shutdown","kind":"reboot","reason":"report channel"}
event {"event":"service","name":"web","state":"stopped"}
event {"event":"end","clean":true}
console [    9.000000] reboot: Restarting system
qmp SHUTDOWN {"guest":true,"reason":"guest-reset"}
wait-start
"#;

fn steps(between: Step) -> Check {
    let probe = || Step::Probe(http_probe("hello"));
    let line = |matches: &str| {
        Step::Probe(Probe::Console {
            matches: matches.into(),
        })
    };
    let steps = vec![
        probe(),
        line("listening on 8080"),
        between,
        Step::Wait(Duration::from_millis(50)),
        probe(),
        line("listening on 8080"),
    ];
    Check::of_steps("keeps what it has", steps)
}

#[test]
fn a_reboot_is_another_boot_in_the_same_machine() {
    let mut fixture = Fixture::new();
    fixture.plan.checks.push(steps(Step::Reboot));
    let script = [BOOT, LAYERS, READY, REBOOT, BOOT, LAYERS, READY, POWER_OFF];
    let report = fixture.report(&script);
    assert!(report.passed && report.boots == 2, "{report:#?}");
    assert!(
        matches!(outcome(&report, "reached ready"), Outcome::Passed(text) if text.contains("boot 1: after") && text.contains("boot 2: after"))
    );
    let timeline = fixture.evidence("timeline.txt");
    assert_eq!(timeline.matches("power-on").count(), 2, "{timeline}");
    assert!(!fixture.evidence("qemu.cmdline").contains("disk.qcow2"));

    // Every check is made of every boot.
    let wrong = LAYERS.replace("bb22", "cc33");
    let script = [BOOT, LAYERS, READY, REBOOT, BOOT, &wrong, READY, POWER_OFF];
    let report = fixture.report(&script);
    assert_red(
        &report,
        "every layer is verified",
        "init: verity",
        "cc33, not bb22 (boot 2)",
        "",
    );
    let script = [
        BOOT,
        LAYERS,
        READY,
        &REBOOT.replace("true}\nconsole", "false}\nconsole"),
        BOOT,
        LAYERS,
        READY,
        POWER_OFF,
    ];
    let report = fixture.report(&script);
    assert_red(
        &report,
        "clean power-off",
        "power-off",
        "boot 1: init reports that something",
        "",
    );
}

#[test]
fn a_reboot_that_does_not_come_back_is_red() {
    let mut fixture = Fixture::new();
    fixture.plan.checks = vec![steps(Step::Reboot), http("serves the page", "hello")];
    let panic = "console [    1.000000] Linux version 6.12\nconsole [    2.000000] Kernel panic - not syncing: x\nhang";
    let report = fixture.report(&[BOOT, LAYERS, READY, REBOOT, panic]);
    assert_red(
        &report,
        "no kernel panic",
        "kernel",
        "not syncing: x (boot 2)",
        "",
    );
    assert!(failed(&report, "keeps what it has") && skipped(&report, "serves the page"));
    assert!(
        matches!(outcome(&report, "keeps what it has"), Outcome::Failed(text) if text.starts_with("step 3 (reboot): "))
    );
    // One that goes away instead.
    let off = "wait-report\nqmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\nhang";
    let report = fixture.report(&[BOOT, LAYERS, READY, off]);
    assert_red(
        &report,
        "clean power-off",
        "power-off",
        "did not reboot",
        "",
    );
}

#[test]
fn a_power_cut_starts_the_emulator_again() {
    let mut fixture = Fixture::new();
    fixture.plan.checks = vec![steps(Step::PowerCut)];
    let report = fixture.report_each(&[
        &[BOOT, LAYERS, READY, "hang"],
        &[BOOT, LAYERS, READY, POWER_OFF],
    ]);
    assert!(report.passed && report.boots == 2, "{report:#?}");
    let line = fixture.evidence("qemu.cmdline");
    assert!(line.contains("disk.qcow2,backing.driver=raw"), "{line}");
    let left = std::fs::read_dir(&fixture.plan.evidence)
        .expect("evidence")
        .count();
    assert_eq!(left, 7, "the overlay is gone");
    assert_eq!(report.disk_before, report.disk_after);

    let report = fixture.report_each(&[
        &[BOOT, LAYERS, READY, "hang"],
        &[
            BOOT,
            r#"event {"event":"error","phase":"disk","what":"read the journal","why":"EIO"}"#,
            "hang",
        ],
    ]);
    assert_red(
        &report,
        "init reports no error",
        "init: disk",
        "EIO (boot 2)",
        "",
    );
}
