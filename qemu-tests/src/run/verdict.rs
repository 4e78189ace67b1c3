//! From what was seen to verdicts, and to the reasons that a red run names.

use slipform_init::contract::event::Phase;

use crate::console::Kind;
use crate::phase::Stage;
use crate::plan::Allowance;
use crate::report::{Failure, Outcome, Verdict};
use crate::watch::{BuiltIn, Cause, Problem};

use super::advice::advice;
use super::cause::cause;
use super::stages::Seen;

/// What the judge looks at.
pub(crate) struct Whole<'a> {
    /// Every boot, in order; one at least.
    pub(crate) boots: Vec<Seen<'a>>,
    /// What came of the user's checks.
    pub(crate) outcomes: &'a [Option<Outcome>],
    /// Nobody touched the artifact.
    pub(crate) unchanged: bool,
    /// `YYYY-MM-DD`.
    pub(crate) today: &'a str,
}

/// The judge's result.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) verdicts: Vec<Verdict>,
    /// What decided, then what else is wrong.
    pub(crate) failures: Vec<Failure>,
}

/// A problem, the boot that has it, and the verdict that it makes red.
#[derive(Debug, Clone)]
struct Wrong {
    check: String,
    boot: usize,
    problem: Problem,
}

impl Judgement {
    pub(crate) fn of(whole: &Whole<'_>) -> Self {
        let Some(last) = whole.boots.last() else {
            return Self {
                verdicts: Vec::new(),
                failures: Vec::new(),
            };
        };
        let mut verdicts = Vec::new();
        let (mut users, mut unmet) = (Vec::new(), Vec::new());
        for check in BuiltIn::ALL {
            let outcome = allowed(whole, check, over_boots(whole, check));
            unmet.extend(unmet_by(whole, check, &outcome));
            verdicts.push(Verdict {
                check: check.name().to_owned(),
                outcome,
            });
        }
        for (n, check) in last.plan.checks.iter().enumerate() {
            if !super::checks::is_ours(last.plan, n) {
                continue;
            }
            let outcome = match whole.outcomes.get(n) {
                Some(Some(outcome)) => outcome.clone(),
                _ => Outcome::Skipped(why_skipped(last)),
            };
            if let Outcome::Failed(text) = &outcome {
                let line = format!("check {:?}: {text}", check.name);
                users.push(Wrong {
                    check: check.name.clone(),
                    boot: whole.boots.len() - 1,
                    problem: late(BuiltIn::Ready, Cause::Check, "probe", line),
                });
            }
            verdicts.push(Verdict {
                check: check.name.clone(),
                outcome,
            });
        }
        // In time the users' checks lie before the power-off and the digest.
        users.extend(unmet);
        let failures = failures(whole, &verdicts, &users);
        Self { verdicts, failures }
    }
}

/// The deciding one first: the first weighty problem in time, else what was not met,
/// else the first minor one; then one for each further red verdict.
fn failures(whole: &Whole<'_>, verdicts: &[Verdict], late: &[Wrong]) -> Vec<Failure> {
    let found = found(whole, verdicts);
    let problems: Vec<Problem> = found.iter().map(|wrong| wrong.problem.clone()).collect();
    let decided = deciding(&problems).map(|at| found[at].clone());
    let first = decided
        .or_else(|| late.first().cloned())
        .or_else(|| found.first().cloned())
        .or_else(|| unchecked(whole, verdicts));
    let Some(first) = first else {
        return Vec::new();
    };
    // What could not be looked at because of the first says nothing of its own.
    let follows = |wrong: &&Wrong| {
        wrong.problem.cause != Cause::Unchecked || first.problem.cause == Cause::Unchecked
    };
    let mut all = vec![first.clone()];
    for wrong in found.iter().chain(late).filter(follows) {
        if !all.iter().any(|other| other.check == wrong.check) {
            all.push(wrong.clone());
        }
    }
    let told = all.into_iter().enumerate();
    told.filter_map(|(n, wrong)| {
        let seen = whole.boots.get(wrong.boot)?;
        let boot = match whole.boots.len() {
            1 => String::new(),
            _ => format!(" (boot {})", wrong.boot + 1),
        };
        Some(Failure {
            cause: cause(&wrong.problem),
            next: advice(&wrong.problem, seen),
            check: wrong.check,
            phase: wrong.problem.phase,
            line: format!("{}{boot}", wrong.problem.line),
            console: match n {
                0 => seen.watch.lines.last(),
                _ => Vec::new(),
            },
        })
    })
    .collect()
}

