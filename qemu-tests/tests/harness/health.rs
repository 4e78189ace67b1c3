//! The checks that every image gets, one by one; what an image is allowed; limits,
//! shards and pictures.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::*;
use slipform_init::contract::event::ServiceState;
use slipform_qemu_tests::{Allowance, Check, Outcome, Probe};

/// Lines of a kernel that each make one check red and leave the machine running.
const FINDINGS: [(&str, &str, &str); 5] = [
    (
        "no kernel WARNING",
        "console [    3.000000] WARNING: CPU: 0 PID: 1 at fs/namespace.c:12 cleanup_mnt+0x1/0x2",
        "[[allow]]",
    ),
    (
        "no out of memory",
        "console [    3.000000] Out of memory: Killed process 71 (web) total-vm:180000kB",
        "memory-mib",
    ),
    (
        "no segfault",
        "console [    3.000000] web[71]: segfault at 0 ip 0000555555555131 sp 00007ffd error 4",
        "libraries",
    ),
    (
        "no hung task",
        "console [  242.000000] INFO: task web:88 blocked for more than 120 seconds.",
        "call trace",
    ),
    (
        "no service crash loop",
        r#"event {"event":"service","name":"web","state":"failed","detail":"crash loop: ended 5 times in a row"}"#,
        "slipform.toml",
    ),
];

fn allowance(check: &str, expires: &str) -> Allowance {
    Allowance {
        check: check.into(),
        reason: "it is known".into(),
        expires: expires.into(),
    }
}

#[test]
fn each_finding_has_a_check_of_its_own() {
    for (check, step, next) in FINDINGS {
        let report = Fixture::new().report(&[BOOT, LAYERS, READY, step, POWER_OFF]);
        let Some(failure) = &report.failure else {
            panic!("green: {report:#?}");
        };
        assert_eq!(failure.check, check);
        assert!(failure.next.contains(next), "{failure:#?}");
        assert!(!failure.cause.is_empty());
        let red: Vec<&str> = report
            .verdicts
            .iter()
            .filter(|verdict| !matches!(verdict.outcome, Outcome::Passed(_)))
            .map(|verdict| verdict.check.as_str())
            .collect();
        assert_eq!(red, [check], "{report:#?}");
    }
    for (check, line) in [
        ("no oops", "Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI"),
        ("no kernel BUG", "kernel BUG at mm/slub.c:379!"),
        (
            "no I/O error",
            "I/O error, dev vda, sector 264192 op 0x0:(READ)",
        ),
    ] {
        let line = format!("console [    3.000000] {line}\nhang");
        let report = Fixture::new().report(&[BOOT, LAYERS, &line]);
        assert_red(&report, check, "init: services", "3.000000", "");
    }
}

#[test]
fn an_allowance_covers_its_finding_until_its_day() {
    for (check, step, _) in FINDINGS {
        let mut fixture = Fixture::new();
        fixture.plan.allowances = vec![allowance(check, "9999-12-31")];
        let report = fixture.report(&[BOOT, LAYERS, READY, step, POWER_OFF]);
        assert!(report.passed, "{report:#?}");
        let want = "allowed until 9999-12-31 because it is known: ";
        assert!(
            matches!(outcome(&report, check), Outcome::Passed(text) if text.starts_with(want)),
            "{report:#?}"
        );
    }
    // The healthy twin of an allowance that is over is red as well.
    for step in [FINDINGS[0].1, ""] {
        let mut fixture = Fixture::new();
        fixture.plan.allowances = vec![allowance(FINDINGS[0].0, "2020-01-31")];
        let report = fixture.report(&[BOOT, LAYERS, READY, step, POWER_OFF]);
        assert!(failed(&report, FINDINGS[0].0), "{report:#?}");
        let all = report.failure.iter().chain(&report.others);
        let mut expired = all.filter(|failure| failure.line.contains("until 2020-01-31"));
        assert!(
            step == FINDINGS[0].1 || expired.any(|failure| failure.phase == "allowance"),
            "{report:#?}"
        );
    }
}

#[test]
fn what_ends_a_machine_cannot_be_allowed() {
    let panic = "console [    3.000000] Kernel panic - not syncing: x\nhang";
    let end = "qmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\nexit 0";
    for (check, step) in [("no kernel panic", panic), ("clean power-off", end)] {
        let mut fixture = Fixture::new();
        fixture.plan.allowances = vec![allowance(check, "9999-12-31")];
        let report = fixture.report(&[BOOT, LAYERS, READY, step]);
        assert!(failed(&report, check), "{report:#?}");
    }
    // The power-off that was only unclean can.
    let mut fixture = Fixture::new();
    fixture.plan.allowances = vec![allowance("clean power-off", "9999-12-31")];
    let unclean = POWER_OFF.replace("\"clean\":true", "\"clean\":false");
    let report = fixture.report(&[BOOT, LAYERS, READY, &unclean]);
    assert!(report.passed, "{report:#?}");
}

