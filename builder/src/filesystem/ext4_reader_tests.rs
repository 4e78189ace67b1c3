use std::io::Cursor;

use super::*;
use crate::base::Digest;
use crate::filesystem::{Ext4Options, ext4};
use crate::store::Store;

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: 70_000,
        gid: 5,
        mtime: 4_400_000_000,
        xattrs: BTreeMap::new(),
    }
}

fn add(tree: &mut Tree, path: &str, kind: Kind) {
    let meta = meta(0o750);
    tree.nodes.insert(path.to_owned(), Node { meta, kind });
}

fn file(bytes: Vec<u8>) -> Kind {
    Kind::File(Content {
        size: bytes.len() as u64,
        digest: None,
        source: Source::Bytes(bytes),
    })
}

/// A tree with everything that is read in a way of its own.
fn sample() -> Tree {
    let mut tree = Tree::default();
    add(&mut tree, "", Kind::Directory);
    add(&mut tree, "empty", file(vec![]));
    add(
        &mut tree,
        "file",
        file((0..20_000u32).map(|n| n as u8).collect()),
    );
    add(&mut tree, "gone", Kind::CharDevice(0, 0));
    add(&mut tree, "large", Kind::CharDevice(300, 70_000));
    add(&mut tree, "disk", Kind::BlockDevice(8, 1));
    add(&mut tree, "pipe", Kind::Fifo);
    add(&mut tree, "socket", Kind::Socket);
    for length in [1, 59, 60, 4095] {
        add(
            &mut tree,
            &format!("link{length}"),
            Kind::Symlink("x".repeat(length)),
        );
    }
    add(&mut tree, "many", Kind::Directory);
    for index in 0..2000 {
        add(
            &mut tree,
            &format!("many/a longer name {index}"),
            file(vec![]),
        );
    }
    add(&mut tree, "opaque", Kind::Directory);
    let mut long = meta(0o700);
    for (name, value) in [
        ("trusted.overlay.opaque", b"y".to_vec()),
        ("security.capability", vec![1; 20]),
        ("user.long", vec![b'x'; 3000]),
    ] {
        long.xattrs.insert(name.to_owned(), value);
    }
    tree.nodes.get_mut("opaque").unwrap().meta = long;
    tree
}

fn image(tree: &Tree, root: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    let options = Ext4Options {
        seed: Digest::of("x"),
        label: "x",
        root,
    };
    let open = |content: &Content| -> io::Result<Box<dyn Read>> {
        let Source::Bytes(bytes) = &content.source else {
            unreachable!()
        };
        Ok(Box::new(Cursor::new(bytes.clone())))
    };
    let image = ext4::write(&store, tree, &options, &open).unwrap();
    std::fs::read(image.file.path()).unwrap()
}

/// The tree without the places of its contents.
fn bare(mut tree: Tree) -> Tree {
    for node in tree.nodes.values_mut() {
        if let Kind::File(content) = &mut node.kind {
            content.source = Source::Inode(0);
        }
    }
    tree
}

#[test]
fn reads_what_was_written() {
    let tree = sample();
    let mut reader = Ext4Reader::open(Cursor::new(image(&tree, "rootfs"))).unwrap();
    let mut budget = Budget::default();
    let read = reader.tree("rootfs", &mut budget).unwrap();
    assert_eq!(bare(read.clone()), bare(tree.clone()));
    for (path, node) in &read.nodes {
        let (Kind::File(found), Kind::File(content)) = (&node.kind, &tree.nodes[path].kind) else {
            continue;
        };
        let (Source::Inode(number), Source::Bytes(expected)) = (&found.source, &content.source)
        else {
            unreachable!()
        };
        let mut bytes = Vec::new();
        let mut content = reader.content(*number, &mut budget).unwrap();
        content.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, *expected, "{path}");
    }
    // Around the folder stands lost+found.
    let outer = reader.tree("", &mut budget).unwrap();
    assert!(outer.nodes.contains_key("lost+found") && outer.nodes.contains_key("rootfs/file"));
}

#[test]
fn a_missing_root_and_other_file_systems_are_refused() {
    let mut reader = Ext4Reader::open(Cursor::new(image(&sample(), ""))).unwrap();
    let error = reader.tree("rootfs", &mut Budget::default()).unwrap_err();
    assert!(error.to_string().contains("no folder 'rootfs'"), "{error}");
    let error = reader.tree("empty", &mut Budget::default()).unwrap_err();
    assert!(
        error.to_string().contains("the root is no folder"),
        "{error}"
    );
    let none = Ext4Reader::open(Cursor::new(vec![0; 1 << 20])).unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::InvalidData);
    let mut cut = image(&sample(), "");
    cut.truncate(1 << 20);
    let error = Ext4Reader::open(Cursor::new(cut)).unwrap_err();
    assert!(error.to_string().contains("s_blocks_count"), "{error}");
}

#[test]
fn every_budget_holds() {
    let image = image(&sample(), "");
    let fails = |budget: Budget| {
        let mut budget = budget;
        let mut reader = Ext4Reader::open(Cursor::new(&image)).unwrap();
        let error = reader.tree("", &mut budget).unwrap_err();
        assert!(error.to_string().contains("more"), "{error}");
    };
    let whole = Budget::default();
    fails(Budget {
        nodes: 500,
        ..whole
    });
    fails(Budget {
        bytes: 20_000,
        ..whole
    });
    fails(Budget {
        blocks: 10,
        ..whole
    });
}

#[test]
fn names_that_are_no_text_are_escaped() {
    assert_eq!(text("ü".as_bytes()), "ü");
    assert_eq!(text(b"a\xff\xfeb"), "a\\xff\\xfeb");
}
