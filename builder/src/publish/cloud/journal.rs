//! Which blocks of an unfinished snapshot the service has taken: the service itself does
//! not tell before the snapshot is finished.
//!
//! A text of lines: the snapshot's id, then an index for each block, written after the
//! service's answer. A line that was cut off counts for nothing. Losing the file costs
//! sending the blocks again, and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::base::fs::At;
use crate::store::{Store, StoreError};

/// Folder of the store.
const FOLDER: &str = "clouds";
/// Largest file that is read, in bytes: more than the lines of the largest volume.
const LIMIT: u64 = 2 << 30;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    done: BTreeSet<u32>,
}

impl Journal {
    /// The journal of the snapshot that `token` stands for, which is `snapshot` now; one
    /// about another snapshot is begun anew.
    pub(super) fn open(store: &Store, token: &str, snapshot: &str) -> Result<Self, StoreError> {
        let folder = store.root().join(FOLDER);
        fs::create_dir_all(&folder).at("create", &folder)?;
        let path = folder.join(token);
        let small = fs::metadata(&path).is_ok_and(|data| data.len() <= LIMIT);
        let text = small.then(|| fs::read_to_string(&path).ok()).flatten();
        let text = text.unwrap_or_default();
        // The last line may have been cut off.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut lines = whole.lines();
        let known = lines.next() == Some(snapshot);
        let done = if known {
            lines.filter_map(|line| line.parse().ok()).collect()
        } else {
            BTreeSet::new()
        };
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .at("open", &path)?;
        // What was cut off goes, so that the next line is one of its own.
        let keep = if known { whole.len() as u64 + 1 } else { 0 };
        file.set_len(keep).at("shorten", &path)?;
        if !known {
            writeln!(file, "{snapshot}").at("write", &path)?;
        }
        Ok(Self {
            path,
            file: Mutex::new(file),
            done,
        })
    }

    pub(super) const fn done(&self) -> &BTreeSet<u32> {
        &self.done
    }

    /// The service has taken a block.
    pub(super) fn add(&self, index: u32) -> Result<(), StoreError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that no other's line is cut in two.
        file.write_all(format!("{index}\n").as_bytes())
            .at("write", &self.path)?;
        Ok(())
    }

    /// The snapshot is finished, or gone.
    pub(super) fn forget(self) {
        // One that stays is about a snapshot that is never begun again.
        let _gone = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let open = |snapshot: &str| Journal::open(&store, "token", snapshot).unwrap();
        let journal = open("snap-1");
        assert!(journal.done().is_empty());
        journal.add(3).unwrap();
        journal.add(70_000).unwrap();
        let path = journal.path.clone();
        drop(journal);
        // A line that a cut left behind.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}12")).unwrap();
        let journal = open("snap-1");
        assert_eq!(journal.done(), &BTreeSet::from([3, 70_000]));
        journal.add(5).unwrap();
        drop(journal);
        assert_eq!(open("snap-1").done(), &BTreeSet::from([3, 5, 70_000]));
        assert!(open("snap-2").done().is_empty());
        fs::write(&path, b"\xff\xfe\0snap-2\n1").unwrap();
        let journal = open("snap-2");
        assert!(journal.done().is_empty());
        journal.forget();
        assert!(!path.exists());
    }
}
