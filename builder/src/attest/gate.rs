//! The gate: the only door to an [`Attested`] image, and so to publishing.

use std::fmt;

use slipform_qemu_tests::BootKind;

use super::statement::{Predicate, Statement};
use super::test_result::{RunFacts, Verdict};
use super::{AttestError, Attestations, Envelope, Provenance, Sbom, TestResult, Trust};
use crate::base::Digest;
use crate::spec::GateSpec;

/// How far another host's clock may be ahead, in seconds.
const SKEW: i64 = 5 * 60;

/// Images that may be published: every one has booted and passed, or somebody
/// has said why they go without it. Only [`gate`] and [`force`] make one:
///
/// ```compile_fail,E0451
/// use slipform::attest::Attested;
/// let stolen = Attested { images: Vec::new(), forced: None };
/// ```
///
/// ```compile_fail,E0624
/// use slipform::attest::Attested;
/// let stolen = Attested::new(Vec::new(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Attested {
    images: Vec<AttestedImage>,
    forced: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedImage {
    board: String,
    image: Digest,
    attestations: Option<Attestations>,
}

impl Attested {
    fn new(images: Vec<AttestedImage>, forced: Option<String>) -> Self {
        Self { images, forced }
    }

    /// The images, one for each board, in the order in which they came.
    #[must_use]
    pub fn images(&self) -> &[AttestedImage] {
        &self.images
    }

    /// Why they go without passing the gate, if they do.
    #[must_use]
    pub fn forced(&self) -> Option<&str> {
        self.forced.as_deref()
    }
}

impl AttestedImage {
    /// The board.
    #[must_use]
    pub fn board(&self) -> &str {
        &self.board
    }

    /// Digest of the image's manifest.
    #[must_use]
    pub fn image(&self) -> &Digest {
        &self.image
    }

    /// What was signed of it; a forced image may have nothing.
    #[must_use]
    pub fn attestations(&self) -> Option<&Attestations> {
        self.attestations.as_ref()
    }
}

/// What the gate insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Oldest test that counts, in seconds.
    pub max_age: i64,
    /// Images with a debug layer pass.
    pub accept_debug: bool,
}

impl From<&GateSpec> for Policy {
    fn from(spec: &GateSpec) -> Self {
        Self {
            max_age: i64::try_from(spec.max_age.as_secs()).unwrap_or(i64::MAX),
            accept_debug: spec.accept_debug,
        }
    }
}

/// An image that wants to pass.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The board.
    pub board: String,
    /// Digest of the image's manifest, as the lock names it now.
    pub image: Digest,
    /// Digest of the test plan, as the specification says it now.
    pub plan: Digest,
    /// Checks that must have passed: the built-in ones and the user's.
    pub checks: Vec<String>,
    /// What was signed of it, if anything was.
    pub attestations: Option<Attestations>,
}

/// All that the gate looks at.
#[derive(Debug)]
pub struct GateInput<'a> {
    /// One for each board of the specification.
    pub images: Vec<Candidate>,
    /// Whose signatures count.
    pub trust: &'a Trust,
    /// What is insisted on.
    pub policy: &'a Policy,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why an image does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing was signed of it.
    Missing,
    /// A statement (which) that no trusted key signed, or that cannot be read.
    Signature(&'static str, String),
    /// A statement (which) about another image.
    OtherImage(&'static str),
    /// Another test plan than the specification's.
    OtherPlan,
    /// Checks that failed or could not be made.
    NotPassed(Vec<String>),
    /// Checks that were not made.
    NotChecked(Vec<String>),
    /// Facts about the run are missing.
    NoFacts,
    /// The kernel was started directly.
    Direct,
    /// The image has a debug layer.
    Debug,
    /// A part of the checks only.
    Shard(u32, u32),
    /// Repeated until it was green.
    Retried(u32),
    /// The artifact changed while it ran.
    Changed,
    /// Older than the policy's age: both in seconds.
    TooOld(i64, i64),
    /// So many seconds ahead of this host's clock.
    Future(i64),
}

/// The gate's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// There is no image at all.
    #[error("there is no image to publish; name a board in slipform.toml")]
    NoImages,
    /// Two images for one board.
    #[error("board '{0}' has two images; a release has one for each board")]
    SameBoard(String),
    /// Nobody is trusted.
    #[error(
        "no key is trusted, so no signature can count; make one with `slipform key new`, or name one by --key, SLIPFORM_TRUSTED_KEYS or `[gate] keys`"
    )]
    NoTrust,
    /// One image does not pass.
    #[error("{image} for {board} is not to be published: {refusal}")]
    Refused {
        /// The board.
        board: String,
        /// The image.
        image: Digest,
        /// Why not, and the remedy.
        refusal: Refusal,
    },
    /// Forced without a reason.
    #[error(
        "a forced publish stays visible for ever and needs a reason: --reason \"…\" with 1 to 500 printable characters"
    )]
    NoReason,
}

