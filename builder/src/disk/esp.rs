//! The EFI system partition: FAT32 with one file in it.
//!
//! Source: Microsoft, "FAT32 File System Specification" (fatgen103), and UEFI
//! Specification 2.10, section 13.3 "File System Format".
//!
//! Written out by hand: the partition holds two folders and one file whose
//! name is always 8.3, so that all of it is one constant-shaped head in front
//! of the file's own bytes, which are never copied here.
//!
//! ```text
//! | boot sector, FSInfo, copies | FAT | FAT | \ | \EFI | \EFI\BOOT | … BOOTX64.EFI | zeros |
//! ```
//!
//! FAT32 is FAT32 by its number of clusters alone, at least 65,525: firmware
//! takes a volume with fewer for FAT16, and then sees no boot entry at all.

use std::io::{self, Read, Seek, SeekFrom};

use super::DiskError;
use crate::base::align_up;

/// Fewest clusters, with the distance of 16 that the specification advises.
const MIN_CLUSTERS: u64 = 65_525 + 16;
/// Most clusters.
const MAX_CLUSTERS: u64 = 0x0fff_fff4;
/// Largest cluster in bytes.
const MAX_CLUSTER_SIZE: u64 = 32 * 1024;
/// Sectors in front of the first FAT, at least.
const RESERVED_SECTORS: u64 = 32;
/// Sector of the copies of boot sector and FSInfo.
const BACKUP_SECTOR: usize = 6;
/// End of a chain.
const END_OF_CHAIN: u32 = 0x0fff_ffff;
/// Clusters of the three folders.
const ROOT: u32 = 2;
const EFI: u32 = 3;
const BOOT: u32 = 4;
/// First cluster that the file may have.
const FIRST_FREE: u64 = 5;
/// 2020-01-01, [`crate::base::EPOCH`], in FAT's form: years since 1980, month, day.
const DATE: u16 = (40 << 9) | (1 << 5) | 1;
/// The file's bytes start at a multiple of this, as pages of a cache do.
const FILE_ALIGNMENT: u64 = 4096;
const ATTR_VOLUME: u8 = 0x08;
const ATTR_FOLDER: u8 = 0x10;
const ATTR_ARCHIVE: u8 = 0x20;

/// What an ESP is made from.
#[derive(Debug, Clone)]
pub struct EspInput<'a> {
    /// Bytes of a sector.
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

/// The volume's figures, in sectors and clusters.
struct Geometry {
    sector: u64,
    cluster: u64,
    total: u64,
    reserved: u64,
    fat: u64,
    clusters: u64,
}

impl Geometry {
    /// The largest clusters that still leave enough of them.
    fn new(sector: u64, size: u64) -> Result<Self, DiskError> {
        let mut cluster = MAX_CLUSTER_SIZE;
        while cluster >= sector {
            let geometry = Self::with(sector, size, cluster);
            if (MIN_CLUSTERS..=MAX_CLUSTERS).contains(&geometry.clusters) {
                return Ok(geometry);
            }
            cluster /= 2;
        }
        let least = align_up(
            (MIN_CLUSTERS + 1) * sector
                + (RESERVED_SECTORS + 8) * sector
                + 2 * align_up((MIN_CLUSTERS + 2) * 4, sector),
            crate::base::MIB,
        );
        Err(DiskError::Fact {
            key: "esp_size",
            value: size,
            rule: format!("FAT32 with sectors of {sector} bytes needs {least} at least"),
        })
    }

    fn with(sector: u64, size: u64, cluster: u64) -> Self {
        let total = (size / sector).min(u64::from(u32::MAX));
        // Enough FAT for all sectors as clusters; a few entries more than needed.
        let fat = (((total * sector / cluster) + 2) * 4).div_ceil(sector);
        let head = align_up(
            (RESERVED_SECTORS + 2 * fat) * sector,
            FILE_ALIGNMENT.max(sector),
        );
        let reserved = head / sector - 2 * fat;
        let clusters = (total * sector).saturating_sub(head) / cluster;
        Self {
            sector,
            cluster,
            total,
            reserved,
            fat,
            clusters,
        }
    }

    const fn data_start(&self) -> u64 {
        (self.reserved + 2 * self.fat) * self.sector
    }

