//! Disks, ESPs and output formats: sgdisk, fsck.fat, mtools, qemu-img, and
//! the crates `gpt` and `fatfs` as readers of what they wrote.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use slipform::base::{Digest, MIB};
use slipform::disk::{Bios, CastInput, DiskFacts, DiskReader, inspect};
use slipform::output::{self, OutputFormat};
use slipform::uki::UkiBlob;
use slipform::uki::grub::{Grub, GrubError};

use crate::scene::{boot_entry, disk, machine, scene};
use crate::tools::{content, judge};

fn board(sector_size: u32) -> DiskFacts {
    let esp_size = if sector_size == 512 { 64 } else { 300 } * MIB;
    DiskFacts {
        sector_size,
        esp_size,
        ..DiskFacts::default()
    }
}

#[test]
fn sgdisk_fsck_mtools_and_the_crates_accept_both_sector_sizes() {
    for sector_size in [512, 4096] {
        let scene = scene();
        let disk = disk(&scene, &board(sector_size), b"the app");
        let raw = scene.folder.path().join("disk.raw");
        output::write(OutputFormat::Raw, &disk.map, &scene.store, &raw).unwrap();

        let lba = if sector_size == 512 {
            gpt::disk::LogicalBlockSize::Lb512
        } else {
            gpt::disk::LogicalBlockSize::Lb4096
        };
        let table = gpt::GptConfig::new()
            .writable(false)
            .logical_block_size(lba)
            .open(&raw)
            .unwrap();
        assert_eq!(table.partitions().len(), 3);
        assert_eq!(
            table.primary_header().unwrap().disk_guid.get_version_num(),
            8
        );
        assert!(table.backup_header().is_ok());
        let layer = &table.partitions()[&3];
        assert_eq!(layer.name, "app");
        assert_eq!(layer.part_guid.to_string(), disk.layers[1].guid);
        // sgdisk takes files for disks of 512-byte sectors only.
        if sector_size == 512
            && let Some(mut sgdisk) = judge("sgdisk")
        {
            let said = content(sgdisk.arg("-v").arg(&raw));
            assert!(said.contains("No problems found"), "{said}");
            let mut dissect = judge("systemd-dissect").unwrap();
            content(dissect.arg("--validate").arg(&raw));
            let broken = scene.folder.path().join("broken.raw");
            std::fs::copy(&raw, &broken).unwrap();
            let file = std::fs::File::options().write(true).open(&broken).unwrap();
            // Both headers: one alone is recovered from the other.
            for header in [512, file.metadata().unwrap().len() - 512] {
                std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 92], header).unwrap();
            }
            let mut dissect = judge("systemd-dissect").unwrap();
            let output = dissect.arg("--validate").arg(&broken).output().unwrap();
            assert!(!output.status.success(), "systemd-dissect accepts anything");
        }

        let mut file = std::fs::File::open(&raw).unwrap();
        let mut esp = vec![0; board(sector_size).esp_size as usize];
        file.seek(SeekFrom::Start(MIB)).unwrap();
        file.read_exact(&mut esp).unwrap();
        let volume = scene.folder.path().join("esp");
        std::fs::write(&volume, &esp).unwrap();
        if let Some(mut fsck) = judge("fsck.fat") {
            content(fsck.arg("-nv").arg(&volume));
        }
        if let Some(mut mtype) = judge("mtype") {
            let said = mtype
                .arg("-i")
                .arg(&volume)
                .arg("::/EFI/BOOT/BOOTX64.EFI")
                .output()
                .unwrap();
            assert!(said.status.success(), "{said:?}");
            let digest = Digest::of(said.stdout);
            assert_eq!(digest, boot_entry(&scene, 3_000_000).digest);
        }
        let fat = fatfs::FileSystem::new(Cursor::new(esp), fatfs::FsOptions::new()).unwrap();
        assert_eq!(fat.fat_type(), fatfs::FatType::Fat32);
        let mut uki = Vec::new();
        fat.root_dir()
            .open_file("EFI/BOOT/BOOTX64.EFI")
            .unwrap()
            .read_to_end(&mut uki)
            .unwrap();
        assert_eq!(Digest::of(uki), boot_entry(&scene, 3_000_000).digest);
        let stats = fat.stats().unwrap();
        assert!(stats.free_clusters() < stats.total_clusters());
    }
}

