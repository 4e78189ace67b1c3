//! Mounts.

use std::io;
use std::path::Path;
use std::ptr;

use super::{c_path, c_string, check};

/// No set-user-id programs.
pub(crate) const NO_SUID: u64 = libc::MS_NOSUID;
/// No device nodes.
pub(crate) const NO_DEV: u64 = libc::MS_NODEV;
/// No programs.
pub(crate) const NO_EXEC: u64 = libc::MS_NOEXEC;
/// Read-only.
pub(crate) const READ_ONLY: u64 = libc::MS_RDONLY;

/// A new mount.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    /// Device, or what /proc/mounts is to show.
    pub(crate) source: &'a str,
    /// Where.
    pub(crate) target: &'a str,
    /// File system type.
    pub(crate) kind: &'a str,
    /// Or of this module's constants.
    pub(crate) flags: u64,
    /// The file system's own options.
    pub(crate) options: &'a str,
}

impl Mount<'_> {
    /// Mounts it.
    pub(crate) fn mount(&self) -> io::Result<()> {
        let source = c_string(self.source.as_bytes())?;
        let target = c_string(self.target.as_bytes())?;
        let kind = c_string(self.kind.as_bytes())?;
        let options = c_string(self.options.as_bytes())?;
        // SAFETY: four valid C strings that outlive the call.
        check(unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                self.flags,
                options.as_ptr().cast(),
            )
        })?;
        Ok(())
    }
}

/// Moves a mount to another place.
pub(crate) fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: two valid C strings; MS_MOVE reads neither type nor data.
    check(unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            ptr::null(),
            libc::MS_MOVE,
            ptr::null(),
        )
    })?;
    Ok(())
}

/// Shows a folder at another place as well, with the flags of its own mount.
pub(crate) fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: two valid C strings; MS_BIND reads neither type nor data.
    check(unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            ptr::null(),
            libc::MS_BIND,
            ptr::null(),
        )
    })?;
    Ok(())
}

/// Makes a mount read-only.
pub(crate) fn make_read_only(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
    // SAFETY: a valid C string; a remount reads neither source nor type.
    check(unsafe {
        libc::mount(
            ptr::null(),
            target.as_ptr(),
            ptr::null(),
            flags,
            ptr::null(),
        )
    })?;
    Ok(())
}

/// Unmounts; fails if it is in use.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    unmount_with(target, 0)
}

/// Takes a mount out of the tree at once; it ends when its last user does.
pub(crate) fn detach(target: &Path) -> io::Result<()> {
    unmount_with(target, libc::MNT_DETACH)
}

fn unmount_with(target: &Path, flags: libc::c_int) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: a valid C string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) })?;
    Ok(())
}
