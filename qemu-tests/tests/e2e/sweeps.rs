//! Sweeps of a real image on real machines, reduced to what tells most: a byte of each
//! kind of guard, and two power cuts. The whole sweep is `slipform test --tamper`.
//!
//! TCG only, two machines at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::support::lab::{boot, emulator, settings, slot};
use crate::support::project::Project;
use crate::support::red::assert_green;
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

/// A firmware that mends the primary table hides what Linux would do without it. Here
/// there is none: the MBR's signature and the primary header are both damaged.
#[test]
fn linux_and_init_take_the_backup_table_where_no_firmware_mends_the_first() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let plan = subject.direct("backup-table");
    let disk = File::options().read(true).write(true).open(&plan.disk);
    let disk = disk.expect("the disk opens");
    for offset in [510, 512 + 60] {
        let mut byte = [0];
        disk.read_exact_at(&mut byte, offset).expect("a byte");
        disk.write_all_at(&[byte[0] ^ 0x10], offset)
            .expect("a changed byte");
    }
    let report = boot(&plan);
    assert_green(&plan, &report);
}