#[test]
fn a_disk_reads_back_from_every_format() {
    let scene = scene();
    let disk = disk(&scene, &board(512), b"the app");
    let mut first = None;
    for format in OutputFormat::ALL {
        // Its disks are whole GiB: see `formats`.
        if format == OutputFormat::GcpTar {
            continue;
        }
        let path = scene
            .folder
            .path()
            .join(format!("disk.{}", format.extension()));
        output::write(format, &disk.map, &scene.store, &path).unwrap();
        let (found, mut source) = output::open(&path).unwrap();
        let same_reader = (found, format) == (OutputFormat::Qcow2, OutputFormat::Qcow2Zlib);
        assert!(found == format || same_reader, "{found} is no {format}");
        let info = inspect(&mut source).unwrap();
        assert_eq!(info.problems, Vec::<String>::new());
        assert_eq!(info.partitions.len(), 3);
        let layer = info.partitions[1].layer.as_ref().unwrap();
        assert!(
            layer
                .root_hash
                .starts_with(&info.partitions[1].guid.replace('-', ""))
        );
        let boot = info.boot.as_ref().unwrap();
        assert_eq!(boot.cmdline, "console=ttyS0 quiet");
        assert_eq!(boot.path, "EFI/BOOT/BOOTX64.EFI");
        let names: Vec<_> = boot
            .sections
            .iter()
            .map(|section| section.name.as_str())
            .collect();
        assert_eq!(
            names,
            [".text", ".osrel", ".cmdline", ".uname", ".linux", ".initrd"]
        );
        assert_eq!(
            info.machine,
            Some(serde_json::from_str(&machine()).unwrap())
        );
        assert_eq!(*first.get_or_insert_with(|| info.clone()), info);
    }
    let from_store = inspect(&mut DiskReader::new(&scene.store, &disk.map)).unwrap();
    assert_eq!(Some(from_store), first);
}

#[test]
fn qemu_img_checks_and_compares_and_two_writes_are_equal() {
    let scene = scene();
    let disk = disk(&scene, &board(512), &crate::scene::Random(9).bytes(400_000));
    let raw = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &disk.map, &scene.store, &raw).unwrap();
    let [one, two] = ["one.qcow2", "two.qcow2"].map(|name| scene.folder.path().join(name));
    for path in [&one, &two] {
        output::write(OutputFormat::Qcow2, &disk.map, &scene.store, path).unwrap();
    }
    assert_eq!(output::sha256(&one).unwrap(), output::sha256(&two).unwrap());
    let (_, mut source) = output::open(&one).unwrap();
    let mut read = Vec::new();
    source.read_to_end(&mut read).unwrap();
    assert!(
        read == std::fs::read(&raw).unwrap(),
        "the reader gives the disk back"
    );
    if let Some(mut check) = judge("qemu-img") {
        let said = content(check.args(["check", "-f", "qcow2"]).arg(&one));
        assert!(said.contains("No errors"), "{said}");
        content(
            judge("qemu-img")
                .unwrap()
                .args(["compare", "-f", "raw", "-F", "qcow2"])
                .arg(&raw)
                .arg(&one),
        );
    }
}

#[test]
fn the_reader_reads_what_qemu_img_writes() {
    let scene = scene();
    let disk = disk(&scene, &board(512), b"the app");
    let raw = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &disk.map, &scene.store, &raw).unwrap();
    let expected = std::fs::read(&raw).unwrap();
    for options in [
        &["-O", "qcow2"][..],
        &["-O", "qcow2", "-o", "compat=0.10"],
        &["-c", "-O", "qcow2"],
        &[
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd,cluster_size=4k",
        ],
    ] {
        let Some(mut convert) = judge("qemu-img") else {
            return;
        };
        let path = scene.folder.path().join("converted.qcow2");
        content(
            convert
                .args(["convert", "-f", "raw"])
                .args(options)
                .arg(&raw)
                .arg(&path),
        );
        let (format, mut source) = output::open(&path).unwrap();
        assert_eq!(format, OutputFormat::Qcow2);
        let mut read = Vec::new();
        source.read_to_end(&mut read).unwrap();
        assert!(read == expected, "{options:?}");
    }
}

