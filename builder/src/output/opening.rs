//! Opens image files as the disks that they hold.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::blocks::Source;
use super::gcp_tar::{self, GcpTarReader};
use super::iso::{self, IsoReader};
use super::netboot::{self, NetbootReader};
use super::ova::open_ova;
use super::raw_zst::{self, RawZstReader};
use super::reading::le32;
use super::vhd_reader::{VhdReader, has_footer};
use super::vhdx::{self, VhdxReader};
use super::vmdk_reader::VmdkReader;
use super::vmdk_stream::COMPRESSED;
use super::{OutputError, OutputFormat, Qcow2Reader, qcow2, vhd, vmdk};
use crate::base::fs::At;
use crate::verity::holes::next_data;

/// A source of a disk's bytes.
pub trait DiskSource: Read + Seek + std::fmt::Debug {}
impl<T: Read + Seek + std::fmt::Debug> DiskSource for T {}

/// Opens an image file as the disk that it holds, whatever its format. Both kinds
/// of qcow2 are [`OutputFormat::Qcow2`].
///
/// # Errors
/// [`OutputError::Fs`], [`OutputError::Image`] for a file that cannot be read.
pub fn open(path: &Path) -> Result<(OutputFormat, Box<dyn DiskSource>), OutputError> {
    let mut file = File::open(path).at("open", path)?;
    let format = detect(&mut file).at("read", path)?;
    let reader = reader(format, file).map_err(|source| OutputError::Image {
        path: path.to_owned(),
        source,
    })?;
    Ok((format, reader))
}

/// What a file is, by what it starts with; a fixed VHD by what it ends with.
fn detect(file: &mut File) -> io::Result<OutputFormat> {
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start)?;
    // A boot sector's code may be anything, but no other format has its signature.
    let is_disk = start.get(510..) == Some(&[0x55, 0xaa]);
    let is_tar = start.get(257..262) == Some(b"ustar") && !is_disk;
    Ok(if start.starts_with(&qcow2::MAGIC) {
        OutputFormat::Qcow2
    } else if start.starts_with(&raw_zst::MAGIC) {
        OutputFormat::RawZst
    } else if start.starts_with(vhd::COOKIE) {
        OutputFormat::VhdDynamic
    } else if start.starts_with(vhdx::MAGIC) {
        OutputFormat::Vhdx
    } else if start.starts_with(&vmdk::MAGIC) {
        if le32(&start, 8) & COMPRESSED == 0 {
            OutputFormat::Vmdk
        } else {
            OutputFormat::VmdkStream
        }
    } else if start.starts_with(&gcp_tar::MAGIC) {
        OutputFormat::GcpTar
    } else if is_disk && iso::is_ours(file)? {
        OutputFormat::Iso
    } else if is_tar && start.starts_with(netboot::MAP.as_bytes()) {
        OutputFormat::Netboot
    } else if is_tar {
        OutputFormat::Ova
    } else if has_footer(file)? {
        OutputFormat::Vhd
    } else {
        OutputFormat::Raw
    })
}

/// The reader of a format.
pub(super) fn reader<'f>(
    format: OutputFormat,
    mut file: impl DiskSource + 'f,
) -> io::Result<Box<dyn DiskSource + 'f>> {
    file.seek(SeekFrom::Start(0))?;
    Ok(match format {
        OutputFormat::Raw => Box::new(file),
        OutputFormat::RawZst => Box::new(RawZstReader::open(file)?),
        OutputFormat::Qcow2 | OutputFormat::Qcow2Zlib => Box::new(Qcow2Reader::open(file)?),
        OutputFormat::Vhd | OutputFormat::VhdDynamic => Box::new(VhdReader::open(file)?),
        OutputFormat::Vhdx => Box::new(VhdxReader::open(file)?),
        OutputFormat::Vmdk | OutputFormat::VmdkStream => Box::new(VmdkReader::open(file)?),
        OutputFormat::Ova => Box::new(open_ova(file)?),
        OutputFormat::GcpTar => Box::new(GcpTarReader::open(file)?),
        OutputFormat::Iso => Box::new(IsoReader::open(file)?),
        OutputFormat::Netboot => Box::new(NetbootReader::open(file)?),
    })
}

/// The disk in a file.
#[derive(Debug)]
pub(super) struct FileDisk<'f> {
    disk: Box<dyn DiskSource + 'f>,
    /// The file again, where its holes are the disk's; elsewhere zeros are found by looking.
    holes: Option<File>,
}

impl<'f> FileDisk<'f> {
    /// The disk that `disk` reads from a file of `format`; `file` is that file.
    pub(super) fn new(
        format: OutputFormat,
        disk: Box<dyn DiskSource + 'f>,
        file: Option<File>,
    ) -> Self {
        let plain = matches!(
            format,
            OutputFormat::Raw | OutputFormat::Vhd | OutputFormat::Iso
        );
        Self {
            disk,
            holes: file.filter(|_| plain),
        }
    }
}

impl Read for FileDisk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(buffer)
    }
}

impl Seek for FileDisk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

impl Source for FileDisk<'_> {
    fn data(&mut self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        match &self.holes {
            Some(file) => next_data(file, within),
            None => Ok((!within.is_empty()).then_some(within)),
        }
    }
}
