//! Every reason to refuse, and the one way through.

use slipform_qemu_tests::{BootReport, Outcome};

use super::*;
use crate::attest::testing::{attested, key, report, sbom};
use crate::attest::{Resource, Signer};

const NOW: i64 = 1_800_000_000;
const CHECKS: [&str; 3] = ["ready", "no panic", "serves the page"];

fn image() -> Digest {
    Digest::of("image")
}

fn plan() -> Digest {
    Digest::of("plan")
}

fn good() -> Attestations {
    attested(&report(&image(), &plan(), NOW - 60, &CHECKS), &image(), 1).unwrap()
}

fn candidate(attestations: Option<Attestations>) -> Candidate {
    Candidate {
        board: "qemu-x86_64".into(),
        image: image(),
        plan: plan(),
        checks: CHECKS.map(str::to_owned).into(),
        attestations,
    }
}

const POLICY: Policy = Policy {
    max_age: 86_400,
    accept_debug: false,
};

fn ask(candidate: Candidate, now: i64) -> Result<Attested, GateError> {
    gate(GateInput {
        images: vec![candidate],
        trust: &Trust::new(vec![key(1).public().clone()]),
        policy: &POLICY,
        now,
    })
}

#[track_caller]
fn refused(candidate: Candidate) -> Refusal {
    match ask(candidate, NOW).unwrap_err() {
        GateError::Refused { refusal, .. } => {
            let text = refusal.to_string();
            let remedies = ["slipform ", "accept-debug"];
            assert!(
                remedies.iter().any(|r| text.contains(r)),
                "no remedy: {text}"
            );
            refusal
        }
        other => panic!("{other}"),
    }
}

/// Attestations whose test result was changed and signed again, as another tool could.
fn resigned(change: impl Fn(&mut Statement<TestResult>)) -> Candidate {
    let mut all = good();
    let keys = [key(1).public().clone()];
    let mut statement = Statement::<TestResult>::verify(&all.test, &keys).unwrap();
    change(&mut statement);
    all.test = statement.sign(&key(1)).unwrap();
    candidate(Some(all))
}

/// The same with one fact of the run.
fn run_with(name: &'static str, value: serde_json::Value) -> Candidate {
    resigned(move |statement| {
        let plan = &mut statement.predicate.configuration[0];
        plan.annotations.insert(name.to_owned(), value.clone());
    })
}

#[test]
fn what_booted_and_passed_goes_through() {
    let passed = ask(candidate(Some(good())), NOW).unwrap();
    assert_eq!(passed.forced(), None);
    let [only] = passed.images() else { panic!() };
    assert_eq!((only.board(), *only.image()), ("qemu-x86_64", image()));
    assert_eq!(only.attestations(), Some(&good()));
}

#[test]
fn nothing_attested_no_trust_no_images() {
    assert_eq!(refused(candidate(None)), Refusal::Missing);
    let nobody = gate(GateInput {
        images: vec![candidate(Some(good()))],
        trust: &Trust::default(),
        policy: &POLICY,
        now: NOW,
    });
    assert_eq!(nobody.unwrap_err(), GateError::NoTrust);
    let trust = Trust::new(vec![key(1).public().clone()]);
    let ask = |images| {
        gate(GateInput {
            images,
            trust: &trust,
            policy: &POLICY,
            now: NOW,
        })
        .unwrap_err()
    };
    assert_eq!(ask(Vec::new()), GateError::NoImages);
    let twice = vec![candidate(Some(good())), candidate(Some(good()))];
    assert!(matches!(ask(twice), GateError::SameBoard(_)));
}

#[test]
fn a_strangers_signature_on_any_of_the_three() {
    let green = report(&image(), &plan(), NOW - 60, &CHECKS);
    let foreign = attested(&green, &image(), 2).unwrap();
    let mixes = [
        Attestations {
            test: foreign.test.clone(),
            ..good()
        },
        Attestations {
            provenance: foreign.provenance.clone(),
            ..good()
        },
        Attestations {
            sbom: foreign.sbom.clone(),
            ..good()
        },
    ];
    for mix in mixes {
        assert!(matches!(
            refused(candidate(Some(mix))),
            Refusal::Signature(..)
        ));
    }
    // One statement in the place of another is no statement.
    let swapped = Attestations {
        sbom: good().provenance,
        ..good()
    };
    assert!(matches!(
        refused(candidate(Some(swapped))),
        Refusal::Signature("SBOM", _)
    ));
}

