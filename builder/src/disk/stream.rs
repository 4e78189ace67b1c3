//! A disk as a stream: its map and blobs, read as one file of its full size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::map::{DiskMap, ExtentContent};
use crate::base::Digest;
use crate::store::Store;
use crate::verity::holes::next_data;

/// Reads a disk that exists only as a map. Blobs are verified by the store
/// when they are first opened.
#[derive(Debug)]
pub struct DiskReader<'a> {
    store: &'a Store,
    map: &'a DiskMap,
    at: u64,
    /// The blob that was read last: extents follow one another, so one is enough.
    open: Option<(Digest, File)>,
}

impl<'a> DiskReader<'a> {
    /// A reader at the disk's first byte. `map` must have passed [`DiskMap::check`].
    #[must_use]
    pub const fn new(store: &'a Store, map: &'a DiskMap) -> Self {
        Self {
            store,
            map,
            at: 0,
            open: None,
        }
    }

    /// The first range in `within` that may hold anything but zeros; `None`
    /// when the rest is zero. What is a hole of a blob's file is skipped.
    ///
    /// # Errors
    /// What the store or the system reports.
    pub fn next_data(&mut self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let first = self
            .map
            .extents
            .partition_point(|extent| extent.end() <= within.start);
        for index in first..self.map.extents.len() {
            let extent = self.map.extents[index];
            let start = extent.offset.max(within.start);
            let end = extent.end().min(within.end);
            if start >= within.end {
                break;
            }
            let ExtentContent::Blob { digest, offset } = extent.content else {
                continue;
            };
            let shift = |at: u64| at - extent.offset + offset;
            if let Some(data) = next_data(self.blob(&digest)?, shift(start)..shift(end))? {
                let back = |at: u64| at - offset + extent.offset;
                return Ok(Some(back(data.start)..back(data.end)));
            }
        }
        Ok(None)
    }

    /// Opens a blob, or gives the one that is open.
    fn blob(&mut self, digest: &Digest) -> io::Result<&File> {
        let open = match self.open.take() {
            Some((current, file)) if current == *digest => (current, file),
            _ => {
                let file = self.store.open_blob(digest).map_err(io::Error::other)?;
                (*digest, file)
            }
        };
        Ok(&self.open.insert(open).1)
    }
}

impl Read for DiskReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.map.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let buffer = &mut buffer[..room];
        let at = self.at;
        let index = self
            .map
            .extents
            .partition_point(|extent| extent.end() <= at);
        let step =
            |end: u64, room: usize| usize::try_from(end - at).unwrap_or(usize::MAX).min(room);
        let length = match self.map.extents.get(index).copied() {
            Some(extent) if extent.offset <= at => {
                let length = step(extent.end(), buffer.len());
                match extent.content {
                    ExtentContent::Blob { digest, offset } => {
                        let from = at - extent.offset + offset;
                        self.blob(&digest)?
                            .read_exact_at(&mut buffer[..length], from)?;
                    }
                    ExtentContent::Zero => buffer[..length].fill(0),
                }
                length
            }
            next => {
                let end = next.map_or(self.map.size, |extent| extent.offset);
                let length = step(end, buffer.len());
                buffer[..length].fill(0);
                length
            }
        };
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for DiskReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.map.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
