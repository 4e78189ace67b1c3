//! Lines of real machines, and what they mean.

use slipform_init::contract::event::Phase;

use super::*;

/// Console texts as kernels, OVMF and systemd-stub print them.
const TABLE: &[(&str, Stage, Option<Kind>)] = &[
    (
        "[    1.823042] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        Stage::Kernel,
        Some(Kind::Panic),
    ),
    (
        "[    2.130114] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
        Stage::Init(Phase::Verity),
        Some(Kind::InitDied),
    ),
    (
        "[    2.130114] Kernel panic - not syncing: dm-verity device corrupted",
        Stage::Init(Phase::Stack),
        Some(Kind::Verity),
    ),
    (
        "[    2.131416] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100 ]---",
        Stage::Kernel,
        None,
    ),
    (
        "Kernel panic - not syncing: No working init found.",
        Stage::Kernel,
        Some(Kind::Panic),
    ),
    (
        "web: Kernel panic - not syncing: says a service",
        Stage::Init(Phase::Running),
        None,
    ),
    (
        "[    3.1] Kernel panic - not syncing: no real stamp",
        Stage::Init(Phase::Running),
        None,
    ),
    (
        "[    4.412345][    T1] Kernel panic - not syncing: sysrq triggered crash",
        Stage::Kernel,
        Some(Kind::Panic),
    ),
    (
        "<0>[    4.412345] Kernel panic - not syncing: sysrq triggered crash",
        Stage::Kernel,
        Some(Kind::Panic),
    ),
    (
        "[   10.000001] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        Stage::Kernel,
        Some(Kind::Bug),
    ),
    (
        "[   10.000001] BUG: unable to handle page fault for address: ffffa0b1c2d3e4f5",
        Stage::Kernel,
        Some(Kind::Oops),
    ),
    (
        "[   10.000002] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI",
        Stage::Kernel,
        Some(Kind::Oops),
    ),
    (
        "[   10.000002] Internal error: Oops: 0000000096000004 [#1] SMP",
        Stage::Kernel,
        Some(Kind::Oops),
    ),
    (
        "[   10.000002] general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1]",
        Stage::Kernel,
        Some(Kind::Oops),
    ),
    (
        "[   11.5] kernel BUG at mm/slub.c:379!",
        Stage::Kernel,
        None,
    ),
    (
        "[   11.500000] kernel BUG at mm/slub.c:379!",
        Stage::Kernel,
        Some(Kind::Bug),
    ),
    (
        "[   12.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
        Stage::Kernel,
        Some(Kind::Stall),
    ),
    (
        "[   12.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        Stage::Kernel,
        Some(Kind::Stall),
    ),
    (
        "[  242.000000] INFO: task redis:88 blocked for more than 120 seconds.",
        Stage::Kernel,
        Some(Kind::HungTask),
    ),
    (
        "[    3.000000] WARNING: CPU: 0 PID: 1 at fs/namespace.c:1234 cleanup_mnt+0x10/0x20",
        Stage::Kernel,
        Some(Kind::Warning),
    ),
    (
        "[    3.000000] web: WARNING: cache is cold",
        Stage::Init(Phase::Running),
        None,
    ),
    (
        "WARNING: CPU: 0 PID: 1 at says a service",
        Stage::Init(Phase::Running),
        None,
    ),
    (
        "[    2.551132] device-mapper: verity: 254:1: data block 3 is corrupted",
        Stage::Init(Phase::Stack),
        Some(Kind::Verity),
    ),
    (
        "[    2.551132] device-mapper: verity: 254:1: metadata block 258 is corrupted",
        Stage::Init(Phase::Stack),
        Some(Kind::Verity),
    ),
    (
        "[    2.551132] device-mapper: verity: sha256 using implementation \"sha256-generic\"",
        Stage::Init(Phase::Verity),
        None,
    ),
    (
        "[    2.551132] device-mapper: table: 254:0: verity: Data device lookup failed",
        Stage::Init(Phase::Verity),
        Some(Kind::Verity),
    ),
    (
        "[    0.910007] device-mapper: ioctl: 4.48.0-ioctl (2023-03-01) initialised: dm-devel@lists.linux.dev",
        Stage::Kernel,
        None,
    ),
    (
        "[    2.600000] Buffer I/O error on dev dm-0, logical block 0, async page read",
        Stage::Init(Phase::Stack),
        Some(Kind::Io),
    ),
    (
        "[    2.600000] I/O error, dev vda, sector 264192 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
        Stage::Kernel,
        Some(Kind::Io),
    ),
    (
        "[    2.600000] EXT4-fs (dm-0): unable to read superblock",
        Stage::Init(Phase::Stack),
        Some(Kind::Io),
    ),
    (
        "[    2.600000] EXT4-fs error (device dm-1): ext4_lookup:1813: inode #12: comm web: iget: checksum invalid",
        Stage::Init(Phase::Running),
        Some(Kind::Io),
    ),
    (
        "[    2.600000] EXT4-fs (dm-0): mounted filesystem 1b2e r/o with ordered data mode. Quota mode: none.",
        Stage::Init(Phase::Stack),
        None,
    ),
    (
        "app: read failed: I/O error, dev vda",
        Stage::Init(Phase::Running),
        None,
    ),
    (
        "[   33.123456] Out of memory: Killed process 71 (redis-server) total-vm:180000kB",
        Stage::Init(Phase::Running),
        Some(Kind::OutOfMemory),
    ),
    (
        "[   33.123456] web[71]: segfault at 0 ip 0000555555555131 sp 00007ffd error 4 in web[555555555000+1000]",
        Stage::Init(Phase::Running),
        Some(Kind::Segfault),
    ),
    (
        "[   33.123456] traps: web[71] general protection fault ip:401136 sp:7ffd error:0 in web[401000+1000]",
        Stage::Init(Phase::Running),
        Some(Kind::Segfault),
    ),
    (
        "[    0.700000] Initramfs unpacking failed: invalid magic at start of compressed archive",
        Stage::Kernel,
        Some(Kind::Initramfs),
    ),
    (
        "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Not Found",
        Stage::Firmware,
        Some(Kind::Firmware),
    ),
    (
        "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied",
        Stage::Firmware,
        Some(Kind::Refused),
    ),
    (
        "BdsDxe: No bootable option or device was found.",
        Stage::Firmware,
        Some(Kind::Firmware),
    ),
    (
        "BdsDxe: starting Boot0002 \"EFI Internal Shell\" from Fv(7CB8BDC9-F8EB-4F34-AAEA-3EE4AF6516A1)",
        Stage::Firmware,
        Some(Kind::Firmware),
    ),
    (
        "UEFI Interactive Shell v2.2",
        Stage::Firmware,
        Some(Kind::Firmware),
    ),
    (
        "BdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)",
        Stage::Firmware,
        None,
    ),
    (
        "BdsDxe: failed to start Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Load Error",
        Stage::Stub,
        Some(Kind::Stub),
    ),
    (
        "!!!! X64 Exception Type - 0D(#GP - General Protection)  CPU Apic ID - 00000000 !!!!",
        Stage::Firmware,
        Some(Kind::Firmware),
    ),
    (
        "../src/boot/stub.c:1204@run: Error loading kernel image: Unsupported",
        Stage::Stub,
        Some(Kind::Stub),
    ),
    (
        "../src/boot/stub.c:701@load_addons: Error loading global addons, ignoring: Not found",
        Stage::Stub,
        None,
    ),
    (
        "EFI stub: ERROR: Failed to decompress kernel",
        Stage::Stub,
        Some(Kind::Stub),
    ),
    (
        "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path",
        Stage::Stub,
        None,
    ),
    (
        "web: Access Denied for 10.0.2.2",
        Stage::Init(Phase::Running),
        None,
    ),
];

#[test]
fn real_lines_mean_what_they_mean() {
    for (line, stage, kind) in TABLE {
        assert_eq!(
            judge(line, *stage).map(|finding| finding.kind),
            *kind,
            "{line}"
        );
    }
}

#[test]
fn slow_hosts_do_not_end_a_run() {
    assert!(!Kind::Stall.is_deadly() && !Kind::HungTask.is_deadly());
    assert!(!Kind::Warning.is_deadly());
    assert!(Kind::Panic.is_deadly() && Kind::Verity.is_deadly() && Kind::Firmware.is_deadly());
}
