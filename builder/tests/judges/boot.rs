//! Unified kernel images: what they hold, and what they refuse.

use std::io::Cursor;

use slipform::base::Digest;
use slipform::uki::{self, Source, UkiInput, assemble};

use crate::scene::{Scene, scene, stub};

const INPUT: UkiInput<'_> = UkiInput {
    stub: Source::Bytes(&[]),
    kernel: Source::Bytes(b"MZ kernel"),
    cmdline: "quiet",
    osrel: "ID=x\n",
    uname: "6.12",
    initrds: &[Source::Bytes(b"12345"), Source::Bytes(b"67")],
};

fn refusal(scene: &Scene, stub: &[u8], input: UkiInput<'_>) -> String {
    let input = UkiInput {
        stub: Source::Bytes(stub),
        ..input
    };
    let error = assemble(&scene.store, &input).unwrap_err();
    assert_eq!(std::fs::read_dir(scene.store.tmp()).unwrap().count(), 0);
    error.to_string()
}

#[test]
fn sections_hold_what_was_given_in_their_order() {
    let scene = scene();
    let stub = stub();
    let input = UkiInput {
        stub: Source::Bytes(&stub),
        ..INPUT
    };
    let made = assemble(&scene.store, &input).unwrap();
    assert_eq!(made, assemble(&scene.store, &input).unwrap());
    let bytes = scene.store.read(&made.digest).unwrap();
    assert_eq!(bytes.len() as u64, made.size);
    let sections = uki::read(&mut Cursor::new(&bytes)).unwrap();
    let found: Vec<(&str, &[u8])> = sections[1..]
        .iter()
        .map(|section| {
            let (start, end) = (
                section.offset as usize,
                (section.offset + section.size) as usize,
            );
            (section.name.as_str(), &bytes[start..end])
        })
        .collect();
    let expected: [(&str, &[u8]); 5] = [
        (".osrel", b"ID=x\n"),
        (".cmdline", b"quiet"),
        (".uname", b"6.12"),
        (".linux", b"MZ kernel"),
        // Each archive starts at a multiple of four.
        (".initrd", b"12345\0\0\x0067"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn empty_parts_make_no_sections() {
    let scene = scene();
    let stub = stub();
    let input = UkiInput {
        stub: Source::Bytes(&stub),
        cmdline: "",
        initrds: &[],
        ..INPUT
    };
    let made = assemble(&scene.store, &input).unwrap();
    let bytes = scene.store.read(&made.digest).unwrap();
    let names: Vec<_> = uki::read(&mut Cursor::new(&bytes)).unwrap();
    let names: Vec<_> = names.iter().map(|section| section.name.as_str()).collect();
    assert_eq!(names, [".text", ".osrel", ".uname", ".linux"]);
}

#[test]
fn stubs_that_are_none_are_refused_by_field() {
    let scene = scene();
    let section = 0x58 + 240;
    let cases: [(usize, &[u8], &str); 14] = [
        (0, b"ZM", "e_magic"),
        (0x3c, &[0xff; 4], "e_lfanew"),
        (0x40, b"EP", "Signature"),
        (0x46, &[0, 0], "NumberOfSections"),
        (0x46, &[200, 0], "NumberOfSections"),
        (0x54, &[8, 0], "SizeOfOptionalHeader"),
        (0x58, &[0x0b, 0x01], "PE32+"),
        (0x58 + 32, &[0; 4], "SectionAlignment"),
        (0x58 + 36, &[3, 0, 0, 0], "FileAlignment"),
        (0x58 + 60, &[0xff; 4], "SizeOfHeaders"),
        (0x58 + 60, &[0x80, 1, 0, 0], "room for 0 more sections"),
        (0x58 + 148, &[1, 0, 0, 0], "must not be signed"),
        (section + 12, &[0; 4], "VirtualAddress"),
        (section + 20, &[0xff; 4], "PointerToRawData"),
    ];
    for (at, bytes, text) in cases {
        let mut stub = stub();
        stub[at..at + bytes.len()].copy_from_slice(bytes);
        if at == 0x58 + 60 && bytes[0] == 0x80 {
            // Headers that end right behind the section table.
            stub[at..at + 2].copy_from_slice(&((section + 40) as u16).to_le_bytes());
        }
        let message = refusal(&scene, &stub, INPUT);
        assert!(message.contains(text), "{message}");
    }
    for length in [0, 1, 0x3f, 0x60, 0x140, 0x170] {
        refusal(&scene, &stub()[..length], INPUT);
    }
    let mut taken = stub();
    taken[section..section + 7].copy_from_slice(b".linux\0");
    let message = refusal(&scene, &taken, INPUT);
    assert!(message.contains("a section .linux already"), "{message}");
}

#[test]
fn parts_that_cannot_boot_are_refused_by_name() {
    let scene = scene();
    let stub = stub();
    let blob = scene.store.put(b"MZ short").unwrap();
    let short = Source::Blob {
        digest: blob,
        offset: 0,
        size: 100,
    };
    let missing = Source::Blob {
        digest: Digest::of("missing"),
        offset: 0,
        size: 100,
    };
    let huge = Source::Blob {
        digest: blob,
        offset: 0,
        size: 1 << 40,
    };
    let cases = [
        (
            UkiInput {
                kernel: Source::Bytes(b"\x1f\x8b"),
                ..INPUT
            },
            "kernel with an EFI stub",
        ),
        (
            UkiInput {
                kernel: Source::Bytes(b""),
                ..INPUT
            },
            "kernel with an EFI stub",
        ),
        (
            UkiInput {
                kernel: short,
                ..INPUT
            },
            "it has 8 bytes, but 100 were declared",
        ),
        (
            UkiInput {
                kernel: missing,
                ..INPUT
            },
            "is not in the store",
        ),
        (
            UkiInput {
                initrds: &[huge],
                ..INPUT
            },
            "2 GiB is the limit",
        ),
        (
            UkiInput {
                cmdline: "a\0b",
                ..INPUT
            },
            "command line",
        ),
    ];
    for (input, text) in cases {
        let message = refusal(&scene, &stub, input);
        assert!(message.contains(text), "{message}");
    }
}
