//! Every output format: qemu-img, bsdtar and zstd read what was written, and the
//! published structure of OVF packages is checked element by element.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use slipform::base::{Digest, MIB};
use slipform::disk::map::MAP_SCHEMA;
use slipform::disk::{DiskMap, DiskReader, Extent, ExtentContent};
use slipform::output::{self, OutputFormat};

use crate::scene::{Random, Scene, scene};
use crate::tools::{archiver, content, judge};

/// Bytes of a disk that every format takes: Google wants whole GiB.
const GIB: u64 = 1 << 30;

/// A disk with `pieces` runs of bytes somewhere, some compressible, one at either end.
pub(crate) fn sparse(scene: &Scene, size: u64, pieces: u64, seed: u64) -> DiskMap {
    let mut random = Random(seed);
    let mut blob = random.bytes(300_000);
    blob.extend(b"slipform ".repeat(30_000));
    blob.resize(600_000, 0);
    let length = blob.len() as u64;
    let digest = scene.store.put(&blob).unwrap();
    let share = size / pieces;
    let extents = (0..pieces).map(|piece| {
        let most = length.min(share);
        let room = 1 + random.below(most);
        let offset = match piece {
            0 => 0,
            last if last == pieces - 1 => size - room,
            _ => piece * share + random.below(share - room + 1),
        };
        let content = ExtentContent::Blob {
            digest,
            offset: random.below(length - room + 1),
        };
        Extent {
            offset,
            length: room,
            content,
        }
    });
    DiskMap {
        schema: MAP_SCHEMA,
        sector_size: 512,
        size,
        extents: extents.collect(),
    }
}

/// What QEMU calls a format; `None` for those that it does not read.
fn qemu_name(format: OutputFormat) -> Option<&'static str> {
    match format {
        OutputFormat::Raw => Some("raw"),
        OutputFormat::Qcow2 | OutputFormat::Qcow2Zlib => Some("qcow2"),
        OutputFormat::Vhd | OutputFormat::VhdDynamic => Some("vpc"),
        OutputFormat::Vhdx => Some("vhdx"),
        OutputFormat::Vmdk | OutputFormat::VmdkStream => Some("vmdk"),
        OutputFormat::RawZst
        | OutputFormat::Ova
        | OutputFormat::GcpTar
        | OutputFormat::Iso
        | OutputFormat::Netboot => None,
    }
}

fn sum(mut reader: impl Read) -> Digest {
    Digest::of_reader(&mut reader).unwrap().0
}

/// The digest of the disk in `path`, as qemu-img converts it.
fn by_qemu(path: &Path, name: &str) -> Option<Digest> {
    let raw = path.with_extension("by-qemu");
    let mut convert = judge("qemu-img")?;
    content(
        convert
            .args(["convert", "-f", name, "-O", "raw"])
            .arg(path)
            .arg(&raw),
    );
    let digest = output::sha256(&raw).unwrap();
    std::fs::remove_file(&raw).unwrap();
    Some(digest)
}

#[test]
fn qemu_img_gives_the_very_disk_back_from_every_format() {
    let scene = scene();
    for (seed, size, pieces) in [(1, 7 * MIB, 3), (2, 67 * MIB, 40)] {
        let map = sparse(&scene, size, pieces, seed);
        let expected = sum(DiskReader::new(&scene.store, &map));
        for format in OutputFormat::ALL {
            let Some(name) = qemu_name(format) else {
                continue;
            };
            let path = scene
                .folder
                .path()
                .join(format!("disk.{}", format.extension()));
            output::write(format, &map, &scene.store, &path).unwrap();
            let Some(found) = by_qemu(&path, name) else {
                return;
            };
            assert_eq!(found, expected, "{format}");
            let info = content(
                judge("qemu-img")
                    .unwrap()
                    .args(["info", "-f", name])
                    .arg(&path),
            );
            assert!(info.contains(&format!("({size} bytes)")), "{info}");
            if matches!(name, "qcow2" | "vhdx" | "vmdk") {
                let said = content(
                    judge("qemu-img")
                        .unwrap()
                        .args(["check", "-f", name])
                        .arg(&path),
                );
                assert!(said.contains("No errors"), "{format}: {said}");
            }
        }
    }
}

