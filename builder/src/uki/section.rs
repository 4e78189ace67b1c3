//! The sections of a unified kernel image, in their order.

use std::io::{self, Read, Seek, SeekFrom};

use super::pe::{self, Pe};

/// A section that Slipform appends. The order is that of the file: what changes
/// with every image comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// os-release, for boot menus.
    OsRel,
    /// Kernel command line.
    Cmdline,
    /// Kernel release, `uname -r`.
    Uname,
    /// The kernel, an EFI-stub image.
    Linux,
    /// The initrd: all archives, one after the other.
    Initrd,
}

impl Section {
    /// All, in order.
    pub const ALL: [Self; 5] = [
        Self::OsRel,
        Self::Cmdline,
        Self::Uname,
        Self::Linux,
        Self::Initrd,
    ];

    /// The name in the section table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OsRel => ".osrel",
            Self::Cmdline => ".cmdline",
            Self::Uname => ".uname",
            Self::Linux => ".linux",
            Self::Initrd => ".initrd",
        }
    }
}

/// Where a section's content lies in its file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SectionRange {
    /// Name, without padding; bytes that are no text are replaced.
    pub name: String,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// Lists the sections of the PE image that starts at `reader`'s first byte.
/// Reads at most [`pe::MAX_HEADERS`] bytes.
///
/// # Errors
/// [`io::Error`] of the reader, or of kind `InvalidData` for what is no PE image.
pub fn read<R: Read + Seek>(reader: &mut R) -> io::Result<Vec<SectionRange>> {
    let mut headers = Vec::new();
    reader.seek(SeekFrom::Start(0))?;
    reader
        .take(pe::MAX_HEADERS as u64)
        .read_to_end(&mut headers)?;
    let length = reader.seek(SeekFrom::End(0))?;
    let pe = Pe::parse(&headers, length)
        .map_err(|rule| io::Error::new(io::ErrorKind::InvalidData, rule.to_string()))?;
    Ok(pe
        .sections
        .iter()
        .map(|section| SectionRange {
            name: section.name(),
            offset: u64::from(section.raw_offset),
            size: u64::from(section.raw_size.min(section.virtual_size)),
        })
        .collect())
}
