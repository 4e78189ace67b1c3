//! What every red report must hold, whatever broke.

use std::fs;

use slipform_qemu_tests::{BootReport, Outcome, Plan};

/// Files of the evidence folder.
const EVIDENCE: [&str; 7] = [
    "console.log",
    "events.jsonl",
    "junit.xml",
    "qemu.cmdline",
    "qemu.stderr",
    "report.json",
    "timeline.txt",
];

/// How and why a machine failed.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    /// The phase as a whole.
    pub(crate) phase: &'a str,
    /// Each must be in the line that names the cause.
    pub(crate) line: &'a [&'a str],
    /// Must be in the advice.
    pub(crate) next: &'a str,
    /// A check that must have failed.
    pub(crate) failed: &'a str,
}

/// The run was green.
#[track_caller]
pub(crate) fn assert_green(plan: &Plan, report: &BootReport) {
    let all = report
        .verdicts
        .iter()
        .all(|verdict| matches!(verdict.outcome, Outcome::Passed(_)));
    assert!(
        report.passed && all && report.failure.is_none(),
        "{}",
        tell(plan, report)
    );
    assert_eq!(report.accelerator, "tcg");
    assert_eq!(report.disk_before, report.disk_after);
    assert!(
        report.init_rss_kib.is_some_and(|kib| kib > 0),
        "{}",
        tell(plan, report)
    );
}

/// The run was red, for the right reason, at once, and left its evidence.
#[track_caller]
pub(crate) fn assert_red(plan: &Plan, report: &BootReport, expected: &Expected<'_>) {
    let tell = || format!("expected {expected:#?}\n{}", tell(plan, report));
    assert!(!report.passed, "{}", tell());
    let failure = report
        .failure
        .as_ref()
        .unwrap_or_else(|| panic!("{}", tell()));
    assert_eq!(failure.phase, expected.phase, "{}", tell());
    for part in expected.line {
        assert!(failure.line.contains(part), "no {part:?}: {}", tell());
    }
    assert!(failure.next.contains(expected.next), "{}", tell());
    assert!(
        !failure.cause.is_empty() && report.timeline.len() > 1,
        "{}",
        tell()
    );
    assert!(failure.console.len() <= 30, "{}", tell());
    let verdict = report
        .verdicts
        .iter()
        .find(|verdict| verdict.check == expected.failed)
        .unwrap_or_else(|| panic!("{}", tell()));
    assert!(matches!(verdict.outcome, Outcome::Failed(_)), "{}", tell());
    // By its end, not by its time limit.
    let limit = plan.ready_limit.as_secs_f64() * report.slowdown;
    assert!(
        report.total_seconds < limit / 2.0,
        "limit {limit} s: {}",
        tell()
    );
    assert_eq!(report.disk_before, report.disk_after, "{}", tell());
    for name in EVIDENCE {
        assert!(plan.evidence.join(name).is_file(), "no {name}: {}", tell());
    }
    let kept = fs::read(plan.evidence.join("report.json")).expect("the kept report");
    let kept: BootReport = serde_json::from_slice(&kept).expect("the kept report's JSON");
    assert_eq!(kept.failure, report.failure);
}

/// The report without its events, and where the evidence lies.
pub(crate) fn tell(plan: &Plan, report: &BootReport) -> String {
    let verdicts: Vec<_> = report
        .verdicts
        .iter()
        .map(|verdict| format!("{}: {:?}", verdict.check, verdict.outcome))
        .collect();
    format!(
        "{} in {:.1} s (evidence: {})\n{}\n{:#?}",
        report.name,
        report.total_seconds,
        plan.evidence.display(),
        verdicts.join("\n"),
        report.failure
    )
}
