//! State on a disk of its own, named by its serial number or by a label.
//!
//! By serial number the whole disk is the file system, without a table, so that it can be
//! attached to the next machine as it is and grow without one. A disk that is blank at
//! both ends is taken and formatted; what a power cut left half formatted says so in its
//! first bytes and is formatted again. Anything else that is not init's own file system is
//! somebody's, and refused.
//!
//! A label was written by somebody who prepared the disk: the name of a partition, or that
//! of an ext4 on a partition or a whole disk. A blank partition of that name is formatted;
//! an ext4 is taken as it is if it is empty or holds this image's state ([`super::record`]).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::{Event, StateNews};
use slipform_init::contract::machine::{STATE_NAME, State, StateDisk};

use super::ext4::{self, Content, Identity};
use super::{Blocks, Device, StateError, identity};
use crate::early::coldplug::Coldplug;
use crate::early::disk::{self, Whole};
use crate::report::Reporter;
use crate::sys::clock;
use crate::turn::Report;

/// A volume of a cloud is attached while the machine boots.
const LIMIT: Duration = Duration::from_secs(60);
/// The same under a harness, whose disks are there from the start.
const HARNESS_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// For labels every disk is read.
const LABEL_PAUSE: Duration = Duration::from_millis(250);

/// The disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeparateError {
    /// It did not come.
    #[error("no disk has it; disks and their {what}: {seen}")]
    Absent {
        /// What was looked at.
        what: &'static str,
        /// Who has what.
        seen: String,
    },
    /// Nobody but a person can tell which is the right one.
    #[error("{0} disks have it: {1}; detach all but the right one")]
    Several(usize, String),
    /// Somebody's.
    #[error(
        "{0} holds something else than a slipform state; wipe it (blkdiscard, wipefs) if it is not needed"
    )]
    Foreign(PathBuf),
    /// It would not hold what the image asks for.
    #[error("{path} has {bytes} bytes, the image asks for {wanted}")]
    Small {
        /// The disk.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What is asked for.
        wanted: u64,
    },
}

/// A disk, or a partition of one.
#[derive(Debug, Clone)]
struct Seen {
    device: Device,
    /// Its serial number, or its labels.
    has: Vec<String>,
}

/// Waits for the disk that the image names, takes it, and formats it if it is blank.
pub(crate) fn device(
    wanted: &StateDisk,
    state: &State,
    boot_disk: &str,
    coldplug: &mut Option<Coldplug>,
    report: &mut Reporter,
) -> Result<Device, StateError> {
    let device = wait_for(wanted, boot_disk, coldplug, report)?;
    let least = state.size.max(ext4::MIN_BYTES);
    if device.bytes < least {
        return Err(StateError::Separate(SeparateError::Small {
            path: device.path,
            bytes: device.bytes,
            wanted: least,
        }));
    }
    let file = super::open(&device.path)?;
    if take(&file, &device, wanted, &identity(state))? {
        report.event(Event::State {
            news: StateNews::Made,
            bytes: device.bytes,
            detail: format!("{} was blank", device.path.display()),
        });
    }
    Ok(device)
}

/// True if it was blank and is formatted now.
fn take(
    disk: &dyn Blocks,
    device: &Device,
    wanted: &StateDisk,
    identity: &Identity,
) -> Result<bool, StateError> {
    let labelled = matches!(wanted, StateDisk::Label(_));
    match ext4::content(disk.reader(), device.bytes)? {
        // Whether it can be mounted is found out by mounting it, and whose it is then.
        Content::Ext4(label) if labelled || label == STATE_NAME => Ok(false),
        Content::Ext4(_) | Content::Foreign => {
            Err(SeparateError::Foreign(device.path.clone()).into())
        }
        Content::Blank => {
            ext4::format(disk, 0, device.bytes, identity)?;
            Ok(true)
        }
    }
}

