//! The EFI system partition: FAT32 with one file in it.
//!
//! Source: Microsoft, "FAT32 File System Specification" (fatgen103), and UEFI
//! Specification 2.10, section 13.3 "File System Format".
//!
//! Written by the crate `fatfs`, on a device that exists only in memory and
//! keeps nothing but what is not zero: the file is written there as zeros, in
//! one piece, and its own bytes come from its blob when the disk is read.
//!
//! ```text
//! | boot sector, FSInfo, copies | FAT | FAT | \ | … | \EFI | \EFI\BOOT | BOOTX64.EFI | zeros |
//! ```
//!
//! FAT32 is FAT32 by its number of clusters alone, at least 65,525: firmware
//! takes a volume with fewer for FAT16, and then sees no boot entry at all.
//!
//! [`find_boot_file`] reads by hand, because the disk may be anyone's: the
//! crate (0.3.6) computes with a volume's figures unchecked, follows chains
//! without an end, and does not tell where a file lies.

use std::io::{self, Read, Seek, SeekFrom};

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use super::DiskError;
use super::sparse::Sparse;
use crate::base::align_up;

/// Fewest clusters, with the distance of 16 that the specification advises.
const MIN_CLUSTERS: u64 = 65_525 + 16;
/// Most clusters.
const MAX_CLUSTERS: u64 = 0x0fff_fff4;
/// Largest cluster in bytes.
const MAX_CLUSTER_SIZE: u32 = 32 * 1024;
/// Sectors in front of the first FAT, as `fatfs` lays them out.
const RESERVED_SECTORS: u64 = 8;
/// Sector of FSInfo.
const INFO_SECTOR: u64 = 1;
/// Sector of the copy of the boot sector; FSInfo's copy is the next.
const BACKUP_SECTOR: u64 = 6;
/// First cluster that the file may have: behind the three folders, each of one.
const FIRST_FREE: u64 = 5;
/// The file's bytes start at a multiple of this, as pages of a cache do.
const FILE_ALIGNMENT: u64 = 4096;
const LABEL: [u8; 11] = *b"ESP        ";
const ATTR_VOLUME: u8 = 0x08;
const ATTR_FOLDER: u8 = 0x10;

/// What an ESP is made from.
#[derive(Debug, Clone)]
pub struct EspInput<'a> {
    /// Bytes of a sector: 512 or 4096.
    pub sector_size: u32,
    /// Bytes of the partition.
    pub size: u64,
    /// First sector of the partition on its disk.
    pub first_lba: u64,
    /// Volume id.
    pub volume_id: u32,
    /// File in `\EFI\BOOT`, an 8.3 name in capitals: `BOOTX64.EFI`.
    pub boot_file: &'a str,
    /// Bytes of the file.
    pub file_size: u64,
}

/// An ESP without its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// The partition's first bytes.
    pub head: Vec<u8>,
    /// Where the file's bytes start, from the partition's start, behind the head.
    pub file_offset: u64,
}

