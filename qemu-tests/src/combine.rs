//! One report of several: the parts of one plan that ran on several machines
//! ([`merge`]), or one plan that ran several times ([`repeated`]).
//!
//! Reports come from files that anybody may have written: a part is only taken if it
//! is of the same plan, image and tools as the first, and no verdict is believed to
//! be good that another part saw fail.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::report::{BootReport, Failure, Moment, Outcome, REPORT_SCHEMA, Verdict};
use crate::watch::built_in_checks;

/// More parts than this are a mistake.
const MOST_PARTS: u32 = 1000;

/// Why parts do not make a whole.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MergeError {
    /// Nothing to merge.
    #[error("there is no report to merge; name the --report folders of all shards")]
    None,
    /// A report of another version.
    #[error("{part}: its schema is {found}, not {REPORT_SCHEMA}; test again with this slipform")]
    Schema {
        /// Which report.
        part: String,
        /// Its schema.
        found: u32,
    },
    /// A report that is no part.
    #[error(
        "{part}: it is a whole report and no part; only reports of `slipform test --shard K/N` are merged"
    )]
    Whole {
        /// Which report.
        part: String,
    },
    /// A part of something else.
    #[error(
        "{part}: its {what} is {found}, but that of {first} is {want}; merge parts of one test only"
    )]
    Foreign {
        /// Which report.
        part: String,
        /// The one it was compared with.
        first: String,
        /// What differs.
        what: &'static str,
        /// Its value.
        found: String,
        /// The first one's.
        want: String,
    },
    /// One part is there twice.
    #[error("part {number} of {of} is there twice: {first} and {second}; leave one out")]
    Twice {
        /// Its number.
        number: u32,
        /// Number of parts.
        of: u32,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Parts are missing.
    #[error(
        "part {missing} of {of} is missing; run `slipform test --shard {missing}/{of}` and name its folder, too"
    )]
    Missing {
        /// The first that is missing.
        missing: u32,
        /// Number of parts.
        of: u32,
    },
    /// A report that contradicts itself.
    #[error("{part}: {what}; it is no report of this slipform, run that shard again")]
    Inconsistent {
        /// Which report.
        part: String,
        /// How.
        what: String,
    },
}

/// One report of the parts of a test; each comes with a name for messages.
///
/// # Errors
/// A part is missing, there twice, or of another image, plan or emulator.
pub fn merge(parts: &[(String, BootReport)]) -> Result<BootReport, MergeError> {
    let Some((first_name, first)) = parts.first() else {
        return Err(MergeError::None);
    };
    let of = shard(first_name, first)?.1;
    let mut ordered: Vec<Option<&(String, BootReport)>> = vec![None; of as usize];
    for part in parts {
        let (name, report) = part;
        let number = shard(name, report)?.0;
        consistent(name, report)?;
        same(name, report, first_name, first)?;
        let slot = ordered.get_mut(number as usize - 1);
        let Some(slot) = slot else {
            continue; // shard() has looked
        };
        if let Some((other, _)) = slot {
            return Err(MergeError::Twice {
                number,
                of,
                first: other.clone(),
                second: name.clone(),
            });
        }
        *slot = Some(part);
    }
    if let Some(at) = ordered.iter().position(Option::is_none) {
        let missing = u32::try_from(at).unwrap_or(u32::MAX) + 1;
        return Err(MergeError::Missing { missing, of });
    }
    let reports: Vec<&BootReport> = ordered.into_iter().flatten().map(|(_, r)| r).collect();
    let mut whole = fold(&reports, "part");
    whole.shard = None;
    whole.verdicts = built_in_checks()
        .map(|check| all_passed(&reports, check, "part"))
        .chain(users(&reports).cloned())
        .collect();
    Ok(settled(whole))
}

/// The user's verdicts in the plan's order: shards take them in turn.
fn users<'a>(parts: &'a [&BootReport]) -> impl Iterator<Item = &'a Verdict> {
    let skip = built_in_checks().count();
    let longest = parts.iter().map(|part| part.verdicts.len()).max();
    let rounds = skip..longest.unwrap_or(skip);
    rounds.flat_map(|at| parts.iter().filter_map(move |part| part.verdicts.get(at)))
}

/// One report of several runs of one plan: a check that did not always pass fails,
/// and one that passed sometimes is called FLAKY. None of no runs.
#[must_use]
pub fn repeated(runs: &[BootReport]) -> Option<BootReport> {
    let first = runs.first()?;
    if runs.len() == 1 {
        return Some(first.clone());
    }
    let all: Vec<&BootReport> = runs.iter().collect();
    let mut whole = fold(&all, "run");
    let checks = first.verdicts.iter().map(|verdict| verdict.check.as_str());
    whole.verdicts = checks.map(|check| counted(&all, check)).collect();
    Some(settled(whole))
}

