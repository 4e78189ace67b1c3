//! What tests of attestations share. Keys of tests sign nothing else.

use slipform_qemu_tests::{BootKind, BootReport, Outcome, REPORT_SCHEMA, Verdict};

use super::{Attestations, BuildFacts, Evidence, KeyFile, Provenance, Sbom, SbomFacts, attest};
use crate::base::Digest;
use crate::lock::{LOCK_VERSION, LockFile, LockedInit, LockedLayer, LockedPackage, LockedSuite};

/// Always the same key for the same number (not 0).
///
/// # Panics
/// For 0.
#[must_use]
pub fn key(number: u8) -> KeyFile {
    KeyFile::of_scalar(&[number; 32]).expect("a scalar of the curve")
}

/// A package of Debian's.
#[must_use]
pub fn package(name: &str) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: "1:2.0-1".to_owned(),
        arch: "amd64".to_owned(),
        suite: "trixie".to_owned(),
        path: format!("pool/main/x/{name}_2.0-1_amd64.deb"),
        size: 1,
        sha256: Digest::of(name),
        why: "wished".to_owned(),
    }
}

/// A lock with one layer.
#[must_use]
pub fn lock() -> LockFile {
    LockFile {
        version: LOCK_VERSION,
        wishes: Digest::of("wishes"),
        init: LockedInit {
            size: 1,
            sha256: Digest::of("init"),
        },
        suites: vec![LockedSuite {
            name: "trixie".to_owned(),
            date: 1_789_199_741,
            release: Digest::of("release"),
        }],
        boards: Vec::new(),
        layers: vec![LockedLayer {
            base: None,
            tar: None,
            oci: None,
            name: "app".to_owned(),
            packages: vec![package("webfs")],
        }],
        tools: Vec::new(),
    }
}

/// A green report of the image at `started`, with these checks.
#[must_use]
pub fn report(image: &Digest, plan: &Digest, started: i64, checks: &[&str]) -> BootReport {
    let hex = |text: &str| Digest::of(text).hex();
    BootReport {
        schema: REPORT_SCHEMA,
        name: "hello".to_owned(),
        image: image.to_string(),
        plan: plan.to_string(),
        boot: BootKind::Firmware,
        passed: true,
        verdicts: checks
            .iter()
            .map(|check| Verdict {
                check: (*check).to_owned(),
                outcome: Outcome::Passed(String::new()),
            })
            .collect(),
        failure: None,
        others: Vec::new(),
        timeline: Vec::new(),
        boots: 1,
        screen: None,
        accelerator: "tcg".to_owned(),
        slowdown: 1.5,
        emulator: "qemu 10.0.13 (locked)".to_owned(),
        emulator_digest: format!("sha256:{}", hex("qemu")),
        firmware_digest: format!("sha256:{}", hex("ovmf")),
        started,
        seed: 7,
        attempt: 1,
        shard: None,
        debug: false,
        unprotected: Some(3),
        disk_before: hex("disk"),
        disk_after: hex("disk"),
        ready_seconds: Some(4.5),
        total_seconds: 9.25,
        init_rss_kib: None,
        events: Vec::new(),
    }
}

/// What is in the image, made up.
#[must_use]
pub fn sbom(image: &Digest) -> Sbom {
    Sbom::of(&SbomFacts {
        name: "hello".to_owned(),
        version: "1.0".to_owned(),
        board: "qemu-x86_64".to_owned(),
        image: *image,
        created: 1_789_199_741,
        builder: "0.1.0".to_owned(),
        init: Digest::of("init"),
        layers: vec!["app".to_owned()],
        packages: Vec::new(),
        files: Vec::new(),
    })
}

/// Attestations of a report, signed by [`key`] `number`.
///
/// # Errors
/// As [`attest`].
pub fn attested(
    report: &BootReport,
    image: &Digest,
    number: u8,
) -> Result<Attestations, super::AttestError> {
    let facts = BuildFacts {
        name: "hello",
        version: "1.0",
        board: "qemu-x86_64",
        debug: report.debug,
        builder: "0.1.0",
        sources: &[],
    };
    attest(
        Evidence {
            report,
            image: *image,
            provenance: Provenance::of(&facts, &lock()),
            sbom: sbom(image),
            accept_debug: false,
        },
        &key(number),
    )
}
