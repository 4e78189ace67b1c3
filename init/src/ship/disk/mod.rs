//! The ring, kept on the state partition: what has not arrived is sent after a reboot, or
//! a power cut.
//!
//! ```text
//! frame.rs   records to bytes and back (pure)     past.rs   what earlier boots left
//! folder.rs  generations and segments
//! ```
//!
//! A thread does all that touches the disk, so that PID 1 waits for none: between the two
//! is a bounded queue, and what does not fit is counted. What arrives within [`DELAY`] is
//! never written, so a machine whose receivers are well writes nothing; a power cut takes
//! what was said in the last [`DELAY`] at most.

mod folder;
mod frame;
mod past;

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use folder::Folder;
pub(crate) use past::Left;

use super::record::{Context, Past, Record};

/// How long records wait for their arrival before they are written.
const DELAY: Duration = Duration::from_secs(1);
/// Bytes that wait for the disk.
const QUEUE_MAX: usize = 128 * 1024;
/// How long a disk that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Losses that go on are told this often.
const TELL_PAUSE: Duration = Duration::from_secs(60);
/// Clocks that are put right by less are not told again.
const OFFSET_STEP: Duration = Duration::from_millis(100);
/// Of the thread: whatever else runs comes first.
const NICE: i32 = 10;

/// What is written at once.
#[derive(Debug, Default)]
struct Batch {
    /// Numbers and frames of records.
    frames: VecDeque<(u64, Vec<u8>)>,
    /// The frame of who says them.
    boot: Vec<u8>,
    /// By sink: it has what stands before this number.
    arrived: Vec<u64>,
}

/// What the two threads share; nobody holds it while the disk works.
#[derive(Debug, Default)]
struct Queue {
    batch: Batch,
    bytes: usize,
    /// Who is in `batch.boot`.
    past: Past,
    /// Records that did not fit and are not told.
    missed: u64,
    /// Something on the disk waits for its arrival.
    holds: bool,
    arrived_new: bool,
    closing: bool,
    left: Option<Left>,
    trouble: Option<String>,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.batch.frames.is_empty() && !(self.holds && self.arrived_new) && !self.closing
    }
}

#[derive(Debug, Default)]
struct Shared(Mutex<Queue>, Condvar);

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        // A thread that panicked has left nothing half done that matters.
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut queue);
        if !queue.is_idle() {
            self.1.notify_one();
        }
        done
    }

    /// Waits until there is something to do, or for `limit`.
    fn wait(&self, limit: Duration, done: impl Fn(&Queue) -> bool) {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.1
                .wait_timeout_while(queue, limit, |queue| !done(queue)),
        );
    }
}

/// Where the reporter puts records.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Shared>);

impl Writer {
    /// Writes a record soon, if there is room for it.
    pub(crate) fn push(&self, number: u64, record: &Record) {
        let frame = frame::record(number, record);
        self.0.with(|queue| match frame {
            Some(frame) if queue.bytes + frame.len() <= QUEUE_MAX => {
                queue.bytes += frame.len();
                queue.batch.frames.push_back((number, frame));
            }
            _ => queue.missed += 1,
        });
    }
}

/// What the disk has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// What earlier boots left; from now on records can be written.
    Left(Left),
    /// It does not do what it should; why.
    Trouble(String),
}

/// The disk's side of the ring.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    /// Hangs up when the thread has ended.
    news: Option<PipeReader>,
}

