//! Locked Debian packages as tools: unpacked into the store, run with their own
//! loader and libraries, so that the host needs nothing and its release does not matter.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipform_qemu_tests::Emulator;

use super::{PipelineError, Settings, packages};
use crate::base::fs::At;
use crate::base::{Arch, Digest};
use crate::lock::LockedTool;

/// The name of the emulator's tool set in the lock.
pub const EMULATOR: &str = "emulator";

/// Where Debian's package has iPXE as an EFI program.
const IPXE: &str = "usr/lib/ipxe/ipxe.efi";

/// What an architecture's emulator is: names that differ, and nothing else.
struct Names {
    /// Debian packages.
    packages: &'static [&'static str],
    program: &'static str,
    /// Firmware and its variables, below `usr/share` of the locked packages.
    firmware: [&'static str; 2],
    /// The same where distributions put them.
    host: &'static [[&'static str; 2]],
}

const X86_64: Names = Names {
    packages: &["qemu-system-x86", "ovmf", "ipxe"],
    program: "qemu-system-x86_64",
    firmware: ["OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"],
    host: &[
        [
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_VARS_4M.fd",
        ],
        [
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/OVMF/OVMF_VARS.fd",
        ],
        [
            "/usr/share/edk2/ovmf/OVMF_CODE.fd",
            "/usr/share/edk2/ovmf/OVMF_VARS.fd",
        ],
        [
            "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
            "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
        ],
        [
            "/usr/share/qemu/ovmf-x86_64-code.bin",
            "/usr/share/qemu/ovmf-x86_64-vars.bin",
        ],
    ],
};

const AARCH64: Names = Names {
    packages: &["qemu-system-arm", "qemu-efi-aarch64"],
    program: "qemu-system-aarch64",
    firmware: ["AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"],
    host: &[
        [
            "/usr/share/AAVMF/AAVMF_CODE.fd",
            "/usr/share/AAVMF/AAVMF_VARS.fd",
        ],
        [
            "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
            "/usr/share/edk2/aarch64/vars-template-pflash.raw",
        ],
        [
            "/usr/share/edk2/aarch64/QEMU_CODE.fd",
            "/usr/share/edk2/aarch64/QEMU_VARS.fd",
        ],
    ],
};

fn names(arch: Arch) -> &'static Names {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
    }
}

/// What the emulator's set is resolved from.
pub(super) fn emulator_packages(arch: Arch) -> &'static [&'static str] {
    names(arch).packages
}

/// A folder with unpacked packages.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Program and leading arguments that start `name` (`e2fsck`) from the
    /// folder, through its own loader; `None` if it has no such program.
    #[must_use]
    pub fn words(&self, name: &str) -> Option<Vec<OsString>> {
        let places = ["usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/apt/methods"];
        let program = places
            .iter()
            .map(|p| self.root.join(p).join(name))
            .find(|p| p.is_file())?;
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        // Some packages keep libraries of their own one folder deeper.
        let path = ["", "systemd", "cryptsetup"]
            .iter()
            .map(|d| libraries.join(d))
            .filter(|d| d.is_dir());
        let path = std::env::join_paths(path).ok()?;
        Some(vec![
            self.root.join("usr/lib64/ld-linux-x86-64.so.2").into(),
            "--library-path".into(),
            path,
            program.into(),
        ])
    }

    /// A command that starts `name` from the folder.
    #[must_use]
    pub fn command(&self, name: &str) -> Option<Command> {
        let words = self.words(name)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C");
        Some(command)
    }
}

/// Names the folder of a set.
pub(super) fn digest(tool: &LockedTool) -> Digest {
    let list: Vec<String> = tool.packages.iter().map(|p| p.sha256.to_string()).collect();
    Digest::of(list.join("\n"))
}

/// Unpacks a set of fetched packages; a set that is there already costs nothing.
pub(super) fn unpack(settings: &Settings, tool: &LockedTool) -> Result<Tools, PipelineError> {
    let root = settings.store.unpacked(&digest(tool));
    if root.is_dir() {
        return Ok(Tools { root });
    }
    let total = tool.packages.iter().map(|p| p.size).sum();
    let task = settings
        .progress
        .begin(&format!("unpack {}", tool.name), Some(total));
    let folder = settings.store.temp_folder()?;
    for package in &tool.packages {
        let unpacked = packages::unpack(settings, &package.sha256)?;
        extract(settings, &unpacked.tar, folder.path())?;
        task.advance(package.size);
    }
    folder.publish(&root)?;
    Ok(Tools { root })
}

