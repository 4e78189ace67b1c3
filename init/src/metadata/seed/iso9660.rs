//! ISO 9660 (ECMA-119), as far as two files in the root folder want it: names from the
//! Joliet descriptor where there is one, else of Rock Ridge (IEEE P1282, `NM`), else the
//! file system's own short ones (`META_DAT.;1`).
//!
//! ```text
//! sector 16..   volume descriptors: type u8, "CD001", …; 1 primary, 2 supplementary, 255 end
//!   +40  volume identifier, 32 bytes      +88  escape sequences (Joliet: %/@ %/C %/E)
//!   +156 record of the root folder
//! record        +0 length  +2 extent u32  +10 size u32  +25 flags  +32 name length  +33 name
//! ```

use super::{Document, Files, LABEL, Volume, length, u32_at};

const SECTOR: u64 = 2048;
const FIRST: u64 = 16;
/// Descriptors that are looked at.
const DESCRIPTORS: u64 = 16;
/// Longest root folder that is read.
const FOLDER_MAX: u32 = 64 * 1024;
const DIRECTORY: u8 = 2;

/// The documents, if the volume is a seed.
pub(super) fn read(volume: &dyn Volume) -> Option<Files> {
    let (mut primary, mut joliet) = (None, None);
    for sector in FIRST..FIRST + DESCRIPTORS {
        let descriptor = volume.bytes(sector * SECTOR, SECTOR as usize)?;
        if descriptor.get(1..6)? != b"CD001" {
            break;
        }
        match descriptor.first()? {
            1 => primary = primary.or(Some(descriptor)),
            2 if is_joliet(&descriptor) => joliet = joliet.or(Some(descriptor)),
            255 => break,
            _ => {}
        }
    }
    let primary = primary?;
    let label = String::from_utf8_lossy(primary.get(40..72)?).into_owned();
    if !label
        .trim_end_matches([' ', '\0'])
        .eq_ignore_ascii_case(LABEL)
    {
        return None;
    }
    let (descriptor, wide) = match &joliet {
        Some(joliet) => (joliet, true),
        None => (&primary, false),
    };
    let root = descriptor.get(156..190)?;
    let (extent, size) = (u32_at(root, 2)?, u32_at(root, 10)?);
    if size > FOLDER_MAX {
        return None;
    }
    let folder = volume.bytes(u64::from(extent) * SECTOR, usize::try_from(size).ok()?)?;
    let mut files = Files::default();
    // No record crosses the end of a sector.
    for sector in folder.chunks(SECTOR as usize) {
        let mut rest = sector;
        while let Some(record) = record(rest) {
            rest = &rest[record.len()..];
            let Some(document) = name(record, wide).and_then(|name| Document::of(&name)) else {
                continue;
            };
            let content = content(volume, record)?;
            match document {
                Document::MetaData => files.meta_data = Some(content),
                Document::UserData => files.user_data = Some(content),
            }
        }
    }
    Some(files)
}

fn is_joliet(descriptor: &[u8]) -> bool {
    let escapes = descriptor.get(88..91).unwrap_or_default();
    [b"%/@", b"%/C", b"%/E"]
        .iter()
        .any(|level| escapes == *level)
}

/// The first record; none in the empty end of a sector.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*bytes.first()?);
    bytes.get(..length).filter(|record| record.len() >= 34)
}

fn content(volume: &dyn Volume, record: &[u8]) -> Option<Vec<u8>> {
    if record.get(25)? & DIRECTORY != 0 {
        return None;
    }
    let (extent, size) = (u32_at(record, 2)?, u32_at(record, 10)?);
    volume.bytes(u64::from(extent) * SECTOR, length(size))
}

fn name(record: &[u8], wide: bool) -> Option<String> {
    let count = usize::from(*record.get(32)?);
    let own = record.get(33..33 + count)?;
    if wide {
        let letters = own.chunks_exact(2);
        let letters = letters.map(|two| u16::from_be_bytes([two[0], two[1]]));
        let name: String = char::decode_utf16(letters).collect::<Result<_, _>>().ok()?;
        return Some(name.split(';').next().unwrap_or_default().to_owned());
    }
    let system = record
        .get((33 + count).next_multiple_of(2)..)
        .unwrap_or_default();
    let long = rock_ridge(system);
    long.or_else(|| {
        let short = String::from_utf8_lossy(own).into_owned();
        let short = short.split([';', '.']).next().unwrap_or_default();
        Some(match short {
            "META_DAT" | "META_DATA" => "meta-data".to_owned(),
            "USER_DAT" | "USER_DATA" => "user-data".to_owned(),
            other => other.to_owned(),
        })
    })
}

/// The `NM` entries: signature, length u8, version u8, flags u8, name.
fn rock_ridge(mut system: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    while let [first, second, length, _, ..] = *system {
        let length = usize::from(length);
        let Some(entry) = system.get(..length).filter(|entry| entry.len() >= 4) else {
            break;
        };
        if [first, second] == *b"NM" {
            name.extend_from_slice(entry.get(5..).unwrap_or_default());
        }
        system = &system[length..];
    }
    (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned())
}
