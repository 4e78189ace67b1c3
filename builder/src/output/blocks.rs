//! The disk in blocks, as formats with blocks take it: zeros are found by
//! looking, blocks are compressed on all cores and placed in order, so that the
//! bytes depend neither on the host's file system nor on the number of its cores.

use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::bulk::Compressor;

use crate::base::Digest;
use crate::base::progress::Progress;
use crate::disk::DiskReader;
use crate::store::fault;

/// Bytes that are compressed at once.
const BATCH: u64 = 4 << 20;
/// Bytes that the seed is drawn from: the partition table and more.
const START: u64 = 1 << 20;
/// zstd's default level.
const ZSTD_LEVEL: i32 = 3;

/// A disk that tells where it may hold anything but zeros.
pub(super) trait Source: Read + Seek + std::fmt::Debug {
    /// The first range in `within` that may hold anything but zeros; `None`
    /// when the rest is zero.
    ///
    /// # Errors
    /// What the store or the system reports.
    fn data(&mut self, within: Range<u64>) -> io::Result<Option<Range<u64>>>;
}

impl Source for DiskReader<'_> {
    fn data(&mut self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.next_data(within)
    }
}

/// A disk that is to be written, and what a format may say about it.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) disk: Box<dyn Source + 'a>,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Bytes of a sector.
    pub(super) sector_size: u32,
    /// Whatever a format wants at random comes from it: the digest of what the disk
    /// starts with, its partition table, and so of the layers' root hashes.
    pub(super) seed: Digest,
    /// Name of the file, without its folder.
    pub(super) name: String,
    pub(super) progress: &'a dyn Progress,
}

impl<'a> Job<'a> {
    /// The disk of `source`, of `size` bytes in sectors of `sector_size`.
    pub(super) fn new(
        mut source: Box<dyn Source + 'a>,
        (size, sector_size): (u64, u32),
        path: &Path,
        progress: &'a dyn Progress,
    ) -> io::Result<Self> {
        let mut start = size.to_le_bytes().to_vec();
        source.seek(SeekFrom::Start(0))?;
        source.by_ref().take(START).read_to_end(&mut start)?;
        let name = path.file_name().unwrap_or_default();
        Ok(Self {
            disk: source,
            size,
            sector_size,
            seed: Digest::of(start),
            name: name.to_string_lossy().into_owned(),
            progress,
        })
    }

    /// That sectors have 512 bytes: all that some formats know.
    pub(super) fn small_sectors(&self, format: &str) -> io::Result<()> {
        if self.sector_size == 512 {
            return Ok(());
        }
        Err(unfit(format!(
            "{format} knows sectors of 512 bytes only, and this disk has {}; use raw, qcow2 or vhdx, or a board with sector-size = 512",
            self.sector_size
        )))
    }

    /// That the disk is no larger than a format allows.
    pub(super) fn at_most(&self, format: &str, most: u64) -> io::Result<()> {
        if self.size <= most {
            return Ok(());
        }
        Err(unfit(format!(
            "{format} holds {most} bytes at most, and this disk has {}; use raw, qcow2 or vhdx",
            self.size
        )))
    }
}

/// Why a format cannot hold a disk.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(String);

/// A disk that the format cannot hold.
pub(super) fn unfit(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, Unfit(text))
}

/// Whether all is zero; by comparing, which is quick in every build.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    match bytes {
        [first, rest @ ..] => *first == 0 && bytes[..rest.len()] == *rest,
        [] => true,
    }
}

/// Visits every block of `block` bytes that is not zero, in order, with its index;
/// the last one is filled with zeros behind the disk's end.
pub(super) fn each_block(
    job: &mut Job<'_>,
    block: u64,
    mut visit: impl FnMut(u64, Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let task = job.progress.begin(&job.name, Some(job.size));
    let mut at = 0;
    while let Some(data) = job.disk.data(at..job.size)? {
        let start = data.start - data.start % block;
        for offset in (start..data.end).step_by(block as usize) {
            let mut bytes = Vec::with_capacity(block as usize);
            job.disk.seek(SeekFrom::Start(offset))?;
            job.disk.by_ref().take(block).read_to_end(&mut bytes)?;
            bytes.resize(block as usize, 0);
            if !is_zero(&bytes) {
                fault::point();
                visit(offset / block, bytes)?;
            }
        }
        let next = data.end.next_multiple_of(block).min(job.size);
        task.advance(next - at);
        at = next;
    }
    task.advance(job.size - at);
    Ok(())
}

/// Compresses one block after the other.
pub(super) trait Packer: Send {
    /// The compressed block.
    fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>>;
}

/// zstd, a frame a block.
pub(super) struct Zstd(Compressor<'static>);

impl Zstd {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Compressor::new(ZSTD_LEVEL)?))
    }

    /// With a checksum of its content at the end of each frame.
    pub(super) fn checked() -> io::Result<Self> {
        let mut zstd = Self::new()?;
        zstd.0.include_checksum(true)?;
        Ok(zstd)
    }
}

