//! What came of a boot: the harness's whole output.

use serde::{Deserialize, Serialize};

use slipform_init::contract::event::Record;

/// Version of the report's format.
pub const REPORT_SCHEMA: u32 = 1;

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
    /// `firmware`, `boot stub`, `kernel`, `init: verity`, `service web`, `probe`, `power-off`.
    pub phase: String,
    /// The line, event or answer that decided.
    pub line: String,
    /// The last lines of the console, 30 at most.
    pub console: Vec<String>,
    /// What to try.
    pub next: String,
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
    /// All checks passed.
    pub passed: bool,
    /// Verdicts: the built-in ones, then the user's.
    pub verdicts: Vec<Verdict>,
    /// There if it did not pass.
    pub failure: Option<Failure>,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    /// How much slower than the reference the host was measured.
    pub slowdown: f64,
    /// QEMU's version text.
    pub emulator: String,
    /// SHA-256 (hexadecimal) of the artifact before and after.
    pub disk_before: String,
    /// See `disk_before`.
    pub disk_after: String,
    /// Seconds from power-on to ready.
    pub ready_seconds: Option<f64>,
    /// Seconds of the whole run.
    pub total_seconds: f64,
    /// Init's resident memory at ready, KiB.
    pub init_rss_kib: Option<u64>,
    /// Init's events without log lines, in order.
    pub events: Vec<Record>,
}