    const fn cluster_offset(&self, cluster: u64) -> u64 {
        self.data_start() + (cluster - 2) * self.cluster
    }
}

/// Lays out an ESP.
///
/// # Errors
/// [`DiskError::Fact`] for a partition too small for FAT32 or a name that is
/// not 8.3, [`DiskError::EspFull`].
pub fn write(input: &EspInput<'_>) -> Result<Esp, DiskError> {
    let geometry = Geometry::new(u64::from(input.sector_size), input.size)?;
    let name = short_name(input.boot_file)?;
    let mut first = FIRST_FREE;
    while !geometry
        .cluster_offset(first)
        .is_multiple_of(FILE_ALIGNMENT)
    {
        first += 1;
    }
    let needed = input.file_size.div_ceil(geometry.cluster).max(1);
    let room = (geometry.clusters + 2 - first) * geometry.cluster;
    if input.file_size > room || input.file_size > u64::from(u32::MAX) {
        return Err(DiskError::EspFull {
            size: input.file_size,
            room: room.min(u64::from(u32::MAX)),
        });
    }
    // All below 2^32: checked by the limits on clusters and file size.
    let chain = first as u32..(first + needed) as u32;
    let used = 3 + needed;

    let mut head = vec![0; geometry.cluster_offset(u64::from(BOOT) + 1) as usize];
    let sector = geometry.sector as usize;
    boot_sector(&mut head[..sector], &geometry, input);
    fs_info(
        &mut head[sector..2 * sector],
        (geometry.clusters - used) as u32,
        chain.end,
    );
    head.copy_within(..2 * sector, BACKUP_SECTOR * sector);

    let fat = geometry.reserved as usize * sector;
    let fat_size = geometry.fat as usize * sector;
    write_fat(&mut head[fat..fat + fat_size], &chain);
    head.copy_within(fat..fat + fat_size, fat + fat_size);

    let file = entry(&name, ATTR_ARCHIVE, chain.start, input.file_size as u32);
    write_folders(&mut head, &geometry, &file);
    Ok(Esp {
        head,
        file_offset: geometry.cluster_offset(first),
    })
}

