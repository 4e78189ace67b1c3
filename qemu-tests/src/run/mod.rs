//! One boot test: boot, checks, power-off, verdicts.

mod advice;
mod cause;
mod checks;
mod file;
mod stages;
pub(crate) mod timeline;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::accel::Accel;
use crate::artifact::{self, Before, Tools};
use crate::error::HarnessError;
use crate::evidence::{Evidence, write_report};
use crate::limits::Limits;
use crate::machine::args::Forward;
use crate::machine::hardware::Hardware;
use crate::machine::overlay::{self, Kept};
use crate::machine::{Machine, Mode};
use crate::metadata::Metadata;
use crate::plan::devices::{DISKS, NETWORKS, find};
use crate::plan::{BootPath, Check, Emulator, HttpProbe, Plan, Probe, Step};
use crate::probes::guest_port;
use crate::probes::patterns::Patterns;
use crate::report::{BootReport, REPORT_SCHEMA};
use crate::watch::Watch;
pub(crate) use stages::{Parts, Run};
pub(crate) use verdict::{Judgement, Whole};

/// Boots the plan's artifact, watches it, checks it, powers it off, and judges.
///
/// `progress` gets lines for people. The evidence folder holds `console.log`,
/// `events.jsonl`, `qemu.cmdline`, `qemu.stderr`, `report.json`, `junit.xml` and
/// `timeline.txt` afterwards, whatever the verdict, and `screen.png` of a red machine
/// that has a screen.
///
/// # Errors
/// Only what kept the harness from judging: a plan that contradicts itself, an
/// emulator that does not start, a full disk. A guest that misbehaves is a report
/// with `passed` false.
pub fn boot_test(
    plan: &Plan,
    emulator: &Emulator,
    accel: Accel,
    progress: &dyn Fn(&str),
) -> Result<BootReport, HarnessError> {
    check_plan(plan)?;
    let patterns = Patterns::new(&plan.checks)?;
    let start = Instant::now();
    let started = now();
    let limits = Limits::new(plan, &accel);
    let evidence = Evidence::create(&plan.evidence)?;
    let before = Before::start(&plan.disk)?;
    let tools = Tools::start(emulator);
    let kept = if cuts_power(plan) {
        let size = overlay::virtual_size(plan)?;
        Some(Arc::new(Kept::create(evidence.dir(), size, None)?))
    } else {
        None
    };
    let mode = Mode {
        forwards: probed_ports(plan),
        isolated: true,
        reboot_ends: true,
        kept,
        bios: false,
        metadata: first_world(plan),
        start_limit: limits.start,
        hardware: Hardware::default(),
    };
    let machine = Machine::start(plan, emulator, &accel, &mode, &evidence)?;
    let watch = Watch::new(plan, &machine.nonce, patterns);
    progress(&format!(
        "booting {} with {} ({}, ready within {:.0} s)",
        plan.name,
        emulator.version,
        accel.kind.name(),
        limits.ready.as_secs_f64()
    ));
    let mut run = Run::new(Parts {
        plan,
        emulator,
        accel: &accel,
        limits,
        mode,
        machine,
        watch,
        evidence,
        progress,
    });
    run.all()?;
    let (disk_before, untouched) = before.finish()?;
    let tools = tools
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let disk_after = artifact::digest(&plan.disk)?;
    let ran = Ran {
        started,
        total_seconds: start.elapsed().as_secs_f64(),
        unchanged: untouched && disk_before == disk_after,
        disk_before,
        disk_after,
        tools,
    };
    let report = report(&mut run, plan, emulator, &accel, ran);
    write_report(&report, run.evidence.dir())?;
    Ok(report)
}

/// What the run itself does not know.
struct Ran {
    started: i64,
    total_seconds: f64,
    unchanged: bool,
    disk_before: String,
    disk_after: String,
    tools: Tools,
}

fn report(
    run: &mut Run<'_>,
    plan: &Plan,
    emulator: &Emulator,
    accel: &Accel,
    ran: Ran,
) -> BootReport {
    let timeline = run.timeline.take();
    let screen = run.screen.take();
    let boots = run.seen();
    let (count, first) = (boots.len(), boots.first());
    let ready_seconds = first.and_then(|seen| seen.ready_seconds);
    // An image that somebody brought may have what the specification has not.
    let debug = plan.run.debug || first.is_some_and(|seen| seen.watch.debug);
    let init_rss_kib = first.and_then(|seen| seen.watch.ready);
    let records = boots.iter().flat_map(|seen| &seen.watch.records);
    let events = records.cloned().collect();
    let judgement = Judgement::of(&Whole {
        boots,
        outcomes: run.outcomes(),
        unchanged: ran.unchanged,
        today: &day(ran.started),
    });
    let mut failures = judgement.failures.into_iter();
    let failure = failures.next();
    BootReport {
        schema: REPORT_SCHEMA,
        name: plan.name.clone(),
        image: plan.image.clone(),
        plan: plan.digest(),
        boot: plan.boot.kind(),
        passed: failure.is_none(),
        verdicts: judgement.verdicts,
        failure,
        others: failures.collect(),
        timeline,
        boots: u32::try_from(count).unwrap_or(u32::MAX),
        screen,
        accelerator: accel.kind.name().to_owned(),
        slowdown: accel.slowdown,
        emulator: emulator.version.clone(),
        emulator_digest: ran.tools.emulator,
        firmware_digest: ran.tools.firmware,
        started: ran.started,
        seed: plan.run.seed,
        attempt: plan.run.attempt,
        shard: plan.run.shard,
        debug,
        unprotected: None,
        disk_before: ran.disk_before,
        disk_after: ran.disk_after,
        ready_seconds,
        total_seconds: ran.total_seconds,
        init_rss_kib,
        events,
    }
}

