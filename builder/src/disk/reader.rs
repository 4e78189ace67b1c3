//! Reads a disk back for `slipform inspect`: partitions, verity superblocks,
//! the boot entry's sections, and machine.json out of its initrd.
//!
//! The disk may be anyone's: every length is bounded, and what does not parse
//! becomes a line in [`ImageInfo::problems`], never a panic.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use slipform_init::contract::machine::{MACHINE_PATH, MODULES_LATE, MODULES_LIST, Machine};

use super::esp;
use super::gpt::{self, Partition};
use super::window::Window;
use crate::base::{Digest, DigestWriter};
use crate::filesystem::{Ext4Superblock, find_in_initrd};
use crate::uki::{self, Section, SectionRange};
use crate::verity::format::{BLOCK_SIZE, Superblock};

/// Longest text section (command line, os-release) that is shown.
const MAX_TEXT: u64 = 64 * 1024;
/// Longest file of the initrd (init, machine.json) that is read.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Most bytes that are digested: far more than any boot entry has.
const MAX_DIGESTED: u64 = 512 * 1024 * 1024;
/// PID 1 in the initrd.
const INIT_PATH: &str = "init";

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
    /// The whole file, all that firmware starts; `None` for one that is far too large.
    pub digest: Option<Digest>,
    /// The kernel's section.
    pub kernel: Option<Digest>,
    /// What the stub calls itself, such as `systemd-stub 257.9`; empty when it does not.
    pub stub: String,
    /// The stub's own sections.
    pub stub_digest: Option<Digest>,
    /// PID 1 in the initrd.
    pub init: Option<Digest>,
    /// Kernel modules in the order of loading, with their parameters.
    pub modules: Vec<String>,
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
        gpt::BIOS_TYPE => "bios",
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
    let Some(ext4) = read_at(partition, 1024)?.and_then(|bytes| Ext4Superblock::parse(&bytes))
    else {
        return Ok(None);
    };
    let blocks = ext4.blocks;
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
        used: blocks.saturating_sub(ext4.free_blocks) * BLOCK_SIZE,
        inodes: u64::from(ext4.inodes.saturating_sub(ext4.free_inodes)),
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
        digest: digest(&mut file)?,
        ..BootInfo::default()
    };
    for (index, section) in sections.iter().enumerate() {
        // A second one of a name is nobody's, and only costs time.
        if sections[..index].iter().any(|s| s.name == section.name) {
            continue;
        }
        let mut content = Window::new(&mut file, section.offset, section.size);
        match section.name.as_str() {
            ".cmdline" => boot.cmdline = text(&mut content)?,
            ".osrel" => boot.osrel = text(&mut content)?,
            ".uname" => boot.uname = text(&mut content)?,
            ".linux" => boot.kernel = digest(&mut content)?,
            ".sdmagic" => boot.stub = stub_name(&text(&mut content)?),
            ".initrd" => read_initrd(&mut content, &mut boot, info)?,
            _ => {}
        }
    }
    boot.stub_digest = stub_digest(&mut file, &sections)?;
    boot.sections = sections;
    info.boot = Some(boot);
    Ok(())
}

/// machine.json, the modules and init.
fn read_initrd<R: Read + Seek>(
    initrd: &mut R,
    boot: &mut BootInfo,
    info: &mut ImageInfo,
) -> io::Result<()> {
    let paths = [MACHINE_PATH, MODULES_LIST, MODULES_LATE, INIT_PATH]
        .map(|path| path.trim_start_matches('/'));
    let [machine, modules, late, init] = find_in_initrd(initrd, paths, MAX_FILE)?;
    match machine.map(|bytes| serde_json::from_slice(&bytes)) {
        None => info
            .problems
            .push(format!("the initrd has no {MACHINE_PATH}")),
        Some(Err(error)) => info
            .problems
            .push(format!("{MACHINE_PATH} does not read: {error}")),
        Some(Ok(machine)) => info.machine = Some(machine),
    }
    let modules = [modules, late].map(Option::unwrap_or_default).concat();
    boot.modules = String::from_utf8_lossy(&modules)
        .lines()
        .map(str::to_owned)
        .collect();
    boot.init = init.map(|bytes| Digest::of(&bytes));
    Ok(())
}

/// The digest of all of `source`; `None` when it is far too large.
fn digest<R: Read + Seek>(source: &mut R) -> io::Result<Option<Digest>> {
    let size = source.seek(SeekFrom::End(0))?;
    if size > MAX_DIGESTED {
        return Ok(None);
    }
    source.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(256 * 1024, source);
    Ok(Some(Digest::of_reader(&mut reader)?.0))
}

/// The digest over the sections that Slipform did not append, one after the other.
fn stub_digest<R: Read + Seek>(
    file: &mut R,
    sections: &[SectionRange],
) -> io::Result<Option<Digest>> {
    let own = |section: &&SectionRange| !Section::ALL.iter().any(|s| s.name() == section.name);
    let total: u64 = sections
        .iter()
        .filter(own)
        .map(|section| section.size)
        .sum();
    if total > MAX_DIGESTED {
        return Ok(None);
    }
    let mut hasher = DigestWriter::new(io::sink());
    for section in sections.iter().filter(own) {
        io::copy(
            &mut Window::new(file, section.offset, section.size),
            &mut hasher,
        )?;
    }
    Ok(Some(hasher.finish().0))
}

/// `#### LoaderInfo: systemd-stub 257.9-1~deb13u1 ####` (systemd, src/boot/stub.c).
fn stub_name(magic: &str) -> String {
    let name = magic
        .split_once("LoaderInfo: ")
        .map_or("", |(_, name)| name);
    name.split(" ####").next().unwrap_or_default().to_owned()
}

fn text<R: Read + Seek>(section: &mut Window<'_, R>) -> io::Result<String> {
    let mut bytes = Vec::new();
    section.seek(SeekFrom::Start(0))?;
    section.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches(['\0', '\n'])
        .to_owned())
}
