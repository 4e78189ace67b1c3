//! Who may use the store at a time: builds share it, collecting has it alone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::temp::open_lock;
use super::{Store, StoreError};
use crate::base::Progress;
use crate::base::fs::At;

/// After this time of waiting a person is told what for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The right to read and add blobs, shared with others; given back when dropped.
#[derive(Debug)]
pub struct SharedGuard {
    _lock: File,
}

/// The right to remove blobs, had alone; given back when dropped.
#[derive(Debug)]
pub struct ExclusiveGuard {
    _lock: File,
}

impl Store {
    /// Waits until no one collects. A process must not ask for the exclusive
    /// lock while it holds this: it would wait for itself.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn shared(&self, progress: &dyn Progress) -> Result<SharedGuard, StoreError> {
        let path = self.root().join("lock");
        let _lock = wait(
            &path,
            [
                FlockOperation::NonBlockingLockShared,
                FlockOperation::LockShared,
            ],
            progress,
        )?;
        Ok(SharedGuard { _lock })
    }

    /// Waits until no one builds or collects.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn exclusive(&self, progress: &dyn Progress) -> Result<ExclusiveGuard, StoreError> {
        let path = self.root().join("lock");
        let _lock = wait(
            &path,
            [
                FlockOperation::NonBlockingLockExclusive,
                FlockOperation::LockExclusive,
            ],
            progress,
        )?;
        Ok(ExclusiveGuard { _lock })
    }
}

/// Locks `path`: tries the first operation for a while, says so, then waits by the second.
pub(super) fn wait(
    path: &Path,
    [attempt, block]: [FlockOperation; 2],
    progress: &dyn Progress,
) -> Result<File, StoreError> {
    let file = open_lock(path).at("open", path)?;
    let start = Instant::now();
    loop {
        match flock(&file, attempt) {
            // A file system without locks (some network ones): its user has to take turns alone.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => Err(io::Error::from(error)).at("lock", path)?,
        }
        if start.elapsed() >= PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    progress.note(&format!(
        "waiting for the lock {}: another slipform uses the store",
        path.display()
    ));
    loop {
        match flock(&file, block) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => Err(io::Error::from(error)).at("lock", path)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;
    use crate::base::progress::{Quiet, Task};

    #[derive(Debug, Default, Clone)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Progress for Notes {
        fn begin(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
            Box::new(Quiet)
        }
        fn note(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    #[test]
    fn builds_share_and_collecting_waits_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = store.shared(&Quiet).unwrap();
        let second = store.shared(&Quiet).unwrap();
        let notes = Notes::default();
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            let (store, heard) = (&store, notes.clone());
            scope.spawn(move || {
                let guard = store.exclusive(&heard).unwrap();
                send.send(()).unwrap();
                drop(guard);
            });
            while notes.0.lock().unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(receive.try_recv().is_err(), "got the lock beside builds");
            drop(first);
            drop(second);
            receive.recv().unwrap();
        });
        assert!(notes.0.lock().unwrap()[0].contains("another slipform"));
        drop(store.exclusive(&Quiet).unwrap());
    }
}
