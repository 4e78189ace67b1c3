//! Sparse files in all of GNU tar's formats, good and hostile.

use super::*;
use crate::layers::testing::{Item, tar};
use crate::layers::{content, rootfs};
use crate::store::Store;

type Pieces<'a> = &'a [(u64, u64)];

fn octal(number: u64) -> Vec<u8> {
    if number < 1 << 33 {
        return format!("{number:011o}\0").into_bytes();
    }
    let mut field = vec![0x80, 0, 0, 0];
    field.extend(number.to_be_bytes());
    field
}

/// Archive of the file `s` in the old format.
fn old(real: u64, pieces: Pieces<'_>, data: &str) -> Vec<u8> {
    let whole = tar(&[Item {
        content: data.into(),
        ..Item::new(b'S', "s")
    }]);
    let (mut header, rest) = (whole[..512].to_vec(), &whole[512..]);
    let put = |block: &mut [u8], start: usize, pieces: Pieces<'_>| {
        for (number, (at, length)) in pieces.iter().enumerate() {
            let at_field = start + 24 * number;
            block[at_field..at_field + 12].copy_from_slice(&octal(*at));
            block[at_field + 12..at_field + 24].copy_from_slice(&octal(*length));
        }
    };
    let (first, more) = pieces.split_at(pieces.len().min(4));
    put(&mut header, 386, first);
    header[482] = u8::from(!more.is_empty());
    header[483..495].copy_from_slice(&octal(real));
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let blocks = more.chunks(21).count();
    for (number, chunk) in more.chunks(21).enumerate() {
        let mut block = vec![0; 512];
        put(&mut block, 0, chunk);
        block[504] = u8::from(number + 1 < blocks);
        header.extend(block);
    }
    [&header, rest].concat()
}

fn pax(records: &[(String, String)], content: &str) -> Vec<u8> {
    let records: Vec<(&str, &[u8])> = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_bytes()))
        .collect();
    tar(&[
        Item::pax(&records),
        Item::file("GNUSparseFile.1/s", content),
    ])
}

fn record(key: &str, value: &(impl ToString + ?Sized)) -> (String, String) {
    (format!("GNU.sparse.{key}"), value.to_string())
}

/// The same in PAX 0.0, 0.1 and 1.0.
fn new(real: u64, pieces: Pieces<'_>, data: &str) -> [Vec<u8>; 3] {
    let mut first = vec![("path".to_owned(), "s".to_owned()), record("size", &real)];
    for (at, length) in pieces {
        first.extend([record("offset", at), record("numbytes", length)]);
    }
    let map: Vec<String> = pieces
        .iter()
        .map(|(at, length)| format!("{at},{length}"))
        .collect();
    let second = [
        record("size", &real),
        record("name", "s"),
        record("map", &map.join(",")),
    ];
    let third = [
        record("major", &1),
        record("minor", &0),
        record("realsize", &real),
        record("name", "s"),
    ];
    let mut lines = format!("{}\n", pieces.len());
    for (at, length) in pieces {
        lines += &format!("{at}\n{length}\n");
    }
    while !lines.len().is_multiple_of(512) {
        lines.push('\0');
    }
    [
        pax(&first, data),
        pax(&second, data),
        pax(&third, &(lines + data)),
    ]
}

fn all(real: u64, pieces: Pieces<'_>, data: &str) -> Vec<Vec<u8>> {
    let [first, second, third] = new(real, pieces, data);
    vec![old(real, pieces, data), first, second, third]
}

/// The bytes of the archive's only file.
fn read(archive: &[u8]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let mut found = Vec::new();
    for bytes in [archive.to_vec(), zstd::encode_all(archive, 3).unwrap()] {
        let blob = store.put(&bytes).unwrap();
        let unpacked = rootfs::unpack(&store, &blob, "x").map_err(|e| e.to_string())?;
        let entries = unpacked.entries(&store, "x").map_err(|e| e.to_string())?;
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].path, "/s");
        let crate::layers::Kind::File(content) = &entries[0].kind else {
            panic!("{entries:?}")
        };
        let mut bytes = Vec::new();
        let mut reader = content::open(content, &store).map_err(|e| e.to_string())?;
        std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(|e| e.to_string())?;
        found.push(bytes);
    }
    assert_eq!(found[0], found[1]);
    Ok(found.remove(0))
}

