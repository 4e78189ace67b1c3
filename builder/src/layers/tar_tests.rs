//! Archives, good and hostile.

use std::io::Cursor;

use super::*;
use crate::layers::testing::{Item, tar};

fn read(items: &[Item]) -> Result<Vec<Entry>, LayersError> {
    read_bytes(tar(items))
}

fn read_bytes(bytes: Vec<u8>) -> Result<Vec<Entry>, LayersError> {
    let size = bytes.len() as u64;
    let blob = Digest::of(&bytes);
    read_tar(
        Cursor::new(bytes),
        TarInput {
            blob,
            size,
            origin: "package t",
        },
    )
}

fn refusal(items: &[Item]) -> String {
    read(items).expect_err("must be refused").to_string()
}

#[test]
fn reads_what_dpkg_writes() {
    let entries = read(&[
        Item::dir("./"),
        Item::dir("./usr/"),
        Item::file("./usr/a", "hello").mode(0o4755),
        Item::symlink("./usr/b", "a"),
        Item::hardlink("./usr/c", "./usr/a"),
        Item::new(b'6', "./usr/fifo"),
    ])
    .unwrap();
    let paths: Vec<_> = entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["/usr", "/usr/a", "/usr/b", "/usr/c", "/usr/fifo"]);
    assert_eq!(entries[1].meta.mode, 0o4755);
    let Kind::File(content) = &entries[1].kind else {
        panic!("{:?}", entries[1])
    };
    let Source::Blob { offset, .. } = content.source else {
        panic!("{content:?}")
    };
    // Behind the three headers of "./", "./usr/" and the file itself.
    assert_eq!((content.size, offset), (5, 3 * 512));
    assert_eq!(entries[2].kind, Kind::Symlink("a".into()));
    assert_eq!(entries[3].kind, Kind::Hardlink("/usr/a".into()));
    assert_eq!(entries[4].kind, Kind::Fifo);
}

