//! Finds the partitions of the layers.
//!
//! A layer's partition carries the first 128 bits of its root hash as GUID. Which
//! disk has them is found by reading the partition tables: the kernel tells GUIDs in
//! uevents only in newer versions, and one way for all is tested in every boot.
//!
//! All layers must lie on **one** disk, the boot disk: nothing is mixed over disks.
//! A second disk with the same image is normal (a volume of a failed machine attached
//! for a look), so it is no error: the first in the order of names is taken, which one
//! is said, and dm-verity checks every block of it either way. The same holds for a
//! GUID that appears twice on a disk: the lower partition number is taken.
//!
//! A CD is the disk too, but its sectors have 2048 bytes and the table speaks of 512: the
//! kernel sees no partitions there, so they are found by their place. A drive may take
//! long to look for a medium, so that it is only asked when no disk has all layers.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slipform_init::contract::machine::Layer;

use super::coldplug::Coldplug;
use super::gpt;
use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::clock;
use slipform_init::contract::event::Phase;

/// How long disks may take to appear: a controller on real hardware wakes them one by one.
const LIMIT: Duration = Duration::from_secs(60);
/// The same under a harness, whose disk is there from the start.
const HARNESS_LIMIT: Duration = Duration::from_secs(15);
/// Under a harness: when there are disks, and none appeared or changed for so long, no
/// more are expected.
const HARNESS_SETTLED: Duration = Duration::from_secs(5);
/// Then people are told what the machine waits for.
const QUIET: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

const SYS_BLOCK: &str = "/sys/class/block";
/// What the boot disk is called when the layers came with the initrd.
pub(crate) const MEMORY: &str = "loop";
/// What CD drives are called.
const CD: &str = "sr";
/// Bytes that a partition table on a CD takes for a sector.
const CD_TABLE_SECTOR: u64 = 512;
/// Block devices that are no disks to write to.
const NO_DISKS: [&str; 9] = [
    MEMORY, "ram", "zram", "dm-", "md", CD, "fd", "nbd", "mtdblock",
];

/// The partition of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// `major:minor`.
    pub(crate) device: String,
    /// Path in /dev.
    pub(crate) path: PathBuf,
    /// First byte on the device: 0 where the kernel has made it one of its own.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// The disk that the machine booted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootDisk {
    /// The kernel's name of it, as in /sys/class/block.
    pub(crate) name: String,
    /// The layers' partitions, in the order of the layers.
    pub(crate) partitions: Vec<Partition>,
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Path in /dev.
    pub(crate) path: PathBuf,
    /// Bytes of a logical sector.
    pub(crate) sector_size: u32,
    /// How many of them.
    pub(crate) sectors: u64,
}

impl Whole {
    /// The disk that the kernel names so.
    pub(crate) fn of(name: &str) -> io::Result<Self> {
        let folder = folder_of(name);
        let sector_size = if is_cd(name) {
            CD_TABLE_SECTOR
        } else {
            number_in(&folder.join("queue/logical_block_size"))?
        };
        let sectors = number_in(&folder.join("size"))?.saturating_mul(512) / sector_size.max(1);
        Ok(Self {
            path: device_of(name),
            sector_size: u32::try_from(sector_size)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            sectors,
        })
    }
}

/// What the kernel tells of a block device.
pub(crate) fn folder_of(name: &str) -> PathBuf {
    Path::new(SYS_BLOCK).join(name)
}

