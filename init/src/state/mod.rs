//! The machine's state: one partition, the last on the boot disk, made at first boot,
//! found ever after by type and name, and the paths of the image that are kept on it.
//!
//! ```text
//! plan.rs     where it lies; made, or made larger       table.rs   the partition table
//! ext4.rs     an empty file system                      record.rs  whose state it is
//! folders.rs  the image's paths on it                   look.rs    what the harness asks
//! quota.rs    how much each path may hold
//! separate.rs a disk of its own, by serial number or label
//! ```
//!
//! | on the state's file system | what |
//! |---|---|
//! | `slipform-state.json` | format, image, version ([`record`]) |
//! | `paths/var/lib/app` | what is seen at `/var/lib/app` |
//! | `spool` | logs on their way ([`crate::ship`]) |
//! | `new` | a folder on its way to become one of `paths` |
//!
//! A file system that cannot be mounted is somebody's data: `policy` says whether the boot
//! ends with an error, or a new one is made and reported.

mod error;
mod ext4;
mod folders;
pub(crate) mod look;
mod plan;
mod quota;
mod record;
mod separate;
mod table;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use slipform_init::contract::event::{Event, Phase, StateNews};
use slipform_init::contract::machine::{Machine, State, StateDisk, StatePolicy};

pub(crate) use self::error::StateError;
use self::ext4::Identity;
use self::plan::{Place, Wish};
use self::quota::Quotas;
use crate::early::coldplug::Coldplug;
use crate::early::disk::{self, Whole};
use crate::early::gpt::ReadAt;
use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::mount::{Mount, NO_DEV, NO_SUID};
use crate::sys::{block, clock, host};
use crate::turn::Report;

/// Where the state's file system is mounted; only root gets in.
pub(crate) const ROOT: &str = "/run/slipform/state";

/// Where logs wait for their receivers.
pub(crate) fn spool() -> PathBuf {
    Path::new(ROOT).join("spool")
}

/// A disk to write to: bytes at offsets, and a flush that means that they are there.
pub(crate) trait Blocks: ReadAt {
    /// Writes all of `bytes`.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes `length` bytes zero.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        let zeros = vec![0; CHUNK as usize];
        let mut done = 0;
        while done < length {
            let part = CHUNK.min(length - done);
            self.write(&zeros[..part as usize], offset + done)?;
            done += part;
        }
        Ok(())
    }
    /// Everything written so far survives a power cut.
    fn flush(&self) -> io::Result<()>;
    /// For those who only read.
    fn reader(&self) -> &dyn ReadAt;
}

impl Blocks for File {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn reader(&self) -> &dyn ReadAt {
        self
    }
}

/// Brings the state up on a machine whose root is in place; does nothing for an image
/// without.
pub(crate) fn bring_up(
    machine: &Machine,
    boot_disk: &str,
    coldplug: &mut Option<Coldplug>,
    report: &mut Reporter,
) -> Result<(), BootError> {
    let Some(state) = &machine.state else {
        return Ok(());
    };
    report.phase(Phase::State);
    let device = match &state.disk {
        Some(disk) => {
            let (what, name) = match disk {
                StateDisk::Serial(serial) => ("serial number", serial),
                StateDisk::Label(label) => ("label", label),
            };
            let take = || format!("take the disk of {what} {name:?} for the state");
            separate::device(disk, state, boot_disk, coldplug, report)
                .map_err(|error| failed(&take(), error))?
        }
        None => partition(state, boot_disk, report)?,
    };
    mount(state, &device, report)?;
    let digest = report.machine_digest.clone();
    record::check_and_write(Path::new(ROOT), machine, state, &digest)
        .map_err(|error| failed("read and write whose state this is", error))?;
    // Only now it is certain that it is this machine's.
    grow(&device, report);
    let quotas = Quotas::switch_on(Path::new(ROOT), &state.paths, report);
    folders::bind(Path::new(ROOT), &state.paths, quotas.as_ref(), report)
        .map_err(|(path, error)| failed(&format!("keep {path} on the state partition"), error))?;
    report.event(Event::State {
        news: StateNews::Mounted,
        bytes: device.bytes,
        detail: format!(
            "{} holds {} paths",
            device.path.display(),
            state.paths.len()
        ),
    });
    Ok(())
}

fn failed(what: &str, error: impl Into<StateError>) -> BootError {
    BootError::new(Phase::State, what, error.into())
}

/// A block device with room for the state.
#[derive(Debug, Clone)]
struct Device {
    path: PathBuf,
    bytes: u64,
}

