//! The spool's folder on the state partition.
//!
//! ```text
//! spool/7/00000000   a segment of generation 7: an eighth of what the spool may take
//! spool/7/00000001   the segment that grows
//! spool/new          the next generation, while it is made
//! spool.aside        what was found in the place of a spool and is none
//! spool.damaged      segments that the disk does not give back, a few
//! ```
//!
//! Each boot makes a generation of its own: what is left of the last one is written anew,
//! becomes visible whole by a rename, and only then the last one goes. So a power cut at
//! any moment leaves one that can be read, and damage is never carried on. A segment that
//! the disk does not give back is set aside: it is read once, and its blocks stay out of use.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Batch;
use super::frame;
use super::past::{Collector, Left};
use crate::ship::record::Past;

/// Segments of a full spool.
const SEGMENTS: u64 = 8;
/// Files of a folder that are looked at.
const FILES_MAX: usize = 4096;
/// Bytes of a segment that are read: the largest one, and the batch that filled it.
const SEGMENT_MAX: u64 = (64 << 20) / SEGMENTS + (1 << 20);
/// Records that are written at once.
const CHUNK: usize = 64 * 1024;
/// Segments that are set aside; what breaks after them is removed with its generation.
const DAMAGED_MAX: usize = 8;

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// The number behind its last record.
    end: u64,
}

/// A generation that is written to.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    limit: u64,
    sinks: Vec<String>,
    index: u32,
    /// The last one grows while there is a `file`.
    segments: VecDeque<Segment>,
    file: Option<File>,
    /// What the segment that grows says already.
    boot: Vec<u8>,
    arrived: Vec<u64>,
}

impl Folder {
    fn new(path: PathBuf, limit: u64, sinks: Vec<String>) -> Self {
        Self {
            path,
            limit,
            sinks,
            index: 0,
            segments: VecDeque::new(),
            file: None,
            boot: Vec::new(),
            arrived: Vec::new(),
        }
    }

    /// Takes what earlier boots left at `root`, and begins a generation with it.
    pub(super) fn open(root: &Path, limit: u64, sinks: Vec<String>) -> io::Result<(Self, Left)> {
        Self::open_with(root, limit, sinks, open_segment)
    }

    /// The same; segments are opened by `segment`, which says how many bytes there are.
    fn open_with<R: Read>(
        root: &Path,
        limit: u64,
        sinks: Vec<String>,
        segment: impl Fn(&Path) -> io::Result<(u64, R)>,
    ) -> io::Result<(Self, Left)> {
        let mut left = match read(root, limit, segment) {
            Ok(left) => left,
            Err(error) if error.kind() == io::ErrorKind::InvalidData || is_damage(&error) => {
                let aside = root.with_extension("aside");
                remove(&aside)?;
                fs::rename(root, &aside)?;
                Left {
                    aside: Some(aside.display().to_string()),
                    ..Left::default()
                }
            }
            Err(error) => return Err(error),
        };
        make(root)?;
        let new = root.join("new");
        remove(&new)?;
        make(&new)?;
        let older = generations(root)?;
        let number = older.last().map_or(0, |last| last.wrapping_add(1));
        let mut folder = Self::new(new.clone(), limit, sinks);
        folder.rewrite(&left)?;
        let path = root.join(number.to_string());
        fs::rename(&new, &path)?;
        File::open(root)?.sync_all()?;
        for path in &left.broken {
            set_aside(path, &root.with_extension("damaged"));
        }
        for number in older {
            // The next boot reads the newest alone, so one that stays does no harm.
            let path = root.join(number.to_string());
            if let Err(error) = remove(&path) {
                left.stays = Some(format!("{}: {error}", path.display()));
            }
        }
        for segment in &mut folder.segments {
            if let Some(name) = segment.path.file_name() {
                segment.path = path.join(name);
            }
        }
        folder.path = path;
        Ok((folder, left))
    }

    fn rewrite(&mut self, left: &Left) -> io::Result<()> {
        let had = |name: &String| left.had.iter().find(|(known, _)| known == name);
        let arrived: Vec<u64> = self
            .sinks
            .iter()
            .map(|name| had(name).map_or(0, |(_, had)| *had))
            .collect();
        let mut numbered = (0_u64..).zip(&left.records).peekable();
        while let Some((_, first)) = numbered.peek() {
            let past = first.past.clone().unwrap_or_default();
            let same = |other: &Option<Arc<Past>>| {
                other
                    .as_ref()
                    .is_some_and(|other| Arc::ptr_eq(other, &past))
            };
            let mut batch = Batch {
                boot: frame::boot(&past.identity, past.offset),
                arrived: arrived.clone(),
                ..Batch::default()
            };
            let mut bytes = 0;
            while bytes < CHUNK
                && let Some((number, record)) =
                    numbered.next_if(|(_, record)| bytes == 0 || same(&record.past))
            {
                let frame = frame::record(number, record).unwrap_or_default();
                bytes += frame.len().max(1);
                batch.frames.push_back((number, frame));
            }
            self.append(&batch)?;
        }
        self.sync()
    }

