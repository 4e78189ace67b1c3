//! Reads a GUID partition table, primary or backup.
//!
//! UEFI Specification 2.10, chapter 5.3. Headers lie in the second and in the last
//! sector of the disk; each has a CRC over itself and one over its array of entries.
//! A disk is untrusted: every size is bounded, the entries are streamed through one
//! sector-sized buffer, and nothing but their place and GUID is kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::crc;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_SIZE: usize = 92;
const ENTRY_SIZE: usize = 128;
/// The specification asks for at least 16 KiB of entries; common tools stop at 128 entries.
const MAX_ENTRIES_BYTES: u64 = 128 * 1024;

/// Something to read at an offset.
pub(crate) trait ReadAt {
    /// Fills `buffer` from `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// A partition that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its number, from 1, as the kernel counts.
    pub(crate) number: u32,
    /// Its GUID in the order of its text, not of the disk.
    pub(crate) guid: [u8; 16],
    /// First byte on the disk.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// Why a header cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The disk did not give the sectors.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Not a GPT header.
    #[error("has no signature")]
    NoSignature,
    /// A CRC is wrong.
    #[error("{0} has a wrong checksum")]
    Checksum(&'static str),
    /// A field is out of bounds.
    #[error("{field} is {value}")]
    Field {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Neither table of a disk can be used.
#[derive(Debug, thiserror::Error)]
#[error("no partition table: the primary header {primary}; the backup header {backup}")]
pub(crate) struct GptError {
    primary: HeaderError,
    backup: HeaderError,
}

/// Reads the partitions of a disk of `sectors` sectors of `sector_size` bytes,
/// from the backup table if the primary one is damaged.
pub(crate) fn read(
    disk: &dyn ReadAt,
    sector_size: u32,
    sectors: u64,
) -> Result<Vec<Partition>, GptError> {
    let disk = Disk {
        disk,
        sector_size: u64::from(sector_size),
        sectors,
    };
    let primary = match disk.table(1) {
        Ok(partitions) => return Ok(partitions),
        Err(error) => error,
    };
    disk.table(sectors.saturating_sub(1))
        .map_err(|backup| GptError { primary, backup })
}

struct Disk<'a> {
    disk: &'a dyn ReadAt,
    sector_size: u64,
    sectors: u64,
}

/// What of a header is needed.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// First sector that partitions may have.
    pub(crate) first_usable: u64,
    /// Last sector that partitions may have.
    pub(crate) last_usable: u64,
    /// First sector of the entries.
    pub(crate) entries_lba: u64,
    /// Sector of the other table's header.
    pub(crate) other_lba: u64,
    /// Number of entries.
    pub(crate) count: u32,
    /// Bytes of an entry.
    pub(crate) entry_size: usize,
    entries_crc: u32,
}

/// A table as it stands on a disk, checked, for whoever writes one.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    /// What the header says.
    pub(crate) header: Header,
    /// The header's sector, its checksum zeroed.
    pub(crate) sector: Vec<u8>,
    /// All entries, at most 128 KiB.
    pub(crate) entries: Vec<u8>,
}

/// Reads the table whose header lies in sector `lba`, with all that is in it.
pub(crate) fn read_whole(
    disk: &dyn ReadAt,
    sector_size: u32,
    sectors: u64,
    lba: u64,
) -> Result<Whole, HeaderError> {
    let disk = Disk {
        disk,
        sector_size: u64::from(sector_size),
        sectors,
    };
    let (header, sector) = disk.header(lba)?;
    let mut entries = vec![0; to_usize(u64::from(header.count) * header.entry_size as u64)];
    disk.disk
        .read_exact_at(&mut entries, header.entries_lba * disk.sector_size)?;
    if crc32(&entries) != header.entries_crc {
        return Err(HeaderError::Checksum("the array of entries"));
    }
    Ok(Whole {
        header,
        sector,
        entries,
    })
}

/// CRC-32 as tables have it.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.finish()
}

