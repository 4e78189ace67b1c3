//! The tamper sweep: one byte in each region, one boot each, one class each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::classify::{Class, Facts, classify};
use super::region::{Guard, Region, regions};
use super::seed::Random;
use super::source::{DiskBytes, Source};
use super::trial::{Shown, Trial, Until, run};
use super::{SWEEP_SCHEMA, Sweep, SweepError, in_parallel, table};
use crate::machine::hardware::{Hardware, Trace};
use crate::machine::overlay::{Kept, Patch};
use crate::plan::{Plan, Step};
use crate::watch::BuiltIn;

/// One byte, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Region.
    pub region: String,
    /// Its first byte on the disk.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// The byte on the disk that was changed.
    pub byte: u64,
    /// By which mask (exclusive or).
    pub mask: u8,
    /// What became of it.
    pub class: Class,
    /// Why it is that class.
    pub reason: String,
    /// How long the boot took.
    pub seconds: f64,
    /// Folder of its evidence, below the report's.
    pub evidence: String,
}

/// The whole matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TamperReport {
    /// [`SWEEP_SCHEMA`].
    pub schema: u32,
    /// Image name.
    pub name: String,
    /// Manifest digest.
    pub image: String,
    /// Digest of the plan.
    pub plan: String,
    /// What chose the bytes.
    pub seed: u64,
    /// Seconds from power-on to ready, with nothing changed.
    pub ready_seconds: Option<f64>,
    /// Only regions with these texts in their names were tried; all if empty.
    pub only: Vec<String>,
    /// Nothing was missed.
    pub passed: bool,
    /// How many bytes there are of each class.
    pub counts: BTreeMap<Class, u64>,
    /// One for each region.
    pub cells: Vec<Cell>,
    /// Seconds of the whole sweep.
    pub total_seconds: f64,
}

impl TamperReport {
    /// Bytes that only a signature would guard; none if not every region was tried.
    #[must_use]
    pub fn unprotected(&self) -> Option<u64> {
        let count = self.counts.get(&Class::Unprotected).copied().unwrap_or(0);
        self.only.is_empty().then_some(count)
    }

    /// The matrix for people.
    #[must_use]
    pub fn matrix(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .cells
            .iter()
            .map(|cell| {
                vec![
                    cell.region.clone(),
                    cell.class.name().to_owned(),
                    format!("{}^{:02x}", cell.byte, cell.mask),
                    cell.reason.clone(),
                ]
            })
            .collect();
        let counts: Vec<String> = Class::ALL
            .iter()
            .map(|class| {
                let count = self.counts.get(class).copied().unwrap_or(0);
                format!("{count} {}", class.name())
            })
            .collect();
        format!(
            "{}\ntamper: {} regions in {:.0} s (seed {}): {}\n",
            table(&rows),
            self.cells.len(),
            self.total_seconds,
            self.seed,
            counts.join(", ")
        )
    }
}

/// A byte to be changed.
struct Change {
    region: Region,
    byte: u64,
    before: u8,
    patch: Patch,
    mask: u8,
}

