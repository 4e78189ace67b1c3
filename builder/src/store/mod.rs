//! The content-addressed store: an OCI image layout on disk, and beside it the
//! record of steps done.

pub mod blob;

pub use blob::*;
