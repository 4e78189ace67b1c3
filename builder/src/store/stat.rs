//! Digests of users' files, remembered by their stat data, as git's index does
//! (git, Documentation/technical/racy-git.adoc tells of the trap below).
//!
//! A digest is used again when device, inode, size, modification and change
//! time are as they were when the file was read. That holds only if a change
//! after the reading would have moved the change time: so a file whose times lie
//! within one tick of the clock of the moment it was read is not remembered. A
//! file that changes while it is read is an error that names it.
//!
//! File, little endian: magic, version (u32), count (u32), entries; then the
//! SHA-256 of all before it. An entry: path length (u16), path, dev, ino, size
//! (u64), mtime s, ns, ctime s, ns (i64), digest (32). A damaged file is ignored.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::read::Stamp;
use super::{Store, StoreError};
use crate::base::Digest;
use crate::base::fs::{At, FsError};

const MAGIC: &[u8; 8] = b"SLFSTAT\n";
const VERSION: u32 = 1;

/// Largest cache that is read, in bytes.
const CACHE_LIMIT: u64 = 256 * 1024 * 1024;

/// Above so many entries, those that this run did not ask for are dropped.
const ENTRY_LIMIT: usize = 200_000;

/// Longest tick of a kernel's coarse clock, with room to spare, in nanoseconds.
const FINE_TICK: i128 = 50_000_000;

/// Tick of file systems that count in whole (or even) seconds.
const COARSE_TICK: i128 = 2_500_000_000;

/// A user's file that has no digest.
#[derive(Debug, thiserror::Error)]
pub enum StatError {
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file was written to while it was read.
    #[error("{path} changes while it is read; build again when it is at rest", path = .0.display())]
    Changing(PathBuf),
    /// A folder, a device, a symlink, ….
    #[error("{path} is no regular file; only those have a digest", path = .0.display())]
    NoFile(PathBuf),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
    /// Whether this run asked for it.
    used: bool,
}

/// The remembered digests of one scope (a project).
#[derive(Debug)]
pub struct StatCache {
    store: Store,
    path: PathBuf,
    entries: Mutex<HashMap<PathBuf, Entry>>,
    read: AtomicUsize,
    changed: AtomicBool,
}

impl StatCache {
    /// Loads the cache of `scope` (such as the project's folder); one that is
    /// missing or damaged is empty.
    #[must_use]
    pub fn load(store: &Store, scope: &str) -> Self {
        let path = store.root().join("stat").join(Digest::of(scope).hex());
        let entries = read_cache(&path).unwrap_or_default();
        Self {
            store: store.clone(),
            path,
            entries: Mutex::new(entries),
            read: AtomicUsize::new(0),
            changed: AtomicBool::new(false),
        }
    }

    /// Digest and size of a regular file; symlinks are not followed. It is read
    /// only when it is not as it was.
    ///
    /// # Errors
    /// [`StatError`].
    pub fn digest(&self, path: &Path) -> Result<(Digest, u64), StatError> {
        self.digest_seen(path, &fs::symlink_metadata(path).at("stat", path)?)
    }

    /// As [`StatCache::digest`], for a path that the caller has just looked at.
    ///
    /// # Errors
    /// [`StatError`].
    pub fn digest_seen(
        &self,
        path: &Path,
        meta: &fs::Metadata,
    ) -> Result<(Digest, u64), StatError> {
        if !meta.is_file() {
            return Err(StatError::NoFile(path.to_owned()));
        }
        let stamp = Stamp::from(meta);
        if let Some(entry) = self.lock().get_mut(path)
            && entry.stamp == stamp
        {
            entry.used = true;
            return Ok((entry.digest, stamp.size));
        }
        let (digest, stamp, racy) = self.hash(path)?;
        self.changed.store(true, Ordering::Relaxed);
        if racy {
            self.lock().remove(path);
        } else {
            let entry = Entry {
                stamp,
                digest,
                used: true,
            };
            self.lock().insert(path.to_owned(), entry);
        }
        Ok((digest, stamp.size))
    }

