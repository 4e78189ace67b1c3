//! One image for whatever there is: the board that finds its drivers by itself, on the disks
//! and network cards that QEMU has. All boot the very same bytes.

use std::io::Write;
use std::time::Instant;

use crate::support::lab::{boot, is_nightly, slot};
use crate::support::project::{Project, Subject};
use crate::support::red::assert_green;

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// OVMF has a driver for its disk.
    Firmware,
    /// It has none: QEMU loads the kernel.
    Direct,
}

/// Disk, network card, and how it starts. The first is the one of every change.
const MACHINES: [(&str, &str, Start); 7] = [
    ("ahci", "e1000e", Start::Firmware),
    ("nvme", "igb", Start::Firmware),
    ("usb-storage", "vmxnet3", Start::Firmware),
    ("virtio-scsi", "virtio-net", Start::Firmware),
    ("virtio-blk", "e1000e", Start::Firmware),
    ("megasas", "igb", Start::Direct),
    ("pvscsi", "vmxnet3", Start::Direct),
];

fn subject() -> Subject {
    Project::shipped("hello")
        .on_board("hello-generic", "generic-x86_64", &[])
        .cast()
}

#[test]
fn one_image_finds_its_drivers_on_every_machine() {
    let count = if is_nightly() { MACHINES.len() } else { 1 };
    let subject = subject();
    for (disk, network, start) in MACHINES.into_iter().take(count) {
        let _slot = slot();
        let name = format!("hello-generic-{disk}-{network}");
        let mut plan = match start {
            Start::Firmware => subject.by_firmware(&name),
            Start::Direct => subject.direct(&name),
        };
        plan.emulation.disk = disk.to_owned();
        plan.emulation.network = network.to_owned();
        let begun = Instant::now();
        let report = boot(&plan);
        assert_green(&plan, &report);
        // Past what the test runner captures; a closed stderr is nobody who could be told.
        let _ = writeln!(
            std::io::stderr(),
            "generic-x86_64 on {disk} and {network}: green in {} ms",
            begun.elapsed().as_millis()
        );
    }
}
