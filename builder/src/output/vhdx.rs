//! VHDX, dynamic, as Hyper-V has it.
//!
//! Source: Microsoft, [MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format 8.0.
//!
//! ```text
//! 0     identifier
//! 64K   header, again at 128K
//! 192K  region table, again at 256K
//! 1M    log, empty
//! 2M    metadata
//! 3M    block allocation table
//!       blocks of 1 MiB
//! ```

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;

use super::blocks::{Job, each_block};
use super::reading::{BlockReader, Blocks, fill_at, invalid, le32, le64, put, read_at, require};
use crate::base::{MIB, guid};
use crate::store::fault;

/// The file starts with this.
pub(super) const MAGIC: &[u8; 8] = b"vhdxfile";
const KIB: u64 = 1024;
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const HEADER: u64 = 4 * KIB;
const REGION_TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
const REGION_TABLE: u64 = 64 * KIB;
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
/// Metadata items start so far into their region.
const ITEMS: u64 = 64 * KIB;
const TABLE_AT: u64 = 3 * MIB;
/// The smallest block there is, so that the file is small, too.
const BLOCK: u64 = MIB;
/// The format's limit: 64 TiB.
const MAX_SIZE: u64 = 64 << 40;
/// States of a block.
const ZERO: u64 = 2;
const PRESENT: u64 = 6;
const STATE: u64 = 7;
/// Offsets in the table: multiples of 1 MiB.
const OFFSET: u64 = !(MIB - 1);

const TABLE_REGION: u128 = 0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08;
const METADATA_REGION: u128 = 0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e;
const FILE_PARAMETERS: u128 = 0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b;
const DISK_SIZE: u128 = 0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8;
const DISK_ID: u128 = 0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746;
const LOGICAL_SECTOR: u128 = 0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f;
const PHYSICAL_SECTOR: u128 = 0xcda3_48c7_445d_4471_9cc9_e988_5251_c556;

/// A GUID as it lies in the file: its first three fields little-endian.
fn guid_bytes(value: u128) -> [u8; 16] {
    uuid::Uuid::from_u128(value).to_bytes_le()
}

/// Entries of the table: after each full chunk of blocks comes one for a sector bitmap.
const fn entries(size: u64, block: u64, sector: u64) -> u64 {
    let blocks = size.div_ceil(block);
    blocks + blocks.saturating_sub(1) / chunk(block, sector)
}

/// Blocks of a chunk: as many as one sector bitmap of 1 MiB covers.
const fn chunk(block: u64, sector: u64) -> u64 {
    (sector << 23) / block
}

/// The table's entry of a block.
const fn entry(index: u64, chunk: u64) -> u64 {
    index + index / chunk
}

/// Writes the blocks of the disk that hold anything.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    job.at_most("vhdx", MAX_SIZE)?;
    let sector = u64::from(job.sector_size);
    let entries = entries(job.size, BLOCK, sector);
    let table_length = (entries * 8).next_multiple_of(MIB).max(MIB);
    let mut table = vec![0; (entries * 8) as usize];
    for index in 0..job.size.div_ceil(BLOCK) {
        put(
            &mut table,
            entry(index, chunk(BLOCK, sector)) as usize * 8,
            &ZERO.to_le_bytes(),
        );
    }
    let mut end = TABLE_AT + table_length;
    each_block(job, BLOCK, |index, bytes| {
        let at = entry(index, chunk(BLOCK, sector)) as usize * 8;
        put(&mut table, at, &(end | PRESENT).to_le_bytes());
        file.write_all_at(&bytes, end)?;
        end += BLOCK;
        Ok(())
    })?;
    file.set_len(end)?;
    file.write_all_at(&table, TABLE_AT)?;
    file.write_all_at(&metadata(job), METADATA_AT)?;
    for at in REGION_TABLES {
        file.write_all_at(&regions(table_length as u32), at)?;
    }
    for (sequence, at) in (1..).zip(HEADERS) {
        file.write_all_at(&header(job, sequence), at)?;
    }
    fault::point();
    let mut identifier = MAGIC.to_vec();
    identifier.extend("slipform".encode_utf16().flat_map(u16::to_le_bytes));
    file.write_all_at(&identifier, 0)
}