impl Packer for Zstd {
    fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(block)
    }
}

/// Deflate, of zlib's default level.
pub(super) struct Deflate {
    state: Compress,
    flush: FlushCompress,
}

impl Deflate {
    /// Streams with zlib's header and checksum (RFC 1950).
    pub(super) fn zlib() -> Self {
        Self {
            state: Compress::new(Compression::default(), true),
            flush: FlushCompress::Finish,
        }
    }

    /// Raw streams (RFC 1951) that look back 4 KiB at most.
    pub(super) fn small_window() -> Self {
        Self {
            state: Compress::new_with_window_bits(Compression::default(), false, 12),
            flush: FlushCompress::Finish,
        }
    }

    /// Pieces of one raw stream, each ending at a whole byte.
    pub(super) fn pieces() -> Self {
        Self {
            state: Compress::new(Compression::default(), false),
            flush: FlushCompress::Sync,
        }
    }
}

impl Packer for Deflate {
    fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        self.state.reset();
        let mut packed = Vec::with_capacity(block.len() + block.len() / 1000 + 64);
        loop {
            let done = self.state.total_in() as usize;
            let status = self
                .state
                .compress_vec(&block[done..], &mut packed, self.flush)
                .map_err(io::Error::other)?;
            let whole = self.state.total_in() as usize == block.len()
                && packed.len() < packed.capacity()
                && self.flush == FlushCompress::Sync;
            if whole || status == Status::StreamEnd {
                return Ok(packed);
            }
            packed.reserve(packed.len().max(64));
        }
    }
}

/// Compresses pieces on all cores and hands them on in order.
pub(super) struct Cores<P> {
    packers: Vec<P>,
    batch: Vec<(u64, Vec<u8>)>,
    most: usize,
}

impl<P: Packer> Cores<P> {
    /// For pieces of about `length` bytes.
    pub(super) fn new(length: u64, new: impl Fn() -> io::Result<P>) -> io::Result<Self> {
        let threads = std::thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(16);
        Ok(Self {
            packers: (0..threads).map(|_| new()).collect::<io::Result<_>>()?,
            batch: Vec::new(),
            most: (BATCH / length).max(threads as u64) as usize,
        })
    }

    /// Takes the next piece; `place` gets what is done, plain and compressed.
    pub(super) fn push(
        &mut self,
        index: u64,
        bytes: Vec<u8>,
        place: &mut impl FnMut(u64, &[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.batch.push((index, bytes));
        if self.batch.len() < self.most {
            return Ok(());
        }
        self.flush(place)
    }

    /// Hands on the rest.
    pub(super) fn flush(
        &mut self,
        place: &mut impl FnMut(u64, &[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let share = self.batch.len().div_ceil(self.packers.len()).max(1);
        let packed: io::Result<Vec<Vec<Vec<u8>>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .batch
                .chunks(share)
                .zip(&mut self.packers)
                .map(|(pieces, packer)| {
                    scope.spawn(move || {
                        let pack = |(_, bytes): &(u64, Vec<u8>)| packer.pack(bytes);
                        pieces.iter().map(pack).collect()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|_| Err(io::Error::other("a compressing thread died")))
                })
                .collect()
        });
        for ((index, bytes), packed) in self.batch.drain(..).zip(packed?.into_iter().flatten()) {
            place(index, &bytes, &packed)?;
        }
        Ok(())
    }
}

/// As [`each_block`], compressed on all cores: `place` gets both forms.
pub(super) fn each_packed<P: Packer>(
    job: &mut Job<'_>,
    block: u64,
    new: impl Fn() -> io::Result<P>,
    mut place: impl FnMut(u64, &[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut cores = Cores::new(block, new)?;
    each_block(job, block, |index, bytes| {
        cores.push(index, bytes, &mut place)
    })?;
    cores.flush(&mut place)
}
