//! As much of an ELF shared object as ldconfig looks at: its machine and its
//! SONAME. Source: System V gABI, chapters 4 and 5; read by ranges, every size bounded.

/// A shared object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SharedObject {
    /// The name it wants to be found by.
    pub(super) soname: Option<String>,
    /// `ld.so.cache`'s flags for its machine.
    pub(super) flags: u32,
}

/// Reads a range of the file; fewer bytes only at its end.
pub(super) type ReadRange<'a, E> = &'a dyn Fn(u64, usize) -> Result<Vec<u8>, E>;

const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const MAX_SEGMENTS: u64 = 1024;
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_SONAME: usize = 255;

/// Flags of elf/dl-cache.h (glibc): the low byte says "libc 6", the next one the machine.
const FLAGS: [((u8, u16), u32); 5] = [
    ((1, 3), 0x0003),   // i386
    ((2, 62), 0x0303),  // x86-64
    ((1, 62), 0x0803),  // x32
    ((1, 40), 0x0903),  // arm, hard float
    ((2, 183), 0x0a03), // aarch64
];

/// A little-endian number at a place; `None` beyond the end.
fn number(bytes: &[u8], at: u64, width: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// Sizes and places that differ between 32 and 64 bits.
struct Class {
    wide: bool,
    /// Width of an address or offset.
    word: usize,
}

impl Class {
    fn pick(&self, narrow: u64, wide: u64) -> u64 {
        if self.wide { wide } else { narrow }
    }
}

/// A loadable segment: where in the file, where in memory, how long.
struct Segment {
    offset: u64,
    address: u64,
    length: u64,
}

/// Looks at a file; `None` when it is no shared object that the loader of a known machine takes.
///
/// # Errors
/// What `read` reports.
pub(super) fn shared_object<E>(read: ReadRange<'_, E>) -> Result<Option<SharedObject>, E> {
    let head = read(0, 64)?;
    let Some((class, flags, table, entry, count)) = header(&head) else {
        return Ok(None);
    };
    let Ok(length) = usize::try_from(entry.saturating_mul(count)) else {
        return Ok(None);
    };
    let headers = read(table, length)?;
    let mut loaded = Vec::new();
    let mut dynamic = None;
    for index in 0..count {
        let at = |field: u64, width: usize| number(&headers, index * entry + field, width);
        let word = |narrow, wide| at(class.pick(narrow, wide), class.word);
        let (Some(kind), Some(offset), Some(address), Some(length)) =
            (at(0, 4), word(4, 8), word(8, 16), word(16, 32))
        else {
            return Ok(None);
        };
        match u32::try_from(kind) {
            Ok(PT_LOAD) => loaded.push(Segment {
                offset,
                address,
                length,
            }),
            Ok(PT_DYNAMIC) if dynamic.is_none() => {
                dynamic = Some((offset, length.min(MAX_DYNAMIC)));
            }
            _ => {}
        }
    }
    let Some((offset, length)) = dynamic.filter(|(_, length)| *length > 0) else {
        return Ok(None);
    };
    let bytes = read(offset, usize::try_from(length).unwrap_or(0))?;
    if bytes.len() as u64 != length {
        return Ok(None);
    }
    let (strings, name) = strings_and_soname(&bytes, &class);
    let Some(strings) = strings else {
        return Ok(None);
    };
    let Some(name) = name else {
        return Ok(Some(SharedObject {
            soname: None,
            flags,
        }));
    };
    let place = loaded
        .iter()
        .find(|s| strings >= s.address && strings - s.address < s.length)
        .and_then(|s| {
            (strings - s.address)
                .checked_add(s.offset)?
                .checked_add(name)
        });
    let Some(place) = place else {
        return Ok(None);
    };
    let text = read(place, MAX_SONAME + 1)?;
    Ok(soname(&text).map(|soname| SharedObject {
        soname: Some(soname),
        flags,
    }))
}

/// Class, flags, and the program headers' place, entry size and count.
fn header(head: &[u8]) -> Option<(Class, u32, u64, u64, u64)> {
    if head.get(..4)? != b"\x7fELF" || number(head, 5, 1)? != 1 {
        return None;
    }
    let bits = u8::try_from(number(head, 4, 1)?).ok()?;
    let class = match bits {
        1 => Class {
            wide: false,
            word: 4,
        },
        2 => Class {
            wide: true,
            word: 8,
        },
        _ => return None,
    };
    if number(head, 16, 2)? != u64::from(ET_DYN) {
        return None;
    }
    let machine = u16::try_from(number(head, 18, 2)?).ok()?;
    let flags = FLAGS.iter().find(|(key, _)| *key == (bits, machine))?.1;
    let table = number(head, class.pick(28, 32), class.word)?;
    let entry = number(head, class.pick(42, 54), 2)?;
    let count = number(head, class.pick(44, 56), 2)?;
    let sound = (class.pick(32, 56)..=1024).contains(&entry) && count <= MAX_SEGMENTS;
    sound.then_some((class, flags, table, entry, count))
}

/// Address of the string table, and the SONAME's offset in it.
fn strings_and_soname(dynamic: &[u8], class: &Class) -> (Option<u64>, Option<u64>) {
    let (mut strings, mut name) = (None, None);
    let step = class.word as u64 * 2;
    let mut at = 0;
    while let (Some(tag), Some(value)) = (
        number(dynamic, at, class.word),
        number(dynamic, at + class.word as u64, class.word),
    ) {
        match tag {
            DT_NULL => break,
            DT_STRTAB => strings = Some(value),
            DT_SONAME => name = Some(value),
            _ => {}
        }
        at += step;
    }
    (strings, name)
}

/// A name that can be a file's.
fn soname(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let fine = !matches!(text, "" | "." | "..")
        && !text.contains('/')
        && !text.chars().any(char::is_control);
    fine.then(|| text.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A shared object with that SONAME and nothing else, of x86-64 or i386.
    pub(in crate::tree::generated) fn library(soname: Option<&str>, wide: bool) -> Vec<u8> {
        let word = if wide { 8 } else { 4 };
        let put = |bytes: &mut Vec<u8>, value: u64, width: usize| {
            bytes.extend(&value.to_le_bytes()[..width]);
        };
        let (header, segment) = if wide { (64, 56) } else { (52, 32) };
        let dynamic_at = header + 2 * segment;
        let dynamic_length = word * 2 * 4;
        let strings_at = dynamic_at + dynamic_length;
        let strings = format!("\0libc.so.6\0{}\0", soname.unwrap_or_default());
        let total = strings_at + strings.len();
        let mut bytes = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1, 0];
        bytes.resize(16, 0);
        for (value, width) in [
            (3, 2),
            (if wide { 62 } else { 3 }, 2),
            (1, 4),
            (0, word),
            (header, word),
            (0, word),
            (0, 4),
            (header, 2),
            (segment, 2),
            (2, 2),
            (0, 2),
            (0, 2),
            (0, 2),
        ] {
            put(&mut bytes, value as u64, width);
        }
        for (kind, at, length) in [
            (PT_LOAD, 0, total),
            (PT_DYNAMIC, dynamic_at, dynamic_length),
        ] {
            put(&mut bytes, u64::from(kind), 4);
            if wide {
                put(&mut bytes, 4, 4);
            }
            for value in [at, at, at, length, length] {
                put(&mut bytes, value as u64, word);
            }
            if !wide {
                put(&mut bytes, 4, 4);
            }
            put(&mut bytes, 8, word);
        }
        let dynamic = [
            (1, 1),
            (DT_STRTAB, strings_at as u64),
            if soname.is_some() {
                (DT_SONAME, 11)
            } else {
                (DT_NULL, 0)
            },
            (DT_NULL, 0),
        ];
        for (tag, value) in dynamic {
            put(&mut bytes, tag, word);
            put(&mut bytes, value, word);
        }
        bytes.extend(strings.bytes());
        bytes
    }

    fn look(bytes: &[u8]) -> Option<SharedObject> {
        let read = |offset: u64, length: usize| -> Result<Vec<u8>, ()> {
            assert!(length <= 1 << 20, "unbounded read");
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            Ok(bytes[start..start.saturating_add(length).min(bytes.len())].to_vec())
        };
        shared_object(&read).unwrap()
    }

    #[test]
    fn reads_sonames_of_both_classes() {
        for (wide, flags) in [(true, 0x303), (false, 0x3)] {
            let found = look(&library(Some("libx.so.1"), wide)).unwrap();
            assert_eq!(
                (found.soname.as_deref(), found.flags),
                (Some("libx.so.1"), flags)
            );
            assert_eq!(look(&library(None, wide)).unwrap().soname, None);
        }
    }

    #[test]
    fn passes_over_what_is_no_shared_object() {
        let good = library(Some("libx.so.1"), true);
        for (at, value) in [
            (0, b'x'),
            (4, 3),
            (5, 2),
            (16, 2),
            (18, 99),
            (56, 0),
            (54, 1),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(look(&bytes), None, "{at}");
        }
        for length in 0..good.len() - 12 {
            assert_eq!(look(&good[..length]), None, "{length}");
        }
        for name in ["", "..", "a/b", "a\nb"] {
            assert_eq!(look(&library(Some(name), true)), None, "{name}");
        }
    }

    #[test]
    fn fuzz_mutated_objects() {
        let seeds = [true, false].map(|wide| library(Some("libx.so.1"), wide));
        slipform_fuzz::fuzz(&seeds, |bytes, _| {
            if let Some(SharedObject {
                soname: Some(name), ..
            }) = look(bytes)
            {
                assert!(!name.contains('/') && !name.is_empty());
            }
        });
    }
}
