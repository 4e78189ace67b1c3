//! Other machines than the board's: each condition changes one thing, and says what
//! must hold then.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::tamper::slug;
use super::trial::{Shown, Trial, Until, run};
use super::{SWEEP_SCHEMA, Sweep, SweepError, in_parallel, table};
use crate::accel::AccelKind;
use crate::machine::hardware::Hardware;
use crate::machine::overlay::Kept;
use crate::plan::Plan;
use crate::probes::guest_port;
use crate::report::{Outcome, Verdict};

/// Below this no kernel with an initrd of ours starts.
const LEAST_MEMORY_MIB: u32 = 128;
/// How many times larger the larger disk is.
const LARGER: u64 = 4;
/// Bytes and operations a second of a slow disk.
const SLOW: (u64, u64) = (8 << 20, 400);
/// How many times longer the slow ones may take.
const PATIENCE: u32 = 4;
/// Before every image was made. (A PC's clock has two digits of the year, and OVMF sets
/// the century to 20: what stands at 1980 comes up as 2080.)
const WRONG_CLOCK: &str = "2001-01-01T00:00:00";
/// Init says so when it mends the clock.
const CLOCK_MENDED: &str = "slipform: clock: was ";

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Half of the board's memory, 128 MiB at least.
    LowMemory,
    /// No network interface.
    NoNetwork,
    /// A disk of 8 MiB and 400 operations a second.
    SlowDisk,
    /// The clock stands at 2001.
    WrongClock,
    /// A disk four times as large: the backup table is not at its end.
    LargerDisk,
    /// Sectors of 512 bytes on physical ones of 4096.
    #[serde(rename = "512e")]
    Emulated512,
    /// One processor.
    #[serde(rename = "cpus=1")]
    OneProcessor,
    /// Four processors.
    #[serde(rename = "cpus=4")]
    FourProcessors,
    /// A processor without rdrand and rdseed.
    NoRdrand,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::LowMemory,
        Self::NoNetwork,
        Self::SlowDisk,
        Self::WrongClock,
        Self::LargerDisk,
        Self::Emulated512,
        Self::OneProcessor,
        Self::FourProcessors,
        Self::NoRdrand,
    ];

    /// As it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LowMemory => "low-memory",
            Self::NoNetwork => "no-network",
            Self::SlowDisk => "slow-disk",
            Self::WrongClock => "wrong-clock",
            Self::LargerDisk => "larger-disk",
            Self::Emulated512 => "512e",
            Self::OneProcessor => "cpus=1",
            Self::FourProcessors => "cpus=4",
            Self::NoRdrand => "no-rdrand",
        }
    }

    /// Those of a list; `all` is all of them.
    ///
    /// # Errors
    /// [`SweepError::Condition`] naming the one that is not known.
    pub fn parse_all(names: &[String]) -> Result<Vec<Self>, SweepError> {
        let mut chosen = Vec::new();
        for name in names {
            if name == "all" {
                chosen.extend(Self::ALL);
            } else {
                chosen.push(name.parse()?);
            }
        }
        let mut unique: Vec<Self> = Vec::new();
        for condition in chosen {
            if !unique.contains(&condition) {
                unique.push(condition);
            }
        }
        Ok(unique)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Condition {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|known| known.name()).collect();
            SweepError::Condition(text.to_owned(), format!("{}, all", names.join(", ")))
        })
    }
}

/// What came of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionVerdict {
    /// Which.
    pub condition: Condition,
    /// Whether the machine was as it must be.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Of the boot's checks.
    pub verdicts: Vec<Verdict>,
    /// Seconds of the boot.
    pub seconds: f64,
    /// Folder of its evidence, below the report's.
    pub evidence: String,
}

/// What came of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// [`SWEEP_SCHEMA`].
    pub schema: u32,
    /// Image name.
    pub name: String,
    /// Manifest digest.
    pub image: String,
    /// None failed.
    pub passed: bool,
    /// One each.
    pub conditions: Vec<ConditionVerdict>,
    /// Seconds of all.
    pub total_seconds: f64,
}

impl ConditionReport {
    /// One line each, for people.
    #[must_use]
    pub fn lines(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .conditions
            .iter()
            .map(|verdict| {
                let (word, detail) = match &verdict.outcome {
                    Outcome::Passed(detail) => ("passed", detail),
                    Outcome::Failed(detail) => ("FAILED", detail),
                    Outcome::Skipped(detail) => ("skipped", detail),
                };
                vec![
                    verdict.condition.name().to_owned(),
                    word.to_owned(),
                    detail.clone(),
                ]
            })
            .collect();
        let word = if self.passed { "passed" } else { "FAILED" };
        format!(
            "{}\nconditions: {word} in {:.0} s\n",
            table(&rows),
            self.total_seconds
        )
    }
}