/// Where the checks of this run need the machine to be: each cloud once, in the order of
/// the checks. Nowhere in particular comes first, unless no check asks for that.
pub(crate) fn worlds(plan: &Plan) -> Vec<Option<Metadata>> {
    let numbered = plan.checks.iter().enumerate();
    let ours = numbered.filter(|(number, _)| checks::is_ours(plan, *number));
    let mut worlds: Vec<Option<Metadata>> = Vec::new();
    for (_, check) in ours {
        if !worlds.contains(&check.metadata) {
            worlds.push(check.metadata.clone());
        }
    }
    worlds.sort_by_key(Option::is_some);
    if worlds.is_empty() {
        worlds.push(None);
    }
    worlds
}

fn first_world(plan: &Plan) -> Option<Metadata> {
    worlds(plan).into_iter().next().flatten()
}

/// A check pulls the plug: the disk must outlive QEMU.
pub(crate) fn cuts_power(plan: &Plan) -> bool {
    let mut checks = plan.checks.iter();
    checks.any(|check| check.steps.contains(&Step::PowerCut))
}

/// Today in UTC, `YYYY-MM-DD`.
pub(crate) fn today() -> String {
    day(now())
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// The day of that second in UTC, `YYYY-MM-DD` (the civil calendar of Howard
/// Hinnant's `chrono`-compatible algorithms: eras of 400 years from 1 March 0000).
fn day(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Every guest port that a check talks to, once.
pub(crate) fn probed_ports(plan: &Plan) -> Vec<Forward> {
    let ports: BTreeSet<u16> = plan
        .checks
        .iter()
        .flat_map(Check::probes)
        .filter_map(|(_, probe)| guest_port(probe))
        .collect();
    ports
        .into_iter()
        .map(|guest| Forward { host: 0, guest })
        .collect()
}

/// What QEMU would only answer with a riddle, or silently take for something else.
pub(crate) fn check_plan(plan: &Plan) -> Result<(), HarnessError> {
    let wrong = |what: &str, value: String, rule: &str, remedy: &str| {
        Err(HarnessError::Plan {
            what: what.into(),
            value,
            rule: rule.into(),
            remedy: remedy.into(),
        })
    };
    let emulation = &plan.emulation;
    if !matches!(plan.sector_size, 512 | 4096) {
        return wrong(
            "sector_size",
            plan.sector_size.to_string(),
            "it must be 512 or 4096",
            "mend the board's file",
        );
    }
    for (what, devices, name) in [
        ("disk", &DISKS[..], &emulation.disk),
        ("network", &NETWORKS[..], &emulation.network),
    ] {
        if let Err(rule) = find(devices, name) {
            return wrong(what, format!("`{name}`"), &rule, "mend the board's file");
        }
    }
    if !(1..=64).contains(&emulation.processors) {
        return wrong(
            "processors",
            emulation.processors.to_string(),
            "it must be 1 to 64",
            "mend the board's file",
        );
    }
    if !(32..=1 << 20).contains(&emulation.memory_mib) {
        return wrong(
            "memory-mib",
            emulation.memory_mib.to_string(),
            "it must be 32 to 1048576",
            "mend the board's file",
        );
    }
    for (what, text) in [("machine", &emulation.machine), ("cpu", &emulation.cpu)] {
        if text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace) {
            return wrong(
                what,
                format!("`{text}`"),
                "it must be one word for QEMU",
                "mend the board's file",
            );
        }
    }
    check_checks(plan)?;
    let mut files = vec![&plan.disk];
    if let BootPath::Direct { kernel, initrd, .. } = &plan.boot {
        files.extend([kernel, initrd]);
    }
    for path in files {
        std::fs::metadata(path).map_err(HarnessError::io("find", path, "build the image first"))?;
    }
    Ok(())
}

fn check_checks(plan: &Plan) -> Result<(), HarnessError> {
    let wrong = |what: &str, value: String, rule: &str| {
        Err(HarnessError::Plan {
            what: what.into(),
            value,
            rule: rule.into(),
            remedy: "mend the [[test]]".into(),
        })
    };
    if let Some((part, of)) = plan.run.shard
        && (part == 0 || part > of)
    {
        return wrong(
            "shard",
            format!("{part}/{of}"),
            "it must be K/N with K from 1 to N",
        );
    }
    for check in &plan.checks {
        if check.steps.is_empty() {
            return wrong("check", format!("{:?}", check.name), "it must have a step");
        }
        for (_, probe) in check.probes() {
            if guest_port(probe) == Some(0) {
                let value = format!("0 in check {:?}", check.name);
                return wrong("port", value, "it must be 1 to 65535");
            }
            let Probe::Http(http) = probe else {
                continue;
            };
            if let Err((what, value, rule)) = http_words(http) {
                return wrong(what, value, rule);
            }
        }
    }
    Ok(())
}

/// What would break a request's head apart.
fn http_words(http: &HttpProbe) -> Result<(), (&'static str, String, &'static str)> {
    let path = &http.path;
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let rule = "it must begin with / and have no blanks";
        return Err(("path", format!("{path:?}"), rule));
    }
    if http.method.is_empty() || !http.method.bytes().all(|b| b.is_ascii_uppercase()) {
        let rule = "it must be capital letters";
        return Err(("method", format!("{:?}", http.method), rule));
    }
    for (name, value) in &http.headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || value.contains(char::is_control) {
            let rule = "a header's name must be letters, digits and -, its value one line";
            return Err(("header", format!("{name:?}: {value:?}"), rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_102_444_800, "2100-01-01"),
        ];
        for (seconds, want) in table {
            assert_eq!(day(seconds), want);
        }
    }
}
