//! `slipform.lock`: every input by name, version, size and digest.

pub mod archive;
pub mod file;

pub use archive::*;
pub use file::*;
