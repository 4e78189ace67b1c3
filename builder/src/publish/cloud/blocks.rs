//! Which blocks of a disk a snapshot needs, and which of them its parent has already.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};

use crate::base::{Digest, Progress};
use crate::disk::{DiskMap, DiskReader, ExtentContent};
use crate::store::Store;

/// Largest disk: EBS's largest volume, 64 TiB.
pub(super) const LARGEST: u64 = 64 << 40;

/// The blocks of a disk. Sorted by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockPlan {
    /// Bytes of a block.
    pub unit: u64,
    /// Those that hold anything but zeros.
    pub data: Vec<u32>,
    /// Those to write, with the SHA-256 of their bytes: that differ from the parent's.
    pub changed: Vec<(u32, Digest)>,
}

impl BlockPlan {
    /// Compares a disk with its parent's, block by block. What the two maps take from the
    /// same bytes of the same blob is not read twice; a parent's block whose bytes are not in
    /// the store any more counts as another.
    ///
    /// # Errors
    /// What the store or the system reports, also for damaged blobs.
    pub fn new(
        store: &Store,
        (disk, unit): (&DiskMap, u64),
        parent: Option<&DiskMap>,
        progress: &dyn Progress,
    ) -> io::Result<Self> {
        let task = progress.begin("read the disk", Some(disk.size));
        let mut plan = Self {
            unit,
            ..Self::default()
        };
        let mut ours = Blocks::new(store, disk, unit);
        let mut theirs = parent.map(|map| Blocks::new(store, map, unit));
        let mut indexes = candidates(store, disk, unit)?;
        if let Some(parent) = parent {
            // Where the parent has data and this disk has none, zeros must be written.
            indexes.extend(extents(parent, unit));
        }
        let mut told = 0;
        for index in indexes {
            let block = ours.read(index)?;
            let zero = is_zero(block);
            if !zero {
                plan.data.push(index);
            }
            let same = match &mut theirs {
                None => zero,
                Some(theirs) if theirs.recipe(index) == recipe(disk, index, unit) => true,
                Some(theirs) => theirs.read(index).is_ok_and(|theirs| theirs == block),
            };
            if !same {
                plan.changed.push((index, Digest::of(block)));
            }
            let at = (u64::from(index) * unit).min(disk.size);
            task.advance(at - told);
            told = at;
        }
        Ok(plan)
    }

    /// Bytes to write.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.changed.len() as u64 * self.unit
    }
}

/// The blocks in which a map has blobs.
fn extents(disk: &DiskMap, unit: u64) -> BTreeSet<u32> {
    let blobs = disk
        .extents
        .iter()
        .filter(|e| e.content != ExtentContent::Zero);
    blobs
        .flat_map(|extent| index(extent.offset, unit)..=index(extent.end() - 1, unit))
        .collect()
}

/// The blocks that may hold data: without what is a hole of a blob's file.
fn candidates(store: &Store, disk: &DiskMap, unit: u64) -> io::Result<BTreeSet<u32>> {
    let mut reader = DiskReader::new(store, disk);
    let mut found = BTreeSet::new();
    let mut at = 0;
    while let Some(data) = reader.next_data(at..disk.size)? {
        found.extend(index(data.start, unit)..=index(data.end - 1, unit));
        at = data.end;
    }
    Ok(found)
}

/// The block with that byte; disks are at most [`LARGEST`].
fn index(byte: u64, unit: u64) -> u32 {
    u32::try_from(byte / unit).unwrap_or(u32::MAX)
}

/// Where the bytes of a block come from: offset in the block, length, blob, offset in it.
fn recipe(disk: &DiskMap, index: u32, unit: u64) -> Vec<(u64, u64, Digest, u64)> {
    let start = u64::from(index) * unit;
    let end = start + unit;
    let first = disk.extents.partition_point(|extent| extent.end() <= start);
    let mut found = Vec::new();
    for extent in disk.extents[first..].iter().take_while(|e| e.offset < end) {
        if let ExtentContent::Blob { digest, offset } = extent.content {
            let from = extent.offset.max(start);
            let length = extent.end().min(end) - from;
            found.push((from - start, length, digest, offset + from - extent.offset));
        }
    }
    found
}

