//! VMDK as one growing file (monolithicSparse), and what both kinds of VMDK share.
//!
//! Source: VMware, Virtual Disk Format 5.0 (2011), "Hosted Sparse Extents".
//!
//! ```text
//! | header | descriptor | redundant grain directory and tables | the same again | grains of 64 KiB |
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::blocks::{Job, each_block, unfit};
use super::reading::put;
use crate::store::fault;

/// The file starts with this.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";
/// Offsets and lengths in the file count these.
pub(super) const SECTOR: u64 = 512;
/// Bytes of the disk in a grain.
pub(super) const GRAIN: u64 = 64 * 1024;
/// Grains in a table.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Bytes of the disk that a table covers.
pub(super) const COVERED: u64 = GRAIN * TABLE_ENTRIES;
/// Bytes of a table.
pub(super) const TABLE: u64 = TABLE_ENTRIES * 4;
/// Sectors of the descriptor.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
/// Header flags: line ends can be checked; there is a second directory.
pub(super) const NEWLINES: u32 = 1;
const REDUNDANT: u32 = 2;
/// The largest that VMware attaches: 62 TiB. Sector numbers of grains have 32 bits,
/// so that a file of more than 2 TiB cannot be written either.
pub(super) const MAX_SIZE: u64 = 62 << 40;

/// What differs between the headers of the two kinds.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Sectors of the redundant and the main grain directory.
    pub(super) directories: [u64; 2],
    /// Sectors before the first grain.
    pub(super) overhead: u64,
    pub(super) compression: u16,
}

impl Header {
    pub(super) fn bytes(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 4, &self.version.to_le_bytes());
        put(&mut bytes, 8, &self.flags.to_le_bytes());
        put(&mut bytes, 12, &self.size.div_ceil(SECTOR).to_le_bytes());
        put(&mut bytes, 20, &(GRAIN / SECTOR).to_le_bytes());
        put(&mut bytes, 28, &1u64.to_le_bytes());
        put(&mut bytes, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put(&mut bytes, 44, &(TABLE_ENTRIES as u32).to_le_bytes());
        put(&mut bytes, 48, &self.directories[0].to_le_bytes());
        put(&mut bytes, 56, &self.directories[1].to_le_bytes());
        put(&mut bytes, 64, &self.overhead.to_le_bytes());
        put(&mut bytes, 73, b"\n \r\n");
        put(&mut bytes, 77, &self.compression.to_le_bytes());
        bytes
    }
}

/// The descriptor, filled with zeros to its sectors.
pub(super) fn descriptor(job: &Job<'_>, kind: &str) -> Vec<u8> {
    let id = job.seed.as_bytes();
    // ffffffff and fffffffe have meanings of their own.
    let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]).min(0xffff_fffd);
    let sectors = job.size / SECTOR;
    let (heads, track) = if job.size < 1 << 30 {
        (64, 32)
    } else {
        (255, 63)
    };
    let cylinders = (sectors / (heads * track)).clamp(1, 65535);
    // A quote in the name would end it.
    let name: String = job
        .name
        .chars()
        .map(|c| if c == '"' || c.is_control() { '_' } else { c })
        .take(200)
        .collect();
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\n\
         ddb.virtualHWVersion = \"4\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    bytes
}

/// Writes the grains of the disk that hold anything.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    job.small_sectors("vmdk")?;
    job.at_most("vmdk", MAX_SIZE)?;
    let tables = job.size.div_ceil(COVERED);
    let directory = (tables * 4).next_multiple_of(SECTOR);
    let one = directory + tables * TABLE;
    let first = (1 + DESCRIPTOR_SECTORS) * SECTOR;
    let overhead = (first + 2 * one).next_multiple_of(GRAIN);
    let mut entries = vec![0; (tables * TABLE) as usize];
    let mut end = overhead;
    each_block(job, GRAIN, |index, bytes| {
        let sector = sector(end)?;
        put(&mut entries, index as usize * 4, &sector.to_le_bytes());
        file.write_all_at(&bytes, end)?;
        end += GRAIN;
        Ok(())
    })?;
    file.set_len(end)?;
    for copy in [first, first + one] {
        let at = copy + directory;
        let mut pointers = Vec::new();
        for table in 0..tables {
            pointers.extend(sector(at + table * TABLE)?.to_le_bytes());
        }
        file.write_all_at(&pointers, copy)?;
        file.write_all_at(&entries, at)?;
    }
    file.write_all_at(&descriptor(job, "monolithicSparse"), SECTOR)?;
    fault::point();
    let header = Header {
        version: 1,
        flags: NEWLINES | REDUNDANT,
        size: job.size,
        directories: [first / SECTOR, (first + one) / SECTOR],
        overhead: overhead / SECTOR,
        compression: 0,
    };
    file.write_all_at(&header.bytes(), 0)
}

/// The sector at an offset in the file.
pub(super) fn sector(offset: u64) -> io::Result<u32> {
    u32::try_from(offset / SECTOR).map_err(|_| {
        unfit("a vmdk file holds 2 TiB of content at most; use raw, qcow2 or vhdx".to_owned())
    })
}
