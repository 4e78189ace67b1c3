//! Reads qcow2 files, ours and others, for `slipform inspect`.
//!
//! Source: QEMU, docs/interop/qcow2.rst. Versions 2 and 3, clusters plain,
//! zlib or zstd; no backing file, no encryption, no external data. The file may
//! be anyone's: tables and buffers are bounded whatever the header says.

use std::io::{self, Read, Seek, SeekFrom};

use super::qcow2::MAGIC;
use super::reading::{BlockReader, Blocks, MAX_SIZE, fill_at, invalid, read_at, unpack};

/// Largest L1 table that QEMU itself takes, in bytes.
const MAX_L1: u64 = 32 * 1024 * 1024;
/// Offsets in L1 and L2 entries: bits 9 to 55.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// L2 entry of version 3: the cluster reads as zeros.
const ZERO: u64 = 1;
/// Incompatible features that do not hinder reading: dirty refcounts, compression type.
const READABLE_FEATURES: u64 = 1 | 1 << 3;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Zlib,
    Zstd,
}

/// The disk in a qcow2 file, as a file of its full size.
pub type Qcow2Reader<R> = BlockReader<Clusters<R>>;

/// The clusters of a qcow2 file.
#[derive(Debug)]
pub struct Clusters<R> {
    file: R,
    size: u64,
    cluster_bits: u32,
    version: u32,
    compression: Compression,
    l1: Vec<u64>,
    /// The L2 table that was used last: its offset, its entries.
    table: Option<(u64, Vec<u64>)>,
    /// The compressed cluster that was read last: its entry, its bytes.
    cluster: Option<(u64, Vec<u8>)>,
}

/// What a header says, checked.
struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    l1_entries: u64,
    l1_offset: u64,
    compression: Compression,
}

impl Header {
    /// Bytes of version 3 with the compression type; version 2 has 72.
    const LENGTH: u64 = 112;

    /// Reads and checks the header in `start`, the file's first bytes.
    fn parse(start: &[u8]) -> io::Result<Self> {
        let mut bytes = [0; Self::LENGTH as usize];
        bytes[..start.len()].copy_from_slice(start);
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let require = |holds: bool, field: &str, value: u64, rule: &str| {
            let text = || format!("{field} is {value:#x}, but must be {rule}");
            holds.then_some(()).ok_or_else(|| invalid(text()))
        };
        let (version, cluster_bits, size) = (u32_at(4), u32_at(20), u64_at(24));
        let whole = bytes[..4] == MAGIC && start.len() >= 72;
        require(whole, "magic", u64::from(u32_at(0)), "QFI\\xfb")?;
        let known = matches!(version, 2 | 3);
        require(known, "version", u64::from(version), "2 or 3")?;
        let alone = u64_at(8) == 0;
        let rule = "0 (convert the image to one without a backing file)";
        require(alone, "backing_file_offset", u64_at(8), rule)?;
        let usual = (9..=21).contains(&cluster_bits);
        require(usual, "cluster_bits", u64::from(cluster_bits), "9 to 21")?;
        require(size <= MAX_SIZE, "size", size, "an exbibyte at most")?;
        let crypt = u64::from(u32_at(32));
        require(crypt == 0, "crypt_method", crypt, "0, not encrypted")?;
        let features = if version == 3 { u64_at(72) } else { 0 };
        let rule = "nothing but dirty refcounts and a compression type";
        let readable = features & !READABLE_FEATURES == 0;
        require(readable, "incompatible_features", features, rule)?;
        let named = features & 1 << 3 != 0 && u32_at(100) > 104;
        let compression = match if named { bytes[104] } else { 0 } {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => {
                let rule = "0 (zlib) or 1 (zstd)";
                return Err(invalid(format!(
                    "compression_type is {other}, but must be {rule}"
                )));
            }
        };
        Ok(Self {
            version,
            cluster_bits,
            size,
            l1_entries: u64::from(u32_at(36)),
            l1_offset: u64_at(40),
            compression,
        })
    }
}

