//! dm-verity: a hash tree behind the file system, in the same partition.
//!
//! ```text
//! | file system, 4096-byte blocks | superblock, one block | tree: root level first, leaves last |
//! 0                               size of the data        hash_offset
//! ```
//!
//! What [`seal`] gives is content-addressed twice: by the flat digest of all
//! bytes, which the store names it by, and by the root hash, which the machine checks.

pub mod format;
pub(crate) mod holes;
mod seal;
pub mod tree;

pub use seal::{Sealed, VerityError, seal};
