//! What every room stands on: digests, derived ids, files written whole, progress.

pub mod arch;
pub mod base64;
pub mod bytes;
pub mod digest;
pub mod fs;
pub mod guid;
pub mod progress;
pub mod toml;

pub use arch::Arch;
pub use digest::{Digest, DigestWriter};
pub use progress::Progress;

/// Fixed modification time, in seconds since 1970, of everything that has no
/// time of its own (2020-01-01T00:00:00Z): artifacts carry no clock.
pub const EPOCH: i64 = 1_577_836_800;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * 1024;

/// `value` rounded up to a multiple of `unit` (`unit` > 0).
#[must_use]
pub fn align_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}
