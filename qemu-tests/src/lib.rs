//! The boot harness: boots a disk image in QEMU on a throw-away overlay, watches
//! init's events, the console and QEMU's monitor, probes from outside, and gives
//! a verdict per check.

pub mod plan;
pub mod report;

pub use plan::*;
pub use report::*;
