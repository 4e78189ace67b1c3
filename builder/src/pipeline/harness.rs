//! Casts meet the boot harness.

use std::path::Path;
use std::time::Duration;

use slipform_qemu_tests::{
    self as harness, BootPath, BootReport, Check, DiskFormat, Emulator, ExitKind, Plan, accel,
};

use super::image::machine_initrd;
use super::{Cast, PipelineError, Settings, tools};
use crate::base::fs::At;
use crate::lock::{LockFile, LockedTool};
use crate::output::{Artifact, OutputFormat};
use crate::spec::Image;

/// From power-on to ready on real hardware, without the services' own time.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

impl Settings {
    /// The emulator: the lock's (`locked`), fetched and unpacked, or the host's.
    ///
    /// # Errors
    /// [`PipelineError::Emulator`], and what fetching reports.
    pub fn emulator(&self, image: &Image, which: &str) -> Result<Emulator, PipelineError> {
        if which == "host" {
            return tools::host_emulator();
        }
        let lock = self
            .read_lock(image)?
            .ok_or_else(|| PipelineError::Internal("there is no lock".to_owned()))?;
        let tool = lock
            .tools
            .iter()
            .find(|tool| tool.name == tools::EMULATOR)
            .ok_or_else(|| {
                PipelineError::Emulator(
                    "the lock has none; run `slipform lock --update`".to_owned(),
                )
            })?;
        let unpacked = self.tools(image, &lock, tool)?;
        let version = tool
            .packages
            .iter()
            .find(|p| p.name == "qemu-system-x86")
            .map_or("", |p| p.version.as_str());
        tools::emulator(&unpacked, version)
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
        Plan {
            name: image.name.clone(),
            image: cast.manifest.to_string(),
            disk: artifact.path.clone(),
            format: match artifact.format {
                OutputFormat::Raw => DiskFormat::Raw,
                OutputFormat::Qcow2 => DiskFormat::Qcow2,
            },
            sector_size: cast.board.sector_size,
            emulation: cast.board.emulation.clone(),
            boot: BootPath::Firmware,
            layers: cast
                .layers
                .iter()
                .map(|(name, sealed)| (name.clone(), sealed.root_hex()))
                .collect(),
            checks: image
                .tests
                .iter()
                .map(|test| Check {
                    name: test.name.clone(),
                    probe: test.check.clone(),
                })
                .collect(),
            ready_limit: BOOT_LIMIT + services,
            allowances: Vec::new(),
            run: harness::RunOptions::default(),
            publish: Vec::new(),
            evidence: evidence.to_owned(),
        }
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
    ) -> Result<ExitKind, PipelineError> {
        let accel = self.accel(emulator, accelerator)?;
        Ok(harness::run_interactive(plan, emulator, accel)?)
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
