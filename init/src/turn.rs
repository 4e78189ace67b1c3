//! One event loop: everything that waits implements [`Watched`]; the loop polls
//! all descriptors, hands out what is ready, and wakes up for the nearest deadline.

use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::event::Event;

/// Takes events; never blocks, never fails (it drops and counts instead).
pub(crate) trait Report {
    /// Sends one event.
    fn event(&mut self, event: Event);
    /// Lines of a service were lost because it wrote too fast.
    fn dropped(&mut self, _service: &str, _lines: u64) {}
}

/// Keeps what it is told.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Events(pub(crate) Vec<Event>);

#[cfg(test)]
impl Report for Events {
    fn event(&mut self, event: Event) {
        self.0.push(event);
    }
}

/// What a part gets when it is its turn.
pub(crate) struct Turn<'a> {
    /// CLOCK_MONOTONIC.
    pub(crate) now: Duration,
    /// Where events go.
    pub(crate) report: &'a mut dyn Report,
}

/// A part of init that waits for descriptors or times.
pub(crate) trait Watched {
    /// Adds the descriptors to poll, with the wanted events.
    fn fds(&self, out: &mut Vec<libc::pollfd>);
    /// A descriptor of [`Watched::fds`] is ready (or hung up). Must not block.
    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>);
    /// When [`Watched::tick`] wants to be called next (CLOCK_MONOTONIC).
    fn deadline(&self) -> Option<Duration>;
    /// Called when the deadline has passed, and after every child's end.
    fn tick(&mut self, turn: &mut Turn<'_>);
}

/// A part that may be missing waits for nothing.
impl<T: Watched> Watched for Option<T> {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        if let Some(part) = self {
            part.fds(out);
        }
    }

    fn ready(&mut self, fd: RawFd, turn: &mut Turn<'_>) {
        if let Some(part) = self {
            part.ready(fd, turn);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.as_ref().and_then(Watched::deadline)
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if let Some(part) = self {
            part.tick(turn);
        }
    }
}