impl<R: Read + Seek> Qcow2Reader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` naming the field
    /// that cannot be read here.
    pub fn open(mut file: R) -> io::Result<Self> {
        let mut start = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.by_ref().take(Header::LENGTH).read_to_end(&mut start)?;
        let header = Header::parse(&start)?;
        let covered = 1u64 << (2 * header.cluster_bits - 3);
        let needed = header.size.div_ceil(covered);
        if needed > header.l1_entries || needed * 8 > MAX_L1 {
            return Err(invalid(format!(
                "l1_size is {}, but a disk of {} bytes needs {needed} (at most {} are read)",
                header.l1_entries,
                header.size,
                MAX_L1 / 8
            )));
        }
        let l1 = read_words(&mut file, header.l1_offset, needed)?;
        Ok(Self::new(Clusters {
            file,
            size: header.size,
            cluster_bits: header.cluster_bits,
            version: header.version,
            compression: header.compression,
            l1,
            table: None,
            cluster: None,
        }))
    }
}

impl<R: Read + Seek> Clusters<R> {
    /// The L2 entry of the cluster at `at`; 0 when there is none.
    fn entry(&mut self, at: u64) -> io::Result<u64> {
        let index = at >> self.cluster_bits;
        let entries = 1u64 << (self.cluster_bits - 3);
        let l1 = self
            .l1
            .get((index / entries) as usize)
            .copied()
            .unwrap_or(0)
            & OFFSET_MASK;
        if l1 == 0 {
            return Ok(0);
        }
        let table = match self.table.take() {
            Some((offset, table)) if offset == l1 => table,
            _ => read_words(&mut self.file, l1, entries)?,
        };
        let entry = table.get((index % entries) as usize).copied().unwrap_or(0);
        self.table = Some((l1, table));
        Ok(entry)
    }

    /// Fills `buffer` from the cluster at `at`, which it does not leave.
    fn read_in_cluster(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inside = at & ((1 << self.cluster_bits) - 1);
        let entry = self.entry(at)?;
        if entry & COMPRESSED != 0 {
            let bytes = match self.cluster.take() {
                Some((current, bytes)) if current == entry => bytes,
                _ => self.decompress(entry)?,
            };
            let inside = inside as usize;
            buffer.copy_from_slice(&bytes[inside..inside + buffer.len()]);
            self.cluster = Some((entry, bytes));
            return Ok(());
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 || (self.version == 3 && entry & ZERO != 0) {
            buffer.fill(0);
            return Ok(());
        }
        // A plain cluster at the end of the file may be cut off: zeros.
        fill_at(&mut self.file, offset + inside, buffer)
    }

    /// The bytes of a compressed cluster, exactly one cluster of them.
    fn decompress(&mut self, entry: u64) -> io::Result<Vec<u8>> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        let length = sectors * 512 - offset % 512;
        let cluster = 1u64 << self.cluster_bits;
        self.file.seek(SeekFrom::Start(offset))?;
        let mut packed = Vec::new();
        self.file.by_ref().take(length).read_to_end(&mut packed)?;
        match self.compression {
            Compression::Zlib => {
                let decoder = flate2::bufread::DeflateDecoder::new(&packed[..]);
                unpack(decoder, cluster, offset)
            }
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&packed[..])?.single_frame();
                unpack(decoder, cluster, offset)
            }
        }
    }
}

/// So many big-endian words at `offset`; memory grows only with what is there.
fn read_words<R: Read + Seek>(file: &mut R, offset: u64, count: u64) -> io::Result<Vec<u64>> {
    let bytes = read_at(file, offset, count * 8)?;
    let words = bytes
        .chunks_exact(8)
        .filter_map(|chunk| chunk.try_into().ok());
    Ok(words.map(u64::from_be_bytes).collect())
}

impl<R: Read + Seek> Blocks for Clusters<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_in_cluster(at, buffer)
    }
}
