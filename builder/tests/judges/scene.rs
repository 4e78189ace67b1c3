//! What the judges look at: a store, random trees, a boot stub, a cast disk.

use std::collections::BTreeMap;
use std::io::{self, Read};

use slipform::base::{Digest, EPOCH};
use slipform::disk::{CastInput, Disk, DiskFacts, cast};
use slipform::filesystem::{Ext4Options, FsImage, Initrd, ext4};
use slipform::layers::{Content, Kind, Meta, Source};
use slipform::store::Store;
use slipform::tree::{Node, Tree};
use slipform::uki::{self, UkiBlob, UkiInput, assemble};
use slipform::verity::{Sealed, seal};

/// A store in a folder that goes away with it.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Store,
}

pub(crate) fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    Scene { folder, store }
}

/// xorshift64*: the same numbers everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The test's content: the bytes given, then zeros up to the declared size.
pub(crate) fn open(content: &Content) -> io::Result<Box<dyn Read>> {
    let Source::Bytes(bytes) = &content.source else {
        return Err(io::Error::other("the tests have bytes only"));
    };
    let zeros = content.size - bytes.len() as u64;
    Ok(Box::new(
        io::Cursor::new(bytes.clone()).chain(io::repeat(0).take(zeros)),
    ))
}

pub(crate) fn file(bytes: Vec<u8>, size: u64) -> Kind {
    Kind::File(Content {
        size,
        digest: None,
        source: Source::Bytes(bytes),
    })
}

pub(crate) fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: 0,
        gid: 0,
        mtime: EPOCH,
        xattrs: BTreeMap::new(),
    }
}

pub(crate) fn add(tree: &mut Tree, path: &str, meta: Meta, kind: Kind) {
    tree.nodes.insert(path.to_owned(), Node { meta, kind });
}

/// A tree with the root folder alone.
pub(crate) fn empty() -> Tree {
    let mut tree = Tree::default();
    add(&mut tree, "", meta(0o755), Kind::Directory);
    tree
}

/// A small fixed tree.
pub(crate) fn small() -> Tree {
    let mut tree = empty();
    add(&mut tree, "usr", meta(0o755), Kind::Directory);
    add(&mut tree, "usr/bin", meta(0o755), Kind::Directory);
    add(
        &mut tree,
        "usr/bin/app",
        meta(0o4755),
        file(b"#!/bin/sh\necho hello\n".to_vec(), 21),
    );
    add(
        &mut tree,
        "usr/bin/also",
        meta(0o644),
        Kind::Hardlink("usr/bin/app".to_owned()),
    );
    add(
        &mut tree,
        "usr/big",
        meta(0o600),
        file(vec![7; 5000], 300_000),
    );
    add(
        &mut tree,
        "bin",
        meta(0o777),
        Kind::Symlink("usr/bin".to_owned()),
    );
    add(&mut tree, "gone", meta(0), Kind::CharDevice(0, 0));
    tree
}

pub(crate) fn image(scene: &Scene, tree: &Tree, root: &str) -> FsImage {
    let options = Ext4Options {
        seed: Digest::of("judges"),
        label: "judged",
        root,
    };
    ext4::write(&scene.store, tree, &options, &open).unwrap()
}

pub(crate) fn sealed(scene: &Scene, tree: &Tree) -> Sealed {
    seal(&scene.store, image(scene, tree, ""), &Digest::of("judges")).unwrap()
}

/// A stub of one section: PE32+ headers as small as the format allows.
pub(crate) fn stub() -> Vec<u8> {
    let mut bytes = vec![0; 0x600];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664u16.to_le_bytes());
    put(0x46, &1u16.to_le_bytes());
    put(0x54, &240u16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    put(0x58 + 32, &0x1000u32.to_le_bytes());
    put(0x58 + 36, &0x200u32.to_le_bytes());
    put(0x58 + 56, &0x2000u32.to_le_bytes());
    put(0x58 + 60, &0x400u32.to_le_bytes());
    put(0x58 + 108, &16u32.to_le_bytes());
    let section = 0x58 + 240;
    put(section, b".text");
    put(section + 8, &0x10u32.to_le_bytes());
    put(section + 12, &0x1000u32.to_le_bytes());
    put(section + 16, &0x200u32.to_le_bytes());
    put(section + 20, &0x400u32.to_le_bytes());
    bytes
}

/// A unified kernel image with a kernel of `size` bytes that is none.
pub(crate) fn boot_entry(scene: &Scene, size: usize) -> UkiBlob {
    boot_entry_with(scene, size, &machine())
}

fn boot_entry_with(scene: &Scene, size: usize, machine: &str) -> UkiBlob {
    let mut kernel = b"MZ".to_vec();
    kernel.extend(Random(5).bytes(size as u64 - 2));
    let mut initrd = Initrd::new(Vec::new());
    initrd
        .file("/machine.json", 0o644, machine.as_bytes())
        .unwrap();
    let initrd = initrd.finish().unwrap();
    let input = UkiInput {
        stub: uki::Source::Bytes(&stub()),
        kernel: uki::Source::Bytes(&kernel),
        cmdline: "console=ttyS0 quiet",
        osrel: "ID=slipform\nNAME=Slipform\n",
        uname: "6.12.0",
        initrds: &[uki::Source::Bytes(&initrd)],
    };
    assemble(&scene.store, &input).unwrap()
}

pub(crate) fn machine() -> String {
    r#"{"schema":1,"name":"judged","version":"1","board":"test","layers":[],"clock_floor":0,"panic_seconds":10}"#.to_owned()
}

/// A disk with two layers.
pub(crate) fn disk(scene: &Scene, facts: &DiskFacts, app: &[u8]) -> Disk {
    let mut top = empty();
    add(
        &mut top,
        "app",
        meta(0o755),
        file(app.to_vec(), app.len() as u64),
    );
    let layers = [
        ("base".to_owned(), sealed(scene, &small())),
        ("app".to_owned(), sealed(scene, &top)),
    ];
    let uki = boot_entry(scene, 3_000_000);
    let seed = Digest::of(machine());
    cast(
        &scene.store,
        &CastInput {
            bios: None,
            facts,
            layers: &layers,
            uki,
            seed,
        },
    )
    .unwrap()
}

/// A small disk as a machine stacks it: layers in `rootfs`, the upper one with
/// whiteouts. Its machine.json is none, so that the partitions are the stack.
pub(crate) fn stacked_disk(scene: &Scene, app: &[u8]) -> Disk {
    let mut top = empty();
    add(&mut top, "usr", meta(0o755), Kind::Directory);
    add(&mut top, "usr/big", meta(0), Kind::CharDevice(0, 0));
    let app = file(app.to_vec(), app.len() as u64);
    add(&mut top, "usr/app", meta(0o755), app);
    let layer = |tree: &Tree| {
        let image = image(scene, tree, "rootfs");
        seal(&scene.store, image, &Digest::of("judges")).unwrap()
    };
    let layers = [
        ("base".to_owned(), layer(&small())),
        ("app".to_owned(), layer(&top)),
    ];
    let input = CastInput {
        bios: None,
        facts: &DiskFacts::default(),
        layers: &layers,
        uki: boot_entry_with(scene, 100_000, "none"),
        seed: Digest::of("none"),
    };
    cast(&scene.store, &input).unwrap()
}
