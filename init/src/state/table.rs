//! A GUID partition table that is written to while the disk is in use, so that a power
//! cut at any moment leaves one that can be read.
//!
//! UEFI Specification 2.10, chapter 5.3. At each moment one of the two tables is whole:
//!
//! ```text
//! settle   both say the same, the second stands at the very end   nothing written if so
//! edit     second table -> flush -> first table -> flush          twice never both at once
//! ```
//!
//! A reader takes the first table if it is whole, else the second. So an edit counts from
//! the moment on when the first table is whole again, and before that nobody relies on it.

use std::io;

use super::Blocks;
use crate::early::gpt::{self, HeaderError, Whole};

const TYPE: usize = 0;
const GUID: usize = 16;
const FIRST: usize = 32;
const LAST: usize = 40;
const NAME: usize = 56;
/// UTF-16 units of a name.
const NAME_UNITS: usize = 36;
/// Header fields that are written anew.
const HEADER_CRC: usize = 16;
const OWN_LBA: usize = 24;
const OTHER_LBA: usize = 32;
const LAST_USABLE: usize = 48;
const ENTRIES_LBA: usize = 72;
const ENTRIES_CRC: usize = 88;

/// A table that cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// Neither table is whole.
    #[error("no partition table: the primary header {primary}; the backup header {backup}")]
    None {
        /// What is wrong with the first.
        primary: HeaderError,
        /// What is wrong with the second.
        backup: HeaderError,
    },
    /// Where things lie contradicts itself: better not to write.
    #[error("the partition table is not written to: {what} is {value}, {rule}")]
    Layout {
        /// Which figure.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it would have to be.
        rule: &'static str,
    },
    /// All entries are taken.
    #[error("the partition table has no free entry among {0}")]
    Full(u32),
    /// The disk.
    #[error("{operation} the partition table: {source}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What came back.
        source: io::Error,
    },
}

/// An entry in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// From 1.
    pub(crate) number: u32,
    /// Type, in the order of its text.
    pub(crate) kind: [u8; 16],
    /// First sector.
    pub(crate) first: u64,
    /// Last sector.
    pub(crate) last: u64,
    /// Name; what is no UTF-16 is replaced.
    pub(crate) name: String,
}

/// A new entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry<'a> {
    /// Type, in the order of its text.
    pub(crate) kind: [u8; 16],
    /// Its own GUID.
    pub(crate) guid: [u8; 16],
    /// First sector.
    pub(crate) first: u64,
    /// Last sector.
    pub(crate) last: u64,
    /// ASCII, 36 letters at most.
    pub(crate) name: &'a str,
}

/// Both tables of a disk.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    sector_size: u32,
    sectors: u64,
    whole: Whole,
    /// First sector of the first table's entries.
    primary_entries: u64,
    /// The first table was the one that is not whole.
    primary_lost: bool,
    /// Both say the same and the second stands at the end.
    settled: bool,
}

impl Table {
    /// Reads and checks. Writes nothing.
    pub(crate) fn read(
        disk: &dyn Blocks,
        sector_size: u32,
        sectors: u64,
    ) -> Result<Self, TableError> {
        let end = sectors.saturating_sub(1);
        let primary = gpt::read_whole(disk.reader(), sector_size, sectors, 1);
        let backup = gpt::read_whole(disk.reader(), sector_size, sectors, end);
        let (whole, primary_lost, settled) = match (primary, backup) {
            (Ok(first), Ok(second)) => {
                let same = first.entries == second.entries
                    && first.header.other_lba == end
                    && first.header.last_usable == second.header.last_usable;
                (first, false, same)
            }
            (Ok(first), Err(_)) => (first, false, false),
            (Err(_), Ok(second)) => (second, true, false),
            (Err(primary), Err(backup)) => return Err(TableError::None { primary, backup }),
        };
        let table = Self {
            sector_size,
            sectors,
            primary_entries: if primary_lost {
                2
            } else {
                whole.header.entries_lba
            },
            whole,
            primary_lost,
            settled,
        };
        table.check()?;
        Ok(table)
    }

    /// What a writer relies on.
    fn check(&self) -> Result<(), TableError> {
        let layout = |what, value, rule| Err(TableError::Layout { what, value, rule });
        let first_usable = self.whole.header.first_usable;
        if self.primary_entries + self.entry_sectors() > first_usable {
            let rule = "it must lie behind the entries";
            return layout("the first usable sector", first_usable, rule);
        }
        if self.whole.header.first_usable > self.last_possible() {
            let rule = "it must leave room for the second table";
            return layout("the number of sectors", self.sectors, rule);
        }
        for entry in self.entries() {
            if entry.first > entry.last || entry.first < first_usable {
                let rule = "it must be at or behind the first usable sector and before its last";
                return layout("a partition's first sector", entry.first, rule);
            }
            if entry.last > self.last_possible() {
                let rule = "it must be before the second table";
                return layout("a partition's last sector", entry.last, rule);
            }
        }
        Ok(())
    }

    fn entry_sectors(&self) -> u64 {
        (self.whole.entries.len() as u64).div_ceil(u64::from(self.sector_size))
    }

    /// The last sector in front of the second table at the disk's end.
    fn last_possible(&self) -> u64 {
        self.sectors.saturating_sub(2 + self.entry_sectors())
    }

