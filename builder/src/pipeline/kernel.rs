//! The kernel package and the boot stub become what a board's images share:
//! the kernel, the stub, and the constant part of the initrd (init and modules).

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use serde::{Deserialize, Serialize};
use slipform_init::contract::machine::{MODULES_DIR, MODULES_LATE, MODULES_LIST};
use slipform_init::contract::modalias::{ALIASES, COLDPLUG_DIR, NEEDS};

use super::firmware::{self, Firmware};
use super::{PipelineError, Settings, blob, output, packages, value};
use crate::base::Digest;
use crate::board::Board;
use crate::filesystem::cpio::Initrd;
use crate::layers::{Content, Entry, Kind, content};
use crate::lock::{LockFile, LockedBoard};
use crate::spec::Image;
use crate::store::{Output, Outputs, Step};
use crate::uki::coldplug::{Carried, Plugs};
use crate::uki::grub::Grub;
use crate::uki::modules::{Kernel, Module, ModuleError, Wanted};

/// No part of a kernel package that is read into memory is larger.
const LARGEST: u64 = 64 << 20;

/// What all images of a board and kernel share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootParts {
    /// `uname -r`.
    pub release: String,
    /// bzImage.
    pub kernel: Digest,
    /// systemd-stub.
    pub stub: Digest,
    /// cpio archive with init and the modules.
    pub initrd: Digest,
}

/// Makes the parts, or finds them made.
pub(super) fn parts(
    settings: &Settings,
    image: &Image,
    board: &Board,
    lock: &LockFile,
    locked: &LockedBoard,
) -> Result<BootParts, PipelineError> {
    let modules: Vec<String> = board
        .modules
        .iter()
        .chain(&image.kernel.modules)
        .cloned()
        .chain(counting(image).map(str::to_owned))
        .collect();
    let step = Step::new(
        "boot parts 3",
        format!("{} of {}", board.name, image.dir.display()),
    )
    .input("kernel package", locked.kernel.sha256)
    .input("stub package", locked.stub.sha256)
    .value("stub path", &board.stub_path)
    .value("modules", modules.join(" "))
    .value("late modules", board.late_modules.join(" "))
    .value("coldplug", board.coldplug.join(" "))
    .input("init", lock.init.sha256);
    let firmware = locked.firmware.iter();
    let step = firmware.fold(step, |step, package| {
        step.input(format!("firmware {}", package.name), package.sha256)
    });
    let sound = |outputs: &Outputs| boot_parts(outputs).map(drop);
    let outputs = settings.shared_step(&step, &sound, || {
        make(settings, board, locked, &modules, &settings.init(lock)?)
    })?;
    boot_parts(&outputs)
}

/// What the kernel counts quotas with, for an image that has some.
fn counting(image: &Image) -> Option<&'static str> {
    let mut paths = image.state.iter().flat_map(|state| &state.paths);
    paths.any(|path| path.quota.is_some()).then_some("quota_v2")
}

/// GRUB's files, for a board that starts by a BIOS.
pub(super) fn grub(
    settings: &Settings,
    locked: &LockedBoard,
) -> Result<Option<Grub>, PipelineError> {
    let Some(package) = &locked.bios else {
        return Ok(None);
    };
    let package = Package::open(settings, &package.sha256)?;
    Grub::take(&mut |path| package.read(path)).map(Some)
}

fn boot_parts(outputs: &Outputs) -> Result<BootParts, PipelineError> {
    Ok(BootParts {
        release: value(outputs, "release")?,
        kernel: blob(outputs, "kernel")?,
        stub: blob(outputs, "stub")?,
        initrd: blob(outputs, "initrd")?,
    })
}

