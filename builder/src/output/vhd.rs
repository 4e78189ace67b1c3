//! VHD, fixed (what Azure takes) and dynamic.
//!
//! Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006);
//! for Azure, "Prepare a Windows VHD or VHDX to upload": fixed, whole MiB.
//!
//! ```text
//! fixed:   | disk | footer |
//! dynamic: | footer | header | block allocation table | (bitmap, block) ... | footer |
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::blocks::{Job, each_block, unfit};
use super::reading::put;
use crate::base::progress::Quiet;
use crate::base::{MIB, guid};
use crate::disk::{DiskMap, DiskReader};
use crate::store::{Store, fault};

/// Starts a footer.
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// Starts the header of a dynamic disk.
pub(super) const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
/// Bytes of a footer, and of all that is aligned.
pub(super) const FOOTER: u64 = 512;
/// Bytes of the header of a dynamic disk.
pub(super) const HEADER: u64 = 1024;
pub(super) const TYPE_FIXED: u32 = 2;
pub(super) const TYPE_DYNAMIC: u32 = 3;
/// Table entry: the block is not there.
pub(super) const UNUSED: u32 = u32::MAX;
const BLOCK: u64 = 2 * MIB;
/// A bit for each sector of a block, which all are in use.
const BITMAP: u64 = BLOCK / 512 / 8;
/// Hyper-V and Azure attach no larger one.
const MAX_SIZE: u64 = 2040 << 30;

/// Writes the disk to `file`, byte for byte, with a footer.
pub(super) fn write_fixed(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    fits(job)?;
    file.set_len(job.size + FOOTER)?;
    let size = job.size;
    each_block(job, MIB, |index, bytes| {
        let at = index * MIB;
        let length = MIB.min(size - at) as usize;
        file.write_all_at(&bytes[..length], at)
    })?;
    fault::point();
    file.write_all_at(&footer(job, TYPE_FIXED), size)
}

/// Writes the blocks of the disk that hold anything.
pub(super) fn write_dynamic(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    fits(job)?;
    let entries = job.size.div_ceil(BLOCK);
    let table_offset = FOOTER + HEADER;
    let mut table = vec![UNUSED; entries as usize];
    let mut end = table_offset + (entries * 4).next_multiple_of(512);
    each_block(job, BLOCK, |index, bytes| {
        table[index as usize] = (end / 512) as u32;
        file.write_all_at(&[0xff; BITMAP as usize], end)?;
        file.write_all_at(&bytes, end + BITMAP)?;
        end += BITMAP + BLOCK;
        Ok(())
    })?;
    let mut bytes = vec![0xff; (entries * 4).next_multiple_of(512) as usize];
    for (entry, place) in table.iter().zip(bytes.chunks_exact_mut(4)) {
        place.copy_from_slice(&entry.to_be_bytes());
    }
    file.write_all_at(&bytes, table_offset)?;
    file.write_all_at(&header(table_offset, entries as u32), FOOTER)?;
    let footer = footer(job, TYPE_DYNAMIC);
    file.write_all_at(&footer, end)?;
    fault::point();
    file.write_all_at(&footer, 0)
}

/// The footer of a disk's fixed VHD, for who writes the disk itself elsewhere.
///
/// # Errors
/// What the store or the system reports: its id is drawn from the disk's beginning.
pub fn fixed_footer(store: &Store, map: &DiskMap) -> io::Result<[u8; FOOTER as usize]> {
    let source = Box::new(DiskReader::new(store, map));
    let facts = (map.size, map.sector_size);
    let job = Job::new(source, facts, Path::new(""), &Quiet)?;
    Ok(footer(&job, TYPE_FIXED))
}

/// Azure refuses what is no whole MiB, and QEMU would round it.
fn fits(job: &Job<'_>) -> io::Result<()> {
    job.small_sectors("vhd")?;
    job.at_most("vhd", MAX_SIZE)?;
    if !job.size.is_multiple_of(MIB) || job.size == 0 {
        return Err(unfit(format!(
            "a vhd must be whole MiB, and this disk has {} bytes; cast it for a board with disk-multiple = \"1MiB\"",
            job.size
        )));
    }
    Ok(())
}

