//! Ending: all processes, the buffers, the machine.

use std::io;
use std::time::Duration;

use super::{check, clock, signal};

/// What reboot(2) is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Switch off.
    PowerOff,
    /// Start again.
    Restart,
    /// Stop the processors.
    Halt,
}

/// Does it, at once and without writing buffers. Returns only if the kernel refuses.
pub(crate) fn reboot(action: Action) -> io::Error {
    let command = match action {
        Action::PowerOff => libc::RB_POWER_OFF,
        Action::Restart => libc::RB_AUTOBOOT,
        Action::Halt => libc::RB_HALT_SYSTEM,
    };
    // SAFETY: takes a number.
    unsafe { libc::reboot(command) };
    io::Error::last_os_error()
}

/// Ctrl-Alt-Del becomes SIGINT for PID 1 instead of a hard reset.
pub(crate) fn catch_ctrl_alt_del() -> io::Result<()> {
    // SAFETY: takes a number.
    check(unsafe { libc::reboot(libc::RB_DISABLE_CAD) })?;
    Ok(())
}

/// Sends a signal to every process but this one. That there is none is no error.
pub(crate) fn signal_all(number: libc::c_int) {
    // SAFETY: takes numbers.
    unsafe { libc::kill(-1, number) };
}

/// sync(2) in a child, so that a disk that no longer answers cannot hold PID 1.
/// True if it came back within `limit`.
pub(crate) fn sync(limit: Duration) -> bool {
    // SAFETY: single thread; the child only calls sync and _exit, both async-signal-safe.
    let child = unsafe {
        match libc::fork() {
            0 => {
                libc::sync();
                libc::_exit(0)
            }
            child => child,
        }
    };
    if child < 0 {
        return false;
    }
    let end = clock::monotonic() + limit;
    loop {
        match signal::reap() {
            signal::Reaped::Child { pid, .. } if pid == child => return true,
            signal::Reaped::Child { .. } => {}
            signal::Reaped::NoneLeft => return true,
            signal::Reaped::NoneYet if clock::monotonic() >= end => return false,
            signal::Reaped::NoneYet => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
