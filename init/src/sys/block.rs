//! Block devices: partitions of a disk in use, files as devices, file systems that grow,
//! and syncing one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::check;

/// `_IO(0x12, 105)`, linux/blkpg.h.
const BLKPG: libc::Ioctl = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;
/// `_IOW('f', 16, __u64)`, fs/ext4/ext4.h.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE`, linux/loop.h.
const LOOP_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
/// `LO_FLAGS_READ_ONLY`.
const LOOP_READ_ONLY: u32 = 1;
/// Major number of loop devices, linux/major.h.
pub(crate) const LOOP_MAJOR: u32 = 7;

/// `struct loop_config`, the `struct loop_info64` in it taken apart.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    places: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names_and_keys: [u8; 160],
    reserved: [u64; 10],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(std::mem::offset_of!(LoopConfig, flags) == 60);

/// `struct blkpg_partition`; the names are not used by the kernel any more.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Gives the kernel a partition of `disk`, in bytes; its device is there afterwards.
pub(crate) fn add_partition(disk: &File, number: u32, start: u64, bytes: u64) -> io::Result<()> {
    blkpg(disk, BLKPG_ADD_PARTITION, number, start, bytes)
}

/// Gives a partition that the kernel has another length, in use or not.
pub(crate) fn resize_partition(disk: &File, number: u32, start: u64, bytes: u64) -> io::Result<()> {
    blkpg(disk, BLKPG_RESIZE_PARTITION, number, start, bytes)
}

fn blkpg(
    disk: &File,
    operation: libc::c_int,
    number: u32,
    start: u64,
    bytes: u64,
) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(too_large)?,
        length: i64::try_from(bytes).map_err(too_large)?,
        number: libc::c_int::try_from(number).map_err(too_large)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation,
        flags: 0,
        length: size_of::<BlkpgPartition>() as libc::c_int,
        data: &raw mut partition,
    };
    // SAFETY: `argument` and the partition that it points at are whole and outlive the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw mut argument) })?;
    Ok(())
}

/// Makes a read-only loop device of `file`, and returns its number (`/dev/loopN`).
pub(crate) fn attach(file: &File) -> io::Result<u32> {
    let control = File::options().read(true).open("/dev/loop-control")?;
    // SAFETY: the ioctl takes no argument and only returns a number.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_FREE) })?;
    let device = File::open(format!("/dev/loop{number}"))?;
    let config = LoopConfig {
        file: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        places: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags: LOOP_READ_ONLY,
        names_and_keys: [0; 160],
        reserved: [0; 10],
    };
    // SAFETY: the kernel reads one whole `struct loop_config`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(number.cast_unsigned())
}

/// Makes the mounted ext4 at `mounted` fill `bytes` bytes; false if it did. It stays in
/// use meanwhile.
pub(crate) fn resize(mounted: &Path, bytes: u64) -> io::Result<bool> {
    let root = File::open(mounted)?;
    let (before, block) = blocks_of(&root)?;
    let blocks = bytes / block.max(1024);
    // SAFETY: the ioctl reads one u64, of `blocks`.
    check(unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })?;
    Ok(blocks_of(&root)?.0 > before)
}

/// Blocks that the file system has, its own tables left out, and the bytes of one.
fn blocks_of(file: &File) -> io::Result<(u64, u64)> {
    // SAFETY: all zero is a valid `statfs`, a struct of numbers.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills `about`, which outlives it.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) })?;
    Ok((about.f_blocks, u64::try_from(about.f_bsize).unwrap_or(0)))
}

/// Writes all that waits for the file system of `file`, and flushes its disk.
pub(crate) fn sync_file_system(file: &File) -> io::Result<()> {
    // SAFETY: a descriptor that is open.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_those_of_the_kernel() {
        assert_eq!(size_of::<BlkpgPartition>(), 152);
        assert_eq!(size_of::<BlkpgArgument>(), 24);
    }

    #[test]
    fn an_ordinary_file_is_no_disk_and_a_folder_no_ext4_to_grow() {
        let file = tempfile::tempfile().unwrap();
        assert!(add_partition(&file, 1, 0, 512).is_err());
        assert!(add_partition(&file, u32::MAX, 0, 512).is_err());
        let folder = tempfile::tempdir().unwrap();
        assert!(resize(folder.path(), 1).is_err());
        sync_file_system(&file).unwrap();
    }
}