/// Flips one byte in each region, boots each time, and says what became of it.
/// `disk` are the artifact's bytes; `only` chooses regions by parts of their names.
///
/// # Errors
/// [`SweepError`]: the untouched boot is not green, the disk is none that was cast, or
/// the harness cannot work. A byte that its guard misses is a report with `passed` false.
pub fn tamper(
    sweep: &Sweep<'_>,
    disk: &mut dyn DiskBytes,
    only: &[String],
    progress: &dyn Fn(&str),
) -> Result<TamperReport, SweepError> {
    let start = Instant::now();
    let mut disk = Source::new(disk, u64::from(sweep.plan.sector_size))?;
    progress(&format!("tamper: an untouched boot (seed {})", sweep.seed));
    let first = untouched(sweep, disk.size)?;
    let reads = first.reads.clone().unwrap_or_default();
    let mut all = regions(&mut disk, &sweep.plan.layers, &reads, sweep.seed)?;
    for text in only {
        if !all.iter().any(|region| region.name.contains(text)) {
            return Err(SweepError::Region(text.clone()));
        }
    }
    all.retain(|region| only.is_empty() || only.iter().any(|text| region.name.contains(text)));
    let size = disk.size;
    let changes = all
        .into_iter()
        .map(|region| change(&mut disk, region, sweep.seed))
        .collect::<Result<Vec<_>, _>>()?;
    let limit = limit(sweep, &first);
    let count = changes.len();
    let mut done = 0;
    let cells = in_parallel(
        &changes,
        sweep.jobs,
        |index, change| cell(sweep, index, change, size, limit),
        |_, cell| {
            done += 1;
            progress(&format!(
                "tamper {done}/{count}: {}: {}",
                cell.region,
                cell.class.name()
            ));
        },
    )?;
    let mut counts = BTreeMap::new();
    for cell in &cells {
        *counts.entry(cell.class).or_insert(0) += 1;
    }
    Ok(TamperReport {
        schema: SWEEP_SCHEMA,
        name: sweep.plan.name.clone(),
        image: sweep.plan.image.clone(),
        plan: sweep.plan.digest(),
        seed: sweep.seed,
        ready_seconds: first.ready_seconds,
        only: only.to_vec(),
        passed: !counts.contains_key(&Class::Missed),
        counts,
        cells,
        total_seconds: start.elapsed().as_secs_f64(),
    })
}

/// The boot that all others are compared with; it must be green, also when every
/// layer is read.
fn untouched(sweep: &Sweep<'_>, size: u64) -> Result<Shown, SweepError> {
    let (shown, _) = boot(
        sweep,
        "untouched",
        None,
        size,
        None,
        Until::LayersRead(size),
    )?;
    let wrong = |phase: &str, line: &str| SweepError::Baseline {
        name: sweep.plan.name.clone(),
        phase: phase.to_owned(),
        line: line.to_owned(),
        evidence: shown.evidence.clone(),
    };
    if let Some(failure) = &shown.failure {
        return Err(wrong(&failure.phase, &failure.line));
    }
    if let Some(Err(error)) = &shown.layers_read {
        return Err(wrong("reading every layer", error));
    }
    if shown
        .reads
        .as_ref()
        .is_none_or(super::reads::Reads::is_empty)
    {
        return Err(wrong("QEMU's trace", "it shows no read of the disk"));
    }
    Ok(shown)
}

/// A machine with a changed byte that takes three times as long as it should hangs.
fn limit(sweep: &Sweep<'_>, first: &Shown) -> Duration {
    let ready = first.ready_seconds.unwrap_or(60.0);
    // Limits are scaled by the host's slowness; this one was measured on it.
    let limit = (3.0 * ready + 20.0) / sweep.accel.slowdown.max(1.0);
    Duration::from_secs_f64(limit).min(sweep.plan.ready_limit.mul_f64(3.0))
}

fn change(disk: &mut Source<'_>, region: Region, seed: u64) -> Result<Change, SweepError> {
    let mut random = Random::new(seed, &region.name);
    let byte = region.offset + random.below(region.length);
    let mask = random.mask();
    let (start, length) = Patch::cluster(byte, disk.size);
    let bytes = disk.read(start, length)?;
    let before = usize::try_from(byte - start)
        .ok()
        .and_then(|at| bytes.get(at).copied());
    let before = before.ok_or_else(|| {
        SweepError::structure(format!("region {:?}", region.name), "must lie on the disk")
    })?;
    Ok(Change {
        region,
        byte,
        before,
        patch: Patch::new(byte, mask, bytes),
        mask,
    })
}

