//! Reads VMDK files of one piece, growing or stream-optimised. See `vmdk` and
//! `vmdk_stream` for the source.

use std::io::{self, Read, Seek, SeekFrom};

use super::reading::{BlockReader, Blocks, fill_at, le32, le64, read_at, require, unpack};
use super::vmdk::{MAGIC, MAX_SIZE, SECTOR};
use super::vmdk_stream::{AT_END, COMPRESSED, DEFLATE};

/// Bytes from the footer's start to the end of the file: it and the end marker.
const FOOTER: u64 = 1024;
/// Largest directory that is read, in entries.
const MAX_TABLES: u64 = 1 << 22;

/// The grains of a VMDK file.
#[derive(Debug)]
pub struct Grains<R> {
    file: R,
    size: u64,
    grain: u64,
    /// Entries of a table.
    entries: u64,
    compressed: bool,
    /// Sector of each table.
    directory: Vec<u8>,
    /// The table that was read last: its sector and entries.
    table: Option<(u32, Vec<u8>)>,
    /// The compressed grain that was read last: its sector and content.
    last: Option<(u32, Vec<u8>)>,
}

/// The disk in a VMDK file, as a file of its full size.
pub type VmdkReader<R> = BlockReader<Grains<R>>;

impl<R: Read + Seek> VmdkReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        let mut header = read_at(&mut file, 0, SECTOR)?;
        if le64(&header, 56) == AT_END {
            let end = file.seek(SeekFrom::End(0))?;
            header = read_at(&mut file, end.saturating_sub(FOOTER), SECTOR)?;
        }
        require(
            header.starts_with(&MAGIC),
            "magicNumber",
            u64::from(le32(&header, 0)),
            "KDMV",
        )?;
        let version = le32(&header, 4);
        require(
            (1..=3).contains(&version),
            "version",
            u64::from(version),
            "1 to 3",
        )?;
        let compressed = le32(&header, 8) & COMPRESSED != 0;
        let algorithm = u16::from_le_bytes([header[77], header[78]]);
        let known = !compressed || algorithm == DEFLATE;
        require(
            known,
            "compressAlgorithm",
            u64::from(algorithm),
            "1 (deflate)",
        )?;
        let (sectors, grain) = (le64(&header, 12), le64(&header, 20));
        let usual = sectors > 0 && sectors <= MAX_SIZE / SECTOR;
        require(
            usual,
            "capacity",
            sectors,
            "the disk's sectors, 62 TiB at most (a descriptor alone is no disk)",
        )?;
        let usual = grain.is_power_of_two() && (8..=4096).contains(&grain);
        require(
            usual,
            "grainSize",
            grain,
            "a power of two from 8 to 4096 sectors",
        )?;
        let entries = u64::from(le32(&header, 44));
        require(
            (1..=4096).contains(&entries),
            "numGTEsPerGT",
            entries,
            "1 to 4096",
        )?;
        let tables = sectors.div_ceil(grain * entries);
        require(
            tables <= MAX_TABLES,
            "capacity",
            sectors,
            "covered by fewer grain tables",
        )?;
        let directory = read_at(
            &mut file,
            le64(&header, 56).saturating_mul(SECTOR),
            tables * 4,
        )?;
        Ok(Self::new(Grains {
            file,
            size: sectors * SECTOR,
            grain: grain * SECTOR,
            entries,
            compressed,
            directory,
            table: None,
            last: None,
        }))
    }
}

impl<R: Read + Seek> Grains<R> {
    /// The sector of a grain; 0 if it is not there.
    fn sector(&mut self, index: u64) -> io::Result<u32> {
        let at = le32(&self.directory, (index / self.entries) as usize * 4);
        if at == 0 {
            return Ok(0);
        }
        let table = match self.table.take() {
            Some((current, table)) if current == at => table,
            _ => read_at(&mut self.file, u64::from(at) * SECTOR, self.entries * 4)?,
        };
        let sector = le32(&table, (index % self.entries) as usize * 4);
        self.table = Some((at, table));
        Ok(sector)
    }

    /// The content of the compressed grain at `sector`.
    fn decompress(&mut self, index: u64, sector: u32) -> io::Result<Vec<u8>> {
        let at = u64::from(sector) * SECTOR;
        let head = read_at(&mut self.file, at, 12)?;
        let first = index * (self.grain / SECTOR);
        require(
            le64(&head, 0) == first,
            "a grain's lba",
            le64(&head, 0),
            "that of its table entry",
        )?;
        let length = u64::from(le32(&head, 8));
        require(
            length <= 2 * self.grain + 1024,
            "a grain's size",
            length,
            "about that of a grain at most",
        )?;
        let packed = read_at(&mut self.file, at + 12, length)?;
        let whole = unpack(
            flate2::bufread::ZlibDecoder::new(&packed[..]),
            self.grain,
            at,
        );
        match whole {
            // Others cut the last grain at the disk's end.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData
                    && !self.size.is_multiple_of(self.grain)
                    && index == self.size / self.grain =>
            {
                let mut bytes = unpack(
                    flate2::bufread::ZlibDecoder::new(&packed[..]),
                    self.size % self.grain,
                    at,
                )?;
                bytes.resize(self.grain as usize, 0);
                Ok(bytes)
            }
            whole => whole,
        }
    }
}

impl<R: Read + Seek> Blocks for Grains<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.grain
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (index, inside) = (at / self.grain, at % self.grain);
        let sector = self.sector(index)?;
        // 0: not there. 1: zeros, where the header allows it; no grain can be there.
        if sector < 2 {
            buffer.fill(0);
            return Ok(());
        }
        if !self.compressed {
            return fill_at(&mut self.file, u64::from(sector) * SECTOR + inside, buffer);
        }
        let bytes = match self.last.take() {
            Some((current, bytes)) if current == sector => bytes,
            _ => self.decompress(index, sector)?,
        };
        let inside = inside as usize;
        buffer.copy_from_slice(&bytes[inside..inside + buffer.len()]);
        self.last = Some((sector, bytes));
        Ok(())
    }
}
