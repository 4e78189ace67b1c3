//! Signals as a descriptor, and ended children.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// The first real-time signal of programs: glibc keeps the kernel's first two, 32 and 33.
const RT_MIN: libc::c_int = 34;
/// systemd's halt.
pub(crate) const RT_HALT: libc::c_int = RT_MIN + 3;
/// systemd's power-off.
pub(crate) const RT_POWER_OFF: libc::c_int = RT_MIN + 4;
/// systemd's reboot.
pub(crate) const RT_REBOOT: libc::c_int = RT_MIN + 5;

/// Signals that PID 1 takes. They are blocked: a child must unblock all before exec.
const TAKEN: [libc::c_int; 8] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    RT_HALT,
    RT_POWER_OFF,
    RT_REBOOT,
];

/// A signalfd.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor.
    pub(crate) fn open() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises `set` before anything reads it; the numbers
        // are valid signals; a null old set is allowed.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for number in TAKEN {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
            check(libc::sigprocmask(
                libc::SIG_BLOCK,
                set.as_ptr(),
                std::ptr::null_mut(),
            ))?;
            check(libc::signalfd(
                -1,
                set.as_ptr(),
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            ))?
        };
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next signal's number, if one waits.
    pub(crate) fn next(&self) -> Option<libc::c_int> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        // SAFETY: the kernel writes at most the given size, which is that of `info`;
        // all-zero bytes are a valid signalfd_siginfo.
        unsafe {
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
            if usize::try_from(got) != Ok(size) {
                return None;
            }
            libc::c_int::try_from(info.assume_init().ssi_signo).ok()
        }
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> libc::c_int {
        self.fd.as_raw_fd()
    }
}

/// What waitpid(2) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// A child ended; orphans are children of PID 1 too.
    Child {
        /// Process id.
        pid: i32,
        /// Wait status.
        status: i32,
    },
    /// Children live, none has ended.
    NoneYet,
    /// There is no child: no process but PID 1 and the kernel's own.
    NoneLeft,
}

/// Takes one ended child, without waiting.
pub(crate) fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` is a valid int that the call fills.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reaped::NoneYet,
        pid if pid > 0 => Reaped::Child { pid, status },
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) => Reaped::NoneLeft,
        _ => Reaped::NoneYet,
    }
}
