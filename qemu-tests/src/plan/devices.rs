//! Which disks and network cards QEMU can play a board with.

/// A device by its name in a board's file.
#[derive(Debug)]
pub struct Device {
    /// The name.
    pub name: &'static str,
    /// QEMU's device that it hangs on, if the machine has none of its own.
    pub controller: Option<&'static str>,
    /// QEMU's device, with its options.
    pub device: &'static str,
}

const fn device(
    name: &'static str,
    controller: Option<&'static str>,
    device: &'static str,
) -> Device {
    Device {
        name,
        controller,
        device,
    }
}

/// Disks.
pub const DISKS: [Device; 10] = [
    device("virtio-blk", None, "virtio-blk-pci"),
    device(
        "virtio-scsi",
        Some("virtio-scsi-pci"),
        "scsi-hd,serial=slipform",
    ),
    device("nvme", None, "nvme,serial=slipform"),
    // q35 has the controller.
    device("ahci", None, "ide-hd,bus=ide.0,serial=slipform"),
    device("pvscsi", Some("pvscsi"), "scsi-hd,serial=slipform"),
    device("megasas", Some("megasas"), "scsi-hd,serial=slipform"),
    device(
        "usb-storage",
        Some("qemu-xhci"),
        "usb-storage,serial=slipform",
    ),
    // A drive that the disk lies in as a CD.
    device("cdrom", None, "ide-cd,bus=ide.0"),
    // None at all: the firmware fetches the disk into memory by HTTP.
    device("http-boot", None, ""),
    // Nor here: iPXE fetches kernel, initrd and layers.
    device("netboot", None, ""),
];

/// Network cards.
pub const NETWORKS: [Device; 4] = [
    device("virtio-net", None, "virtio-net-pci"),
    device("vmxnet3", None, "vmxnet3"),
    device("e1000e", None, "e1000e"),
    device("igb", None, "igb"),
];

/// The one of this name.
///
/// # Errors
/// The rule: which names there are.
pub fn find<'a>(devices: &'a [Device], name: &str) -> Result<&'a Device, String> {
    let found = devices.iter().find(|device| device.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = devices.iter().map(|d| format!("`{}`", d.name)).collect();
        format!("it must be one of {}", names.join(", "))
    })
}
