//! The disk byte for byte, zeros as holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::OutputError;
use super::blocks::{Job, each_block};
use super::copy::{Partial, copy_range, zero_range};
use crate::base::Digest;
use crate::base::fs::At;
use crate::disk::{DiskError, DiskMap, ExtentContent};
use crate::store::Store;
use crate::verity::holes::next_data;

/// Bytes copied at once, and the holes that are found by looking.
const PIECE: u64 = 64 * 1024;

/// Writes the disk of `map` to `path`. With `known`, the disk that the file at
/// `path` is certain to hold, only what differs is written.
pub(super) fn write(
    map: &DiskMap,
    known: Option<&DiskMap>,
    store: &Store,
    path: &Path,
) -> Result<(), OutputError> {
    let empty = DiskMap {
        size: 0,
        extents: Vec::new(),
        ..map.clone()
    };
    let (partial, old) = match known {
        Some(old) => (Partial::take(path)?, old),
        None => (Partial::create(path)?, &empty),
    };
    partial
        .file()
        .set_len(map.size)
        .at("set the length of", partial.path())?;
    let mut open: Option<(Digest, File)> = None;
    for change in changes(old, map) {
        match change.content {
            None => zero_range(partial.file(), change.range).at("write", partial.path())?,
            Some((digest, offset)) => {
                let blob = match open.take() {
                    Some((current, file)) if current == digest => file,
                    _ => open_blob(
                        store,
                        &digest,
                        offset + change.range.end - change.range.start,
                    )?,
                };
                copy_blob(&blob, offset, partial.file(), &change)
                    .at("copy a blob of the store to", partial.path())?;
                open = Some((digest, blob));
            }
        }
    }
    partial.finish()
}

/// Writes the disk of a source to `file`, which is empty.
pub(super) fn copy(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let size = job.size;
    file.set_len(size)?;
    each_block(job, PIECE, |index, bytes| {
        let at = index * PIECE;
        file.write_all_at(&bytes[..PIECE.min(size - at) as usize], at)
    })
}

/// Opens a blob that must have `end` bytes at least.
fn open_blob(store: &Store, digest: &Digest, end: u64) -> Result<File, OutputError> {
    let file = store.open_blob(digest)?;
    let size = file
        .metadata()
        .at("read the length of", store.path(digest))?
        .len();
    if size < end {
        return Err(DiskError::ShortBlob {
            blob: *digest,
            end,
            size,
        }
        .into());
    }
    Ok(file)
}

/// Copies what `change` wants from `blob` at `offset`; the blob's holes become
/// the disk's, by punching them only where something was.
fn copy_blob(blob: &File, offset: u64, disk: &File, change: &Change) -> io::Result<()> {
    let shift = |at: u64| at - offset + change.range.start;
    let end = offset + change.range.end - change.range.start;
    let mut at = offset;
    while at < end {
        let data = next_data(blob, at..end)?.unwrap_or(end..end);
        if change.was_data {
            zero_range(disk, shift(at)..shift(data.start))?;
        }
        copy_range(blob, data.clone(), disk, shift(data.start))?;
        at = data.end;
    }
    Ok(())
}

/// A range of the disk that is to hold something else.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    range: Range<u64>,
    /// Blob and offset; `None` for zeros.
    content: Option<(Digest, u64)>,
    /// Whether anything but zeros may be there now.
    was_data: bool,
}

/// What must be written for a file that holds `old` (its length already
/// adjusted) to hold `new`.
fn changes(old: &DiskMap, new: &DiskMap) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut at = 0;
    while at < new.size {
        let (is, is_end) = content(old, at);
        let (wanted, wanted_end) = content(new, at);
        let end = is_end.min(wanted_end).min(new.size);
        if is != wanted {
            changes.push(Change {
                range: at..end,
                content: wanted,
                was_data: is.is_some(),
            });
        }
        at = end;
    }
    changes
}

/// What a disk holds at `at`, and the end of the run that it is part of.
fn content(map: &DiskMap, at: u64) -> (Option<(Digest, u64)>, u64) {
    let index = map.extents.partition_point(|extent| extent.end() <= at);
    match map.extents.get(index) {
        Some(extent) if extent.offset <= at => match extent.content {
            ExtentContent::Blob { digest, offset } => {
                (Some((digest, offset + at - extent.offset)), extent.end())
            }
            ExtentContent::Zero => (None, extent.end()),
        },
        Some(next) => (None, next.offset),
        None => (None, u64::MAX),
    }
}
