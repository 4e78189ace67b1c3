//! `slipform report`, and reports for people.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use slipform_qemu_tests::{BootReport, Failure, Outcome, merge, write_report};

use super::args::{Cli, Merge, Report, ReportVerb};
use super::{BadInput, Done, print, print_json};

/// No report is longer, in bytes: its events are bounded, and its console.
const LONGEST: u64 = 256 << 20;
/// More of a timeline is in its file.
const MOMENTS: usize = 40;
/// The report's file.
const FILE: &str = "report.json";

/// Runs the verb.
pub(crate) fn run(cli: &Cli, verb: &Report) -> anyhow::Result<Done> {
    match &verb.verb {
        ReportVerb::Merge(verb) => merged(cli, verb),
    }
}

fn merged(cli: &Cli, verb: &Merge) -> anyhow::Result<Done> {
    let mut boards: BTreeMap<PathBuf, Vec<(String, BootReport)>> = BTreeMap::new();
    for dir in &verb.dirs {
        for board in reports_in(dir)? {
            let path = dir.join(&board).join(FILE);
            let report = read(&path)?;
            let parts = boards.entry(board).or_default();
            parts.push((path.display().to_string(), report));
        }
    }
    let mut wholes = Vec::new();
    for (board, parts) in &boards {
        let whole = merge(parts).map_err(|error| BadInput(error.to_string()))?;
        wholes.push((verb.out.join(board), whole));
    }
    // Nothing is written before all parts of all boards have been found good.
    for (folder, whole) in &wholes {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        write_report(whole, folder)?;
        if !cli.json {
            print(&verdicts(whole, folder))?;
        }
    }
    let reports: Vec<&BootReport> = wholes.iter().map(|(_, whole)| whole).collect();
    let passed = reports.iter().all(|report| report.passed);
    if cli.json {
        print_json(&serde_json::json!({ "passed": passed, "reports": reports }))?;
    }
    Ok(if passed { Done::Good } else { Done::Red })
}

/// Folders with a report, relative to `dir`: itself, or one for each board.
fn reports_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if dir.join(FILE).is_file() {
        return Ok(vec![PathBuf::new()]);
    }
    let entries =
        std::fs::read_dir(dir).map_err(|error| BadInput(format!("{}: {error}", dir.display())))?;
    let mut boards: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join(FILE).is_file())
        .map(|entry| PathBuf::from(entry.file_name()))
        .collect();
    boards.sort();
    if boards.is_empty() {
        return Err(BadInput(format!(
            "{}: there is no {FILE} in it; name a folder that `slipform test --report` wrote",
            dir.display()
        ))
        .into());
    }
    Ok(boards)
}

fn read(path: &Path) -> anyhow::Result<BootReport> {
    let failed = |error: String| BadInput(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed("it is longer than any report".to_owned()).into());
    }
    let report = serde_json::from_slice(&bytes).map_err(|error| {
        failed(format!(
            "it is no report of this slipform ({error}); test again"
        ))
    })?;
    Ok(report)
}

/// The report for people.
pub(super) fn verdicts(report: &BootReport, folder: &Path) -> String {
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
        text.push_str(&explained(failure));
        for other in &report.others {
            text.push_str(&format!("\nalso: {}", other.check));
            text.push_str(&explained(other));
        }
        text.push_str(&timeline(report));
        text.push_str(&format!("kept in: {}\n", folder.display()));
        if let Some(screen) = &report.screen {
            text.push_str(&format!("screen:  {screen}\n"));
        }
    }
    let ready = report
        .ready_seconds
        .map(|s| format!(", ready after {s:.1} s"))
        .unwrap_or_default();
    let word = if report.passed { "PASSED" } else { "FAILED" };
    let part = report
        .shard
        .map(|(part, of)| format!(" part {part} of {of}"))
        .unwrap_or_default();
    text.push_str(&format!(
        "\n{word}  {}{part} in {:.1} s{ready} ({}, {})\n",
        report.name, report.total_seconds, report.accelerator, report.emulator
    ));
    text
}

fn explained(failure: &Failure) -> String {
    let mut text = format!(
        "\ndied in: {}\nbecause: {}\nlikely:  {}\nnext:    {}\n",
        failure.phase, failure.line, failure.cause, failure.next
    );
    if !failure.console.is_empty() {
        text.push_str("last lines of the console:\n");
        for line in &failure.console {
            text.push_str(&format!("  | {line}\n"));
        }
    }
    text
}

fn timeline(report: &BootReport) -> String {
    let mut text = "timeline:\n".to_owned();
    for moment in report.timeline.iter().take(MOMENTS) {
        text.push_str(&format!("  {:8.1} s  {}\n", moment.seconds, moment.what));
    }
    let more = report.timeline.len().saturating_sub(MOMENTS);
    if more > 0 {
        text.push_str(&format!("  … and {more} more, in timeline.txt\n"));
    }
    text
}
