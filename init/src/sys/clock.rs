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