/// The disk, which may come late, or wait for its driver.
fn wait_for(
    wanted: &StateDisk,
    boot_disk: &str,
    coldplug: &mut Option<Coldplug>,
    report: &mut Reporter,
) -> Result<Device, StateError> {
    let limit = if report.has_harness() {
        HARNESS_LIMIT
    } else {
        LIMIT
    };
    let end = clock::monotonic() + limit;
    loop {
        if let Some(coldplug) = coldplug {
            coldplug.advance(report);
        }
        let (seen, pause) = match wanted {
            StateDisk::Serial(_) => (serials(boot_disk), PAUSE),
            StateDisk::Label(_) => (labels(boot_disk), LABEL_PAUSE),
        };
        match pick(wanted, &seen) {
            Ok(device) => return Ok(device.clone()),
            Err(SeparateError::Absent { .. }) if clock::monotonic() < end => thread::sleep(pause),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The only one that is called so.
fn pick<'a>(wanted: &StateDisk, seen: &'a [Seen]) -> Result<&'a Device, SeparateError> {
    let (what, name) = match wanted {
        StateDisk::Serial(serial) => ("serial numbers", serial),
        StateDisk::Label(label) => ("labels", label),
    };
    let found = seen.iter().filter(|seen| seen.has.contains(name));
    let found: Vec<&Device> = found.map(|seen| &seen.device).collect();
    let join = |texts: Vec<String>| texts.join(", ");
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(SeparateError::Absent {
            what,
            seen: join(seen.iter().map(Seen::text).collect()),
        }),
        several => {
            let paths = several.iter().map(|device| device.path.display());
            let paths = paths.map(|path| path.to_string()).collect();
            Err(SeparateError::Several(several.len(), join(paths)))
        }
    }
}

impl Seen {
    fn whole(name: &str) -> Option<Self> {
        let disk = Whole::of(name).ok()?;
        let device = Device {
            bytes: disk.sectors.saturating_mul(u64::from(disk.sector_size)),
            path: disk.path,
        };
        let has = Vec::new();
        Some(Self { device, has })
    }

    fn text(&self) -> String {
        let has: Vec<_> = self.has.iter().map(|name| format!("{name:?}")).collect();
        format!("{} {}", self.device.path.display(), has.join(" and "))
    }
}

/// All disks but the one that the machine booted from.
fn disks(boot_disk: &str) -> Vec<String> {
    let mut names = disk::names();
    names.retain(|name| name != boot_disk);
    names.sort();
    names
}

/// They and their serial numbers.
fn serials(boot_disk: &str) -> Vec<Seen> {
    let with_serial = |name: &String| {
        let mut seen = Seen::whole(name)?;
        let serial = serial_of(&disk::folder_of(name)).unwrap_or_default();
        seen.has.push(serial);
        Some(seen)
    };
    disks(boot_disk).iter().filter_map(with_serial).collect()
}

/// They and their partitions, and what these and the file systems on them are called.
fn labels(boot_disk: &str) -> Vec<Seen> {
    let mut all = Vec::new();
    for name in disks(boot_disk) {
        let folder = disk::folder_of(&name);
        all.extend(Seen::whole(&name));
        for node in disk::kernel_partitions(&folder).unwrap_or_default() {
            all.push(Seen {
                has: partition_name(&node.folder).into_iter().collect(),
                device: Device {
                    path: node.path,
                    bytes: node.bytes,
                },
            });
        }
    }
    for seen in &mut all {
        let label = File::open(&seen.device.path).and_then(|file| ext4::label(&file));
        seen.has.extend(label.ok().flatten());
        seen.has.retain(|name| !name.is_empty());
        seen.has.dedup();
    }
    all
}

/// A partition's own name, as its table has it.
fn partition_name(folder: &Path) -> Option<String> {
    let about = fs::read_to_string(folder.join("uevent")).ok()?;
    let name = |line: &str| line.strip_prefix("PARTNAME=").map(str::to_owned);
    about.lines().find_map(name)
}

