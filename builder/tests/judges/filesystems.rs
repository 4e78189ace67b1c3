//! ext4 and dm-verity: e2fsck, debugfs, veritysetup, and an independent reader.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path as HostPath;

use ext4_view::{Ext4, FileType, Path};
use slipform::base::Digest;
use slipform::filesystem::{Budget, Ext4Options, Ext4Reader, FilesystemError, ext4};
use slipform::layers::{Kind, Source};
use slipform::tree::Tree;
use slipform::verity::{format, seal};

use crate::scene::{Random, add, empty, file, image, meta, open, scene, small};
use crate::tools::{content, judge};

/// Lengths that break off-by-one mistakes.
const SIZES: [u64; 12] = [
    0, 1, 59, 60, 4095, 4096, 4097, 8191, 8192, 8193, 65_536, 200_001,
];

/// A tree with everything that a file system can get wrong.
pub(crate) fn nasty(seed: u64) -> Tree {
    let mut random = Random(seed);
    let mut tree = empty();
    let mut folders = vec![String::new()];
    for index in 0..400 {
        let parent = folders[random.below(folders.len() as u64) as usize].clone();
        let name = match random.below(5) {
            0 => format!("{index}-{}", "n".repeat(250)),
            1 => format!("{index} ü€ \u{1f980} \"'\\"),
            _ => format!("n{index}"),
        };
        let path = format!("{parent}/{name}")
            .trim_start_matches('/')
            .to_owned();
        let mut meta = meta(random.below(0o10000) as u32);
        meta.uid = [0, 1000, 70_000, 4_000_000_000][random.below(4) as usize];
        meta.gid = random.below(70_000) as u32;
        // The reader refuses what has bit 31 set; see the test with debugfs.
        meta.mtime = [0, 1_577_836_800, 2_147_483_647, 4_400_000_000][random.below(4) as usize];
        let kind = match random.below(10) {
            0 | 1 => {
                folders.push(path.clone());
                Kind::Directory
            }
            2 => {
                let length = [1, 58, 59, 60, 61, 4095][random.below(6) as usize];
                Kind::Symlink("t/".repeat(2048)[..length].to_owned())
            }
            3 => Kind::CharDevice(random.below(4096) as u32, random.below(1 << 20) as u32),
            4 => Kind::BlockDevice(random.below(256) as u32, random.below(256) as u32),
            5 => [Kind::Fifo, Kind::Socket][random.below(2) as usize].clone(),
            _ => {
                let size = SIZES[random.below(SIZES.len() as u64) as usize];
                file(random.bytes(size), size)
            }
        };
        add(&mut tree, &path, meta, kind);
    }
    let first = tree
        .nodes
        .iter()
        .find(|(_, node)| matches!(node.kind, Kind::File(_)));
    let target = first.map(|(path, _)| path.clone()).unwrap();
    for index in 0..40 {
        add(
            &mut tree,
            &format!("link{index}"),
            meta(0),
            Kind::Hardlink(target.clone()),
        );
    }
    special(&mut tree);
    tree
}

/// What every nasty tree has: a deep path, a large folder, holes, attributes, whiteouts.
fn special(tree: &mut Tree) {
    let mut deep = "deep".to_owned();
    for level in 0..60 {
        add(tree, &deep, meta(0o755), Kind::Directory);
        let _ = write!(deep, "/level{level}");
    }
    add(tree, "many", meta(0o755), Kind::Directory);
    for index in 0..3000 {
        add(
            tree,
            &format!("many/file with a longer name {index:05}"),
            meta(0o644),
            file(vec![], 0),
        );
    }
    add(tree, "holes", meta(0o644), file(vec![1; 100], 40_000_000));
    add(tree, "white", meta(0), Kind::CharDevice(0, 0));
    let mut opaque = meta(0o755);
    opaque
        .xattrs
        .insert("trusted.overlay.opaque".to_owned(), b"y".to_vec());
    add(tree, "opaque", opaque, Kind::Directory);
    let mut capable = meta(0o755);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    capable
        .xattrs
        .insert("security.capability".to_owned(), capability.to_vec());
    capable
        .xattrs
        .insert("user.long".to_owned(), vec![b'x'; 3000]);
    add(tree, "capable", capable, file(b"x".to_vec(), 1));
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File(_) | Kind::Hardlink(_) => FileType::Regular,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice(..) => FileType::CharacterDevice,
        Kind::BlockDevice(..) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
    }
}

