//! Targets: one TOML file each, shipped in `boards/` or beside an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use slipform_init::contract::machine::MetadataSource;
use slipform_qemu_tests::Emulation;
use slipform_qemu_tests::devices::{self, DISKS, NETWORKS};

use crate::base::Arch;

/// Boards that ship with Slipform, by name, found wherever the command runs from.
pub const SHIPPED: &[(&str, &str)] = &[
    (
        "aws-aarch64",
        include_str!("../../../boards/aws-aarch64.toml"),
    ),
    (
        "aws-x86_64",
        include_str!("../../../boards/aws-x86_64.toml"),
    ),
    (
        "azure-x86_64",
        include_str!("../../../boards/azure-x86_64.toml"),
    ),
    (
        "gcp-x86_64",
        include_str!("../../../boards/gcp-x86_64.toml"),
    ),
    (
        "generic-aarch64",
        include_str!("../../../boards/generic-aarch64.toml"),
    ),
    (
        "generic-x86_64",
        include_str!("../../../boards/generic-x86_64.toml"),
    ),
    (
        "qemu-aarch64",
        include_str!("../../../boards/qemu-aarch64.toml"),
    ),
    (
        "qemu-x86_64",
        include_str!("../../../boards/qemu-x86_64.toml"),
    ),
    (
        "vmware-x86_64",
        include_str!("../../../boards/vmware-x86_64.toml"),
    ),
];

/// The text of a board that ships.
#[must_use]
pub fn shipped(name: &str) -> Option<&'static str> {
    let mut boards = SHIPPED.iter();
    boards.find_map(|(shipped, text)| (*shipped == name).then_some(*text))
}

/// What starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI.
    Uefi,
    /// A BIOS.
    Bios,
    /// One or the other.
    Both,
}

impl Firmware {
    const NAMES: [(&'static str, Self); 3] = [
        ("uefi", Self::Uefi),
        ("bios", Self::Bios),
        ("both", Self::Both),
    ];

    /// Whether a BIOS must be able to start the disk.
    #[must_use]
    pub const fn has_bios(self) -> bool {
        matches!(self, Self::Bios | Self::Both)
    }

    fn of(board: &RawBoard, arch: Arch, sector_size: u32) -> Result<Self, String> {
        let name = board.firmware.as_deref().unwrap_or("uefi");
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        let (_, firmware) = found
            .ok_or_else(|| format!("firmware = \"{name}\": it must be `uefi`, `bios` or `both`"))?;
        if firmware.has_bios() && (arch != Arch::X86_64 || sector_size != 512) {
            return Err(format!(
                "firmware = \"{name}\": only x86_64 with sectors of 512 bytes starts by a BIOS; write \"uefi\""
            ));
        }
        Ok(*firmware)
    }
}

/// A target, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Name; equals the file's name.
    pub name: String,
    /// Processor architecture.
    pub arch: Arch,
    /// Debian package of the kernel.
    pub kernel: String,
    /// Debian package of the boot stub.
    pub stub_package: String,
    /// Absolute path of the stub in its package.
    pub stub_path: String,
    /// What starts it.
    pub firmware: Firmware,
    /// Kernel modules that init loads, in order; dependencies are added.
    pub modules: Vec<String>,
    /// Those that init loads beside the start of the services.
    pub late_modules: Vec<String>,
    /// Modules, and folders of the kernel's tree, whose drivers are loaded for the devices that there are.
    pub coldplug: Vec<String>,
    /// Words of the kernel's command line.
    pub cmdline: Vec<String>,
    /// Bytes of the EFI system partition.
    pub esp_size: u64,
    /// The disk's size is a multiple of this, in bytes.
    pub disk_multiple: u64,
    /// Logical sector size: 512 or 4096.
    pub sector_size: u32,
    /// Where a machine of this board learns who it is, in this order.
    pub metadata: Vec<MetadataSource>,
    /// How QEMU plays this board.
    pub emulation: Emulation,
}

