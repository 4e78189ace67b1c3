//! One image for whatever there is: the board that finds its drivers by itself, on the disks
//! and network cards that QEMU has. All boot the very same bytes.

use std::io::Write;
use std::time::Instant;

use slipform_qemu_tests::BootPath;

use crate::support::lab::{boot, is_nightly, slot};
use crate::support::project::{Project, Subject};
use crate::support::red::assert_green;

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// OVMF has a driver for its disk.
    Firmware,
    /// SeaBIOS has one.
    Bios,
}

/// Disk, network card, and how it starts. The first two are those of every
/// change.
const MACHINES: [(&str, &str, Start); 11] = [
    ("ahci", "e1000e", Start::Firmware),
    ("ahci", "e1000e", Start::Bios),
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

fn subject() -> Subject {
    Project::shipped("hello")
        .on_board("hello-generic", "generic-x86_64", &[])
        .cast()
}

#[test]
fn one_image_finds_its_drivers_on_every_machine() {
    let count = if is_nightly() { MACHINES.len() } else { 2 };
    let subject = subject();
    for (disk, network, start) in MACHINES.into_iter().take(count) {
        let _slot = slot();
        let name = format!("hello-generic-{disk}-{network}-{start:?}").to_lowercase();
        let mut plan = subject.by_firmware(&name);
        if start == Start::Bios {
            plan.boot = BootPath::Bios;
        }
        plan.emulation.disk = disk.to_owned();
        plan.emulation.network = network.to_owned();
        let begun = Instant::now();
        let report = boot(&plan);
        assert_green(&plan, &report);
        // Past what the test runner captures; a closed stderr is nobody who could be told.
        let _ = writeln!(
            std::io::stderr(),
            "generic-x86_64 on {disk} and {network} by {start:?}: green in {} ms",
            begun.elapsed().as_millis()
        );
    }
}
