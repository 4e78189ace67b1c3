//! Bytes of a disk, whatever file format they come from. A disk is input: every
//! length is bounded, nothing is read beyond its end.

use std::io::{Read, Seek, SeekFrom};

use super::SweepError;

/// More than any structure is long.
const MAX_READ: u64 = 8 << 20;

/// A disk's bytes: a raw file, or a reader of another format.
pub trait DiskBytes: Read + Seek {}

impl<T: Read + Seek> DiskBytes for T {}

/// A disk of known length.
pub(crate) struct Source<'a> {
    bytes: &'a mut dyn DiskBytes,
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// Bytes of a sector.
    pub(crate) sector: u64,
}

impl<'a> Source<'a> {
    /// Learns the length.
    pub(crate) fn new(bytes: &'a mut dyn DiskBytes, sector: u64) -> Result<Self, SweepError> {
        let size = bytes
            .seek(SeekFrom::End(0))
            .map_err(|source| SweepError::Read { offset: 0, source })?;
        Ok(Self {
            bytes,
            size,
            sector,
        })
    }

    /// The bytes of a range.
    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, SweepError> {
        let end = offset.checked_add(length);
        if length > MAX_READ || end.is_none_or(|end| end > self.size) {
            return Err(SweepError::structure(
                format!("a structure of {length} bytes at byte {offset}"),
                format!("must lie on the disk of {} bytes", self.size),
            ));
        }
        let wrong = |source| SweepError::Read { offset, source };
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.bytes.seek(SeekFrom::Start(offset)).map_err(wrong)?;
        self.bytes.read_exact(&mut buffer).map_err(wrong)?;
        Ok(buffer)
    }
}

/// A little-endian number; zero where the bytes end before.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + N).unwrap_or_default();
    field
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
