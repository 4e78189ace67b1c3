//! The tables of a disk: protective MBR, GUID partition table and its backup (UEFI
//! Specification 2.10, chapter 5).

use super::SweepError;
use super::region::{Guard, Region, Regions};
use super::source::{Source, number};

/// What a checksum covers of a header.
const HEADER: u64 = 92;
/// More entries than any tool makes.
const MAX_ENTRIES: u64 = 1024;
/// An EFI system partition's type, in the order of the disk.
const ESP_TYPE: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// GUID in the order of its text, as hexadecimal digits.
    pub(crate) guid: String,
    /// It is an EFI system partition.
    pub(crate) is_esp: bool,
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
}

/// A table's header.
struct Header {
    alternate: u64,
    entries: u64,
    count: u64,
    size: u64,
}

/// Adds the regions of both tables and of what lies between partitions; returns the
/// partitions by their place.
pub(crate) fn regions(
    disk: &mut Source<'_>,
    out: &mut Regions,
) -> Result<Vec<Partition>, SweepError> {
    mbr(out);
    let sector = disk.sector;
    let primary = header(disk, 1)?;
    let backup = header(disk, primary.alternate)?;
    let table = disk.read(primary.entries * sector, primary.count * primary.size)?;
    let mut partitions = partitions(&table, &primary, disk);
    let used = table
        .chunks_exact(usize::try_from(primary.size).unwrap_or(128))
        .rposition(|entry| entry.iter().take(16).any(|&byte| byte != 0))
        .map_or(0, |last| last as u64 + 1);
    let header_at = sector;
    copy(out, "primary", header_at, &primary, used, sector, false);
    out.add(Region::new(
        "GPT primary header, rest of its sector",
        Guard::Nothing,
        header_at + HEADER,
        sector - HEADER,
    ));
    let backup_at = primary.alternate * sector;
    copy(out, "backup", backup_at, &backup, used, sector, true);
    partitions.sort_by_key(|partition| partition.offset);
    let end = primary.entries * sector + table.len() as u64;
    gaps(out, &partitions, end, backup.entries * sector);
    Ok(partitions)
}

fn mbr(out: &mut Regions) {
    for (name, offset, length) in [
        ("protective MBR, boot code", 0, 440),
        ("protective MBR, disk signature", 440, 6),
        ("protective MBR, record of the disk", 446, 16),
        ("protective MBR, unused records", 462, 48),
        ("protective MBR, signature", 510, 2),
    ] {
        out.add(Region::new(name, Guard::Nothing, offset, length));
    }
}

fn copy(
    out: &mut Regions,
    which: &str,
    header_at: u64,
    header: &Header,
    used: u64,
    sector: u64,
    reserve: bool,
) {
    let guard = Guard::Copy { reserve };
    let (entries, used) = (header.entries * sector, used * header.size);
    let rest = (header.count * header.size).saturating_sub(used);
    for (part, offset, length) in [
        ("header, of its checksum", header_at, HEADER),
        ("table", entries, used),
        ("table, unused entries", entries + used, rest),
    ] {
        out.add(Region::new(
            &format!("GPT {which} {part}"),
            guard,
            offset,
            length,
        ));
    }
}

fn header(disk: &mut Source<'_>, lba: u64) -> Result<Header, SweepError> {
    let at = lba.saturating_mul(disk.sector);
    let bytes = disk.read(at, HEADER)?;
    let header = Header {
        alternate: number::<8>(&bytes, 32),
        entries: number::<8>(&bytes, 72),
        count: number::<4>(&bytes, 80),
        size: number::<4>(&bytes, 84),
    };
    let last = disk.size / disk.sector;
    let sane = bytes.starts_with(b"EFI PART")
        && header.alternate < last
        && header.entries < last
        && (1..=MAX_ENTRIES).contains(&header.count)
        && (128..=1024).contains(&header.size);
    if sane {
        Ok(header)
    } else {
        Err(SweepError::structure(
            format!("the sector at byte {at}"),
            "must be a GPT header",
        ))
    }
}

/// Those that lie on the disk.
fn partitions(table: &[u8], header: &Header, disk: &Source<'_>) -> Vec<Partition> {
    const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    table
        .chunks_exact(usize::try_from(header.size).unwrap_or(128))
        .filter(|entry| entry.iter().take(16).any(|&byte| byte != 0))
        .filter_map(|entry| {
            let (first, last) = (number::<8>(entry, 32), number::<8>(entry, 40));
            let length = last.checked_sub(first)?.checked_add(1)?;
            let (offset, length) = (
                first.checked_mul(disk.sector)?,
                length.checked_mul(disk.sector)?,
            );
            offset.checked_add(length).filter(|end| *end <= disk.size)?;
            Some(Partition {
                guid: TEXT_ORDER
                    .iter()
                    .map(|&at| format!("{:02x}", entry[16 + at]))
                    .collect(),
                is_esp: entry[..16] == ESP_TYPE,
                offset,
                length,
            })
        })
        .collect()
}

/// What belongs to no partition and no table.
fn gaps(out: &mut Regions, partitions: &[Partition], start: u64, end: u64) {
    let mut at = start;
    let ends = partitions
        .iter()
        .map(|partition| (partition.offset, partition.offset + partition.length));
    for (n, (from, to)) in ends.chain([(end, end)]).enumerate() {
        if from > at {
            let name = match n {
                0 => "padding before the first partition".to_owned(),
                n if n == partitions.len() => "padding behind the last partition".to_owned(),
                n => format!("padding between partitions {n} and {}", n + 1),
            };
            out.add(Region::new(&name, Guard::Nothing, at, from - at));
        }
        at = at.max(to);
    }
}