fn make(
    settings: &Settings,
    board: &Board,
    locked: &LockedBoard,
    modules: &[String],
    init: &[u8],
) -> Result<Outputs, PipelineError> {
    let fail = |what: String| PipelineError::Kernel {
        board: board.name.clone(),
        what,
    };
    let package = Package::open(settings, &locked.kernel.sha256)?;
    let image = package
        .files()
        .find(|(path, _)| path.starts_with("/boot/vmlinuz-"))
        .ok_or_else(|| {
            fail(format!(
                "package {} has no /boot/vmlinuz-*; name another `kernel`",
                locked.kernel.name
            ))
        })?;
    let release = image.0.trim_start_matches("/boot/vmlinuz-").to_owned();
    let stub_package = Package::open(settings, &locked.stub.sha256)?;
    let stub = stub_package.read(&board.stub_path)?.ok_or_else(|| {
        fail(format!(
            "package {} has no {}; correct the board's `stub`",
            locked.stub.name, board.stub_path
        ))
    })?;
    let wanted = Wanted {
        early: modules,
        late: &board.late_modules,
    };
    let (chosen, carried) = choose(&package, board, &release, wanted)?;
    let mut asked: BTreeSet<String> = chosen.iter().flat_map(Module::firmware).collect();
    asked.extend(carried.firmware.iter().cloned());
    let mut firmware = Firmware::default();
    for package in &locked.firmware {
        let found = Firmware::of(&Package::open(settings, &package.sha256)?, &asked)?;
        if found.is_empty() {
            return Err(fail(format!(
                "package {} has no microcode, and no firmware that one of the modules asks for; remove it from `[kernel] firmware`, or name the module that wants it in `[kernel] modules`",
                package.name
            )));
        }
        firmware.add(found);
    }
    let initrd = initrd(&chosen, &carried, &firmware, init)?;
    let store = &settings.store;
    Ok(Outputs::from([
        ("release".to_owned(), output(&release)?),
        (
            "kernel".to_owned(),
            Output::Blob(store.put(&package.bytes(image.1)?)?),
        ),
        ("stub".to_owned(), Output::Blob(store.put(&stub)?)),
        ("initrd".to_owned(), Output::Blob(store.put(&initrd)?)),
        // Kept, so that another compiler's init breaks no rebuild.
        ("init".to_owned(), Output::Blob(store.put(init)?)),
    ]))
}

/// The wanted modules of the package, in the order of loading, and those for devices.
fn choose(
    package: &Package<'_>,
    board: &Board,
    release: &str,
    wanted: Wanted<'_>,
) -> Result<(Vec<Module>, Carried), PipelineError> {
    let mut builtin = Vec::new();
    for root in ["/usr/lib/modules", "/lib/modules"] {
        if let Some(bytes) = package.read(&format!("{root}/{release}/modules.builtin"))? {
            builtin = bytes;
        }
    }
    let paths = package
        .files()
        .map(|(path, _)| path)
        .filter(|path| path.contains("/modules/"));
    let kernel = Kernel::new(release, paths, &String::from_utf8_lossy(&builtin));
    let files: HashMap<&str, &Content> = package.files().collect();
    let mut read = |path: &str| match files.get(path) {
        Some(content) => package.bytes(content).map_err(|error| error.to_string()),
        None => Ok(Vec::new()),
    };
    let failed = |error: ModuleError| PipelineError::Module {
        board: board.name.clone(),
        error,
    };
    let unpacked = &mut |path: &str| read(path).and_then(|bytes| unpack_module(path, &bytes));
    let chosen = kernel.select(wanted, unpacked).map_err(failed)?;
    if board.coldplug.is_empty() {
        return Ok((chosen, Carried::default()));
    }
    let config = package.read(&format!("/boot/config-{release}"))?;
    let early = chosen.iter().filter(|module| !module.late);
    let plugs = Plugs {
        wanted: &board.coldplug,
        loaded: &early.map(|module| module.name.as_str()).collect(),
        packed: unpacks(&config.unwrap_or_default()),
        unpack: unpack_module,
    };
    let carried = kernel.coldplug(plugs, &mut read).map_err(failed)?;
    Ok((chosen, carried))
}

