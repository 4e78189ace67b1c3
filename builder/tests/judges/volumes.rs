//! ESPs and partition tables by themselves, over their sizes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use slipform::base::{EPOCH, MIB};
use slipform::disk::esp::{self, Esp, EspInput};
use slipform::disk::{DiskError, gpt};

use crate::tools::{content, judge};

const GIB: u64 = 1024 * MIB;

fn input(sector_size: u32, size: u64, file_size: u64) -> EspInput<'static> {
    EspInput {
        sector_size,
        size,
        first_lba: 0x1234,
        volume_id: 0x89ab_cdef,
        boot_file: "BOOTX64.EFI",
        file_size,
    }
}

/// The ESP as a sparse file; the boot file's bytes are holes.
fn volume(path: &Path, size: u64, esp: &Esp) -> File {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&esp.head, 0).unwrap();
    file
}

fn field(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[test]
fn esps_of_every_size_are_clean_aligned_and_fat32() {
    let folder = tempfile::tempdir().unwrap();
    let sizes_512 = [
        33, 34, 35, 36, 37, 48, 64, 65, 66, 67, 68, 129, 131, 133, 260, 268, 512, 1030,
    ];
    let sizes_4096 = [257, 258, 300, 512, 520, 1024, 2060];
    let cases = sizes_512
        .map(|size| (512, size * MIB))
        .into_iter()
        .chain(sizes_4096.map(|size| (4096, size * MIB)))
        .chain([(512, 16 * GIB), (4096, 16 * GIB)]);
    for (sector_size, size) in cases {
        let what = format!("{size} bytes in sectors of {sector_size}");
        let least = esp::write(&input(sector_size, size, 1)).unwrap();
        // Also a file that leaves no cluster free.
        let Err(DiskError::EspFull { room, .. }) = esp::write(&input(sector_size, size, u64::MAX))
        else {
            panic!("{what} has room for everything");
        };
        assert!(
            esp::write(&input(sector_size, size, room + 1)).is_err(),
            "{what}"
        );
        // Few files have 4 GiB, and each of their clusters takes its time.
        let largest = room.min(200 * MIB);
        for (length, esp) in [
            (1, least),
            (
                largest,
                esp::write(&input(sector_size, size, largest)).unwrap(),
            ),
        ] {
            assert!(esp.file_offset.is_multiple_of(4096), "{what}");
            assert_eq!(esp.head.len() as u64, esp.file_offset, "{what}");
            let boot = &esp.head;
            let cluster = field(boot, 11, 2) * field(boot, 13, 1);
            let data = (field(boot, 14, 2) + 2 * field(boot, 36, 4)) * field(boot, 11, 2);
            let clusters = (field(boot, 32, 4) * field(boot, 11, 2) - data) / cluster;
            assert!((65_541..0x0fff_fff5).contains(&clusters), "{what}");
            assert!(
                field(boot, 32, 4) * u64::from(sector_size) <= size,
                "{what}"
            );
            let path = folder.path().join("esp");
            let mut file = volume(&path, size, &esp);
            assert_eq!(
                esp::find_boot_file(&mut file).unwrap(),
                Some(("BOOTX64.EFI".to_owned(), esp.file_offset, length)),
                "{what}"
            );
            if let Some(mut fsck) = judge("fsck.fat") {
                let said = content(fsck.arg("-nv").arg(&path));
                assert!(said.contains("4 files"), "{what}: {said}");
            }
        }
    }
}

#[test]
fn an_esp_tells_what_the_specification_wants() {
    for sector in [512, 4096] {
        let size = if sector == 512 { 64 } else { 300 } * MIB;
        let head = esp::write(&input(sector as u32, size, 1_000_000))
            .unwrap()
            .head;
        let (info, backup) = (sector, 6 * sector);
        assert_eq!(field(&head, 28, 4), 0x1234, "sectors before the partition");
        assert_eq!(field(&head, 67, 4), 0x89ab_cdef, "volume id");
        assert_eq!(head[71..82], *b"ESP        ");
        assert_eq!(field(&head, 65, 1), 0, "not dirty");
        assert_eq!(head[..512], head[backup..backup + 512]);
        assert_eq!(
            head[info..info + sector],
            head[backup + info..backup + info + sector]
        );
        assert!(
            field(&head, info + 488, 4) < field(&head, 32, 4),
            "free clusters"
        );
        // The folders end the head, one cluster each.
        let cluster = sector * usize::from(head[13]);
        let boot = head.len() - cluster;
        let efi = boot - cluster;
        assert_eq!(head[efi..efi + 11], *b".          ");
        assert_eq!(head[efi + 32..efi + 43], *b"..         ");
        assert_eq!(field(&head, efi + 32 + 26, 2), 0, "the root is cluster 0");
        assert_eq!(head[boot + 64..boot + 75], *b"BOOTX64 EFI");
        // 2020-01-01 in FAT's form, everywhere.
        assert_eq!(EPOCH, 1_577_836_800);
        let date = (2020 - 1980) << 9 | 1 << 5 | 1;
        for entry in [efi, efi + 32, efi + 64, boot, boot + 32, boot + 64] {
            for at in [16, 18, 24] {
                assert_eq!(field(&head, entry + at, 2), date, "{entry}+{at}");
            }
            assert_eq!(field(&head, entry + 22, 2), 0, "midnight");
        }
    }
}

#[test]
fn only_the_inputs_change_an_esp() {
    let good = input(512, 64 * MIB, 5_000_000);
    let first = esp::write(&good).unwrap();
    assert_eq!(first, esp::write(&good).unwrap());
    for other in [
        EspInput {
            size: 65 * MIB,
            ..good.clone()
        },
        EspInput {
            volume_id: 1,
            ..good.clone()
        },
        EspInput {
            first_lba: 1,
            ..good.clone()
        },
        EspInput {
            boot_file: "BOOTAA64.EFI",
            ..good.clone()
        },
        EspInput {
            file_size: 6_000_000,
            ..good.clone()
        },
    ] {
        assert_ne!(first, esp::write(&other).unwrap(), "{other:?}");
    }
    for name in [
        "",
        ".EFI",
        "bootx64.efi",
        "BOOTX64.EFIX",
        "BOOTX64AB.EFI",
        "A.B.C",
        "../X",
        ".",
    ] {
        let wrong = EspInput {
            boot_file: name,
            ..good.clone()
        };
        assert!(esp::write(&wrong).is_err(), "{name}");
    }
    for (sector_size, size) in [(1024, 64 * MIB), (0, 64 * MIB), (512, 0), (512, 20 * MIB)] {
        assert!(esp::write(&input(sector_size, size, 1)).is_err());
    }
}

fn partitions(count: u64) -> Vec<gpt::Partition> {
    (0..count)
        .map(|index| gpt::Partition {
            type_guid: gpt::LAYER_TYPE,
            guid: uuid::Uuid::from_u128(u128::from(index) + 1),
            first_lba: 2048 * (index + 1),
            last_lba: 2048 * (index + 1) + index,
            attributes: gpt::LAYER_ATTRIBUTES,
            name: format!("layer {index}"),
        })
        .collect()
}

#[test]
fn tables_read_back_from_disks_of_every_size_and_from_their_copy() {
    let folder = tempfile::tempdir().unwrap();
    let disk_guid = uuid::Uuid::from_u128(7);
    for (sector_size, size, count) in [
        (512, 2 * MIB, 0),
        (512, 200 * MIB, 128),
        (512, 8192 * GIB, 60),
        (4096, 2 * GIB, 128),
        (4096, 8192 * GIB, 3),
    ] {
        let partitions = partitions(count);
        let sectors = size / u64::from(sector_size);
        let tables = gpt::tables(sector_size, sectors, disk_guid, &partitions).unwrap();
        let path = folder.path().join("disk");
        let mut disk = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        disk.set_len(size).unwrap();
        disk.write_all_at(&tables.primary, 0).unwrap();
        let backup = size - tables.backup.len() as u64;
        assert_eq!(tables.backup.len() as u64, gpt::backup_size(sector_size));
        disk.write_all_at(&tables.backup, backup).unwrap();
        if sector_size == 512
            && let Some(mut sgdisk) = judge("sgdisk")
        {
            let said = content(sgdisk.arg("-v").arg(&path));
            assert!(said.contains("No problems found"), "{said}");
        }
        let expected = gpt::Table {
            sector_size,
            disk_guid,
            partitions,
        };
        assert_eq!(gpt::read(&mut disk).unwrap().as_ref(), Some(&expected));
        // A protective MBR over the whole disk, as far as it can say so.
        let mut mbr = [0; 512];
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.read_exact(&mut mbr).unwrap();
        assert_eq!(mbr[450], 0xee);
        let length = (sectors - 1).min(u64::from(u32::MAX));
        assert_eq!((field(&mbr, 454, 4), field(&mbr, 458, 4)), (1, length));
        // One letter of the first table is enough to take the copy.
        disk.write_all_at(b"f", u64::from(sector_size) + 1).unwrap();
        assert_eq!(gpt::read(&mut disk).unwrap(), Some(expected));
    }
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let guid = uuid::Uuid::from_u128(7);
    let wrong = |sector_size, sectors, count| {
        let tables = gpt::tables(sector_size, sectors, guid, &partitions(count));
        tables.unwrap_err().to_string()
    };
    for sectors in [0, 1, 2, 33, 66] {
        assert!(wrong(512, sectors, 0).contains("has room for its tables"));
    }
    assert!(wrong(512, u64::MAX, 0).contains("Overflow"));
    assert!(wrong(512, 1 << 20, 129).contains("128 partitions at most"));
    assert!(wrong(1024, 1 << 20, 0).contains("it must be 512 or 4096"));
}

/// Headers that the crate `gpt` panics on or allocates for, with good checksums.
#[test]
fn tables_that_lie_about_their_entries_are_none() {
    const SIZE: u64 = 4 * MIB;
    let tables = gpt::tables(512, SIZE / 512, uuid::Uuid::nil(), &partitions(2)).unwrap();
    let lies: [(usize, u64, usize); 8] = [
        (80, u64::from(u32::MAX), 4),
        (80, 0, 4),
        (84, 256, 4),
        (84, 0, 4),
        (72, u64::MAX, 8),
        (72, SIZE / 512 - 1, 8),
        (12, 0, 4),
        (24, 5, 8),
    ];
    for (at, value, length) in lies {
        let mut disk = vec![0; SIZE as usize];
        disk[..tables.primary.len()].copy_from_slice(&tables.primary);
        let header = &mut disk[512..604];
        header[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
        header[16..20].fill(0);
        let checksum = crc32fast::hash(header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        let found = gpt::read(&mut std::io::Cursor::new(disk)).unwrap();
        assert_eq!(found, None, "{value} at {at}");
    }
}
