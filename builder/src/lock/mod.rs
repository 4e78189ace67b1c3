//! `slipform.lock`: every input by name, version, size and digest.
//!
//! From [`Wishes`] to a [`LockFile`], pure over the [`Archive`] trait:
//!
//! ```text
//! InRelease -> release -> Packages -> index -> solve -> resolve -> file
//!   keys, signature, suite, age        |         apt's choices      a part of slipform.lock (locks.rs)
//!                                      check: what is newer than the lock
//! ```

pub mod archive;
pub mod board;
pub mod catalog;
pub mod check;
pub mod date;
pub mod deb822;
pub mod error;
pub mod file;
pub mod index;
mod kernel;
pub mod keys;
pub mod locks;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod solve;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod version;
pub mod wishes;

pub use archive::*;
pub use board::LockedBoard;
pub use check::{Finding, check};
pub use error::LockError;
pub use file::*;
pub use locks::Locks;
pub use relation::Wish;
pub use resolve::{ResolveOptions, Update, resolve};
pub use wishes::*;