/// Lets images through that have booted and passed all that is asked of them.
///
/// # Errors
/// [`GateError`] for the first image that does not pass.
pub fn gate(input: GateInput<'_>) -> Result<Attested, GateError> {
    distinct(input.images.iter().map(|image| image.board.as_str()))?;
    if input.trust.keys().is_empty() {
        return Err(GateError::NoTrust);
    }
    let mut images = Vec::new();
    for candidate in input.images {
        if let Err(refusal) = examine(&candidate, input.trust, input.policy, input.now) {
            return Err(GateError::Refused {
                board: candidate.board,
                image: candidate.image,
                refusal,
            });
        }
        images.push(AttestedImage {
            board: candidate.board,
            image: candidate.image,
            attestations: candidate.attestations,
        });
    }
    Ok(Attested::new(images, None))
}

/// Lets images through unseen. The reason stays with them for ever.
///
/// # Errors
/// [`GateError::NoReason`], [`GateError::NoImages`], [`GateError::SameBoard`].
pub fn force(
    images: Vec<(String, Digest, Option<Attestations>)>,
    reason: &str,
) -> Result<Attested, GateError> {
    distinct(images.iter().map(|(board, ..)| board.as_str()))?;
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > 500 || reason.contains(char::is_control) {
        return Err(GateError::NoReason);
    }
    let images = images
        .into_iter()
        .map(|(board, image, attestations)| AttestedImage {
            board,
            image,
            attestations,
        })
        .collect();
    Ok(Attested::new(images, Some(reason.to_owned())))
}

fn distinct<'a>(boards: impl Iterator<Item = &'a str>) -> Result<(), GateError> {
    let mut seen = std::collections::BTreeSet::new();
    for board in boards {
        if !seen.insert(board) {
            return Err(GateError::SameBoard(board.to_owned()));
        }
    }
    if seen.is_empty() {
        return Err(GateError::NoImages);
    }
    Ok(())
}

fn examine(candidate: &Candidate, trust: &Trust, policy: &Policy, now: i64) -> Result<(), Refusal> {
    let signed = candidate.attestations.as_ref().ok_or(Refusal::Missing)?;
    let image = &candidate.image;
    let test = believed::<TestResult>("test result", &signed.test, image, trust)?;
    believed::<Provenance>("provenance", &signed.provenance, image, trust)?;
    believed::<Sbom>("SBOM", &signed.sbom, image, trust)?;
    if test.plan() != Some(candidate.plan) {
        return Err(Refusal::OtherPlan);
    }
    passed(&test, &candidate.checks)?;
    if !test.unchanged() {
        return Err(Refusal::Changed);
    }
    let facts = test.facts().ok_or(Refusal::NoFacts)?;
    ran_well(&facts, policy, now)
}

