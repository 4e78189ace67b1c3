//! Media: xorriso and bsdtar read an ISO image, and sgdisk the disk that it is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use slipform::base::MIB;
use slipform::disk::{DiskFacts, DiskReader, Window, inspect};
use slipform::output::{self, OutputFormat};

use crate::formats::sparse;
use crate::scene::{disk, scene};
use crate::tools::{archiver, content, judge, xorriso};

#[test]
fn an_iso_is_a_cd_that_starts_by_uefi_and_the_very_disk() {
    let scene = scene();
    let disk = disk(&scene, &DiskFacts::default(), b"the app");
    let iso = scene.folder.path().join("disk.iso");
    output::write(OutputFormat::Iso, &disk.map, &scene.store, &iso).unwrap();

    // The disk comes back, and so does its partition table, as it lies there.
    let (format, mut back) = output::open(&iso).unwrap();
    assert_eq!(format, OutputFormat::Iso);
    let mut ours = DiskReader::new(&scene.store, &disk.map);
    assert_eq!(
        output::first_difference(&mut ours, &mut back).unwrap(),
        None
    );
    let mut file = File::open(&iso).unwrap();
    let found = inspect(&mut file).unwrap();
    assert_eq!(found.partitions, inspect(&mut back).unwrap().partitions);
    let esp = found.partitions.iter().find(|part| part.kind == "esp");
    let (offset, size) = esp.map(|esp| (esp.offset, esp.size)).unwrap();
    assert_eq!((offset, size), (MIB, 64 * MIB));

    if let (Some(mut xorriso), Some(mut sgdisk)) = (xorriso(), judge("sgdisk")) {
        let said = content(sgdisk.arg("-v").arg(&iso));
        assert!(said.contains("No problems found"), "{said}");
        let said = content(
            xorriso
                .args(["-indev"])
                .arg(format!("stdio:{}", iso.display()))
                .args(["-report_el_torito", "plain", "-find", "/", "-exec", "lsdl"]),
        );
        for expected in [
            "Volume id    : 'SLIPFORM'",
            "El Torito boot img :   1  UEFI  y   none",
            "/boot.cat",
            "/efi.img",
        ] {
            assert!(
                said.to_lowercase().contains(&expected.to_lowercase()),
                "no {expected}: {said}"
            );
        }
        assert!(
            !said.contains("FAILURE") && !said.contains("SORRY"),
            "{said}"
        );
    }
    if let Some(mut bsdtar) = archiver("bsdtar") {
        content(
            bsdtar
                .arg("-xf")
                .arg(&iso)
                .arg("-C")
                .arg(scene.folder.path()),
        );
        let mut theirs = File::open(scene.folder.path().join("EFI.IMG")).unwrap();
        let mut esp = Window::new(&mut ours, offset, size);
        assert_eq!(
            output::first_difference(&mut esp, &mut theirs).unwrap(),
            None
        );
    }
}

#[test]
fn what_is_no_disk_to_start_from_becomes_no_iso() {
    let scene = scene();
    let path = scene.folder.path().join("out/disk.iso");
    let refused = |map: &slipform::disk::DiskMap| {
        let error = output::write(OutputFormat::Iso, map, &scene.store, &path).unwrap_err();
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(left.count(), 0);
        error.to_string()
    };
    let mut map = sparse(&scene, 2 * MIB, 2, 6);
    assert!(refused(&map).contains("has none; build it with slipform"));
    map.sector_size = 4096;
    assert!(refused(&map).contains("sector-size = 512"));

    // Somebody's bytes where the volume goes are not overwritten.
    let good = disk(&scene, &DiskFacts::default(), b"the app");
    let raw = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &good.map, &scene.store, &raw).unwrap();
    let mut file = File::options().write(true).read(true).open(&raw).unwrap();
    file.seek(SeekFrom::Start(40_000)).unwrap();
    file.write_all(b"!").unwrap();
    let quiet = &slipform::base::progress::Quiet;
    let error = output::convert(&raw, OutputFormat::Iso, &path, quiet).unwrap_err();
    assert!(error.to_string().contains("something there"), "{error}");

    // And somebody else's ISO image is a disk as it is.
    file.seek(SeekFrom::Start(32_768)).unwrap();
    file.write_all(b"\x01CD001\x01").unwrap();
    let (format, mut source) = output::open(&raw).unwrap();
    assert_eq!(format, OutputFormat::Raw);
    source.seek(SeekFrom::Start(32_769)).unwrap();
    let mut found = [0; 5];
    source.read_exact(&mut found).unwrap();
    assert_eq!(&found, b"CD001");
}

