//! Mutants of good inputs: a reader may refuse them, never panic, loop or eat the
//! memory. `SLIPFORM_FUZZ_SECONDS` sets the time of each target (see `slipform_fuzz`).

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use slipform::base::progress::Quiet;
use slipform::base::{Digest, MIB};
use slipform::disk::map::MAP_SCHEMA;
use slipform::disk::{DiskFacts, DiskMap, Extent, ExtentContent, gpt, inspect};
use slipform::filesystem::{Budget, Ext4Reader, Initrd, find_in_initrd};
use slipform::layers::{Kind, Source};
use slipform::output::{
    self, DiskSource, GcpTarReader, OutputFormat, Qcow2Reader, RawZstReader, VhdReader, VhdxReader,
    VmdkReader, open_ova,
};
use slipform::pipeline::Settings;
use slipform::pipeline::diff::Side;
use slipform::uki::{self, pe::Pe};
use slipform_fuzz::{Patch, fuzz, patches};

use crate::filesystems::nasty;
use crate::scene::{Random, disk, image, machine, scene, small, stacked_disk, stub};

/// Patches of one input.
const PATCHES: usize = 16;

/// The bytes that an input's patches change, within the ranges that are worth it.
fn changes(ranges: &[Range<u64>], input: &[u8]) -> BTreeMap<u64, u8> {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let mut changes = BTreeMap::new();
    for patch in patches(input).take(PATCHES) {
        for (index, byte) in patch.value.into_iter().take(patch.width).enumerate() {
            let mut at = (patch.at + index as u64) % total;
            for range in ranges {
                let length = range.end - range.start;
                if at < length {
                    changes.insert(range.start + at, byte);
                    break;
                }
                at -= length;
            }
        }
    }
    changes
}

