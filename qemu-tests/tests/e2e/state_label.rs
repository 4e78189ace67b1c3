//! State on a disk that an operator prepared and named: a volume without a serial number.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::state::{Client, MIB, all_are_there, error, fsck, news, start_with};
use crate::support::lab::slot;
use crate::support::project::Project;
use slipform::pipeline::testing;
use slipform_init::contract::event::StateNews;
use slipform_qemu_tests::Plan;

/// A file of so many bytes with the ext4 that `mkfs.ext4 -L data` makes; false without the tool.
fn prepared(path: &Path, bytes: u64) -> bool {
    let file = File::create(path).expect("a file");
    file.set_len(bytes).expect("its length");
    let Some(tools) = testing::judges().expect("the judges") else {
        return false;
    };
    let mut make = tools.command("mke2fs").expect("the judges have it");
    let made = make.args(["-q", "-t", "ext4", "-L", "data"]).arg(path);
    assert!(made.status().expect("mke2fs runs").success());
    true
}

/// Boots, expects `told` of the state and `count` keys, and adds one.
#[track_caller]
fn boots(plan: &Plan, data: &Path, told: &[StateNews], count: u64) {
    let (machine, port, ready) = start_with(plan, &[(data, "")]);
    assert!(ready, "{:#?}", machine.records);
    assert_eq!(news(&machine.records), told);
    let mut client = Client::connect(port);
    all_are_there(&mut client, count);
    let next = count + 1;
    let set = client.ask(&["SET", &format!("key{next}"), &format!("value{next}")]);
    assert_eq!(set.expect("an answer"), "+OK");
}

#[test]
fn a_disk_of_its_own_is_found_by_its_label_and_of_two_none_is_taken() {
    let _slot = slot();
    let own = "[state]\ndisk = { label = \"data\" }\n";
    let subject = Project::shipped("redis")
        .variant("redis-label", &[("[state]\n", own)], &[])
        .cast();
    let plan = subject.direct("state-label");
    let folder = subject.folder.path();

    // A partition that is called so, as the boot test hands one over.
    let table = folder.join("table.raw");
    let handed = plan.state_disk.as_ref().expect("the plan has a disk");
    let file = File::create(&table).expect("a file");
    file.set_len(handed.bytes).expect("its length");
    for (at, bytes) in &handed.content {
        file.write_all_at(bytes, *at).expect("the table");
    }
    boots(&plan, &table, &[StateNews::Made, StateNews::Mounted], 0);
    boots(&plan, &table, &[StateNews::Mounted], 1);

    // An ext4 of that label on the whole disk.
    let data = folder.join("data.raw");
    if !prepared(&data, 64 * MIB) {
        return;
    }
    boots(&plan, &data, &[StateNews::Mounted], 0);
    let larger = File::options().write(true).open(&data).expect("the disk");
    larger.set_len(100 * MIB).expect("a larger disk");
    boots(&plan, &data, &[StateNews::Grown, StateNews::Mounted], 1);
    fsck(&data, &(0..100 * MIB));

    let before = [&table, &data].map(|path| fs::read(path).expect("a disk"));
    let (machine, _, ready) = start_with(&plan, &[(&data, ""), (&table, "")]);
    assert!(!ready);
    let why = error(&machine.records).unwrap_or_else(|| panic!("{:#?}", machine.records));
    assert!(why.contains("disk of label \"data\""), "{why}");
    assert!(
        why.contains("2 disks have it: /dev/vdb, /dev/vdc1"),
        "{why}"
    );
    drop(machine);
    let after = [&table, &data].map(|path| fs::read(path).expect("a disk"));
    assert!(before == after, "nothing was written");
}
