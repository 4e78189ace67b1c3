//! What to boot and what to check: the harness's whole input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A QEMU that can be started: the host's, or locked packages unpacked into a
/// folder and run through their own loader.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// Program and leading arguments (loader, `--library-path`, …, `qemu-system-x86_64`, `-L` …).
    pub command: Vec<OsString>,
    /// Extra environment (`QEMU_MODULE_DIR`).
    pub env: BTreeMap<OsString, OsString>,
    /// UEFI code, read-only pflash.
    pub firmware_code: PathBuf,
    /// UEFI variable store template, copied for each run.
    pub firmware_vars: PathBuf,
    /// For the report: name and version (`qemu 10.0.13 (locked)`).
    pub version: String,
}

/// The emulated machine, from the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Emulation {
    /// `-machine`, such as `q35`.
    pub machine: String,
    /// `-cpu` under TCG.
    pub cpu: String,
    /// Number of processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk interface: `virtio-blk` or `nvme`.
    pub disk: String,
}

/// How the kernel is started.
#[derive(Debug, Clone)]
pub enum BootPath {
    /// Firmware, ESP, unified kernel image: the real way.
    Firmware,
    /// `-kernel`/`-initrd`: a quick lane, never a gate.
    Direct {
        /// bzImage.
        kernel: PathBuf,
        /// Whole initrd.
        initrd: PathBuf,
        /// Command line.
        cmdline: String,
    },
}

/// One check from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A GET, repeated until it fits or time is up.
    Http {
        /// Port in the guest.
        port: u16,
        /// Path.
        path: String,
        /// Expected status.
        status: u16,
        /// Text that the body must contain.
        contains: Option<String>,
    },
    /// Sends and expects over TCP, in order.
    Tcp {
        /// Port in the guest.
        port: u16,
        /// Steps: bytes to send, then text that must come back before the next step.
        steps: Vec<TcpStep>,
    },
    /// A regular expression over the console's lines: one must match.
    Console {
        /// Pattern.
        matches: String,
    },
}

/// One step of a TCP conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStep {
    /// Sent first, as is.
    pub send: String,
    /// What the answer must contain.
    pub expect: String,
}

/// A named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The sentence that the verdict shows.
    pub name: String,
    /// What is done.
    pub probe: Probe,
}

/// Which disk format the artifact has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Flat.
    Raw,
    /// QEMU's.
    Qcow2,
}

/// A boot test, or an interactive run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Image name, for the report.
    pub name: String,
    /// The image's identity (manifest digest), for the report.
    pub image: String,
    /// The artifact; never written to.
    pub disk: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Its logical sector size: 512 or 4096.
    pub sector_size: u32,
    /// The machine.
    pub emulation: Emulation,
    /// The way in.
    pub boot: BootPath,
    /// Layers that must report as verified: name and root hash (hexadecimal), bottom to top.
    pub layers: Vec<(String, String)>,
    /// The user's checks.
    pub checks: Vec<Check>,
    /// From power-on to ready at the speed of real hardware; scaled by measured speed under TCG.
    pub ready_limit: Duration,
    /// Ports to publish for [`crate::plan::Plan`]s of an interactive run: host port and guest port.
    pub publish: Vec<(u16, u16)>,
    /// Where evidence goes: console, events, command line, report. Made if it is not there.
    pub evidence: PathBuf,
}

/// Checks a [`Probe::Console`] pattern.
///
/// # Errors
/// What is wrong with it, for people.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    regex_lite::Regex::new(pattern)
        .map(drop)
        .map_err(|error| format!("'{pattern}' is no regular expression: {error}"))
}