/// Nothing, and something at the beginning of every range, behind `first`.
fn patch_seeds(first: &[u8], ranges: &[Range<u64>]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let mut seeds = vec![first.to_vec()];
    for range in ranges {
        let patch = Patch {
            at,
            width: 4,
            value: [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        };
        seeds.push([first, &patch.to_bytes()].concat());
        at += range.end - range.start;
    }
    seeds
}

#[test]
fn pe_images() {
    let good = stub();
    // The headers, where everything is.
    fuzz(&[&good[..0x200]], |headers, random| {
        let bytes = [headers, &good[0x200..0x600]].concat();
        if let Ok(pe) = Pe::parse(&bytes, bytes.len() as u64) {
            let added = [
                (".linux", random.below(1 << 32) as u64),
                (".initrd", random.below(1 << 20) as u64),
            ];
            if let Ok(plan) = pe.append(&bytes, &added) {
                let again = Pe::parse(&plan.headers, plan.file_length).unwrap();
                assert_eq!(again.sections.len(), pe.sections.len() + 2);
            }
        }
        let _ = uki::read(&mut Cursor::new(bytes));
    });
}

#[test]
fn initrds() {
    let mut archive = Initrd::new(Vec::new());
    archive.file("/a/b", 0o755, &[1; 300]).unwrap();
    archive
        .file("/machine.json", 0o644, machine().as_bytes())
        .unwrap();
    let archive = archive.finish().unwrap();
    let mut packed = zstd::bulk::compress(&archive, 3).unwrap();
    packed.resize(packed.len().next_multiple_of(4), 0);
    let good = [archive.clone(), packed, archive.clone()].concat();
    let [found] = find_in_initrd(&mut Cursor::new(&good), ["machine.json"], 4096).unwrap();
    assert!(found.is_some());
    fuzz(&[good, archive], |bytes, _| {
        let found = find_in_initrd(&mut Cursor::new(bytes), ["machine.json", "a/b"], 4096);
        let contents = found.into_iter().flatten().flatten();
        assert!(contents.into_iter().all(|content| content.len() <= 4096));
    });
}

#[test]
fn disk_maps() {
    let content = ExtentContent::Blob {
        digest: Digest::of("x"),
        offset: 5,
    };
    let extents = vec![
        Extent {
            offset: 0,
            length: 512,
            content,
        },
        Extent {
            offset: 4096,
            length: 9,
            content: ExtentContent::Zero,
        },
    ];
    let good = DiskMap {
        schema: MAP_SCHEMA,
        sector_size: 512,
        size: MIB,
        extents,
    }
    .to_json();
    fuzz(&[good], |bytes, _| {
        if let Ok(map) = DiskMap::from_json(bytes) {
            assert_eq!(DiskMap::from_json(&map.to_json()).unwrap(), map);
        }
    });
}

#[test]
fn qcow2_files() {
    let scene = scene();
    let mut blob = Random(7).bytes(100_000);
    blob.extend([42; 100_000]);
    let digest = scene.store.put(&blob).unwrap();
    let content = ExtentContent::Blob { digest, offset: 0 };
    let extents = vec![Extent {
        offset: 70_000,
        length: 200_000,
        content,
    }];
    let map = DiskMap {
        schema: MAP_SCHEMA,
        sector_size: 512,
        size: 4 * MIB,
        extents,
    };
    let path = scene.folder.path().join("disk.qcow2");
    output::write(OutputFormat::Qcow2, &map, &scene.store, &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    // Headers and tables are where lies are worth something.
    let end = good.len() as u64;
    let ranges = [0..112, 65_536..65_544, end - 4 * 65_536..end - 2 * 65_536];
    fuzz(&patch_seeds(&[], &ranges), |input, random| {
        let mut bytes = good.clone();
        for (at, byte) in changes(&ranges, input) {
            bytes[at as usize] = byte;
        }
        let Ok(mut reader) = Qcow2Reader::open(Cursor::new(bytes)) else {
            return;
        };
        let size = reader.size();
        for _ in 0..4 {
            let at = random.below(size as usize) as u64;
            reader.seek(SeekFrom::Start(at)).unwrap();
            let mut buffer = [0; 70_000];
            let _ = reader.read(&mut buffer);
        }
        let _ = inspect(&mut reader);
    });
}

/// What of a format's file is worth lying about, in a file of `length` bytes.
fn interesting(format: OutputFormat, length: u64) -> Vec<Range<u64>> {
    const KIB: u64 = 1024;
    match format {
        OutputFormat::RawZst => vec![0..32, length - 200..length],
        OutputFormat::Vhd => vec![length - 512..length - 448, length - 448..length - 400],
        OutputFormat::VhdDynamic => vec![512..560, 1536..1544, length - 512..length - 400],
        OutputFormat::Vhdx => vec![
            64 * KIB..64 * KIB + 80,
            192 * KIB..192 * KIB + 80,
            2 * MIB..2 * MIB + 192,
            2 * MIB + 64 * KIB..2 * MIB + 64 * KIB + 40,
            3 * MIB..3 * MIB + 48,
        ],
        OutputFormat::Vmdk => vec![0..80, 21 * 512..21 * 512 + 8, 22 * 512..22 * 512 + 128],
        OutputFormat::VmdkStream => vec![0..80, 64 * KIB..64 * KIB + 32, length - 1024..length],
        // Headers of the members; the disk's first grain.
        OutputFormat::Ova => vec![0..512, 4096..8192, 64 * KIB..80 * KIB],
        _ => vec![100..512, 512..1536],
    }
}

/// Makes the checksums right again, so that what is behind them is read.
fn mend(format: OutputFormat, bytes: &mut [u8]) {
    let length = bytes.len();
    let spans = match format {
        OutputFormat::Vhd => vec![(length.wrapping_sub(512), 512, 64)],
        OutputFormat::VhdDynamic => vec![(length.wrapping_sub(512), 512, 64), (512, 1024, 36)],
        OutputFormat::Vhdx => vec![(65_536, 4096, 4), (196_608, 65_536, 4)],
        _ => Vec::new(),
    };
    for (start, size, at) in spans {
        let Some(span) = bytes.get_mut(start..start.saturating_add(size)) else {
            continue;
        };
        span[at..at + 4].fill(0);
        let sum = if format == OutputFormat::Vhdx {
            crc32c::crc32c(span).to_le_bytes()
        } else {
            (!span.iter().map(|byte| u32::from(*byte)).sum::<u32>()).to_be_bytes()
        };
        span[at..at + 4].copy_from_slice(&sum);
    }
}

/// Opens bytes as what they are said to be.
fn open_as(format: OutputFormat, bytes: Vec<u8>) -> io::Result<Box<dyn DiskSource>> {
    let file = Cursor::new(bytes);
    Ok(match format {
        OutputFormat::RawZst => Box::new(RawZstReader::open(file)?),
        OutputFormat::Vhd | OutputFormat::VhdDynamic => Box::new(VhdReader::open(file)?),
        OutputFormat::Vhdx => Box::new(VhdxReader::open(file)?),
        OutputFormat::Vmdk | OutputFormat::VmdkStream => Box::new(VmdkReader::open(file)?),
        OutputFormat::Ova => Box::new(open_ova(file)?),
        _ => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
            gzip.write_all(file.get_ref())?;
            Box::new(GcpTarReader::open(Cursor::new(gzip.finish()?))?)
        }
    })
}

/// Patches in the files of some formats; an input's first byte says which.
fn image_files(formats: &[OutputFormat]) {
    let scene = scene();
    let mut seeds = Vec::new();
    let good = formats.iter().zip(0..).map(|(format, index)| {
        let size = if *format == OutputFormat::GcpTar {
            1024 * MIB
        } else {
            2 * MIB
        };
        let map = crate::formats::sparse(&scene, size, 3, 9);
        let path = scene.folder.path().join(format.extension());
        output::write(*format, &map, &scene.store, &path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        if *format == OutputFormat::GcpTar {
            let packed = std::mem::take(&mut bytes);
            let mut gzip = flate2::read::GzDecoder::new(&packed[..]);
            gzip.read_to_end(&mut bytes).unwrap();
        }
        assert!(open_as(*format, bytes.clone()).is_ok(), "{format}");
        let ranges = interesting(*format, bytes.len() as u64);
        seeds.extend(patch_seeds(&[index], &ranges));
        (*format, bytes, ranges)
    });
    let good: Vec<_> = good.collect();
    fuzz(&seeds, |input, random| {
        let (first, input) = input.split_first().unwrap_or((&0, &[]));
        let (format, bytes, ranges) = &good[usize::from(*first) % good.len()];
        let mut bytes = bytes.clone();
        for (at, byte) in changes(ranges, input) {
            bytes[at as usize] = byte;
        }
        if random.below(4) > 0 {
            mend(*format, &mut bytes);
        }
        let Ok(mut disk) = open_as(*format, bytes) else {
            return;
        };
        let size = disk.seek(SeekFrom::End(0)).unwrap();
        for _ in 0..4 {
            let at = random.below(size as usize) as u64;
            disk.seek(SeekFrom::Start(at)).unwrap();
            let _ = disk.read(&mut [0; 70_000]);
        }
        let _ = inspect(&mut disk);
    });
}

#[test]
fn vhd_files() {
    image_files(&[
        OutputFormat::Vhd,
        OutputFormat::VhdDynamic,
        OutputFormat::Vhdx,
    ]);
}

#[test]
fn vmdk_files() {
    image_files(&[
        OutputFormat::Vmdk,
        OutputFormat::VmdkStream,
        OutputFormat::Ova,
    ]);
}

#[test]
fn packed_files() {
    image_files(&[OutputFormat::RawZst, OutputFormat::GcpTar]);
}

/// A file with some bytes changed on the way.
struct Patched<'a> {
    file: &'a std::fs::File,
    patches: BTreeMap<u64, u8>,
}

impl Read for Patched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.file.stream_position()?;
        let read = self.file.read(buffer)?;
        for (offset, byte) in self.patches.range(at..at + read as u64) {
            buffer[(offset - at) as usize] = *byte;
        }
        Ok(read)
    }
}

