//! Processor architectures, each with the names that others give it.

/// An architecture that images are cast for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit PCs.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];
    /// The one that the locked tools are of: they run on the host.
    pub const TOOLS: Self = Self::X86_64;

    /// As boards, Rust and the kernel's `uname -m` name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The architecture of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// As Debian's packages, Go and containers name it.
    #[must_use]
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The variant of it, as containers name them, that every board of ours runs: one that
    /// wants more (`v3`, say) may die of an instruction that the machine does not have.
    #[must_use]
    pub const fn variant(self) -> &'static str {
        match self {
            Self::X86_64 => "v1",
            Self::Aarch64 => "v8",
        }
    }

    /// The file in `\EFI\BOOT` that its firmware starts from a disk without boot
    /// entries (UEFI Specification 2.10, table 3.2).
    #[must_use]
    pub const fn boot_file(self) -> &'static str {
        match self {
            Self::X86_64 => "BOOTX64.EFI",
            Self::Aarch64 => "BOOTAA64.EFI",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_architecture_and_no_other_does() {
        for arch in Arch::ALL {
            assert_eq!(Arch::of(arch.name()), Some(arch));
            assert_eq!(Arch::of(arch.debian()), None);
        }
        assert_eq!(Arch::of("riscv64"), None);
    }
}
