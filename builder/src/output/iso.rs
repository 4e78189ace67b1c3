//! The disk as a hybrid ISO 9660 image: a CD that starts by UEFI, and, written to a
//! USB stick, the very disk.
//!
//! Source: ECMA-119 (ISO 9660), chapters 6 to 9; "El Torito" Bootable CD-ROM Format
//! Specification 1.0; UEFI Specification 2.10, section 13.3.2.1 "ISO-9660 and El Torito".
//!
//! ISO 9660 leaves its first 32 KiB to the system, and the partition table ends before
//! that; a disk's first partition begins at 1 MiB. So everything lies between the two,
//! and no byte of the disk moves:
//!
//! ```text
//! 0     17 KiB   32 KiB                                                    1 MiB
//! | GPT | zeros  | volume, boot record, end, paths, root folder, catalog | zeros | ESP | layers ...
//! ```
//!
//! The boot catalog and a file in the root folder both point at the ESP's own bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::blocks::{Job, is_zero, unfit};
use super::raw;
use super::reading::{BlockReader, Blocks, MAX_SIZE, fill_at, put, read_at, require};
use crate::disk::gpt;

/// Bytes of a sector of a CD.
const SECTOR: u64 = 2048;
/// Sectors, in their order; the first three are where the standards want them.
const VOLUME: u32 = 16;
const BOOT_RECORD: u32 = 17;
const END: u32 = 18;
const PATHS: u32 = 19;
const PATHS_BIG_ENDIAN: u32 = 20;
const ROOT: u32 = 21;
const CATALOG: u32 = 22;
/// First sector behind them.
const BEHIND: u32 = 23;
/// Where they lie on the disk, in bytes.
const PLACE: Range<u64> = VOLUME as u64 * SECTOR..BEHIND as u64 * SECTOR;
/// A file has one extent here, whose length is a 32-bit field.
const MAX_FILE: u64 = u32::MAX as u64;
/// Standard identifier and version of every descriptor.
const STANDARD: &[u8] = b"CD001\x01";
/// Names system, volume and application; by the last, such a file is known.
const NAME: &[u8] = b"SLIPFORM";
/// Where the application's identifier lies in the volume descriptor.
const APPLICATION: usize = 574;
/// Bytes of a record of a folder before its name.
const RECORD: usize = 33;
/// File flag: a folder.
const FOLDER: u8 = 2;

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let esp = room(job)?;
    let sectors = u32::try_from(job.size / SECTOR).unwrap_or(u32::MAX);
    raw::copy(job, file)?;
    file.write_all_at(&structures(sectors, &esp), PLACE.start)
}

/// Where the ESP lies, on a disk with room for an ISO's structures.
fn room(job: &mut Job<'_>) -> io::Result<Range<u64>> {
    job.small_sectors("iso")?;
    job.at_most("iso", u64::from(u32::MAX) * SECTOR)?;
    if !job.size.is_multiple_of(SECTOR) {
        return Err(unfit(format!(
            "iso takes whole sectors of {SECTOR} bytes only, and this disk has {} bytes; cast it for a board with disk-multiple = \"1MiB\"",
            job.size
        )));
    }
    let table = gpt::read(&mut job.disk)?;
    let partitions = table.map(|table| table.partitions).unwrap_or_default();
    let places = partitions.iter().map(|partition| {
        let end = partition.last_lba.saturating_add(1).saturating_mul(512);
        (partition.type_guid, partition.first_lba * 512..end)
    });
    let places: Vec<_> = places.collect();
    let esp = places.iter().find(|(kind, _)| *kind == gpt::ESP_TYPE);
    let Some((_, esp)) = esp else {
        return Err(unfit(
            "iso starts from an EFI system partition, and this disk has none; build it with slipform"
                .to_owned(),
        ));
    };
    if !esp.start.is_multiple_of(SECTOR) || esp.end - esp.start > MAX_FILE {
        return Err(unfit(format!(
            "iso takes an EFI system partition that begins at a multiple of {SECTOR} and is below 4 GiB, and this disk has one of {} bytes at {}; cast it for a board with a smaller esp-size",
            esp.end - esp.start,
            esp.start
        )));
    }
    let gap = read_at(&mut job.disk, PLACE.start, PLACE.end - PLACE.start)?;
    if !is_zero(&gap) || places.iter().any(|(_, place)| place.start < PLACE.end) {
        return Err(unfit(format!(
            "iso puts its volume at bytes {} to {}, and this disk has something there; build it with slipform",
            PLACE.start, PLACE.end
        )));
    }
    Ok(esp.clone())
}

