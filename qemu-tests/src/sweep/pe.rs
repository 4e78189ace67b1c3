//! The boot image: sections of a PE file (Microsoft's PE format), and what the
//! initrd has of ours.

use super::SweepError;
use super::fat::BootFile;
use super::region::{Guard, Region, Regions};
use super::source::{Source, number};

/// More sections than any loader takes.
const MAX_SECTIONS: u64 = 96;
/// `machine.json` and its archive's header are the last thing in the initrd.
const TAIL: u64 = 1 << 20;
/// A header of a `newc` archive.
const CPIO: usize = 110;

/// Adds the regions of the boot image. `hashes` are names and root hashes of layers:
/// where they stand in `machine.json` is a region each.
pub(crate) fn regions(
    disk: &mut Source<'_>,
    file: BootFile,
    hashes: &[(String, String)],
    out: &mut Regions,
) -> Result<(), SweepError> {
    let wrong = |rule: &str| SweepError::structure("the boot file", rule);
    let dos = disk.read(file.offset, 64)?;
    let at = number::<4>(&dos, 60);
    if !dos.starts_with(b"MZ") || at > file.length {
        return Err(wrong("must be a PE file"));
    }
    let coff = disk.read(file.offset + at, 24 + 64)?;
    let (count, optional) = (number::<2>(&coff, 6), number::<2>(&coff, 20));
    let headers = number::<4>(&coff, 24 + 60);
    if !coff.starts_with(b"PE\0\0") || count > MAX_SECTIONS || headers > file.length {
        return Err(wrong("must be a PE file with fewer sections"));
    }
    let mut add = |name: &str, offset: u64, length: u64| {
        let name = format!("boot image {name}");
        out.add(Region::new(&name, Guard::Signature, offset, length));
    };
    add("headers", file.offset, headers);
    let table = disk.read(file.offset + at + 24 + optional, 40 * count)?;
    for header in table.chunks_exact(40) {
        let name = String::from_utf8_lossy(&header[..8]);
        let name = name.trim_end_matches('\0');
        let size = number::<4>(header, 8).min(number::<4>(header, 16));
        let start = number::<4>(header, 20);
        if size == 0 || start.saturating_add(size) > file.length {
            continue;
        }
        let start = file.offset + start;
        if name != ".initrd" {
            add(name, start, size);
            continue;
        }
        let Some((offset, length)) = machine(disk, start, size)? else {
            add(name, start, size);
            continue;
        };
        add(".initrd, init and modules", start, offset - start);
        add(".initrd, machine.json", offset, length);
        let text = disk.read(offset, length)?;
        for (layer, hash) in hashes {
            let found = text
                .windows(hash.len().max(1))
                .position(|part| part.eq_ignore_ascii_case(hash.as_bytes()));
            if let Some(found) = found {
                let name = format!(".initrd, root hash of layer {layer}");
                add(&name, offset + found as u64, hash.len() as u64);
            }
        }
    }
    Ok(())
}

/// Where the content of `machine.json` lies: the last such file of the section.
fn machine(disk: &mut Source<'_>, start: u64, size: u64) -> Result<Option<(u64, u64)>, SweepError> {
    let tail = size.min(TAIL);
    let from = start + size - tail;
    let bytes = disk.read(from, tail)?;
    let found = (0..bytes.len().saturating_sub(CPIO))
        .rev()
        .filter(|&at| bytes[at..].starts_with(b"070701"))
        .find_map(|at| file_at(&bytes, at));
    Ok(found.map(|(offset, length)| (from + offset as u64, length as u64)))
}

/// Content of the archive's file whose header is at `at`, if it is `machine.json`.
fn file_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let field = |n: usize| {
        let digits = bytes.get(at + 6 + 8 * n..at + 14 + 8 * n)?;
        usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (length, name) = (field(6)?, field(11)?);
    let name_at = at + CPIO;
    let text = bytes.get(name_at..name_at.checked_add(name)?.checked_sub(1)?)?;
    // Names and contents begin at multiples of four of the archive.
    let content = name_at + (CPIO + name).next_multiple_of(4) - CPIO;
    let fits = content.checked_add(length)? <= bytes.len();
    (text.ends_with(b"machine.json") && fits).then_some((content, length))
}
