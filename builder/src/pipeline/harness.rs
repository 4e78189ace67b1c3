//! Casts meet the boot harness.

use std::path::Path;
use std::time::Duration;

use slipform_init::contract::machine::StateDisk;
use slipform_qemu_tests::{
    self as harness, BootPath, BootReport, DiskFormat, Emulator, ExitKind, Plan, accel,
};

use uuid::Uuid;

use super::image::machine_initrd;
use super::parts::part;
use super::{Cast, PipelineError, Settings, tools};
use crate::base::Arch;
use crate::base::fs::At;
use crate::base::{Digest, guid};
use crate::board::Firmware;
use crate::disk::{self, DiskReader, PartitionInfo, gpt};
use crate::lock::{LockFile, LockedTool};
use crate::output::{self, Artifact, OutputFormat};
use crate::spec::{Image, StateSpec};

/// From power-on to ready on real hardware, without the services' own time.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

impl Settings {
    /// The emulator of a board's architecture: the lock's (`locked`), fetched and unpacked,
    /// or the host's.
    ///
    /// # Errors
    /// [`PipelineError::Emulator`], and what fetching reports.
    pub fn emulator(
        &self,
        image: &Image,
        arch: Arch,
        which: &str,
    ) -> Result<Emulator, PipelineError> {
        if which == "host" {
            return tools::host_emulator(arch);
        }
        let locks = self.read_lock(image)?;
        let lock = locks.as_ref().and_then(|locks| locks.of(arch));
        let lock = lock.ok_or_else(|| PipelineError::Internal("there is no lock".to_owned()))?;
        let tool = lock
            .tools
            .iter()
            .find(|tool| tool.name == tools::EMULATOR)
            .ok_or_else(|| {
                PipelineError::Emulator(
                    "the lock has none; run `slipform lock --update`".to_owned(),
                )
            })?;
        let unpacked = self.tools(&part(image, arch)?, lock, tool)?;
        tools::emulator(&unpacked, arch, tool)
    }