/// The problems of all boots whose verdicts are red: not those that are allowed.
fn found(whole: &Whole<'_>, verdicts: &[Verdict]) -> Vec<Wrong> {
    let red = |problem: &Problem| {
        let of_it = |verdict: &&Verdict| verdict.check == problem.check.name();
        let verdict = verdicts.iter().find(of_it);
        verdict.is_some_and(|verdict| matches!(verdict.outcome, Outcome::Failed(_)))
    };
    let boots = whole.boots.iter().enumerate();
    boots
        .flat_map(|(boot, seen)| seen.watch.problems.iter().map(move |p| (boot, p)))
        .filter(|(_, problem)| red(problem))
        .map(|(boot, problem)| Wrong {
            check: problem.check.name().to_owned(),
            boot,
            problem: problem.clone(),
        })
        .collect()
}

fn unchecked(whole: &Whole<'_>, verdicts: &[Verdict]) -> Option<Wrong> {
    let (check, text) = verdicts.iter().find_map(|verdict| match &verdict.outcome {
        Outcome::Skipped(text) => Some((&verdict.check, text)),
        _ => None,
    })?;
    let boot = whole.boots.len() - 1;
    let phase = whole.boots[boot].watch.stage.name();
    let line = format!("{check:?} was skipped: {text}");
    Some(Wrong {
        check: check.clone(),
        boot,
        problem: late(BuiltIn::Ready, Cause::Unchecked, &phase, line),
    })
}

fn late(check: BuiltIn, cause: Cause, phase: &str, line: String) -> Problem {
    Problem {
        check,
        cause,
        phase: phase.to_owned(),
        line,
        deadly: false,
        minor: false,
    }
}

