//! `slipform test` and `slipform run`.

use anyhow::Context;
use slipform_qemu_tests::{BootReport, ExitKind, Outcome};

use super::args::{Cli, Run, Test};
use super::build::{cast_all, write};
use super::{BadInput, Done, print, print_json, settings};
use crate::output::OutputFormat;
use crate::pipeline::{Sweeps, load, tell_report};

/// Casts, boots, probes, prints the verdicts.
pub(crate) fn run(cli: &Cli, verb: &Test) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let mut request = verb.sweeping.request()?;
    if verb.direct && !request.is_empty() {
        let text = "a sweep boots by firmware; leave --direct out";
        return Err(BadInput(text.to_owned()).into());
    }
    let image = load(&verb.casting.dir)?;
    let (emulator, made) = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let emulator = settings.emulator(&image, &verb.emulating.qemu)?;
        let made = casts.into_iter().map(|cast| {
            let raw = write(&settings, &image, &cast, OutputFormat::Raw, &verb.casting)?;
            anyhow::Ok((cast, raw))
        });
        anyhow::Ok((emulator, made.collect::<Result<Vec<_>, _>>()?))
    })?;
    let (mut reports, mut swept) = (Vec::new(), Vec::new());
    for (cast, artifact) in &made {
        let folder = match &verb.report {
            Some(folder) => folder.clone(),
            None => artifact
                .path
                .with_file_name(format!("boot-{}", cast.board.name)),
        };
        let mut plan = settings.plan(&image, cast, artifact, &folder);
        if verb.direct {
            plan.boot = settings.direct(cast, &folder)?;
        }
        let mut report = settings.boot(&plan, &emulator, &verb.emulating.accel)?;
        if !cli.json {
            print(&verdicts(&report, &folder))?;
        }
        // What does not boot as it is teaches nothing when it is changed.
        if report.passed && !request.is_empty() {
            request.ready_seconds = report.ready_seconds;
            let sweeps = settings.sweep(&plan, &emulator, &verb.emulating.accel, &request)?;
            tell_report(&mut report, &sweeps, request.seed, &folder)?;
            if !cli.json {
                print(&sweeps.text())?;
            }
            swept.push(sweeps);
        }
        reports.push(report);
    }
    let passed = reports.iter().all(|report| report.passed) && swept.iter().all(Sweeps::passed);
    if cli.json {
        let mut json = serde_json::json!({ "passed": passed, "reports": reports });
        if !swept.is_empty() {
            json["sweeps"] = serde_json::to_value(&swept)?;
        }
        print_json(&json)?;
    }
    Ok(if passed { Done::Good } else { Done::Red })
}

/// The report for people.
fn verdicts(report: &BootReport, folder: &std::path::Path) -> String {
    let mut text = String::new();
    for verdict in &report.verdicts {
        let (word, detail) = match &verdict.outcome {
            Outcome::Passed(detail) => ("passed ", detail),
            Outcome::Failed(detail) => ("FAILED ", detail),
            Outcome::Skipped(detail) => ("skipped", detail),
        };
        text.push_str(&format!("  {word}  {}", verdict.check));
        text.push_str(&if detail.is_empty() {
            "\n".to_owned()
        } else {
            format!(": {detail}\n")
        });
    }
    if let Some(failure) = &report.failure {
        text.push_str(&format!(
            "\ndied in: {}\nbecause: {}\n",
            failure.phase, failure.line
        ));
        if !failure.console.is_empty() {
            text.push_str("last lines of the console:\n");
            for line in &failure.console {
                text.push_str(&format!("  | {line}\n"));
            }
        }
        text.push_str(&format!(
            "next:    {}\nkept in: {}\n",
            failure.next,
            folder.display()
        ));
    }
    let ready = report
        .ready_seconds
        .map(|s| format!(", ready after {s:.1} s"))
        .unwrap_or_default();
    let word = if report.passed { "PASSED" } else { "FAILED" };
    text.push_str(&format!(
        "\n{word}  {} in {:.1} s{ready} ({}, {})\n",
        report.name, report.total_seconds, report.accelerator, report.emulator
    ));
    text
}

/// Boots for a person.
pub(crate) fn interactive(cli: &Cli, verb: &Run) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.casting.dir)?;
    let (emulator, cast, artifact) = settings.healed(|| {
        let (_, casts) = cast_all(&settings, &image, &verb.casting)?;
        let cast = casts.into_iter().next();
        let cast = cast.context("there is no board to run")?;
        let emulator = settings.emulator(&image, &verb.emulating.qemu)?;
        let raw = write(&settings, &image, &cast, OutputFormat::Raw, &verb.casting)?;
        anyhow::Ok((emulator, cast, raw))
    })?;
    let folder = artifact
        .path
        .with_file_name(format!("run-{}", cast.board.name));
    let mut plan = settings.plan(&image, &cast, &artifact, &folder);
    plan.publish.clone_from(&verb.publish);
    match settings.interactive(&plan, &emulator, &verb.emulating.accel)? {
        ExitKind::Died(reason) => anyhow::bail!("the machine died: {reason}"),
        ExitKind::PoweredOff | ExitKind::Asked | ExitKind::Killed => Ok(Done::Good),
    }
}