fn footer(job: &Job<'_>, kind: u32) -> [u8; FOOTER as usize] {
    let mut bytes = [0; FOOTER as usize];
    put(&mut bytes, 0, COOKIE);
    // The reserved bit, which is always set.
    put(&mut bytes, 8, &2u32.to_be_bytes());
    put(&mut bytes, 12, &0x1_0000u32.to_be_bytes());
    let data_offset = if kind == TYPE_FIXED { u64::MAX } else { FOOTER };
    put(&mut bytes, 16, &data_offset.to_be_bytes());
    // No clock: made at the format's epoch. "win " is how Hyper-V signs; of others
    // QEMU takes the geometry for the size, which can only be smaller.
    put(&mut bytes, 28, b"win ");
    put(&mut bytes, 32, &0xa_0000u32.to_be_bytes());
    put(&mut bytes, 36, b"Wi2k");
    put(&mut bytes, 40, &job.size.to_be_bytes());
    put(&mut bytes, 48, &job.size.to_be_bytes());
    put(&mut bytes, 56, &geometry(job.size / 512).to_be_bytes());
    put(&mut bytes, 60, &kind.to_be_bytes());
    put(&mut bytes, 68, guid::derive(&job.seed, "vhd").as_bytes());
    let sum = checksum(&bytes, 64);
    put(&mut bytes, 64, &sum.to_be_bytes());
    bytes
}

fn header(table_offset: u64, entries: u32) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    put(&mut bytes, 0, HEADER_COOKIE);
    put(&mut bytes, 8, &u64::MAX.to_be_bytes());
    put(&mut bytes, 16, &table_offset.to_be_bytes());
    put(&mut bytes, 24, &0x1_0000u32.to_be_bytes());
    put(&mut bytes, 28, &entries.to_be_bytes());
    put(&mut bytes, 32, &(BLOCK as u32).to_be_bytes());
    let sum = checksum(&bytes, 36);
    put(&mut bytes, 36, &sum.to_be_bytes());
    bytes
}

/// The one's complement of the sum of all bytes but the checksum's own at `at`.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let mut sum = 0u32;
    for (index, byte) in bytes.iter().enumerate() {
        if !(at..at + 4).contains(&index) {
            sum = sum.wrapping_add(u32::from(*byte));
        }
    }
    !sum
}

/// Cylinders (16 bits), heads (8), sectors of a track (8): the specification's
/// appendix "CHS Calculation".
fn geometry(sectors: u64) -> u32 {
    let total = sectors.min(65535 * 16 * 255) as u32;
    let (track, heads, times);
    if total >= 65535 * 16 * 63 {
        (track, heads, times) = (255, 16, total / 255);
    } else {
        let mut tracks = total / 17;
        let mut by_17 = (17, tracks.div_ceil(1024).max(4));
        if tracks >= by_17.1 * 1024 || by_17.1 > 16 {
            by_17 = (31, 16);
            tracks = total / 31;
        }
        if tracks >= by_17.1 * 1024 {
            by_17 = (63, 16);
            tracks = total / 63;
        }
        (track, heads) = by_17;
        times = tracks;
    }
    (times / heads) << 16 | heads << 8 | track
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        let parts = |sectors| {
            let value = geometry(sectors);
            (value >> 16, value >> 8 & 0xff, value & 0xff)
        };
        assert_eq!(parts(MIB * 64 / 512), (963, 8, 17));
        assert_eq!(parts(MIB * 200 / 512), (825, 16, 31));
        assert_eq!(parts(MIB * 256 / 512), (520, 16, 63));
        assert_eq!(parts(1 << 21), (2080, 16, 63));
        assert_eq!(parts(1 << 40), (65535, 16, 255));
    }

    #[test]
    fn the_checksum_leaves_itself_out() {
        let mut bytes = [1; 8];
        assert_eq!(checksum(&bytes, 4), !4);
        bytes[5] = 9;
        assert_eq!(checksum(&bytes, 4), !4);
    }
}