    /// A set of tools, fetched and unpacked.
    fn tools(
        &self,
        image: &Image,
        lock: &LockFile,
        tool: &LockedTool,
    ) -> Result<tools::Tools, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        self.fetch(image, lock, &tool.packages.iter().collect::<Vec<_>>())?;
        tools::unpack(self, tool)
    }

    /// What to boot and to check.
    #[must_use]
    pub fn plan(&self, image: &Image, cast: &Cast, artifact: &Artifact, evidence: &Path) -> Plan {
        let services: Duration = image
            .services
            .iter()
            .map(|service| service.ready_timeout)
            .sum();
        let mut emulation = cast.board.emulation.clone();
        match artifact.format {
            // A stick is the disk that other formats test; here it is the CD that counts.
            OutputFormat::Iso => emulation.disk = "cdrom".to_owned(),
            OutputFormat::Netboot => emulation.disk = "netboot".to_owned(),
            _ => {}
        }
        Plan {
            name: image.name.clone(),
            image: cast.manifest.to_string(),
            disk: artifact.path.clone(),
            format: match artifact.format {
                OutputFormat::Qcow2 | OutputFormat::Qcow2Zlib => DiskFormat::Qcow2,
                // `compare` lets no other format come here.
                _ => DiskFormat::Raw,
            },
            sector_size: cast.board.sector_size,
            emulation,
            boot: match cast.board.firmware {
                Firmware::Bios => BootPath::Bios,
                Firmware::Uefi | Firmware::Both => BootPath::Firmware,
            },
            // A CD starts by UEFI alone.
            also_bios: cast.board.firmware == Firmware::Both
                && artifact.format != OutputFormat::Iso,
            layers: cast
                .layers
                .iter()
                .map(|(name, sealed)| (name.clone(), sealed.root_hex()))
                .collect(),
            checks: image.tests.clone(),
            ready_limit: BOOT_LIMIT + services,
            allowances: image.allowances.clone(),
            run: harness::RunOptions {
                debug: image.is_debug(),
                ..harness::RunOptions::default()
            },
            state_disk: image.state.as_ref().and_then(state_disk),
            publish: Vec::new(),
            evidence: evidence.to_owned(),
        }
    }

    /// Whether `file` is the disk of `cast`: its format, and what differs, for people;
    /// nothing if they are the same, byte for byte.
    ///
    /// # Errors
    /// [`PipelineError::Output`], [`PipelineError::Fs`].
    pub fn compare(
        &self,
        cast: &Cast,
        file: &Path,
    ) -> Result<(OutputFormat, Vec<String>), PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let (format, mut theirs) = output::open(file)?;
        if !matches!(
            format,
            OutputFormat::Raw | OutputFormat::Qcow2 | OutputFormat::Iso | OutputFormat::Netboot
        ) {
            return Err(PipelineError::NoImage {
                what: file.display().to_string(),
                why: format!(
                    "it is {format}, and the boot test takes raw, qcow2, iso or netboot; slipform export gives each"
                ),
            });
        }
        let mut ours = DiskReader::new(&self.store, &cast.disk);
        let Some(at) = output::first_difference(&mut ours, &mut theirs).at("read", file)? else {
            return Ok((format, Vec::new()));
        };
        let ours = disk::inspect(&mut ours).at("read", file)?;
        let holds = |part: &&PartitionInfo| (part.offset..part.offset + part.size).contains(&at);
        let place = ours.partitions.iter().find(holds);
        let place = place.map_or_else(
            || "outside all partitions".to_owned(),
            |part| format!("in partition {}", part.name),
        );
        let mut differences = vec![format!("the first byte that differs is at {at}, {place}")];
        let theirs = disk::inspect(&mut theirs).at("read", file)?;
        if ours.size != theirs.size {
            differences.push(format!(
                "the disk has {} bytes, not {}",
                theirs.size, ours.size
            ));
        }
        for partition in &ours.partitions {
            let same_name = |other: &&PartitionInfo| other.name == partition.name;
            let root = |info: &PartitionInfo| info.layer.as_ref().map(|l| l.root_hash.clone());
            match theirs.partitions.iter().find(same_name) {
                None => differences.push(format!("it has no partition {}", partition.name)),
                Some(other) if root(other) != root(partition) => differences.push(format!(
                    "layer {} has root hash {}, not {}",
                    partition.name,
                    root(other).unwrap_or_else(|| "none".to_owned()),
                    root(partition).unwrap_or_else(|| "none".to_owned()),
                )),
                Some(_) => {}
            }
        }
        if ours.machine != theirs.machine {
            differences.push("its machine.json is another".to_owned());
        }
        Ok((format, differences))
    }

    /// The quick lane: kernel and initrd as files in `folder`, no firmware.
    ///
    /// # Errors
    /// [`PipelineError::Fs`], [`PipelineError::Store`].
    pub fn direct(&self, cast: &Cast, folder: &Path) -> Result<BootPath, PipelineError> {
        std::fs::create_dir_all(folder).at("create", folder)?;
        let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd"));
        std::fs::write(&kernel, self.store.read(&cast.parts.kernel)?).at("write", &kernel)?;
        let mut whole = self.store.read(&cast.parts.initrd)?;
        whole.extend(machine_initrd(&self.store.read(&cast.machine)?)?);
        std::fs::write(&initrd, whole).at("write", &initrd)?;
        Ok(BootPath::Direct {
            kernel,
            initrd,
            cmdline: cast.cmdline.clone(),
        })
    }

    /// Boots, probes, judges.
    ///
    /// # Errors
    /// [`PipelineError::Harness`] when the test itself could not be made; an
    /// image that fails it is a report, not an error.
    pub fn boot(
        &self,
        plan: &Plan,
        emulator: &Emulator,
        accelerator: &str,
    ) -> Result<BootReport, PipelineError> {
        let accel = self.accel(emulator, accelerator)?;
        let progress = self.progress.clone();
        Ok(harness::boot_test(plan, emulator, accel, &move |line| {
            progress.note(line);
        })?)
    }

    /// Boots for a person, until they or the machine end it; says which.
    ///
    /// # Errors
    /// [`PipelineError::Harness`].
    pub fn interactive(
        &self,
        plan: &Plan,
        emulator: &Emulator,
        accelerator: &str,
        control: Option<&Path>,
    ) -> Result<ExitKind, PipelineError> {
        let accel = self.accel(emulator, accelerator)?;
        Ok(harness::run_interactive(plan, emulator, accel, control)?)
    }

    pub(super) fn accel(
        &self,
        emulator: &Emulator,
        request: &str,
    ) -> Result<harness::Accel, PipelineError> {
        let progress = self.progress.clone();
        Ok(accel::choose(request, emulator, &move |line| {
            progress.note(line);
        })?)
    }
}

/// Type of a partition for anything ("Linux filesystem data", util-linux).
const DATA_TYPE: Uuid = Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);
const MIB: u64 = 1 << 20;
const SECTOR: u32 = 512;

/// The state's own disk, as an operator would hand it over.
fn state_disk(state: &StateSpec) -> Option<harness::StateDisk> {
    let disk = |serial: &str, bytes, content| harness::StateDisk {
        serial: serial.to_owned(),
        bytes,
        content,
        file: None,
    };
    Some(match state.disk.as_ref()? {
        StateDisk::Serial(serial) => disk(serial, state.size, Vec::new()),
        StateDisk::Label(label) => {
            let bytes = state.size + 2 * MIB;
            disk("", bytes, labelled(label, bytes))
        }
    })
}

/// A table with one blank partition of that name, which leaves the first and last MiB.
fn labelled(label: &str, bytes: u64) -> Vec<(u64, Vec<u8>)> {
    let seed = Digest::of(label);
    let sectors = |bytes: u64| bytes / u64::from(SECTOR);
    let partition = gpt::Partition {
        type_guid: DATA_TYPE,
        guid: guid::derive(&seed, "state partition"),
        first_lba: sectors(MIB),
        last_lba: sectors(bytes - MIB) - 1,
        attributes: 0,
        name: label.to_owned(),
    };
    let disk = guid::derive(&seed, "state disk");
    // One partition on a disk of some MiB always has a table; without, init says what is missing.
    gpt::tables(SECTOR, sectors(bytes), disk, &[partition])
        .map(|tables| {
            let end = bytes - tables.backup.len() as u64;
            vec![(0, tables.primary), (end, tables.backup)]
        })
        .unwrap_or_default()
}
