//! What makes a sweep's machine another one than the board's.

use std::path::PathBuf;

/// Where QEMU's reads of the disk are written down, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace(pub(crate) PathBuf);

/// Differences to the board's machine; the default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// Write down what is read of the disk.
    pub(crate) trace: Option<Trace>,
    /// The clock at power-on, as `-rtc base=` takes it, instead of the right time.
    pub(crate) clock: Option<String>,
    /// Physical sectors of this size.
    pub(crate) physical_sector: Option<u32>,
    /// No network interface at all.
    pub(crate) no_network: bool,
    /// Bytes a second and operations a second that the disk gives.
    pub(crate) throttle: Option<(u64, u64)>,
}