/// Whether a kernel of this configuration unpacks the modules of its package by itself.
fn unpacks(config: &[u8]) -> bool {
    let mut lines = config.split(|byte| *byte == b'\n');
    lines.any(|line| line == b"CONFIG_MODULE_DECOMPRESS=y")
}

/// A module's ELF bytes, bounded.
fn unpack_module(path: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut elf = Vec::new();
    let mut reader: Box<dyn Read> = match path.rsplit('.').next() {
        Some("xz") => Box::new(lzma_rust2::XzReader::new(bytes, true)),
        Some("zst") => Box::new(zstd::Decoder::new(bytes).map_err(|e| e.to_string())?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    (&mut reader)
        .take(LARGEST + 1)
        .read_to_end(&mut elf)
        .map_err(|e| format!("cannot be decompressed: {e}"))?;
    if elf.len() as u64 > LARGEST {
        return Err("is larger than 64 MiB".to_owned());
    }
    Ok(elf)
}

/// The constant part of the initrd: uncompressed, so that no compressor's
/// version enters an identity and no time is lost unpacking it. What is carried for devices
/// stays as the package has it: most of it is never unpacked.
fn initrd(
    modules: &[Module],
    carried: &Carried,
    firmware: &Firmware,
    init: &[u8],
) -> Result<Vec<u8>, PipelineError> {
    // The kernel looks for microcode only in what comes first.
    let mut archive = Initrd::new(firmware.early()?);
    archive.file("/init", 0o755, init)?;
    // Where init mounts the kernel's file systems and the new root.
    for folder in ["/dev", "/proc", "/sys", "/run", "/layers", "/root"] {
        archive.folder(folder, 0o755)?;
    }
    // The kernel opens it for init before there is a devtmpfs.
    archive.device("/dev/console", 0o600, 5, 1)?;
    archive.folder(MODULES_DIR, 0o755)?;
    let (mut list, mut late) = (String::new(), String::new());
    for module in modules {
        archive.file(
            &format!("{MODULES_DIR}/{}.ko", module.name),
            0o644,
            &module.bytes,
        )?;
        let list = if module.late { &mut late } else { &mut list };
        list.push_str(&format!("{}.ko\n", module.name));
    }
    archive.file(MODULES_LIST, 0o644, list.as_bytes())?;
    archive.file(MODULES_LATE, 0o644, late.as_bytes())?;
    if !carried.files.is_empty() {
        archive.folder(COLDPLUG_DIR, 0o755)?;
        let tables = [(ALIASES, &carried.aliases), (NEEDS, &carried.needs)];
        let tables = tables.map(|(name, text)| (name, text.as_bytes()));
        let files = carried.files.iter();
        let files = files.map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        for (name, bytes) in files.chain(tables) {
            archive.file(&format!("{COLDPLUG_DIR}/{name}"), 0o644, bytes)?;
        }
    }
    for (path, bytes) in &firmware.files {
        archive.file(&format!("{}/{path}", firmware::FOLDER), 0o644, bytes)?;
    }
    Ok(archive.finish()?)
}

/// A package's files, by path.
pub(super) struct Package<'a> {
    settings: &'a Settings,
    /// All that it has.
    pub(super) entries: Vec<Entry>,
}

impl<'a> Package<'a> {
    fn open(settings: &'a Settings, deb: &Digest) -> Result<Self, PipelineError> {
        let entries = packages::unpack(settings, deb)?.entries(&settings.store)?;
        Ok(Self { settings, entries })
    }

    fn files(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File(content) => Some((entry.path.as_str(), content)),
            _ => None,
        })
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, PipelineError> {
        let found = self.files().find(|(name, _)| *name == path);
        found.map(|(_, content)| self.bytes(content)).transpose()
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, content: &Content) -> Result<Vec<u8>, PipelineError> {
        let mut bytes = Vec::new();
        let reader = content::open(content, &self.settings.store)?;
        reader
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .map_err(|error| {
                PipelineError::Internal(format!("a package's file cannot be read: {error}"))
            })?;
        Ok(bytes)
    }
}
