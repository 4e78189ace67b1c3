//! A fake guest from pieces of a boot, and what the tests ask of its report.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use slipform_qemu_tests::{
    Accel, AccelKind, BootPath, BootReport, Check, DiskFormat, Emulation, Emulator, HarnessError,
    HttpProbe, Outcome, Plan, Probe, RunOptions, boot_test,
};
use tempfile::TempDir;

pub(crate) const BASE_HASH: &str = "aa11";
pub(crate) const TOP_HASH: &str = "bb22";

/// From power-on to the layers.
pub(crate) const BOOT: &str = r#"
console \e[2J\e[01;01HBdsDxe: loading Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0)
console BdsDxe: starting Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0)
console EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path
console [    0.000000] Linux version 6.12.107+deb13-cloud-amd64
console [    0.812345] Run /init as init process
event {"event":"boot","name":"hello","version":"1","machine":"00"}
event {"event":"phase","phase":"start"}
event {"event":"phase","phase":"modules"}
event {"event":"phase","phase":"disk"}
event {"event":"phase","phase":"verity"}
"#;
pub(crate) const LAYERS: &str = r#"
event {"event":"layer","name":"base","root_hash":"aa11"}
event {"event":"layer","name":"top","root_hash":"bb22"}
event {"event":"phase","phase":"stack"}
event {"event":"phase","phase":"switch"}
event {"event":"root-write","refused":true,"detail":"EROFS"}
event {"event":"phase","phase":"network"}
event {"event":"network","interface":"eth0","address":"10.0.2.15/24","detail":"dhcp"}
event {"event":"phase","phase":"services"}
event {"event":"service","name":"web","state":"started","pid":70}
"#;
pub(crate) const READY: &str = r#"
event {"event":"log","service":"web","stream":"out","line":"listening"}
event {"event":"service","name":"web","state":"ready","pid":70}
event {"event":"phase","phase":"running"}
event {"event":"ready","rss_kib":900}
console web: listening on 8080
http well hello there
"#;
pub(crate) const POWER_OFF: &str = r#"
wait-power
event {"event":"phase","phase":"shutdown"}
event {"event":"shutdown","kind":"power-off","reason":"power button"}
event {"event":"service","name":"web","state":"stopped"}
event {"event":"end","clean":true}
qmp SHUTDOWN {"guest":true,"reason":"guest-shutdown"}
exit 0
"#;

pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) plan: Plan,
    pub(crate) accel: Accel,
    pub(crate) before: String,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let disk = dir.path().join("disk.raw");
        fs::write(&disk, vec![7; 100_000]).expect("a disk");
        for name in ["code.fd", "vars.fd"] {
            fs::write(dir.path().join(name), b"firmware").expect("firmware");
        }
        let plan = Plan {
            name: "hello".into(),
            image: "sha256:00".into(),
            disk,
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
            layers: vec![
                ("base".into(), BASE_HASH.into()),
                ("top".into(), TOP_HASH.into()),
            ],
            checks: vec![http("serves the page", "hello")],
            // Generous: a test that waits for it is one that failed.
            ready_limit: Duration::from_secs(60),
            allowances: Vec::new(),
            run: RunOptions::default(),
            publish: Vec::new(),
            state_disk: None,
            evidence: dir.path().join("evidence"),
        };
        Self {
            dir,
            plan,
            accel: Accel {
                kind: AccelKind::Tcg,
                slowdown: 1.0,
            },
            before: String::new(),
        }
    }

    pub(crate) fn run(&self, script: &[&str]) -> Result<BootReport, HarnessError> {
        self.run_each(&[script])
    }

    /// A script for each start of the emulator.
    pub(crate) fn run_each(&self, scripts: &[&[&str]]) -> Result<BootReport, HarnessError> {
        boot_test(&self.plan, &self.emulator(scripts), self.accel, &|_| {})
    }

    /// One that plays the first script, and from its second start on the second, if any.
    pub(crate) fn emulator(&self, scripts: &[&[&str]]) -> Emulator {
        let path = self.dir.path().join("script");
        for (n, script) in scripts.iter().enumerate() {
            // The fake takes the first and puts the next in its place.
            let name = match n {
                0 => path.clone(),
                n => path.with_extension(n.to_string()),
            };
            fs::write(name, script.join("\n")).expect("a script");
        }
        let vars = [
            ("FAKE_SCRIPT", path.display().to_string()),
            ("FAKE_BEFORE", self.before.clone()),
        ];
        Emulator {
            command: vec![env!("CARGO_BIN_EXE_fake-qemu").into()],
            env: vars
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect::<BTreeMap<_, _>>(),
            firmware_code: self.dir.path().join("code.fd"),
            firmware_vars: self.dir.path().join("vars.fd"),
            ipxe: None,
            relay: Vec::new(),
            version: "fake 1".into(),
        }
    }

    /// [`Fixture::report`] with a script for each start.
    pub(crate) fn report_each(&self, scripts: &[&[&str]]) -> BootReport {
        match self.run_each(scripts) {
            Ok(report) => report,
            Err(error) => panic!("no report: {error}"),
        }
    }

    /// A verdict must come, and the guest's end must not be waited for.
    pub(crate) fn report(&self, script: &[&str]) -> BootReport {
        match self.run(script) {
            Ok(report) => report,
            Err(error) => panic!("no report: {error}"),
        }
    }

    pub(crate) fn evidence(&self, name: &str) -> String {
        let bytes = fs::read(self.plan.evidence.join(name)).expect("evidence");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

pub(crate) fn http(name: &str, contains: &str) -> Check {
    Check::new(name, http_probe(contains))
}

pub(crate) fn http_probe(contains: &str) -> Probe {
    Probe::Http(HttpProbe {
        port: 8080,
        contains: Some(contains.into()),
        ..HttpProbe::default()
    })
}

pub(crate) fn outcome<'a>(report: &'a BootReport, check: &str) -> &'a Outcome {
    match report
        .verdicts
        .iter()
        .find(|verdict| verdict.check == check)
    {
        Some(verdict) => &verdict.outcome,
        None => panic!("no verdict {check:?} in {report:#?}"),
    }
}

pub(crate) fn passed(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Passed(_))
}

pub(crate) fn failed(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Failed(_))
}

pub(crate) fn skipped(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Skipped(_))
}

/// Red, by this check, in this phase, with this text in the deciding line and that in the advice.
#[track_caller]
pub(crate) fn assert_red(report: &BootReport, check: &str, phase: &str, line: &str, next: &str) {
    let Some(failure) = &report.failure else {
        panic!("green: {report:#?}");
    };
    assert!(!report.passed);
    assert!(failed(report, check), "{check:?} did not fail: {report:#?}");
    assert_eq!(failure.phase, phase, "{report:#?}");
    assert!(failure.line.contains(line), "{report:#?}");
    assert!(failure.next.contains(next), "{report:#?}");
    assert!(failure.next.contains("evidence: /"), "{}", failure.next);
    assert!(failure.console.len() <= 30);
}