/// Compares every entry, its metadata and its content, and that there are no others.
fn compare(tree: &Tree, path: &HostPath) {
    let fs = Ext4::load_from_path(path).unwrap();
    let mut found = 0;
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let absolute = format!("/{folder}");
        for entry in fs
            .read_dir(Path::try_from(absolute.as_str()).unwrap())
            .unwrap()
        {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_owned();
            let path = format!("{folder}/{name}")
                .trim_start_matches('/')
                .to_owned();
            if name == "." || name == ".." || path == "lost+found" {
                continue;
            }
            assert!(tree.nodes.contains_key(&path), "unexpected {path}");
            found += 1;
            if entry.file_type().unwrap() == FileType::Directory {
                folders.push(path);
            }
        }
    }
    assert_eq!(found, tree.nodes.len() - 1, "entries without the root");
    for (path, node) in &tree.nodes {
        let node = match &node.kind {
            Kind::Hardlink(target) => &tree.nodes[target],
            _ => node,
        };
        let absolute = format!("/{path}");
        let absolute = Path::try_from(absolute.as_str()).unwrap();
        let found = fs.symlink_metadata(absolute).unwrap();
        assert_eq!(found.file_type(), file_type(&node.kind), "{path}");
        assert_eq!(
            (u32::from(found.mode()), found.uid(), found.gid()),
            (node.meta.mode, node.meta.uid, node.meta.gid),
            "{path}"
        );
        let seconds = found.modified().seconds();
        assert_eq!(seconds, node.meta.mtime, "{path}");
        match &node.kind {
            Kind::File(expected) => {
                let Source::Bytes(bytes) = &expected.source else {
                    unreachable!()
                };
                let read = fs.read(absolute).unwrap();
                assert!(
                    read.len() as u64 == expected.size && read.starts_with(bytes),
                    "{path}"
                );
                assert!(read[bytes.len()..].iter().all(|byte| *byte == 0), "{path}");
            }
            Kind::Symlink(target) => {
                assert_eq!(
                    fs.read_link(absolute).unwrap().display().to_string(),
                    *target,
                    "{path}"
                );
            }
            _ => {}
        }
    }
}

/// What our own reader, by which images are compared, finds: the very tree.
fn read_back(tree: &Tree, path: &HostPath) {
    let mut reader = Ext4Reader::open(std::fs::File::open(path).unwrap()).unwrap();
    let mut budget = Budget::default();
    let mut read = reader.tree("", &mut budget).unwrap();
    read.nodes.remove("lost+found");
    assert!(read.nodes.keys().eq(tree.nodes.keys()));
    for (path, found) in &read.nodes {
        let mut node = &tree.nodes[path];
        if let Kind::Hardlink(target) = &node.kind {
            node = &tree.nodes[target];
        }
        assert_eq!(found.meta, node.meta, "{path}");
        let (Kind::File(content), Kind::File(expected)) = (&found.kind, &node.kind) else {
            assert_eq!(found.kind, node.kind, "{path}");
            continue;
        };
        let (Source::Inode(inode), Source::Bytes(bytes)) = (&content.source, &expected.source)
        else {
            unreachable!()
        };
        let mut read = Vec::new();
        let mut content = reader.content(*inode, &mut budget).unwrap();
        content.read_to_end(&mut read).unwrap();
        assert!(
            read.len() as u64 == expected.size && read.starts_with(bytes),
            "{path}"
        );
        assert!(read[bytes.len()..].iter().all(|byte| *byte == 0), "{path}");
    }
}

#[test]
fn an_independent_reader_finds_every_entry_of_nasty_trees() {
    let scene = scene();
    for seed in [1, 2, 3] {
        let tree = nasty(seed);
        let image = image(&scene, &tree, "");
        compare(&tree, image.file.path());
        read_back(&tree, image.file.path());
        if let Some(mut e2fsck) = judge("e2fsck") {
            content(e2fsck.arg("-fn").arg(image.file.path()));
        }
        if let Some(mut debugfs) = judge("debugfs") {
            let said = content(
                debugfs
                    .args(["-R", "ea_get -x /capable security.capability"])
                    .arg(image.file.path()),
            );
            assert!(said.contains("01 00 00 02 00 04"), "{said}");
            debugfs_says(&image.file, "ea_get /opaque trusted.overlay.opaque", "y");
            debugfs_says(&image.file, "ea_list /capable", "user.long (3000)");
            debugfs_says(
                &image.file,
                "stat /white",
                "Device major/minor number: 00:00",
            );
            debugfs_says(&image.file, "stat /link0", "Links: 41");
        }
    }
}

fn debugfs_says(image: &tempfile::NamedTempFile, request: &str, expected: &str) {
    if let Some(mut debugfs) = judge("debugfs") {
        let said = content(debugfs.args(["-R", request]).arg(image.path()));
        assert!(said.contains(expected), "{request}: {said}");
    }
}