impl Disk<'_> {
    fn table(&self, lba: u64) -> Result<Vec<Partition>, HeaderError> {
        let (header, _) = self.header(lba)?;
        let mut partitions = Vec::new();
        let mut crc = Crc32::new();
        let mut sector = vec![0; to_usize(self.sector_size)];
        let total = u64::from(header.count) * header.entry_size as u64;
        let mut entry = Vec::with_capacity(header.entry_size);
        let mut number = 0;
        for (index, start) in (0..total).step_by(sector.len()).enumerate() {
            let chunk = &mut sector[..to_usize((total - start).min(self.sector_size))];
            self.disk.read_exact_at(
                chunk,
                (header.entries_lba + index as u64) * self.sector_size,
            )?;
            crc.update(chunk);
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rest.len().min(header.entry_size - entry.len()));
                entry.extend_from_slice(head);
                rest = tail;
                if entry.len() == header.entry_size {
                    number += 1;
                    partitions.extend(self.partition(&header, number, &entry));
                    entry.clear();
                }
            }
        }
        if crc.finish() == header.entries_crc {
            Ok(partitions)
        } else {
            Err(HeaderError::Checksum("the array of entries"))
        }
    }

    fn header(&self, lba: u64) -> Result<(Header, Vec<u8>), HeaderError> {
        if !(512..=4096).contains(&self.sector_size) || !self.sector_size.is_power_of_two() {
            return Err(field("the sector size", self.sector_size));
        }
        if lba == 0 || lba >= self.sectors || self.sectors > i64::MAX as u64 / self.sector_size {
            return Err(field("the disk's number of sectors", self.sectors));
        }
        let mut sector = vec![0; to_usize(self.sector_size)];
        self.disk
            .read_exact_at(&mut sector, lba * self.sector_size)?;
        if sector[..8] != SIGNATURE[..] {
            return Err(HeaderError::NoSignature);
        }
        let size = to_usize(u64::from(u32_at(&sector, 12)));
        if !(HEADER_SIZE..=sector.len()).contains(&size) {
            return Err(field("the header's size", size as u64));
        }
        let expected = u32_at(&sector, 16);
        sector[16..20].fill(0);
        let mut crc = Crc32::new();
        crc.update(&sector[..size]);
        if crc.finish() != expected {
            return Err(HeaderError::Checksum("the header"));
        }
        if u64_at(&sector, 24) != lba {
            return Err(field("the header's own address", u64_at(&sector, 24)));
        }
        let header = self.fields(&sector)?;
        Ok((header, sector))
    }

    fn fields(&self, sector: &[u8]) -> Result<Header, HeaderError> {
        let header = Header {
            first_usable: u64_at(sector, 40),
            last_usable: u64_at(sector, 48),
            entries_lba: u64_at(sector, 72),
            other_lba: u64_at(sector, 32),
            count: u32_at(sector, 80),
            entry_size: to_usize(u64::from(u32_at(sector, 84))),
            entries_crc: u32_at(sector, 88),
        };
        if header.first_usable > header.last_usable || header.last_usable >= self.sectors {
            return Err(field("the last usable sector", header.last_usable));
        }
        if !(ENTRY_SIZE..=1024).contains(&header.entry_size) || !header.entry_size.is_power_of_two()
        {
            return Err(field("the size of an entry", header.entry_size as u64));
        }
        let bytes = u64::from(header.count) * header.entry_size as u64;
        if header.count == 0 || bytes > MAX_ENTRIES_BYTES {
            return Err(field("the number of entries", u64::from(header.count)));
        }
        let fits = header
            .entries_lba
            .checked_add(bytes.div_ceil(self.sector_size));
        if header.entries_lba < 2 || fits.is_none_or(|end| end > self.sectors) {
            return Err(field("the address of the entries", header.entries_lba));
        }
        Ok(header)
    }

    /// The entry as a partition; `None` if it is unused or lies outside the usable sectors.
    fn partition(&self, header: &Header, number: u32, entry: &[u8]) -> Option<Partition> {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let used = entry[..16].iter().any(|&byte| byte != 0);
        if !used || first < header.first_usable || last > header.last_usable || first > last {
            return None;
        }
        Some(Partition {
            number,
            guid: text_order(&entry[16..32]),
            start: first * self.sector_size,
            bytes: (last - first + 1) * self.sector_size,
        })
    }
}

/// The first three fields of a GUID are little-endian on disk, and big-endian in text.
pub(crate) fn text_order(disk: &[u8]) -> [u8; 16] {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    ORDER.map(|index| disk[index])
}

fn field(field: &'static str, value: u64) -> HeaderError {
    HeaderError::Field { field, value }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// CRC-32 of what comes in pieces.
struct Crc32(u32);

impl Crc32 {
    fn new() -> Self {
        Self(!0)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0 = crc::IEEE.update(self.0, bytes);
    }

    fn finish(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
#[path = "gpt_tests.rs"]
mod tests;