/// The verdict over all boots: red if one is, skipped if one is.
fn over_boots(whole: &Whole<'_>, check: BuiltIn) -> Outcome {
    let several = whole.boots.len() > 1;
    let outcomes: Vec<(usize, Outcome)> = whole
        .boots
        .iter()
        .enumerate()
        .filter_map(|(n, seen)| Some((n + 1, built_in(seen, check, whole.unchanged)?)))
        .collect();
    let bad = outcomes
        .iter()
        .find(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
        .or_else(|| {
            let skipped = |(_, outcome): &&(usize, Outcome)| matches!(outcome, Outcome::Skipped(_));
            outcomes.iter().find(skipped)
        });
    match bad {
        Some((n, Outcome::Failed(text))) if several => Outcome::Failed(format!("boot {n}: {text}")),
        Some((n, Outcome::Skipped(text))) if several => {
            Outcome::Skipped(format!("boot {n}: {text}"))
        }
        Some((_, outcome)) => outcome.clone(),
        None => {
            let details: Vec<String> = outcomes
                .into_iter()
                .filter_map(|(n, outcome)| match outcome {
                    Outcome::Passed(detail) if several && !detail.is_empty() => {
                        Some(format!("boot {n}: {detail}"))
                    }
                    Outcome::Passed(detail) => Some(detail),
                    _ => None,
                })
                .filter(|detail| !detail.is_empty())
                .collect();
            Outcome::Passed(details.join("; "))
        }
    }
}

/// The verdict once the image's allowances are looked at: one that is over is red by
/// itself, lest it stay for ever; one that holds covers what did not end the machine.
fn allowed(whole: &Whole<'_>, check: BuiltIn, outcome: Outcome) -> Outcome {
    let plan = whole.boots.first().map(|seen| seen.plan);
    let mut allowances = plan.into_iter().flat_map(|plan| &plan.allowances);
    let Some(allowance) = allowances.find(|allowance| allowance.check == check.name()) else {
        return outcome;
    };
    let Allowance {
        expires, reason, ..
    } = allowance;
    if whole.today > expires.as_str() {
        return Outcome::Failed(format!(
            "it was allowed to fail until {expires} because {reason}: that is over, take the [[allow]] out of slipform.toml or give it a new date"
        ));
    }
    let deadly = whole.boots.iter().any(|seen| {
        let mut problems = seen.watch.problems.iter();
        problems.any(|problem| problem.check == check && problem.deadly)
    });
    match outcome {
        Outcome::Failed(text) if BuiltIn::ALLOWABLE.contains(&check) && !deadly => {
            Outcome::Passed(format!("allowed until {expires} because {reason}: {text}"))
        }
        outcome => outcome,
    }
}

/// The first weighty problem that tells a reason. Console, report and monitor are
/// ways of their own, so what comes first is not always the reason: that a guest
/// ended says less than anything else it said, and a damaged disk may be told
/// after what init could not do because of it.
fn deciding(problems: &[Problem]) -> Option<usize> {
    let weighty = || {
        let numbered = problems.iter().enumerate();
        numbered.filter(|(_, problem)| !problem.minor)
    };
    let only_end = |(_, problem): &(usize, &Problem)| {
        matches!(
            problem.cause,
            Cause::Ended | Cause::Emulator | Cause::Pvpanic
        )
    };
    let (at, first) = weighty()
        .find(|numbered| !only_end(numbered))
        .or_else(|| weighty().next())?;
    let follows = matches!(first.cause, Cause::Init(_) | Cause::Console(Kind::InitDied));
    let damage = |(_, problem): &(usize, &Problem)| {
        matches!(
            problem.cause,
            Cause::Console(Kind::Verity | Kind::Io | Kind::Initramfs)
        )
    };
    let damaged = weighty().find(damage).filter(|_| follows);
    Some(damaged.map_or(at, |(at, _)| at))
}

/// A failed verdict that no problem of a watch stands for.
fn unmet_by(whole: &Whole<'_>, check: BuiltIn, outcome: &Outcome) -> Option<Wrong> {
    let Outcome::Failed(text) = outcome else {
        return None;
    };
    let stands = |seen: &Seen<'_>| {
        let mut problems = seen.watch.problems.iter();
        problems.any(|problem| problem.check == check)
    };
    let over = text.starts_with("it was allowed to fail until");
    if !over && whole.boots.iter().any(stands) {
        return None;
    }
    let running = Stage::Init(Phase::Running).name();
    let (cause, phase) = match check {
        _ if over => (Cause::Expired, "allowance"),
        BuiltIn::PowerOff => (Cause::PowerOff, "power-off"),
        BuiltIn::Artifact => (Cause::Artifact, "artifact"),
        BuiltIn::Panic => (Cause::Silent, "kernel"),
        _ => (Cause::Unchecked, running.as_str()),
    };
    Some(Wrong {
        check: check.name().to_owned(),
        boot: whole.boots.len() - 1,
        problem: late(check, cause, phase, format!("{}: {text}", check.name())),
    })
}

fn why_skipped(seen: &Seen<'_>) -> String {
    match seen.watch.problems.iter().find(|problem| problem.deadly) {
        Some(problem) => format!("the run had ended before: {}", problem.line),
        None => "the machine never got ready".to_owned(),
    }
}

/// The verdict of one boot; none where there is nothing to judge.
fn built_in(seen: &Seen<'_>, check: BuiltIn, unchanged: bool) -> Option<Outcome> {
    if seen.cut && check == BuiltIn::PowerOff {
        return None;
    }
    Some(judged(seen, check, unchanged))
}