/// Every date on the volume: 2020-01-01, [`crate::base::EPOCH`].
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date {
            year: 2020,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// Lays out an ESP.
///
/// # Errors
/// [`DiskError::Fact`] for another sector size, a partition too small for FAT32
/// or a name that is not 8.3, [`DiskError::EspFull`], [`DiskError::Esp`].
pub fn write(input: &EspInput<'_>) -> Result<Esp, DiskError> {
    check_name(input.boot_file)?;
    let wrong = |source| DiskError::Esp {
        size: input.size,
        source,
    };
    let (mut device, volume) = format(input)?;
    let mut first = FIRST_FREE;
    while !volume.place(first).is_multiple_of(FILE_ALIGNMENT) {
        first += 1;
    }
    let room = (volume.clusters() + 2 - first) * volume.cluster;
    if input.file_size > room.min(u64::from(u32::MAX)) {
        return Err(DiskError::EspFull {
            size: input.file_size,
            room: room.min(u64::from(u32::MAX)),
        });
    }
    fill(&mut device, &volume, first, input).map_err(wrong)?;
    mend(&mut device, &volume, first, input).map_err(wrong)?;
    let file_offset = volume.place(first);
    // Read back: what the disk map says rests on it.
    let found = find_file(&mut device, |_| true).map_err(wrong)?;
    let lies_there =
        found.is_some_and(|file| (file.offset, file.size) == (file_offset, input.file_size));
    if input.file_size > 0 && !lies_there || device.data_end() > file_offset {
        let text = "the file does not lie where it was put";
        return Err(wrong(io::Error::other(text)));
    }
    Ok(Esp {
        head: device.read_range(0..file_offset).map_err(wrong)?,
        file_offset,
    })
}

/// An empty volume with the largest clusters that still leave enough of them,
/// and with a place where the file can be aligned.
fn format(input: &EspInput<'_>) -> Result<(Sparse, Volume), DiskError> {
    if !matches!(input.sector_size, 512 | 4096) {
        return Err(DiskError::Fact {
            key: "sector_size",
            value: u64::from(input.sector_size),
            rule: "it must be 512 or 4096".to_owned(),
        });
    }
    let sector = u64::from(input.sector_size);
    let mut cluster = MAX_CLUSTER_SIZE;
    while cluster >= input.sector_size {
        if input.size / u64::from(cluster) > MIN_CLUSTERS
            && let Some(formatted) = format_with(input, cluster)
        {
            return Ok(formatted);
        }
        cluster /= 2;
    }
    let (_, shrinks) = shrinking(sector, sector);
    let least = align_up(
        (MIN_CLUSTERS + RESERVED_SECTORS + shrinks) * sector
            + 2 * align_up((MIN_CLUSTERS + 2 + shrinks) * 4, sector),
        crate::base::MIB,
    );
    Err(DiskError::Fact {
        key: "esp_size",
        value: input.size,
        rule: format!("FAT32 with sectors of {sector} bytes needs {least} at least"),
    })
}

/// How many sectors fewer a volume must have to have a FAT shorter by one
/// sector, and how many it loses at most until its clusters are aligned.
const fn shrinking(sector: u64, cluster: u64) -> (u64, u64) {
    let step = cluster / 4 + 2;
    // Two FATs: their length counts twice.
    (
        step,
        step * (FILE_ALIGNMENT / (2 * sector)).saturating_sub(1),
    )
}

/// Formats with clusters of `cluster` bytes. `None` when these are too few.
///
/// Where the clusters start cannot be told to `fatfs`: the volume is made a
/// little smaller until they start at a multiple of [`FILE_ALIGNMENT`].
fn format_with(input: &EspInput<'_>, cluster: u32) -> Option<(Sparse, Volume)> {
    let sector = u64::from(input.sector_size);
    let (step, most) = shrinking(sector, u64::from(cluster));
    let sectors = (input.size / sector).min(u64::from(u32::MAX));
    let mut lost = 0;
    while lost <= most {
        let mut device = Sparse::new(input.size);
        let options = FormatVolumeOptions::new()
            .bytes_per_sector(u16::try_from(input.sector_size).ok()?)
            .bytes_per_cluster(cluster)
            .total_sectors(u32::try_from(sectors - lost).ok()?)
            .volume_id(input.volume_id)
            .volume_label(LABEL);
        // In memory it fails for one reason: between FAT16 and FAT32 there are
        // sizes that are neither.
        fatfs::format_volume(&mut device, options).ok()?;
        let volume = Volume::read(&mut device).ok()??;
        if volume.clusters() < MIN_CLUSTERS {
            return None;
        }
        if volume.data.is_multiple_of(FILE_ALIGNMENT) {
            return Some((device, volume));
        }
        lost += step;
    }
    None
}

/// Makes the folders and the file. The file lies in one piece: what is free
/// behind the folders is given out in order.
fn fill(device: &mut Sparse, volume: &Volume, first: u64, input: &EspInput<'_>) -> io::Result<()> {
    // FSInfo says where to look for free clusters. The two folders come there
    // first, and then the file.
    let next_free = INFO_SECTOR * volume.sector + 492;
    device.put(next_free, &folder_cluster(first).to_le_bytes())?;
    device.rewind()?;
    let options = FsOptions::new()
        .time_provider(&Epoch)
        .update_accessed_date(false);
    let files = FileSystem::new(device, options)?;
    let folder = files.root_dir().create_dir("EFI")?.create_dir("BOOT")?;
    let mut file = folder.create_file(input.boot_file)?;
    io::copy(&mut io::repeat(0).take(input.file_size), &mut file)?;
    io::Write::flush(&mut file)?;
    drop(file);
    // Counts what is free, which formatting leaves open, for FSInfo.
    files.stats()?;
    drop(folder);
    files.unmount()
}

/// Cluster of `\EFI`, when the file's first is `first`. Below 2^28 as all are.
const fn folder_cluster(first: u64) -> u32 {
    (first - 2) as u32
}

/// What `fatfs` 0.3.6 does not write as the specification wants it.
fn mend(device: &mut Sparse, volume: &Volume, first: u64, input: &EspInput<'_>) -> io::Result<()> {
    // The parent of a folder below the root is cluster 0, not the root's own.
    let parent = volume.place(u64::from(folder_cluster(first))) + 32;
    device.put(parent + 20, &[0; 2])?;
    device.put(parent + 26, &[0; 2])?;
    // A volume in a partition tells how many sectors lie before it.
    let hidden = u32::try_from(input.first_lba).unwrap_or(0).to_le_bytes();
    for sector in [0, BACKUP_SECTOR] {
        device.put(sector * volume.sector + 28, &hidden)?;
    }
    // FSInfo has a copy behind the boot sector's.
    let info = INFO_SECTOR * volume.sector;
    let info = device.read_range(info..info + volume.sector)?;
    device.put((BACKUP_SECTOR + INFO_SECTOR) * volume.sector, &info)
}

/// `fatfs` would squeeze any other name into 8.3.
fn check_name(name: &str) -> Result<(), DiskError> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let plain = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    if stem.is_empty() || stem.len() > 8 || extension.len() > 3 || !plain(stem) || !plain(extension)
    {
        return Err(DiskError::Fact {
            key: "boot_file",
            value: name.len() as u64,
            rule: format!("'{name}' must be an 8.3 name in capitals, such as BOOTX64.EFI"),
        });
    }
    Ok(())
}

