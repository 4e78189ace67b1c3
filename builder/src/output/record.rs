//! What the store remembers of a file that was written: which disk it holds,
//! and how to tell that nobody has touched it since.
//!
//! A file is trusted when device, inode, size, mtime and ctime are as they were
//! left. Its mtime is set to a whole second when it is recorded, so that even a
//! write within the same tick of the clock shows. The boot id is part of the
//! record: after a crash of the host, data that never reached the disk would
//! otherwise pass for written.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Timespec, Timestamps, flock, futimens};
use serde::{Deserialize, Serialize};

use super::{OutputError, OutputFormat};
use crate::base::Digest;
use crate::base::fs::{At, write_atomic};
use crate::store::{Store, fault};

/// Version of the record.
const SCHEMA: u32 = 1;

/// The record of one path, locked: builds that share a store write a file one
/// after the other.
#[derive(Debug)]
pub(super) struct Record {
    target: PathBuf,
    file: PathBuf,
    _lock: File,
}

/// The record's content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: u32,
    path: PathBuf,
    format: OutputFormat,
    map: Digest,
    state: State,
}

/// What tells an untouched file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    boot: String,
}

impl Record {
    /// Locks the record of `target`, waiting for another build if need be.
    pub(super) fn open(store: &Store, target: &Path) -> Result<Self, OutputError> {
        let name = target.file_name().ok_or_else(|| OutputError::NoName {
            path: target.to_owned(),
        })?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).at("create", parent)?;
        let target = fs::canonicalize(parent).at("find", parent)?.join(name);
        let folder = store.root().join("outputs");
        fs::create_dir_all(&folder).at("create", &folder)?;
        let key = Digest::of(target.as_os_str().as_bytes()).hex();
        let lock_path = folder.join(format!("{key}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .at("open", &lock_path)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(std::io::Error::from)
            .at("lock", &lock_path)?;
        let file = folder.join(format!("{key}.json"));
        Ok(Self {
            target,
            file,
            _lock: lock,
        })
    }

    /// The disk that the file holds, if it is there and as it was left.
    pub(super) fn untouched(&self, format: OutputFormat) -> Option<Digest> {
        let content: Content = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        let same = content.schema == SCHEMA
            && content.path == self.target
            && content.format == format
            && content.state == State::of(&self.target)?;
        same.then_some(content.map)
    }

    /// Remembers that the file now holds the disk of `map`.
    pub(super) fn keep(&self, format: OutputFormat, map: Digest) -> Result<(), OutputError> {
        let file = File::open(&self.target).at("open", &self.target)?;
        let written = file
            .metadata()
            .at("read the times of", &self.target)?
            .mtime();
        let whole = Timespec {
            tv_sec: written,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: whole,
            last_modification: whole,
        };
        futimens(&file, &times)
            .map_err(std::io::Error::from)
            .at("set the times of", &self.target)?;
        let Some(state) = State::of(&self.target) else {
            return Ok(());
        };
        let content = Content {
            schema: SCHEMA,
            path: self.target.clone(),
            format,
            map,
            state,
        };
        fault::point();
        // A path that JSON cannot hold is not remembered; that costs a rewrite, no more.
        if let Ok(json) = serde_json::to_vec(&content) {
            write_atomic(&self.file, &json)?;
        }
        Ok(())
    }
}

impl State {
    /// The state of a file now; `None` when it cannot be told.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path)
            .ok()
            .filter(fs::Metadata::is_file)?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            mtime: (found.mtime(), found.mtime_nsec()),
            ctime: (found.ctime(), found.ctime_nsec()),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?,
        })
    }
}