fn judged(seen: &Seen<'_>, check: BuiltIn, unchanged: bool) -> Outcome {
    if let Some(problem) = seen
        .watch
        .problems
        .iter()
        .find(|problem| problem.check == check)
    {
        return Outcome::Failed(format!("{}: {}", problem.phase, problem.line));
    }
    let stage = seen.watch.stage;
    match check {
        BuiltIn::Ready => match seen.ready_seconds {
            Some(seconds) if seen.bios => {
                Outcome::Passed(format!("by its BIOS after {seconds:.1} s"))
            }
            Some(seconds) => Outcome::Passed(format!("after {seconds:.1} s")),
            None => Outcome::Failed(why_skipped(seen)),
        },
        _ if check.is_of_kernel() && stage < Stage::Kernel => {
            Outcome::Skipped("the kernel was never reached".to_owned())
        }
        BuiltIn::Panic if !seen.watch.console_spoke => {
            let text = "the serial console showed nothing of kernel or init, a panic would not have been seen";
            match seen.watch.ready {
                Some(_) => Outcome::Failed(text.to_owned()),
                None => Outcome::Skipped(text.to_owned()),
            }
        }
        BuiltIn::HungTask => Outcome::Passed(match seen.watch.notes.as_slice() {
            [] => String::new(),
            notes => format!(
                "{} stalls, as on slow hosts: {}",
                notes.len(),
                notes.first().map_or("", String::as_str)
            ),
        }),
        _ if check.is_of_kernel() => Outcome::Passed(String::new()),
        BuiltIn::ReadOnly => match (&seen.watch.root_write, seen.watch.ready) {
            (Some((_, detail)), _) => Outcome::Passed(detail.clone()),
            (None, Some(_)) => {
                Outcome::Failed("init got ready without reporting an attempt to write to /".into())
            }
            (None, None) => Outcome::Skipped(why_skipped(seen)),
        },
        BuiltIn::Layers => layers(seen),
        BuiltIn::Services | BuiltIn::CrashLoop | BuiltIn::Init | BuiltIn::Report
            if seen.watch.records.is_empty() =>
        {
            Outcome::Skipped("init never spoke".to_owned())
        }
        BuiltIn::Services | BuiltIn::CrashLoop if seen.watch.ready.is_none() => {
            Outcome::Skipped(why_skipped(seen))
        }
        BuiltIn::CrashLoop => Outcome::Passed(String::new()),
        BuiltIn::Services => Outcome::Passed(seen.watch.services.summary()),
        BuiltIn::Init => Outcome::Passed(String::new()),
        BuiltIn::Report => Outcome::Passed(format!("{} events", seen.watch.records.len())),
        BuiltIn::PowerOff => power_off(seen),
        BuiltIn::Artifact if unchanged => Outcome::Passed(String::new()),
        // All others are the kernel's.
        _ => Outcome::Failed("its digest or its times are others than before the boot".into()),
    }
}

fn layers(seen: &Seen<'_>) -> Outcome {
    let (want, got) = (seen.plan.layers.len(), seen.watch.layers_seen.len());
    if want == 0 {
        return Outcome::Skipped("the plan names no layers".to_owned());
    }
    if got == want {
        return Outcome::Passed(format!("{got} layers"));
    }
    if seen.watch.ready.is_none() {
        return Outcome::Skipped(why_skipped(seen));
    }
    let missing: Vec<&str> = seen.plan.layers[got.min(want)..]
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    Outcome::Failed(format!(
        "init got ready without reporting as verified: {}",
        missing.join(", ")
    ))
}

fn power_off(seen: &Seen<'_>) -> Outcome {
    let Some(power_off) = seen.power_off else {
        return Outcome::Skipped(why_skipped(seen));
    };
    let watch = seen.watch;
    let mut wrong = Vec::new();
    if let Some(text) = &power_off.refused {
        wrong.push(format!("the request could not be made: {text}"));
    }
    let reason = if power_off.reboot {
        "guest-reset"
    } else {
        "guest-shutdown"
    };
    match (power_off.asked_by_report, &watch.shutdown) {
        (false, Some(_)) => {}
        (false, None) => wrong.push("init did not report a shutdown".to_owned()),
        (true, None) => wrong
            .push("init ignored the power button and the command on the report channel".to_owned()),
        (true, Some(_)) => wrong.push(
            "init ignored the power button, but took the command on the report channel".to_owned(),
        ),
    }
    match watch.end {
        Some(true) => {}
        Some(false) => wrong.push("init reports that something was left behind".to_owned()),
        None => wrong.push("init's last word did not come".to_owned()),
    }
    match (watch.machine_end.as_deref(), &watch.exited) {
        (Some(told), _) if told != reason => {
            wrong.push(format!("QEMU gives the reason {told}, not {reason}"));
        }
        // Before a reboot the harness holds the machine.
        (Some(_), Some(_)) => {}
        (Some(_), None) if power_off.reboot => {}
        (Some(_), None) => wrong.push("QEMU did not end".to_owned()),
        (None, Some(status)) => wrong.push(format!(
            "QEMU ended with {status} without a shutdown of the guest"
        )),
        (None, None) => wrong.push(format!(
            "the machine still ran after {:.0} s",
            seen.limits.power_off.as_secs_f64()
        )),
    }
    if wrong.is_empty() {
        return Outcome::Passed(format!("in {:.1} s", power_off.seconds));
    }
    Outcome::Failed(wrong.join("; "))
}