/// Its device; in sysfs a '!' stands for the '/' of a name in /dev.
fn device_of(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

/// No disk holds all layers.
#[derive(Debug, thiserror::Error)]
#[error("no disk holds {missing}; seen: {seen}")]
pub(crate) struct DiskError {
    missing: String,
    seen: String,
}

/// A disk, and what was found on it.
#[derive(Debug)]
struct Disk {
    name: String,
    /// Bytes in the kernel's sectors of 512, to notice a medium that came later.
    size: u64,
    found: Result<Vec<Found>, String>,
}

#[derive(Debug)]
struct Found {
    guid: [u8; 16],
    partition: Partition,
}

/// Finds the partitions of `layers`, in their order, and waits for a disk that is late:
/// maybe one whose driver is still to be loaded.
pub(crate) fn find(
    layers: &[Layer],
    coldplug: &mut Option<Coldplug>,
    report: &mut Reporter,
) -> Result<BootDisk, BootError> {
    let guids: Vec<[u8; 16]> = layers
        .iter()
        .map(|layer| guid_of(&layer.root_hash))
        .collect();
    let begin = clock::monotonic();
    let mut changed = begin;
    let mut disks: Vec<Disk> = Vec::new();
    let (mut told, mut cds) = (false, false);
    loop {
        if let Some(coldplug) = coldplug {
            coldplug.advance(report);
        }
        if look(&mut disks, cds) {
            changed = clock::monotonic();
        }
        let complete: Vec<_> = disks
            .iter()
            .filter_map(|disk| Some((disk, pick(disk, &guids)?)))
            .collect();
        if let Some((disk, partitions)) = complete.first() {
            report.note(&format!(
                "disk: {} layers on /dev/{}",
                layers.len(),
                disk.name
            ));
            for (other, _) in &complete[1..] {
                report.note(&format!(
                    "disk: /dev/{} holds the same layers, it is not used",
                    other.name
                ));
            }
            return Ok(BootDisk {
                name: disk.name.clone(),
                partitions: partitions.clone(),
            });
        }
        cds = true;
        let now = clock::monotonic();
        if is_over(
            now - begin,
            now - changed,
            !disks.is_empty(),
            report.has_harness(),
        ) {
            let what = format!("find the partitions of {} layers", layers.len());
            return Err(BootError::new(
                Phase::Disk,
                what,
                explain(layers, &guids, &disks),
            ));
        }
        if !told && now >= begin + QUIET {
            told = true;
            report.note(&format!(
                "disk: waiting for a disk with {} layers",
                layers.len()
            ));
        }
        report.find_channel();
        thread::sleep(PAUSE);
    }
}

/// Whether no disk is expected any more: `waited` in all, `unchanged` since the last one came.
fn is_over(waited: Duration, unchanged: Duration, any: bool, harness: bool) -> bool {
    if harness {
        waited >= HARNESS_LIMIT || any && unchanged >= HARNESS_SETTLED
    } else {
        waited >= LIMIT
    }
}

/// The first 128 bits of a root hash; the digits were checked when machine.json was read.
fn guid_of(root_hash: &str) -> [u8; 16] {
    let mut guid = [0; 16];
    for (byte, digits) in guid.iter_mut().zip(root_hash.as_bytes().chunks(2)) {
        *byte = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .unwrap_or(0);
    }
    guid
}

/// GPT's text form.
fn guid_text(guid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in guid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Brings `disks` up to date; true if something changed. Disks that are known and
/// unchanged are not read again. With `cds`, drives are asked, too, behind all disks.
fn look(disks: &mut Vec<Disk>, cds: bool) -> bool {
    let mut names = names();
    names.sort_by_key(|name| name_order(name));
    if cds {
        names.extend(drives());
    }
    let mut changed = false;
    let mut old = std::mem::take(disks);
    for name in names {
        let folder = folder_of(&name);
        let size = number_in(&folder.join("size")).unwrap_or(0);
        match old
            .iter()
            .position(|disk| disk.name == name && disk.size == size)
        {
            // A table that could not be read, or partitions that the kernel has not made yet, may come right.
            Some(known) if old[known].found.is_ok() => disks.push(old.swap_remove(known)),
            known => {
                changed |= known.is_none();
                let found = if size == 0 {
                    Err("no medium".to_owned())
                } else {
                    partitions(&name, &folder)
                };
                disks.push(Disk { name, size, found });
            }
        }
    }
    changed
}

/// The kernel's names of all disks that there are now.
pub(crate) fn names() -> Vec<String> {
    let mut names = devices();
    names.retain(|name| is_disk(name));
    names
}

/// The kernel's names of all CD drives, in their order.
fn drives() -> Vec<String> {
    let mut names = devices();
    names.retain(|name| is_cd(name));
    names.sort();
    names
}

/// Whether nothing can be kept on the boot disk of that name.
pub(crate) fn keeps_nothing(name: &str) -> bool {
    is_cd(name) || name == MEMORY
}

/// Whether the kernel's name is that of a CD drive.
fn is_cd(name: &str) -> bool {
    name.starts_with(CD)
}

fn devices() -> Vec<String> {
    fs::read_dir(SYS_BLOCK)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn is_disk(name: &str) -> bool {
    let partition = Path::new(SYS_BLOCK).join(name).join("partition");
    !NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) && !partition.exists()
}

/// vda, vdb, …, vdz, vdaa: shorter names first.
fn name_order(name: &str) -> (usize, String) {
    (name.len(), name.to_owned())
}

fn partitions(name: &str, folder: &Path) -> Result<Vec<Found>, String> {
    let disk = Whole::of(name).map_err(|error| error.to_string())?;
    let file = File::open(&disk.path).map_err(|error| error.to_string())?;
    let table = gpt::read(&file, disk.sector_size, disk.sectors);
    let table = table.map_err(|error| error.to_string())?;
    if is_cd(name) {
        let device = fs::read_to_string(folder.join("dev")).map_err(|error| error.to_string())?;
        let on_cd = |entry: gpt::Partition| Found {
            guid: entry.guid,
            partition: Partition {
                device: device.trim().to_owned(),
                path: disk.path.clone(),
                start: entry.start,
                bytes: entry.bytes,
            },
        };
        return Ok(table.into_iter().map(on_cd).collect());
    }
    let nodes = kernel_partitions(folder).map_err(|error| error.to_string())?;
    table
        .into_iter()
        .map(|entry| {
            let node = nodes.iter().find(|node| node.number == entry.number);
            let node = node.ok_or_else(|| {
                format!("the kernel has no device for partition {}", entry.number)
            })?;
            let partition = Partition {
                device: node.device.clone(),
                path: node.path.clone(),
                start: 0,
                bytes: entry.bytes,
            };
            Ok(Found {
                guid: entry.guid,
                partition,
            })
        })
        .collect()
}

/// What the kernel made of a disk's partitions.
#[derive(Debug)]
pub(crate) struct Node {
    /// Of the partition, from 1.
    pub(crate) number: u32,
    device: String,
    /// Path in /dev.
    pub(crate) path: PathBuf,
    /// What the kernel tells of it.
    pub(crate) folder: PathBuf,
    /// First byte on the disk.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// The partitions that the kernel has of a disk.
pub(crate) fn kernel_partitions(folder: &Path) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(number) = number_in(&entry.path().join("partition")) else {
            continue;
        };
        let Ok(number) = u32::try_from(number) else {
            continue;
        };
        let device = fs::read_to_string(entry.path().join("dev"))?
            .trim()
            .to_owned();
        // The kernel counts in 512 bytes, whatever the disk's sectors.
        let units = |name| number_in(&entry.path().join(name)).map(|n| n.saturating_mul(512));
        nodes.push(Node {
            number,
            device,
            path: device_of(&entry.file_name().to_string_lossy()),
            folder: entry.path(),
            start: units("start")?,
            bytes: units("size")?,
        });
    }
    Ok(nodes)
}

fn number_in(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The disk's partitions for `guids`, if it has them all.
fn pick(disk: &Disk, guids: &[[u8; 16]]) -> Option<Vec<Partition>> {
    let found = disk.found.as_ref().ok()?;
    let one = |guid: &[u8; 16]| {
        found
            .iter()
            .find(|found| found.guid == *guid)
            .map(|found| found.partition.clone())
    };
    guids.iter().map(one).collect()
}

/// What was looked for, and what was seen instead.
fn explain(layers: &[Layer], guids: &[[u8; 16]], disks: &[Disk]) -> DiskError {
    let missing = layers.iter().zip(guids).filter(|(_, guid)| {
        !disks.iter().any(|disk| {
            disk.found
                .iter()
                .flatten()
                .any(|found| found.guid == **guid)
        })
    });
    let missing: Vec<_> = missing
        .map(|(layer, guid)| format!("layer {} ({})", layer.name, guid_text(guid)))
        .collect();
    let missing = if missing.is_empty() {
        "all layers together".to_owned()
    } else {
        missing.join(", ")
    };
    let seen: Vec<_> = disks
        .iter()
        .map(|disk| match &disk.found {
            Err(why) => format!("/dev/{} ({why})", disk.name),
            Ok(found) => {
                let guids: Vec<_> = found.iter().map(|found| guid_text(&found.guid)).collect();
                format!("/dev/{} ({})", disk.name, guids.join(", "))
            }
        })
        .collect();
    let seen = if seen.is_empty() {
        "no disk; does the board load its driver?".to_owned()
    } else {
        seen.join(", ")
    };
    DiskError { missing, seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, byte: char) -> Layer {
        Layer {
            name: name.to_owned(),
            filesystem: "ext4".to_owned(),
            root_hash: byte.to_string().repeat(64),
            salt: String::new(),
            data_blocks: 1,
            hash_offset: 4096,
        }
    }

    fn disk(name: &str, guids: &[u8]) -> Disk {
        let found = guids.iter().enumerate().map(|(index, &guid)| {
            let partition = Partition {
                device: format!("8:{index}"),
                path: PathBuf::from(name),
                start: 0,
                bytes: 4096,
            };
            Found {
                guid: [guid; 16],
                partition,
            }
        });
        Disk {
            name: name.to_owned(),
            size: 1,
            found: Ok(found.collect()),
        }
    }

    #[test]
    fn a_guid_is_the_head_of_the_root_hash() {
        let guid = guid_of("00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef");
        assert_eq!(guid_text(&guid), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn only_a_disk_with_all_layers_is_taken_and_the_lower_number_of_twins() {
        let guids = [[0x11; 16], [0x22; 16]];
        assert_eq!(pick(&disk("vda", &[0x11]), &guids), None);
        let picked = pick(&disk("vda", &[0x33, 0x22, 0x11, 0x22]), &guids).unwrap();
        assert_eq!(
            picked
                .iter()
                .map(|partition| partition.device.as_str())
                .collect::<Vec<_>>(),
            ["8:2", "8:1"]
        );
    }

    #[test]
    fn the_error_names_what_is_missing_and_what_is_there() {
        let layers = [layer("base", '1'), layer("app", '2')];
        let guids = [[0x11; 16], [0x22; 16]];
        let empty = Disk {
            name: "vdb".to_owned(),
            size: 0,
            found: Err("no medium".to_owned()),
        };
        let error = explain(&layers, &guids, &[disk("vda", &[0x11]), empty]).to_string();
        assert_eq!(
            error,
            "no disk holds layer app (22222222-2222-2222-2222-222222222222); \
             seen: /dev/vda (11111111-1111-1111-1111-111111111111), /dev/vdb (no medium)"
        );
        let split = explain(
            &layers,
            &guids,
            &[disk("vda", &[0x11]), disk("vdb", &[0x22])],
        )
        .to_string();
        assert!(
            split.starts_with("no disk holds all layers together; seen: /dev/vda"),
            "{split}"
        );
        assert!(
            explain(&layers, &guids, &[])
                .to_string()
                .contains("no disk; does the board load its driver?")
        );
    }

    #[test]
    fn hardware_gets_more_time_than_a_harness() {
        let seconds = Duration::from_secs;
        assert!(!is_over(seconds(59), seconds(59), true, false));
        assert!(is_over(seconds(60), seconds(0), true, false));
        assert!(!is_over(seconds(14), seconds(14), false, true));
        assert!(is_over(seconds(15), seconds(0), false, true));
        assert!(is_over(seconds(6), seconds(5), true, true));
        assert!(!is_over(seconds(6), seconds(4), true, true));
    }

    #[test]
    fn disks_are_tried_in_the_order_in_which_the_kernel_names_them() {
        let mut names = ["vdaa", "vdb", "nvme0n1", "vda"];
        names.sort_by_key(|name| name_order(name));
        assert_eq!(names, ["vda", "vdb", "vdaa", "nvme0n1"]);
    }
}