/// `BOOTX64.EFI` as 11 padded bytes.
fn short_name(name: &str) -> Result<[u8; 11], DiskError> {
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
    let mut bytes = [b' '; 11];
    bytes[..stem.len()].copy_from_slice(stem.as_bytes());
    bytes[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    Ok(bytes)
}

fn boot_sector(sector: &mut [u8], geometry: &Geometry, input: &EspInput<'_>) {
    let mut put = |at: usize, field: &[u8]| sector[at..at + field.len()].copy_from_slice(field);
    put(0, &[0xeb, 0x58, 0x90]);
    put(3, b"SLIPFORM");
    put(11, &(geometry.sector as u16).to_le_bytes());
    put(13, &[(geometry.cluster / geometry.sector) as u8]);
    put(14, &(geometry.reserved as u16).to_le_bytes());
    put(16, &[2]);
    put(21, &[0xf8]);
    put(24, &63u16.to_le_bytes());
    put(26, &255u16.to_le_bytes());
    put(
        28,
        &u32::try_from(input.first_lba).unwrap_or(0).to_le_bytes(),
    );
    put(32, &(geometry.total as u32).to_le_bytes());
    put(36, &(geometry.fat as u32).to_le_bytes());
    put(44, &ROOT.to_le_bytes());
    put(48, &1u16.to_le_bytes());
    put(50, &(BACKUP_SECTOR as u16).to_le_bytes());
    put(64, &[0x80, 0, 0x29]);
    put(67, &input.volume_id.to_le_bytes());
    put(71, b"ESP        FAT32   ");
    // A BIOS that runs this stops: hlt, and back to it.
    put(90, &[0xf4, 0xeb, 0xfd]);
    put(510, &[0x55, 0xaa]);
}

fn fs_info(sector: &mut [u8], free: u32, next: u32) {
    let mut put = |at: usize, field: &[u8]| sector[at..at + field.len()].copy_from_slice(field);
    put(0, b"RRaA");
    put(484, b"rrAa");
    put(488, &free.to_le_bytes());
    put(492, &next.to_le_bytes());
    put(510, &[0x55, 0xaa]);
}

/// Media and clean marks, the three folders, and the file's one contiguous chain.
fn write_fat(fat: &mut [u8], chain: &std::ops::Range<u32>) {
    let mut put = |cluster: u32, value: u32| {
        let at = cluster as usize * 4;
        fat[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(0, 0x0fff_fff8);
    for cluster in [1, ROOT, EFI, BOOT] {
        put(cluster, END_OF_CHAIN);
    }
    for cluster in chain.clone() {
        put(
            cluster,
            if cluster + 1 == chain.end {
                END_OF_CHAIN
            } else {
                cluster + 1
            },
        );
    }
}

/// The three folders, each in a cluster of its own.
fn write_folders(head: &mut [u8], geometry: &Geometry, file: &[u8; 32]) {
    let mut folder = |cluster: u32, entries: &[[u8; 32]]| {
        let at = geometry.cluster_offset(u64::from(cluster)) as usize;
        for (slot, entry) in head[at..].chunks_mut(32).zip(entries) {
            slot.copy_from_slice(entry);
        }
    };
    folder(
        ROOT,
        &[
            entry(b"ESP        ", ATTR_VOLUME, 0, 0),
            entry(b"EFI        ", ATTR_FOLDER, EFI, 0),
        ],
    );
    // The parent of a folder below the root is cluster 0, not the root's own.
    folder(
        EFI,
        &[
            entry(b".          ", ATTR_FOLDER, EFI, 0),
            entry(b"..         ", ATTR_FOLDER, 0, 0),
            entry(b"BOOT       ", ATTR_FOLDER, BOOT, 0),
        ],
    );
    folder(
        BOOT,
        &[
            entry(b".          ", ATTR_FOLDER, BOOT, 0),
            entry(b"..         ", ATTR_FOLDER, EFI, 0),
            *file,
        ],
    );
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u32, size: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, name);
    put(11, &[attributes]);
    put(16, &DATE.to_le_bytes());
    put(18, &DATE.to_le_bytes());
    put(20, &((cluster >> 16) as u16).to_le_bytes());
    put(24, &DATE.to_le_bytes());
    put(26, &(cluster as u16).to_le_bytes());
    put(28, &size.to_le_bytes());
    bytes
}

/// Where the boot file of an ESP lies: bytes from the start of `volume`, and
/// its length. Only a file in one piece is found, as [`write`] lays it out.
///
/// # Errors
/// What the volume reports.
pub fn find_boot_file<R: Read + Seek>(volume: &mut R) -> io::Result<Option<(String, u64, u64)>> {
    let mut boot = [0; 512];
    volume.seek(SeekFrom::Start(0))?;
    if volume.read_exact(&mut boot).is_err() {
        return Ok(None);
    }
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let (sector, per_cluster, reserved, fat) =
        (u16_at(11), u64::from(boot[13]), u16_at(14), u32_at(36));
    let known = boot[510..] == [0x55, 0xaa]
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && per_cluster.is_power_of_two();
    if !known || boot[16] != 2 || u16_at(22) != 0 {
        return Ok(None);
    }
    let data = (reserved + 2 * fat) * sector;
    let cluster = per_cluster * sector;
    let place = |number: u64| data + number.saturating_sub(2) * cluster;
    let mut folder = u32_at(44);
    for name in [b"EFI        ", b"BOOT       "] {
        match find(volume, place(folder), cluster, |entry| {
            entry[11] & ATTR_FOLDER != 0 && entry[..11] == *name
        })? {
            Some(entry) => folder = first_cluster(&entry),
            None => return Ok(None),
        }
    }
    let is_boot = |entry: &[u8; 32]| {
        entry[11] & (ATTR_FOLDER | ATTR_VOLUME) == 0
            && entry.starts_with(b"BOOT")
            && entry[8..11] == *b"EFI"
    };
    let Some(entry) = find(volume, place(folder), cluster, is_boot)? else {
        return Ok(None);
    };
    let start = first_cluster(&entry);
    let size = u64::from(u32::from_le_bytes([
        entry[28], entry[29], entry[30], entry[31],
    ]));
    let contiguous = is_contiguous(volume, reserved * sector, start, size.div_ceil(cluster))?;
    let stem = String::from_utf8_lossy(&entry[..8]).trim_end().to_owned();
    Ok(contiguous.then(|| (format!("{stem}.EFI"), place(start), size)))
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