#[test]
fn every_failure_is_explained() {
    let mut fixture = Fixture::new();
    fixture.plan.checks = vec![http("serves the page", "good morning")];
    let report = fixture.report(&[BOOT, LAYERS, READY, FINDINGS[2].1, POWER_OFF]);
    let checks: Vec<&str> = report
        .failure
        .iter()
        .chain(&report.others)
        .map(|failure| failure.check.as_str())
        .collect();
    assert_eq!(checks, ["no segfault", "serves the page"], "{report:#?}");
    let junit = fixture.evidence("junit.xml");
    assert!(
        junit.contains("failures=\"2\"") && junit.contains("died in: probe"),
        "{junit}"
    );
    // The fake has no screen; a picture that was not written is said to be none.
    assert!(
        report
            .screen
            .is_some_and(|text| text.starts_with("skipped: "))
    );
}

#[test]
fn a_screen_is_kept_of_a_red_machine() {
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(1);
    let report = fixture.report(&["screen", BOOT, "hang"]);
    assert_eq!(report.screen.as_deref(), Some("screen.png"));
    assert!(fixture.plan.evidence.join("screen.png").is_file());
}

#[test]
fn what_the_guest_says_is_checked_and_not_waited_for_long() {
    let mut fixture = Fixture::new();
    let console = |matches: &str| Probe::Console {
        matches: matches.into(),
    };
    let log = |service: &str, matches: &str| Probe::Log {
        service: service.into(),
        matches: matches.into(),
    };
    let absent = |matches: &str| Probe::ConsoleAbsent {
        matches: matches.into(),
    };
    let service = |state| Probe::Service {
        name: "web".into(),
        state,
    };
    fixture.plan.checks = vec![
        Check::new("never said", console("^never$")),
        Check::new("said", log("web", "^listening$")),
        Check::new("said by another", log("db", "^listening$")),
        Check::new("not said", absent("^never$")),
        Check::new("said all the same", absent("Linux version")),
        Check::new("is ready", service(ServiceState::Ready)),
        Check::new("is stopped", service(ServiceState::Stopped)),
    ];
    let start = Instant::now();
    let report = fixture.report(&[BOOT, LAYERS, READY, POWER_OFF]);
    // The state and the two lines are waited for two seconds each, the lines together.
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "{:?}",
        start.elapsed()
    );
    for check in ["said", "not said", "is ready"] {
        assert!(passed(&report, check), "{check}: {report:#?}");
    }
    for (check, text) in [
        ("never said", "no console line matches `^never$`"),
        ("said by another", "no line of service db matches"),
        ("said all the same", "Linux version 6.12"),
        ("is stopped", "web is ready, not stopped"),
    ] {
        let Outcome::Failed(saw) = outcome(&report, check) else {
            panic!("{check}: {report:#?}");
        };
        assert!(saw.contains(text), "{saw}");
    }
}

#[test]
fn an_answer_after_the_deadline_is_red_and_in_time_green() {
    let late = READY.replace("http well hello there", "sleep 1500\nhttp well hello there");
    let limits = [
        (Duration::from_millis(300), false),
        (Duration::from_secs(20), true),
    ];
    for (limit, green) in limits {
        let mut fixture = Fixture::new();
        fixture.plan.checks[0].limit = Some(limit);
        let report = fixture.report(&[BOOT, LAYERS, &late, POWER_OFF]);
        assert_eq!(report.passed, green, "{report:#?}");
        assert_eq!(passed(&report, "serves the page"), green);
    }
}

#[test]
fn a_shard_makes_its_part_of_the_users_checks() {
    let mut fixture = Fixture::new();
    fixture.plan.checks = (1..=5)
        .map(|n| http(&format!("check {n}"), "hello"))
        .collect();
    let whole = fixture.plan.digest();
    for (part, want) in [
        (1, vec!["check 1", "check 3", "check 5"]),
        (2, vec!["check 2", "check 4"]),
    ] {
        fixture.plan.run.shard = Some((part, 2));
        let report = fixture.report(&[BOOT, LAYERS, READY, POWER_OFF]);
        assert!(report.passed, "{report:#?}");
        let names = report.verdicts.iter().map(|verdict| verdict.check.as_str());
        let users: Vec<&str> = names.filter(|name| name.starts_with("check ")).collect();
        assert_eq!(users, want);
        assert_eq!((report.shard, &report.plan), (Some((part, 2)), &whole));
    }
    let left = fs::read_dir(&fixture.plan.evidence)
        .expect("evidence")
        .count();
    assert_eq!(left, 7);
}
