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
    /// WARNING: something that the kernel's makers did not expect.
    Warning,
    /// A task that waits in the kernel for minutes.
    HungTask,
    /// Lock-ups, stalls: a slow host makes them too, so they only warn.
    Stall,
}

impl Kind {
    /// The guest cannot come back: the run ends.
    pub(crate) fn is_deadly(self) -> bool {
        !matches!(
            self,
            Self::Initramfs
                | Self::OutOfMemory
                | Self::Segfault
                | Self::Warning
                | Self::HungTask
                | Self::Stall
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
    ]) {
        return Some(Kind::Stall);
    }
    if text.starts_with("INFO: task ") && has(&["blocked for more than"]) {
        return Some(Kind::HungTask);
    }
    if starts(&["WARNING: "]) {
        return Some(Kind::Warning);
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
#[path = "fatal_tests.rs"]
mod tests;