fn header(job: &Job<'_>, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER as usize];
    put(&mut bytes, 0, b"head");
    put(&mut bytes, 8, &sequence.to_le_bytes());
    put(
        &mut bytes,
        16,
        &guid::derive(&job.seed, "vhdx file").to_bytes_le(),
    );
    put(
        &mut bytes,
        32,
        &guid::derive(&job.seed, "vhdx data").to_bytes_le(),
    );
    // No log GUID: nothing to replay. Version 1.
    put(&mut bytes, 66, &1u16.to_le_bytes());
    put(&mut bytes, 68, &(MIB as u32).to_le_bytes());
    put(&mut bytes, 72, &LOG_AT.to_le_bytes());
    summed(bytes)
}

fn regions(table_length: u32) -> Vec<u8> {
    let mut bytes = vec![0; REGION_TABLE as usize];
    put(&mut bytes, 0, b"regi");
    put(&mut bytes, 8, &2u32.to_le_bytes());
    let regions = [
        (TABLE_REGION, TABLE_AT, table_length),
        (METADATA_REGION, METADATA_AT, MIB as u32),
    ];
    for (region, (id, at, length)) in (0..).zip(regions) {
        let place = 16 + region * 32;
        put(&mut bytes, place, &guid_bytes(id));
        put(&mut bytes, place + 16, &at.to_le_bytes());
        put(&mut bytes, place + 24, &length.to_le_bytes());
        put(&mut bytes, place + 28, &1u32.to_le_bytes());
    }
    summed(bytes)
}

fn metadata(job: &Job<'_>) -> Vec<u8> {
    /// The item must be understood; it is the disk's, not the file's.
    const REQUIRED: u32 = 4;
    const DISK: u32 = 2;
    let mut parameters = [0; 8];
    put(&mut parameters, 0, &(BLOCK as u32).to_le_bytes());
    let sector = job.sector_size.to_le_bytes();
    let size = job.size.to_le_bytes();
    let id = guid::derive(&job.seed, "vhdx disk").to_bytes_le();
    let items: [(u128, &[u8], u32); 5] = [
        (FILE_PARAMETERS, &parameters, REQUIRED),
        (DISK_SIZE, &size, REQUIRED | DISK),
        (DISK_ID, &id, REQUIRED | DISK),
        (LOGICAL_SECTOR, &sector, REQUIRED | DISK),
        (PHYSICAL_SECTOR, &sector, REQUIRED | DISK),
    ];
    let mut bytes = vec![0; ITEMS as usize];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    for (index, (id, item, flags)) in items.into_iter().enumerate() {
        let place = 32 + index * 32;
        let at = bytes.len() as u32;
        put(&mut bytes, place, &guid_bytes(id));
        put(&mut bytes, place + 16, &at.to_le_bytes());
        put(&mut bytes, place + 20, &(item.len() as u32).to_le_bytes());
        put(&mut bytes, place + 24, &flags.to_le_bytes());
        bytes.extend(item);
    }
    bytes
}

/// With its CRC-32C at 4.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// Whether signature and checksum are right.
fn is_whole(bytes: &[u8], signature: &[u8]) -> bool {
    let mut zeroed = bytes.to_vec();
    zeroed[4..8].fill(0);
    bytes.starts_with(signature) && le32(bytes, 4) == crc32c::crc32c(&zeroed)
}

/// The blocks of a VHDX file.
#[derive(Debug)]
pub struct VhdxBlocks<R> {
    file: R,
    size: u64,
    block: u64,
    chunk: u64,
    table: Vec<u8>,
}

/// The disk in a VHDX file without a parent, as a file of its full size.
pub type VhdxReader<R> = BlockReader<VhdxBlocks<R>>;

