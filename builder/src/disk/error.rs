//! What can go wrong in casting a disk.

use std::io;

use crate::base::Digest;
use crate::store::StoreError;
use crate::uki::grub::GrubError;

/// A disk that cannot be cast.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A figure of the board that breaks a rule.
    #[error("cannot lay out the disk with {key} = {value}: {rule}")]
    Fact {
        /// Key of the board's file.
        key: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: String,
    },
    /// A boot entry that does not fit.
    #[error(
        "the unified kernel image has {size} bytes, but the ESP has room for {room}; raise the board's esp_size"
    )]
    EspFull {
        /// Bytes of the image.
        size: u64,
        /// Bytes that fit.
        room: u64,
    },
    /// An ESP that the writer of FAT refuses.
    #[error("cannot write the file system of the ESP of {size} bytes: {source}")]
    Esp {
        /// Bytes of the partition.
        size: u64,
        /// What the writer says.
        source: io::Error,
    },
    /// Partition tables that their writer refuses.
    #[error(
        "cannot write the partition tables of a disk of {sectors} sectors: {source}; a disk has room for its tables and 128 partitions at most"
    )]
    Tables {
        /// Sectors of the disk.
        sectors: u64,
        /// What the writer says.
        source: gpt::GptError,
    },
    /// Two layers with the same bytes.
    #[error(
        "the layers '{first}' and '{second}' have the same content and would share a partition GUID; remove one"
    )]
    SameLayer {
        /// The lower one.
        first: String,
        /// The upper one.
        second: String,
    },
    /// Too many layers.
    #[error("{0} layers are more than the {max} that a disk takes; merge some", max = super::plan::MAX_LAYERS)]
    TooManyLayers(usize),
    /// GRUB, on a board with a BIOS.
    #[error(transparent)]
    Grub(#[from] GrubError),
    /// A boot entry that GRUB could not read.
    #[error("a BIOS cannot start this boot entry: {0}")]
    BootEntry(String),
    /// A map that is no map.
    #[error("cannot read a disk map: {0}")]
    Map(String),
    /// A map whose blob ends too early.
    #[error("the disk map wants bytes up to {end} of blob {blob}, which has only {size}")]
    ShortBlob {
        /// The blob.
        blob: Digest,
        /// First byte behind what is wanted.
        end: u64,
        /// Its length.
        size: u64,
    },
}
