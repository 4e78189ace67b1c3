//! Reads a disk back for `slipform inspect`: partitions, verity superblocks,
//! the boot entry's sections, and machine.json out of its initrd.
//!
//! The disk may be anyone's: every length is bounded, and what does not parse
//! becomes a line in [`ImageInfo::problems`], never a panic.

use std::io::{self, Read, Seek, SeekFrom};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use slipform_init::contract::machine::{MACHINE_PATH, Machine};

use super::esp;
use super::gpt::{self, Partition};
use crate::filesystem::find_in_initrd;
use crate::uki::{self, SectionRange};
use crate::verity::format::{BLOCK_SIZE, Superblock};

/// Longest text section (command line, os-release) that is shown.
const MAX_TEXT: u64 = 64 * 1024;
/// Longest machine.json that is read.
const MAX_MACHINE: u64 = 16 * 1024 * 1024;

/// What an image file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageInfo {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a sector; 0 when there is no partition table.
    pub sector_size: u32,
    /// GUID of the disk.
    pub disk_guid: String,
    /// Partitions in the order of the table.
    pub partitions: Vec<PartitionInfo>,
    /// The boot entry of the ESP.
    pub boot: Option<BootInfo>,
    /// What the machine is told.
    pub machine: Option<Machine>,
    /// What was expected and not found, or found and not understood.
    pub problems: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionInfo {
    /// Name in the table.
    pub name: String,
    /// `esp`, `layer` or `other`.
    pub kind: &'static str,
    /// GUID of the type.
    pub type_guid: String,
    /// GUID of the partition.
    pub guid: String,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// The sealed file system in it.
    pub layer: Option<LayerInfo>,
}

/// A sealed file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerInfo {
    /// Name of the file system.
    pub filesystem: &'static str,
    /// Bytes of the file system.
    pub size: u64,
    /// Bytes of it that are in use.
    pub used: u64,
    /// Files, folders, links and the like.
    pub inodes: u64,
    /// Root hash as the tree's top gives it, 64 hexadecimal digits.
    pub root_hash: String,
    /// Salt in hexadecimal digits.
    pub salt: String,
    /// Bytes from the partition's start to the tree.
    pub hash_offset: u64,
}

/// A unified kernel image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BootInfo {
    /// Path in the ESP.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Sections in their order.
    pub sections: Vec<SectionRange>,
    /// Kernel command line.
    pub cmdline: String,
    /// Content of os-release.
    pub osrel: String,
    /// Kernel release.
    pub uname: String,
}

/// Describes the disk that `disk` reads.
///
/// # Errors
/// What `disk` reports for reading; what is on it is no error.
pub fn inspect<R: Read + Seek>(disk: &mut R) -> io::Result<ImageInfo> {
    let mut info = ImageInfo {
        size: disk.seek(SeekFrom::End(0))?,
        ..ImageInfo::default()
    };
    let Some(table) = gpt::read(disk)? else {
        info.problems.push(
            "there is no GUID partition table; is this a raw or qcow2 disk image?".to_owned(),
        );
        return Ok(info);
    };
    info.sector_size = table.sector_size;
    info.disk_guid = table.disk_guid.to_string();
    for partition in &table.partitions {
        let described = describe(
            disk,
            partition,
            u64::from(table.sector_size),
            &mut info.problems,
        )?;
        info.partitions.push(described);
    }
    let esp = info
        .partitions
        .iter()
        .find(|partition| partition.kind == "esp");
    match esp.map(|esp| (esp.offset, esp.size)) {
        None => info
            .problems
            .push("there is no EFI system partition".to_owned()),
        Some((offset, size)) => {
            let mut volume = Window::new(disk, offset, size);
            read_boot(&mut volume, &mut info)?;
        }
    }
    Ok(info)
}

fn describe<R: Read + Seek>(
    disk: &mut R,
    partition: &Partition,
    sector: u64,
    problems: &mut Vec<String>,
) -> io::Result<PartitionInfo> {
    let offset = partition.first_lba * sector;
    let size = (partition.last_lba - partition.first_lba + 1) * sector;
    let kind = match partition.type_guid {
        gpt::ESP_TYPE => "esp",
        gpt::LAYER_TYPE => "layer",
        _ => "other",
    };
    let mut layer = None;
    if kind == "layer" {
        layer = read_layer(&mut Window::new(disk, offset, size))?;
        let guid = partition.guid.simple().to_string();
        match &layer {
            None => problems.push(format!(
                "layer '{}' has no ext4 with a dm-verity superblock behind it",
                partition.name
            )),
            Some(layer) if !layer.root_hash.starts_with(&guid) => {
                problems.push(format!(
                    "layer '{}' has root hash {}, but the partition GUID says {guid}",
                    partition.name, layer.root_hash
                ));
            }
            Some(_) => {}
        }
    }
    Ok(PartitionInfo {
        name: partition.name.clone(),
        kind,
        type_guid: partition.type_guid.to_string(),
        guid: partition.guid.to_string(),
        offset,
        size,
        layer,
    })
}

