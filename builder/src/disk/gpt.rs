//! The partition tables: protective MBR, header and entries, and their copy.
//!
//! Source: UEFI Specification 2.10, section 5.3 "GUID Partition Table (GPT)
//! Disk Layout", and 5.2.3 "Protective MBR".
//!
//! Written by the crate `gpt`, on a device that exists only in memory; no GUID
//! is left for the crate to draw, so that nothing is random.
//!
//! Read by hand, because the disk may be anyone's: the crate (4.1.0) panics
//! when a header says that entries have any other size than 128 bytes, and
//! allocates as many entries as a header claims, up to 512 GiB, before it
//! compares a checksum.

use std::io::{self, Read, Seek, SeekFrom};

use ::gpt::GptConfig;
use ::gpt::disk::LogicalBlockSize;
use ::gpt::mbr::ProtectiveMBR;
use uuid::Uuid;

use slipform_init::contract::machine;

use super::DiskError;
use super::sparse::Sparse;

/// Type of an EFI system partition.
pub const ESP_TYPE: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// Type of a partition for the code that a BIOS starts (GRUB manual, "BIOS installation").
pub const BIOS_TYPE: Uuid = Uuid::from_u128(0x21686148_6449_6e6f_744e_656564454649);
/// Type of a layer's partition: file system and dm-verity tree in one.
///
/// Slipform's own: `guid::derive` of "slipform" and "partition type: layer". The Discoverable Partitions
/// Specification's root types promise a whole root file system and, for verity,
/// its tree in a second partition; a layer is neither, and tools like
/// systemd-dissect would take the first layer for the whole system.
pub const LAYER_TYPE: Uuid = Uuid::from_u128(0xf24cc72c_8fa0_81cb_b617_f839dde506d3);
/// Type of the state partition, which init makes: `guid::derive` of "slipform" and
/// "partition type: state".
pub const STATE_TYPE: Uuid = Uuid::from_bytes(machine::STATE_TYPE);
/// Its name, without which it is not taken for the state.
pub const STATE_NAME: &str = machine::STATE_NAME;
/// Attributes of a layer, bits 60 (read-only) and 63 (no automount) of the
/// Discoverable Partitions Specification.
pub const LAYER_ATTRIBUTES: u64 = 1 << 60 | 1 << 63;

/// Entries in a table.
const ENTRIES: u32 = 128;
/// Bytes of an entry.
const ENTRY_SIZE: u32 = 128;
/// Bytes of all entries.
const TABLE_SIZE: u64 = (ENTRIES * ENTRY_SIZE) as u64;
/// Bytes of a header; the rest of its sector is zero.
const HEADER_SIZE: u32 = 92;
const SIGNATURE: [u8; 8] = *b"EFI PART";

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub type_guid: Uuid,
    /// Its own GUID.
    pub guid: Uuid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, inclusive.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Name, at most 36 UTF-16 units.
    pub name: String,
}

/// Both tables of a disk, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Protective MBR, header, entries: the disk's first bytes.
    pub primary: Vec<u8>,
    /// Entries and header: the disk's last bytes.
    pub backup: Vec<u8>,
}

/// What a table on a disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Sector size that the table was found with.
    pub sector_size: u32,
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// Entries in use, in their order.
    pub partitions: Vec<Partition>,
}

/// Whether init takes a partition for the state.
#[must_use]
pub fn is_state(partition: &Partition) -> bool {
    partition.type_guid == STATE_TYPE && partition.name == STATE_NAME
}

/// Bytes at the end of a disk that the copy of the table takes.
#[must_use]
pub fn backup_size(sector_size: u32) -> u64 {
    TABLE_SIZE + u64::from(sector_size)
}

/// Both tables for a disk of `sectors` sectors of 512 or 4096 bytes.
///
/// # Errors
/// [`DiskError::Fact`] for another sector size, [`DiskError::Tables`] for a disk
/// too small for its tables and for more than 128 partitions.
pub fn tables(
    sector_size: u32,
    sectors: u64,
    disk_guid: Uuid,
    partitions: &[Partition],
) -> Result<Tables, DiskError> {
    let sector =
        LogicalBlockSize::try_from(u64::from(sector_size)).map_err(|_| DiskError::Fact {
            key: "sector_size",
            value: u64::from(sector_size),
            rule: "it must be 512 or 4096".to_owned(),
        })?;
    write(sector, sectors, disk_guid, partitions)
        .map_err(|source| DiskError::Tables { sectors, source })
}

