//! State on a disk of its own, named by its serial number: the whole disk is the file
//! system, without a table, so that it can be attached to the next machine as it is and
//! grow without one.
//!
//! A disk that is blank at both ends is taken and formatted; what a power cut left half
//! formatted says so in its first bytes and is formatted again. Anything else that is not
//! init's own file system is somebody's, and refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::{Event, StateNews};
use slipform_init::contract::machine::State;

use super::ext4::{self, Content};
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

/// The disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeparateError {
    /// It did not come.
    #[error("no disk has it; disks and their serial numbers: {0}")]
    Absent(String),
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

/// Takes the disk, and formats it if it is blank.
pub(crate) fn device(
    disk: Whole,
    state: &State,
    report: &mut Reporter,
) -> Result<Device, StateError> {
    let bytes = disk.sectors.saturating_mul(u64::from(disk.sector_size));
    if bytes < state.size.max(ext4::MIN_BYTES) {
        return Err(StateError::Separate(SeparateError::Small {
            path: disk.path,
            bytes,
            wanted: state.size.max(ext4::MIN_BYTES),
        }));
    }
    let file = super::open(&disk.path)?;
    if take(&file, bytes, &disk.path)? {
        report.event(Event::State {
            news: StateNews::Made,
            bytes,
            detail: format!("{} was blank", disk.path.display()),
        });
    }
    Ok(Device {
        path: disk.path,
        bytes,
    })
}

/// True if the disk was blank and is formatted now.
fn take(disk: &dyn Blocks, bytes: u64, path: &Path) -> Result<bool, StateError> {
    match ext4::content(disk.reader(), bytes)? {
        // Whether it can be mounted is found out by mounting it.
        Content::Own => Ok(false),
        Content::Foreign => Err(SeparateError::Foreign(path.to_owned()).into()),
        Content::Blank => {
            ext4::format(disk, 0, bytes, &identity())?;
            Ok(true)
        }
    }
}

/// The disk with this serial number, which may come late, or wait for its driver.
pub(crate) fn wait_for(
    serial: &str,
    boot_disk: &str,
    coldplug: &mut Option<Coldplug>,
    report: &mut Reporter,
) -> Result<Whole, StateError> {
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
        let seen = serials(boot_disk);
        match pick(serial, &seen) {
            Ok(name) => return Ok(Whole::of(name)?),
            Err(SeparateError::Absent(_)) if clock::monotonic() < end => thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The only disk with this serial number.
fn pick<'a>(serial: &str, seen: &'a [(String, String)]) -> Result<&'a str, SeparateError> {
    let found: Vec<&str> = seen
        .iter()
        .filter(|(_, has)| has == serial)
        .map(|(name, _)| name.as_str())
        .collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(SeparateError::Absent(
            seen.iter()
                .map(|(name, serial)| format!("{name} {serial:?}"))
                .collect::<Vec<_>>()
                .join(", "),
        )),
        several => Err(SeparateError::Several(several.len(), several.join(", "))),
    }
}

/// Names and serial numbers of all disks but the one that the machine booted from.
fn serials(boot_disk: &str) -> Vec<(String, String)> {
    let mut seen: Vec<_> = disk::names()
        .into_iter()
        .filter(|name| name != boot_disk)
        .map(|name| {
            let serial = serial_of(&disk::folder_of(&name)).unwrap_or_default();
            (name, serial)
        })
        .collect();
    seen.sort();
    seen
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

    #[test]
    fn one_disk_has_the_serial_number_or_none_is_taken() {
        let seen = [("vdb", "data"), ("vdc", "other"), ("vdd", "")]
            .map(|(name, serial)| (name.to_owned(), serial.to_owned()));
        assert_eq!(pick("data", &seen).unwrap(), "vdb");
        let error = pick("dat", &seen).unwrap_err().to_string();
        assert!(error.contains("vdb \"data\", vdc \"other\""), "{error}");
        let twins = [seen[0].clone(), seen[0].clone()];
        let error = pick("data", &twins).unwrap_err().to_string();
        assert!(error.starts_with("2 disks have it: vdb, vdb"), "{error}");
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
        let path = Path::new("/dev/vdb");
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(BYTES).unwrap();
        assert!(take(&disk, BYTES, path).unwrap());
        assert!(!take(&disk, BYTES, path).unwrap());
        // What a power cut leaves of formatting: no superblock, but the first words.
        let mut head = vec![0; 4096];
        head[..ext4::BEING_MADE.len()].copy_from_slice(ext4::BEING_MADE);
        disk.write(&head, 0).unwrap();
        assert!(take(&disk, BYTES, path).unwrap());
        // A wiped superblock is no blank disk: there is data behind it.
        disk.write(&[0; 4096], 0).unwrap();
        let error = take(&disk, BYTES, path).unwrap_err().to_string();
        assert!(error.contains("/dev/vdb holds something else"), "{error}");
        for at in [512, (1 << 20) - 1, BYTES - 512] {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(BYTES).unwrap();
            disk.write(b"x", at).unwrap();
            assert!(take(&disk, BYTES, path).is_err(), "{at}");
        }
    }
}