/// All that lies in [`PLACE`], for a volume of so many sectors.
fn structures(sectors: u32, esp: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (PLACE.end - PLACE.start) as usize];
    let mut sector = |number: u32, content: &[u8]| {
        put(
            &mut bytes,
            (number - VOLUME) as usize * SECTOR as usize,
            content,
        );
    };
    sector(VOLUME, &volume(sectors));
    sector(BOOT_RECORD, &boot_record());
    sector(END, &[&[255][..], STANDARD].concat());
    // One folder: its name is a zero byte, its parent itself.
    let path = |root: [u8; 4], parent: [u8; 2]| [&[1, 0][..], &root, &parent, &[0, 0]].concat();
    sector(PATHS, &path(ROOT.to_le_bytes(), 1u16.to_le_bytes()));
    sector(
        PATHS_BIG_ENDIAN,
        &path(ROOT.to_be_bytes(), 1u16.to_be_bytes()),
    );
    let first = (esp.start / SECTOR) as u32;
    let length = (esp.end - esp.start) as u32;
    let folder = [
        root(&[0]),
        root(&[1]),
        record(b"BOOT.CAT;1", CATALOG, SECTOR as u32, 0),
        record(b"EFI.IMG;1", first, length, 0),
    ];
    sector(ROOT, &folder.concat());
    sector(CATALOG, &catalog(first, length));
    bytes
}

/// The primary volume descriptor. It has no dates: zeros say that none is known.
fn volume(sectors: u32) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR as usize];
    // Names are filled with spaces.
    bytes[8..72].fill(b' ');
    bytes[190..813].fill(b' ');
    // Four dates, each of 16 digits and a zone.
    for date in [813, 830, 847, 864] {
        bytes[date..date + 16].fill(b'0');
    }
    put(&mut bytes, 0, &[1]);
    put(&mut bytes, 1, STANDARD);
    for at in [8, 40, APPLICATION] {
        put(&mut bytes, at, NAME);
    }
    put(&mut bytes, 80, &both32(sectors));
    // One volume, the first of one; the length of a block; the length of the paths.
    put(&mut bytes, 120, &both16(1));
    put(&mut bytes, 124, &both16(1));
    put(&mut bytes, 128, &both16(SECTOR as u16));
    put(&mut bytes, 132, &both32(10));
    put(&mut bytes, 140, &PATHS.to_le_bytes());
    put(&mut bytes, 148, &PATHS_BIG_ENDIAN.to_be_bytes());
    put(&mut bytes, 156, &root(&[0]));
    put(&mut bytes, 881, &[1]);
    bytes
}

/// The descriptor that says where the boot catalog lies.
fn boot_record() -> Vec<u8> {
    let mut bytes = vec![0; 75];
    put(&mut bytes, 1, STANDARD);
    put(&mut bytes, 7, b"EL TORITO SPECIFICATION");
    put(&mut bytes, 71, &CATALOG.to_le_bytes());
    bytes
}

/// The boot catalog: one entry, for UEFI, of which nothing is emulated.
fn catalog(first: u32, length: u32) -> Vec<u8> {
    const UEFI: u8 = 0xef;
    const BOOTABLE: u8 = 0x88;
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, &[1, UEFI]);
    put(&mut bytes, 4, NAME);
    put(&mut bytes, 30, &[0x55, 0xaa]);
    // All words together are zero.
    let words = bytes[..32].chunks_exact(2);
    let sum = words.fold(0u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes([word[0], word[1]]))
    });
    put(&mut bytes, 28, &sum.wrapping_neg().to_le_bytes());
    put(&mut bytes, 32, &[BOOTABLE]);
    // In sectors of 512 bytes; zero says: up to the end of the volume. The file system
    // knows its own length.
    let count = u16::try_from(length / 512).unwrap_or(0);
    put(&mut bytes, 38, &count.to_le_bytes());
    put(&mut bytes, 40, &first.to_le_bytes());
    bytes
}