/// A board file as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawBoard {
    /// Name; must equal the file's name.
    pub name: String,
    /// Architecture: `x86_64` or `aarch64`.
    pub arch: String,
    /// Debian package of the kernel; a meta package is followed.
    pub kernel: String,
    /// Where the boot stub is.
    pub stub: RawStub,
    /// What starts the machine: `uefi` (the default), `bios`, or `both`: then the disk has GRUB's boot code, too, which starts the very same kernel and initrd; the boot test shows each. Only for `x86_64`.
    pub firmware: Option<String>,
    /// Kernel modules that init loads, in order.
    pub modules: Vec<String>,
    /// Kernel modules that no service waits for: init loads them beside the start of the services, and is ready behind them.
    #[serde(default)]
    pub late_modules: Vec<String>,
    /// Drivers that go along and are loaded only where their device is, or comes later: kernel modules, and folders of the kernel's tree such as `drivers/ata`.
    #[serde(default)]
    pub coldplug: Vec<String>,
    /// Words of the kernel's command line.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// Size of the EFI system partition.
    pub esp_size: String,
    /// The disk's size is rounded up to a multiple of this.
    pub disk_multiple: String,
    /// Logical sector size: 512 (default) or 4096.
    pub sector_size: Option<u32>,
    /// Where a machine learns who it is, tried in this order: `fw-cfg`, `smbios`, `nocloud`, `ec2`, `gce`, `azure`, `openstack`. A cloud is only asked where the firmware says that the machine runs there. Default: nowhere.
    #[serde(default)]
    pub metadata: Vec<String>,
    /// How QEMU plays this board: `machine`, `cpu`, `processors`, `memory-mib`, `disk` (`virtio-blk`, `virtio-scsi`, `nvme`, `ahci`, `pvscsi`, `megasas`, `usb-storage`, `cdrom`), `network` (`virtio-net`, which is the default, `vmxnet3`, `e1000e`, `igb`).
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub emulation: Emulation,
}

/// Package and path of the boot stub.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawStub {
    /// Debian package.
    pub package: String,
    /// Absolute path in it.
    pub path: String,
}

/// What can be wrong with a board.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// No such board.
    #[error("there is no board '{name}'; {remedy}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// What there is.
        remedy: String,
    },
    /// A file that cannot be used.
    #[error("{file}: {message}", file = file.display())]
    Bad {
        /// The file.
        file: PathBuf,
        /// Value, rule, remedy.
        message: String,
    },
    /// TOML that cannot be used: file, line and remedy.
    #[error("{0}")]
    Parse(String),
}

/// Folder beside a specification with boards of its own.
pub const BOARDS_DIR: &str = "boards";
/// Folder beside a specification with the layers and boards that shipped with the
/// slipform that a release was built by; they go before this one's own.
pub const VENDOR_DIR: &str = ".slipform";

impl Board {
    /// Finds the board `name`: `boards/NAME.toml` in `dir` (an image's folder), one that was
    /// kept with a release ([`VENDOR_DIR`]), or a shipped one.
    ///
    /// # Errors
    /// [`BoardError`] with what there is, or where the file is wrong.
    pub fn find(name: &str, dir: &Path) -> Result<Self, BoardError> {
        let file = Path::new(BOARDS_DIR).join(format!("{name}.toml"));
        let own = [dir.join(&file), dir.join(VENDOR_DIR).join(&file)];
        let own = own.into_iter().find(|own| own.is_file());
        if !name.contains(['/', '\0'])
            && let Some(own) = own
        {
            let text = std::fs::read_to_string(&own).map_err(|error| BoardError::Bad {
                file: own.clone(),
                message: error.to_string(),
            })?;
            return Self::parse(name, &text, &own);
        }
        match shipped(name) {
            Some(text) => Self::parse(name, text, Path::new(&format!("boards/{name}.toml"))),
            None => {
                let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
                let remedy = format!(
                    "shipped ones: {}; or write boards/{name}.toml beside slipform.toml",
                    names.join(", ")
                );
                Err(BoardError::Unknown {
                    name: name.to_owned(),
                    remedy,
                })
            }
        }
    }