fn cell(
    sweep: &Sweep<'_>,
    index: usize,
    change: &Change,
    size: u64,
    limit: Duration,
) -> Result<Cell, SweepError> {
    let region = &change.region;
    let name = format!("{:03}-{}", index + 1, slug(&region.name));
    let until = match region.guard {
        Guard::Verity => Until::LayersRead(size),
        _ => Until::Checks,
    };
    let (shown, kept) = boot(sweep, &name, Some(change), size, Some(limit), until)?;
    let now = kept.byte_at(change.byte)?;
    let facts = Facts {
        ready: shown.ready_seconds.is_some(),
        verity: shown.verity.clone(),
        layers_verified: shown.passed(BuiltIn::Layers),
        read: shown.reads.as_ref().map(|reads| reads.covers(change.byte)),
        rewritten: now == Some(change.before),
        layers_read: shown.layers_read.clone(),
        failure: shown.failure,
    };
    let (class, reason) = classify(region.guard, &facts);
    Ok(Cell {
        region: region.name.clone(),
        offset: region.offset,
        length: region.length,
        byte: change.byte,
        mask: change.mask,
        class,
        reason,
        seconds: shown.seconds,
        evidence: format!("tamper/{name}"),
    })
}

const READS: &str = "reads.log";

/// A boot, and the disk that it left. It makes the checks of one boot only: a byte has
/// shown what it does by then, and with a new process QEMU begins its trace anew.
fn boot(
    sweep: &Sweep<'_>,
    name: &str,
    change: Option<&Change>,
    size: u64,
    limit: Option<Duration>,
    until: Until,
) -> Result<(Shown, Arc<Kept>), SweepError> {
    let folder = sweep.plan.evidence.join("tamper").join(name);
    std::fs::create_dir_all(&folder).map_err(SweepError::file("make folder", &folder))?;
    let patch = change.map(|change| &change.patch);
    let kept = Arc::new(Kept::create(&folder, size, patch)?);
    let reads = folder.join(READS);
    let mut plan = Plan {
        evidence: folder,
        ready_limit: limit.unwrap_or(sweep.plan.ready_limit),
        ..sweep.plan.clone()
    };
    let restarts = |step: &Step| matches!(step, Step::Reboot | Step::PowerCut);
    plan.checks
        .retain(|check| !check.steps.iter().any(restarts));
    let shown = run(&Trial {
        plan: &plan,
        emulator: sweep.emulator,
        accel: sweep.accel,
        hardware: Hardware {
            trace: Some(Trace(reads.clone())),
            ..Hardware::default()
        },
        kept: Some(Arc::clone(&kept)),
        until,
    })?;
    // Large, and its content is in the report.
    match std::fs::remove_file(&reads) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(SweepError::file("remove", &reads)(error));
        }
        _ => {}
    }
    Ok((shown, kept))
}

/// A name as a folder's: letters, digits and single dashes.
pub(crate) fn slug(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars().map(|c| c.to_ascii_lowercase()) {
        if letter.is_ascii_alphanumeric() {
            text.push(letter);
        } else if !text.ends_with('-') {
            text.push('-');
        }
    }
    text.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_plain_names() {
        assert_eq!(
            slug("layer base, ext4 superblock"),
            "layer-base-ext4-superblock"
        );
        assert_eq!(slug("boot image .linux"), "boot-image-linux");
        assert_eq!(slug("../x"), "x");
    }

    #[test]
    fn a_part_of_the_regions_gives_no_count_for_the_attestation() {
        let mut report = TamperReport {
            schema: SWEEP_SCHEMA,
            name: "hello".into(),
            image: String::new(),
            plan: String::new(),
            seed: 1,
            ready_seconds: None,
            only: Vec::new(),
            passed: true,
            counts: BTreeMap::from([(Class::Unprotected, 3)]),
            cells: Vec::new(),
            total_seconds: 1.0,
        };
        assert_eq!(report.unprotected(), Some(3));
        assert!(report.matrix().contains("3 unprotected, 0 MISSED"));
        let json = serde_json::to_string(&report).expect("JSON");
        assert!(json.contains("\"counts\":{\"unprotected\":3}"), "{json}");
        report.only.push("GPT".into());
        assert_eq!(report.unprotected(), None);
    }
}
