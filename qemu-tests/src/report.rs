//! What came of a boot: the harness's whole output.

use serde::{Deserialize, Serialize};

use slipform_init::contract::event::Record;

/// Version of the report's format.
pub const REPORT_SCHEMA: u32 = 2;

/// Verdict of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it must be; the text says what was seen, or is empty.
    Passed(String),
    /// Not so; the text says what was expected and what was last seen.
    Failed(String),
    /// Could not be tried; the text says why.
    Skipped(String),
}

/// A check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The check's name.
    pub check: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Why a run ended red: where it died, of what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The check that failed.
    pub check: String,
    /// `firmware`, `boot stub`, `kernel`, `init: verity`, `service web`, `probe`, `power-off`.
    pub phase: String,
    /// The line, event or answer that decided.
    pub line: String,
    /// The last lines of the console, 30 at most.
    pub console: Vec<String>,
    /// What it most likely comes from.
    pub cause: String,
    /// What to try.
    pub next: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds from the first power-on.
    pub seconds: f64,
    /// A stage, a state, a finding, a verdict.
    pub what: String,
}

/// How the kernel was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootKind {
    /// By firmware and boot entry: what a machine does.
    Firmware,
    /// The same by a BIOS.
    Bios,
    /// By the emulator itself: quicker, and no proof that the image boots.
    Direct,
}

/// The whole report of one boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootReport {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// Image name.
    pub name: String,
    /// Manifest digest.
    pub image: String,
    /// [`crate::Plan::digest`] of the plan that was carried out.
    pub plan: String,
    /// The way in.
    pub boot: BootKind,
    /// All checks passed.
    pub passed: bool,
    /// Verdicts: the built-in ones, then the user's.
    pub verdicts: Vec<Verdict>,
    /// There if it did not pass: what decided.
    pub failure: Option<Failure>,
    /// What else is wrong, each as explained as that.
    pub others: Vec<Failure>,
    /// What happened when.
    pub timeline: Vec<Moment>,
    /// How often the machine was started: more than once where a check has it so.
    pub boots: u32,
    /// The screen's picture in the report's folder, taken of a red machine, or why there is none.
    pub screen: Option<String>,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    /// How much slower than the reference the host was measured.
    pub slowdown: f64,
    /// QEMU's version text.
    pub emulator: String,
    /// `sha256:…` of QEMU's program file.
    pub emulator_digest: String,
    /// `sha256:…` of the firmware's code file.
    pub firmware_digest: String,
    /// When the run began: seconds since 1970, by the host's clock.
    pub started: i64,
    /// What chose whatever was chosen by chance; 0 if nothing was.
    pub seed: u64,
    /// 1, and more for a run that repeats one that was red.
    pub attempt: u32,
    /// Part `.0` (from 1) of `.1`: only this part of the user's checks was made.
    pub shard: Option<(u32, u32)>,
    /// The image has a layer for debugging.
    pub debug: bool,
    /// How many tampered bytes only a signature on the boot entry would guard, if a
    /// sweep has counted them.
    pub unprotected: Option<u64>,
    /// SHA-256 (hexadecimal) of the artifact before and after.
    pub disk_before: String,
    /// See `disk_before`.
    pub disk_after: String,
    /// Seconds from power-on to ready, of the first boot.
    pub ready_seconds: Option<f64>,
    /// Seconds of the whole run.
    pub total_seconds: f64,
    /// Init's resident memory at ready, KiB.
    pub init_rss_kib: Option<u64>,
    /// Init's events without log lines, in order.
    pub events: Vec<Record>,
}