/// A FAT32 volume's figures, as its boot sector gives them.
struct Volume {
    /// Bytes of a sector.
    sector: u64,
    /// Bytes of a cluster.
    cluster: u64,
    /// Bytes of the volume.
    size: u64,
    /// First byte of the first FAT.
    fat: u64,
    /// First byte of cluster 2, the first.
    data: u64,
    /// First cluster of the root folder.
    root: u64,
}

impl Volume {
    /// Reads a boot sector. `None` when it is not FAT32's with two FATs.
    fn read<R: Read + Seek>(volume: &mut R) -> io::Result<Option<Self>> {
        let mut boot = [0; 512];
        volume.seek(SeekFrom::Start(0))?;
        if volume.read_exact(&mut boot).is_err() {
            return Ok(None);
        }
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
        let (sector, per_cluster) = (u16_at(11), u64::from(boot[13]));
        let known = boot[510..] == [0x55, 0xaa]
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two();
        if !known || boot[16] != 2 || u16_at(22) != 0 {
            return Ok(None);
        }
        let fat = u16_at(14) * sector;
        Ok(Some(Self {
            sector,
            cluster: per_cluster * sector,
            size: u32_at(32) * sector,
            fat,
            data: fat + 2 * u32_at(36) * sector,
            root: u32_at(44),
        }))
    }

    const fn clusters(&self) -> u64 {
        self.size.saturating_sub(self.data) / self.cluster
    }

    /// First byte of a cluster.
    const fn place(&self, cluster: u64) -> u64 {
        self.data + cluster.saturating_sub(2) * self.cluster
    }
}