/// virtio has it itself, NVMe at the controller, SCSI in a page of vital product data.
fn serial_of(folder: &Path) -> io::Result<String> {
    let text = ["serial", "device/serial"]
        .into_iter()
        .find_map(|name| fs::read_to_string(folder.join(name)).ok());
    match text {
        Some(text) => Ok(text.trim().to_owned()),
        None => {
            let page = fs::read(folder.join("device/vpd_pg80"))?;
            let text = String::from_utf8_lossy(page.get(4..).unwrap_or_default());
            Ok(text.trim_matches(['\0', ' ']).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        uuid: [1; 16],
        hash_seed: [2; 16],
        now: 1,
        quotas: false,
    };

    fn seen(name: &str, has: &[&str]) -> Seen {
        Seen {
            device: Device {
                path: Path::new("/dev").join(name),
                bytes: 0,
            },
            has: has.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn serial(name: &str) -> StateDisk {
        StateDisk::Serial(name.to_owned())
    }

    fn label(name: &str) -> StateDisk {
        StateDisk::Label(name.to_owned())
    }

    #[test]
    fn one_disk_has_the_serial_number_or_none_is_taken() {
        let disks = [
            seen("vdb", &["data"]),
            seen("vdc", &["other"]),
            seen("vdd", &[""]),
        ];
        let path = |name| pick(&serial(name), &disks).map(|device| device.path.clone());
        assert_eq!(path("data").unwrap(), Path::new("/dev/vdb"));
        let error = path("dat").unwrap_err().to_string();
        let expected = "serial numbers: /dev/vdb \"data\", /dev/vdc \"other\", /dev/vdd \"\"";
        assert!(error.ends_with(expected), "{error}");
        let twins = [disks[0].clone(), disks[0].clone()];
        let error = pick(&serial("data"), &twins).unwrap_err().to_string();
        assert!(
            error.starts_with("2 disks have it: /dev/vdb, /dev/vdb"),
            "{error}"
        );
    }

    #[test]
    fn a_label_is_a_partitions_name_or_its_file_systems_and_both_are_one() {
        let disks = [
            seen("vdb", &[]),
            seen("vdb1", &["data", "slipform-state"]),
            seen("vdc", &["logs"]),
        ];
        let path = |name| pick(&label(name), &disks).map(|device| device.path.clone());
        assert_eq!(path("data").unwrap(), Path::new("/dev/vdb1"));
        assert_eq!(path("logs").unwrap(), Path::new("/dev/vdc"));
        let error = path("log").unwrap_err().to_string();
        let expected =
            "labels: /dev/vdb , /dev/vdb1 \"data\" and \"slipform-state\", /dev/vdc \"logs\"";
        assert!(error.ends_with(expected), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let about = "MAJOR=254\nDEVTYPE=partition\nPARTN=1\nPARTNAME=my data\n";
        fs::write(folder.path().join("uevent"), about).unwrap();
        assert_eq!(partition_name(folder.path()).unwrap(), "my data");
    }

    #[test]
    fn serial_numbers_are_where_each_kind_of_disk_has_them() {
        let folder = tempfile::tempdir().unwrap();
        assert!(serial_of(folder.path()).is_err());
        fs::create_dir(folder.path().join("device")).unwrap();
        fs::write(
            folder.path().join("device/vpd_pg80"),
            b"\0\x80\0\x08 scsi-1 \0",
        )
        .unwrap();
        assert_eq!(serial_of(folder.path()).unwrap(), "scsi-1");
        fs::write(folder.path().join("device/serial"), "nvme-1   \n").unwrap();
        assert_eq!(serial_of(folder.path()).unwrap(), "nvme-1");
        fs::write(folder.path().join("serial"), "virtio-1").unwrap();
        assert_eq!(serial_of(folder.path()).unwrap(), "virtio-1");
    }

    #[test]
    fn only_a_blank_disk_is_formatted() {
        const BYTES: u64 = 17 << 20;
        let device = Device {
            path: PathBuf::from("/dev/vdb"),
            bytes: BYTES,
        };
        let take = |disk: &File| take(disk, &device, &serial("data"), &IDENTITY);
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(BYTES).unwrap();
        assert!(take(&disk).unwrap());
        assert!(!take(&disk).unwrap());
        // What a power cut leaves of formatting: no superblock, but the first words.
        let mut head = vec![0; 4096];
        head[..ext4::BEING_MADE.len()].copy_from_slice(ext4::BEING_MADE);
        disk.write(&head, 0).unwrap();
        assert!(take(&disk).unwrap());
        // A wiped superblock is no blank disk: there is data behind it.
        disk.write(&[0; 4096], 0).unwrap();
        let error = take(&disk).unwrap_err().to_string();
        assert!(error.contains("/dev/vdb holds something else"), "{error}");
        for at in [512, (1 << 20) - 1, BYTES - 512] {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(BYTES).unwrap();
            disk.write(b"x", at).unwrap();
            assert!(take(&disk).is_err(), "{at}");
        }
    }

    /// Whose label it bears is what the serial number does not tell.
    #[test]
    fn somebodys_ext4_is_taken_by_its_label_alone_and_never_formatted() {
        const BYTES: u64 = 17 << 20;
        let device = Device {
            path: PathBuf::from("/dev/vdb"),
            bytes: BYTES,
        };
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(BYTES).unwrap();
        assert!(take(&disk, &device, &label("data"), &IDENTITY).unwrap());
        let theirs = *b"data\0\0\0\0\0\0\0\0\0\0\0\0";
        disk.write(&theirs, 1024 + 0x78).unwrap();
        assert_eq!(ext4::label(&disk).unwrap().as_deref(), Some("data"));
        assert!(take(&disk, &device, &serial("data"), &IDENTITY).is_err());
        assert!(!take(&disk, &device, &label("data"), &IDENTITY).unwrap());
        // Another file system in a partition of that name.
        disk.write(&[0; 2], 1024 + 0x38).unwrap();
        assert!(take(&disk, &device, &label("data"), &IDENTITY).is_err());
    }
}
