//! The boot harness: boots a disk image in QEMU on a throw-away overlay, watches
//! init's events, the console and QEMU's monitor, probes from outside, and gives
//! a verdict per check.
//!
//! ```text
//! Plan + Emulator + Accel -> machine (argv, sockets, process, QMP)
//!                              | bytes and events, one channel
//!                              v
//!                            watch (pure: what is known of the guest)
//!                              | problems, state
//!                              v
//!                            run (stages: boot, checks, power-off) -> verdicts -> BootReport
//!                              | several of them
//!                              v
//!                            combine (parts of one plan, or one plan several times), junit
//! ```
//!
//! [`sweep`] boots one artifact many times, each time with one thing changed.
//!
//! [`boot_test`] judges, [`run_interactive`] serves a person; both start the same machine.
//! Through [`control`] others ask what a machine that is served looks like inside.

pub mod accel;
mod artifact;
mod combine;
mod console;
pub mod control;
mod error;
mod events;
mod evidence;
mod interactive;
mod junit;
mod limits;
mod machine;
pub mod metadata;
mod phase;
pub mod plan;
mod probes;
pub mod report;
mod run;
pub mod sweep;
mod watch;

pub use accel::{Accel, AccelKind};
pub use combine::{MergeError, merge, repeated};
pub use error::HarnessError;
pub use evidence::write_report;
pub use interactive::{ExitKind, run_interactive};
pub use junit::junit;
pub use metadata::{Day, Metadata, MetadataSource};
pub use plan::*;
pub use report::*;
pub use run::boot_test;
pub use watch::{allowable_checks, built_in_checks};
