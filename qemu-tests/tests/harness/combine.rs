//! Parts that make a whole, runs that are counted, and what is refused.

use crate::support::*;
use slipform_qemu_tests::{BootReport, MergeError, Outcome, junit, merge, repeated};

/// Reports with their names.
type Parts = Vec<(String, BootReport)>;
/// A lie about one.
type Lie = fn(&mut BootReport);

fn shards(of: u32, script: &[&str]) -> Parts {
    let mut fixture = Fixture::new();
    fixture.plan.checks = (1..=5)
        .map(|n| http(&format!("check {n}"), "hello"))
        .collect();
    (1..=of)
        .map(|part| {
            fixture.plan.run.shard = Some((part, of));
            (format!("part-{part}"), fixture.report(script))
        })
        .collect()
}

const HEALTHY: [&str; 4] = [BOOT, LAYERS, READY, POWER_OFF];

#[test]
fn parts_make_a_whole_in_the_plans_order() {
    let mut parts = shards(3, &HEALTHY);
    parts.reverse();
    let whole = merge(&parts).expect("a whole");
    assert!(whole.passed && whole.shard.is_none(), "{whole:#?}");
    let mut fixture = Fixture::new();
    fixture.plan.checks = (1..=5)
        .map(|n| http(&format!("check {n}"), "hello"))
        .collect();
    let unsharded = fixture.report(&HEALTHY);
    let names = |report: &BootReport| -> Vec<String> {
        let verdicts = report.verdicts.iter();
        verdicts.map(|verdict| verdict.check.clone()).collect()
    };
    assert_eq!(names(&whole), names(&unsharded));
    assert_eq!((&whole.plan, whole.boots), (&unsharded.plan, 3));
    let junit = junit([&whole]);
    assert!(junit.contains("failures=\"0\" skipped=\"0\""), "{junit}");
    // More shards than checks: some have only the checks that every image gets.
    assert!(merge(&shards(7, &HEALTHY)).expect("a whole").passed);
}

#[test]
fn a_red_part_makes_the_whole_red() {
    let mut parts = shards(2, &HEALTHY);
    let wrong = READY.replace("hello", "goodbye");
    parts[1] = shards(2, &[BOOT, LAYERS, &wrong, POWER_OFF]).remove(1);
    let whole = merge(&parts).expect("a whole");
    assert!(!whole.passed && failed(&whole, "check 2") && passed(&whole, "check 1"));
    let failure = whole.failure.expect("a failure");
    assert!(failure.line.contains("check 2") && failure.line.ends_with("(part 2)"));
    // A built-in check must hold in every part.
    let mut parts = shards(2, &HEALTHY);
    let unclean = POWER_OFF.replace("\"clean\":true", "\"clean\":false");
    parts[0] = shards(2, &[BOOT, LAYERS, READY, &unclean]).remove(0);
    let whole = merge(&parts).expect("a whole");
    assert!(
        matches!(outcome(&whole, "clean power-off"), Outcome::Failed(text) if text.starts_with("part 1: "))
    );
}

#[test]
fn missing_double_and_foreign_parts_are_refused() {
    let parts = shards(3, &HEALTHY);
    let refused = |change: &dyn Fn(&mut Parts)| {
        let mut changed = parts.clone();
        change(&mut changed);
        match merge(&changed) {
            Err(error) => error,
            Ok(whole) => panic!("merged: {whole:#?}"),
        }
    };
    assert_eq!(refused(&|parts| parts.clear()), MergeError::None);
    let missing = refused(&|parts| drop(parts.remove(1)));
    assert_eq!(missing, MergeError::Missing { missing: 2, of: 3 });
    assert!(missing.to_string().contains("--shard 2/3"));
    let twice = refused(&|parts| parts.push(parts[0].clone()));
    assert!(
        twice
            .to_string()
            .contains("part 1 of 3 is there twice: part-1 and part-1")
    );
    let foreign: [(&str, Lie); 7] = [
        ("image", |report| report.image.push('x')),
        ("test plan", |report| report.plan.push('x')),
        ("disk", |report| {
            report.disk_before.push('x');
            report.disk_after.push('x');
        }),
        ("emulator", |report| report.emulator_digest.push('x')),
        ("firmware", |report| report.firmware_digest.push('x')),
        ("number of parts", |report| report.shard = Some((3, 4))),
        ("seed", |report| report.seed = 9),
    ];
    for (what, change) in foreign {
        let error = refused(&|parts| change(&mut parts[2].1)).to_string();
        assert!(
            error.starts_with(&format!("part-3: its {what} is ")),
            "{error}"
        );
    }
    let lies: [Lie; 4] = [
        |report| report.passed = false,
        |report| drop(report.verdicts.remove(3)),
        |report| report.disk_after.push('x'),
        |report| report.shard = Some((0, 3)),
    ];
    for lie in lies {
        let error = refused(&|parts| lie(&mut parts[1].1)).to_string();
        assert!(
            error.contains("it is no report of this slipform"),
            "{error}"
        );
    }
    let whole = refused(&|parts| parts[1].1.shard = None).to_string();
    assert!(whole.contains("a whole report and no part"), "{whole}");
    let old = refused(&|parts| parts[1].1.schema = 1).to_string();
    assert!(old.contains("its schema is 1, not 2"), "{old}");
}

#[test]
fn flakes_are_shown_as_flakes() {
    let wrong = READY.replace("hello", "goodbye");
    let fixture = Fixture::new();
    let good = || fixture.report(&HEALTHY);
    let bad = || fixture.report(&[BOOT, LAYERS, &wrong, POWER_OFF]);
    let whole = repeated(&[good(), bad(), good()]).expect("runs");
    assert!(!whole.passed);
    let Outcome::Failed(text) = outcome(&whole, "serves the page") else {
        panic!("{whole:#?}");
    };
    assert!(
        text.starts_with("FLAKY: 2 of 3 passed; run 2: GET / gave status 200"),
        "{text}"
    );
    assert!(
        matches!(outcome(&whole, "reached ready"), Outcome::Passed(text) if text == "3 of 3 passed")
    );
    assert!(
        whole
            .failure
            .is_some_and(|failure| failure.line.ends_with("(run 2)"))
    );
    let whole = repeated(&[bad(), bad()]).expect("runs");
    assert!(
        matches!(outcome(&whole, "serves the page"), Outcome::Failed(text) if text.starts_with("0 of 2 passed"))
    );
    let whole = repeated(&[good(), good()]).expect("runs");
    assert!(whole.passed && whole.failure.is_none());
    assert!(repeated(&[]).is_none());
}