/// The state partition of the boot disk, made or made larger if need be.
fn partition(state: &State, boot_disk: &str, report: &mut Reporter) -> Result<Device, BootError> {
    let what = || format!("find or make the state partition on /dev/{boot_disk}");
    if disk::keeps_nothing(boot_disk) {
        return Err(failed(&what(), StateError::Fleeting(boot_disk.to_owned())));
    }
    let whole = Whole::of(boot_disk).map_err(|error| failed(&what(), error))?;
    let file = open(&whole.path).map_err(|error| failed(&what(), error))?;
    let wish = Wish {
        bytes: state.size,
        identity: identity(state),
        guid: random_guid(),
    };
    let place = plan::prepare(&file, whole.sector_size, whole.sectors, &wish)
        .map_err(|error| failed(&what(), error))?;
    let path = tell_kernel(&file, boot_disk, &place).map_err(|error| {
        let what = format!("tell the kernel of partition {}", place.number);
        failed(&what, error)
    })?;
    if place.made {
        report.event(Event::State {
            news: StateNews::Made,
            bytes: place.bytes,
            detail: format!("{} is new", path.display()),
        });
    }
    if place.bytes < state.size {
        report.event(Event::Error {
            phase: Phase::State,
            what: format!("have {} bytes of state", state.size),
            why: format!(
                "{} has {} and nothing is free behind it: enlarge the disk",
                path.display(),
                place.bytes
            ),
        });
    }
    Ok(Device {
        path,
        bytes: place.bytes,
    })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes the kernel's view of the partition that of the table, and returns its device.
fn tell_kernel(disk: &File, name: &str, place: &Place) -> io::Result<PathBuf> {
    let known = |number| -> io::Result<Option<disk::Node>> {
        let nodes = disk::kernel_partitions(&disk::folder_of(name))?;
        Ok(nodes.into_iter().find(|node| node.number == number))
    };
    match known(place.number)? {
        Some(node) if node.start != place.start => {
            let why = format!(
                "it has it at byte {}, the table at {}",
                node.start, place.start
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Some(node) if node.bytes == place.bytes => return Ok(node.path),
        Some(_) => block::resize_partition(disk, place.number, place.start, place.bytes)?,
        None => block::add_partition(disk, place.number, place.start, place.bytes)?,
    }
    known(place.number)?
        .map(|node| node.path)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no device for it"))
}

/// Mounts it, by the image's policy if it cannot be mounted as it is.
fn mount(state: &State, device: &Device, report: &mut Reporter) -> Result<(), BootError> {
    let source = device.path.to_string_lossy();
    let mount = Mount {
        source: &source,
        target: ROOT,
        kind: "ext4",
        flags: NO_SUID | NO_DEV,
        options: "errors=remount-ro",
    };
    folders::make(Path::new(ROOT), 0o700)
        .map_err(|error| failed(&format!("make {ROOT}"), error))?;
    let Err(error) = mount.mount() else {
        return Ok(());
    };
    let what = format!("mount the state partition {source}");
    if error.raw_os_error() == Some(libc::ESRCH) {
        return Err(failed(&what, StateError::QuotaDriver));
    }
    if state.policy == StatePolicy::Fail || !is_damage(&error) {
        return Err(failed(&what, StateError::Mount(error)));
    }
    let file = open(&device.path).map_err(|error| failed(&what, error))?;
    ext4::format(&file, 0, device.bytes, &identity(state))
        .map_err(|error| failed("make the state's file system anew", error))?;
    drop(file);
    report.event(Event::State {
        news: StateNews::Recreated,
        bytes: device.bytes,
        detail: format!("what was on {source} is lost, it could not be mounted: {error}"),
    });
    mount
        .mount()
        .map_err(|error| failed(&what, StateError::Mount(error)))
}

/// Whether a file system is broken, and not only something else in the way.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EUCLEAN | libc::EBADMSG | libc::EIO | libc::EROFS | libc::EFBIG)
    )
}

/// Gives the file system all of its partition. One that stays smaller works as before.
fn grow(device: &Device, report: &mut Reporter) {
    let grown = block::resize(Path::new(ROOT), device.bytes);
    match grown {
        Ok(false) => {}
        Ok(true) => report.event(Event::State {
            news: StateNews::Grown,
            bytes: device.bytes,
            detail: format!("{} is filled", device.path.display()),
        }),
        Err(error) => report.event(Event::Error {
            phase: Phase::State,
            what: format!("make the state's file system {} bytes large", device.bytes),
            why: error.to_string(),
        }),
    }
}

fn identity(state: &State) -> Identity {
    Identity {
        quotas: state.paths.iter().any(|path| path.quota.is_some()),
        uuid: random_guid(),
        hash_seed: random_guid(),
        now: u32::try_from(clock::wall_seconds()).unwrap_or(u32::MAX),
    }
}

/// A random UUID (version 4). Nothing is found by it: it only must not be all zero.
fn random_guid() -> [u8; 16] {
    let mut bytes = [0; 16];
    if host::random(&mut bytes).is_err() {
        let time = clock::since_boot().as_nanos().to_le_bytes();
        bytes.copy_from_slice(&time);
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// Reads a small file, following no link.
fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Whether there is anything at a path, links not followed.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
