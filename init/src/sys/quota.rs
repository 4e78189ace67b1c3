//! Project quotas: numbers of files, and limits of numbers (quotactl(2), `linux/fs.h`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{check, check_long};

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;
/// New files in a folder get its number.
const PROJECT_INHERITED: u32 = 0x200;

/// `QCMD(Q_QUOTAON, PRJQUOTA)` and `QCMD(Q_SETQUOTA, PRJQUOTA)`, linux/quota.h.
const QUOTA_ON: u32 = 0x0080_0002 << 8 | PROJECTS;
const SET_QUOTA: u32 = 0x0080_0008 << 8 | PROJECTS;
const PROJECTS: u32 = 2;
/// `QIF_BLIMITS`: only the limits of blocks are meant.
const BLOCK_LIMITS: u32 = 1;
/// Bytes that a limit is counted in.
const UNIT: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    hard: u64,
    soft: u64,
    used: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    time: u64,
    inodes_time: u64,
    valid: u32,
}

/// The number of a file or folder.
pub(crate) fn project(file: &File) -> io::Result<u32> {
    Ok(attributes(file)?.project)
}

/// Gives a file or folder a number; whether what is made in it gets the same.
pub(crate) fn set_project(file: &File, project: u32, inherited: bool) -> io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = project;
    if inherited {
        attributes.flags |= PROJECT_INHERITED;
    }
    let fd = file.as_raw_fd();
    // SAFETY: the kernel reads one whole `struct fsxattr`, which outlives the call.
    check(unsafe { libc::ioctl(fd, FS_IOC_FSSETXATTR, &raw const attributes) })?;
    Ok(())
}

fn attributes(file: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let fd = file.as_raw_fd();
    // SAFETY: the kernel fills one whole `struct fsxattr`, which outlives the call.
    check(unsafe { libc::ioctl(fd, FS_IOC_FSGETXATTR, &raw mut attributes) })?;
    Ok(attributes)
}

/// Makes limits of numbers hold on the file system of `file`, which counts them already.
pub(crate) fn enforce(file: &File) -> io::Result<()> {
    let nothing: *mut Limits = std::ptr::null_mut();
    quotactl(file, QUOTA_ON, 0, nothing)
}

/// Limits a number on the file system of `file` to so many bytes; 0 lifts the limit.
pub(crate) fn limit(file: &File, project: u32, bytes: u64) -> io::Result<()> {
    let mut limits = Limits {
        hard: bytes.div_ceil(UNIT),
        valid: BLOCK_LIMITS,
        ..Limits::default()
    };
    quotactl(file, SET_QUOTA, project, &raw mut limits)
}

fn quotactl(file: &File, command: u32, id: u32, limits: *mut Limits) -> io::Result<()> {
    let number = libc::SYS_quotactl_fd;
    // SAFETY: `limits` is null, for a command without, or points at a whole `struct if_dqblk`
    // that outlives the call.
    check_long(unsafe { libc::syscall(number, file.as_raw_fd(), command, id, limits) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_and_commands_are_those_of_the_kernel() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Limits>(), 72);
        assert_eq!(QUOTA_ON, 0x8000_0202);
        assert_eq!(SET_QUOTA, 0x8000_0802);
    }

    #[test]
    fn a_file_system_that_counts_nothing_refuses() {
        let file = tempfile::tempfile().unwrap();
        assert!(enforce(&file).is_err());
        assert!(limit(&file, 1, 1).is_err());
    }
}
