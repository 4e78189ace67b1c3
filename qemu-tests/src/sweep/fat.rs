//! The EFI system partition: FAT32 (Microsoft's FAT specification 1.03) with one
//! file in `\EFI\BOOT`, in one piece, as a cast disk has it.

use super::SweepError;
use super::gpt::Partition;
use super::region::{Guard, Region, Regions};
use super::source::{Source, number};

/// Where the boot file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootFile {
    /// First byte on the disk.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
}

struct Volume {
    at: u64,
    sector: u64,
    cluster: u64,
    fat: u64,
    fat_size: u64,
    data: u64,
    root: u64,
    info: u64,
    backup: u64,
    end: u64,
}

impl Volume {
    fn read(disk: &mut Source<'_>, partition: &Partition) -> Result<Self, SweepError> {
        let at = partition.offset;
        let boot = disk.read(at, 512)?;
        let sector = number::<2>(&boot, 11);
        let fat = at + number::<2>(&boot, 14) * sector;
        let fat_size = number::<4>(&boot, 36) * sector;
        let volume = Self {
            at,
            sector,
            cluster: number::<1>(&boot, 13) * sector,
            fat,
            fat_size,
            data: fat + 2 * fat_size,
            root: number::<4>(&boot, 44),
            info: at + number::<2>(&boot, 48) * sector,
            backup: at + number::<2>(&boot, 50) * sector,
            end: at + partition.length,
        };
        let sane = boot[510..] == [0x55, 0xaa]
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && volume.cluster.is_power_of_two()
            && number::<1>(&boot, 16) == 2
            && fat_size > 0
            && volume.data < volume.end;
        if sane {
            Ok(volume)
        } else {
            Err(SweepError::structure(
                "the EFI system partition",
                "must be FAT32 with two tables",
            ))
        }
    }

    fn place(&self, cluster: u64) -> u64 {
        self.data + cluster.saturating_sub(2) * self.cluster
    }
}

/// Adds the regions of the file system; returns where the boot file lies.
pub(crate) fn regions(
    disk: &mut Source<'_>,
    partition: &Partition,
    out: &mut Regions,
) -> Result<BootFile, SweepError> {
    let volume = Volume::read(disk, partition)?;
    let root = volume.place(volume.root);
    let (efi, root_used) = entry(disk, &volume, root, b"EFI        ")?;
    let efi_at = volume.place(first_cluster(&efi));
    let (boot, efi_used) = entry(disk, &volume, efi_at, b"BOOT       ")?;
    let boot_at = volume.place(first_cluster(&boot));
    let (file, boot_used) = entry(disk, &volume, boot_at, b"BOOT")?;
    let start = first_cluster(&file);
    let length = number::<4>(&file, 28);
    let offset = volume.place(start);
    if start < 2 || length == 0 || offset.saturating_add(length) > volume.end {
        return Err(SweepError::structure(
            "the boot file",
            "must lie on its partition",
        ));
    }
    let behind = start + length.div_ceil(volume.cluster);
    let chain = 4 * behind;
    let mut add = |name: &str, offset: u64, length: u64| {
        let name = format!("ESP {name}");
        out.add(Region::new(&name, Guard::Signature, offset, length));
    };
    add("boot sector", volume.at, 512);
    add("FSInfo", volume.info, 512);
    add("backup boot sector", volume.backup, 512);
    add("FAT copy 1", volume.fat, chain.min(volume.fat_size));
    let copy = volume.fat + volume.fat_size;
    add("FAT copy 2", copy, chain.min(volume.fat_size));
    let free = volume.fat_size.saturating_sub(chain);
    add("FAT copy 1, free entries", volume.fat + chain, free);
    add("root folder", root, root_used);
    add("folder EFI", efi_at, efi_used);
    add("folder BOOT", boot_at, boot_used);
    let free = volume.place(behind);
    let left = volume.end.saturating_sub(free) / volume.sector * volume.sector;
    add("free clusters", free, left);
    Ok(BootFile { offset, length })
}

fn first_cluster(entry: &[u8]) -> u64 {
    number::<2>(entry, 26) | number::<2>(entry, 20) << 16
}

/// The entry whose name starts so, and how many bytes of the folder are used.
fn entry(
    disk: &mut Source<'_>,
    volume: &Volume,
    folder: u64,
    name: &[u8],
) -> Result<(Vec<u8>, u64), SweepError> {
    let bytes = disk.read(folder, volume.cluster)?;
    let used: Vec<&[u8]> = bytes
        .chunks_exact(32)
        .take_while(|entry| entry[0] != 0)
        .collect();
    // Attribute 8: the volume's label, and parts of long names.
    let found = used
        .iter()
        .find(|entry| entry.starts_with(name) && entry[11] & 8 == 0);
    let found = found.ok_or_else(|| {
        SweepError::structure(
            format!("a folder of the ESP at byte {folder}"),
            format!(
                "must have an entry {}",
                String::from_utf8_lossy(name).trim()
            ),
        )
    })?;
    Ok((found.to_vec(), used.len() as u64 * 32))
}
