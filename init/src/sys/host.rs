//! Host name, randomness, memory, root folder.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use super::{c_path, check};

/// Whether this process is PID 1 (a forked child is not).
pub(crate) fn is_pid_one() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::getpid() == 1 }
}

/// Sets the kernel's host name.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Random bytes without ever waiting for the kernel's pool: on a machine without
/// any source, early in the boot, they may be predictable.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `bytes`.
    let got =
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_INSECURE) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Hands memory that is no longer used back to the kernel.
pub(crate) fn trim_memory() {
    // musl's allocator gives back by itself what it can.
    // SAFETY: no arguments that could be invalid; single thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Lowers the calling thread's priority; one that keeps its priority only takes more time.
pub(crate) fn yield_to_others(nice: i32) {
    // SAFETY: plain numbers; on Linux, 0 is the calling thread alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Makes the file mode creation mask 022, whatever the kernel handed over.
pub(crate) fn set_umask() {
    // SAFETY: cannot fail.
    unsafe { libc::umask(0o022) };
}

/// Lets services raise their limit of open files far: the kernel's own hard limit of
/// 4096 is from another time. What a program gets without asking stays as it is.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 1024,
        rlim_max: 524_288,
    };
    // SAFETY: a valid rlimit that outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(())
}

/// chroot(2).
pub(crate) fn change_root(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a valid C string that outlives the call.
    check(unsafe { libc::chroot(path.as_ptr()) })?;
    Ok(())
}

/// Makes sure that descriptors 0, 1 and 2 are taken, so that no file of init gets one
/// of these numbers. A kernel without a console starts PID 1 with none open.
pub(crate) fn occupy_standard_descriptors() {
    for number in 0..=2 {
        // SAFETY: a C string literal; the lowest free number is taken, and kept for good.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                libc::open(c"/".as_ptr(), libc::O_PATH);
            }
        }
    }
}

/// Makes `file` the process's descriptor `number`, kept over exec.
pub(crate) fn install_descriptor(file: &File, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 only touches the descriptor table; nothing in init owns 0, 1 or 2.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) })?;
    Ok(())
}

/// One write(2) to a descriptor that may or may not be open; for last words only.
pub(crate) fn write_once(fd: RawFd, bytes: &[u8]) {
    // SAFETY: pointer and length describe `bytes`; a closed descriptor is an error, not undefined.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Room of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// Bytes.
    pub(crate) size: u64,
    /// Bytes that programs may still write.
    pub(crate) available: u64,
    /// Inodes that are left.
    pub(crate) free_files: u64,
}

/// statvfs(3) of the file system at `path`.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let path = c_path(path)?;
    // SAFETY: all zeros is a valid statvfs.
    let mut told: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid C string, and a statvfs that the call fills.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut told) })?;
    Ok(Space {
        size: told.f_blocks.saturating_mul(told.f_frsize),
        available: told.f_bavail.saturating_mul(told.f_frsize),
        free_files: told.f_favail,
    })
}

/// How many bytes a terminal still has to send, or a TCP socket to have acknowledged
/// (SIOCOUTQ is the same number).
pub(crate) fn terminal_backlog(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut left: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, to `left`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) })?;
    Ok(usize::try_from(left).unwrap_or(0))
}