/// The predicate, if a trusted key says it of this very image.
fn believed<P: Predicate>(
    what: &'static str,
    envelope: &Envelope,
    image: &Digest,
    trust: &Trust,
) -> Result<P, Refusal> {
    let statement = Statement::<P>::verify(envelope, trust.keys())
        .map_err(|error: AttestError| Refusal::Signature(what, error.to_string()))?;
    if !statement.is_about(image) {
        return Err(Refusal::OtherImage(what));
    }
    Ok(statement.predicate)
}

fn passed(test: &TestResult, wanted: &[String]) -> Result<(), Refusal> {
    let bad: Vec<String> = [&test.failed_tests, &test.warned_tests]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if test.result != Verdict::Passed || !bad.is_empty() {
        return Err(Refusal::NotPassed(bad));
    }
    let missing: Vec<String> = wanted
        .iter()
        .filter(|check| !test.passed_tests.contains(check))
        .cloned()
        .collect();
    if wanted.is_empty() || !missing.is_empty() {
        return Err(Refusal::NotChecked(missing));
    }
    Ok(())
}

fn ran_well(facts: &RunFacts, policy: &Policy, now: i64) -> Result<(), Refusal> {
    if facts.boot == BootKind::Direct {
        return Err(Refusal::Direct);
    }
    if facts.debug && !policy.accept_debug {
        return Err(Refusal::Debug);
    }
    if let Some((part, of)) = facts.shard {
        return Err(Refusal::Shard(part, of));
    }
    if facts.attempt != 1 {
        return Err(Refusal::Retried(facts.attempt));
    }
    // Whoever wrote the number: no overflow.
    let age = now.saturating_sub(facts.started);
    if age < -SKEW {
        return Err(Refusal::Future(age.saturating_neg()));
    }
    if age > policy.max_age {
        return Err(Refusal::TooOld(age, policy.max_age));
    }
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| {
            let names: Vec<String> = names
                .iter()
                .take(10)
                .map(|n| format!("'{}'", n.escape_debug()))
                .collect();
            names.join(", ")
        };
        let again = "run `slipform test`";
        match self {
            Self::Missing => write!(f, "nothing is attested of it; {again}"),
            Self::Signature(what, why) => write!(
                f,
                "its {what} does not count: {why}; {again} with a trusted key, or trust the signer's by --key or `[gate] keys`"
            ),
            Self::OtherImage(what) => write!(f, "its {what} is about another image; {again}"),
            Self::OtherPlan => write!(
                f,
                "it was tested by another plan than slipform.toml has now; {again}"
            ),
            Self::NotPassed(names) if names.is_empty() => {
                write!(f, "its test did not pass; mend it, then {again}")
            }
            Self::NotPassed(names) => {
                write!(f, "it did not pass {}; mend it, then {again}", list(names))
            }
            Self::NotChecked(names) if names.is_empty() => {
                write!(f, "no check is asked of it; {again}")
            }
            Self::NotChecked(names) => write!(f, "it was not checked for {}; {again}", list(names)),
            Self::NoFacts => write!(f, "its test does not say how it ran; {again}"),
            Self::Direct => write!(
                f,
                "its kernel was started directly, which does not show that it boots; {again} without --direct"
            ),
            Self::Debug => write!(
                f,
                "it has a debug layer; build and test it without, or set `accept-debug = true` under [gate]"
            ),
            Self::Shard(part, of) => write!(
                f,
                "only part {part} of {of} of its checks was made; run `slipform report merge` over all parts"
            ),
            Self::Retried(attempt) => write!(
                f,
                "it was red, and green at attempt {attempt}; find the flake with `slipform test --repeat 10`, then {again}"
            ),
            Self::Changed => write!(f, "the artifact changed while it ran; {again}"),
            Self::TooOld(age, most) => write!(
                f,
                "its test is {} old, and `max-age` is {}; {again}",
                days(*age),
                days(*most)
            ),
            Self::Future(ahead) => write!(
                f,
                "its test is {} in the future; set this host's clock right, or {again}",
                days(*ahead)
            ),
        }
    }
}

/// A time span for people.
fn days(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