    /// Parses and checks a board file.
    ///
    /// # Errors
    /// [`BoardError::Parse`] and [`BoardError::Bad`].
    pub fn parse(name: &str, text: &str, file: &Path) -> Result<Self, BoardError> {
        let raw: RawBoard = crate::base::toml::parse(text, file).map_err(BoardError::Parse)?;
        let bad = |message: String| BoardError::Bad {
            file: file.to_owned(),
            message,
        };
        if raw.name != name {
            return Err(bad(format!(
                "name = \"{}\", but the file's name says '{name}'; make them equal",
                raw.name
            )));
        }
        let arch = Arch::of(&raw.arch).ok_or_else(|| {
            bad(format!(
                "arch = \"{}\" is not supported; write \"x86_64\" or \"aarch64\"",
                raw.arch
            ))
        })?;
        let sector_size = raw.sector_size.unwrap_or(512);
        if ![512, 4096].contains(&sector_size) {
            return Err(bad(format!(
                "sector-size = {sector_size} is not supported; write 512 or 4096"
            )));
        }
        let size = |key: &str, text: &str| {
            crate::base::bytes::size(text).map_err(|m| bad(format!("{key}: {m}")))
        };
        let (esp_size, disk_multiple) = (
            size("esp-size", &raw.esp_size)?,
            size("disk-multiple", &raw.disk_multiple)?,
        );
        if !(33 << 20..=4 << 30).contains(&esp_size) || esp_size % (1 << 20) != 0 {
            return Err(bad(format!(
                "esp-size = \"{}\" must be a multiple of 1MiB from 33MiB (FAT32's least) to 4GiB",
                raw.esp_size
            )));
        }
        if disk_multiple == 0 || disk_multiple % (1 << 20) != 0 {
            return Err(bad(format!(
                "disk-multiple = \"{}\" must be a multiple of 1MiB",
                raw.disk_multiple
            )));
        }
        for (key, devices, name) in [
            ("disk", &DISKS[..], &raw.emulation.disk),
            ("network", &NETWORKS[..], &raw.emulation.network),
        ] {
            devices::find(devices, name)
                .map_err(|rule| bad(format!("emulation.{key} = \"{name}\": {rule}")))?;
        }
        let metadata = metadata_sources(&raw.metadata).map_err(&bad)?;
        let firmware = Firmware::of(&raw, arch, sector_size).map_err(&bad)?;
        Ok(Self {
            metadata,
            name: raw.name,
            arch,
            firmware,
            kernel: raw.kernel,
            stub_package: raw.stub.package,
            stub_path: raw.stub.path,
            modules: raw.modules,
            late_modules: raw.late_modules,
            coldplug: raw.coldplug,
            cmdline: raw.cmdline,
            esp_size,
            disk_multiple,
            sector_size,
            emulation: raw.emulation,
        })
    }
}

/// Sources of metadata by their names.
///
/// # Errors
/// The name that is none, or stands twice.
pub fn metadata_sources(names: &[String]) -> Result<Vec<MetadataSource>, String> {
    let mut sources = Vec::new();
    for name in names {
        let found = MetadataSource::ALL
            .into_iter()
            .find(|source| source.name() == name);
        let source = found.ok_or_else(|| {
            let known = || MetadataSource::ALL.into_iter().map(MetadataSource::name);
            let near = crate::base::toml::nearest(name, known());
            let hint = near.map_or_else(
                || format!("write some of {}", known().collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean '{near}'?"),
            );
            format!("metadata: '{name}' is no source; {hint}")
        })?;
        if sources.contains(&source) {
            return Err(format!("metadata: '{name}' stands twice; keep the first"));
        }
        sources.push(source);
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_board_is_listed_and_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../boards");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        names.sort();
        assert_eq!(
            names,
            SHIPPED
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect::<Vec<_>>()
        );
        for name in names {
            Board::find(&name, Path::new(".")).unwrap();
        }
    }

    #[test]
    fn a_wrong_board_says_what_and_where() {
        let text = shipped("qemu-x86_64").unwrap();
        let file = Path::new("boards/x.toml");
        let error =
            |name: &str, text: &str| Board::parse(name, text, file).unwrap_err().to_string();
        assert!(error("other", text).contains("make them equal"));
        assert!(
            error("qemu-x86_64", &text.replace("\"ec2\"", "\"ecc2\""))
                .contains("did you mean 'ec2'")
        );
        let nic = text.replace("disk = ", "network = \"ne2k\"\ndisk = ");
        assert!(error("qemu-x86_64", &nic).contains("emulation.network = \"ne2k\": it must be"));
        assert!(error("qemu-x86_64", &text.replace("\"ec2\"", "\"gce\"")).contains("stands twice"));
        assert!(error("qemu-x86_64", &text.replace("64MiB", "16MiB")).contains("33MiB"));
        assert!(
            error("qemu-x86_64", &text.replace("\nmodules =", "\nmodlues ="))
                .contains("did you mean 'modules'")
        );
        assert!(
            Board::find("quemu", Path::new("."))
                .unwrap_err()
                .to_string()
                .contains("qemu-x86_64")
        );
        assert!(
            error(
                "qemu-x86_64",
                &text.replace("arch = \"x86_64\"", "arch = \"arm64\"")
            )
            .contains("write \"x86_64\" or \"aarch64\"")
        );
        assert!(Board::find("../x", Path::new(".")).is_err());
        let with = |more: &str| error("qemu-x86_64", &text.replacen("\nkernel =", more, 1));
        assert!(with("\nfirmware = \"csm\"\nkernel =").contains("`uefi`, `bios` or `both`"));
        let large = text.replace(
            "sector-size = 512",
            "sector-size = 4096\nfirmware = \"both\"",
        );
        assert!(
            error("qemu-x86_64", &large).contains("sectors of 512 bytes"),
            "{large}"
        );
    }
}
