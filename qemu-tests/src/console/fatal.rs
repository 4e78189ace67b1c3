//! What lines of the console mean.
//!
//! A kernel's pattern only counts on a kernel's line (a printk time stamp in
//! front), so that a service that logs "I/O error" is not taken for the kernel;
//! the few that end a machine also count bare, for kernels without time stamps.
//! Firmware and stub patterns only count before the kernel has spoken.

use crate::phase::Stage;

/// What a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The firmware found nothing to boot, or gave up.
    Firmware,
    /// The firmware refused a signature.
    Refused,
    /// The boot stub gave up.
    Stub,
    /// The kernel could not unpack the initrd.
    Initramfs,
    /// Kernel panic.
    Panic,
    /// The kernel panicked because PID 1 ended.
    InitDied,
    /// Oops, exception in the kernel.
    Oops,
    /// BUG.
    Bug,
    /// dm-verity refuses a block or a table.
    Verity,
    /// A block device or a file system gives errors.
    Io,
    /// The kernel killed a process for memory.
    OutOfMemory,
    /// A process died of a fault.
    Segfault,
    /// Lock-ups, stalls: a slow host makes them too, so they only warn.
    Stall,
}

impl Kind {
    /// The guest cannot come back: the run ends.
    pub(crate) fn is_deadly(self) -> bool {
        !matches!(
            self,
            Self::Initramfs | Self::OutOfMemory | Self::Segfault | Self::Stall
        )
    }
}

/// A line that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What.
    pub(crate) kind: Kind,
    /// The line.
    pub(crate) line: String,
}

/// Judges a line; `stage` is where the guest was before it.
pub(crate) fn judge(line: &str, stage: Stage) -> Option<Finding> {
    let kind = match kernel_text(line) {
        Some(text) => kernel_kind(text),
        None if stage <= Stage::Stub => early_kind(line).or_else(|| bare_kind(line)),
        None => bare_kind(line),
    }?;
    Some(Finding {
        kind,
        line: line.to_owned(),
    })
}

/// The text of a kernel's line behind `<level>`, `[time]` and `[caller]`; none
/// if it is no kernel's line.
pub(crate) fn kernel_text(line: &str) -> Option<&str> {
    let line = match line.strip_prefix('<') {
        Some(rest) => {
            let (level, rest) = rest.split_once('>')?;
            let digits = level.len() <= 3 && level.bytes().all(|byte| byte.is_ascii_digit());
            digits.then_some(rest)?
        }
        None => line,
    };
    let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = stamp.trim_start().split_once('.')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !(number(seconds) && micros.len() == 6 && number(micros)) {
        return None;
    }
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    // CONFIG_PRINTK_CALLER: `[    T1]` or `[    C0]`.
    let caller = rest.strip_prefix('[').and_then(|rest| {
        let (caller, rest) = rest.split_once("] ")?;
        let caller = caller.trim_start();
        (caller.starts_with(['T', 'C']) && number(&caller[1..])).then_some(rest)
    });
    Some(caller.unwrap_or(rest))
}

/// Patterns of a kernel's line, its time stamp taken off.
pub(crate) fn kernel_kind(text: &str) -> Option<Kind> {
    let starts = |patterns: &[&str]| patterns.iter().any(|pattern| text.starts_with(pattern));
    let has = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
    if starts(&["Kernel panic - not syncing"]) {
        return Some(panic_kind(text));
    }
    if has(&[
        "soft lockup",
        "hard LOCKUP",
        "detected stalls",
        "self-detected stall",
    ]) || (text.starts_with("INFO: task ") && has(&["blocked for more than"]))
    {
        return Some(Kind::Stall);
    }
    // A process's fault, reported by the kernel: `traps: web[12] general protection fault …`.
    if text.starts_with("traps: ") || has(&["]: segfault at "]) {
        return Some(Kind::Segfault);
    }
    if has(&["unable to handle", "Unable to handle kernel"])
        || starts(&[
            "Oops: ",
            "Oops - ",
            "Internal error: Oops",
            "general protection fault",
            "invalid opcode: ",
            "divide error: ",
            "stack segment: ",
            "double fault: ",
            "PANIC: double fault",
        ])
    {
        return Some(Kind::Oops);
    }
    if starts(&["BUG: ", "kernel BUG at "]) {
        return Some(Kind::Bug);
    }
    if text.starts_with("device-mapper: ") {
        return has(&["corrupted", "error", "Error", "mismatch", "failed"]).then_some(Kind::Verity);
    }
    if starts(&["EXT4-fs error", "EXT4-fs (dm-"])
        && has(&["error", "unable to read", "can't read", "bad "])
    {
        return Some(Kind::Io);
    }
    if text.starts_with("EROFS") && has(&["(device dm-"]) && has(&["cannot", "failed", "corrupt"]) {
        return Some(Kind::Io);
    }
    if has(&[
        "I/O error, dev ",
        "I/O error on dev ",
        "medium error, dev ",
        "SQUASHFS error",
    ]) {
        return Some(Kind::Io);
    }
    if starts(&[
        "Out of memory: Killed process",
        "Memory cgroup out of memory: Killed",
    ]) {
        return Some(Kind::OutOfMemory);
    }
    starts(&["Initramfs unpacking failed"]).then_some(Kind::Initramfs)
}

/// A panic's own text tells whose it is.
fn panic_kind(text: &str) -> Kind {
    if text.contains("Attempted to kill init!") {
        Kind::InitDied
    } else if text.contains("dm-verity") {
        Kind::Verity
    } else {
        Kind::Panic
    }
}

/// Deadly patterns without a time stamp, at the start of the line.
fn bare_kind(line: &str) -> Option<Kind> {
    if line.starts_with("Kernel panic - not syncing") {
        return Some(panic_kind(line));
    }
    let bug =
        line.starts_with("BUG: unable to handle") || line.starts_with("BUG: kernel NULL pointer");
    bug.then_some(Kind::Oops)
}

/// Firmware and stub patterns.
fn early_kind(line: &str) -> Option<Kind> {
    let has = |patterns: &[&str]| patterns.iter().any(|pattern| line.contains(pattern));
    if has(&["Access Denied", "Security Violation"]) {
        return Some(Kind::Refused);
    }
    // systemd-stub: `file:line@function: text`; ignorable ones say so.
    let stub = has(&[
        "Error loading kernel image",
        "Error starting kernel image",
        "Error getting kernel loaded image protocol",
        "Error registering initrd",
        "Unable to locate PE section table",
        "Unable to locate embedded base PE sections",
        "EFI stub: ERROR",
        "systemd-boot: ",
        "systemd-stub: ",
    ]) && !line.contains("ignoring");
    if stub || line.starts_with("BdsDxe: failed to start Boot") {
        return Some(Kind::Stub);
    }
    let firmware = line.starts_with("BdsDxe: failed to load Boot")
        || has(&[
            "BdsDxe: No bootable option or device",
            "No bootable device",
            "UEFI Interactive Shell",
            "EFI Internal Shell",
            "!!!! X64 Exception Type",
            "ASSERT_EFI_ERROR",
        ])
        || line.starts_with("ASSERT [");
    firmware.then_some(Kind::Firmware)
}

#[cfg(test)]
mod tests {
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
            Some(Kind::Stall),
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
        assert!(!Kind::Stall.is_deadly());
        assert!(Kind::Panic.is_deadly() && Kind::Verity.is_deadly() && Kind::Firmware.is_deadly());
    }
}
