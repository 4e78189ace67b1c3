//! File systems written by plain file writing: ext4 for layers, cpio for initrds.
//!
//! [`ext4`] turns one layer's [`Tree`](crate::tree::Tree) into an image in a
//! temporary file of the store; [`cpio`] writes the `newc` archives that the
//! kernel unpacks. Nothing is staged: file content is opened, copied to its
//! place and closed, one file after the other. [`ext4_reader`] reads a layer back.

pub mod cpio;
mod cpio_reader;
mod error;
pub mod ext4;
pub mod ext4_reader;
mod limits;
mod size;
mod sparse;

pub use cpio::Initrd;
pub use cpio_reader::find_in_initrd;
pub use error::FilesystemError;
pub use ext4::{Ext4Options, FsImage, OpenContent};
pub use ext4_reader::{Budget, Ext4Reader, Ext4Superblock};