/// A condition's machine.
#[derive(Debug)]
struct Setting {
    plan: Plan,
    hardware: Hardware,
    /// Checks that this machine cannot make, and why.
    left_out: Vec<Verdict>,
    /// The disk, where it is larger.
    size: Option<u64>,
}

/// The machine of a condition, or why the board has none such.
fn setting(condition: Condition, plan: &Plan, size: u64, kvm: bool) -> Result<Setting, String> {
    let mut setting = Setting {
        plan: plan.clone(),
        hardware: Hardware::default(),
        left_out: Vec::new(),
        size: None,
    };
    let emulation = &mut setting.plan.emulation;
    match condition {
        Condition::LowMemory => {
            emulation.memory_mib = (emulation.memory_mib / 2)
                .max(LEAST_MEMORY_MIB)
                .min(emulation.memory_mib);
        }
        Condition::NoNetwork => {
            setting.hardware.no_network = true;
            let (network, others): (Vec<_>, Vec<_>) = std::mem::take(&mut setting.plan.checks)
                .into_iter()
                .partition(|check| check.probes().any(|(_, probe)| guest_port(probe).is_some()));
            setting.plan.checks = others;
            setting.left_out = network
                .into_iter()
                .map(|check| Verdict {
                    check: check.name,
                    outcome: Outcome::Skipped("this machine has no network".to_owned()),
                })
                .collect();
        }
        Condition::SlowDisk => {
            setting.hardware.throttle = Some(SLOW);
            setting.plan.ready_limit *= PATIENCE;
        }
        Condition::WrongClock => setting.hardware.clock = Some(WRONG_CLOCK.to_owned()),
        Condition::LargerDisk => setting.size = Some(size.saturating_mul(LARGER)),
        Condition::Emulated512 if plan.sector_size != 512 => {
            return Err(format!(
                "the image has sectors of {} bytes",
                plan.sector_size
            ));
        }
        Condition::Emulated512 => setting.hardware.physical_sector = Some(4096),
        Condition::OneProcessor => emulation.processors = 1,
        Condition::FourProcessors => emulation.processors = 4,
        Condition::NoRdrand if kvm => {
            return Err("under KVM the machine has the host's processor".to_owned());
        }
        Condition::NoRdrand => emulation.cpu.push_str(",rdrand=off,rdseed=off"),
    }
    Ok(setting)
}

/// Boots once under each condition. `size` is the disk's length in bytes.
///
/// # Errors
/// [`SweepError`] when the harness cannot work; a machine that is not as it must be
/// is a report with `passed` false.
pub fn conditions(
    sweep: &Sweep<'_>,
    size: u64,
    chosen: &[Condition],
    progress: &dyn Fn(&str),
) -> Result<ConditionReport, SweepError> {
    let start = Instant::now();
    let verdicts = in_parallel(
        chosen,
        sweep.jobs,
        |_, condition| one(sweep, *condition, size),
        |_, verdict| {
            progress(&format!(
                "condition {}: {}",
                verdict.condition,
                match &verdict.outcome {
                    Outcome::Passed(_) => "passed",
                    Outcome::Failed(_) => "FAILED",
                    Outcome::Skipped(_) => "skipped",
                }
            ));
        },
    )?;
    let failed = |verdict: &ConditionVerdict| matches!(verdict.outcome, Outcome::Failed(_));
    Ok(ConditionReport {
        schema: SWEEP_SCHEMA,
        name: sweep.plan.name.clone(),
        image: sweep.plan.image.clone(),
        passed: !verdicts.iter().any(failed),
        conditions: verdicts,
        total_seconds: start.elapsed().as_secs_f64(),
    })
}

fn one(sweep: &Sweep<'_>, condition: Condition, size: u64) -> Result<ConditionVerdict, SweepError> {
    let name = slug(condition.name());
    let evidence = format!("condition/{name}");
    let kvm = sweep.accel.kind == AccelKind::Kvm;
    let mut setting = match setting(condition, sweep.plan, size, kvm) {
        Ok(setting) => setting,
        Err(why) => {
            return Ok(ConditionVerdict {
                condition,
                outcome: Outcome::Skipped(why),
                verdicts: Vec::new(),
                seconds: 0.0,
                evidence,
            });
        }
    };
    let folder = sweep.plan.evidence.join("condition").join(&name);
    std::fs::create_dir_all(&folder).map_err(SweepError::file("make folder", &folder))?;
    setting.plan.evidence.clone_from(&folder);
    let kept = match setting.size {
        Some(size) => Some(Arc::new(Kept::create(&folder, size, None)?)),
        None => None,
    };
    let shown = run(&Trial {
        plan: &setting.plan,
        emulator: sweep.emulator,
        accel: sweep.accel,
        hardware: setting.hardware.clone(),
        kept,
        until: Until::PowerOff,
    })?;
    let console = folder.join("console.log");
    let console = std::fs::read(&console).map_err(SweepError::file("read", &console))?;
    let outcome = judge(condition, &shown, &String::from_utf8_lossy(&console));
    let mut verdicts = shown.verdicts;
    verdicts.append(&mut setting.left_out);
    Ok(ConditionVerdict {
        condition,
        outcome,
        verdicts,
        seconds: shown.seconds,
        evidence,
    })
}

