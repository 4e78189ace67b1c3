//! The boot test as an in-toto test-result predicate, version 0.1. It knows lists
//! of names and what was tested with; all else that a boot has goes into the
//! annotations of its `configuration`:
//!
//! ```text
//! test-plan  digest: what was tested      boot, started, attempt, seed, shard, debug, unprotected, times
//! disk       digest: the artifact booted  unchanged
//! emulator   digest: QEMU's program       version, accelerator, slowdown
//! firmware   digest: its code file
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slipform_qemu_tests::{BootKind, BootReport, Outcome};

use super::AttestError;
use super::error::malformed;
use super::statement::{Predicate, Resource};
use crate::base::Digest;

const PLAN: &str = "test-plan";
const DISK: &str = "disk";
const EMULATOR: &str = "emulator";
const FIRMWARE: &str = "firmware";
const WHAT: &str = "the boot report";

/// The predicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestResult {
    /// What it all came to.
    pub result: Verdict,
    /// With what it was tested.
    pub configuration: Vec<Resource>,
    /// Checks that passed.
    #[serde(default)]
    pub passed_tests: Vec<String>,
    /// Checks that could not be made.
    #[serde(default)]
    pub warned_tests: Vec<String>,
    /// Checks that failed.
    #[serde(default)]
    pub failed_tests: Vec<String>,
}

/// What a test came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// All checks passed.
    Passed,
    /// One or more could not be made.
    Warned,
    /// One or more failed.
    Failed,
}

impl Predicate for TestResult {
    const TYPE: &'static str = "https://in-toto.io/attestation/test-result/v0.1";
}

/// What the annotations say of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunFacts {
    /// `firmware` or `direct`.
    pub boot: BootKind,
    /// Seconds since 1970.
    pub started: i64,
    /// 1, and more for a repeated red run.
    pub attempt: u32,
    /// What chance came from; 0 for none.
    pub seed: u64,
    /// Only this part of the checks was made.
    #[serde(default)]
    pub shard: Option<(u32, u32)>,
    /// The image has a debug layer.
    pub debug: bool,
    /// Tampered bytes that nothing guards, if they were counted.
    #[serde(default)]
    pub unprotected: Option<u64>,
    /// From power-on to ready.
    #[serde(default)]
    pub ready_seconds: Option<f64>,
    /// Of the whole run.
    pub total_seconds: f64,
}

impl TestResult {
    /// The predicate of a report.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] for a report without proper digests.
    pub fn of(report: &BootReport) -> Result<Self, AttestError> {
        let digest = |name: &str, text: &str| -> Result<Digest, AttestError> {
            let hex = text.strip_prefix("sha256:").unwrap_or(text);
            Digest::from_hex(hex)
                .map_err(|error| malformed(WHAT, format!("its {name} digest: {error}")))
        };
        let facts = RunFacts {
            boot: report.boot,
            started: report.started,
            attempt: report.attempt,
            seed: report.seed,
            shard: report.shard,
            debug: report.debug,
            unprotected: report.unprotected,
            ready_seconds: report.ready_seconds,
            total_seconds: report.total_seconds,
        };
        let mut plan = Resource::new(PLAN, &digest("plan", &report.plan)?);
        let facts = serde_json::to_value(facts).map_err(|e| malformed(WHAT, e))?;
        if let Value::Object(facts) = facts {
            plan.annotations = facts.into_iter().filter(|(_, v)| !v.is_null()).collect();
        }
        let mut configuration = vec![
            plan,
            Resource::new(DISK, &digest("disk", &report.disk_before)?)
                .with("unchanged", report.disk_before == report.disk_after),
            Resource::new(EMULATOR, &digest("emulator", &report.emulator_digest)?)
                .with("version", report.emulator.as_str())
                .with("accelerator", report.accelerator.as_str())
                .with("slowdown", json!(report.slowdown)),
        ];
        if report.boot == BootKind::Firmware {
            configuration.push(Resource::new(
                FIRMWARE,
                &digest("firmware", &report.firmware_digest)?,
            ));
        }
        let named = |wanted: fn(&Outcome) -> bool| {
            let found = report.verdicts.iter().filter(|v| wanted(&v.outcome));
            found.map(|v| v.check.clone()).collect::<Vec<_>>()
        };
        let passed_tests = named(|outcome| matches!(outcome, Outcome::Passed(_)));
        let warned_tests = named(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let failed_tests = named(|outcome| matches!(outcome, Outcome::Failed(_)));
        Ok(Self {
            result: if !report.passed || !failed_tests.is_empty() {
                Verdict::Failed
            } else if warned_tests.is_empty() {
                Verdict::Passed
            } else {
                Verdict::Warned
            },
            configuration,
            passed_tests,
            warned_tests,
            failed_tests,
        })
    }

    fn resource(&self, name: &str) -> Option<&Resource> {
        self.configuration.iter().find(|r| r.name == name)
    }

    /// Digest of the test plan.
    #[must_use]
    pub fn plan(&self) -> Option<Digest> {
        self.resource(PLAN)?.sha256()
    }

    /// What the annotations say of the run; nothing if one of them is missing.
    #[must_use]
    pub fn facts(&self) -> Option<RunFacts> {
        let notes = self.resource(PLAN)?.annotations.clone();
        serde_json::from_value(Value::Object(notes.into_iter().collect())).ok()
    }

    /// Whether the artifact had the same digest before and after.
    #[must_use]
    pub fn unchanged(&self) -> bool {
        self.resource(DISK)
            .and_then(|disk| disk.annotations.get("unchanged"))
            == Some(&Value::Bool(true))
    }
}