/// The root folder's record: its own name is 0, that of its parent 1.
fn root(name: &[u8]) -> Vec<u8> {
    record(name, ROOT, SECTOR as u32, FOLDER)
}

/// A record of a folder.
fn record(name: &[u8], first: u32, length: u32, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; (RECORD + name.len()).next_multiple_of(2)];
    let total = bytes.len() as u8;
    put(&mut bytes, 0, &[total]);
    put(&mut bytes, 2, &both32(first));
    put(&mut bytes, 10, &both32(length));
    put(&mut bytes, 25, &[flags]);
    put(&mut bytes, 28, &both16(1));
    put(&mut bytes, 32, &[name.len() as u8]);
    put(&mut bytes, RECORD, name);
    bytes
}

/// A number in both orders of bytes.
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    put(&mut bytes, 0, &number.to_le_bytes());
    put(&mut bytes, 4, &number.to_be_bytes());
    bytes
}

fn both16(number: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    put(&mut bytes, 0, &number.to_le_bytes());
    put(&mut bytes, 2, &number.to_be_bytes());
    bytes
}

/// Whether the file is one of ours: on anybody else's, nothing is certain to be free.
pub(super) fn is_ours<R: Read + Seek>(file: &mut R) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? < PLACE.end {
        return Ok(false);
    }
    let volume = read_at(file, PLACE.start, SECTOR)?;
    Ok(volume[0] == 1
        && volume[1..].starts_with(STANDARD)
        && volume[APPLICATION..].starts_with(NAME))
}

/// The disk in an ISO image.
#[derive(Debug)]
pub struct Hybrid<R> {
    file: R,
    size: u64,
}

/// The disk in an ISO image, as a file of its full size.
pub type IsoReader<R> = BlockReader<Hybrid<R>>;

impl<R: Read + Seek> IsoReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        let whole = size.is_multiple_of(SECTOR) && (PLACE.end..MAX_SIZE).contains(&size);
        require(whole, "the length", size, "whole sectors of 2048 bytes")?;
        Ok(Self::new(Hybrid { file, size }))
    }
}

impl<R: Read + Seek> Blocks for Hybrid<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.size.max(1)
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        fill_at(&mut self.file, at, buffer)?;
        // The disk has zeros where the ISO's structures are.
        let end = at + buffer.len() as u64;
        let (from, to) = (PLACE.start.max(at), PLACE.end.min(end));
        if from < to {
            buffer[(from - at) as usize..(to - at) as usize].fill(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_catalogs_are_those_of_the_standards() {
        let file = record(b"EFI.IMG;1", 512, 0x0400_0000, 0);
        assert_eq!(file.len(), 42);
        assert_eq!(file[0], 42);
        assert_eq!(file[2..10], [0, 2, 0, 0, 0, 0, 2, 0]);
        assert_eq!(file[10..18], [0, 0, 0, 4, 4, 0, 0, 0]);
        assert_eq!(root(&[0]).len(), 34);
        let large = catalog(512, 64 << 20);
        let sum = large[..32].chunks(2).fold(0u16, |sum, w| {
            sum.wrapping_add(u16::from_le_bytes([w[0], w[1]]))
        });
        assert_eq!(sum, 0);
        assert_eq!(
            large[38..44],
            [0, 0, 0, 2, 0, 0],
            "more than 65,535 sectors"
        );
        assert_eq!(catalog(512, 1 << 20)[38..40], [0, 8]);
    }

    #[test]
    fn only_our_own_volumes_are_read_as_disks() {
        let mut file = vec![0; 64 * 1024];
        put(&mut file, PLACE.start as usize, &structures(32, &(0..2048)));
        assert!(is_ours(&mut io::Cursor::new(&file)).unwrap());
        let mut back = IsoReader::open(io::Cursor::new(&file)).unwrap();
        let mut disk = Vec::new();
        back.read_to_end(&mut disk).unwrap();
        assert!(disk.len() == file.len() && is_zero(&disk));
        file[PLACE.start as usize + APPLICATION] = b'X';
        assert!(!is_ours(&mut io::Cursor::new(&file)).unwrap());
        assert!(!is_ours(&mut io::Cursor::new(&file[..1000])).unwrap());
        let error = IsoReader::open(io::Cursor::new(&file[..3000])).unwrap_err();
        assert!(error.to_string().contains("whole sectors"), "{error}");
    }
}
