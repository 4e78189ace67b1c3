//! The compiler's counters (LLVM's SanitizerCoverage), and an allocator that counts.

#![expect(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::run::Feedback;
use crate::watch::say_and_abort;

/// The program's counters, one for each edge; the compiler's code adds to them.
static FIRST: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static END: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// Whose turn it is.
static TURN: Mutex<Counters> = Mutex::new(Counters {
    seen: Vec::new(),
    now: Vec::new(),
    reached: 0,
});

/// What the compiler's start-up code calls before `main`, once for each part of the
/// program, each time with all counters.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(first: *mut u8, end: *mut u8) {
    FIRST.store(first, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
}

/// What was counted, and what ever was.
#[derive(Debug)]
pub(crate) struct Counters {
    /// For each counter the magnitudes that it ever had, a bit each.
    seen: Vec<u8>,
    /// A copy: this code is counted, too, and must not be while it looks.
    now: Vec<u8>,
    reached: usize,
}

/// The counters, for one run at a time.
pub(crate) fn take() -> MutexGuard<'static, Counters> {
    let mut counters = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let length = END.load(Ordering::Relaxed) as usize - FIRST.load(Ordering::Relaxed) as usize;
    assert!(length > 0, "the program was built with counters");
    counters.seen = vec![0; length];
    counters.now = vec![0; length];
    counters.reached = 0;
    counters
}

/// Counters that are looked at together.
const BLOCK: usize = 256;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// 1, 2, 3, 4…7, 8…15, 16…31, 32…127, more: how often, roughly.
fn magnitude(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..8 => 8,
        8..16 => 16,
        16..32 => 32,
        32..128 => 64,
        128.. => 128,
    }
}

impl Feedback for Counters {
    fn begin(&mut self, input: &[u8]) {
        USE.set(Use {
            is_on: true,
            held: 0,
            input: ptr::from_ref(input),
        });
        // SAFETY: the counters are bytes of this program's data, `now` is as long as they
        // are (`take`), and no reference to them exists. Other threads may add to them;
        // a lost count is harmless.
        unsafe { ptr::write_bytes(FIRST.load(Ordering::Relaxed), 0, self.now.len()) }
    }

    fn is_new(&mut self) -> bool {
        // SAFETY: as above; `now` is another piece of memory.
        unsafe {
            ptr::copy_nonoverlapping(
                FIRST.load(Ordering::Relaxed),
                self.now.as_mut_ptr(),
                self.now.len(),
            );
        }
        USE.set(OFF);
        let mut is_new = false;
        let mut look = |at: usize| {
            let bit = magnitude(self.now[at]);
            if self.seen[at] & bit != bit {
                self.reached += usize::from(self.seen[at] == 0);
                self.seen[at] |= bit;
                is_new = true;
            }
        };
        // Nearly all are zero, and the library compares many at once, uncounted.
        for (index, counts) in self.now.chunks(BLOCK).enumerate() {
            if counts == &ZEROS[..counts.len()] {
                continue;
            }
            for (word, few) in counts.chunks(8).enumerate() {
                if few != &ZEROS[..few.len()] {
                    let first = index * BLOCK + word * 8;
                    (first..first + few.len()).for_each(&mut look);
                }
            }
        }
        is_new
    }

    fn reached(&self) -> usize {
        self.reached
    }
}

/// Memory of the execution on this thread.
#[derive(Clone, Copy)]
struct Use {
    is_on: bool,
    held: isize,
    input: *const [u8],
}

const OFF: Use = Use {
    is_on: false,
    held: 0,
    input: ptr::slice_from_raw_parts(ptr::null(), 0),
};

thread_local! {
    static USE: Cell<Use> = const { Cell::new(OFF) };
}

/// Bytes that an execution may hold: `SLIPFORM_FUZZ_MIB`, 256 MiB if unset.
fn most() -> isize {
    static MOST: std::sync::atomic::AtomicIsize = std::sync::atomic::AtomicIsize::new(0);
    if MOST.load(Ordering::Relaxed) == 0 {
        // Before it is read: that takes memory itself.
        MOST.store(256 << 20, Ordering::Relaxed);
        let text = std::env::var("SLIPFORM_FUZZ_MIB").ok();
        if let Some(mib) = text.and_then(|text| text.parse::<isize>().ok()) {
            MOST.store(mib.clamp(1, 1 << 20) << 20, Ordering::Relaxed);
        }
    }
    MOST.load(Ordering::Relaxed)
}

fn count(more: isize) {
    let mut of = USE.get();
    if !of.is_on {
        return;
    }
    of.held = of.held.saturating_add(more);
    USE.set(of);
    if of.held > most() {
        USE.set(OFF);
        // SAFETY: set by `begin` to the input, which outlives the execution; switched off
        // at its end.
        let input = unsafe { &*of.input };
        say_and_abort("this input takes too much memory", input);
    }
}

/// The system's, which tells what an execution holds.
struct Counting;

#[global_allocator]
static MEMORY: Counting = Counting;

// SAFETY: everything is the system allocator's; counting takes and gives no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise, handed on; so below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: see `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: see `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: see `alloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}
