//! The collection of broken guests, as far as a fake can play them: each is red with
//! the right phase and reason, in time; `a_healthy_guest_is_green` is their twin. Those
//! that need a real guest are in `tests/broken.rs`.

use std::time::{Duration, Instant};

use crate::support::*;
use slipform_qemu_tests::BootReport;

/// A boot up to each of init's phases, by the event that begins it.
const PHASES: [&str; 8] = [
    "start", "modules", "disk", "verity", "stack", "switch", "network", "services",
];

/// The healthy boot until this phase has begun.
fn until(phase: &str) -> String {
    let whole = format!("{BOOT}{LAYERS}");
    let event = format!("\"phase\":\"{phase}\"}}");
    let end = whole.find(&event).expect("a phase of the boot") + event.len();
    format!("{}\n", &whole[..end])
}

/// Red at once: long before the limit.
fn at_once(script: &[&str]) -> BootReport {
    let fixture = Fixture::new();
    let start = Instant::now();
    let report = fixture.report(script);
    assert!(
        start.elapsed() < fixture.plan.ready_limit / 2,
        "{report:#?}"
    );
    report
}

#[test]
fn a_panic_in_each_phase() {
    let panic = "console [    2.130114] Kernel panic - not syncing: Fatal exception\nhang";
    for phase in PHASES {
        let report = at_once(&[&until(phase), panic]);
        let want = format!("init: {phase}");
        assert_red(
            &report,
            "no kernel panic",
            &want,
            "Fatal exception",
            "call trace",
        );
    }
}

#[test]
fn a_guest_that_hangs_in_each_phase() {
    for phase in PHASES {
        let mut fixture = Fixture::new();
        fixture.plan.ready_limit = Duration::from_millis(600);
        let report = fixture.report(&[&until(phase), "hang"]);
        let want = format!("init: {phase}");
        assert_red(&report, "reached ready", &want, "not ready after", "");
    }
}

#[test]
fn an_error_of_init_in_early_and_late_phases() {
    // Each waits for init to go on; three are enough.
    for phase in ["start", "verity", "services"] {
        let error = format!(
            "event {{\"event\":\"error\",\"phase\":\"{phase}\",\"what\":\"do it\",\"why\":\"it cannot be\"}}\nhang"
        );
        let report = at_once(&[&until(phase), &error]);
        let want = format!("init: {phase}");
        assert_red(
            &report,
            "init reports no error",
            &want,
            "do it: it cannot be",
            "",
        );
    }
}

#[test]
fn a_kernel_without_the_disks_driver() {
    let error = r#"event {"event":"error","phase":"disk","what":"find the partitions of 2 layers","why":"no block device came within 5 s"}
event {"event":"shutdown","kind":"power-off","reason":"boot failed"}
qmp SHUTDOWN {"guest":true,"reason":"guest-shutdown"}
exit 0"#;
    let report = at_once(&[&until("disk"), error]);
    assert_red(
        &report,
        "init reports no error",
        "init: disk",
        "no block device",
        "the disk's driver",
    );
}

#[test]
fn services_that_are_broken() {
    let state = |state: &str, detail: &str| {
        format!(
            "event {{\"event\":\"service\",\"name\":\"web\",\"state\":\"{state}\",\"detail\":\"{detail}\"}}\n"
        )
    };
    let exits =
        state("exited", "exit status 1") + &state("failed", "exit status 1, not started again");
    let loops: String = (0..5)
        .map(|_| {
            state("exited", "exit status 1") + &state("backoff", "100 ms") + &state("started", "")
        })
        .chain([state("failed", "crash loop: ended 5 times in a row")])
        .collect();
    let slow = state("failed", "not ready within 30 s: Connection refused");
    for (script, check, line) in [
        (exits, "services are healthy", "exit status 1"),
        (loops, "no service crash loop", "ended 5 times in a row"),
        (slow, "services are healthy", "not ready within 30 s"),
    ] {
        let report = at_once(&[BOOT, LAYERS, &script, POWER_OFF]);
        assert_red(&report, check, "service web", line, "events.jsonl");
        assert!(passed(&report, "clean power-off"), "{report:#?}");
    }
    // One that init itself never gives up.
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_millis(600);
    let report = fixture.report(&[BOOT, LAYERS, "hang"]);
    assert_red(
        &report,
        "reached ready",
        "service web",
        "web is started",
        "`ready = …`",
    );
    // One that ends PID 1.
    let report = at_once(&[
        BOOT,
        LAYERS,
        r#"event {"event":"shutdown","kind":"power-off","reason":"signal TERM"}
event {"event":"end","clean":true}
sleep 100
qmp SHUTDOWN {"guest":true,"reason":"guest-shutdown"}
exit 0"#,
    ]);
    assert_red(
        &report,
        "reached ready",
        "init: services",
        "signal TERM",
        "who asked",
    );
}

#[test]
fn a_guest_that_claims_to_be_ready_and_is_not() {
    let liar = READY.replace("http well hello there", "");
    let mut fixture = Fixture::new();
    fixture.plan.checks[0].limit = Some(Duration::from_millis(800));
    let report = fixture.report(&[BOOT, LAYERS, &liar, POWER_OFF]);
    assert_red(&report, "serves the page", "probe", "GET /", "by hand");
    assert!(passed(&report, "reached ready") && passed(&report, "clean power-off"));
}

#[test]
fn a_guest_that_ends_at_each_moment_with_status_zero() {
    let end = "qmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\nexit 0";
    for phase in PHASES {
        let report = at_once(&[&until(phase), end]);
        let want = format!("init: {phase}");
        assert_red(&report, "reached ready", &want, "powered itself off", "");
    }
}
