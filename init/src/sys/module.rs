//! Kernel modules.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{c_string, check_long};

/// Loads the module in `file` (uncompressed) with `parameters`.
pub(crate) fn load(file: &File, parameters: &str) -> io::Result<()> {
    let parameters = c_string(parameters.as_bytes())?;
    // SAFETY: an open descriptor and a valid C string that outlive the call; no flags.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    })?;
    Ok(())
}