#[test]
fn others_unpack_the_very_disk_from_archives() {
    let scene = scene();
    let maps = [8 * MIB, GIB].map(|size| sparse(&scene, size, 20, 3));
    let [zst, gcp] = ["disk.raw.zst", "disk.tar.gz"].map(|name| scene.folder.path().join(name));
    output::write(OutputFormat::RawZst, &maps[0], &scene.store, &zst).unwrap();
    output::write(OutputFormat::GcpTar, &maps[1], &scene.store, &gcp).unwrap();
    let difference = |map: &DiskMap, theirs: &mut dyn Read| {
        output::first_difference(&mut DiskReader::new(&scene.store, map), theirs).unwrap()
    };
    let mut frames = zstd::Decoder::new(File::open(&zst).unwrap()).unwrap();
    assert_eq!(difference(&maps[0], &mut frames), None);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&gcp).unwrap()));
    let mut members = archive.entries().unwrap();
    let mut member = members.next().unwrap().unwrap();
    assert_eq!(member.path_bytes().as_ref(), b"disk.raw");
    assert_eq!(member.size(), GIB);
    assert_eq!(difference(&maps[1], &mut member), None);
    assert!(members.next().is_none());
    let (format, mut source) = output::open(&gcp).unwrap();
    assert_eq!(format, OutputFormat::GcpTar);
    source.seek(SeekFrom::Start(GIB / 2)).unwrap();
    let mut ours = DiskReader::new(&scene.store, &maps[1]);
    ours.seek(SeekFrom::Start(GIB / 2)).unwrap();
    assert_eq!(
        output::first_difference(&mut ours, &mut source).unwrap(),
        None
    );
    let (Some(mut bsdtar), Some(mut zstd)) = (archiver("bsdtar"), archiver("zstd")) else {
        return;
    };
    content(
        bsdtar
            .arg("-xSf")
            .arg(&gcp)
            .arg("-C")
            .arg(scene.folder.path()),
    );
    let unpacked = scene.folder.path().join("disk.raw");
    assert_eq!(
        difference(&maps[1], &mut File::open(&unpacked).unwrap()),
        None
    );
    content(zstd.args(["-q", "-d", "-f", "-o"]).arg(&unpacked).arg(&zst));
    assert_eq!(
        difference(&maps[0], &mut File::open(&unpacked).unwrap()),
        None
    );
}

/// An element of XML: name, attributes, text, children.
#[derive(Debug, Default)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads what has neither entities, comments nor CDATA; anything else is a panic.
    fn parse(text: &str) -> Self {
        let mut stack = vec![Self::default()];
        let mut rest = text
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")
            .unwrap();
        while let Some((before, after)) = rest.split_once('<') {
            assert!(!before.contains(['&', '>']), "{before}");
            stack.last_mut().unwrap().text.push_str(before.trim());
            let (tag, after) = after.split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                let done = stack.pop().unwrap();
                assert_eq!(done.name, name);
                stack.last_mut().unwrap().children.push(done);
                continue;
            }
            let (tag, empty) = tag
                .strip_suffix('/')
                .map_or((tag, false), |tag| (tag, true));
            let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let mut element = Self {
                name: name.to_owned(),
                ..Self::default()
            };
            while let Some((key, after)) = attributes.trim_start().split_once("=\"") {
                let (value, after) = after.split_once('"').unwrap();
                let twice = element.attributes.insert(key.to_owned(), value.to_owned());
                assert_eq!(twice, None, "{key}");
                attributes = after;
            }
            assert_eq!(attributes.trim(), "");
            if empty {
                stack.last_mut().unwrap().children.push(element);
            } else {
                stack.push(element);
            }
        }
        assert_eq!((stack.len(), rest.trim()), (1, ""));
        stack.pop().unwrap().children.pop().unwrap()
    }

    fn names(&self) -> Vec<&str> {
        self.children
            .iter()
            .map(|child| child.name.as_str())
            .collect()
    }

    fn child(&self, name: &str) -> &Self {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let first = found
            .next()
            .unwrap_or_else(|| panic!("{} has no {name}", self.name));
        assert!(found.next().is_none(), "{} has several {name}", self.name);
        first
    }

    fn attribute(&self, name: &str) -> &str {
        self.attributes
            .get(name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }
}