#[test]
fn times_from_1901_to_2446_are_kept() {
    let scene = scene();
    let mut tree = empty();
    let times = [
        (-(1i64 << 31), "0x80000000:00000000"),
        (-300_000_000, "0xee1e5d00:00000000"),
        (7_258_118_400, "0xb09e1900:00000002"),
        ((3 << 32) + (1 << 31) - 1, "0x7fffffff:00000003"),
    ];
    for (index, (mtime, _)) in times.iter().enumerate() {
        let mut meta = meta(0o644);
        meta.mtime = *mtime;
        add(&mut tree, &format!("{index}"), meta, file(vec![], 0));
    }
    let image = image(&scene, &tree, "");
    for (index, (_, raw)) in times.iter().enumerate() {
        debugfs_says(
            &image.file,
            &format!("stat /{index}"),
            &format!("mtime: {raw}"),
        );
    }
    if let Some(mut e2fsck) = judge("e2fsck") {
        content(e2fsck.arg("-fn").arg(image.file.path()));
    }
}

#[test]
fn images_of_every_size_class_are_clean_and_tight() {
    let scene = scene();
    // Around a block group of 128 MiB, and inodes beyond one group's bitmap.
    let group = 32_768 * 4096u64;
    let mut trees: BTreeMap<String, (Tree, u64)> = BTreeMap::new();
    trees.insert("empty".into(), (empty(), 16 << 20));
    for mebibytes in [11, 12, 13] {
        let mut tree = empty();
        add(&mut tree, "f", meta(0o644), file(vec![1], mebibytes << 20));
        trees.insert(format!("{mebibytes} MiB"), (tree, (mebibytes + 6) << 20));
    }
    for blocks in [
        -1200,
        -1100,
        -1090,
        -1080,
        -1060,
        -1000,
        0,
        32_768 * 16 - 1000,
    ] {
        let size = group.checked_add_signed(blocks * 4096).unwrap();
        let mut tree = empty();
        add(&mut tree, "f", meta(0o644), file(vec![1], size));
        trees.insert(
            format!("{size} bytes"),
            (tree, size + size / 500 + (5 << 20)),
        );
    }
    let mut tree = empty();
    for index in 0..40_000 {
        add(
            &mut tree,
            &format!("{index}"),
            meta(0),
            Kind::CharDevice(0, 0),
        );
    }
    trees.insert("40000 whiteouts".into(), (tree, 145 << 20));
    for (name, (tree, most)) in &trees {
        let image = image(&scene, tree, "");
        assert!(image.size <= *most, "{name}: {} > {most}", image.size);
        assert_eq!(image.size % 4096, 0);
        assert_eq!(image.file.as_file().metadata().unwrap().len(), image.size);
        if let Some(mut e2fsck) = judge("e2fsck") {
            content(e2fsck.arg("-fn").arg(image.file.path()));
        }
    }
}

