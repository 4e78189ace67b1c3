//! A range of a larger source, as a source of its own.

use std::io::{self, Read, Seek, SeekFrom};

/// A partition of a disk, a file of a partition, a section of a file.
#[derive(Debug)]
pub struct Window<'a, R> {
    inner: &'a mut R,
    start: u64,
    size: u64,
    at: u64,
}

impl<'a, R: Read + Seek> Window<'a, R> {
    /// The `size` bytes of `inner` from `start` on.
    pub const fn new(inner: &'a mut R, start: u64, size: u64) -> Self {
        Self {
            inner,
            start,
            size,
            at: 0,
        }
    }
}

impl<R: Read + Seek> Read for Window<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let from = self.start.checked_add(self.at);
        let (Some(from), true) = (from, room > 0) else {
            return Ok(0);
        };
        self.inner.seek(SeekFrom::Start(from))?;
        let read = self.inner.read(&mut buffer[..room])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Window<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
