//! Points at which a test kills the process, to show that the store survives it.

/// A write of the store passes here. In tests, a child process whose
/// environment sets [`KILL_AT`] dies by SIGKILL at that many points.
#[cfg(not(any(test, feature = "testing")))]
#[inline]
pub(super) fn point() {}

/// Environment variable: the number of the point at which the process kills itself.
#[cfg(any(test, feature = "testing"))]
pub(super) const KILL_AT: &str = "SLIPFORM_TEST_KILL_AT";

/// A write of the store passes here. In tests, a child process whose
/// environment sets [`KILL_AT`] dies by SIGKILL at that many points.
#[cfg(any(test, feature = "testing"))]
pub(super) fn point() {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static AT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| std::env::var(KILL_AT).ok().and_then(|v| v.parse().ok()));
    if let Some(at) = at
        && PASSED.fetch_add(1, Ordering::SeqCst) == *at
    {
        // A process that cannot kill itself must not look as if it had survived.
        if rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .is_err()
        {
            std::process::abort();
        }
    }
}