/// `N of M passed`, and what the first other one saw.
fn counted(runs: &[&BootReport], check: &str) -> Verdict {
    let outcomes: Vec<Option<&Outcome>> = runs.iter().map(|run| outcome(run, check)).collect();
    let passed = |outcome: &&Option<&Outcome>| matches!(outcome, Some(Outcome::Passed(_)));
    let (good, of) = (outcomes.iter().filter(passed).count(), outcomes.len());
    let bad = outcomes.iter().position(|outcome| !passed(&outcome));
    let saw = bad.map(|at| {
        let text = match outcomes.get(at).copied().flatten() {
            Some(Outcome::Failed(text)) => text.as_str(),
            Some(Outcome::Skipped(text)) => text.as_str(),
            _ => "it has no verdict",
        };
        format!("run {}: {text}", at + 1)
    });
    let skipped = outcomes
        .iter()
        .all(|outcome| matches!(outcome, Some(Outcome::Skipped(_))));
    let outcome = match saw {
        None => Outcome::Passed(format!("{good} of {of} passed")),
        Some(saw) if skipped => Outcome::Skipped(saw),
        Some(saw) if good > 0 => Outcome::Failed(format!("FLAKY: {good} of {of} passed; {saw}")),
        Some(saw) => Outcome::Failed(format!("0 of {of} passed; {saw}")),
    };
    Verdict {
        check: check.to_owned(),
        outcome,
    }
}

fn outcome<'a>(report: &'a BootReport, check: &str) -> Option<&'a Outcome> {
    let mut verdicts = report.verdicts.iter();
    verdicts
        .find(|verdict| verdict.check == check)
        .map(|verdict| &verdict.outcome)
}

/// The verdict of a check that every part makes: the first that is not good.
fn all_passed(parts: &[&BootReport], check: &str, word: &str) -> Verdict {
    let numbered = || {
        let outcomes = parts.iter().map(|part| outcome(part, check));
        outcomes.enumerate().map(|(n, outcome)| (n + 1, outcome))
    };
    let failed = numbered().find_map(|(n, outcome)| match outcome {
        Some(Outcome::Failed(text)) => Some(Outcome::Failed(format!("{word} {n}: {text}"))),
        None => Some(Outcome::Failed(format!("{word} {n}: it has no verdict"))),
        _ => None,
    });
    let skipped = || {
        numbered().find_map(|(n, outcome)| match outcome {
            Some(Outcome::Skipped(text)) => Some(Outcome::Skipped(format!("{word} {n}: {text}"))),
            _ => None,
        })
    };
    let passed = || {
        let details = numbered().filter_map(|(n, outcome)| match outcome {
            Some(Outcome::Passed(text)) if !text.is_empty() => Some(format!("{word} {n}: {text}")),
            _ => None,
        });
        Outcome::Passed(details.collect::<Vec<_>>().join("; "))
    };
    Verdict {
        check: check.to_owned(),
        outcome: failed.or_else(skipped).unwrap_or_else(passed),
    }
}

/// Everything but the verdicts.
fn fold(reports: &[&BootReport], word: &str) -> BootReport {
    let mut whole = reports[0].clone();
    let max = |values: &mut dyn Iterator<Item = Option<f64>>| {
        values.flatten().fold(None, |most: Option<f64>, value| {
            Some(most.map_or(value, |most| most.max(value)))
        })
    };
    let named = |n: usize, failure: &Failure| Failure {
        line: format!("{} ({word} {})", failure.line, n + 1),
        ..failure.clone()
    };
    let numbered = || reports.iter().enumerate();
    let mut failures: Vec<Failure> = numbered()
        .flat_map(|(n, report)| report.failure.iter().map(move |f| named(n, f)))
        .collect();
    for (n, report) in numbered() {
        failures.extend(report.others.iter().map(|failure| named(n, failure)));
    }
    let mut seen = BTreeSet::new();
    failures.retain(|failure| seen.insert(failure.check.clone()));
    let mut failures = failures.into_iter();
    whole.failure = failures.next();
    whole.others = failures.collect();
    whole.timeline = numbered()
        .flat_map(|(n, report)| {
            report.timeline.iter().map(move |moment| Moment {
                seconds: moment.seconds,
                what: format!("{word} {}: {}", n + 1, moment.what),
            })
        })
        .collect();
    whole.boots = reports.iter().map(|report| report.boots).sum();
    whole.screen = None;
    whole.started = reports.iter().map(|r| r.started).min().unwrap_or(0);
    whole.attempt = reports.iter().map(|r| r.attempt).max().unwrap_or(1);
    whole.debug = reports.iter().any(|report| report.debug);
    whole.unprotected = reports.iter().filter_map(|report| report.unprotected).max();
    whole.slowdown = max(&mut reports.iter().map(|r| Some(r.slowdown))).unwrap_or(1.0);
    whole.ready_seconds = max(&mut reports.iter().map(|r| r.ready_seconds));
    whole.total_seconds = reports.iter().map(|report| report.total_seconds).sum();
    whole.init_rss_kib = reports
        .iter()
        .filter_map(|report| report.init_rss_kib)
        .max();
    let events = reports.iter().flat_map(|report| &report.events);
    whole.events = events.cloned().collect();
    whole
}

