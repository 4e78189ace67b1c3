//! What to boot and what to check: the harness's whole input. The checks are in
//! `check.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

mod check;
pub mod devices;
#[cfg(test)]
pub(crate) mod testing;

use crate::report::BootKind;
pub use check::*;

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
    /// iPXE as an EFI program, for UEFI machines that start by it; if there is one.
    pub ipxe: Option<PathBuf>,
    /// Program and leading arguments that relay a guest's connection to an emulated
    /// metadata server ([`crate::metadata::relay_if_asked`]); empty if there is none.
    pub relay: Vec<OsString>,
    /// For the report: name and version (`qemu 10.0.13 (locked)`).
    pub version: String,
}

impl Emulator {
    /// The guest's architecture, by the program's name; `None` for another program.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        let mut names = self
            .command
            .iter()
            .filter_map(|word| Path::new(word).file_name()?.to_str());
        names.find_map(|name| name.strip_prefix("qemu-system-"))
    }
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
    /// Disk, one of [`devices::DISKS`].
    pub disk: String,
    /// Network card, one of [`devices::NETWORKS`]; without, virtio's.
    #[serde(default = "virtio_net", skip_serializing_if = "is_virtio_net")]
    pub network: String,
}

fn virtio_net() -> String {
    devices::NETWORKS[0].name.to_owned()
}

/// Then the plan's identity is what it was before there were others.
fn is_virtio_net(name: &String) -> bool {
    name == devices::NETWORKS[0].name
}

/// How the kernel is started.
#[derive(Debug, Clone)]
pub enum BootPath {
    /// Firmware, ESP, unified kernel image: the real way.
    Firmware,
    /// The same by a BIOS: GRUB's boot code on the disk.
    Bios,
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

impl BootPath {
    /// For the report.
    pub(crate) fn kind(&self) -> BootKind {
        match self {
            Self::Firmware => BootKind::Firmware,
            Self::Bios => BootKind::Bios,
            Self::Direct { .. } => BootKind::Direct,
        }
    }
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

/// A disk for a machine's state alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDisk {
    /// Its serial number; empty for none.
    pub serial: String,
    /// Its length, if the harness makes it.
    pub bytes: u64,
    /// What the harness writes on it then, and at which bytes: a table, or nothing.
    pub content: Vec<(u64, Vec<u8>)>,
    /// The file, raw, made if it is not there; without one it is gone after the run.
    pub file: Option<PathBuf>,
}

/// A finding that an image may have until a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// The built-in check's name, as its verdict has it.
    pub check: String,
    /// Why.
    pub reason: String,
    /// Last day, `YYYY-MM-DD`.
    pub expires: String,
}

/// What differs between two runs of one plan; no part of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// For whatever is chosen by chance; 0 for nothing.
    pub seed: u64,
    /// 1, and more for a run that repeats one that was red.
    pub attempt: u32,
    /// Make only part `.0` (from 1) of `.1` of the user's checks.
    pub shard: Option<(u32, u32)>,
    /// The image has a layer for debugging.
    pub debug: bool,
    /// The disk itself is written to, and keeps what it was told: only for an
    /// interactive run.
    pub writes: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            attempt: 1,
            shard: None,
            debug: false,
            writes: false,
        }
    }
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
    /// The disk must start by a BIOS, too: the last boot of a test shows it.
    pub also_bios: bool,
    /// Layers that must report as verified: name and root hash (hexadecimal), bottom to top.
    pub layers: Vec<(String, String)>,
    /// The user's checks.
    pub checks: Vec<Check>,
    /// From power-on to ready at the speed of real hardware; scaled by measured speed under TCG.
    pub ready_limit: Duration,
    /// Findings that the image is allowed to have for a time.
    pub allowances: Vec<Allowance>,
    /// Which run of the plan this is.
    pub run: RunOptions,
    /// A second disk, for the machine's state: blank at first.
    pub state_disk: Option<StateDisk>,
    /// Ports to publish for [`crate::plan::Plan`]s of an interactive run: host port and guest port.
    pub publish: Vec<(u16, u16)>,
    /// Where evidence goes: console, events, command line, report. Made if it is not there.
    pub evidence: PathBuf,
}

