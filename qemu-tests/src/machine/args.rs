//! QEMU's command line. Pure: the same setup gives the same words.
//!
//! Nothing is taken from defaults or a user's configuration; whatever the machine
//! has is named here. Paths go in as `file.filename`, which QEMU never reads as a
//! protocol (`nbd:`, `json:`), with commas doubled (qemu-options(7)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use slipform_init::contract::event::{NONCE_FW_CFG, REPORT_PORT, SLOWDOWN_FW_CFG};

use super::Mode;
use super::hardware::Trace;
use super::netboot::{IPXE_EFI, TFTP, is_network};
use super::sockets::Channel;
use crate::accel::{Accel, AccelKind};
use crate::metadata::forward_command;
use crate::plan::devices::{DISKS, NETWORKS, find};
use crate::plan::{BootPath, DiskFormat, Emulator, Plan};

/// A disk that is a CD in a SATA drive.
const CDROM: &str = "cdrom";
/// QEMU's trace events of a read, by disk interface.
const READS: [&str; 2] = ["virtio_blk_handle_read", "pci_nvme_read"];

/// A guest's TCP port on 127.0.0.1 of the host; host port 0 lets the host choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Forward {
    /// Port on the host.
    pub(crate) host: u16,
    /// Port in the guest.
    pub(crate) guest: u16,
}

/// Everything that the command line depends on.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) emulator: &'a Emulator,
    pub(crate) accel: &'a Accel,
    /// Folder of the sockets.
    pub(crate) run: &'a Path,
    /// This run's copy of the variables.
    pub(crate) vars: &'a Path,
    /// Kept overlay over the artifact, if there is one.
    pub(crate) overlay: Option<&'a Path>,
    /// The disk for the state alone, if the image has one.
    pub(crate) state: Option<&'a Path>,
    /// What iPXE is to fetch first, if the machine starts by it.
    pub(crate) script: Option<&'a str>,
    /// Of the console's records.
    pub(crate) nonce: &'a str,
    pub(crate) mode: &'a Mode,
}

/// Program and arguments.
pub(crate) fn command_line(setup: &Setup<'_>) -> Vec<OsString> {
    let mut words = Words(setup.emulator.command.clone());
    words.machine(setup);
    words.boot(setup);
    words.disk(setup);
    words.state_disk(setup);
    words.channels(setup);
    words.network(setup);
    words.metadata(setup);
    words.0
}