#[test]
fn reads_long_names_of_both_dialects() {
    let long = format!("./{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t".repeat(3000);
    let entries = read(&[
        Item {
            content: [long.as_bytes(), b"\0"].concat(),
            ..Item::new(b'L', "././@LongLink")
        },
        Item {
            content: target.clone().into_bytes(),
            ..Item::new(b'K', "././@LongLink")
        },
        Item::symlink("./short", "short"),
        Item::pax(&[
            ("path", b"pax/name"),
            ("SCHILY.xattr.user.x", b"1\n2"),
            ("mtime", b"7.5"),
        ]),
        Item::file("./short", "x"),
        Item::file("./after", ""),
    ])
    .unwrap();
    assert_eq!(entries[0].path, long[1..]);
    assert_eq!(entries[0].kind, Kind::Symlink(target));
    assert_eq!(entries[1].path, "/pax/name");
    assert_eq!(
        (entries[1].meta.mtime, &entries[1].meta.xattrs["user.x"][..]),
        (7, &b"1\n2"[..])
    );
    assert_eq!(
        (entries[2].path.as_str(), entries[2].meta.xattrs.len()),
        ("/after", 0)
    );
}

#[test]
fn an_absolute_path_is_refused() {
    assert!(refusal(&[Item::file("/etc/passwd", "")]).contains("must be relative"));
    assert!(
        refusal(&[Item::pax(&[("path", b"/etc/passwd")]), Item::file("x", "")])
            .contains("must be relative")
    );
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    for path in ["../x", "./a/../../x", "a/..", "a/../b"] {
        assert!(refusal(&[Item::file(path, "")]).contains("'..'"), "{path}");
    }
}

#[test]
fn a_duplicate_is_refused_but_a_folder_may_come_twice() {
    assert!(refusal(&[Item::file("a", "1"), Item::file("./a", "2")]).contains("twice"));
    assert!(refusal(&[Item::dir("a"), Item::symlink("a", "/etc")]).contains("twice"));
    let twice = read(&[Item::dir("a"), Item::dir("a/").mode(0o700)]).unwrap();
    assert_eq!((twice.len(), twice[0].meta.mode), (1, 0o755));
}

#[test]
fn a_hard_link_out_of_the_archive_is_refused() {
    for target in ["/etc/shadow", "../shadow"] {
        assert!(
            refusal(&[Item::hardlink("a", target)]).contains("hard link"),
            "{target}"
        );
    }
    assert!(refusal(&[Item::hardlink("a", "etc/shadow")]).contains("not in the archive before it"));
}

#[test]
fn a_hard_link_forward_or_to_a_folder_or_to_itself_is_refused() {
    assert!(refusal(&[Item::hardlink("a", "b"), Item::file("b", "")]).contains("before it"));
    assert!(refusal(&[Item::hardlink("a", "a")]).contains("before it"));
    assert!(refusal(&[Item::dir("d"), Item::hardlink("a", "d")]).contains("no file"));
    assert!(refusal(&[Item::symlink("s", "x"), Item::hardlink("a", "s")]).contains("no file"));
}

#[test]
fn writing_through_a_link_of_the_same_archive_is_refused() {
    let message = refusal(&[Item::symlink("a", "/etc"), Item::file("a/passwd", "x")]);
    assert!(
        message.contains("/a/passwd") && message.contains("a link to /etc"),
        "{message}"
    );
    // The other way round too: order must not matter.
    assert!(
        refusal(&[Item::file("a/passwd", "x"), Item::symlink("a", "/etc")]).contains("a link to")
    );
}

#[test]
fn a_file_used_as_a_folder_is_refused() {
    assert!(refusal(&[Item::file("a", ""), Item::file("a/b", "")]).contains("no folder"));
}

#[test]
fn device_nodes_are_refused_whiteouts_too() {
    for kind in [b'3', b'4'] {
        assert!(refusal(&[Item::new(kind, "dev/sda")]).contains("device nodes"));
    }
}

#[test]
fn a_name_that_is_not_utf8_is_refused_and_shown() {
    let message = refusal(&[Item::file(b"usr/\xff\xfe", "")]);
    assert!(
        message.contains("not UTF-8") && message.contains("usr/\\xff\\xfe"),
        "{message}"
    );
    assert!(refusal(&[Item::symlink("a", b"\xff")]).contains("target is not UTF-8"));
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    let name = "n".repeat(256);
    let long = |path: String| [Item::pax(&[("path", path.as_bytes())]), Item::file("x", "")];
    assert!(refusal(&long(name)).contains("longer than 255"));
    assert!(refusal(&long(vec!["d"; 2100].join("/"))).contains("longer than 4095"));
    assert!(refusal(&[Item::pax(&[("path", b"a\0b")]), Item::file("x", "")]).contains("NUL"));
    assert!(refusal(&[Item::file("", "")]).contains("no name"));
    assert!(refusal(&[Item::symlink("a", "")]).contains("empty"));
}

#[test]
fn a_size_beyond_the_archive_is_refused() {
    for size in [1025, 1 << 40, u64::MAX, u64::MAX - 511] {
        let items = [Item {
            size: Some(size),
            ..Item::file("a", "")
        }];
        assert!(
            refusal(&items).contains("longer than the archive")
                || refusal(&items).contains("no number"),
            "{size}"
        );
    }
    let lying = [
        Item::pax(&[("size", b"18446744073709551615")]),
        Item::file("a", "x"),
    ];
    assert!(refusal(&lying).contains("longer than the archive"));
}

#[test]
fn a_huge_long_name_or_pax_header_is_refused_before_it_is_read() {
    for kind in [b'L', b'K', b'x', b'g'] {
        let items = [Item {
            size: Some(1 << 33),
            ..Item::new(kind, "x")
        }];
        assert!(refusal(&items).contains("limit"));
    }
}

#[test]
fn sparse_global_and_unknown_types_are_refused() {
    assert!(refusal(&[Item::new(b'S', "a")]).contains("sparse"));
    assert!(
        refusal(&[
            Item::pax(&[("GNU.sparse.major", b"1")]),
            Item::file("a", "")
        ])
        .contains("sparse")
    );
    let global = Item {
        kind: b'g',
        ..Item::pax(&[("path", b"evil")])
    };
    assert!(refusal(&[global, Item::file("a", "")]).contains("global"));
    assert!(refusal(&[Item::new(b'V', "a")]).contains("type 'V'"));
    let comment = Item {
        kind: b'g',
        ..Item::pax(&[("comment", b"git")])
    };
    assert_eq!(read(&[comment, Item::file("a", "")]).unwrap().len(), 1);
}

#[test]
fn owners_and_times_out_of_range_are_refused() {
    let owner = [Item::pax(&[("uid", b"4294967295")]), Item::file("a", "")];
    assert!(refusal(&owner).contains("owner"));
    let time = [Item::pax(&[("mtime", b"99999999999")]), Item::file("a", "")];
    assert!(refusal(&time).contains("1901 to 2446"));
}

#[test]
fn a_broken_or_cut_archive_is_an_error() {
    let whole = tar(&[Item::file("a", "x".repeat(600)), Item::file("b", "y")]);
    for length in [0, 100, 512, 600, 1535, 1536, 2048, 2560] {
        let error = read_bytes(whole[..length].to_vec())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cut short") || error.contains("longer than"),
            "{length}: {error}"
        );
    }
    let mut flipped = whole;
    flipped[3] ^= 1;
    assert!(
        read_bytes(flipped)
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );
}

/// Any bytes in: entries with clean paths or an error out, never a panic.
#[test]
fn fuzz_mutated_archives() {
    let seed = tar(&[
        Item::dir("./usr/"),
        Item {
            content: b"usr/long\0".to_vec(),
            ..Item::new(b'L', "x")
        },
        Item::file("./usr/a", "hello"),
        Item::pax(&[
            ("path", b"usr/p"),
            ("SCHILY.xattr.user.x", b"1"),
            ("size", b"1"),
        ]),
        Item::file("y", "z"),
        Item::symlink("./usr/b", "a"),
        Item::hardlink("./usr/c", "./usr/p"),
    ]);
    slipform_fuzz::fuzz(&[&seed], |bytes, random| {
        let mut bytes = bytes.to_vec();
        // Half of the time the checksums are mended, or hardly a mutant would get past them.
        if random.below(2) == 0 {
            for block in bytes.chunks_mut(512).filter(|b| b.len() == 512) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        for entry in read_bytes(bytes).unwrap_or_default() {
            assert!(entry.path.starts_with('/') && !entry.path.contains("//"));
            assert!(
                entry
                    .path
                    .split('/')
                    .all(|part| part != ".." && part != "." && part.len() <= 255)
            );
        }
    });
}
