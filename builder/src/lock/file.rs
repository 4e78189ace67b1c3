//! The lock file's shape. Written sorted, marked `@generated`, versioned; a
//! newer version is refused by name.

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// Version of the format that this program writes.
pub const LOCK_VERSION: u32 = 1;

/// All of `slipform.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    /// [`LOCK_VERSION`].
    pub version: u32,
    /// Digest of what resolution read from the specification (packages wished, boards, suite); another one makes the lock stale.
    pub wishes: Digest,
    /// PID 1.
    pub init: LockedInit,
    /// Archives, sorted by name.
    #[serde(default, rename = "suite")]
    pub suites: Vec<LockedSuite>,
    /// Kernel and boot stub of each board, sorted by name.
    #[serde(default, rename = "board")]
    pub boards: Vec<LockedBoard>,
    /// Layers, bottom to top.
    #[serde(default, rename = "layer")]
    pub layers: Vec<LockedLayer>,
    /// Emulator and other tools; in no image's digest.
    #[serde(default, rename = "tool")]
    pub tools: Vec<LockedTool>,
}

/// PID 1 as built into the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedInit {
    /// Bytes.
    pub size: u64,
    /// Of the binary.
    pub sha256: Digest,
}

/// One archive's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedSuite {
    /// `trixie`, `trixie-updates`, `trixie-security`, or an `[[apt]]` name.
    pub name: String,
    /// The Release's `Date`, seconds since 1970.
    pub date: i64,
    /// Digest of the InRelease as fetched.
    pub release: Digest,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Name.
    pub name: String,
    /// Version in Debian's syntax.
    pub version: String,
    /// Architecture of the file: `amd64` or `all`.
    pub arch: String,
    /// Name of the [`LockedSuite`] it came from, or `local`.
    pub suite: String,
    /// Path below the archive's base URI, or the path of the local file relative to the lock.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of the `.deb`.
    pub sha256: Digest,
    /// Why it is here: `wished`, or `needed by <package>`.
    pub why: String,
}

/// Kernel and stub of a board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedBoard {
    /// Board name.
    pub name: String,
    /// Package with `/boot/vmlinuz-*` and the modules.
    pub kernel: LockedPackage,
    /// Package with the EFI stub.
    pub stub: LockedPackage,
}

/// The packages of a layer, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedLayer {
    /// Layer name.
    pub name: String,
    /// Its packages; none that a layer below has.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// A set of tools, unpacked together into one folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedTool {
    /// `emulator`, or a test's own.
    pub name: String,
    /// The closure, sorted by name.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}
