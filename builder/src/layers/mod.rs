//! One locked layer becomes a list of entries: what its packages, files,
//! folders and links bring, in the order in which they are applied. Nothing is
//! staged: file content stays where it is and is read when the file system is written.

pub mod entry;

pub use entry::*;
