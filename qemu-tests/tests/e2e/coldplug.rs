//! One image for whatever there is: the board that finds its drivers by itself, on the disks
//! and network cards that QEMU has. All boot the very same bytes.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use slipform_qemu_tests::{BootPath, Outcome};

use crate::support::lab::{boot, is_nightly, slot};
use crate::support::project::{Project, Subject};
use crate::support::red::assert_green;

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// As the board says: by UEFI, and once more by a BIOS.
    Both,
    /// OVMF has a driver for its disk.
    Firmware,
    /// SeaBIOS has one.
    Bios,
}

/// Disk, network card, and how it starts. The first is that of every change.
const MACHINES: [(&str, &str, Start); 10] = [
    ("ahci", "e1000e", Start::Both),
    ("nvme", "igb", Start::Firmware),
    ("usb-storage", "vmxnet3", Start::Firmware),
    ("virtio-scsi", "virtio-net", Start::Firmware),
    ("virtio-blk", "e1000e", Start::Firmware),
    ("megasas", "igb", Start::Bios),
    ("pvscsi", "vmxnet3", Start::Bios),
    ("nvme", "igb", Start::Bios),
    ("usb-storage", "e1000e", Start::Bios),
    ("virtio-blk", "virtio-net", Start::Bios),
];

/// One for all tests.
fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        Project::shipped("hello")
            .on_board("hello-generic", "generic-x86_64", &[])
            .cast()
    })
}

#[test]
fn one_image_finds_its_drivers_on_every_machine() {
    let count = if is_nightly() { MACHINES.len() } else { 1 };
    let subject = subject();
    for (disk, network, start) in MACHINES.into_iter().take(count) {
        let _slot = slot();
        let name = format!("hello-generic-{disk}-{network}-{start:?}").to_lowercase();
        let mut plan = subject.by_firmware(&name);
        assert!(plan.also_bios);
        plan.also_bios = start == Start::Both;
        if start == Start::Bios {
            plan.boot = BootPath::Bios;
        }
        plan.emulation.disk = disk.to_owned();
        plan.emulation.network = network.to_owned();
        let begun = Instant::now();
        let report = boot(&plan);
        assert_green(&plan, &report);
        let shown = report.verdicts.iter().any(|verdict| {
            matches!(&verdict.outcome, Outcome::Passed(how) if how.contains("boot 2: by its BIOS after"))
        });
        assert_eq!(shown, start == Start::Both, "{:?}", report.verdicts);
        // Past what the test runner captures; a closed stderr is nobody who could be told.
        let _ = writeln!(
            std::io::stderr(),
            "generic-x86_64 on {disk} and {network} by {start:?}: green in {} ms",
            begun.elapsed().as_millis()
        );
    }
}

/// UEFI does not look at the first sector's code, a BIOS at nothing else.
#[test]
fn a_disk_that_no_bios_starts_is_red() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let mut plan = subject().by_firmware("hello-generic-no-bios");
    let folder = tempfile::tempdir().unwrap();
    // The other tests' stays as it is.
    let other = std::mem::replace(&mut plan.disk, folder.path().join("disk.raw"));
    std::fs::copy(other, &plan.disk).unwrap();
    // A processor that runs zeros is silent: this is how long that is waited for.
    plan.ready_limit = Duration::from_secs(2);
    let disk = OpenOptions::new().write(true).open(&plan.disk).unwrap();
    disk.write_all_at(&[0; 440], 0).unwrap();
    let report = boot(&plan);
    let failure = report.failure.expect("it is red");
    assert_eq!(
        (failure.check.as_str(), failure.phase.as_str()),
        ("reached ready", "firmware")
    );
    for part in ["Booting from Hard Disk...", "(boot 2)"] {
        assert!(failure.line.contains(part), "{}", failure.line);
    }
    assert_eq!(report.boots, 2);
}
