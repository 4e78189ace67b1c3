//! From what was seen to verdicts, and to the one reason that a red run names.

use crate::console::Kind;
use crate::phase::Stage;
use crate::report::{Failure, Outcome, Verdict};
use crate::watch::{BuiltIn, Cause, Problem};

use super::advice::advice;
use super::stages::Seen;

/// The judge's result.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) failure: Option<Failure>,
}

impl Judgement {
    pub(crate) fn of(seen: &Seen<'_>, unchanged: bool) -> Self {
        let mut verdicts = Vec::new();
        let mut late = Vec::new();
        for check in BuiltIn::ALL {
            let outcome = built_in(seen, check, unchanged);
            if let Some(problem) = unmet(seen, check, &outcome) {
                late.push(problem);
            }
            verdicts.push(Verdict {
                check: check.name().to_owned(),
                outcome,
            });
        }
        let mut first_check = None;
        for (n, check) in seen.plan.checks.iter().enumerate() {
            let outcome = match seen.outcomes.get(n) {
                Some(Some(outcome)) => outcome.clone(),
                _ => Outcome::Skipped(why_skipped(seen)),
            };
            if let (Outcome::Failed(text), None) = (&outcome, &first_check) {
                first_check = Some(format!("check {:?}: {text}", check.name));
            }
            verdicts.push(Verdict {
                check: check.name.clone(),
                outcome,
            });
        }
        if let Some(line) = first_check {
            // In time it lies before the power-off and the digest.
            let problem = Problem {
                check: BuiltIn::Ready,
                cause: Cause::Check,
                phase: "probe".to_owned(),
                line,
                deadly: false,
                minor: false,
            };
            late.insert(0, problem);
        }
        let failure = failure(seen, &verdicts, &late);
        Self { verdicts, failure }
    }
}

/// The first weighty problem in time, else what was not met, else the first minor one.
fn failure(seen: &Seen<'_>, verdicts: &[Verdict], late: &[Problem]) -> Option<Failure> {
    let problems = &seen.watch.problems;
    let unchecked = || {
        let skipped = verdicts.iter().find_map(|verdict| match &verdict.outcome {
            Outcome::Skipped(text) => Some(format!("{:?} was skipped: {text}", verdict.check)),
            _ => None,
        })?;
        Some(Problem {
            check: BuiltIn::Ready,
            cause: Cause::Unchecked,
            phase: seen.watch.stage.name(),
            line: skipped,
            deadly: false,
            minor: true,
        })
    };
    let problem = deciding(problems)
        .or_else(|| late.first())
        .or_else(|| problems.first())
        .cloned()
        .or_else(unchecked)?;
    Some(Failure {
        next: advice(&problem, seen),
        phase: problem.phase,
        line: problem.line,
        console: seen.watch.lines.last(),
    })
}

/// The first weighty problem that tells a reason. Console, report and monitor are
/// ways of their own, so what comes first is not always the reason: that a guest
/// ended says less than anything else it said, and a damaged disk may be told
/// after what init could not do because of it.
fn deciding(problems: &[Problem]) -> Option<&Problem> {
    let weighty = || problems.iter().filter(|problem| !problem.minor);
    let only_end = |problem: &&Problem| {
        matches!(
            problem.cause,
            Cause::Ended | Cause::Emulator | Cause::Pvpanic
        )
    };
    let first = weighty()
        .find(|problem| !only_end(problem))
        .or_else(|| weighty().next())?;
    let follows = matches!(first.cause, Cause::Init(_) | Cause::Console(Kind::InitDied));
    let damage = |problem: &&Problem| {
        matches!(
            problem.cause,
            Cause::Console(Kind::Verity | Kind::Io | Kind::Initramfs)
        )
    };
    weighty().find(damage).filter(|_| follows).or(Some(first))
}

/// A failed verdict that no problem of the watch stands for.
fn unmet(seen: &Seen<'_>, check: BuiltIn, outcome: &Outcome) -> Option<Problem> {
    let Outcome::Failed(text) = outcome else {
        return None;
    };
    if seen
        .watch
        .problems
        .iter()
        .any(|problem| problem.check == check)
    {
        return None;
    }
    let (cause, phase) = match check {
        BuiltIn::PowerOff => (Cause::PowerOff, "power-off".to_owned()),
        BuiltIn::Artifact => (Cause::Artifact, "artifact".to_owned()),
        BuiltIn::Kernel => (Cause::Silent, "kernel".to_owned()),
        _ => (
            Cause::Unchecked,
            Stage::Init(slipform_init::contract::event::Phase::Running).name(),
        ),
    };
    Some(Problem {
        check,
        cause,
        phase,
        line: format!("{}: {text}", check.name()),
        deadly: false,
        minor: false,
    })
}

fn why_skipped(seen: &Seen<'_>) -> String {
    match seen.watch.problems.iter().find(|problem| problem.deadly) {
        Some(problem) => format!("the run had ended before: {}", problem.line),
        None => "the machine never got ready".to_owned(),
    }
}

fn built_in(seen: &Seen<'_>, check: BuiltIn, unchanged: bool) -> Outcome {
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
            Some(seconds) => Outcome::Passed(format!("after {seconds:.1} s")),
            None => Outcome::Failed(why_skipped(seen)),
        },
        BuiltIn::Kernel | BuiltIn::Storage if stage < Stage::Kernel => {
            Outcome::Skipped("the kernel was never reached".to_owned())
        }
        BuiltIn::Kernel if !seen.watch.console_spoke => {
            let text = "the serial console showed nothing of kernel or init, a panic would not have been seen";
            match seen.watch.ready {
                Some(_) => Outcome::Failed(text.to_owned()),
                None => Outcome::Skipped(text.to_owned()),
            }
        }
        BuiltIn::Kernel => Outcome::Passed(match seen.watch.notes.as_slice() {
            [] => String::new(),
            notes => format!(
                "{} stalls, as on slow hosts: {}",
                notes.len(),
                notes.first().map_or("", String::as_str)
            ),
        }),
        BuiltIn::Storage => Outcome::Passed(String::new()),
        BuiltIn::ReadOnly => match (&seen.watch.root_write, seen.watch.ready) {
            (Some((_, detail)), _) => Outcome::Passed(detail.clone()),
            (None, Some(_)) => {
                Outcome::Failed("init got ready without reporting an attempt to write to /".into())
            }
            (None, None) => Outcome::Skipped(why_skipped(seen)),
        },
        BuiltIn::Layers => layers(seen),
        BuiltIn::Services | BuiltIn::Init | BuiltIn::Report if seen.watch.records.is_empty() => {
            Outcome::Skipped("init never spoke".to_owned())
        }
        BuiltIn::Services if seen.watch.ready.is_none() => Outcome::Skipped(why_skipped(seen)),
        BuiltIn::Services => Outcome::Passed(seen.watch.services.summary()),
        BuiltIn::Init => Outcome::Passed(String::new()),
        BuiltIn::Report => Outcome::Passed(format!("{} events", seen.watch.records.len())),
        BuiltIn::PowerOff => power_off(seen),
        BuiltIn::Artifact if unchanged => Outcome::Passed(String::new()),
        BuiltIn::Artifact => {
            Outcome::Failed("its digest or its times are others than before the boot".into())
        }
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
        wrong.push(format!("the power button could not be pressed: {text}"));
    }
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
        (Some("guest-shutdown"), Some(_)) => {}
        (Some("guest-shutdown"), None) => wrong.push("QEMU did not end".to_owned()),
        (Some(reason), _) => wrong.push(format!(
            "QEMU gives the reason {reason}, not guest-shutdown"
        )),
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
