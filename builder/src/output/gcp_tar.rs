//! What Google Compute Engine imports: a gzip of a tar with one sparse member,
//! `disk.raw`.
//!
//! Source: Google, "Manually import boot disks" (a tar in the oldgnu format, the
//! disk whole GiB); GNU tar manual, "Old GNU Format"; RFC 1952. Only what is not
//! zero is in the archive. The gzip is one member, compressed in pieces of 1 MiB
//! that do not look back over one another.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use flate2::read::GzDecoder;

use super::blocks::{Cores, Deflate, Job, each_block, unfit};
use super::ova::BLOCK;
use super::reading::{BlockReader, Blocks, MAX_SIZE, Run, fill_runs, invalid, require};
use crate::store::fault;

/// A gzip file starts with this.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The member's name, which is fixed.
const NAME: &str = "disk.raw";
/// What is zero is found in such pieces.
const GRAIN: u64 = 64 * 1024;
/// Bytes compressed at once.
const PIECE: usize = 1 << 20;
/// Disks are whole GiB there.
const MULTIPLE: u64 = 1 << 30;
/// Holes that are read at most.
const MAX_RUNS: usize = 1 << 22;

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    job.small_sectors("gcp-tar")?;
    if !job.size.is_multiple_of(MULTIPLE) || job.size == 0 {
        return Err(unfit(format!(
            "Google Compute Engine takes whole GiB only, and this disk has {} bytes; cast it for a board with disk-multiple = \"1GiB\"",
            job.size
        )));
    }
    let size = job.size;
    let mut runs: Vec<Run> = Vec::new();
    let mut packed = 0;
    each_block(job, GRAIN, |index, _| {
        let start = index * GRAIN;
        match runs.last_mut() {
            Some(last) if last.start + last.length == start => last.length += GRAIN,
            _ => runs.push(Run {
                start,
                length: GRAIN,
                from: packed,
            }),
        }
        packed += GRAIN;
        Ok(())
    })?;
    let mut gzip = Gzip::new(BufWriter::with_capacity(1 << 20, file))?;
    gzip.write_all(&headers(&runs, packed, size)?)?;
    each_block(job, GRAIN, |_, bytes| gzip.write_all(&bytes))?;
    gzip.write_all(&[0; 2 * BLOCK as usize])?;
    fault::point();
    gzip.finish()
}

/// The member's header, and the blocks that hold the rest of its map.
fn headers(runs: &[Run], packed: u64, size: u64) -> io::Result<Vec<u8>> {
    // The last entry says where the disk ends.
    let mut entries: Vec<(u64, u64)> = runs.iter().map(|run| (run.start, run.length)).collect();
    entries.push((size, 0));
    let mut header = tar::Header::new_gnu();
    header.set_path(NAME)?;
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(packed);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let (first, rest) = entries.split_at(entries.len().min(4));
    if let Some(gnu) = header.as_gnu_mut() {
        for (place, (start, length)) in gnu.sparse.iter_mut().zip(first) {
            place.set_offset(*start);
            place.set_length(*length);
        }
        gnu.set_is_extended(!rest.is_empty());
        gnu.set_real_size(size);
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    let mut chunks = rest.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = tar::GnuExtSparseHeader::new();
        for (place, (start, length)) in block.sparse.iter_mut().zip(chunk) {
            place.set_offset(*start);
            place.set_length(*length);
        }
        block.set_is_extended(chunks.peek().is_some());
        bytes.extend(block.as_bytes());
    }
    Ok(bytes)
}

/// One gzip member, compressed on all cores.
struct Gzip<W> {
    out: W,
    cores: Cores<Deflate>,
    buffer: Vec<u8>,
    sum: crc32fast::Hasher,
    length: u64,
}

