//! How many requests are under way at once: more while all goes well, half as many when a
//! service says that it is too much.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Requests under way when it begins.
const FIRST: f64 = 8.0;

/// A limit that adapts: a good answer raises it by its own inverse (one more after each
/// round), being throttled halves it.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    free: Condvar,
    most: f64,
}

#[derive(Debug)]
struct State {
    limit: f64,
    inside: usize,
    /// Good answers since it was halved last: those of one burst halve it once.
    since: usize,
    lowest: f64,
}

/// A turn; it ends when dropped.
#[derive(Debug)]
pub(in crate::remote) struct Turn<'a>(&'a Pace);

impl Pace {
    /// At most `most` at once, however well it goes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        // Small numbers: exact.
        let most = u32::try_from(most.clamp(1, 1024)).map_or(1024.0, f64::from);
        let limit = FIRST.min(most);
        Self {
            state: Mutex::new(State {
                limit,
                inside: 0,
                since: usize::MAX,
                lowest: limit,
            }),
            free: Condvar::new(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub(in crate::remote) fn enter(&self) -> Turn<'_> {
        let mut state = self.lock();
        while state.inside >= whole(state.limit) {
            state = self
                .free
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.inside += 1;
        Turn(self)
    }

    /// A good answer came.
    pub(in crate::remote) fn good(&self) {
        let mut state = self.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(self.most);
        state.since = state.since.saturating_add(1);
        drop(state);
        self.free.notify_one();
    }

    /// It was too much.
    pub(in crate::remote) fn throttled(&self) {
        let mut state = self.lock();
        if state.since < whole(state.limit) {
            return;
        }
        state.limit = (state.limit / 2.0).max(1.0);
        state.lowest = state.lowest.min(state.limit);
        state.since = 0;
    }

    /// Requests that may be under way now, and the fewest that ever might.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        let state = self.lock();
        (whole(state.limit), whole(state.lowest))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.free.notify_one();
    }
}

/// The limit, at least one; it lies between 1 and 1024.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(limit: f64) -> usize {
    limit as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_halves_and_good_answers_raise_it_again() {
        let pace = Pace::new(16);
        assert_eq!(pace.limits(), (8, 8));
        // A burst of refusals counts once.
        for _ in 0..5 {
            pace.throttled();
        }
        assert_eq!(pace.limits(), (4, 4));
        for _ in 0..4 {
            pace.good();
        }
        pace.throttled();
        assert_eq!(pace.limits(), (2, 2));
        for _ in 0..500 {
            pace.good();
        }
        assert_eq!(pace.limits(), (16, 2));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let pace = Pace::new(2);
        let done = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (pace, done) = (&pace, &done);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let turn = pace.enter();
                        assert!(pace.lock().inside <= 2);
                        if n == 0 {
                            pace.throttled();
                        } else {
                            pace.good();
                        }
                        drop(turn);
                        done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 400);
    }
}