/// The members of a tar of what starts over the network, unpacked by bsdtar.
fn unpacked(scene: &crate::scene::Scene, tar: &std::path::Path) -> Option<std::path::PathBuf> {
    let folder = scene.folder.path().join("served");
    std::fs::create_dir_all(&folder).unwrap();
    let mut bsdtar = archiver("bsdtar")?;
    content(bsdtar.arg("-xf").arg(tar).arg("-C").arg(&folder));
    Some(folder)
}

#[test]
fn a_netboot_tar_is_what_a_web_server_gives_and_the_very_disk() {
    let scene = scene();
    let disk = disk(&scene, &DiskFacts::default(), b"the app");
    let tar = scene.folder.path().join("disk.netboot.tar");
    output::write(OutputFormat::Netboot, &disk.map, &scene.store, &tar).unwrap();
    let (format, mut back) = output::open(&tar).unwrap();
    assert_eq!(format, OutputFormat::Netboot);
    let mut ours = DiskReader::new(&scene.store, &disk.map);
    assert_eq!(
        output::first_difference(&mut ours, &mut back).unwrap(),
        None
    );
    let found = inspect(&mut back).unwrap();
    // Nothing is there twice.
    let boot = found.boot.as_ref().unwrap();
    let layers: Vec<_> = found
        .partitions
        .iter()
        .filter(|part| part.kind == "layer")
        .collect();
    let parts = boot.size + layers.iter().map(|layer| layer.size).sum::<u64>();
    let length = tar.metadata().unwrap().len();
    assert!(length < parts + 256 * 1024, "{length} for {parts}");

    let Some(folder) = unpacked(&scene, &tar) else {
        return;
    };
    let script = std::fs::read_to_string(folder.join("boot.ipxe")).unwrap();
    assert!(
        script.starts_with("#!ipxe\nkernel vmlinuz initrd=initrd"),
        "{script}"
    );
    assert!(script.contains(&boot.cmdline), "{script}");
    let kernel = std::fs::read(folder.join("vmlinuz")).unwrap();
    assert_eq!(boot.kernel, Some(slipform::base::Digest::of(&kernel)));
    // Each layer lies in its archive as it lies on the disk.
    assert!(!layers.is_empty());
    for layer in layers {
        let name = layer.guid.replace('-', "");
        assert!(
            script.contains(&format!("layers/{name}.cpio\n")),
            "{script}"
        );
        let archive = folder.join(format!("layers/{name}.cpio"));
        let mut bsdtar = archiver("bsdtar").unwrap();
        content(bsdtar.arg("-xf").arg(&archive).arg("-C").arg(&folder));
        let mut theirs = File::open(folder.join("carried").join(&name)).unwrap();
        let mut ours = Window::new(&mut ours, layer.offset, layer.size);
        assert_eq!(
            output::first_difference(&mut ours, &mut theirs).unwrap(),
            None
        );
    }
}

#[test]
fn what_has_no_kernel_image_becomes_no_netboot_and_a_damaged_one_is_refused() {
    let scene = scene();
    let path = scene.folder.path().join("out/disk.netboot.tar");
    let map = sparse(&scene, 2 * MIB, 2, 6);
    let error = output::write(OutputFormat::Netboot, &map, &scene.store, &path).unwrap_err();
    assert!(error.to_string().contains("no partition table"), "{error}");
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        0
    );

    let good = disk(&scene, &DiskFacts::default(), b"the app");
    output::write(OutputFormat::Netboot, &good.map, &scene.store, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let edited = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {from}"));
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, bytes).unwrap();
        output::open(&path).map(drop).unwrap_err().to_string()
    };
    for (from, to, rule) in [
        ("\"version\":1", "\"version\":2", "version is 0x2"),
        (
            "\"member\":\"rest\"",
            "\"member\":\"pest\"",
            "no member \"pest\"",
        ),
        (
            "\"start\":1048576,",
            "\"start\":9048576,",
            "behind the last piece",
        ),
        ("\"pieces\":[", "\"pieces\":{", "disk.json is wrong"),
    ] {
        let error = edited(from, to);
        assert!(error.contains(rule), "{from}: {error}");
    }
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = output::open(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("leaves the archive"), "{error}");
}
