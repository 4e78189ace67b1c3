//! One boot test: boot, checks, power-off, verdicts.

mod advice;
mod stages;
mod verdict;

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use crate::accel::Accel;
use crate::artifact::{self, Before, Tools};
use crate::error::HarnessError;
use crate::evidence::Evidence;
use crate::limits::Limits;
use crate::machine::args::Forward;
use crate::machine::hardware::Hardware;
use crate::machine::{Machine, Mode};
use crate::plan::{BootPath, Emulator, Plan};
use crate::probes::console::ConsoleChecks;
use crate::probes::guest_port;
use crate::report::{BootReport, REPORT_SCHEMA};
use crate::watch::Watch;
pub(crate) use stages::Run;
pub(crate) use verdict::Judgement;

/// Boots the plan's artifact, watches it, checks it, powers it off, and judges.
///
/// `progress` gets lines for people. The evidence folder holds `console.log`,
/// `events.jsonl`, `qemu.cmdline`, `qemu.stderr` and `report.json` afterwards,
/// whatever the verdict.
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
    let console_checks = ConsoleChecks::new(&plan.checks)?;
    let start = Instant::now();
    let started = now();
    let limits = Limits::new(plan, &accel);
    let evidence = Evidence::create(&plan.evidence)?;
    let before = Before::start(&plan.disk)?;
    let tools = Tools::start(emulator);
    let mode = Mode {
        forwards: probed_ports(plan),
        isolated: true,
        reboot_ends: true,
        start_limit: limits.start,
        hardware: Hardware::default(),
    };
    let machine = Machine::start(plan, emulator, &accel, &mode, &evidence)?;
    let watch = Watch::new(plan, &machine.nonce, console_checks);
    progress(&format!(
        "booting {} with {} ({}, ready within {:.0} s)",
        plan.name,
        emulator.version,
        accel.kind.name(),
        limits.ready.as_secs_f64()
    ));
    let mut run = Run::new(plan, limits, machine, watch, evidence, progress);
    run.all()?;
    let (disk_before, untouched) = before.finish()?;
    let tools = tools
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let disk_after = artifact::digest(&plan.disk)?;
    let judgement = Judgement::of(&run.seen(), untouched && disk_before == disk_after);
    let report = BootReport {
        schema: REPORT_SCHEMA,
        name: plan.name.clone(),
        image: plan.image.clone(),
        plan: plan.digest(),
        boot: plan.boot.kind(),
        passed: judgement.failure.is_none(),
        verdicts: judgement.verdicts,
        failure: judgement.failure,
        accelerator: accel.kind.name().to_owned(),
        slowdown: accel.slowdown,
        emulator: emulator.version.clone(),
        emulator_digest: tools.emulator,
        firmware_digest: tools.firmware,
        started,
        seed: plan.run.seed,
        attempt: plan.run.attempt,
        shard: plan.run.shard,
        debug: plan.run.debug,
        unprotected: None,
        disk_before,
        disk_after,
        ready_seconds: run.ready_seconds,
        total_seconds: start.elapsed().as_secs_f64(),
        init_rss_kib: run.watch.ready,
        events: std::mem::take(&mut run.watch.records),
    };
    run.evidence.report(&report)?;
    Ok(report)
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Every guest port that a check talks to, once.
pub(crate) fn probed_ports(plan: &Plan) -> Vec<Forward> {
    let ports: BTreeSet<u16> = plan
        .checks
        .iter()
        .filter_map(|check| guest_port(&check.probe))
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
    if !matches!(emulation.disk.as_str(), "virtio-blk" | "nvme") {
        return wrong(
            "disk",
            format!("`{}`", emulation.disk),
            "it must be `virtio-blk` or `nvme`",
            "mend the board's file",
        );
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
    for check in &plan.checks {
        if guest_port(&check.probe) == Some(0) {
            return wrong(
                "port",
                format!("0 in check {:?}", check.name),
                "it must be 1 to 65535",
                "mend the [[test]]",
            );
        }
        if let crate::plan::Probe::Http { path, .. } = &check.probe
            && (!path.starts_with('/')
                || path.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            return wrong(
                "path",
                format!("{path:?}"),
                "it must begin with / and have no blanks",
                "mend the [[test]]",
            );
        }
    }
    let mut files = vec![&plan.disk];
    if let BootPath::Direct { kernel, initrd, .. } = &plan.boot {
        files.extend([kernel, initrd]);
    }
    for path in files {
        std::fs::metadata(path).map_err(HarnessError::io("find", path, "build the image first"))?;
    }
    Ok(())
}
