//! Points at which a test kills the process, to show that the store and the
//! image files survive it.

/// A write of the store, or of an image file, passes here. In tests, a child
/// process whose environment sets [`KILL_AT`] dies by SIGKILL at that many points.
#[cfg(not(any(test, feature = "testing")))]
#[inline]
pub(crate) fn point() {}

/// Environment variable: the number of the point at which the process kills itself.
#[cfg(any(test, feature = "testing"))]
pub(super) const KILL_AT: &str = "SLIPFORM_TEST_KILL_AT";

/// Environment variable: a file that grows by one byte at each point, so that a
/// test learns how many there are.
#[cfg(any(test, feature = "testing"))]
const COUNT_IN: &str = "SLIPFORM_TEST_COUNT_IN";

/// A write of the store, or of an image file, passes here. In tests, a child
/// process whose environment sets [`KILL_AT`] dies by SIGKILL at that many points.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn point() {
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLAN: OnceLock<(Option<u64>, Option<File>)> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let (at, count) = PLAN.get_or_init(|| {
        let at = std::env::var(KILL_AT).ok().and_then(|v| v.parse().ok());
        let append = |path| File::options().create(true).append(true).open(path).ok();
        (at, std::env::var_os(COUNT_IN).and_then(append))
    });
    if let Some(mut file) = count.as_ref() {
        // A count that is short fails the test that reads it.
        let _ = file.write_all(b".");
    }
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
