//! What the readers of all formats share. Files may be anyone's: memory grows
//! only with what is really in the file.

use std::io::{self, Read, Seek, SeekFrom};

/// Largest disk that is read, beyond every real one.
pub(super) const MAX_SIZE: u64 = 1 << 60;

/// The disk in a file, found block by block.
pub trait Blocks {
    /// Bytes of the disk.
    fn size(&self) -> u64;
    /// Bytes of a block.
    fn block(&self) -> u64;
    /// Fills `buffer` from `at` on; both lie in one block of the disk.
    ///
    /// # Errors
    /// What the file reports, or of kind `InvalidData` what is wrong with it.
    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Blocks as a file of the disk's full size.
#[derive(Debug)]
pub struct BlockReader<B> {
    pub(super) blocks: B,
    at: u64,
}

impl<B: Blocks> BlockReader<B> {
    pub(super) const fn new(blocks: B) -> Self {
        Self { blocks, at: 0 }
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blocks.size()
    }
}

impl<B: Blocks> Read for BlockReader<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let block = self.blocks.block();
        let left = self.blocks.size().saturating_sub(self.at);
        let room = (block - self.at % block).min(left);
        let length = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if length > 0 {
            self.blocks.fill(self.at, &mut buffer[..length])?;
            self.at += length as u64;
        }
        Ok(length)
    }
}

impl<B: Blocks> Seek for BlockReader<B> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.blocks.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// Bytes of the disk that lie in one piece elsewhere; what is in no run is zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// First byte on the disk.
    pub(super) start: u64,
    pub(super) length: u64,
    /// First byte of it there.
    pub(super) from: u64,
}

/// Fills `buffer` with the disk's bytes at `at`; `read` is asked for those of `runs`, which
/// are in order.
pub(super) fn fill_runs(
    runs: &[Run],
    mut at: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let index = runs.partition_point(|run| run.start + run.length <= at);
        let run = runs.get(index).copied();
        let data = run.filter(|run| run.start <= at);
        let until = match (data, run) {
            (Some(run), _) => run.start + run.length,
            (None, Some(next)) => next.start,
            (None, None) => u64::MAX,
        };
        let length = usize::try_from(until - at)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let (part, tail) = rest.split_at_mut(length);
        match data {
            Some(run) => read(run.from + at - run.start, part)?,
            None => part.fill(0),
        }
        at += length as u64;
        rest = tail;
    }
    Ok(())
}

/// A file that is not what it says.
pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An error that names the field, its value and the rule, unless the rule holds.
pub(super) fn require(holds: bool, field: &str, value: u64, rule: &str) -> io::Result<()> {
    if holds {
        return Ok(());
    }
    Err(invalid(format!(
        "{field} is {value:#x}, but must be {rule}"
    )))
}

/// The `length` bytes at `offset`.
pub(super) fn read_at<R: Read + Seek>(
    file: &mut R,
    offset: u64,
    length: u64,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(invalid(format!(
            "what is to be at {offset:#x} leaves the file"
        )));
    }
    Ok(bytes)
}

/// Fills `buffer` from `offset`; zeros where the file has ended.
pub(super) fn fill_at<R: Read + Seek>(
    file: &mut R,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

/// Exactly `length` bytes out of a decoder, which must end there.
pub(super) fn unpack(decoder: impl Read, length: u64, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(length + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(invalid(format!(
            "what is compressed at {at:#x} does not have {length} bytes"
        )));
    }
    Ok(bytes)
}

/// Bytes at a place that is certain to be there; zeros otherwise.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        field.copy_from_slice(found);
    }
    field
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

/// Writes a field of a header.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// A part of a file.
#[derive(Debug)]
pub struct Piece<R> {
    file: R,
    start: u64,
    size: u64,
}

/// A part of a file, as a file of its own.
pub(super) type Slice<R> = BlockReader<Piece<R>>;

impl<R: Read + Seek> Slice<R> {
    /// The `size` bytes of `file` from `start` on.
    pub(super) const fn part(file: R, start: u64, size: u64) -> Self {
        Self::new(Piece { file, start, size })
    }
}

impl<R: Read + Seek> Blocks for Piece<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.size.max(1)
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        fill_at(&mut self.file, self.start + at, buffer)
    }
}