/// Where the boot file of an ESP lies: bytes from the start of `volume`, and
/// its length. Only a file in one piece is found, as [`write()`] lays it out.
///
/// # Errors
/// What the volume reports.
pub fn find_boot_file<R: Read + Seek>(volume: &mut R) -> io::Result<Option<(String, u64, u64)>> {
    let is_boot = |entry: &[u8; 32]| entry.starts_with(b"BOOT") && entry[8..11] == *b"EFI";
    let found = find_file(volume, is_boot)?;
    Ok(found.map(|file| {
        let stem = String::from_utf8_lossy(&file.entry[..8]);
        (format!("{}.EFI", stem.trim_end()), file.offset, file.size)
    }))
}

/// A file in one piece.
struct Found {
    entry: [u8; 32],
    offset: u64,
    size: u64,
}

/// The first file in `\EFI\BOOT` that `wanted` takes, if it is in one piece.
fn find_file<R: Read + Seek>(
    volume: &mut R,
    wanted: impl Fn(&[u8; 32]) -> bool,
) -> io::Result<Option<Found>> {
    let Some(figures) = Volume::read(volume)? else {
        return Ok(None);
    };
    let cluster = figures.cluster;
    let mut folder = figures.root;
    for name in [b"EFI        ", b"BOOT       "] {
        match find(volume, figures.place(folder), cluster, |entry| {
            entry[11] & ATTR_FOLDER != 0 && entry[..11] == *name
        })? {
            Some(entry) => folder = first_cluster(&entry),
            None => return Ok(None),
        }
    }
    let Some(entry) = find(volume, figures.place(folder), cluster, |entry| {
        entry[11] & (ATTR_FOLDER | ATTR_VOLUME) == 0 && wanted(entry)
    })?
    else {
        return Ok(None);
    };
    let start = first_cluster(&entry);
    let size = u64::from(u32::from_le_bytes([
        entry[28], entry[29], entry[30], entry[31],
    ]));
    let contiguous = is_contiguous(volume, figures.fat, start, size.div_ceil(cluster))?;
    Ok(contiguous.then(|| Found {
        entry,
        offset: figures.place(start),
        size,
    }))
}

fn first_cluster(entry: &[u8; 32]) -> u64 {
    let half = |at: usize| u64::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
    half(26) | half(20) << 16
}

/// The first entry of a folder's first cluster that `wanted` takes.
fn find<R: Read + Seek>(
    volume: &mut R,
    at: u64,
    cluster: u64,
    wanted: impl Fn(&[u8; 32]) -> bool,
) -> io::Result<Option<[u8; 32]>> {
    let mut bytes = Vec::new();
    volume.seek(SeekFrom::Start(at))?;
    volume.take(cluster).read_to_end(&mut bytes)?;
    let entries = bytes
        .chunks_exact(32)
        .filter_map(|chunk| <[u8; 32]>::try_from(chunk).ok());
    Ok(entries
        .take_while(|entry| entry[0] != 0)
        .find(|entry| wanted(entry)))
}

/// Whether a chain's clusters follow one another. Reads each FAT entry of the
/// chain once: at most 2^28, as many as a FAT has.
fn is_contiguous<R: Read + Seek>(
    volume: &mut R,
    fat: u64,
    start: u64,
    count: u64,
) -> io::Result<bool> {
    if start < 2 || start + count > MAX_CLUSTERS + 2 {
        return Ok(false);
    }
    volume.seek(SeekFrom::Start(fat + start * 4))?;
    let mut reader = io::BufReader::with_capacity(64 * 1024, volume.take(count * 4));
    let mut bytes = [0; 4];
    for cluster in start..start + count {
        if reader.read_exact(&mut bytes).is_err() {
            return Ok(false);
        }
        let next = u64::from(u32::from_le_bytes(bytes) & 0x0fff_ffff);
        let last = cluster + 1 == start + count;
        if (last && next < 0x0fff_fff8) || (!last && next != cluster + 1) {
            return Ok(false);
        }
    }
    Ok(true)
}
