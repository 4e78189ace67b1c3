//! The command line as a whole, and what changes it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Mode;
use super::args::{Forward, Setup, command_line};
use super::hardware::{Hardware, Trace};
use super::netboot::IPXE;
use crate::accel::{Accel, AccelKind};
use crate::metadata::{Metadata, MetadataSource};
use crate::plan::testing::plan;
use crate::plan::{BootPath, DiskFormat, Emulator, Plan};

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
        ipxe: None,
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
        script: (plan.emulation.disk == IPXE).then_some("http://10.0.2.2:1/boot.ipxe"),
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
        bios: false,
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
        bios: false,
        metadata: None,
        start_limit: Duration::from_secs(1),
        hardware: Hardware::default(),
    };
    let text = line(&plan, AccelKind::Tcg, &mode);
    assert!(
        text.contains("\n-kernel /k/vmlinuz\n-initrd /k/initrd\n-append console=ttyS0 panic=-1\n")
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
        content: Vec::new(),
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

#[test]
fn a_start_by_ipxe_has_no_disk_and_a_bios_no_other_firmware() {
    let mut plan = plan();
    plan.emulation.disk = IPXE.into();
    let by_uefi = line(&plan, AccelKind::Tcg, &test_mode());
    assert!(by_uefi.contains("pflash") && !by_uefi.contains("disk0"));
    assert!(by_uefi.contains(",tftp=/tmp/slipform-x/tftp,bootfile=ipxe.efi"));
    let by_bios = Mode {
        bios: true,
        ..test_mode()
    };
    let text = line(&plan, AccelKind::Tcg, &by_bios);
    assert!(text.contains("\n-machine q35,graphics=off\n"));
    for part in [
        "\n-boot strict=on,menu=off\n",
        "\n-netdev user,id=net0,bootfile=http://10.0.2.2:1/boot.ipxe",
        "\n-device virtio-net-pci,netdev=net0,bootindex=0",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["pflash", "disk0", "romfile", "restrict"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
}
