//! Media that no disk is: a CD, and the same file on a USB stick.

use crate::support::lab::{boot, is_nightly, settings, slot};
use crate::support::project::Project;
use crate::support::red::assert_green;
use slipform::output::OutputFormat;
use slipform_init::contract::event::{Event, Phase};
use slipform_qemu_tests::Plan;

/// What a CD in a SATA drive needs beyond the shipped board's modules.
const CD_MODULES: (&str, &str) = (
    "[[test]]",
    "[kernel]\nmodules = [\"ahci\", \"sr_mod\"]\n\n[[test]]",
);

#[test]
fn hello_boots_from_a_cd() {
    let _slot = slot();
    let subject = Project::shipped("hello")
        .variant("hello-cd", &[CD_MODULES], &[])
        .cast();
    let iso = subject.write(OutputFormat::Iso);
    let (format, differences) = settings().compare(&subject.cast, &iso.path).unwrap();
    assert_eq!((format, differences.len()), (OutputFormat::Iso, 0));
    let plan = subject.plan(&iso, "hello-cd");
    // The only disk that the machine has.
    assert_eq!(plan.emulation.disk, "cdrom");
    let report = boot(&plan);
    assert_green(&plan, &report);
}

/// The firmware fetches the disk by HTTP; Linux finds it in memory, and init there.
#[test]
fn hello_boots_over_the_network() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let modules = (
        CD_MODULES.0,
        "[kernel]\nmodules = [\"nfit\", \"nd_pmem\"]\n\n[[test]]",
    );
    // The firmware takes a second for each half MiB here.
    let board = include_str!("../../../boards/qemu-x86_64.toml")
        .replace("esp-size = \"64MiB\"", "esp-size = \"40MiB\"");
    let files = [("boards/qemu-x86_64.toml", board.as_str())];
    let subject = Project::shipped("hello")
        .variant("hello-http", &[modules], &files)
        .cast();
    let mut plan = subject.by_firmware("hello-http");
    plan.emulation.disk = "http-boot".to_owned();
    let report = boot(&plan);
    assert_green(&plan, &report);
}

/// iPXE fetches kernel, initrd and layers; init finds the layers in memory.
#[test]
fn hello_boots_by_ipxe() {
    let _slot = slot();
    let subject = Project::shipped("hello")
        .variant(
            "hello-ipxe",
            &[("[[test]]", "[kernel]\nmodules = [\"loop\"]\n\n[[test]]")],
            &[],
        )
        .cast();
    let tar = subject.write(OutputFormat::Netboot);
    let (format, differences) = settings().compare(&subject.cast, &tar.path).unwrap();
    assert_eq!((format, differences.len()), (OutputFormat::Netboot, 0));
    let mut plan = subject.plan(&tar, "hello-ipxe");
    assert_eq!(plan.emulation.disk, "netboot");
    // By UEFI, as the board says, and by a BIOS.
    plan.also_bios = true;
    let report = boot(&plan);
    assert_green(&plan, &report);
    assert_eq!(report.boots, 2);
}

/// Why there is no state, of a machine that says so and does not start without it.
fn no_state(plan: &Plan) -> String {
    let report = boot(plan);
    let why = report.events.iter().find_map(|record| match &record.event {
        Event::Error {
            phase: Phase::State,
            why,
            ..
        } => Some(why.clone()),
        _ => None,
    });
    why.expect("an error of the state")
}

#[test]
fn state_on_a_cd_ends_the_boot_with_the_reason() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let state = (
        CD_MODULES.0,
        "[kernel]\nmodules = [\"ahci\", \"sr_mod\"]\n\n[state]\npaths = [\"/var/lib/hello\"]\n\n[[test]]",
    );
    let subject = Project::shipped("hello")
        .variant("hello-cd-state", &[state], &[])
        .cast();
    let plan = subject.plan(&subject.write(OutputFormat::Iso), "hello-cd-state");
    let why = no_state(&plan);
    assert!(why.contains("/dev/sr0 is a CD"), "{why}");
}

/// What came over the network lies in memory, and nothing is kept there either.
#[test]
fn state_in_memory_ends_the_boot_with_the_reason() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let state = (
        "[[test]]",
        "[kernel]\nmodules = [\"loop\"]\n\n[state]\npaths = [\"/var/lib/hello\"]\n\n[[test]]",
    );
    let subject = Project::shipped("hello")
        .variant("hello-ipxe-state", &[state], &[])
        .cast();
    let tar = subject.write(OutputFormat::Netboot);
    let why = no_state(&subject.plan(&tar, "hello-ipxe-state"));
    assert!(why.contains("is a CD or memory"), "{why}");
    assert!(why.contains("name a disk for the state alone"), "{why}");
}

/// The file that is a CD is a disk, too: on a USB stick it starts.
#[test]
fn the_same_file_boots_from_a_usb_stick() {
    if !is_nightly() {
        return;
    }
    let _slot = slot();
    let text = include_str!("../../../boards/qemu-x86_64.toml");
    let edits = [
        ("name = \"qemu-x86_64\"", "name = \"stick-x86_64\""),
        // The clouds' kernel has no USB; this one has ext4 and its checksums as modules.
        ("linux-image-cloud-amd64", "linux-image-amd64"),
        (
            "    \"virtio_blk\",\n",
            "    \"xhci_pci\",\n    \"usb_storage\",\n    \"uas\",\n    \"sd_mod\",\n    \"ext4\",\n    \"crc32c_generic\",\n    \"virtio_blk\",\n",
        ),
        ("disk = \"virtio-blk\"", "disk = \"usb-storage\""),
    ];
    let board = edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "nothing to replace: {from}");
        text.replace(from, to)
    });
    let subject = Project::shipped("hello")
        .on_own_board("hello-stick", ("stick-x86_64", &board))
        .cast();
    let iso = subject.write(OutputFormat::Iso);
    let mut plan = subject.plan(&iso, "hello-stick");
    plan.emulation = subject.cast.board.emulation.clone();
    assert_eq!(plan.emulation.disk, "usb-storage");
    let report = boot(&plan);
    assert_green(&plan, &report);
}