impl Seek for Patched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn disks() {
    let scene = scene();
    let disk = disk(&scene, &DiskFacts::default(), b"the app");
    let path = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &disk.map, &scene.store, &path).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    // Everything that is parsed: tables, boot sector, FAT, folders, the boot
    // entry's headers and initrd, the layers' superblocks.
    let esp = MIB;
    let uki = disk
        .map
        .extents
        .iter()
        .find(|extent| extent.length > 3_000_000)
        .unwrap();
    let layer = disk.layers[0].offset;
    let interesting = [
        0..17_408,
        esp..esp + 96,
        // The FAT, behind eight sectors.
        esp + 4096..esp + 4096 + 64,
        uki.offset - 4096..uki.offset + 1024,
        uki.end() - 2048..uki.end(),
        layer + 1024..layer + 2048,
        layer + (16 << 20)..layer + (16 << 20) + 512,
    ];
    fuzz(&patch_seeds(&[], &interesting), |input, _| {
        let patches = changes(&interesting, input);
        let info = inspect(&mut Patched {
            file: &file,
            patches,
        });
        assert!(info.ok().is_none_or(|info| info.partitions.len() <= 128));
    });
    // Tables that lie with good checksums: 18 bytes for each partition.
    let entry = |kind: u8, name: u8, first: u64, last: u64| {
        let (first, last) = (first.to_le_bytes(), last.to_le_bytes());
        [&[kind, name], &first[..], &last].concat()
    };
    let good = [entry(0, 3, 2048, 133_119), entry(1, 9, 133_120, 266_239)].concat();
    fuzz(&[&[], &good[..]], |input, _| {
        let guid = |number| uuid::Uuid::from_u128(number);
        let entries = input.as_chunks::<18>().0.iter().take(128).zip(0..);
        let partitions: Vec<_> = entries
            .map(|([kind, name, lbas @ ..], index)| {
                let [first, last] =
                    [&lbas[..8], &lbas[8..]].map(|lba| u64::from_le_bytes(lba.try_into().unwrap()));
                gpt::Partition {
                    type_guid: [gpt::ESP_TYPE, gpt::LAYER_TYPE, guid(1)][usize::from(kind % 3)],
                    guid: guid(index),
                    first_lba: first,
                    last_lba: last,
                    attributes: first ^ last,
                    name: "n".repeat(usize::from(name % 50)),
                }
            })
            .collect();
        let tables = gpt::tables(512, disk.map.size / 512, guid(2), &partitions).unwrap();
        let patches = tables
            .primary
            .iter()
            .enumerate()
            .map(|(at, byte)| (at as u64, *byte));
        let _ = inspect(&mut Patched {
            file: &file,
            patches: patches.collect(),
        });
    });
}

