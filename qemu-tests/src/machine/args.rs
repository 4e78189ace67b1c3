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
use super::netboot::HTTP_BOOT;
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
        self.option("-machine", emulation.machine.as_str());
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
        match &setup.plan.boot {
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
        self.option(
            "-device",
            format!("virtio-blk-pci,drive=state0,serial={}", disk.serial),
        );
    }

    fn disk(&mut self, setup: &Setup<'_>) {
        let plan = setup.plan;
        if plan.emulation.disk == HTTP_BOOT {
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
            let first = match plan.boot {
                BootPath::Firmware => ",bootindex=0",
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
        let first = match plan.boot {
            BootPath::Firmware => "bootindex=0,",
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
        if setup.mode.isolated && setup.plan.emulation.disk != HTTP_BOOT {
            netdev.push_str(",restrict=on");
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
        let card = find(&NETWORKS, &setup.plan.emulation.network).unwrap_or(&NETWORKS[0]);
        self.option("-device", format!("{},netdev=net0,romfile=", card.device));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::machine::hardware::Hardware;
    use crate::metadata::{Metadata, MetadataSource};
    use crate::plan::{Emulation, RunOptions};

    fn plan() -> Plan {
        Plan {
            name: "hello".into(),
            image: "sha256:00".into(),
            disk: "/img/hello.raw".into(),
            format: DiskFormat::Raw,
            sector_size: 512,
            emulation: Emulation {
                machine: "q35".into(),
                cpu: "Nehalem".into(),
                processors: 2,
                memory_mib: 256,
                disk: "virtio-blk".into(),
                network: "virtio-net".into(),
            },
            boot: BootPath::Firmware,
            layers: Vec::new(),
            checks: Vec::new(),
            ready_limit: Duration::from_secs(30),
            allowances: Vec::new(),
            run: RunOptions::default(),
            publish: Vec::new(),
            state_disk: None,
            evidence: "/evidence".into(),
        }
    }

    fn line(plan: &Plan, kind: AccelKind, mode: &Mode) -> String {
        line_on(plan, kind, mode, None)
    }

    fn line_on(plan: &Plan, kind: AccelKind, mode: &Mode, overlay: Option<&Path>) -> String {
        let emulator = Emulator {
            command: vec![
                "/q/ld.so".into(),
                "/q/qemu".into(),
                "-L".into(),
                "/q/share".into(),
            ],
            env: BTreeMap::new(),
            firmware_code: "/q/code.fd".into(),
            firmware_vars: "/q/vars.fd".into(),
            relay: vec!["/r,elay".into()],
            version: "qemu 10".into(),
        };
        let accel = Accel {
            kind,
            slowdown: 1.0,
        };
        let words = command_line(&Setup {
            plan,
            emulator: &emulator,
            accel: &accel,
            run: Path::new("/tmp/slipform-x"),
            vars: Path::new("/tmp/slipform-x/vars.fd"),
            overlay,
            state: plan.state_disk.as_ref().map(|_| Path::new("/s/state.raw")),
            nonce: "0123",
            mode,
        });
        let mut text = String::new();
        for word in words {
            let word = word.to_string_lossy().into_owned();
            text.push(if word.starts_with('-') { '\n' } else { ' ' });
            text.push_str(&word);
        }
        text
    }

    fn test_mode() -> Mode {
        Mode {
            forwards: vec![
                Forward {
                    host: 0,
                    guest: 8080,
                },
                Forward {
                    host: 0,
                    guest: 6379,
                },
            ],
            isolated: true,
            reboot_ends: true,
            kept: None,
            metadata: None,
            start_limit: Duration::from_secs(1),
            hardware: Hardware::default(),
        }
    }

    const GOLDEN: &str = " /q/ld.so /q/qemu
-L /q/share
-name slipform
-nodefaults
-no-user-config
-display none
-S
-machine q35
-accel tcg
-cpu Nehalem
-smp 2
-m 256M
-rtc base=utc
-action reboot=shutdown
-object rng-builtin,id=rng0
-device virtio-rng-pci,rng=rng0
-device i6300esb
-drive if=pflash,unit=0,format=raw,readonly=on,file.filename=/q/code.fd
-drive if=pflash,unit=1,format=raw,file.filename=/tmp/slipform-x/vars.fd
-boot strict=on,menu=off
-device VGA,romfile=
-drive if=none,id=disk0,format=raw,snapshot=on,cache=unsafe,file.driver=file,file.filename=/img/hello.raw
-device virtio-blk-pci,drive=disk0,bootindex=0,logical_block_size=512,physical_block_size=512
-chardev socket,id=console,path=/tmp/slipform-x/console
-chardev socket,id=report,path=/tmp/slipform-x/report
-chardev socket,id=qmp,path=/tmp/slipform-x/qmp
-serial chardev:console
-mon chardev=qmp,mode=control
-device virtio-serial-pci
-device virtserialport,chardev=report,name=org.slipform.report
-fw_cfg name=opt/org.slipform/nonce,string=0123
-fw_cfg name=opt/org.slipform/slowdown,string=1.00
-netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:8080,hostfwd=tcp:127.0.0.1:0-:6379
-device virtio-net-pci,netdev=net0,romfile=";

    #[test]
    fn firmware_boot_of_a_raw_disk() {
        assert_eq!(line(&plan(), AccelKind::Tcg, &test_mode()), GOLDEN);
    }

    #[test]
    fn a_sweeps_machine_differs_where_it_should() {
        let mut mode = test_mode();
        mode.hardware = Hardware {
            trace: Some(Trace("/e/reads.log".into())),
            clock: Some("1980-01-01T00:00:00".to_owned()),
            physical_sector: Some(4096),
            no_network: true,
            throttle: Some((1000, 10)),
        };
        let text = line(&plan(), AccelKind::Tcg, &mode);
        let slow = "cache=unsafe,throttling.bps-total=1000,throttling.iops-total=10";
        let reads =
            "-trace enable=virtio_blk_handle_read\n-trace enable=pci_nvme_read\n-D /e/reads.log\n";
        let want = GOLDEN
            .replace("-rtc base=utc", "-rtc base=1980-01-01T00:00:00")
            .replace("cache=unsafe", slow)
            .replace(
                "physical_block_size=512\n",
                &format!("physical_block_size=4096\n{reads}"),
            );
        let end = want.find("\n-netdev").expect("the network comes last");
        assert_eq!(text, want[..end]);
    }

    #[test]
    fn a_cloud_is_a_network_a_firmware_and_nothing_else() {
        let mut mode = test_mode();
        mode.metadata = Some(Metadata::of(MetadataSource::Ec2));
        let forward = "restrict=on,net=169.254.0.0/16,guestfwd=tcp:169.254.169.254:80-cmd:'/r,,elay' '/tmp/slipform-x/metadata'";
        let want = GOLDEN.replace("restrict=on", forward)
            + "\n-smbios type=1,manufacturer=Amazon EC2,product=m7i.large";
        assert_eq!(line(&plan(), AccelKind::Tcg, &mode), want);
        mode.metadata = Some(Metadata::of(MetadataSource::Azure));
        let azure = line(&plan(), AccelKind::Tcg, &mode);
        let command = "80-cmd:'/r,,elay' '/tmp/slipform-x/metadata'";
        let forwards = format!(
            ",net=168.0.0.0/7,guestfwd=tcp:169.254.169.254:{command},guestfwd=tcp:168.63.129.16:{command},hostfwd"
        );
        assert!(azure.contains(&forwards), "{azure}");
        let mut fw_cfg = Metadata::of(MetadataSource::FwCfg);
        fw_cfg.credentials.insert("a".into(), "secret".into());
        mode.metadata = Some(fw_cfg);
        let want = GOLDEN.to_owned()
            + "\n-fw_cfg name=opt/io.systemd.credentials/a,file=/tmp/slipform-x/credential-0";
        assert_eq!(line(&plan(), AccelKind::Tcg, &mode), want);
    }

    #[test]
    fn kvm_takes_the_hosts_processor_and_nothing_else_changes() {
        let want = GOLDEN
            .replace("-accel tcg", "-accel kvm")
            .replace("-cpu Nehalem", "-cpu host");
        assert_eq!(line(&plan(), AccelKind::Kvm, &test_mode()), want);
    }

    #[test]
    fn nvme_with_large_sectors_of_a_qcow2_with_commas_in_its_path() {
        let mut plan = plan();
        plan.disk = "/img/a,b:c.qcow2".into();
        plan.format = DiskFormat::Qcow2;
        plan.sector_size = 4096;
        plan.emulation.disk = "nvme".into();
        let want = GOLDEN
            .replace("format=raw,snapshot", "format=qcow2,snapshot")
            .replace("/img/hello.raw", "/img/a,,b:c.qcow2")
            .replace("virtio-blk-pci,drive", "nvme,serial=slipform,drive")
            .replace("block_size=512", "block_size=4096");
        assert_eq!(line(&plan, AccelKind::Tcg, &test_mode()), want);
    }

    #[test]
    fn a_cd_is_only_read_and_a_stick_hangs_on_usb() {
        let mut plan = plan();
        plan.emulation.disk = "cdrom".into();
        let sector = ",logical_block_size=512,physical_block_size=512";
        let want = GOLDEN
            .replace(
                "snapshot=on,cache=unsafe",
                "snapshot=off,cache=unsafe,media=cdrom,readonly=on",
            )
            .replace("virtio-blk-pci,drive=disk0", "ide-cd,bus=ide.0,drive=disk0")
            .replace(sector, "");
        assert_eq!(line(&plan, AccelKind::Tcg, &test_mode()), want);
        plan.emulation.disk = "usb-storage".into();
        let want = GOLDEN.replace(
            "-device virtio-blk-pci,drive",
            "-device qemu-xhci\n-device usb-storage,serial=slipform,drive",
        );
        assert_eq!(line(&plan, AccelKind::Tcg, &test_mode()), want);
    }

    #[test]
    fn a_machine_of_vmware() {
        let mut plan = plan();
        plan.emulation.disk = "pvscsi".into();
        plan.emulation.network = "vmxnet3".into();
        let disk = "pvscsi\n-device scsi-hd,serial=slipform,drive";
        let want = GOLDEN
            .replace("virtio-blk-pci,drive", disk)
            .replace("virtio-net-pci,netdev", "vmxnet3,netdev");
        assert_eq!(line(&plan, AccelKind::Tcg, &test_mode()), want);
    }

    #[test]
    fn direct_interactive_boot() {
        let mut plan = plan();
        plan.boot = BootPath::Direct {
            kernel: "/k/vmlinuz".into(),
            initrd: "/k/initrd".into(),
            cmdline: "console=ttyS0 panic=-1".into(),
        };
        let mode = Mode {
            forwards: vec![Forward {
                host: 8000,
                guest: 80,
            }],
            isolated: false,
            reboot_ends: false,
            kept: None,
            metadata: None,
            start_limit: Duration::from_secs(1),
            hardware: Hardware::default(),
        };
        let text = line(&plan, AccelKind::Tcg, &mode);
        assert!(
            text.contains(
                "\n-kernel /k/vmlinuz\n-initrd /k/initrd\n-append console=ttyS0 panic=-1\n"
            )
        );
        assert!(text.contains("\n-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8000-:80\n"));
        assert!(
            !text.contains("pflash")
                && !text.contains("bootindex")
                && !text.contains("VGA")
                && !text.contains("-action")
                && !text.contains("restrict")
        );
    }

    #[test]
    fn secure_boot_machines_guard_their_variables() {
        let mut plan = plan();
        plan.emulation.machine = "q35,smm=on".into();
        let text = line(&plan, AccelKind::Tcg, &test_mode());
        assert!(text.contains("\n-machine q35,smm=on\n"));
        assert!(text.contains("\n-global driver=cfi.pflash01,property=secure,value=on\n"));
    }

    #[test]
    fn a_kept_overlay_stands_on_the_artifact() {
        let overlay = Some(Path::new("/e/kept/a,b.qcow2"));
        let want = GOLDEN.replace(
            "format=raw,snapshot=on,cache=unsafe,file.driver=file,file.filename=/img/hello.raw",
            "format=qcow2,cache=unsafe,file.driver=file,file.filename=/e/kept/a,,b.qcow2,\
             backing.driver=raw,backing.file.driver=file,backing.file.filename=/img/hello.raw",
        );
        let text = line_on(&plan(), AccelKind::Tcg, &test_mode(), overlay);
        assert_eq!(text, want);
    }

    #[test]
    fn a_disk_for_the_state_alone_bears_its_serial_number_and_a_kept_disk_is_written_to() {
        let mut own = plan();
        own.state_disk = Some(crate::plan::StateDisk {
            serial: "data".into(),
            bytes: 1 << 26,
            file: None,
        });
        let text = line(&own, AccelKind::Tcg, &test_mode());
        for part in [
            "-drive if=none,id=state0,format=raw,cache=unsafe,file.driver=file,file.filename=/s/state.raw",
            "-device virtio-blk-pci,drive=state0,serial=data",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut kept = plan();
        kept.run.writes = true;
        let text = line(&kept, AccelKind::Tcg, &test_mode());
        assert!(
            text.contains("format=raw,snapshot=off,cache=writeback"),
            "{text}"
        );
    }
}