impl<W: Write> Gzip<W> {
    fn new(mut out: W) -> io::Result<Self> {
        // Deflate, no name, no time; the system is "unknown".
        out.write_all(&[MAGIC[0], MAGIC[1], 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self {
            out,
            cores: Cores::new(PIECE as u64, || Ok(Deflate::pieces()))?,
            buffer: Vec::new(),
            sum: crc32fast::Hasher::new(),
            length: 0,
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.length += bytes.len() as u64;
        self.buffer.extend(bytes);
        while self.buffer.len() >= PIECE {
            let rest = self.buffer.split_off(PIECE);
            let piece = std::mem::replace(&mut self.buffer, rest);
            let out = &mut self.out;
            self.cores
                .push(0, piece, &mut |_, _, packed| out.write_all(packed))?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.buffer);
        let out = &mut self.out;
        let mut place = |_, _: &[u8], packed: &[u8]| out.write_all(packed);
        if !piece.is_empty() {
            self.cores.push(0, piece, &mut place)?;
        }
        self.cores.flush(&mut place)?;
        // An empty block that says that it is the last.
        self.out.write_all(&[3, 0])?;
        self.out.write_all(&self.sum.finalize().to_le_bytes())?;
        self.out.write_all(&(self.length as u32).to_le_bytes())?;
        self.out.flush()
    }
}

/// The runs of an archive. It can be read in one direction only: whoever goes
/// back starts again.
#[derive(Debug)]
pub struct Runs<R: Read> {
    /// Only absent while it is started again.
    stream: Option<GzDecoder<R>>,
    /// Bytes of the uncompressed archive that are read.
    position: u64,
    /// First byte of the member's content in the uncompressed archive.
    start: u64,
    size: u64,
    runs: Vec<Run>,
}

/// The disk in an archive, as a file of its full size. Reading it in order costs
/// one pass; each step back costs another.
pub type GcpTarReader<R> = BlockReader<Runs<R>>;

impl<R: Read + Seek> GcpTarReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut stream = GzDecoder::new(file);
        let mut bytes = [0; BLOCK as usize];
        stream.read_exact(&mut bytes)?;
        let header = tar::Header::from_byte_slice(&bytes);
        let named = header.path_bytes().as_ref() == NAME.as_bytes();
        let (true, Some(gnu)) = (
            named && header.entry_type().is_gnu_sparse(),
            header.as_gnu(),
        ) else {
            return Err(invalid(format!(
                "its first member is no sparse file {NAME} of GNU tar"
            )));
        };
        let size = gnu.real_size()?;
        require(size <= MAX_SIZE, "realsize", size, "an exbibyte at most")?;
        let (mut runs, mut packed) = (Vec::new(), 0);
        for entry in &gnu.sparse {
            add(&mut runs, &mut packed, entry, size)?;
        }
        let (mut more, mut start) = (gnu.is_extended(), BLOCK);
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            stream.read_exact(block.as_mut_bytes())?;
            for entry in &block.sparse {
                add(&mut runs, &mut packed, entry, size)?;
            }
            more = block.is_extended();
            start += BLOCK;
        }
        require(
            header.entry_size()? == packed,
            "size",
            packed,
            "that of the map's pieces",
        )?;
        Ok(Self::new(Runs {
            stream: Some(stream),
            position: start,
            start,
            size,
            runs,
        }))
    }
}

/// Takes an entry of a map, which must go on behind the last.
fn add(
    runs: &mut Vec<Run>,
    packed: &mut u64,
    entry: &tar::GnuSparseHeader,
    size: u64,
) -> io::Result<()> {
    if entry.is_empty() {
        return Ok(());
    }
    let (start, length) = (entry.offset()?, entry.length()?);
    let floor = runs.last().map_or(0, |last: &Run| last.start + last.length);
    let fits = start >= floor && start.checked_add(length).is_some_and(|end| end <= size);
    require(
        fits,
        "offset",
        start,
        "behind the last piece and in the disk",
    )?;
    require(
        runs.len() < MAX_RUNS,
        "isextended",
        runs.len() as u64,
        "4194304 pieces at most",
    )?;
    if length > 0 {
        runs.push(Run {
            start,
            length,
            from: *packed,
        });
        *packed += length;
    }
    Ok(())
}

impl<R: Read + Seek> Runs<R> {
    /// Reads from the uncompressed archive.
    fn read_packed(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        if at < self.position {
            let stream = self.stream.take();
            let mut file = stream
                .map(GzDecoder::into_inner)
                .ok_or_else(|| io::Error::other("the archive could not be started again"))?;
            file.seek(SeekFrom::Start(0))?;
            self.stream = Some(GzDecoder::new(file));
            self.position = 0;
        }
        let stream = self
            .stream
            .as_mut()
            .ok_or_else(|| io::Error::other("the archive could not be started again"))?;
        let skip = at - self.position;
        // After an error nobody knows how far the stream is: start again.
        self.position = u64::MAX;
        io::copy(&mut stream.take(skip), &mut io::sink())?;
        stream.read_exact(buffer)?;
        self.position = at + buffer.len() as u64;
        Ok(())
    }
}

impl<R: Read + Seek> Blocks for Runs<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        PIECE as u64
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let runs = std::mem::take(&mut self.runs);
        let start = self.start;
        let filled = fill_runs(&runs, at, buffer, |from, part| {
            self.read_packed(start + from, part)
        });
        self.runs = runs;
        filled
    }
}