/// Reads all that there is, in bounds.
fn read_files<R: Read + Seek>(source: R) -> io::Result<()> {
    let mut budget = Budget {
        nodes: 20_000,
        bytes: 4 << 20,
        blocks: 20_000,
    };
    let mut reader = Ext4Reader::open(source)?;
    let tree = reader.tree("", &mut budget)?;
    assert!(tree.nodes.len() <= 20_000);
    assert_eq!(tree.fault(), None);
    for node in tree.nodes.values() {
        let Kind::File(content) = &node.kind else {
            continue;
        };
        let Source::Inode(inode) = content.source else {
            unreachable!()
        };
        let mut content = reader.content(inode, &mut budget)?.take(1 << 20);
        let _ = io::copy(&mut content, &mut io::sink());
    }
    Ok(())
}

#[test]
fn file_systems() {
    let scene = scene();
    let mut seeds = Vec::new();
    let images = [small(), nasty(3)].map(|tree| image(&scene, &tree, ""));
    let images: Vec<_> = images
        .iter()
        .zip(0..)
        .map(|(image, index)| {
            let file = std::fs::File::open(image.file.path()).unwrap();
            let mut whole = Vec::new();
            (&file).read_to_end(&mut whole).unwrap();
            read_files(Cursor::new(&whole)).unwrap();
            // The superblock, and blocks with anything in them: metadata is among the first.
            let blocks = whole.chunks(4096).zip(0..);
            let ranges = blocks
                .filter(|(block, _)| block.iter().any(|byte| *byte != 0))
                .map(|(_, at)| at * 4096..(at + 1) * 4096);
            let ranges: Vec<_> = std::iter::once(1024..1536)
                .chain(ranges.take(120))
                .collect();
            seeds.extend(patch_seeds(&[index], &ranges));
            (file, ranges)
        })
        .collect();
    fuzz(&seeds, |input, _| {
        let (first, input) = input.split_first().unwrap_or((&0, &[]));
        let (file, ranges) = &images[usize::from(*first) % images.len()];
        let patches = changes(ranges, input);
        let _ = read_files(Patched { file, patches });
    });
}

#[test]
fn differences() {
    let scene = scene();
    let path = |name: &str| scene.folder.path().join(name);
    let write = |name: &str, app: &[u8]| {
        let disk = stacked_disk(&scene, app);
        output::write(OutputFormat::Raw, &disk.map, &scene.store, &path(name)).unwrap();
        disk
    };
    write("old.raw", b"one");
    let disk = write("new.raw", b"two");
    let store = Some(scene.store.root().to_owned());
    let settings = Settings::new(store, None, true, Arc::new(Quiet)).unwrap();
    let [old, new] = ["old.raw", "new.raw"].map(|name| Side::File(path(name)));
    let diff = settings.diff(&old, &new).unwrap();
    let files = diff.images[0].files.as_ref().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["/usr/app"]);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path("new.raw"))
        .unwrap();
    // Tables, the boot entry, and the metadata of both layers.
    let mut interesting = vec![0..17_408, MIB..MIB + 4096 + 64];
    for layer in &disk.layers {
        interesting.push(layer.offset + 1024..layer.offset + 2048);
        interesting.push(layer.offset + 4096..layer.offset + 64 * 4096);
    }
    fuzz(&patch_seeds(&[], &interesting), |input, _| {
        let mut undo = Vec::new();
        for (at, byte) in changes(&interesting, input) {
            let mut before = [0];
            file.read_exact_at(&mut before, at).unwrap();
            file.write_all_at(&[byte], at).unwrap();
            undo.push((at, before));
        }
        let told = settings.diff(&old, &new);
        let error = told.err().map(|error| error.to_string());
        assert!(error.is_none_or(|error| error.contains("new.raw")));
        for (at, before) in undo.into_iter().rev() {
            file.write_all_at(&before, at).unwrap();
        }
    });
    assert_eq!(settings.diff(&old, &new).unwrap(), diff);
}