impl Disk {
    /// Begins to read what is left at `root`.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(root: PathBuf, limit: u64, sinks: Vec<String>) -> io::Result<Self> {
        let (news, tell) = io::pipe()?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("log-spool".to_owned())
            .spawn(move || {
                crate::sys::host::yield_to_others(NICE);
                keep(&own, &root, limit, sinks, tell);
            })?;
        Ok(Self {
            shared,
            news: Some(news),
        })
    }

    /// For whoever has records.
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.shared))
    }

    /// To poll.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.news.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Takes what there is to say; [`Disk::fd`] is ready.
    pub(crate) fn take(&mut self) -> Vec<News> {
        let mut buffer = [0; 16];
        if let Some(news) = &mut self.news
            && !matches!(news.read(&mut buffer), Ok(1..))
        {
            self.news = None;
        }
        self.shared.with(|queue| {
            let left = queue.left.take().map(News::Left);
            let trouble = queue.trouble.take().map(News::Trouble);
            left.into_iter().chain(trouble).collect()
        })
    }

    /// What all know by now: who says the records, and what has arrived where.
    pub(crate) fn advance(&self, context: &Context<'_>, arrived: Vec<u64>) {
        let all_have = arrived.iter().copied().min().unwrap_or(0);
        self.shared.with(|queue| {
            let offset = context.offset;
            if queue.past.identity != *context.identity
                || queue.past.offset.abs_diff(offset) > OFFSET_STEP
            {
                queue.batch.boot = frame::boot(context.identity, offset);
                queue.past = Past {
                    identity: context.identity.clone(),
                    offset,
                };
            }
            if queue.batch.arrived != arrived {
                queue.batch.arrived = arrived;
                queue.arrived_new = true;
            }
            while let Some((number, frame)) = queue.batch.frames.front()
                && *number < all_have
            {
                queue.bytes -= frame.len();
                queue.batch.frames.pop_front();
            }
        });
    }

    /// The machine goes down: the rest is written, and the files are closed.
    pub(crate) fn close(&self) {
        self.shared.with(|queue| queue.closing = true);
    }

    /// Whether the thread has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.news.is_none()
    }
}

/// The thread.
fn keep(shared: &Shared, root: &Path, limit: u64, sinks: Vec<String>, mut tell: PipeWriter) {
    let tell_trouble = |why: String, tell: &mut PipeWriter| {
        shared.with(|queue| queue.trouble = Some(why));
        // Nobody may be there any more.
        let _ = tell.write(&[0]);
    };
    let mut folder = match Folder::open(root, limit, sinks) {
        Ok((folder, left)) => {
            shared.with(|queue| {
                queue.holds = folder.holds();
                queue.left = Some(left);
            });
            let _ = tell.write(&[0]);
            folder
        }
        Err(error) => return tell_trouble(format!("{}: {error}", root.display()), &mut tell),
    };
    let mut is_well = true;
    let (mut missed, mut tell_again) = (0_u64, Instant::now());
    loop {
        shared.wait(Duration::MAX, |queue| !queue.is_idle());
        let pause = if is_well { DELAY } else { PAUSE };
        let end = Instant::now() + pause;
        shared.wait(pause, |queue| queue.closing || Instant::now() >= end);
        let (batch, more_missed, closing) = shared.with(|queue| {
            queue.bytes = 0;
            queue.arrived_new = false;
            let batch = Batch {
                frames: std::mem::take(&mut queue.batch.frames),
                boot: queue.batch.boot.clone(),
                arrived: queue.batch.arrived.clone(),
            };
            (batch, std::mem::take(&mut queue.missed), queue.closing)
        });
        let written = folder.write(&batch);
        shared.with(|queue| queue.holds = folder.holds());
        match written {
            Err(error) if is_well => {
                is_well = false;
                let text = format!("{}: {error}; logs do not outlast a reboot", root.display());
                tell_trouble(text, &mut tell);
            }
            Err(_) => {}
            Ok(()) => is_well = true,
        }
        missed = missed.saturating_add(more_missed);
        if missed > 0 && is_well && Instant::now() >= tell_again {
            tell_again = Instant::now() + TELL_PAUSE;
            let missed = std::mem::take(&mut missed);
            let text = format!("{missed} records came faster than the disk takes them");
            tell_trouble(text, &mut tell);
        }
        if closing {
            return;
        }
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
