//! The packages of the test mirror: all that the shipped board and the shipped
//! base layer ask for, as small as Slipform takes them. None of it boots.

use slipform::lock::testing::{TestArchive, TestPackage};
use slipform::uki::testing::module;

/// Release of the test kernel.
pub(crate) const KERNEL: &str = "6.12.1+deb13-cloud-amd64";

/// Modules of the test kernel: those of the shipped board, and what they need.
const MODULES: &[(&str, &str)] = &[
    ("drivers/block/virtio_blk", ""),
    ("drivers/nvme/host/nvme", "nvme-core"),
    ("drivers/nvme/host/nvme-core", ""),
    ("drivers/md/dm-verity", "dm-bufio,dm-mod"),
    ("drivers/md/dm-bufio", "dm-mod"),
    ("drivers/md/dm-mod", ""),
    ("fs/overlayfs/overlay", ""),
    ("drivers/net/virtio_net", ""),
    ("drivers/char/hw_random/virtio-rng", ""),
    ("drivers/char/virtio_console", ""),
    ("drivers/firmware/qemu_fw_cfg", ""),
    ("drivers/acpi/button", ""),
    ("drivers/input/evdev", ""),
    ("drivers/watchdog/i6300esb", ""),
    ("drivers/watchdog/softdog", ""),
    ("fs/efivarfs/efivarfs", ""),
    ("drivers/firmware/efi/efi-pstore", ""),
];

/// Adds all packages to the archive's main suite.
pub(crate) fn fill(archive: &mut TestArchive) {
    for package in all() {
        archive.add("trixie", package);
    }
}

fn all() -> Vec<TestPackage> {
    let new = TestPackage::new;
    vec![
        kernel(),
        new("linux-image-cloud-amd64", "6.12.1-1")
            .depends(&format!("linux-image-{KERNEL} (= 6.12.1-1)")),
        new("systemd-boot-efi", "257.1-1").file(
            "usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            &stub(),
            0o644,
        ),
        new("qemu-system-x86", "10.0-1").depends("libc6"),
        new("ovmf", "2025-1"),
        new("ipxe", "1.21"),
        new("libc6", "2.41-1")
            .depends("debconf")
            .file(
                "usr/lib/x86_64-linux-gnu/libc.so.6",
                &numbers(2, 70_000),
                0o755,
            )
            .file(
                "usr/lib/x86_64-linux-gnu/gconv/UTF-7.so",
                b"left out",
                0o644,
            ),
        new("ca-certificates", "20250101")
            .depends("openssl, debconf")
            .file(
                "usr/share/ca-certificates/test/Test.crt",
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                0o644,
            ),
        new("tzdata", "2025a-1")
            .depends("debconf")
            .file("usr/share/zoneinfo/UTC", b"TZif2", 0o644),
        new("debconf", "1.5"),
        new("openssl", "3.5"),
        new("init-system-helpers", "1.69"),
        new("ucf", "3.0"),
        new("webfs", "1.21-1")
            .depends("libc6, debconf, init-system-helpers, ucf")
            .file("usr/bin/webfsd", b"\x7fELF webfsd", 0o755),
        hello_server("1.0-1"),
        new("libhello1", "1.0-1").depends("libc6").file(
            "usr/lib/x86_64-linux-gnu/libhello.so.1",
            &numbers(3, 9_000),
            0o644,
        ),
    ]
}

/// The app of the ordinary project, in a version.
pub(crate) fn hello_server(version: &str) -> TestPackage {
    TestPackage::new("hello-server", version)
        .depends("libc6 (>= 2.40), libhello1")
        .file(
            "usr/bin/hello-server",
            format!("\x7fELF hello-server {version}").as_bytes(),
            0o755,
        )
        .file(
            "usr/share/hello-server/data.bin",
            &numbers(4, 300_000),
            0o644,
        )
}

/// Adds what Arm's board and the smallest project ask for, to the suites that have the rest.
pub(crate) fn fill_arm(archive: &mut TestArchive) {
    let arm = |name: &str, version: &str| TestPackage::new(name, version).arch("arm64");
    let kernel = "6.12.1+deb13-cloud-arm64";
    for package in [
        kernel_of(kernel).arch("arm64"),
        arm("linux-image-cloud-arm64", "6.12.1-1")
            .depends(&format!("linux-image-{kernel} (= 6.12.1-1)")),
        arm("systemd-boot-efi", "257.1-1").file(
            "usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
            &stub(),
            0o644,
        ),
        arm("libc6", "2.41-1"),
        arm("libhello1", "1.0-1").depends("libc6").file(
            "usr/lib/aarch64-linux-gnu/libhello.so.1",
            &numbers(5, 9_000),
            0o644,
        ),
        // Run on the host: the tools' own architecture.
        TestPackage::new("qemu-system-arm", "10.0-1").depends("libc6"),
        TestPackage::new("qemu-efi-aarch64", "2025-1"),
    ] {
        archive.add("trixie", package);
    }
    // A mirror has an index of each architecture in every suite.
    for suite in ["trixie-updates", "trixie-security"] {
        archive.add(suite, arm("elsewhere", "1"));
    }
}

fn kernel() -> TestPackage {
    kernel_of(KERNEL)
}

fn kernel_of(release: &str) -> TestPackage {
    let mut image = b"MZ".to_vec();
    image.extend(numbers(1, 40_000));
    let name = format!("linux-image-{release}");
    let mut package =
        TestPackage::new(&name, "6.12.1-1").file(&format!("boot/vmlinuz-{release}"), &image, 0o644);
    for (path, depends) in MODULES {
        package = package.file(
            &format!("usr/lib/modules/{release}/kernel/{path}.ko"),
            &module(&format!("depends={depends}")),
            0o644,
        );
    }
    package.file(
        &format!("usr/lib/modules/{release}/modules.builtin"),
        b"kernel/fs/ext4/ext4.ko\n",
        0o644,
    )
}

/// Bytes without repetition, the same for the same seed (xorshift64).
pub(crate) fn numbers(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A boot stub of one section: PE32+ headers as small as the format allows
/// (Microsoft, "PE Format").
fn stub() -> Vec<u8> {
    let mut bytes = vec![0; 0x600];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664u16.to_le_bytes());
    put(0x46, &1u16.to_le_bytes());
    put(0x54, &240u16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    put(0x58 + 32, &0x1000u32.to_le_bytes());
    put(0x58 + 36, &0x200u32.to_le_bytes());
    put(0x58 + 56, &0x2000u32.to_le_bytes());
    put(0x58 + 60, &0x400u32.to_le_bytes());
    put(0x58 + 108, &16u32.to_le_bytes());
    let section = 0x58 + 240;
    put(section, b".text");
    put(section + 8, &0x10u32.to_le_bytes());
    put(section + 12, &0x1000u32.to_le_bytes());
    put(section + 16, &0x200u32.to_le_bytes());
    put(section + 20, &0x400u32.to_le_bytes());
    bytes
}
