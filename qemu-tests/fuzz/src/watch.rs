//! Ends the process when an execution does not end.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is being tried, and since when.
struct Slot {
    epoch: Instant,
    /// Milliseconds after the epoch; 0 between executions.
    since: AtomicU64,
    input: Mutex<Vec<u8>>,
}

pub(crate) struct Watch {
    slot: Arc<Slot>,
    /// Hangs up when the run is over.
    _running: Sender<()>,
}

impl Watch {
    /// A thread that looks whether an execution takes longer than `limit`.
    pub(crate) fn start(limit: Duration) -> Self {
        let slot = Arc::new(Slot {
            epoch: Instant::now(),
            since: AtomicU64::new(0),
            input: Mutex::default(),
        });
        let (running, over) = channel();
        let seen = Arc::clone(&slot);
        std::thread::spawn(move || {
            while over.recv_timeout(limit / 8) == Err(RecvTimeoutError::Timeout) {
                let since = Duration::from_millis(seen.since.load(Ordering::Acquire));
                if !since.is_zero() && seen.epoch.elapsed() > since + limit {
                    give_up(&seen, limit);
                }
            }
        });
        Self {
            slot,
            _running: running,
        }
    }

    pub(crate) fn begin(&self, input: &[u8]) {
        let mut kept = self
            .slot
            .input
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.clear();
        kept.extend_from_slice(input);
        drop(kept);
        let now = u64::try_from(self.slot.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.slot.since.store(now.max(1), Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.slot.since.store(0, Ordering::Release);
    }
}

fn give_up(slot: &Slot, limit: Duration) -> ! {
    let input = slot.input.lock().unwrap_or_else(PoisonError::into_inner);
    say_and_abort(&format!("this input takes longer than {limit:?}"), &input)
}

/// Past the test harness, which would keep it for a report that never comes. Takes no
/// memory: there may be none.
pub(crate) fn say_and_abort(what: &str, input: &[u8]) -> ! {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\nfuzz: {what} ({} bytes): ", input.len());
    for byte in input {
        let _ = write!(out, "{byte:02x}");
    }
    let _ = writeln!(out);
    std::process::abort()
}