#[derive(Debug)]
struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, option: &str) {
        self.0.push(option.into());
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn machine(&mut self, setup: &Setup<'_>) {
        let emulation = &setup.plan.emulation;
        self.option("-name", "slipform");
        for flag in ["-nodefaults", "-no-user-config"] {
            self.flag(flag);
        }
        self.option("-display", "none");
        // Stands still until the harness has its channels: nothing is missed.
        self.flag("-S");
        let mut machine = emulation.machine.clone();
        if matches!(setup.mode.boot(setup.plan), BootPath::Bios) {
            // Then SeaBIOS, and whoever prints by it, speaks on the serial port, too.
            machine.push_str(",graphics=off");
        }
        self.option("-machine", machine);
        match setup.accel.kind {
            AccelKind::Tcg => {
                self.option("-accel", "tcg");
                self.option("-cpu", emulation.cpu.as_str());
            }
            AccelKind::Kvm => {
                self.option("-accel", "kvm");
                self.option("-cpu", "host");
            }
        }
        self.option("-smp", emulation.processors.to_string());
        self.option("-m", format!("{}M", emulation.memory_mib));
        let clock = setup.mode.hardware.clock.as_deref().unwrap_or("utc");
        self.option("-rtc", format!("base={clock}"));
        if setup.mode.reboot_ends {
            // A guest that reboots where it should not is a finding, not a loop.
            self.option("-action", "reboot=shutdown");
        }
        self.option("-object", "rng-builtin,id=rng0");
        self.option("-device", "virtio-rng-pci,rng=rng0");
        // Resets a guest whose init hangs; nothing happens until a driver arms it.
        self.option("-device", "i6300esb");
    }

    fn boot(&mut self, setup: &Setup<'_>) {
        match setup.mode.boot(setup.plan) {
            BootPath::Firmware => {
                if setup.plan.emulation.machine.contains("smm=on") {
                    // Variables of a secure-boot firmware are only writable from SMM.
                    self.option("-global", "driver=cfi.pflash01,property=secure,value=on");
                }
                let code = setup.emulator.firmware_code.as_os_str();
                self.option(
                    "-drive",
                    with_file(
                        "if=pflash,unit=0,format=raw,readonly=on",
                        "file.filename",
                        code,
                    ),
                );
                let vars = setup.vars.as_os_str();
                self.option(
                    "-drive",
                    with_file("if=pflash,unit=1,format=raw", "file.filename", vars),
                );
                self.option("-boot", "strict=on,menu=off");
                // For the picture of a red machine: the firmware draws on it. It costs
                // half a second of the host's time, in the noise of ten. OVMF has a
                // driver for it and needs no option ROM.
                // Arm's `virt` has the same with a frame buffer in plain memory.
                let arm = setup.emulator.guest() == Some("aarch64");
                let screen = if arm { "ramfb" } else { "VGA,romfile=" };
                self.option("-device", screen);
            }
            // SeaBIOS comes with QEMU, and needs the card's option ROM to draw.
            BootPath::Bios => {
                self.option("-boot", "strict=on,menu=off");
                self.option("-device", "VGA");
            }
            BootPath::Direct {
                kernel,
                initrd,
                cmdline,
            } => {
                self.option("-kernel", kernel.as_os_str());
                self.option("-initrd", initrd.as_os_str());
                self.option("-append", cmdline.as_str());
            }
        }
    }

    fn state_disk(&mut self, setup: &Setup<'_>) {
        let (Some(file), Some(disk)) = (setup.state, &setup.plan.state_disk) else {
            return;
        };
        // One of the machine's own outlives a crash of the host; a run's goes with it.
        let cache = if disk.file.is_some() {
            "writeback"
        } else {
            "unsafe"
        };
        let drive = format!("if=none,id=state0,format=raw,cache={cache},file.driver=file");
        self.option(
            "-drive",
            with_file(&drive, "file.filename", file.as_os_str()),
        );
        let mut device = "virtio-blk-pci,drive=state0".to_owned();
        if !disk.serial.is_empty() {
            device += &format!(",serial={}", disk.serial);
        }
        self.option("-device", device);
    }

    fn disk(&mut self, setup: &Setup<'_>) {
        let plan = setup.plan;
        if is_network(&plan.emulation.disk) {
            return;
        }
        let format = match plan.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        };
        let hardware = &setup.mode.hardware;
        let artifact = plan.disk.as_os_str();
        // A disk that is kept must outlive a crash of the host.
        let writes = plan.run.writes && setup.overlay.is_none();
        let cache = if writes { "writeback" } else { "unsafe" };
        let is_cd = plan.emulation.disk == CDROM;
        let mut options = format!(",cache={cache}");
        if is_cd {
            options.push_str(",media=cdrom,readonly=on");
        }
        if let Some((bytes, operations)) = hardware.throttle {
            options.push_str(&format!(
                ",throttling.bps-total={bytes},throttling.iops-total={operations}"
            ));
        }
        options.push_str(",file.driver=file");
        match setup.overlay {
            // `snapshot=on`: the artifact is opened read-only below a temporary overlay in TMPDIR.
            None => {
                let snapshot = if writes || is_cd { "off" } else { "on" };
                let drive =
                    format!("if=none,id=disk0,format={format},snapshot={snapshot}{options}");
                self.option("-drive", with_file(&drive, "file.filename", artifact));
            }
            // A backing file is opened read-only. The guest's flushes go to the host's
            // memory, which outlives QEMU.
            Some(overlay) => {
                let drive = format!("if=none,id=disk0,format=qcow2{options}");
                let mut drive = with_file(&drive, "file.filename", overlay.as_os_str());
                let backing = format!(",backing.driver={format},backing.file.driver=file");
                drive.push(with_file(&backing, "backing.file.filename", artifact));
                self.option("-drive", drive);
            }
        }
        if is_cd {
            // q35 has a SATA controller of its own, whose first place is `ide.0`.
            let first = match setup.mode.boot(plan) {
                BootPath::Firmware | BootPath::Bios => ",bootindex=0",
                BootPath::Direct { .. } => "",
            };
            self.option("-device", format!("ide-cd,bus=ide.0,drive=disk0{first}"));
            return;
        }
        // The plan was checked.
        let disk = find(&DISKS, &plan.emulation.disk).unwrap_or(&DISKS[0]);
        if let Some(controller) = disk.controller {
            self.option("-device", controller);
        }
        let device = disk.device;
        let sector = plan.sector_size;
        let physical = hardware.physical_sector.unwrap_or(sector);
        // A direct boot's kernel takes the first place itself.
        let first = match setup.mode.boot(plan) {
            BootPath::Firmware | BootPath::Bios => "bootindex=0,",
            BootPath::Direct { .. } => "",
        };
        self.option(
            "-device",
            format!("{device},drive=disk0,{first}logical_block_size={sector},physical_block_size={physical}"),
        );
        if let Some(Trace(file)) = &hardware.trace {
            for event in READS {
                self.option("-trace", format!("enable={event}"));
            }
            self.option("-D", file.as_os_str());
        }
    }

    fn channels(&mut self, setup: &Setup<'_>) {
        for channel in [Channel::Console, Channel::Report, Channel::Monitor] {
            let socket = format!("socket,id={}", channel.name());
            self.option(
                "-chardev",
                with_file(&socket, "path", channel.path(setup.run).as_os_str()),
            );
        }
        self.option("-serial", "chardev:console");
        self.option("-mon", "chardev=qmp,mode=control");
        self.option("-device", "virtio-serial-pci");
        self.option(
            "-device",
            format!("virtserialport,chardev=report,name={REPORT_PORT}"),
        );
        self.option(
            "-fw_cfg",
            format!("name={NONCE_FW_CFG},string={}", setup.nonce),
        );
        // Limits inside the guest grow with the host's slowness as ours do.
        self.option(
            "-fw_cfg",
            format!("name={SLOWDOWN_FW_CFG},string={:.2}", setup.accel.slowdown),
        );
    }

    /// The cloud that the machine wakes up in, but for its server.
    fn metadata(&mut self, setup: &Setup<'_>) {
        let Some(metadata) = &setup.mode.metadata else {
            return;
        };
        for words in metadata.firmware() {
            self.option("-smbios", words);
        }
        for text in metadata.oem_strings() {
            let text = text.replace(',', ",,");
            self.option("-smbios", format!("type=11,value={text}"));
        }
        for (name, file) in metadata.fw_cfg(setup.run) {
            let name = format!("name={name}");
            self.option("-fw_cfg", with_file(&name, "file", file.as_os_str()));
        }
        if let Some(seed) = metadata.seed(setup.run) {
            let drive = "if=none,id=seed,format=raw,readonly=on,file.driver=file";
            self.option(
                "-drive",
                with_file(drive, "file.filename", seed.as_os_str()),
            );
            self.option("-device", "virtio-blk-pci,drive=seed");
        }
    }

    fn network(&mut self, setup: &Setup<'_>) {
        if setup.mode.hardware.no_network {
            return;
        }
        let mut netdev = "user,id=net0".to_owned();
        // The server that the disk comes from is on the host.
        if setup.mode.isolated && !is_network(&setup.plan.emulation.disk) {
            netdev.push_str(",restrict=on");
        }
        if let Some(script) = setup.script {
            netdev.push_str(&match setup.mode.boot(setup.plan) {
                BootPath::Firmware => {
                    let folder = setup.run.join(TFTP).display().to_string();
                    format!(",tftp={},bootfile={IPXE_EFI}", folder.replace(',', ",,"))
                }
                // The card's own iPXE takes a script.
                _ => format!(",bootfile={}", script.replace(',', ",,")),
            });
        }
        let metadata = setup.mode.metadata.as_ref();
        if let Some(metadata) = metadata.filter(|metadata| metadata.has_server())
            && let Some(command) = forward_command(&setup.emulator.relay, setup.run)
        {
            let (network, addresses) = metadata.network();
            netdev.push_str(&format!(",net={network}"));
            let command = command.replace(',', ",,");
            for address in addresses {
                netdev.push_str(&format!(",guestfwd=tcp:{address}:80-cmd:{command}"));
            }
        }
        for Forward { host, guest } in &setup.mode.forwards {
            netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        self.option("-netdev", netdev);
        // No option ROM: a disk that does not boot must not fall through to the network.
        let rom = match setup.script {
            Some(_) => "bootindex=0",
            None => "romfile=",
        };
        let card = find(&NETWORKS, &setup.plan.emulation.network).unwrap_or(&NETWORKS[0]);
        self.option("-device", format!("{},netdev=net0,{rom}", card.device));
    }
}

/// `options,key=path`, the path's commas doubled.
fn with_file(options: &str, key: &str, path: &OsStr) -> OsString {
    let mut word = format!("{options},{key}=").into_bytes();
    for &byte in path.as_bytes() {
        word.push(byte);
        if byte == b',' {
            word.push(byte);
        }
    }
    OsString::from_vec(word)
}
