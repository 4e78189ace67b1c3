//! A bounded queue in front of something that may be slow, or not there at all.
//!
//! Nothing waits: what does not fit is dropped and counted. Log lines may fill three
//! quarters of the queue only, so that a talkative service cannot push out an event.

use std::collections::VecDeque;
use std::io::{self, Write};

/// Bytes that may wait.
pub(crate) const LIMIT: usize = 64 * 1024;
/// An empty queue with more room than this gives it back.
const KEPT: usize = 4 * 1024;

/// What is lost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A service's output.
    Log,
    /// All else.
    Event,
}

/// The queue and its sink, which must not block.
#[derive(Debug)]
pub(crate) struct Outlet<W> {
    sink: W,
    queue: VecDeque<u8>,
    dropped: u64,
}

impl<W: Write> Outlet<W> {
    /// An empty queue.
    pub(crate) fn new(sink: W) -> Self {
        Self {
            sink,
            queue: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Puts a whole line (without its end) behind the others and writes what can be
    /// written. A line that does not fit is dropped as a whole.
    pub(crate) fn line(&mut self, prefix: &str, line: &[u8], weight: Weight) {
        let limit = match weight {
            Weight::Log => LIMIT / 4 * 3,
            Weight::Event => LIMIT,
        };
        if self.queue.len() + prefix.len() + line.len() + 1 > limit {
            self.dropped += 1;
            return;
        }
        self.queue.extend(prefix.as_bytes());
        self.queue.extend(line);
        self.queue.push_back(b'\n');
        // An error stays for the next explicit flush to tell.
        let _ = self.flush();
    }

    /// Writes what can be written without waiting.
    ///
    /// # Errors
    /// The sink is broken; the queue is kept.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            match self.sink.write(self.queue.as_slices().0) {
                Ok(0) => return Ok(()),
                Ok(written) => drop(self.queue.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.queue.shrink_to(KEPT);
        Ok(())
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many lines were dropped since the last call, once there is room to say so.
    pub(crate) fn take_dropped(&mut self) -> Option<u64> {
        (self.dropped > 0 && self.queue.len() < LIMIT / 2)
            .then(|| std::mem::take(&mut self.dropped))
    }

    /// Takes all that waits.
    pub(crate) fn take_queue(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.queue).into()
    }

    /// The sink.
    pub(crate) fn sink(&self) -> &W {
        &self.sink
    }

    /// The sink, to be replaced.
    pub(crate) fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then none until it is opened again.
    #[derive(Default)]
    struct Slow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_pass_in_order_over_short_writes() {
        let mut outlet = Outlet::new(Slow {
            room: 3,
            ..Slow::default()
        });
        outlet.line("> ", b"one", Weight::Event);
        outlet.line("", b"two", Weight::Log);
        assert_eq!(outlet.sink().taken, b"> o");
        outlet.sink_mut().room = 100;
        outlet.flush().unwrap();
        assert_eq!(outlet.sink().taken, b"> one\ntwo\n");
        assert!(outlet.is_empty());
    }

    #[test]
    fn a_full_queue_drops_whole_lines_counts_them_and_keeps_room_for_events() {
        let mut outlet = Outlet::new(Slow::default());
        let line = [b'x'; 1023];
        for _ in 0..64 {
            outlet.line("", &line, Weight::Log);
        }
        assert_eq!(outlet.queue.len(), 48 * 1024);
        assert_eq!(outlet.take_dropped(), None, "no room yet");
        for _ in 0..20 {
            outlet.line("", &line, Weight::Event);
        }
        assert_eq!(outlet.queue.len(), LIMIT);
        outlet.sink_mut().room = usize::MAX;
        outlet.flush().unwrap();
        assert_eq!(outlet.take_dropped(), Some(16 + 4));
        assert_eq!(outlet.take_dropped(), None);
        assert!(
            outlet
                .sink()
                .taken
                .split(|&byte| byte == b'\n')
                .all(|line| matches!(line.len(), 0 | 1023))
        );
    }
}
