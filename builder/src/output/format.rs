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
    /// QEMU's format, version 3, clusters compressed with zstd.
    Qcow2,
}

/// A name that is no format.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no image format; use raw or qcow2")]
pub struct FormatError(String);

impl OutputFormat {
    /// All formats.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Qcow2];

    /// The name, which is also the usual file extension.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
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
            .ok_or_else(|| FormatError(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for format in OutputFormat::ALL {
            assert_eq!(format.name().parse::<OutputFormat>().unwrap(), format);
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{format}\""));
        }
        assert!("vmdk".parse::<OutputFormat>().is_err());
    }
}