    /// Whether there is something that is waited for.
    pub(super) fn holds(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Writes a batch; when this returns, it survives a power cut.
    pub(super) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let done = self.append(batch).and_then(|()| self.sync());
        if done.is_err() {
            // Nothing comes behind a frame that may be torn.
            self.file = None;
        }
        done
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let all_have = batch.arrived.iter().copied().min().unwrap_or(0);
        let arrived = self.drop_front(|segment, _| segment.end <= all_have);
        let put = match batch.frames.back() {
            Some((last, _)) => self.put(batch, Some(last + 1)),
            None if self.holds() && self.arrived != batch.arrived => self.put(batch, None),
            None => Ok(()),
        };
        let limit = self.limit;
        let dropped = self.drop_front(|_, all| all > limit);
        put.and(dropped).and(arrived)
    }

    /// Drops segments from the oldest on while `goes` says so of one, and of all bytes. One
    /// that cannot be removed is told once, and stays until its generation goes.
    fn drop_front(&mut self, goes: impl Fn(&Segment, u64) -> bool) -> io::Result<()> {
        let mut all: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let mut done = Ok(());
        while let Some(oldest) = self.segments.front()
            && goes(oldest, all)
        {
            all -= oldest.bytes;
            let removed = remove(&oldest.path);
            done = done.and(removed);
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            self.file = None;
        }
        done
    }

    fn put(&mut self, batch: &Batch, end: Option<u64>) -> io::Result<()> {
        let full = |segment: &Segment| segment.bytes >= self.limit / SEGMENTS;
        if self.file.is_none() || self.segments.back().is_none_or(full) {
            self.next_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        if segment.bytes == 0 {
            bytes.extend(frame::MAGIC);
        }
        if segment.bytes == 0 || self.boot != batch.boot {
            bytes.extend(&batch.boot);
            self.boot.clone_from(&batch.boot);
        }
        if segment.bytes == 0 || self.arrived != batch.arrived {
            bytes.extend(frame::arrived(&self.sinks, &batch.arrived));
            self.arrived.clone_from(&batch.arrived);
        }
        for (_, frame) in &batch.frames {
            bytes.extend(frame);
        }
        segment.bytes += bytes.len() as u64;
        segment.end = end.unwrap_or(segment.end);
        file.write_all(&bytes)
    }

    fn next_segment(&mut self) -> io::Result<()> {
        self.sync()?;
        let path = self.path.join(format!("{:08}", self.index));
        self.index = self.index.wrapping_add(1);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        self.file = Some(file.open(&path)?);
        self.segments.push_back(Segment {
            path,
            bytes: 0,
            end: 0,
        });
        File::open(&self.path)?.sync_all()
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Removes a file or a folder, or nothing.
fn remove(path: &Path) -> io::Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Names of a folder that are numbers, in their order.
fn generations(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILES_MAX) {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether the disk, or the file system on it, does not give back what was written.
fn is_damage(error: &io::Error) -> bool {
    // ext4 says EUCLEAN for what makes no sense, and EBADMSG for what has the wrong sum.
    let damage = [libc::EIO, libc::EUCLEAN, libc::EBADMSG];
    error
        .raw_os_error()
        .is_some_and(|code| damage.contains(&code))
}

/// Moves a segment away, as long as there are few; what does not work here is not needed.
fn set_aside(path: &Path, damaged: &Path) {
    let there = || fs::read_dir(damaged).map_or(0, |files| files.take(DAMAGED_MAX).count());
    if make(damaged).is_ok() && there() < DAMAGED_MAX {
        // By generation and segment: no two have the same name.
        let mut names = path.iter().rev().take(2);
        let segment = names.next().unwrap_or_default();
        let mut to = names.next().unwrap_or_default().to_owned();
        to.push("-");
        to.push(segment);
        let _ = fs::rename(path, damaged.join(to));
    }
}

fn foreign() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

/// How many bytes a segment has, and the file.
fn open_segment(path: &Path) -> io::Result<(u64, File)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ELOOP) => foreign(),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(foreign());
    }
    Ok((found.len(), file))
}

/// What the newest generation holds; segments are opened by `segment`.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is no spool, or one of another version.
fn read<R: Read>(
    root: &Path,
    limit: u64,
    segment: impl Fn(&Path) -> io::Result<(u64, R)>,
) -> io::Result<Left> {
    let mut all = Collector::new(usize::try_from(limit).unwrap_or(usize::MAX));
    match fs::symlink_metadata(root) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(foreign()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all.finish()),
        Err(error) => return Err(error),
    }
    let Some(newest) = generations(root)?.pop() else {
        return Ok(all.finish());
    };
    let folder = root.join(newest.to_string());
    if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
        return Err(foreign());
    }
    for number in generations(&folder)? {
        let path = folder.join(format!("{number:08}"));
        let mut bytes = Vec::new();
        let whole = segment(&path).map(|(length, file)| {
            // What comes before the first bad block is there nevertheless.
            let done = file.take(SEGMENT_MAX).read_to_end(&mut bytes).map(drop);
            (length, done)
        });
        let missing = match whole {
            Ok((_, Ok(()))) => None,
            Ok((length, Err(error))) if is_damage(&error) => Some(length),
            Err(error) if is_damage(&error) => Some(0),
            Ok((_, Err(error))) | Err(error) => return Err(error),
        };
        if let Some(length) = missing {
            all.miss(path, length.saturating_sub(bytes.len() as u64));
        }
        if (missing.is_none() || bytes.len() >= frame::MAGIC.len()) && !all.add(&bytes) {
            return Err(foreign());
        }
    }
    Ok(all.finish())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
