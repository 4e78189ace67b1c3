//! The formats that a disk can be written in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A format of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// The disk byte for byte, zeros as holes.
    Raw,
    /// The disk compressed with zstd, in frames that can be read alone.
    #[serde(rename = "raw.zst")]
    RawZst,
    /// QEMU's format, version 3, clusters compressed with zstd.
    Qcow2,
    /// The same, clusters compressed with zlib.
    Qcow2Zlib,
    /// A fixed VHD, as Azure takes it.
    Vhd,
    /// A dynamic VHD.
    VhdDynamic,
    /// Hyper-V's VHDX, dynamic.
    Vhdx,
    /// VMware's VMDK in one growing file.
    Vmdk,
    /// VMware's VMDK as a compressed stream, for ESXi and vCenter.
    VmdkStream,
    /// An appliance: an OVF descriptor, a compressed VMDK and their digests.
    Ova,
    /// Google Compute Engine's tar.gz with a sparse `disk.raw`.
    GcpTar,
    /// A CD that is the disk, too: ISO 9660 beside the partition table.
    Iso,
    /// A tar of what a machine starts from over the network: kernel, initrd, layers, script.
    Netboot,
}

/// A name that is no format.
#[derive(Debug, thiserror::Error)]
#[error("'{name}' is no image format; use {}", OutputFormat::ALL.map(OutputFormat::name).join(", "))]
pub struct FormatError {
    name: String,
}

impl OutputFormat {
    /// All formats.
    pub const ALL: [Self; 13] = [
        Self::Raw,
        Self::RawZst,
        Self::Qcow2,
        Self::Qcow2Zlib,
        Self::Vhd,
        Self::VhdDynamic,
        Self::Vhdx,
        Self::Vmdk,
        Self::VmdkStream,
        Self::Ova,
        Self::GcpTar,
        Self::Iso,
        Self::Netboot,
    ];

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawZst => "raw.zst",
            Self::Qcow2 => "qcow2",
            Self::Qcow2Zlib => "qcow2-zlib",
            Self::Vhd => "vhd",
            Self::VhdDynamic => "vhd-dynamic",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::VmdkStream => "vmdk-stream",
            Self::Ova => "ova",
            Self::GcpTar => "gcp-tar",
            Self::Iso => "iso",
            Self::Netboot => "netboot",
        }
    }

    /// What a file's name ends with: no two formats of an image share a file.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Qcow2Zlib => "zlib.qcow2",
            Self::VhdDynamic => "dynamic.vhd",
            Self::VmdkStream => "stream.vmdk",
            Self::GcpTar => "tar.gz",
            Self::Netboot => "netboot.tar",
            other => other.name(),
        }
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OutputFormat {
    type Err = FormatError;
    fn from_str(name: &str) -> Result<Self, FormatError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| FormatError {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_read_back_and_extensions_differ() {
        for format in OutputFormat::ALL {
            assert_eq!(format.name().parse::<OutputFormat>().unwrap(), format);
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{format}\""));
        }
        let extensions: BTreeSet<_> = OutputFormat::ALL.map(OutputFormat::extension).into();
        assert_eq!(extensions.len(), OutputFormat::ALL.len());
        let error = "vdi".parse::<OutputFormat>().unwrap_err().to_string();
        assert!(error.contains("ova, gcp-tar, iso, netboot"), "{error}");
    }
}
