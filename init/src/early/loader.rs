//! Loads modules beside the main loop.
//!
//! A driver looks for its device while it is loaded, and some take seconds for that. No
//! service waits for it, and PID 1 neither: a thread loads, and what became of each comes
//! back through a pipe that the event loop watches.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::modules::{Held, Loaded};
use crate::sys::poll;

/// Modules on their way into the kernel, in order.
#[derive(Debug)]
pub(super) struct Loader {
    results: Receiver<Loaded>,
    /// A byte for each result; its end is the end of the last one.
    bell: PipeReader,
}

impl Loader {
    /// Begins to load them. Without a thread (memory is short) there is no loader: they
    /// come back, in order, for the caller to load.
    pub(super) fn begin(
        modules: impl Iterator<Item = Held>,
    ) -> Result<Self, impl Iterator<Item = Held>> {
        Self::begin_with(modules, Held::load)
    }

    pub(super) fn begin_with<M: Send + 'static, I: Iterator<Item = M>>(
        modules: I,
        load: fn(M) -> Loaded,
    ) -> Result<Self, I> {
        let (jobs, work) = mpsc::channel::<M>();
        let (told, results) = mpsc::channel();
        let started = io::pipe().and_then(|(bell, mut rope)| {
            thread::Builder::new()
                .name("load-modules".to_owned())
                .spawn(move || {
                    for module in work {
                        // Nobody listens any more: the machine goes down.
                        if told.send(load(module)).is_err() || rope.write_all(&[0]).is_err() {
                            return;
                        }
                    }
                })?;
            Ok(bell)
        });
        let Ok(bell) = started else {
            return Err(modules);
        };
        for module in modules {
            // It fails only when the thread is gone, whose end the bell tells.
            let _ = jobs.send(module);
        }
        Ok(Self { results, bell })
    }

    /// What to poll.
    pub(super) fn entry(&self) -> libc::pollfd {
        poll::entry(self.bell.as_raw_fd(), libc::POLLIN)
    }

    /// Called when the bell is ready: what has become of some, and whether those were the last.
    pub(super) fn take(&mut self) -> (Vec<Loaded>, bool) {
        let mut buffer = [0; 256];
        // A pipe that is ready gives what it has, and never waits for more.
        let over = !matches!(self.bell.read(&mut buffer), Ok(1..));
        (self.results.try_iter().collect(), over)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Waits for the bell, as the main loop does.
    fn all(loader: &mut Loader) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            poll::wait(&mut [loader.entry()], Some(Duration::from_secs(10))).unwrap();
            let (loaded, over) = loader.take();
            names.extend(loaded.into_iter().map(Result::unwrap));
            if over {
                return names;
            }
        }
    }

    #[test]
    fn whoever_begins_does_not_wait_and_the_order_stays() {
        let names = ["slow", "a", "b"].map(str::to_owned);
        let begun = Instant::now();
        let mut loader = Loader::begin_with(names.clone().into_iter(), |name| {
            if name == "slow" {
                thread::sleep(Duration::from_millis(300));
            }
            Ok(name)
        })
        .ok()
        .unwrap();
        assert!(begun.elapsed() < Duration::from_millis(200));
        assert_eq!(all(&mut loader), names);
        let mut none = Loader::begin_with(std::iter::empty::<String>(), Ok)
            .ok()
            .unwrap();
        assert_eq!(all(&mut none), [""; 0]);
    }
}
