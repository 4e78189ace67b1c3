//! What a lock has for a board.

use serde::{Deserialize, Serialize};

use super::file::LockedPackage;

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
    /// Package with the boot loader for a BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<LockedPackage>,
    /// Packages with firmware and microcode, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<LockedPackage>,
}

impl LockedBoard {
    /// All of its packages.
    pub fn packages(&self) -> impl Iterator<Item = &LockedPackage> {
        let own = [&self.kernel, &self.stub];
        own.into_iter().chain(&self.bios).chain(&self.firmware)
    }
}