/// Extracts a tar blob; the `tar` crate keeps entries inside `folder`.
fn extract(settings: &Settings, tar: &Digest, folder: &Path) -> Result<(), PipelineError> {
    let file = settings.store.open_blob(tar)?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 16, file));
    archive.set_preserve_mtime(false);
    archive.set_overwrite(true);
    for entry in archive.entries().at("read", folder)? {
        let mut entry = entry.at("read", folder)?;
        // Devices and owners are of no use to a tool and would need root.
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        if ![Directory, Link, Regular, Symlink].contains(&entry.header().entry_type()) {
            continue;
        }
        let target = folder.join(entry.path().at("read", folder)?);
        if entry.header().entry_type() == Directory {
            // A folder may stand where another package has a link; and it must stay writable for us.
            fs::create_dir_all(&target).at("create", &target)?;
            continue;
        }
        entry.unpack_in(folder).at("unpack", &target)?;
    }
    Ok(())
}

/// The emulator from an unpacked set.
pub(super) fn emulator(
    tools: &Tools,
    arch: Arch,
    locked: &LockedTool,
) -> Result<Emulator, PipelineError> {
    let root = tools.root();
    let names = names(arch);
    let package = locked.packages.iter().find(|p| p.name == names.packages[0]);
    let version = package.map_or("", |package| package.version.as_str());
    let missing = |what: &str| {
        PipelineError::Emulator(format!(
            "the locked emulator has no {what}; run `slipform lock --update`"
        ))
    };
    let mut command = tools
        .words(names.program)
        .ok_or_else(|| missing(names.program))?;
    for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.push("-L".into());
        command.push(root.join(folder).into());
    }
    let modules = root.join("usr/lib/x86_64-linux-gnu/qemu");
    let firmware = |name: &str| {
        let path = root.join("usr/share").join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(missing(name))
        }
    };
    Ok(Emulator {
        command,
        env: BTreeMap::from([("QEMU_MODULE_DIR".into(), modules.into())]),
        firmware_code: firmware(names.firmware[0])?,
        firmware_vars: firmware(names.firmware[1])?,
        ipxe: ipxe(root, arch),
        relay: relay(),
        version: format!("qemu {version}, locked"),
    })
}

/// Only machines that start over the network by UEFI want it.
fn ipxe(root: &Path, arch: Arch) -> Option<PathBuf> {
    let path = root.join(IPXE);
    (arch == Arch::X86_64 && path.is_file()).then_some(path)
}

/// The command itself relays to emulated metadata servers.
fn relay() -> Vec<OsString> {
    let own = std::env::current_exe().ok();
    own.map_or_else(Vec::new, |own| {
        vec![own.into(), slipform_qemu_tests::metadata::RELAY_WORD.into()]
    })
}

/// The host's emulator: the program on the path, firmware where distributions put it.
pub(super) fn host_emulator(arch: Arch) -> Result<Emulator, PipelineError> {
    let Names {
        program,
        host,
        packages,
        ..
    } = names(arch);
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| {
            PipelineError::Emulator(format!(
                "{program} cannot be started ({error}); install it, or leave --qemu host out"
            ))
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .nth(3)
        .unwrap_or("of unknown version")
        .to_owned();
    let pair = host
        .iter()
        .find(|pair| pair.iter().all(|file| Path::new(file).is_file()));
    let [code, vars] = pair.ok_or_else(|| {
        let places: Vec<&str> = host.iter().map(|[code, _]| *code).collect();
        PipelineError::Emulator(format!(
            "the host has no UEFI firmware (looked for {}); install {}, or leave --qemu host out",
            places.join(", "),
            packages[1]
        ))
    })?;
    Ok(Emulator {
        command: vec![program.into()],
        env: BTreeMap::new(),
        firmware_code: code.into(),
        firmware_vars: vars.into(),
        ipxe: ipxe(Path::new("/"), arch),
        relay: relay(),
        version: format!("qemu {version}, the host's"),
    })
}
