//! UEFI variables: a run gets its own copy, so that what one run's firmware
//! writes (boot order, enrolled keys) never reaches the next. Only a machine that
//! is switched on again keeps them.

use std::path::{Path, PathBuf};

use crate::error::HarnessError;
use crate::plan::{BootPath, Emulator};

/// Copies the template into the run's folder; only UEFI keeps variables, and a
/// machine that was there before the power was cut has its own already.
pub(crate) fn copy_vars(
    boot: &BootPath,
    emulator: &Emulator,
    run: &Path,
) -> Result<PathBuf, HarnessError> {
    let copy = run.join("vars.fd");
    if !matches!(boot, BootPath::Firmware) || copy.exists() {
        return Ok(copy);
    }
    let code = &emulator.firmware_code;
    let remedy = "use the locked emulator, or install the package `ovmf` for `--qemu host`";
    std::fs::metadata(code).map_err(HarnessError::io("find the firmware", code, remedy))?;
    let template = &emulator.firmware_vars;
    // Read and write instead of copy: a read-only template must not give a read-only copy.
    let bytes = std::fs::read(template).map_err(HarnessError::io(
        "read the firmware's variables",
        template,
        remedy,
    ))?;
    std::fs::write(&copy, bytes).map_err(HarnessError::io(
        "write",
        &copy,
        "set TMPDIR to a folder with room",
    ))?;
    Ok(copy)
}