/// The rules of DSP0243 1.1.0 for an envelope with one machine: section 7 (order of
/// what is in it, references), 8 (hardware), 9.1 (disks).
fn check_envelope(envelope: &Element, disk: (&str, u64), capacity: u64) {
    assert_eq!(envelope.name, "Envelope");
    assert_eq!(
        envelope.attribute("xmlns"),
        "http://schemas.dmtf.org/ovf/envelope/1"
    );
    assert_eq!(
        envelope.names(),
        [
            "References",
            "DiskSection",
            "NetworkSection",
            "VirtualSystem"
        ]
    );
    let file = envelope.child("References").child("File");
    assert_eq!(file.attribute("ovf:href"), disk.0);
    assert_eq!(file.attribute("ovf:size"), disk.1.to_string());
    let section = envelope.child("DiskSection");
    assert_eq!(section.names(), ["Info", "Disk"]);
    let stated = section.child("Disk");
    assert_eq!(stated.attribute("ovf:fileRef"), file.attribute("ovf:id"));
    assert_eq!(stated.attribute("ovf:capacity"), capacity.to_string());
    assert_eq!(stated.attribute("ovf:capacityAllocationUnits"), "byte");
    assert!(
        stated
            .attribute("ovf:format")
            .ends_with("vmdk.html#streamOptimized")
    );
    let network = envelope
        .child("NetworkSection")
        .child("Network")
        .attribute("ovf:name");
    let system = envelope.child("VirtualSystem");
    assert_eq!(
        system.names(),
        [
            "Info",
            "Name",
            "OperatingSystemSection",
            "VirtualHardwareSection"
        ]
    );
    assert_eq!(
        system.child("OperatingSystemSection").attribute("ovf:id"),
        "101"
    );
    let hardware = system.child("VirtualHardwareSection");
    assert_eq!(hardware.names()[..2], ["Info", "System"]);
    let items: Vec<&Element> = hardware
        .children
        .iter()
        .filter(|child| child.name == "Item")
        .collect();
    let mut ids = BTreeMap::new();
    for item in &items {
        // The schema's sequence is the alphabet's.
        assert!(item.names().is_sorted(), "{:?}", item.names());
        let kind = &item.child("rasd:ResourceType").text;
        assert!(!item.child("rasd:ElementName").text.is_empty());
        let twice = ids.insert(item.child("rasd:InstanceID").text.as_str(), kind.as_str());
        assert_eq!(twice, None);
        match kind.as_str() {
            "17" => {
                let source = &item.child("rasd:HostResource").text;
                assert_eq!(
                    source.strip_prefix("ovf:/disk/"),
                    Some(stated.attribute("ovf:diskId"))
                );
                assert_eq!(ids[item.child("rasd:Parent").text.as_str()], "6");
            }
            "10" => assert_eq!(item.child("rasd:Connection").text, network),
            _ => {}
        }
    }
    let kinds: Vec<&str> = ids.values().copied().collect();
    assert_eq!(kinds, ["3", "4", "6", "17", "10"]);
    let firmware = hardware.child("vmw:Config");
    assert_eq!(
        (
            firmware.attribute("vmw:key"),
            firmware.attribute("vmw:value")
        ),
        ("firmware", "efi")
    );
}

#[test]
fn an_appliance_is_as_the_standard_wants_it() {
    let scene = scene();
    let map = sparse(&scene, 9 * MIB, 5, 4);
    let path = scene.folder.path().join("my app & co.ova");
    output::write(OutputFormat::Ova, &map, &scene.store, &path).unwrap();
    let mut archive = tar::Archive::new(File::open(&path).unwrap());
    let mut members = Vec::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = String::from_utf8(member.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        members.push((name, bytes));
    }
    let [
        (ovf_name, ovf),
        (disk_name, disk),
        (manifest_name, manifest),
    ] = &members[..]
    else {
        panic!("{} members", members.len());
    };
    assert_eq!(ovf_name, "my_app___co.ovf");
    assert_eq!(disk_name, "my_app___co-disk1.vmdk");
    assert_eq!(manifest_name, "my_app___co.mf");
    let expected = format!(
        "SHA256({ovf_name})= {}\nSHA256({disk_name})= {}\n",
        Digest::of(ovf).hex(),
        Digest::of(disk).hex()
    );
    assert_eq!(String::from_utf8_lossy(manifest), expected);
    let envelope = Element::parse(std::str::from_utf8(ovf).unwrap());
    check_envelope(&envelope, (disk_name, disk.len() as u64), map.size);
    let text = String::from_utf8_lossy(&disk[512..512 * 21]);
    assert!(text.contains(&format!("SPARSE \"{disk_name}\"")), "{text}");
    let unpacked = scene.folder.path().join("disk.vmdk");
    std::fs::write(&unpacked, disk).unwrap();
    let expected = sum(DiskReader::new(&scene.store, &map));
    assert!(by_qemu(&unpacked, "vmdk").is_none_or(|found| found == expected));
}

