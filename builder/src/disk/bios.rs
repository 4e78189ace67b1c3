//! What makes a disk start by a BIOS, too: code in the first sector, and GRUB's image in a
//! partition of its own in the room before the ESP, where nothing else lies (an ISO's
//! structures end long before).

use std::ops::Range;

use super::DiskError;
use crate::base::MIB;
use crate::store::Store;
use crate::uki::grub::{self, Grub, SECTOR, Sectors};
use crate::uki::{Section, UkiBlob, read};

/// Where the partition lies, in bytes.
pub(super) const PLACE: Range<u64> = MIB / 2..MIB;

/// What is needed.
#[derive(Debug, Clone, Copy)]
pub struct Bios<'a> {
    /// GRUB's files.
    pub grub: &'a Grub,
    /// The kernel's command line, which is in the unified kernel image, too.
    pub cmdline: &'a str,
}

/// What goes onto the disk.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The first sector's code.
    pub(super) code: Vec<u8>,
    /// The partition's content.
    pub(super) image: Vec<u8>,
}

/// The pieces for a boot entry that starts at byte `entry` of the disk.
pub(super) fn pieces(
    store: &Store,
    bios: Bios<'_>,
    sector_size: u32,
    (uki, entry): (UkiBlob, u64),
) -> Result<Pieces, DiskError> {
    if u64::from(sector_size) != SECTOR {
        return Err(DiskError::Fact {
            key: "sector_size",
            value: u64::from(sector_size),
            rule: "a BIOS knows only sectors of 512 bytes; write firmware = \"uefi\"".to_owned(),
        });
    }
    let sections = store.open_blob(&uki.digest)?;
    let sections = read(&mut &sections).map_err(|error| DiskError::BootEntry(error.to_string()))?;
    let sectors = |wanted: Section| {
        let section = sections.iter().find(|s| s.name == wanted.name());
        section
            .and_then(|section| Sectors::of(entry + section.offset, section.size))
            .ok_or_else(|| {
                let name = wanted.name();
                DiskError::BootEntry(format!("it has no {name} that begins a sector"))
            })
    };
    let config = grub::config(
        sectors(Section::Linux)?,
        sectors(Section::Initrd)?,
        bios.cmdline,
    )?;
    let first = PLACE.start / SECTOR;
    let image = bios.grub.image(&config, first)?;
    if image.len() as u64 > PLACE.end - PLACE.start {
        return Err(DiskError::BootEntry(format!(
            "GRUB's image has {} bytes, and its partition {}",
            image.len(),
            PLACE.end - PLACE.start
        )));
    }
    Ok(Pieces {
        code: bios.grub.boot_code(first),
        image,
    })
}