#[test]
fn another_image_or_several() {
    let other = Digest::of("other image");
    let foreign = attested(&report(&other, &plan(), NOW - 60, &CHECKS), &other, 1).unwrap();
    assert_eq!(
        refused(candidate(Some(foreign.clone()))),
        Refusal::OtherImage("test result")
    );
    let mixed = Attestations {
        sbom: foreign.sbom,
        ..good()
    };
    assert_eq!(refused(candidate(Some(mixed))), Refusal::OtherImage("SBOM"));
    let mixed = Attestations {
        provenance: foreign.provenance,
        ..good()
    };
    assert_eq!(
        refused(candidate(Some(mixed))),
        Refusal::OtherImage("provenance")
    );
    let several = resigned(|s| s.subject.push(Resource::new("x", &Digest::of("x"))));
    assert_eq!(refused(several), Refusal::OtherImage("test result"));
    let none = resigned(|s| s.subject.clear());
    assert_eq!(refused(none), Refusal::OtherImage("test result"));
}

#[test]
fn another_plan() {
    let mut changed = candidate(Some(good()));
    changed.plan = Digest::of("a plan with one more check");
    assert_eq!(refused(changed), Refusal::OtherPlan);
    assert_eq!(
        refused(resigned(|s| drop(s.predicate.configuration.remove(0)))),
        Refusal::OtherPlan
    );
}

#[test]
fn checks_that_failed_were_skipped_or_never_made() {
    let failed = resigned(|s| s.predicate.failed_tests.push("x".into()));
    assert_eq!(refused(failed), Refusal::NotPassed(vec!["x".into()]));
    let warned = resigned(|s| s.predicate.warned_tests.push("y".into()));
    assert_eq!(refused(warned), Refusal::NotPassed(vec!["y".into()]));
    let red = resigned(|s| s.predicate.result = Verdict::Failed);
    assert_eq!(refused(red), Refusal::NotPassed(Vec::new()));
    let short = resigned(|s| drop(s.predicate.passed_tests.remove(1)));
    assert_eq!(refused(short), Refusal::NotChecked(vec!["no panic".into()]));
    let mut unasked = candidate(Some(good()));
    unasked.checks.clear();
    assert_eq!(refused(unasked), Refusal::NotChecked(Vec::new()));
}

#[test]
fn runs_that_do_not_count() {
    assert_eq!(refused(run_with("boot", "direct".into())), Refusal::Direct);
    assert_eq!(refused(run_with("debug", true.into())), Refusal::Debug);
    assert_eq!(
        refused(run_with("shard", vec![1, 2].into())),
        Refusal::Shard(1, 2)
    );
    assert_eq!(refused(run_with("attempt", 2.into())), Refusal::Retried(2));
    assert_eq!(refused(run_with("attempt", "x".into())), Refusal::NoFacts);
    let silent = resigned(|s| {
        drop(s.predicate.configuration[0].annotations.remove("debug"));
    });
    assert_eq!(refused(silent), Refusal::NoFacts);
    let changed = resigned(|s| {
        s.predicate.configuration[1]
            .annotations
            .insert("unchanged".into(), false.into());
    });
    assert_eq!(refused(changed), Refusal::Changed);
}

#[test]
fn a_debug_image_passes_where_the_policy_says_so() {
    let policy = Policy {
        accept_debug: true,
        ..POLICY
    };
    let passed = gate(GateInput {
        images: vec![run_with("debug", true.into())],
        trust: &Trust::new(vec![key(1).public().clone()]),
        policy: &policy,
        now: NOW,
    });
    assert!(passed.is_ok());
}

