//! Clocks.

use std::io;
use std::time::Duration;

use super::check;

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that the call fills; a clock that cannot be read leaves it zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0).min(999_999_999);
    Duration::new(seconds, nanos)
}

/// CLOCK_MONOTONIC: the time base of all deadlines.
pub(crate) fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// CLOCK_BOOTTIME: the time base of reports.
pub(crate) fn since_boot() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

/// CLOCK_REALTIME, in seconds since 1970; 0 if the clock stands before that.
pub(crate) fn wall_seconds() -> i64 {
    i64::try_from(read(libc::CLOCK_REALTIME).as_secs()).unwrap_or(i64::MAX)
}

/// CLOCK_REALTIME in nanoseconds since 1970.
pub(crate) fn wall_nanos() -> i128 {
    read(libc::CLOCK_REALTIME).as_nanos() as i128
}

/// Adds `nanos` to CLOCK_REALTIME at once.
pub(crate) fn step(nanos: i128) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let time = (wall_nanos() + nanos).max(0);
    let time = libc::timespec {
        tv_sec: (time / 1_000_000_000).try_into().map_err(|_| invalid())?,
        tv_nsec: (time % 1_000_000_000).try_into().map_err(|_| invalid())?,
    };
    // SAFETY: `time` is a valid timespec that outlives the call.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })?;
    Ok(())
}

/// Has the kernel add `nanos` to CLOCK_REALTIME by and by, half a millisecond a second
/// (adjtimex(2), `ADJ_OFFSET_SINGLESHOT`).
pub(crate) fn slew(nanos: i128) -> io::Result<()> {
    // SAFETY: all zeros is a valid timex.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_OFFSET_SINGLESHOT;
    request.offset = (nanos / 1000)
        .try_into()
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a valid timex that outlives the call.
    check(unsafe { libc::adjtimex(&raw mut request) })?;
    Ok(())
}

/// CLOCK_REALTIME since 1970.
pub(crate) fn wall() -> Duration {
    read(libc::CLOCK_REALTIME)
}

/// Sets CLOCK_REALTIME.
pub(crate) fn set_wall_seconds(seconds: i64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that outlives the call.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })?;
    Ok(())
}
