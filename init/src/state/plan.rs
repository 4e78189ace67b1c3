//! Where the state partition lies on the boot disk, and what is done so that it does:
//! pure but for reads, writes and flushes of a [`Blocks`], in an order that a power cut may
//! end anywhere.
//!
//! ```text
//! no partition   settle the table -> format the free space -> add the entry
//! one            settle the table -> (the disk grew) give the entry a later end
//! several        refused
//! ```
//!
//! A file system is whole before its partition exists, and a partition is mounted only when
//! its entry counts. So whatever boot finds no entry may begin again: nobody has kept
//! anything there.

use super::Blocks;
use slipform_init::contract::machine::{STATE_NAME as NAME, STATE_TYPE as KIND};

use super::ext4::{self, Identity};
use super::table::{Entry, NewEntry, Table, TableError};

/// Partitions start and end at whole MiB.
const ALIGNMENT: u64 = 1 << 20;

/// There can be no state partition.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// Table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nobody but a person can tell which is the right one.
    #[error(
        "partitions {0:?} all are named {NAME} and of its type; give all but the right one another name (sgdisk -c)"
    )]
    Several(Vec<u32>),
    /// The disk is full.
    #[error(
        "behind the last partition {free} bytes are free, the image asks for {wanted}; enlarge the disk, or cast it with this image"
    )]
    NoRoom {
        /// Whole MiB that are free.
        free: u64,
        /// What the image asks for.
        wanted: u64,
    },
    /// Formatting.
    #[error("make the file system: {0}")]
    Format(std::io::Error),
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Least bytes.
    pub(crate) bytes: u64,
    /// Of a new file system.
    pub(crate) identity: Identity,
    /// Of a new partition.
    pub(crate) guid: [u8; 16],
}

/// The state partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number.
    pub(crate) number: u32,
    /// First byte on the disk.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) bytes: u64,
    /// It was made now.
    pub(crate) made: bool,
    /// Bytes that it had, if it has more now.
    pub(crate) grown_from: Option<u64>,
}

/// Makes sure that there is one state partition, as large as the disk allows.
pub(crate) fn prepare(
    disk: &dyn Blocks,
    sector_size: u32,
    sectors: u64,
    wish: &Wish,
) -> Result<Place, PlanError> {
    let mut table = Table::read(disk, sector_size, sectors)?;
    let entries: Vec<Entry> = table.entries().collect();
    let candidates: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.kind == KIND && entry.name == NAME)
        .collect();
    let step = ALIGNMENT / u64::from(sector_size);
    // The sector behind the last whole MiB that can be used.
    let end = (table.last_usable() + 1) / step * step;
    let sector = u64::from(sector_size);
    match candidates.as_slice() {
        [] => {
            let behind = entries.iter().map(|entry| entry.last + 1).max();
            let first = behind.unwrap_or(step).next_multiple_of(step);
            let free = end.saturating_sub(first) * sector;
            let wanted = wish.bytes.max(ext4::MIN_BYTES);
            if free < wanted {
                return Err(PlanError::NoRoom { free, wanted });
            }
            table.settle(disk)?;
            ext4::format(disk, first * sector, free, &wish.identity).map_err(PlanError::Format)?;
            let number = table.add(&NewEntry {
                kind: KIND,
                guid: wish.guid,
                first,
                last: end - 1,
                name: NAME,
            })?;
            table.write(disk)?;
            Ok(Place {
                number,
                start: first * sector,
                bytes: free,
                made: true,
                grown_from: None,
            })
        }
        [one] => {
            table.settle(disk)?;
            let last_of_all = entries.iter().all(|entry| entry.last <= one.last);
            let before = (one.last - one.first + 1) * sector;
            let mut place = Place {
                number: one.number,
                start: one.first * sector,
                bytes: before,
                made: false,
                grown_from: None,
            };
            if last_of_all && end > one.last + 1 {
                table.set_last(one.number, end - 1);
                table.write(disk)?;
                place.bytes = (end - one.first) * sector;
                place.grown_from = Some(before);
            }
            Ok(place)
        }
        several => Err(PlanError::Several(
            several.iter().map(|entry| entry.number).collect(),
        )),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
