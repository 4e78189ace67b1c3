//! `slipform.lock`: every input by name, version, size and digest.

pub mod file;

pub use file::*;