/// As healthy as on the board, and what the condition wants beyond that.
fn judge(condition: Condition, shown: &Shown, console: &str) -> Outcome {
    if let Some(failure) = &shown.failure {
        return Outcome::Failed(format!("{}: {}", failure.phase, failure.line));
    }
    let Some(ready) = shown.ready_seconds else {
        return Outcome::Failed("the machine never got ready".to_owned());
    };
    let text = format!("ready after {ready:.1} s");
    match condition {
        Condition::WrongClock => match console.lines().find(|line| line.contains(CLOCK_MENDED)) {
            Some(line) => Outcome::Passed(format!("{text}; {}", line.trim())),
            None => Outcome::Failed(format!(
                "the clock stood at {WRONG_CLOCK}, and init did not set it to the image's floor"
            )),
        },
        Condition::NoNetwork => Outcome::Passed(format!("{text}; checks by network are left out")),
        _ => Outcome::Passed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing;

    #[test]
    fn names_are_those_that_are_asked_for() {
        for condition in Condition::ALL {
            assert_eq!(condition.name().parse::<Condition>().ok(), Some(condition));
            let json = serde_json::to_value(condition).expect("JSON");
            assert_eq!(json, condition.name());
        }
        let names = |list: &[&str]| -> Vec<String> { list.iter().map(|n| (*n).into()).collect() };
        let all = Condition::parse_all(&names(&["512e", "all"])).expect("known names");
        assert_eq!(all.len(), 9);
        assert_eq!(all[0], Condition::Emulated512);
        let wrong = Condition::parse_all(&names(&["dry-sea"])).expect_err("unknown");
        let text = wrong.to_string();
        assert!(
            text.contains("dry-sea") && text.contains("low-memory"),
            "{text}"
        );
    }

    #[test]
    fn each_condition_changes_its_own_thing() {
        let plan = testing::plan();
        let get = |condition| setting(condition, &plan, 100, false).expect("a machine");
        assert_eq!(get(Condition::LowMemory).plan.emulation.memory_mib, 128);
        assert_eq!(get(Condition::LargerDisk).size, Some(400));
        assert_eq!(get(Condition::OneProcessor).plan.emulation.processors, 1);
        assert_eq!(get(Condition::FourProcessors).plan.emulation.processors, 4);
        assert_eq!(
            get(Condition::Emulated512).hardware.physical_sector,
            Some(4096)
        );
        let cpu = get(Condition::NoRdrand).plan.emulation.cpu;
        assert_eq!(cpu, "Nehalem,rdrand=off,rdseed=off");
        assert!(setting(Condition::NoRdrand, &plan, 100, true).is_err());
        let large = Plan {
            sector_size: 4096,
            ..testing::plan()
        };
        assert!(setting(Condition::Emulated512, &large, 100, false).is_err());
        let alone = get(Condition::NoNetwork);
        assert!(alone.hardware.no_network && alone.plan.checks.len() == 1);
        let left: Vec<_> = alone.left_out.iter().map(|v| v.check.as_str()).collect();
        assert_eq!(left, ["serves the page"]);
        assert!(matches!(alone.left_out[0].outcome, Outcome::Skipped(_)));
    }

    #[test]
    fn a_clock_that_nobody_mends_fails() {
        let shown = Shown {
            verdicts: Vec::new(),
            failure: None,
            ready_seconds: Some(8.0),
            seconds: 9.0,
            verity: None,
            layers_read: None,
            reads: None,
            stage: String::new(),
            evidence: "/e".into(),
        };
        let judged = |console| judge(Condition::WrongClock, &shown, console);
        let mended = "slipform: clock: was 1449000000 seconds behind the image, set forward\r\n";
        assert!(matches!(judged(mended), Outcome::Passed(_)));
        assert!(matches!(judged("slipform: ready\n"), Outcome::Failed(_)));
    }
}
