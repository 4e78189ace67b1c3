//! Waiting for descriptors.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use super::check;

/// Something to poll.
pub(crate) fn entry(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Waits until one of `fds` has something, or `limit` (rounded up to whole
/// milliseconds) has passed; `None` waits for ever. A signal ends the wait as well.
pub(crate) fn wait(fds: &mut [libc::pollfd], limit: Option<Duration>) -> io::Result<()> {
    let milliseconds = match limit {
        None => -1,
        Some(limit) => i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
    };
    // SAFETY: pointer and length describe `fds`.
    let result =
        check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) });
    match result {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