#[test]
fn a_changed_disk_is_patched_into_the_very_bytes_of_a_fresh_one() {
    let scene = scene();
    let old = disk(&scene, &board(512), b"one");
    let new = disk(
        &scene,
        &board(512),
        &crate::scene::Random(3).bytes(30_000_000),
    );
    let [patched, fresh] = ["patched.raw", "fresh.raw"].map(|name| scene.folder.path().join(name));
    let write = |map, path| output::write(OutputFormat::Raw, map, &scene.store, path).unwrap();
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    write(&old.map, &patched);
    let first = inode(&patched);
    for (map, other) in [(&new.map, &old.map), (&old.map, &new.map)] {
        write(map, &patched);
        assert_eq!(inode(&patched), first, "the same file, changed in place");
        let _ = std::fs::remove_file(&fresh);
        write(map, &fresh);
        assert_eq!(
            output::sha256(&patched).unwrap(),
            output::sha256(&fresh).unwrap()
        );
        assert_ne!(map, other);
    }

    // A file that somebody touched is never patched, however small the change.
    let mut file = std::fs::File::options().write(true).open(&patched).unwrap();
    file.seek(SeekFrom::Start(40 * MIB)).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    write(&old.map, &patched);
    assert_ne!(inode(&patched), first);
    assert_eq!(
        output::sha256(&patched).unwrap(),
        output::sha256(&fresh).unwrap()
    );
}

#[test]
fn a_blob_that_is_missing_or_short_leaves_no_file() {
    let scene = scene();
    let disk = disk(&scene, &board(512), b"the app");
    let mut map = disk.map.clone();
    let layer = map
        .extents
        .iter_mut()
        .find(|extent| extent.offset == disk.layers[1].offset);
    layer.unwrap().length += 4096;
    let path = scene.folder.path().join("out/disk.raw");
    let error = output::write(OutputFormat::Raw, &map, &scene.store, &path).unwrap_err();
    assert!(error.to_string().contains("which has only"), "{error}");
    let digest = *disk.map.blobs().iter().next().unwrap();
    std::fs::remove_file(scene.store.path(&digest)).unwrap();
    for format in OutputFormat::ALL {
        // Refused before anything is read: its disks are whole GiB.
        if format == OutputFormat::GcpTar {
            continue;
        }
        let error = output::write(format, &disk.map, &scene.store, &path).unwrap_err();
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
    }
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        0
    );
}

#[test]
fn a_stale_file_of_a_killed_run_is_replaced() {
    let scene = scene();
    let disk = disk(&scene, &board(512), b"the app");
    let folder = scene.folder.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(".disk.raw.partial"), vec![0xff; 200_000_000]).unwrap();
    let path = folder.join("disk.raw");
    output::write(OutputFormat::Raw, &disk.map, &scene.store, &path).unwrap();
    let mut expected = Vec::new();
    DiskReader::new(&scene.store, &disk.map)
        .read_to_end(&mut expected)
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