/// The ext4 and dm-verity superblocks of a layer's partition.
fn read_layer<R: Read + Seek>(partition: &mut Window<'_, R>) -> io::Result<Option<LayerInfo>> {
    // struct ext4_super_block, Linux, Documentation/filesystems/ext4/super.rst.
    let Some(ext4) = read_at::<1024, _>(partition, 1024)? else {
        return Ok(None);
    };
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([
            ext4[at],
            ext4[at + 1],
            ext4[at + 2],
            ext4[at + 3],
        ]))
    };
    if ext4[0x38..0x3a] != [0x53, 0xef] || word(0x18) != 2 {
        return Ok(None);
    }
    let blocks = word(0x4);
    let data = blocks * BLOCK_SIZE;
    let Some(superblock) =
        read_at::<512, _>(partition, data)?.and_then(|bytes| Superblock::parse(&bytes))
    else {
        return Ok(None);
    };
    let Some(top) = read_at::<4096, _>(partition, data + BLOCK_SIZE)? else {
        return Ok(None);
    };
    if superblock.data_blocks != blocks {
        return Ok(None);
    }
    let root = Sha256::new_with_prefix(&superblock.salt)
        .chain_update(top)
        .finalize();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(LayerInfo {
        filesystem: "ext4",
        size: data,
        used: blocks.saturating_sub(word(0xc)) * BLOCK_SIZE,
        inodes: word(0x0).saturating_sub(word(0x10)),
        root_hash: hex(&root),
        salt: hex(&superblock.salt),
        hash_offset: data + BLOCK_SIZE,
    }))
}

/// `N` bytes at `offset`; `None` when the source ends before.
fn read_at<const N: usize, R: Read + Seek>(
    source: &mut R,
    offset: u64,
) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    source.seek(SeekFrom::Start(offset))?;
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The boot entry in the ESP `volume`, and machine.json in its initrd.
fn read_boot<R: Read + Seek>(volume: &mut Window<'_, R>, info: &mut ImageInfo) -> io::Result<()> {
    let Some((name, offset, size)) = esp::find_boot_file(volume)? else {
        info.problems.push(
            "the EFI system partition has no boot entry in \\EFI\\BOOT in one piece".to_owned(),
        );
        return Ok(());
    };
    let mut file = Window::new(volume, offset, size);
    let sections = match uki::read(&mut file) {
        Ok(sections) => sections,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            info.problems
                .push(format!("{name} is no EFI application: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut boot = BootInfo {
        path: format!("EFI/BOOT/{name}"),
        size,
        ..BootInfo::default()
    };
    for section in &sections {
        let mut content = Window::new(&mut file, section.offset, section.size);
        match section.name.as_str() {
            ".cmdline" => boot.cmdline = text(&mut content)?,
            ".osrel" => boot.osrel = text(&mut content)?,
            ".uname" => boot.uname = text(&mut content)?,
            ".initrd" => read_machine(&mut content, info)?,
            _ => {}
        }
    }
    boot.sections = sections;
    info.boot = Some(boot);
    Ok(())
}

fn read_machine<R: Read + Seek>(
    initrd: &mut Window<'_, R>,
    info: &mut ImageInfo,
) -> io::Result<()> {
    let path = MACHINE_PATH.trim_start_matches('/');
    let parsed =
        find_in_initrd(initrd, path, MAX_MACHINE)?.map(|bytes| serde_json::from_slice(&bytes));
    match parsed {
        None => info
            .problems
            .push(format!("the initrd has no {MACHINE_PATH}")),
        Some(Err(error)) => info
            .problems
            .push(format!("{MACHINE_PATH} does not read: {error}")),
        Some(Ok(machine)) => info.machine = Some(machine),
    }
    Ok(())
}

fn text<R: Read + Seek>(section: &mut Window<'_, R>) -> io::Result<String> {
    let mut bytes = Vec::new();
    section.seek(SeekFrom::Start(0))?;
    section.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches(['\0', '\n'])
        .to_owned())
}

/// A range of a larger source, as a source of its own.
struct Window<'a, R> {
    inner: &'a mut R,
    start: u64,
    size: u64,
    at: u64,
}

impl<'a, R: Read + Seek> Window<'a, R> {
    fn new(inner: &'a mut R, start: u64, size: u64) -> Self {
        Self {
            inner,
            start,
            size,
            at: 0,
        }
    }
}

impl<R: Read + Seek> Read for Window<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let from = self.start.checked_add(self.at);
        let (Some(from), true) = (from, room > 0) else {
            return Ok(0);
        };
        self.inner.seek(SeekFrom::Start(from))?;
        let read = self.inner.read(&mut buffer[..room])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Window<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
