//! Records on the way through a stream: what is formatted, what the kernel took, what
//! the peer's kernel has acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use super::wire::{Wire, is_later};

/// Bytes that are formatted and not yet taken by the kernel.
const OUT_MAX: usize = 32 * 1024;
/// Records on the way. Acknowledgements are looked for ten times a second, so this is
/// also a tenth of what a stream can take in a second.
const MARKS_MAX: usize = 2048;
/// How long a peer may take nothing.
pub(crate) const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often acknowledgements are looked for.
const RECHECK: Duration = Duration::from_millis(100);
/// An empty queue with more room than this gives it back.
const KEPT: usize = 4096;

/// One connection's stream.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    out: VecDeque<u8>,
    /// Bytes of this connection that were formatted, and that the kernel took.
    formatted: u64,
    written: u64,
    /// Where each record ends in the stream, and the number behind it.
    marks: VecDeque<(u64, u64)>,
    /// Since when nothing has moved.
    stalled: Option<Duration>,
    unconfirmed: u64,
    /// When acknowledgements are looked for again.
    recheck: Option<Duration>,
}

/// What has arrived.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// So many records since the last time.
    pub(crate) count: u64,
    /// All before this number; 0 if none.
    pub(crate) confirmed: u64,
}

impl Flow {
    /// Whether another record may be formatted.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < OUT_MAX && self.marks.len() < MARKS_MAX
    }

    /// Adds a formatted record; `after` is the number behind it.
    pub(crate) fn push(&mut self, text: &str, after: u64) {
        self.formatted += text.len() as u64;
        self.out.extend(text.as_bytes());
        self.marks.push_back((self.formatted, after));
    }

    /// Whether bytes wait for the kernel.
    pub(crate) fn sends(&self) -> bool {
        !self.out.is_empty()
    }

    /// Nothing is on the way.
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// When it wants to be looked at.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let until = self.stalled.map(|since| since + SEND_LIMIT);
        until.into_iter().chain(self.recheck).min()
    }

    /// Writes what can be written, and looks what has arrived.
    ///
    /// # Errors
    /// The connection is broken, or has not moved for too long.
    pub(crate) fn advance<W: Wire>(
        &mut self,
        now: Duration,
        wire: &mut W,
    ) -> Result<Moved, String> {
        while !self.out.is_empty() {
            match wire.send(self.out.as_slices().0) {
                Ok(0) => break,
                Ok(count) => {
                    self.out.drain(..count);
                    self.written += count as u64;
                    self.stalled = None;
                }
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        self.out.shrink_to(KEPT);
        self.confirm(now, wire.unconfirmed() as u64)
    }

    fn confirm(&mut self, now: Duration, unconfirmed: u64) -> Result<Moved, String> {
        let arrived = self.written.saturating_sub(unconfirmed);
        let mut moved = Moved::default();
        while let Some(&(end, after)) = self.marks.front()
            && end <= arrived
        {
            self.marks.pop_front();
            moved.confirmed = after;
            moved.count += 1;
        }
        if moved.count > 0 || unconfirmed < self.unconfirmed {
            self.stalled = None;
        }
        self.unconfirmed = unconfirmed;
        if self.marks.is_empty() {
            (self.stalled, self.recheck) = (None, None);
            self.marks.shrink_to(KEPT / 64);
            return Ok(moved);
        }
        self.recheck = Some(now + RECHECK);
        let since = *self.stalled.get_or_insert(now);
        if now >= since + SEND_LIMIT {
            return Err("the peer takes nothing".to_owned());
        }
        Ok(moved)
    }
}