/// GRUB's files, as far as anybody looks at them here.
fn grub() -> Grub {
    // A 32-bit executable with one section of no bytes but one, at 0x9000.
    let mut kernel = vec![0; 52 + 40];
    kernel[..6].copy_from_slice(b"\x7fELF\x01\x01");
    kernel[32] = 52;
    kernel[48] = 1;
    for (at, word) in [(4, 1), (8, 2), (12, 0x9000), (20, 1)] {
        kernel[52 + at..52 + at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    let mut read = |path: &str| -> Result<_, GrubError> {
        let mut sector = vec![0xaa; 512];
        Ok(Some(match path.rsplit('/').next().unwrap() {
            "boot.img" => {
                sector[0x66] = 0xeb;
                sector
            }
            "diskboot.img" => {
                sector[510..].copy_from_slice(&[0x20, 8]);
                sector
            }
            "kernel.img" => kernel.clone(),
            "moddep.lst" => b"linux:\nbiosdisk:\n".to_vec(),
            _ => vec![1; 1000],
        }))
    };
    Grub::take(&mut read).unwrap()
}

/// Boot code for a BIOS lies where no table and no partition of others lies.
#[test]
fn sgdisk_accepts_a_disk_that_starts_by_a_bios_and_nothing_else_moves() {
    let scene = scene();
    let layers = [(
        "base".to_owned(),
        crate::scene::sealed(&scene, &crate::scene::small()),
    )];
    let grub = grub();
    let cast = |bios: Option<Bios<'_>>, name: &str| {
        let input = CastInput {
            bios,
            facts: &DiskFacts::default(),
            layers: &layers,
            uki: boot_entry(&scene, 100_000),
            seed: Digest::of("s"),
        };
        let disk = slipform::disk::cast(&scene.store, &input).unwrap();
        let raw = scene.folder.path().join(name);
        output::write(OutputFormat::Raw, &disk.map, &scene.store, &raw).unwrap();
        raw
    };
    let bios = Bios {
        grub: &grub,
        cmdline: "quiet",
    };
    let [with, again] = ["with.raw", "again.raw"].map(|name| cast(Some(bios), name));
    let without = std::fs::read(cast(None, "without.raw")).unwrap();
    let disk = std::fs::read(&with).unwrap();
    assert!(disk == std::fs::read(again).unwrap());
    let end = disk.len() - 33 * 512;
    assert!(disk[1 << 20..end] == without[1 << 20..end]);
    // The disk's signature and the protective partition are not code.
    assert_eq!(disk[440..512], without[440..512]);
    assert_eq!(disk[512 * 1024..512 * 1024 + 500], [0xaa; 500]);
    if let Some(mut sgdisk) = judge("sgdisk") {
        let said = content(sgdisk.arg("-v").arg("-p").arg(&with));
        assert!(said.contains("No problems found"), "{said}");
        assert!(said.contains("EF02  bios"), "{said}");
    }
}

#[test]
fn figures_of_a_board_that_cannot_work_are_refused() {
    let scene = scene();
    let layers = [(
        "base".to_owned(),
        crate::scene::sealed(&scene, &crate::scene::small()),
    )];
    let twice = [layers[0].clone(), ("again".to_owned(), layers[0].1.clone())];
    let uki = UkiBlob {
        digest: Digest::of("x"),
        size: 1 << 20,
    };
    let good = DiskFacts::default();
    let cast = |facts: &DiskFacts, layers: &[_], uki| {
        let input = CastInput {
            bios: None,
            facts,
            layers,
            uki,
            seed: Digest::of("s"),
        };
        slipform::disk::cast(&scene.store, &input)
    };
    cast(&good, &layers, uki).unwrap();
    let with = |change: fn(&mut DiskFacts)| {
        let mut facts = good.clone();
        change(&mut facts);
        cast(&facts, &layers, uki).unwrap_err().to_string()
    };
    let too_small = with(|facts| facts.esp_size = 16 * MIB);
    assert!(
        too_small.contains("esp_size = 16777216: FAT32 with sectors of 512 bytes needs"),
        "{too_small}"
    );
    let too_small = with(|facts| facts.sector_size = 4096);
    assert!(
        too_small.contains("sectors of 4096 bytes needs"),
        "{too_small}"
    );
    let name = with(|facts| facts.boot_file = "bootx64.efi".to_owned());
    assert!(name.contains("8.3 name in capitals"), "{name}");
    let full = cast(
        &good,
        &layers,
        UkiBlob {
            size: 64 * MIB,
            ..uki
        },
    )
    .unwrap_err()
    .to_string();
    assert!(full.contains("raise the board's esp_size"), "{full}");
    let same = cast(&good, &twice, uki).unwrap_err().to_string();
    assert!(
        same.contains("'base' and 'again' have the same content"),
        "{same}"
    );
}

#[test]
fn the_least_esp_that_an_error_names_works() {
    for sector_size in [512, 4096] {
        let scene = scene();
        let mut facts = board(sector_size);
        facts.esp_size = MIB;
        let uki = boot_entry(&scene, 10_000);
        let cast = |facts: &DiskFacts| {
            let input = CastInput {
                bios: None,
                facts,
                layers: &[],
                uki,
                seed: Digest::of("s"),
            };
            slipform::disk::cast(&scene.store, &input)
        };
        let message = cast(&facts).unwrap_err().to_string();
        let least = message
            .split("needs ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        facts.esp_size = least.parse().unwrap();
        let disk = cast(&facts).unwrap();
        let mut esp = Vec::new();
        let mut reader = DiskReader::new(&scene.store, &disk.map);
        reader.seek(SeekFrom::Start(MIB)).unwrap();
        reader.take(facts.esp_size).read_to_end(&mut esp).unwrap();
        let volume = scene.folder.path().join("esp");
        std::fs::write(&volume, &esp).unwrap();
        if let Some(mut fsck) = judge("fsck.fat") {
            content(fsck.arg("-nv").arg(&volume));
        }
        let fat = fatfs::FileSystem::new(Cursor::new(esp), fatfs::FsOptions::new()).unwrap();
        assert_eq!(fat.fat_type(), fatfs::FatType::Fat32);
    }
}
