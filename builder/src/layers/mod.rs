//! One locked layer becomes a list of entries: what its packages, files,
//! folders and links bring, in the order in which they are applied. Nothing is
//! staged: file content stays where it is and is read when the file system is written.
//!
//! ```text
//! deb/      a .deb blob -> the tar of its files as a blob of the store, and what its control file says
//! container/ a container image's documents and archives, and its layers applied on each other
//! rootfs.rs the user's own tar -> the same, checked while it is decompressed
//! tar.rs    such a tar -> entries; every hostile trick of archives is refused here
//! files.rs  the user's files, folders, globs, dirs and symlinks -> entries
//! collect.rs  both together, one layer: excludes, collisions, who wins
//! content.rs  the bytes of an entry, checked while they are read
//! ```

pub mod collect;
mod compression;
pub mod container;
pub mod content;
pub mod deb;
pub mod entry;
mod error;
mod exclude;
mod files;
mod pax;
pub mod rootfs;
pub mod tar;
#[cfg(test)]
pub(crate) mod testing;

pub use collect::{CollectInput, collect, collect_with};
pub use container::UnpackedContainer;
pub use deb::{UnpackedDeb, unpack};
pub use entry::*;
pub use error::LayersError;
pub use exclude::glob;
pub use files::user_entries;
pub use rootfs::UnpackedTar;
