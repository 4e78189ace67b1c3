//! Every region of a cast disk in which a sweep flips a byte, by the disk's own
//! structures, and who guards it.

use super::SweepError;
use super::reads::Reads;
use super::seed::Random;
use super::source::Source;
use super::{ext4, fat, gpt, pe};

/// Who notices a changed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// A checksum, and another copy; a reserve is only used when the first is damaged.
    Copy {
        /// It is the second copy.
        reserve: bool,
    },
    /// Nobody, and nothing that is executed or trusted comes of it.
    Nothing,
    /// Only a signature that the firmware checks.
    Signature,
    /// dm-verity, when the block is read.
    Verity,
    /// Parameters of dm-verity that the machine takes from `machine.json` instead.
    Parameters,
}

/// A run of bytes of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// For people; no two have the same.
    pub name: String,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    pub(crate) guard: Guard,
}

impl Region {
    pub(crate) fn new(name: &str, guard: Guard, offset: u64, length: u64) -> Self {
        Self {
            name: name.to_owned(),
            offset,
            length,
            guard,
        }
    }
}

/// A list that takes no empty region.
#[derive(Debug, Default)]
pub(crate) struct Regions(pub(crate) Vec<Region>);

impl Regions {
    pub(crate) fn add(&mut self, region: Region) {
        if region.length > 0 {
            self.0.push(region);
        }
    }
}

/// All regions of a disk with these layers (names and root hashes, bottom to top).
/// `reads` is what an untouched boot read.
pub(crate) fn regions(
    disk: &mut Source<'_>,
    layers: &[(String, String)],
    reads: &Reads,
    seed: u64,
) -> Result<Vec<Region>, SweepError> {
    let mut out = Regions::default();
    let partitions = gpt::regions(disk, &mut out)?;
    let esp = partitions.iter().find(|partition| partition.is_esp);
    let esp = esp.ok_or_else(|| {
        SweepError::structure("the partition table", "must have an EFI system partition")
    })?;
    let file = fat::regions(disk, esp, &mut out)?;
    pe::regions(disk, file, layers, &mut out)?;
    for (name, root_hash) in layers {
        // A layer's partition carries the head of its root hash.
        let guid = root_hash
            .get(..32)
            .unwrap_or(root_hash)
            .to_ascii_lowercase();
        let partition = partitions.iter().find(|partition| partition.guid == guid);
        let partition = partition.ok_or_else(|| {
            SweepError::structure(
                "the partition table",
                format!("must have the partition {guid} of layer {name}"),
            )
        })?;
        let mut random = Random::new(seed, &format!("blocks of {name}"));
        ext4::regions(disk, name, partition, reads, &mut random, &mut out)?;
    }
    Ok(out.0)
}
