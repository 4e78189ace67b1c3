//! Where the guest is, by the last evidence.

use slipform_init::contract::event::Phase;

/// A stage of the boot, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// UEFI.
    Firmware,
    /// systemd-stub and the kernel's own EFI stub.
    Stub,
    /// The kernel, before init spoke.
    Kernel,
    /// Init, in a phase of its own.
    Init(Phase),
    /// After the request to power off.
    PowerOff,
}

impl Stage {
    /// As the report names it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Firmware => "firmware".into(),
            Self::Stub => "boot stub".into(),
            Self::Kernel => "kernel".into(),
            Self::Init(phase) => format!("init: {}", phase.name()),
            Self::PowerOff => "power-off".into(),
        }
    }

    /// What a line of the console says about the stage.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        if crate::console::fatal::kernel_text(line).is_some() {
            return Some(Self::Kernel);
        }
        // Init's own lines for people: the only sign of life while a quiet kernel boots.
        if line.starts_with("slipform: ") {
            return Some(Self::Init(Phase::Start));
        }
        let stub = line.contains("EFI stub:")
            || line.contains("systemd-stub")
            || (line.starts_with("BdsDxe: starting Boot") && !line.contains("Shell"));
        stub.then_some(Self::Stub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_the_stage() {
        let table = [
            (
                "BdsDxe: loading Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)",
                None,
            ),
            (
                "BdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)",
                Some(Stage::Stub),
            ),
            (
                "BdsDxe: starting Boot0002 \"EFI Internal Shell\" from Fv(7CB8BDC9)",
                None,
            ),
            (
                "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path",
                Some(Stage::Stub),
            ),
            (
                "[    0.000000] Linux version 6.12.107+deb13-cloud-amd64",
                Some(Stage::Kernel),
            ),
            (
                "slipform: hello 1 (machine 0123456789ab)",
                Some(Stage::Init(Phase::Start)),
            ),
            ("hello from a service", None),
        ];
        for (line, stage) in table {
            assert_eq!(Stage::of_line(line), stage, "{line}");
        }
        assert!(Stage::Kernel < Stage::Init(Phase::Start));
        assert!(Stage::Init(Phase::Shutdown) < Stage::PowerOff);
    }
}