#[test]
fn too_old_and_from_the_future() {
    for (started, expected) in [
        (NOW, None),
        (NOW + SKEW, None),
        (NOW + SKEW + 1, Some(Refusal::Future(SKEW + 1))),
        (NOW - 86_400, None),
        (NOW - 86_401, Some(Refusal::TooOld(86_401, 86_400))),
        (i64::MIN, Some(Refusal::TooOld(i64::MAX, 86_400))),
        (i64::MAX, Some(Refusal::Future(i64::MAX - NOW))),
    ] {
        let asked = ask(run_with("started", started.into()), NOW);
        let refusal = asked.err().map(|error| match error {
            GateError::Refused { refusal, .. } => refusal,
            other => panic!("{other}"),
        });
        assert_eq!(refusal, expected, "{started}");
    }
}

#[test]
fn forcing_needs_a_reason_that_stays() {
    let images = || vec![("qemu-x86_64".to_owned(), image(), None)];
    for reason in ["", "  ", "a\nb", &"x".repeat(501)] {
        assert_eq!(force(images(), reason).unwrap_err(), GateError::NoReason);
    }
    let forced = force(images(), " the certificate ends today ").unwrap();
    assert_eq!(forced.forced(), Some("the certificate ends today"));
    assert_eq!(forced.images()[0].attestations(), None);
    assert_eq!(force(Vec::new(), "x").unwrap_err(), GateError::NoImages);
}

#[test]
fn runs_that_cannot_be_attested() {
    type Change = fn(&mut BootReport);
    let change: [(&str, Change); 8] = [
        ("failed", |r| r.passed = false),
        ("directly", |r| r.boot = BootKind::Direct),
        ("part 1 of 2", |r| r.shard = Some((1, 2))),
        ("attempt 2", |r| r.attempt = 2),
        ("debug layer", |r| r.debug = true),
        ("changed", |r| r.disk_after = Digest::of("x").hex()),
        ("it booted", |r| r.image = Digest::of("x").to_string()),
        ("schema 1", |r| r.schema = 1),
    ];
    for (expected, change) in change {
        let mut run = report(&image(), &plan(), NOW, &CHECKS);
        change(&mut run);
        let error = attested(&run, &image(), 1).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("slipform "),
            "{error}"
        );
    }
}

#[test]
fn a_skipped_check_is_a_warning() {
    let mut run = report(&image(), &plan(), NOW, &CHECKS);
    run.verdicts[1].outcome = Outcome::Skipped("too early".into());
    let all = attested(&run, &image(), 1).unwrap();
    assert_eq!(
        refused(candidate(Some(all))),
        Refusal::NotPassed(vec!["no panic".into()])
    );
}

#[test]
fn the_report_is_told_whole() {
    let run = report(&image(), &plan(), NOW, &CHECKS);
    let result = TestResult::of(&run).unwrap();
    let facts = result.facts().unwrap();
    assert_eq!(
        (facts.started, facts.seed, facts.unprotected),
        (NOW, 7, Some(3))
    );
    assert_eq!(
        (facts.ready_seconds, facts.total_seconds),
        (Some(4.5), 9.25)
    );
    let names: Vec<&str> = result
        .configuration
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(names, ["test-plan", "disk", "emulator", "firmware"]);
    assert_eq!(result.configuration[2].annotations["accelerator"], "tcg");
    assert_eq!(result.configuration[3].sha256(), Some(Digest::of("ovmf")));
}

#[test]
fn mutated_statements_are_refused_or_the_same() {
    let keys = [key(1).public().clone()];
    let all = good();
    let payload = all
        .test
        .verify(crate::attest::PAYLOAD_TYPE, &keys)
        .unwrap()
        .payload;
    slipform_fuzz::fuzz(&[&payload], |bytes, _| {
        if let Ok(statement) = Statement::<TestResult>::parse(bytes) {
            let _ = (statement.predicate.facts(), statement.predicate.plan());
            let _ = passed(&statement.predicate, &CHECKS.map(str::to_owned));
        }
        assert!(Statement::<Provenance>::parse(bytes).is_err());
    });
    // Their signature is gone with one byte.
    let bytes = all.test.to_bytes().unwrap();
    slipform_fuzz::fuzz(&[&bytes], |bytes, _| {
        let Ok(test) = Envelope::parse(bytes) else {
            return;
        };
        let same = test.payload().is_ok_and(|p| p == payload);
        let mixed = Attestations { test, ..good() };
        if ask(candidate(Some(mixed)), NOW).is_ok() {
            assert!(same);
        }
    });
    let _ = sbom(&image());
}
