//! Archives of the user's, good and hostile.

use std::io::Cursor;
use std::time::{Duration, Instant};

use super::*;
use crate::layers::testing::{Item, gz, line, tar, xz};
use crate::layers::{Kind, content};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(Cursor::new(bytes), 3).unwrap()
}

/// Lines of what an archive's bytes bring, and how many devices were left out.
fn read(bytes: &[u8]) -> Result<(Vec<String>, u32), LayersError> {
    let (_dir, store) = store();
    let blob = store.put(bytes).unwrap();
    let unpacked = unpack(&store, &blob, "root.tar")?;
    let entries = unpacked.entries(&store, "root.tar")?;
    Ok((entries.iter().map(line).collect(), unpacked.devices))
}

/// The refusal of an archive, plain and compressed alike, each within a second.
fn refusal(items: &[Item]) -> String {
    let plain = tar(items);
    let refused = |bytes: &[u8]| {
        let begun = Instant::now();
        let error = read(bytes).expect_err("must be refused").to_string();
        assert!(begun.elapsed() < Duration::from_secs(1), "{error}");
        assert!(error.starts_with("tar root.tar: "), "{error}");
        error
    };
    let message = refused(&plain);
    assert_eq!(refused(&zstd(&plain)), message);
    message
}

#[test]
fn every_compression_is_known_by_its_bytes_and_gives_the_same() {
    let plain = tar(&[
        Item::dir("./"),
        Item::dir("./srv/"),
        Item {
            uid: 33,
            ..Item::file("./srv/page", "hello").mode(0o640)
        },
        Item::hardlink("./srv/same", "./srv/page"),
        Item::symlink("./srv/link", "page"),
    ]);
    let (_dir, store) = store();
    // Streams behind each other, as pigz and zstd's threads write them, and a skippable frame before.
    let (first, second) = plain.split_at(1000);
    let two_gz = [gz(first), gz(second)].concat();
    let two_zstd = [zstd(first), zstd(second)].concat();
    let skip = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &zstd(&plain)].concat();
    for bytes in [
        plain.clone(),
        gz(&plain),
        xz(&plain),
        zstd(&plain),
        two_gz,
        two_zstd,
        skip,
    ] {
        let blob = store.put(&bytes).unwrap();
        let unpacked = unpack(&store, &blob, "root.tar").unwrap();
        assert_eq!(
            (unpacked.tar, unpacked.size),
            (Digest::of(&plain), plain.len() as u64)
        );
        let entries = unpacked.entries(&store, "root.tar").unwrap();
        let lines: Vec<String> = entries.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "d 0755 0:0 /srv",
                "f 0640 33:0 /srv/page",
                "h 0644 0:0 /srv/same => /srv/page",
                "l 0777 0:0 /srv/link -> page",
            ]
        );
        let Kind::File(file) = &entries[1].kind else {
            panic!("{:?}", entries[1])
        };
        let mut text = String::new();
        let mut reader = content::open(file, &store).unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}

#[test]
fn an_unknown_compression_is_named() {
    for (bytes, name) in [(&b"BZh91AY"[..], "bzip2"), (b"PK\x03\x04..", "zip")] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("zstd"), "{error}");
    }
}

#[test]
fn what_is_no_archive_or_cut_short_is_an_error() {
    let plain = tar(&[Item::file("a", "x".repeat(5000))]);
    let packed = zstd(&plain);
    for bytes in [
        &b""[..],
        b"text",
        &plain[..3000],
        &packed[..packed.len() / 2],
        &gz(&plain)[..40],
        &xz(&plain)[..60],
        &zstd(&plain[..3000]),
    ] {
        assert!(read(bytes).is_err(), "{} bytes", bytes.len());
    }
    // A wrong checksum behind the end marker is seen, too.
    let mut damaged = gz(&plain);
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    assert!(read(&damaged).is_err());
}

#[test]
fn device_nodes_are_left_out_and_a_bomb_of_them_is_refused() {
    let device = |name: String| Item::new(b'3', name);
    let items = [
        device("dev/null".into()),
        Item::new(b'4', "dev/sda"),
        Item::file("a", ""),
    ];
    assert_eq!(
        read(&tar(&items)).unwrap(),
        (vec!["f 0644 0:0 /a".to_owned()], 2)
    );
    let many: Vec<Item> = (0..5000).map(|n| device(format!("dev/{n}"))).collect();
    assert!(refusal(&many).contains("device nodes is more than the limit of 4096"));
}