    /// As [`StatCache::digest`] for many files, in their order; those that must
    /// be read are read on all cores.
    #[must_use]
    pub fn digests(&self, paths: &[PathBuf]) -> Vec<Result<(Digest, u64), StatError>> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.min(paths.len().div_ceil(32));
        if threads <= 1 {
            return paths.iter().map(|path| self.digest(path)).collect();
        }
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<_>>> = Mutex::new(paths.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((at, path)) = {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        paths.get(at).map(|path| (at, path))
                    } {
                        let result = self.digest(path);
                        results.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                    }
                });
            }
        });
        results
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .zip(paths)
            .map(|(result, path)| result.unwrap_or_else(|| self.digest(path)))
            .collect()
    }

    /// How many files were read since [`StatCache::load`].
    #[must_use]
    pub fn files_read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Keeps the digests for the next run; without anything new nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn save(&self) -> Result<(), StoreError> {
        if !self.changed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut entries = self.lock();
        if entries.len() > ENTRY_LIMIT {
            entries.retain(|_, entry| entry.used);
        }
        let bytes = write_cache(&entries);
        drop(entries);
        self.store.replace(&self.path, &bytes, false)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Digest, state, and whether the state is too young to be trusted later.
    fn hash(&self, path: &Path) -> Result<(Digest, Stamp, bool), StatError> {
        // Between the look and this a FIFO may have come: opening must not hang.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .at("open", path)?;
        // An editor that saves just now is given a second chance.
        for _ in 0..2 {
            let started = now();
            let meta = file.metadata().at("stat", path)?;
            if !meta.is_file() {
                return Err(StatError::NoFile(path.to_owned()));
            }
            let before = Stamp::from(&meta);
            let (digest, length) = hash_file(&mut file).at("read", path)?;
            self.read.fetch_add(1, Ordering::Relaxed);
            let after = Stamp::of(&file).at("stat", path)?;
            if before == after && length == before.size {
                return Ok((digest, before, is_racy(&before, started)));
            }
            file.rewind().at("read", path)?;
        }
        Err(StatError::Changing(path.to_owned()))
    }
}

#[cfg(not(test))]
fn hash_file(file: &mut File) -> io::Result<(Digest, u64)> {
    Digest::of_reader(file)
}

/// In tests a file named `changing…` is written to by somebody else while it is read.
#[cfg(test)]
fn hash_file(file: &mut File) -> io::Result<(Digest, u64)> {
    let found = Digest::of_reader(file)?;
    tests::after_reading(file);
    Ok(found)
}

/// Nanoseconds since 1970 on the system's clock.
fn now() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos().cast_signed())
}

/// Whether a change after the moment `read` could leave the times as they are.
fn is_racy(stamp: &Stamp, read: i128) -> bool {
    let nanos = |(s, ns): (i64, i64)| i128::from(s) * 1_000_000_000 + i128::from(ns);
    let coarse = stamp.mtime.1 == 0 && stamp.ctime.1 == 0;
    let tick = if coarse { COARSE_TICK } else { FINE_TICK };
    // The modification time may be set to any moment by anybody; the change
    // time may not, so one in the future means that the clocks disagree.
    nanos(stamp.ctime) > read - tick || (nanos(stamp.mtime) - read).abs() <= tick
}

fn write_cache(entries: &HashMap<PathBuf, Entry>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + entries.len() * 180);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    let mut count = 0u32;
    for (path, entry) in entries {
        let path = path.as_os_str().as_bytes();
        let Ok(length) = u16::try_from(path.len()) else {
            continue;
        };
        bytes.extend(length.to_le_bytes());
        bytes.extend(path);
        let stamp = &entry.stamp;
        for number in [stamp.dev, stamp.ino, stamp.size] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [stamp.mtime.0, stamp.mtime.1, stamp.ctime.0, stamp.ctime.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(entry.digest.as_bytes());
        count += 1;
    }
    bytes[12..16].copy_from_slice(&count.to_le_bytes());
    let digest = Digest::of(&bytes);
    bytes.extend(digest.as_bytes());
    bytes
}

fn read_cache(path: &Path) -> Option<HashMap<PathBuf, Entry>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(CACHE_LIMIT)
        .read_to_end(&mut bytes)
        .ok()?;
    parse_cache(&bytes)
}

fn parse_cache(bytes: &[u8]) -> Option<HashMap<PathBuf, Entry>> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    (Digest::of(body).as_bytes() == digest).then_some(())?;
    let mut at = Cursor(body);
    (at.take::<8>()? == *MAGIC).then_some(())?;
    (u32::from_le_bytes(at.take()?) == VERSION).then_some(())?;
    let count = u32::from_le_bytes(at.take()?) as usize;
    // No entry is shorter than its fixed part: a count that lies reserves nothing.
    let mut entries = HashMap::with_capacity(count.min(body.len() / 90));
    for _ in 0..count {
        let length = u16::from_le_bytes(at.take()?) as usize;
        let path = PathBuf::from(OsStr::from_bytes(at.slice(length)?));
        let stamp = Stamp {
            dev: u64::from_le_bytes(at.take()?),
            ino: u64::from_le_bytes(at.take()?),
            size: u64::from_le_bytes(at.take()?),
            mtime: (
                i64::from_le_bytes(at.take()?),
                i64::from_le_bytes(at.take()?),
            ),
            ctime: (
                i64::from_le_bytes(at.take()?),
                i64::from_le_bytes(at.take()?),
            ),
        };
        let entry = Entry {
            stamp,
            digest: Digest::from_bytes(at.take()?),
            used: false,
        };
        entries.insert(path, entry);
    }
    at.0.is_empty().then_some(entries)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }
}

#[cfg(test)]
#[path = "stat_tests.rs"]
mod tests;