impl Plan {
    /// Everything that decides what is tested, as canonical JSON (sorted keys, no
    /// blanks): no path of the host, no published port, nothing of [`RunOptions`].
    #[must_use]
    pub fn identity(&self) -> String {
        // serde_json's maps are sorted.
        let mut identity = json!({
            "version": 1,
            "name": self.name,
            "boot": self.boot.kind(),
            "emulation": self.emulation,
            "sector-size": self.sector_size,
            "layers": self.layers,
            "checks": self.checks,
            "ready-limit-ms": u64::try_from(self.ready_limit.as_millis()).unwrap_or(u64::MAX),
            "allowances": self.allowances,
        });
        // What a plan has not is not named: its identity is what it was before there was that.
        if let (true, Some(map)) = (self.also_bios, identity.as_object_mut()) {
            map.insert("also-bios".to_owned(), json!(true));
        }
        if let (Some(disk), Some(map)) = (&self.state_disk, identity.as_object_mut()) {
            let mut about = vec![json!(disk.serial), json!(disk.bytes)];
            for (at, bytes) in &disk.content {
                about.push(json!([at, hex(&Sha256::digest(bytes))]));
            }
            map.insert("state-disk".to_owned(), json!(about));
        }
        identity.to_string()
    }

    /// `sha256:…` of [`Plan::identity`].
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex(&Sha256::digest(self.identity())))
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "hello".into(),
            image: "sha256:00".into(),
            disk: "/a/disk.raw".into(),
            format: DiskFormat::Raw,
            sector_size: 512,
            emulation: Emulation {
                machine: "q35".into(),
                cpu: "Nehalem".into(),
                processors: 1,
                memory_mib: 256,
                disk: "virtio-blk".into(),
                network: "virtio-net".into(),
            },
            boot: BootPath::Firmware,
            also_bios: false,
            layers: vec![("base".into(), "aa".into())],
            checks: Vec::new(),
            ready_limit: Duration::from_secs(30),
            allowances: Vec::new(),
            run: RunOptions::default(),
            state_disk: None,
            publish: Vec::new(),
            evidence: "/a/evidence".into(),
        }
    }

    #[test]
    fn the_digest_is_of_what_is_tested_and_of_nothing_else() {
        let (first, mut other) = (plan(), plan());
        assert!(first.digest().starts_with("sha256:") && first.digest().len() == 71);
        other.disk = "/b/disk.qcow2".into();
        other.format = DiskFormat::Qcow2;
        other.evidence = "/b".into();
        other.publish = vec![(1, 2)];
        other.run = RunOptions {
            seed: 7,
            attempt: 2,
            shard: Some((1, 2)),
            debug: true,
            writes: true,
        };
        assert_eq!(first.identity(), other.identity());
        let changes: [fn(&mut Plan); 9] = [
            |plan| plan.also_bios = true,
            |plan| {
                plan.state_disk = Some(StateDisk {
                    serial: "data".into(),
                    bytes: 1 << 26,
                    content: vec![(0, b"EFI PART".to_vec())],
                    file: None,
                });
            },
            |plan| plan.name.push('x'),
            |plan| plan.sector_size = 4096,
            |plan| plan.emulation.memory_mib += 1,
            |plan| plan.layers[0].1.push('b'),
            |plan| plan.ready_limit += Duration::from_millis(1),
            |plan| {
                plan.boot = BootPath::Direct {
                    kernel: "k".into(),
                    initrd: "i".into(),
                    cmdline: String::new(),
                }
            },
            |plan| {
                plan.allowances.push(Allowance {
                    check: "no segfault".into(),
                    reason: "known".into(),
                    expires: "2030-01-01".into(),
                });
            },
        ];
        for change in changes {
            let mut changed = plan();
            change(&mut changed);
            assert_ne!(first.digest(), changed.digest(), "{changed:?}");
        }
    }
}