/// `passed` by the verdicts, and a failure where one is due.
fn settled(mut whole: BootReport) -> BootReport {
    let bad = whole
        .verdicts
        .iter()
        .find(|verdict| !matches!(verdict.outcome, Outcome::Passed(_)));
    whole.passed = bad.is_none() && whole.failure.is_none();
    if let (Some(verdict), None) = (bad, &whole.failure) {
        let text = match &verdict.outcome {
            Outcome::Passed(text) | Outcome::Failed(text) | Outcome::Skipped(text) => text,
        };
        whole.failure = Some(Failure {
            check: verdict.check.clone(),
            phase: "probe".to_owned(),
            line: format!("{:?}: {text}", verdict.check),
            console: Vec::new(),
            cause: "one of several runs differs".to_owned(),
            next: "look at the single reports".to_owned(),
        });
    }
    whole
}

fn shard(name: &str, report: &BootReport) -> Result<(u32, u32), MergeError> {
    let part = || name.to_owned();
    if report.schema != REPORT_SCHEMA {
        return Err(MergeError::Schema {
            part: part(),
            found: report.schema,
        });
    }
    match report.shard {
        None => Err(MergeError::Whole { part: part() }),
        Some((number, of)) if number == 0 || number > of || of > MOST_PARTS => {
            Err(MergeError::Inconsistent {
                part: part(),
                what: format!("it is part {number} of {of}"),
            })
        }
        Some(shard) => Ok(shard),
    }
}

/// The same test of the same image with the same tools.
fn same(
    name: &str,
    report: &BootReport,
    first_name: &str,
    first: &BootReport,
) -> Result<(), MergeError> {
    let of = |report: &BootReport| report.shard.map_or(0, |(_, of)| of).to_string();
    let text = |text: &str| text.to_owned();
    let pairs = [
        ("number of parts", of(report), of(first)),
        ("image", text(&report.image), text(&first.image)),
        ("name", text(&report.name), text(&first.name)),
        ("test plan", text(&report.plan), text(&first.plan)),
        ("disk", text(&report.disk_before), text(&first.disk_before)),
        (
            "boot path",
            format!("{:?}", report.boot),
            format!("{:?}", first.boot),
        ),
        (
            "accelerator",
            text(&report.accelerator),
            text(&first.accelerator),
        ),
        (
            "emulator",
            text(&report.emulator_digest),
            text(&first.emulator_digest),
        ),
        (
            "firmware",
            text(&report.firmware_digest),
            text(&first.firmware_digest),
        ),
        ("seed", report.seed.to_string(), first.seed.to_string()),
    ];
    match pairs.into_iter().find(|(_, found, want)| found != want) {
        None => Ok(()),
        Some((what, found, want)) => Err(MergeError::Foreign {
            part: name.to_owned(),
            first: first_name.to_owned(),
            what,
            found,
            want,
        }),
    }
}

/// What a report of this harness always fulfils.
fn consistent(name: &str, report: &BootReport) -> Result<(), MergeError> {
    let wrong = |what: &str| {
        Err(MergeError::Inconsistent {
            part: name.to_owned(),
            what: what.to_owned(),
        })
    };
    let names = report.verdicts.iter().map(|verdict| verdict.check.as_str());
    if !names.take(built_in_checks().count()).eq(built_in_checks()) {
        return wrong("it does not have the verdicts that every image gets");
    }
    let passed = |verdict: &Verdict| matches!(verdict.outcome, Outcome::Passed(_));
    let good = report.verdicts.iter().all(passed) && report.failure.is_none();
    if report.passed != good {
        return wrong("its result is not that of its verdicts");
    }
    if good && report.disk_before != report.disk_after {
        return wrong("its artifact changed, and it passed");
    }
    Ok(())
}
