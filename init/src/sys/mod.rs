//! System calls. The only place in init with unsafe code: everything outside gets
//! safe functions that take and return owned or borrowed values.

#![allow(unsafe_code)]

pub(crate) mod addresses;
pub(crate) mod block;
mod child;
pub(crate) mod clock;
pub(crate) mod dm;
pub(crate) mod efi;
pub(crate) mod entry;
pub(crate) mod host;
pub(crate) mod module;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod packet;
pub(crate) mod poll;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod quota;
mod seccomp;
pub(crate) mod signal;
pub(crate) mod watchdog;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A system call's result: negative means that errno says why.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// [`check`] for calls that go through syscall(2).
fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_bytes())
}