#[test]
fn holes_of_every_format_are_zeros() {
    // More pieces than the header and two blocks behind it hold.
    let many: Vec<(u64, u64)> = (0..60).map(|n| (1 + 3 * n, 2)).collect();
    for (real, pieces, data) in [
        (9, &[(1, 2), (6, 3)][..], "abcde"),
        (600, &[(0, 3), (5, 0), (599, 1), (600, 0)], "abcd"),
        (7, &[(7, 0)], ""),
        (5, &[(0, 5)], "abcde"),
        (200, &many, &"xy".repeat(60)),
    ] {
        let mut expected = vec![0; usize::try_from(real).unwrap()];
        let mut rest = data.as_bytes();
        for (at, length) in pieces {
            let (at, length) = (*at as usize, *length as usize);
            expected[at..at + length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
        }
        for (number, archive) in all(real, pieces, data).iter().enumerate() {
            assert_eq!(read(archive).unwrap(), expected, "format {number}");
        }
    }
}

#[test]
fn maps_that_lie_are_refused() {
    for (real, pieces, data, word) in [
        (
            9,
            &[(1, 2), (2, 3)][..],
            "abcde",
            "overlap or are out of order",
        ),
        (9, &[(5, 2), (1, 3)], "abcde", "overlap or are out of order"),
        (9, &[(1, 2), (7, 3)], "abcde", "behind its end"),
        (9, &[(1 << 40, 5)], "abcde", "behind its end"),
        (9, &[(1, 2)], "abcde", "not as long as what is stored"),
        (9, &[(1, 8)], "abcde", "not as long as what is stored"),
        (
            10 << 40,
            &[(1, 5)],
            "abcde",
            "the holes of its sparse files",
        ),
        (
            u64::MAX >> 1,
            &[(1, 5)],
            "abcde",
            "the holes of its sparse files",
        ),
    ] {
        for (number, archive) in all(real, pieces, data).iter().enumerate() {
            let error = read(archive).unwrap_err();
            assert!(error.contains(word), "format {number}, {word}: {error}");
        }
    }
    // Many files, each of them below the limit.
    let one = old(MAX_HOLES / 2 + 2, &[(0, 1)], "a");
    let twice = [&one[..1024], &one].concat();
    assert!(read(&twice).unwrap_err().contains("the holes"));
}

#[test]
fn maps_that_are_none_are_refused() {
    let version = |major, minor| {
        pax(
            &[
                record("major", &major),
                record("minor", &minor),
                record("realsize", &5),
                record("name", "s"),
            ],
            "abcde",
        )
    };
    let before = |lines: &str| {
        pax(
            &[
                record("major", &1),
                record("minor", &0),
                record("realsize", &5),
                record("name", "s"),
            ],
            &format!("{lines:\0<512}"),
        )
    };
    let no_more = {
        let mut archive = old(9, &[(1, 2), (6, 3)], "abcde");
        // It says that a block follows, which is the content.
        archive[482] = 1;
        archive[148..156].fill(b' ');
        let sum: u32 = archive[..512].iter().map(|b| u32::from(*b)).sum();
        archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive[512] = 0;
        archive
    };
    for (archive, word) in [
        (version(1, 1), "format that is not known"),
        (version(2, 0), "format that is not known"),
        (pax(&[record("name", "s")], ""), "format that is not known"),
        (before(""), "malformed"),
        (before("x\n"), "malformed"),
        (before("\n"), "malformed"),
        (before("99999999999999999999\n"), "malformed"),
        (before("500001\n"), "number of pieces"),
        (before(&"1".repeat(19)), "malformed"),
        (
            before(&format!("400000\n{}", "0\n0\n".repeat(126) + "0")),
            "cut short",
        ),
        (no_more, "malformed"),
    ] {
        let error = read(&archive).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// Any bytes in: entries whose pieces lie in the archive, or an error.
#[test]
fn fuzz_mutated_archives() {
    let mut seeds = all(9, &[(1, 2), (6, 3)], "abcde");
    let seeds = [seeds.remove(0), seeds.remove(2)];
    slipform_fuzz::fuzz(&seeds, |bytes, random| {
        let mut bytes = bytes.to_vec();
        if random.below(2) == 0 {
            for block in bytes.chunks_mut(512).filter(|b| b.len() == 512) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let size = bytes.len() as u64;
        let input = super::super::TarInput {
            blob: crate::base::Digest::of(&bytes),
            size,
            origin: "t",
        };
        let reader = std::io::Cursor::new(bytes);
        let found = super::super::gather(reader, input, super::super::Mode::Container);
        for entry in found.unwrap_or_default() {
            if let crate::layers::Kind::File(Content {
                source: Source::Sparse { pieces, .. },
                ..
            }) = entry.kind
            {
                assert!(pieces.iter().all(|p| p.offset + p.length <= size));
            }
        }
    });
}