#[test]
fn an_absolute_path_is_refused() {
    assert!(refusal(&[Item::file("/etc/passwd", "")]).contains("must be relative"));
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    assert!(refusal(&[Item::file("a/../../x", "")]).contains("'..'"));
}

#[test]
fn writing_through_a_link_of_the_same_archive_is_refused() {
    let message = refusal(&[Item::symlink("a", "/etc"), Item::file("a/passwd", "x")]);
    assert!(message.contains("a link to /etc"), "{message}");
}

#[test]
fn links_in_a_circle_are_refused_where_something_lies_below() {
    let circle = [Item::symlink("a", "b"), Item::symlink("b", "a")];
    assert!(read(&tar(&circle)).is_ok());
    let below = [circle[0].clone(), circle[1].clone(), Item::file("a/x", "")];
    assert!(refusal(&below).contains("a link to b"));
}

#[test]
fn a_hard_link_out_of_the_archive_is_refused() {
    for target in ["/etc/shadow", "../shadow", "etc/shadow"] {
        assert!(refusal(&[Item::hardlink("a", target)]).contains("hard link"));
    }
}

#[test]
fn a_duplicate_is_refused() {
    assert!(refusal(&[Item::file("a", "1"), Item::file("./a", "2")]).contains("twice"));
}

/// Tools that walk up to the root for each file (kaniko, Bazel's) list folders again and again.
#[test]
fn a_folder_may_come_again_and_is_the_last_one() {
    let items = [
        Item::dir("a"),
        Item::file("a/x", ""),
        Item::dir("a/").mode(0o711),
        Item::dir("./a").mode(0o700),
        Item::file("a/y", ""),
    ];
    let (lines, _) = read(&tar(&items)).unwrap();
    assert_eq!(
        lines,
        ["f 0644 0:0 /a/x", "d 0700 0:0 /a", "f 0644 0:0 /a/y"]
    );
    // What it was before is nothing that something else may be.
    for other in [Item::file("a", ""), Item::symlink("a", "/etc")] {
        let items = [Item::dir("a"), other, Item::dir("a")];
        assert!(refusal(&items).contains("twice"));
    }
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let long = Item {
        content: "n".repeat(256).into_bytes(),
        ..Item::new(b'L', "././@LongLink")
    };
    assert!(refusal(&[long, Item::file("x", "")]).contains("longer than 255"));
}

#[test]
fn a_sparse_file_of_ten_terabytes_is_refused() {
    let pax = [
        Item::pax(&[
            ("GNU.sparse.size", b"10995116277760"),
            ("GNU.sparse.map", b"0,1"),
        ]),
        Item::file("a", "x"),
    ];
    let message = refusal(&pax);
    assert!(
        message.contains("the holes of its sparse files"),
        "{message}"
    );
}

#[test]
fn a_file_of_ten_terabytes_is_refused_before_it_is_unpacked() {
    let items = [Item {
        size: Some(10 << 40),
        ..Item::file("a", "")
    }];
    let plain = read(&tar(&items)).unwrap_err().to_string();
    assert!(plain.contains("longer than the archive"), "{plain}");
    let packed = read(&zstd(&tar(&items))).unwrap_err().to_string();
    assert!(
        packed.contains("its unpacked size is more than"),
        "{packed}"
    );
}

/// Any bytes in: an archive in the store or an error, never a panic.
#[test]
fn fuzz_mutated_archives() {
    let (_dir, store) = store();
    let plain = tar(&[
        Item::dir("a"),
        Item::file("a/b", "c"),
        Item::new(b'3', "dev"),
    ]);
    let seeds = [plain.clone(), gz(&plain), zstd(&plain)];
    slipform_fuzz::fuzz(&seeds, |bytes, _| {
        let blob = store.put(bytes).unwrap();
        if let Ok(unpacked) = unpack(&store, &blob, "t") {
            assert_eq!(store.size(&unpacked.tar), Some(unpacked.size));
        }
    });
}
