//! VMDK as a stream of compressed grains (streamOptimized): what ESXi, vCenter
//! and OVA take.
//!
//! Source: VMware, Virtual Disk Format 5.0 (2011), "Stream-Optimized Compressed
//! Sparse Extents".
//!
//! ```text
//! | header | descriptor | grain ... | marker, grain table | grain ... |
//!     | marker, grain directory | marker, footer | end marker |
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};

use super::blocks::{Deflate, Job, each_packed};
use super::reading::put;
use super::vmdk::{
    COVERED, DESCRIPTOR_SECTORS, GRAIN, Header, MAX_SIZE, NEWLINES, SECTOR, TABLE, TABLE_ENTRIES,
    descriptor, sector,
};

/// Header flags: grains are compressed, markers are between them.
pub(super) const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// Deflate, as zlib streams.
pub(super) const DEFLATE: u16 = 1;
/// The header's directory is in the footer, three sectors before the end.
pub(super) const AT_END: u64 = u64::MAX;
/// Kinds of markers.
const END: u32 = 0;
const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    stream(job, &mut out)?;
    out.flush()
}

/// Where the stream is, and the tables that are not out yet.
struct Stream<W> {
    out: W,
    /// Bytes written.
    at: u64,
    /// Sector of each grain table.
    directory: Vec<u32>,
    /// The table that is being filled, with its index.
    table: Option<(u64, Vec<u8>)>,
}

/// Writes the disk in one pass; the bytes written.
pub(super) fn stream(job: &mut Job<'_>, out: impl Write) -> io::Result<u64> {
    job.small_sectors("vmdk-stream")?;
    job.at_most("vmdk-stream", MAX_SIZE)?;
    let mut header = Header {
        version: 3,
        flags: NEWLINES | COMPRESSED | MARKERS,
        size: job.size,
        directories: [0, AT_END],
        overhead: GRAIN / SECTOR,
        compression: DEFLATE,
    };
    let mut stream = Stream {
        out,
        at: 0,
        directory: vec![0; job.size.div_ceil(COVERED) as usize],
        table: None,
    };
    stream.put(&header.bytes())?;
    stream.put(&descriptor(job, "streamOptimized"))?;
    stream.put(&vec![
        0;
        (GRAIN - (1 + DESCRIPTOR_SECTORS) * SECTOR) as usize
    ])?;
    each_packed(
        job,
        GRAIN,
        || Ok(Deflate::zlib()),
        |index, _, packed| stream.grain(index, packed),
    )?;
    stream.end_table()?;
    let pointers: Vec<u8> = stream
        .directory
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect();
    stream.marker((pointers.len() as u64).div_ceil(SECTOR), GRAIN_DIRECTORY)?;
    header.directories[1] = stream.at / SECTOR;
    stream.put(&pointers)?;
    stream.marker(1, FOOTER)?;
    stream.put(&header.bytes())?;
    stream.marker(0, END)?;
    Ok(stream.at)
}

impl<W: Write> Stream<W> {
    /// Writes, and fills up the sector.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = (bytes.len() as u64).next_multiple_of(SECTOR);
        self.out.write_all(bytes)?;
        self.out
            .write_all(&[0; SECTOR as usize][..(length - bytes.len() as u64) as usize])?;
        self.at += length;
        Ok(())
    }

    fn marker(&mut self, sectors: u64, kind: u32) -> io::Result<()> {
        let mut bytes = [0; SECTOR as usize];
        put(&mut bytes, 0, &sectors.to_le_bytes());
        put(&mut bytes, 12, &kind.to_le_bytes());
        self.put(&bytes)
    }

    fn grain(&mut self, index: u64, packed: &[u8]) -> io::Result<()> {
        let table = index / TABLE_ENTRIES;
        if self
            .table
            .as_ref()
            .is_some_and(|(current, _)| *current != table)
        {
            self.end_table()?;
        }
        let place = sector(self.at)?;
        let (_, entries) = self
            .table
            .get_or_insert_with(|| (table, vec![0; TABLE as usize]));
        put(
            entries,
            (index % TABLE_ENTRIES) as usize * 4,
            &place.to_le_bytes(),
        );
        let mut bytes = (index * GRAIN / SECTOR).to_le_bytes().to_vec();
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        self.put(&bytes)
    }

    /// Writes the table that is full, or the last one.
    fn end_table(&mut self) -> io::Result<()> {
        if let Some((index, entries)) = self.table.take() {
            self.marker(TABLE / SECTOR, GRAIN_TABLE)?;
            self.directory[index as usize] = sector(self.at)?;
            self.put(&entries)?;
        }
        Ok(())
    }
}