fn write(
    sector: LogicalBlockSize,
    sectors: u64,
    disk_guid: Uuid,
    partitions: &[Partition],
) -> Result<Tables, ::gpt::GptError> {
    let overflow = ::gpt::GptError::Overflow("size of the disk in bytes");
    let size = sectors.checked_mul(sector.as_u64()).ok_or(overflow)?;
    let mut disk = Sparse::new(size);
    // The crate writes the rest of the tables, but not this.
    let protected = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    disk.put(0, &ProtectiveMBR::with_lb_size(protected).to_bytes())?;
    let mut tables = GptConfig::new()
        .writable(true)
        .logical_block_size(sector)
        .create_from_device(&mut disk, Some(disk_guid))?;
    tables.update_partitions((1..).zip(partitions.iter().map(entry)).collect())?;
    tables.write()?;
    let primary = 2 * sector.as_u64() + TABLE_SIZE;
    Ok(Tables {
        primary: disk.read_range(0..primary)?,
        backup: disk.read_range(size - TABLE_SIZE - sector.as_u64()..size)?,
    })
}

fn entry(partition: &Partition) -> ::gpt::partition::Partition {
    ::gpt::partition::Partition {
        part_type_guid: partition.type_guid.into(),
        part_guid: partition.guid,
        first_lba: partition.first_lba,
        last_lba: partition.last_lba,
        flags: partition.attributes,
        name: partition.name.clone(),
    }
}

/// Reads a disk's table, the copy when the first is damaged, with sectors of
/// 512 or 4096 bytes, whichever is found. `None` when there is none.
///
/// # Errors
/// What the disk reports; a table that is wrong is none.
pub fn read<R: Read + Seek>(disk: &mut R) -> io::Result<Option<Table>> {
    let size = disk.seek(SeekFrom::End(0))?;
    for sector_size in [512, 4096] {
        let sectors = size / u64::from(sector_size);
        for lba in [1, sectors.saturating_sub(1)] {
            if lba > 0
                && lba < sectors
                && let Some(table) = read_at(disk, sector_size, sectors, lba)?
            {
                return Ok(Some(table));
            }
        }
    }
    Ok(None)
}

fn read_at<R: Read + Seek>(
    disk: &mut R,
    sector_size: u32,
    sectors: u64,
    lba: u64,
) -> io::Result<Option<Table>> {
    let mut header = [0; HEADER_SIZE as usize];
    disk.seek(SeekFrom::Start(lba * u64::from(sector_size)))?;
    disk.read_exact(&mut header)?;
    let u32_at = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let mut unsigned = header;
    unsigned[16..20].fill(0);
    let good = header[..8] == SIGNATURE
        && u32_at(12) == HEADER_SIZE
        && u32_at(16) == crc32fast::hash(&unsigned)
        && u64_at(24) == lba
        && u32_at(80) == ENTRIES
        && u32_at(84) == ENTRY_SIZE
        && u64_at(72) < sectors;
    let table = u64_at(72).saturating_mul(u64::from(sector_size));
    if !good || table + TABLE_SIZE > sectors * u64::from(sector_size) {
        return Ok(None);
    }
    let mut entries = vec![0; TABLE_SIZE as usize];
    disk.seek(SeekFrom::Start(table))?;
    disk.read_exact(&mut entries)?;
    if crc32fast::hash(&entries) != u32_at(88) {
        return Ok(None);
    }
    let guid = |bytes: &[u8]| Uuid::from_slice_le(bytes).unwrap_or_default();
    let partitions = entries
        .chunks(ENTRY_SIZE as usize)
        .filter_map(parse_entry)
        .filter(|partition| {
            partition.first_lba <= partition.last_lba && partition.last_lba < sectors
        })
        .collect();
    Ok(Some(Table {
        sector_size,
        disk_guid: guid(&header[56..72]),
        partitions,
    }))
}

/// An entry in use.
fn parse_entry(entry: &[u8]) -> Option<Partition> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(entry.get(at..at + 8)?.try_into().ok()?));
    let type_guid = Uuid::from_slice_le(entry.get(..16)?).ok()?;
    if type_guid.is_nil() {
        return None;
    }
    let units: Vec<u16> = entry
        .get(56..)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        type_guid,
        guid: Uuid::from_slice_le(entry.get(16..32)?).ok()?,
        first_lba: u64_at(32)?,
        last_lba: u64_at(40)?,
        attributes: u64_at(48)?,
        name: String::from_utf16_lossy(&units),
    })
}
