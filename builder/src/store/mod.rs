//! The content-addressed store: an OCI image layout on disk (image-spec v1.1,
//! image-layout.md), and beside it the record of steps done.
//!
//! ```text
//! <store>/
//!   oci-layout          version of the layout
//!   index.json          named manifests: what people asked for
//!   blobs/sha256/<hex>  content, named by its digest
//!   steps/  subjects/   what was built from what; the last run of each subject, for --explain
//!   stat/               digests of users' files by their stat data
//!   roots/              what collecting must keep, one file for each project
//!   unpacked/<hex>/     folders made from blobs (the emulator and other tools)
//!   quarantine/         damaged blobs, set aside
//!   tmp/                files on their way in; those of dead processes are cleared on opening
//!   lock  index.lock  tmp.lock
//! ```
//!
//! Invariants: a file in `blobs/` is whole (temporary file, fsync, rename,
//! fsync of the folder); content is verified on its way out, once in a process;
//! whoever builds holds [`Store::shared`], and only collecting holds
//! [`Store::exclusive`].

pub mod blob;
pub mod error;
pub mod gc;
pub mod guard;
pub mod index;
pub mod oci;
pub mod read;
pub mod stat;
pub mod steps;
pub mod temp;

#[cfg(test)]
mod crash_tests;
pub(crate) mod fault;

pub use blob::*;
pub use error::*;
pub use gc::*;
pub use guard::*;
pub use oci::*;
pub use read::*;
pub use stat::*;
pub use steps::*;
pub use temp::*;
