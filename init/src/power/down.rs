//! The last steps, when the services have stopped: no process is left, no file
//! system is mounted that can be unmounted, every buffer is written. Every wait has a limit.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::Event;

use super::{Request, end_reason, mark};

use crate::report::Reporter;
use crate::sys::power::{self, Action};
use crate::sys::signal::{self, Reaped};
use crate::sys::{clock, mount};
use crate::turn::Report;

/// For processes that no service owns.
const TERM_LIMIT: Duration = Duration::from_secs(3);
const KILL_LIMIT: Duration = Duration::from_secs(5);
const SYNC_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What init itself needs to the end; there is nothing on them to be written.
const KEPT: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// Ends everything. `stopped` says that the services went as they should.
pub(crate) fn finish(request: Request, stopped: bool, report: &mut Reporter) -> ! {
    let processes = end_processes();
    if !processes {
        report.note("some processes could not be ended");
    }
    let synced = power::sync(SYNC_LIMIT);
    let unmounted = unmount_all(report);
    mark::end(end_reason(request), report);
    report.event(Event::End {
        clean: stopped && processes && synced && unmounted,
    });
    leave(request.action, report)
}

/// Says what is still to be said, and leaves at once.
pub(crate) fn leave(action: Action, report: &mut Reporter) -> ! {
    report.drain(DRAIN_LIMIT);
    loop {
        let error = power::reboot(action);
        report.note(&format!(
            "error: the kernel refuses to {}: {error}",
            super::action_name(action)
        ));
        report.drain(DRAIN_LIMIT);
        thread::sleep(Duration::from_secs(1));
        // PID 1 may not return; what is left is the other way down.
        power::reboot(Action::Restart);
    }
}

/// Ends all processes: asks once, then kills. True if none is left.
fn end_processes() -> bool {
    power::signal_all(libc::SIGTERM);
    if all_end_within(TERM_LIMIT, || {}) {
        return true;
    }
    // Again and again: a process may fork while the others are killed.
    all_end_within(KILL_LIMIT, || power::signal_all(libc::SIGKILL))
}

fn all_end_within(limit: Duration, between: impl Fn()) -> bool {
    let end = clock::monotonic() + limit;
    loop {
        match signal::reap() {
            Reaped::NoneLeft => return true,
            Reaped::Child { .. } => {}
            Reaped::NoneYet if clock::monotonic() >= end => return false,
            Reaped::NoneYet => {
                between();
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Unmounts the newest first. True if nothing that can be written stays mounted.
fn unmount_all(report: &mut Reporter) -> bool {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut clean = true;
    for target in mount_points(&table).iter().rev() {
        if stays(target) {
            continue;
        }
        if let Err(error) = mount::unmount(target) {
            report.note(&format!("{} is still in use: {error}", target.display()));
            clean &= mount::make_read_only(target).is_ok();
            // It goes away with its last user, at the latest with the machine.
            let _ = mount::detach(target);
        }
    }
    clean
}

fn stays(target: &Path) -> bool {
    KEPT.iter().any(|kept| Path::new(kept) == target)
        || ["/proc", "/sys", "/dev"]
            .iter()
            .any(|api| target.starts_with(api))
}

/// The fifth field of every line of mountinfo, its escapes (`\040` for a space) undone.
fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    let fields = table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    fields
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 0:20 / / ro - overlay slipform ro\n30 22 0:25 / /srv/a\\040b\\134c rw - tmpfs scratch rw\nshort line\n";
        assert_eq!(
            mount_points(table),
            [Path::new("/"), Path::new("/srv/a b\\c")]
        );
        assert_eq!(unescape(b"end\\04"), b"end\\04");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }

    #[test]
    fn the_kernels_own_stay_and_scratch_goes() {
        for kept in ["/", "/run", "/dev/shm", "/sys/fs/cgroup"] {
            assert!(stays(Path::new(kept)), "{kept}");
        }
        for gone in ["/tmp", "/var/cache", "/run/app", "/system"] {
            assert!(!stays(Path::new(gone)), "{gone}");
        }
    }
}
