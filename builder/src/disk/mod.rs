//! The disk: where every byte of it comes from.
//!
//! ```text
//! 0          1 MiB                                                                              size
//! | GPT      | ESP: FAT32 | layer 1: ext4, dm-verity | layer 2 | … | reserve | state | GPT copy |
//! ```
//!
//! For a BIOS, the first sector has GRUB's code, and a partition from 512 KiB to 1 MiB its image.
//!
//! [`cast`] turns sealed layers and a unified kernel image into a [`DiskMap`]:
//! sorted extents of blobs. The map is the disk's identity; formats are written
//! from it in `output`. [`reader`] reads a disk back, trusting nothing.

pub mod assemble;
mod bios;
mod error;
pub mod esp;
pub mod gpt;
pub mod map;
pub mod plan;
pub mod reader;
mod sparse;
mod stream;
mod window;

pub use assemble::{CastInput, Disk, DiskFacts, LayerPartition, cast};
pub use bios::Bios;
pub use error::DiskError;
pub use map::{DiskMap, Extent, ExtentContent};
pub use reader::{BootInfo, ImageInfo, LayerInfo, PartitionInfo, inspect};
pub use stream::DiskReader;
pub use window::Window;
