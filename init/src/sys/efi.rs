//! Attributes of files in efivarfs, where a variable is protected against `rm -rf`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// `FS_IOC_SETFLAGS` of linux/fs.h, `_IOW('f', 2, long)`.
const SET_FLAGS: libc::Ioctl = 0x4008_6602_u32 as libc::Ioctl;

/// Takes away all flags, `FS_IMMUTABLE_FL` among them.
pub(crate) fn make_mutable(file: &File) -> io::Result<()> {
    let none: libc::c_long = 0;
    // SAFETY: the kernel reads an int, which a zero long begins with.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS, &raw const none) })?;
    Ok(())
}