#[test]
fn readers_read_what_qemu_img_writes() {
    let scene = scene();
    let map = sparse(&scene, 70 * MIB, 9, 5);
    let raw = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &map, &scene.store, &raw).unwrap();
    let expected = output::sha256(&raw).unwrap();
    let cases: [(OutputFormat, &[&str]); 6] = [
        (
            OutputFormat::Vhd,
            &["vpc", "-o", "subformat=fixed,force_size=on"],
        ),
        (OutputFormat::VhdDynamic, &["vpc", "-o", "force_size=on"]),
        (OutputFormat::Vhdx, &["vhdx"]),
        (OutputFormat::Vhdx, &["vhdx", "-o", "block_size=32M"]),
        (OutputFormat::Vmdk, &["vmdk"]),
        (
            OutputFormat::VmdkStream,
            &["vmdk", "-o", "subformat=streamOptimized"],
        ),
    ];
    for (format, options) in cases {
        let Some(mut convert) = judge("qemu-img") else {
            return;
        };
        let path = scene.folder.path().join("converted");
        content(
            convert
                .args(["convert", "-f", "raw", "-O"])
                .args(options)
                .arg(&raw)
                .arg(&path),
        );
        let (found, source) = output::open(&path).unwrap();
        assert_eq!(found, format);
        assert_eq!(sum(source), expected, "{options:?}");
    }
}

#[test]
fn random_disks_come_back_from_every_format_whatever_the_order_of_reading() {
    let scene = scene();
    for seed in 10..16 {
        let mut random = Random(seed);
        let size = (1 + random.below(40)) * MIB;
        let map = sparse(&scene, size, 2 + random.below(8), seed);
        let mut expected = Vec::new();
        DiskReader::new(&scene.store, &map)
            .read_to_end(&mut expected)
            .unwrap();
        for format in OutputFormat::ALL {
            // Not of every size, not of every content.
            if matches!(
                format,
                OutputFormat::GcpTar | OutputFormat::Iso | OutputFormat::Netboot
            ) {
                continue;
            }
            let path = scene
                .folder
                .path()
                .join(format!("disk.{}", format.extension()));
            output::write(format, &map, &scene.store, &path).unwrap();
            let (_, mut source) = output::open(&path).unwrap();
            assert_eq!(source.seek(SeekFrom::End(0)).unwrap(), size, "{format}");
            for _ in 0..20 {
                let at = random.below(size) as usize;
                let length = 1 + random.below(200_000) as usize;
                source.seek(SeekFrom::Start(at as u64)).unwrap();
                let mut found = Vec::new();
                (&mut source)
                    .take(length as u64)
                    .read_to_end(&mut found)
                    .unwrap();
                let end = expected.len().min(at + length);
                assert!(found == expected[at..end], "{format} at {at}");
            }
            // From a file come the same bytes as from the store.
            if format != OutputFormat::Raw {
                let again = scene
                    .folder
                    .path()
                    .join(format!("again/disk.{}", format.extension()));
                std::fs::create_dir_all(again.parent().unwrap()).unwrap();
                let raw = scene.folder.path().join("disk.raw");
                output::convert(&raw, format, &again, &slipform::base::progress::Quiet).unwrap();
                assert_eq!(
                    output::sha256(&again).unwrap(),
                    output::sha256(&path).unwrap(),
                    "{format}"
                );
            }
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_with_a_remedy() {
    let scene = scene();
    let refused = |format, map: &DiskMap| {
        let path = scene.folder.path().join("out/disk");
        let error = output::write(format, map, &scene.store, &path)
            .unwrap_err()
            .to_string();
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0
        );
        error
    };
    let mut map = sparse(&scene, 2 * MIB + 4096, 2, 6);
    assert!(refused(OutputFormat::Vhd, &map).contains("disk-multiple = \"1MiB\""));
    assert!(refused(OutputFormat::GcpTar, &map).contains("disk-multiple = \"1GiB\""));
    map.sector_size = 4096;
    for format in [
        OutputFormat::Vmdk,
        OutputFormat::Ova,
        OutputFormat::GcpTar,
        OutputFormat::VhdDynamic,
    ] {
        assert!(
            refused(format, &map).contains("sector-size = 512"),
            "{format}"
        );
    }
    // Formats that say how long a sector is, say it.
    let path = scene.folder.path().join("disk.vhdx");
    output::write(OutputFormat::Vhdx, &map, &scene.store, &path).unwrap();
}
