//! Hits, misses and why.

use super::*;

struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    log: StepLog,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        Self {
            _folder: folder,
            store,
            log: StepLog::default(),
        }
    }

    fn done(&self, step: &Step) -> Outputs {
        let blob = self.store.put(step.key().as_bytes()).unwrap();
        let outputs = Outputs::from([
            ("layer".to_owned(), Output::Blob(blob)),
            ("size".to_owned(), Output::Value(serde_json::json!(12))),
        ]);
        self.store.record(step, &outputs).unwrap();
        outputs
    }

    fn why(&self, step: &Step) -> Vec<String> {
        match self.store.step(step, &self.log) {
            StepState::Hit(_) => Vec::new(),
            StepState::Miss { changed } => changed,
        }
    }
}

fn step() -> Step {
    Step::new("layer", "base of hello")
        .value("files", "a")
        .value("packages", "b")
}

#[test]
fn a_step_done_is_a_hit_and_survives_reopening() {
    let bench = Bench::new();
    assert_eq!(bench.why(&step()), ["first time"]);
    let outputs = bench.done(&step());
    assert_eq!(
        bench.store.step(&step(), &bench.log),
        StepState::Hit(outputs.clone())
    );
    let again = Store::open(bench.store.root()).unwrap();
    assert_eq!(again.step(&step(), &bench.log), StepState::Hit(outputs));
    let lines: Vec<_> = bench.log.events().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "miss layer base of hello: first time",
            "hit  layer base of hello",
            "hit  layer base of hello"
        ]
    );
    assert_eq!(
        serde_json::to_string(&bench.log.events()[0]).unwrap(),
        r#"{"step":"layer","subject":"base of hello","hit":false,"changed":["first time"]}"#
    );
}

#[test]
fn a_miss_names_what_changed_since_the_last_run_of_its_subject() {
    let bench = Bench::new();
    bench.done(&step());
    let base = || Step::new("layer", "base of hello");
    let cases: [(Step, &[&str]); 5] = [
        (
            base().value("files", "A").value("packages", "b"),
            &["files"],
        ),
        (base().value("packages", "b"), &["files (gone)"]),
        (step().value("users", "c"), &["users (new)"]),
        (
            base().value("packages", "b").value("files", "a"),
            &["order of inputs"],
        ),
        (
            Step::new("layer", "app of hello").value("files", "z"),
            &["first time"],
        ),
    ];
    for (step, expected) in cases {
        assert_eq!(bench.why(&step), expected);
    }
    // Going back to what was there is a hit, and from then on the last run.
    let other = base().value("files", "A").value("packages", "b");
    bench.done(&other);
    assert!(bench.why(&step()).is_empty());
    assert_eq!(
        bench.why(&base().value("files", "a").value("packages", "B")),
        ["packages"]
    );
}

#[test]
fn a_subject_of_the_same_inputs_shares_the_result() {
    let bench = Bench::new();
    bench.done(&step());
    let elsewhere = Step::new("layer", "base of another image")
        .value("files", "a")
        .value("packages", "b");
    assert!(bench.why(&elsewhere).is_empty());
}

#[test]
fn an_output_that_is_gone_is_a_miss() {
    let bench = Bench::new();
    let outputs = bench.done(&step());
    let Output::Blob(blob) = outputs["layer"] else {
        panic!("no blob");
    };
    fs::remove_file(bench.store.path(&blob)).unwrap();
    assert_eq!(bench.why(&step()), ["output missing: layer"]);
    assert!(matches!(
        bench.store.record(&step(), &outputs),
        Err(StoreError::Missing(_))
    ));
}

#[test]
fn a_damaged_record_is_a_miss_whatever_byte_is_flipped() {
    let bench = Bench::new();
    bench.done(&step());
    let path = bench.store.step_path(&step().key());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_ne!(bench.why(&step()), [""; 0], "byte {at}");
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_ne!(bench.why(&step()), [""; 0], "cut at {length}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(bench.why(&step()).is_empty());
}

#[test]
fn a_record_under_another_key_is_a_miss() {
    let bench = Bench::new();
    bench.done(&step());
    let other = step().value("more", "x");
    fs::copy(
        bench.store.step_path(&step().key()),
        bench.store.step_path(&other.key()),
    )
    .unwrap();
    assert_eq!(bench.why(&other), ["more (new)"]);
}

#[test]
fn keys_tell_lists_apart_that_look_alike() {
    let keys = [
        Step::new("a", "s").value("b", "c"),
        Step::new("a", "s").value("bc", ""),
        Step::new("ab", "s").value("", "c"),
        Step::new("a", "s"),
        Step::new("a", "s").value("b", "c").value("b", "c"),
        Step::new("a", "s").value("b", "c").value("", ""),
    ]
    .map(|step| step.key());
    for (i, one) in keys.iter().enumerate() {
        for two in &keys[i + 1..] {
            assert_ne!(one, two);
        }
    }
}