impl<R: Read + Seek> VhdxReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        if read_at(&mut file, 0, 8)? != MAGIC {
            return Err(invalid("it does not start with vhdxfile".to_owned()));
        }
        let mut current = None;
        for at in HEADERS {
            let header = read_at(&mut file, at, HEADER)?;
            let newer = |other: &Vec<u8>| le64(&header, 8) > le64(other, 8);
            if is_whole(&header, b"head") && current.as_ref().is_none_or(newer) {
                current = Some(header);
            }
        }
        let header = current.ok_or_else(|| invalid("both headers are damaged".to_owned()))?;
        if header[48..64] != [0; 16] {
            return Err(invalid(
                "its log is not empty; let Hyper-V or qemu-img check -r all replay it".to_owned(),
            ));
        }
        let [table_at, metadata_at] = find_regions(&mut file)?;
        let metadata = read_at(&mut file, metadata_at, ITEMS)?;
        let item = |file: &mut R, id: u128, length: u64| {
            let place = find(
                &metadata,
                32,
                usize::from(u16::from_le_bytes([metadata[10], metadata[11]])),
                id,
            )?;
            let at = u64::from(le32(&metadata, place + 16));
            read_at(file, metadata_at.saturating_add(at), length)
        };
        let parameters = item(&mut file, FILE_PARAMETERS, 8)?;
        let size = le64(&item(&mut file, DISK_SIZE, 8)?, 0);
        let sector = u64::from(le32(&item(&mut file, LOGICAL_SECTOR, 4)?, 0));
        let block = u64::from(le32(&parameters, 0));
        let usual = block.is_power_of_two() && (MIB..=256 * MIB).contains(&block);
        require(
            usual,
            "BlockSize",
            block,
            "a power of two from 1 to 256 MiB",
        )?;
        require(
            matches!(sector, 512 | 4096),
            "LogicalSectorSize",
            sector,
            "512 or 4096",
        )?;
        require(size <= MAX_SIZE, "VirtualDiskSize", size, "64 TiB at most")?;
        let parent = u64::from(le32(&parameters, 4) & 2);
        require(
            parent == 0,
            "HasParent",
            parent,
            "0 (convert it to one without)",
        )?;
        let table = read_at(&mut file, table_at, entries(size, block, sector) * 8)?;
        Ok(Self::new(VhdxBlocks {
            file,
            size,
            block,
            chunk: chunk(block, sector),
            table,
        }))
    }
}

/// Where the table and the metadata are.
fn find_regions<R: Read + Seek>(file: &mut R) -> io::Result<[u64; 2]> {
    for at in REGION_TABLES {
        let table = read_at(file, at, REGION_TABLE)?;
        if !is_whole(&table, b"regi") {
            continue;
        }
        let count = le32(&table, 8) as usize;
        let place = |id| Ok::<_, io::Error>(le64(&table, find(&table, 16, count, id)? + 16));
        return Ok([place(TABLE_REGION)?, place(METADATA_REGION)?]);
    }
    Err(invalid("both region tables are damaged".to_owned()))
}

/// The place of an entry with this GUID, of `count` of 32 bytes from `start` on.
fn find(bytes: &[u8], start: usize, count: usize, id: u128) -> io::Result<usize> {
    let wanted = guid_bytes(id);
    let entries = bytes.get(start..).unwrap_or_default().chunks_exact(32);
    let mut found = entries.take(count.min(2047));
    let index = found.position(|entry| entry.starts_with(&wanted));
    index
        .map(|index| start + index * 32)
        .ok_or_else(|| invalid(format!("it has no {}", uuid::Uuid::from_u128(id))))
}

impl<R: Read + Seek> Blocks for VhdxBlocks<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.block
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let index = entry(at / self.block, self.chunk);
        let word = le64(&self.table, index as usize * 8);
        match word & STATE {
            PRESENT => {
                let place = (word & OFFSET).saturating_add(at % self.block);
                fill_at(&mut self.file, place, buffer)
            }
            0..=3 => {
                buffer.fill(0);
                Ok(())
            }
            other => Err(invalid(format!(
                "the block at {at:#x} of the disk has state {other}, which a disk without a parent has not"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_entry_follows_each_chunk() {
        assert_eq!(chunk(MIB, 512), 4096);
        assert_eq!(entries(4096 * MIB, MIB, 512), 4096);
        assert_eq!(entries(4097 * MIB, MIB, 512), 4098);
        assert_eq!(entry(4095, 4096), 4095);
        assert_eq!(entry(4096, 4096), 4097);
        assert_eq!(chunk(32 * MIB, 4096), 1024);
    }
}