    /// The last sector that a partition may have once the table is settled.
    pub(crate) fn last_usable(&self) -> u64 {
        // A disk that has not grown keeps what its maker chose.
        if self.whole.header.other_lba + 1 == self.sectors && !self.primary_lost {
            self.whole.header.last_usable.min(self.last_possible())
        } else {
            self.last_possible()
        }
    }

    /// Entries in use, in their order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let chunks = self
            .whole
            .entries
            .chunks_exact(self.whole.header.entry_size);
        (1u32..).zip(chunks).filter_map(|(number, entry)| {
            let kind = gpt::text_order(entry.get(TYPE..GUID)?);
            (kind != [0; 16]).then_some(Entry {
                number,
                kind,
                first: number_at(entry, FIRST),
                last: number_at(entry, LAST),
                name: name_of(entry),
            })
        })
    }

    /// Makes both tables say the same, the second at the disk's very end. Writes only if
    /// that is not so yet, and never to the only table that is whole before another is.
    /// True if something was written.
    pub(crate) fn settle(&mut self, disk: &dyn Blocks) -> Result<bool, TableError> {
        if self.settled {
            return Ok(false);
        }
        self.set_number(LAST_USABLE, self.last_usable());
        self.whole.header.last_usable = self.last_usable();
        if self.primary_lost {
            self.write_primary(disk)?;
            self.write_backup(disk)?;
        } else {
            self.write_backup(disk)?;
            self.write_primary(disk)?;
        }
        self.whole.header.other_lba = self.sectors - 1;
        self.primary_lost = false;
        self.settled = true;
        Ok(true)
    }

    /// Adds an entry to a settled table in memory and returns its number; [`Table::write`]
    /// makes it count.
    pub(crate) fn add(&mut self, new: &NewEntry<'_>) -> Result<u32, TableError> {
        let size = self.whole.header.entry_size;
        let mut slots = (1u32..).zip(self.whole.entries.chunks_exact_mut(size));
        let free = slots.find(|(_, entry)| entry.iter().take(GUID).all(|&byte| byte == 0));
        let (number, entry) = free.ok_or(TableError::Full(self.whole.header.count))?;
        entry.fill(0);
        put(entry, TYPE, &gpt::text_order(&new.kind));
        put(entry, GUID, &gpt::text_order(&new.guid));
        put(entry, FIRST, &new.first.to_le_bytes());
        put(entry, LAST, &new.last.to_le_bytes());
        for (index, unit) in new.name.encode_utf16().take(NAME_UNITS).enumerate() {
            put(entry, NAME + 2 * index, &unit.to_le_bytes());
        }
        Ok(number)
    }

    /// Gives an entry another end, in memory.
    pub(crate) fn set_last(&mut self, number: u32, last: u64) {
        let size = self.whole.header.entry_size;
        let index = number.saturating_sub(1) as usize;
        if let Some(entry) = self.whole.entries.chunks_exact_mut(size).nth(index) {
            put(entry, LAST, &last.to_le_bytes());
        }
    }

    /// Writes a settled table: it counts when the first one is whole.
    pub(crate) fn write(&self, disk: &dyn Blocks) -> Result<(), TableError> {
        self.write_backup(disk)?;
        self.write_primary(disk)
    }

    fn write_backup(&self, disk: &dyn Blocks) -> Result<(), TableError> {
        let end = self.sectors - 1;
        self.write_at(disk, end, 1, end - self.entry_sectors())
    }

    fn write_primary(&self, disk: &dyn Blocks) -> Result<(), TableError> {
        self.write_at(disk, 1, self.sectors - 1, self.primary_entries)
    }

    /// One table: entries, header, flush.
    fn write_at(
        &self,
        disk: &dyn Blocks,
        own: u64,
        other: u64,
        entries: u64,
    ) -> Result<(), TableError> {
        let sector = u64::from(self.sector_size);
        let failed = |source| TableError::Disk {
            operation: "write",
            source,
        };
        let mut bytes = self.whole.entries.clone();
        bytes.resize(bytes.len().next_multiple_of(self.sector_size as usize), 0);
        let mut header = self.whole.sector.clone();
        put(&mut header, OWN_LBA, &own.to_le_bytes());
        put(&mut header, OTHER_LBA, &other.to_le_bytes());
        put(&mut header, ENTRIES_LBA, &entries.to_le_bytes());
        let sum = gpt::crc32(&self.whole.entries);
        put(&mut header, ENTRIES_CRC, &sum.to_le_bytes());
        put(&mut header, HEADER_CRC, &[0; 4]);
        let size = number_at(&header, 12) as u32 as usize;
        let sum = gpt::crc32(header.get(..size).unwrap_or(&header));
        put(&mut header, HEADER_CRC, &sum.to_le_bytes());
        disk.write(&bytes, entries * sector).map_err(failed)?;
        disk.write(&header, own * sector).map_err(failed)?;
        disk.flush().map_err(failed)
    }

    fn set_number(&mut self, at: usize, value: u64) {
        put(&mut self.whole.sector, at, &value.to_le_bytes());
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    if let Some(found) = bytes.get(at..at + 8) {
        field.copy_from_slice(found);
    }
    u64::from_le_bytes(field)
}

fn name_of(entry: &[u8]) -> String {
    let units = entry
        .get(NAME..NAME + 2 * NAME_UNITS)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from(pair[0]) | u16::from(pair[1]) << 8)
        .take_while(|&unit| unit != 0);
    char::decode_utf16(units)
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}