#[test]
fn a_folder_of_its_own_keeps_lost_and_found_outside() {
    let scene = scene();
    let mut tree = small();
    tree.nodes.get_mut("").unwrap().meta.mode = 0o751;
    let image = image(&scene, &tree, "fs");
    let fs = Ext4::load_from_path(image.file.path()).unwrap();
    let names = |path: &str| -> Vec<String> {
        let entries = fs.read_dir(Path::try_from(path).unwrap()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/"), [".", "..", "lost+found", "fs"]);
    assert_eq!(names("/fs"), [".", "..", "bin", "gone", "usr"]);
    assert_eq!(
        fs.metadata(Path::try_from("/fs").unwrap()).unwrap().mode(),
        0o751
    );
}

#[test]
fn what_ext4_cannot_hold_is_named() {
    let scene = scene();
    let mut bad_xattr = meta(0o644);
    bad_xattr.xattrs.insert("user.x".to_owned(), vec![0; 5000]);
    let mut bad_space = meta(0o644);
    bad_space.xattrs.insert("nowhere.x".to_owned(), vec![]);
    let mut late = meta(0o644);
    late.mtime = i64::MAX;
    let empty_file = || file(vec![], 0);
    let cases: Vec<(String, _, Kind, &str)> = vec![
        ("n".repeat(256), meta(0), empty_file(), "name has 256 bytes"),
        (
            "d/missing".to_owned(),
            meta(0),
            empty_file(),
            "parent /d is not in",
        ),
        (
            "x".to_owned(),
            bad_xattr,
            empty_file(),
            "extended attributes",
        ),
        (
            "x".to_owned(),
            bad_space,
            empty_file(),
            "no recognized namespace",
        ),
        ("x".to_owned(), late, empty_file(), "1901 to 2446"),
        (
            "x".to_owned(),
            meta(0),
            Kind::CharDevice(5000, 0),
            "out of dev_t range",
        ),
        (
            "x".to_owned(),
            meta(0),
            Kind::Symlink(String::new()),
            "symlink target",
        ),
        (
            "x".to_owned(),
            meta(0),
            Kind::Hardlink("y".to_owned()),
            "hard link to /y",
        ),
        (
            "x".to_owned(),
            meta(0),
            file(vec![], u64::MAX),
            "largest file",
        ),
        (
            "lost+found".to_owned(),
            meta(0),
            empty_file(),
            "keeps this name",
        ),
    ];
    for (path, meta, kind, text) in cases {
        let mut tree = empty();
        add(&mut tree, &path, meta, kind);
        let error = write(&scene, &tree).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(text) && message.contains(&format!("/{path}")),
            "{message}"
        );
    }
    let mut tree = empty();
    add(&mut tree, "f", meta(0), empty_file());
    for index in 0..65_001 {
        add(
            &mut tree,
            &format!("{index}"),
            meta(0),
            Kind::Hardlink("f".to_owned()),
        );
    }
    let message = write(&scene, &tree).unwrap_err().to_string();
    assert!(message.contains("more than 65000 names"), "{message}");
    let left = std::fs::read_dir(scene.store.tmp()).unwrap().count();
    assert_eq!(left, 0, "nothing is left behind");
}

fn write(scene: &crate::scene::Scene, tree: &Tree) -> Result<(), FilesystemError> {
    let options = Ext4Options {
        seed: Digest::of("x"),
        label: "",
        root: "",
    };
    ext4::write(&scene.store, tree, &options, &open).map(drop)
}

#[test]
fn content_that_changes_is_noticed() {
    let scene = scene();
    let options = Ext4Options {
        seed: Digest::of("x"),
        label: "",
        root: "",
    };
    let mut tree = empty();
    let Kind::File(mut declared) = file(b"12345".to_vec(), 5) else {
        unreachable!()
    };
    declared.digest = Some(Digest::of("12345"));
    add(&mut tree, "f", meta(0o644), Kind::File(declared));
    for (bytes, text) in [
        (&b"1234"[..], "shorter"),
        (b"123456", "longer"),
        (b"12346", "sha256:"),
        (b"12345", ""),
    ] {
        let written = ext4::write(&scene.store, &tree, &options, &|_| Ok(Box::new(bytes)));
        match written {
            Ok(_) => assert_eq!(text, ""),
            Err(error) => assert!(
                !text.is_empty() && error.to_string().contains(text),
                "{error}"
            ),
        }
    }
    let failing = |_: &slipform::layers::Content| Err(std::io::Error::other("the disk is on fire"));
    let error = ext4::write(&scene.store, &tree, &options, &failing).unwrap_err();
    assert!(
        error.to_string().contains("/f: the disk is on fire"),
        "{error}"
    );
}

#[test]
fn veritysetup_agrees_with_the_tree_and_the_root_hash() {
    let scene = scene();
    let sealed = seal(&scene.store, image(&scene, &nasty(4), ""), &Digest::of("s")).unwrap();
    let blob = scene.store.path(&sealed.blob);
    assert_eq!(Digest::of(std::fs::read(&blob).unwrap()), sealed.blob);
    let Some(mut verify) = judge("veritysetup") else {
        return;
    };
    let offset = format!("--hash-offset={}", sealed.data_blocks * 4096);
    content(
        verify
            .arg("verify")
            .arg(&blob)
            .arg(&blob)
            .arg(sealed.root_hex())
            .arg(&offset),
    );

    // The same by veritysetup: byte for byte, superblock included.
    let bytes = std::fs::read(&blob).unwrap();
    let data = scene.folder.path().join("data");
    let hash = scene.folder.path().join("hash");
    std::fs::write(&data, &bytes[..(sealed.data_blocks * 4096) as usize]).unwrap();
    let superblock =
        format::Superblock::parse(&bytes[(sealed.data_blocks * 4096) as usize..]).unwrap();
    let uuid = uuid::Uuid::from_bytes(superblock.uuid);
    assert_eq!(uuid.get_version_num(), 8);
    let mut format = judge("veritysetup").unwrap();
    format.arg("format").arg(&data).arg(&hash);
    content(
        format
            .arg(format!("--salt={}", sealed.salt_hex()))
            .arg(format!("--uuid={uuid}")),
    );
    assert!(bytes[(sealed.data_blocks * 4096) as usize..] == std::fs::read(&hash).unwrap());
}
