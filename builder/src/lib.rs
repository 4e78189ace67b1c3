//! Slipform casts bootable, minimal, immutable OS images, layer by layer, and
//! refuses to publish one that has not booted.
//!
//! The rooms, in the order in which the data flows. A room imports what stands
//! to its left, never to its right; [`pipeline`] alone knows them all, and
//! [`cli`] turns it into the command.
//!
//! ```text
//! spec -> lock -> store/sources -> layers -> tree -> filesystem -> verity -> uki -> disk -> output
//! Image   LockFile  blobs          Vec<Entry> Tree   FsImage       Sealed    Uki    DiskMap Artifact
//!
//!   -> (boot test) -> attest -> channel -> publish
//!      BootReport     Attested  Entry      Published
//! ```
//!
//! `remote` is the store further away: what is published lies there.
//!
//! `base` (digests, atomic files, progress) and `board` (targets) stand below
//! all of them; `remote` is the store further away: a folder, a registry, an
//! object store.

pub mod attest;
pub mod base;
pub mod board;
pub mod channel;
pub mod cli;
pub mod disk;
pub mod filesystem;
pub mod layers;
pub mod lock;
pub mod output;
pub mod pipeline;
pub mod publish;
pub mod remote;
pub mod sources;
pub mod spec;
pub mod store;
pub mod tree;
pub mod uki;
pub mod verity;