pub(super) fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Reads whole blocks of a disk; what lies behind its end is zero.
pub(super) struct Blocks<'a> {
    reader: DiskReader<'a>,
    disk: &'a DiskMap,
    unit: u64,
    buffer: Vec<u8>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(store: &'a Store, disk: &'a DiskMap, unit: u64) -> Self {
        Self {
            reader: DiskReader::new(store, disk),
            disk,
            // A few MiB at most.
            buffer: vec![0; usize::try_from(unit).unwrap_or(usize::MAX)],
            unit,
        }
    }

    pub(super) fn read(&mut self, index: u32) -> io::Result<&[u8]> {
        let start = u64::from(index) * self.unit;
        let length = self.disk.size.saturating_sub(start).min(self.unit);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.buffer[length..].fill(0);
        if length > 0 {
            self.reader.seek(SeekFrom::Start(start))?;
            self.reader.read_exact(&mut self.buffer[..length])?;
        }
        Ok(&self.buffer)
    }

    fn recipe(&self, index: u32) -> Vec<(u64, u64, Digest, u64)> {
        recipe(self.disk, index, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Quiet;
    use crate::disk::Extent;
    use crate::disk::map::MAP_SCHEMA;
    use crate::remote::aws::ebs::BLOCK;

    const MIB: u64 = 1 << 20;

    fn extent(offset: u64, length: u64, digest: Digest, from: u64) -> Extent {
        Extent {
            offset,
            length,
            content: ExtentContent::Blob {
                digest,
                offset: from,
            },
        }
    }

    fn disk(size: u64, extents: Vec<Extent>) -> DiskMap {
        DiskMap {
            schema: MAP_SCHEMA,
            sector_size: 512,
            size,
            extents,
        }
    }

    #[test]
    fn only_what_differs_from_the_parent_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let base = store.put(&vec![7; 2 << 20]).unwrap();
        let old = store.put(&vec![1; BLOCK]).unwrap();
        // The same bytes from another blob, and zeros in a blob, are no change.
        let mut twin = vec![7; BLOCK];
        twin.extend(vec![0; BLOCK]);
        let twin = store.put(&twin).unwrap();
        let new = store.put(b"new").unwrap();
        let parent = disk(
            8 * MIB,
            vec![
                extent(0, 2 * MIB, base, 0),
                extent(4 * MIB, MIB / 2, old, 0),
            ],
        );
        let child = disk(
            8 * MIB,
            vec![
                extent(0, MIB / 2, twin, 0),
                extent(MIB / 2, 3 * MIB / 2, base, MIB / 2),
                extent(2 * MIB, MIB / 2, twin, MIB / 2),
                extent(8 * MIB - 3, 3, new, 0),
            ],
        );
        let plan = |disk: &DiskMap, parent| {
            BlockPlan::new(&store, (disk, BLOCK as u64), parent, &Quiet).unwrap()
        };
        let whole = plan(&child, None);
        assert_eq!(whole.data, [0, 1, 2, 3, 15]);
        assert_eq!(whole.changed.len(), 5);
        let delta = plan(&child, Some(&parent));
        assert_eq!(delta.data, whole.data);
        let mut last = vec![0; BLOCK];
        last[BLOCK - 3..].copy_from_slice(b"new");
        // Where the parent had data and the child has none, zeros are written.
        assert_eq!(
            delta.changed,
            [(8, Digest::of(vec![0; BLOCK])), (15, Digest::of(last))]
        );
        assert_eq!(plan(&child, Some(&child)).changed, []);
        // A parent whose bytes are gone costs what cannot be compared, not more.
        std::fs::remove_file(store.path(&old)).unwrap();
        assert_eq!(plan(&child, Some(&parent)).changed, delta.changed);
    }
}
