//! Kernel modules.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{c_string, check_long};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
const COMPRESSED: libc::c_int = 4;

/// Loads the module in `file` with `parameters`; the kernel itself unpacks a compressed one.
pub(crate) fn load(file: &File, compressed: bool, parameters: &str) -> io::Result<()> {
    let flags = if compressed { COMPRESSED } else { 0 };
    let parameters = c_string(parameters.as_bytes())?;
    // SAFETY: an open descriptor and a valid C string that outlive the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            flags,
        )
    })?;
    Ok(())
}
