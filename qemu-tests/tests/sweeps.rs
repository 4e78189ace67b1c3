//! Sweeps of a real image on real machines, reduced to what tells most: a byte of each
//! kind of guard, and two power cuts. The whole sweep is `slipform test --tamper`.
//!
//! TCG only, two machines at a time.

mod e2e_support;

use std::collections::BTreeMap;
use std::fs::File;

use e2e_support::lab::{emulator, settings, slot};
use e2e_support::project::Project;
use slipform::pipeline::SweepRequest;
use slipform_qemu_tests::sweep::Class;

/// A region of each guard, and what must become of its byte.
const TELLING: [(&str, &[Class]); 5] = [
    ("GPT primary header, of its checksum", &[Class::Repaired]),
    ("boot image .osrel", &[Class::Unprotected]),
    ("layer base, verity superblock", &[Class::Harmless]),
    ("layer app, unused block", &[Class::DetectedAtRead]),
    (
        "layer base, file data not read at boot",
        &[Class::DetectedAtRead],
    ),
];

#[test]
fn telling_bytes_and_two_power_cuts() {
    let (_first, _second) = (slot(), slot());
    let subject = Project::shipped("hello").cast();
    let plan = subject.by_firmware("sweeps");
    let request = SweepRequest {
        tamper: Some(TELLING.iter().map(|(name, _)| (*name).to_owned()).collect()),
        power_cuts: 2,
        seed: 3,
        jobs: 2,
        ..SweepRequest::default()
    };
    let sweeps = settings()
        .sweep(&plan, emulator(), "tcg", &request)
        .expect("the sweeps can be made");
    assert!(sweeps.passed(), "{}", sweeps.text());
    let tamper = sweeps.tamper.as_ref().expect("a matrix");
    let classes: BTreeMap<&str, Class> = tamper
        .cells
        .iter()
        .map(|cell| (cell.region.as_str(), cell.class))
        .collect();
    for (region, wanted) in TELLING {
        let class = classes.get(region).expect(region);
        assert!(wanted.contains(class), "{region}: {}", sweeps.text());
    }
    for name in ["tamper.json", "powercut.json"] {
        let file = File::open(plan.evidence.join(name)).expect(name);
        let json: serde_json::Value = serde_json::from_reader(file).expect(name);
        assert_eq!(json["seed"], 3, "{name}");
        assert_eq!(json["passed"], true, "{name}");
    }
}
