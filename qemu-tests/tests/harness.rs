//! The harness against a fake emulator ([`fake/qemu.rs`]) that plays good and bad
//! guests: every bad one must be red, with the right phase and reason; its healthy
//! twin green. No real machine is started here.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use slipform_qemu_tests::{
    Accel, AccelKind, BootPath, BootReport, Check, DiskFormat, Emulation, Emulator, HarnessError,
    Outcome, Plan, Probe, TcpStep, accel::choose_on, boot_test,
};
use tempfile::TempDir;

const BASE_HASH: &str = "aa11";
const TOP_HASH: &str = "bb22";

/// From power-on to the layers.
const BOOT: &str = r#"
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
const LAYERS: &str = r#"
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
const READY: &str = r#"
event {"event":"log","service":"web","stream":"out","line":"listening"}
event {"event":"service","name":"web","state":"ready","pid":70}
event {"event":"phase","phase":"running"}
event {"event":"ready","rss_kib":900}
console web: listening on 8080
http well hello there
"#;
const POWER_OFF: &str = r#"
wait-power
event {"event":"phase","phase":"shutdown"}
event {"event":"shutdown","kind":"power-off","reason":"power button"}
event {"event":"service","name":"web","state":"stopped"}
event {"event":"end","clean":true}
qmp SHUTDOWN {"guest":true,"reason":"guest-shutdown"}
exit 0
"#;

struct Fixture {
    dir: TempDir,
    plan: Plan,
    accel: Accel,
    before: String,
}

impl Fixture {
    fn new() -> Self {
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
            },
            boot: BootPath::Firmware,
            layers: vec![
                ("base".into(), BASE_HASH.into()),
                ("top".into(), TOP_HASH.into()),
            ],
            checks: vec![http("serves the page", "hello")],
            // Generous: a test that waits for it is one that failed.
            ready_limit: Duration::from_secs(60),
            publish: Vec::new(),
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

    fn run(&self, script: &[&str]) -> Result<BootReport, HarnessError> {
        let path = self.dir.path().join("script");
        fs::write(&path, script.join("\n")).expect("a script");
        let vars = [
            ("FAKE_SCRIPT", path.display().to_string()),
            ("FAKE_BEFORE", self.before.clone()),
        ];
        let emulator = Emulator {
            command: vec![env!("CARGO_BIN_EXE_fake-qemu").into()],
            env: vars
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect::<BTreeMap<_, _>>(),
            firmware_code: self.dir.path().join("code.fd"),
            firmware_vars: self.dir.path().join("vars.fd"),
            version: "fake 1".into(),
        };
        boot_test(&self.plan, &emulator, self.accel, &|_| {})
    }

    /// A verdict must come, and the guest's end must not be waited for.
    fn report(&self, script: &[&str]) -> BootReport {
        match self.run(script) {
            Ok(report) => report,
            Err(error) => panic!("no report: {error}"),
        }
    }

    fn evidence(&self, name: &str) -> String {
        let bytes = fs::read(self.plan.evidence.join(name)).expect("evidence");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn http(name: &str, contains: &str) -> Check {
    Check {
        name: name.into(),
        probe: Probe::Http {
            port: 8080,
            path: "/".into(),
            status: 200,
            contains: Some(contains.into()),
        },
    }
}

fn outcome<'a>(report: &'a BootReport, check: &str) -> &'a Outcome {
    match report
        .verdicts
        .iter()
        .find(|verdict| verdict.check == check)
    {
        Some(verdict) => &verdict.outcome,
        None => panic!("no verdict {check:?} in {report:#?}"),
    }
}

fn passed(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Passed(_))
}

fn failed(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Failed(_))
}

fn skipped(report: &BootReport, check: &str) -> bool {
    matches!(outcome(report, check), Outcome::Skipped(_))
}

/// Red, by this check, in this phase, with this text in the deciding line and that in the advice.
#[track_caller]
fn assert_red(report: &BootReport, check: &str, phase: &str, line: &str, next: &str) {
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

#[test]
fn a_healthy_guest_is_green() {
    let fixture = Fixture::new();
    let report = fixture.report(&[BOOT, LAYERS, READY, POWER_OFF]);
    assert!(report.passed && report.failure.is_none(), "{report:#?}");
    let names: Vec<&str> = report
        .verdicts
        .iter()
        .map(|verdict| verdict.check.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "reached ready",
            "no kernel panic, oops or BUG",
            "no verity or I/O error",
            "root is read-only",
            "every layer is verified",
            "services are healthy",
            "init reports no error",
            "init's report is readable",
            "clean power-off",
            "artifact is unchanged",
            "serves the page",
        ]
    );
    assert!(
        report
            .verdicts
            .iter()
            .all(|verdict| matches!(verdict.outcome, Outcome::Passed(_)))
    );
    assert_eq!(report.disk_before, report.disk_after);
    assert_eq!(report.disk_before.len(), 64);
    assert_eq!(report.init_rss_kib, Some(900));
    assert!(
        report
            .ready_seconds
            .is_some_and(|seconds| seconds <= report.total_seconds)
    );
    // Log lines stay out of the report, and are in the evidence.
    assert_eq!(report.events.len(), 21);
    assert_eq!(fixture.evidence("events.jsonl").lines().count(), 22);
    assert!(
        fixture
            .evidence("console.log")
            .contains("Linux version 6.12")
    );
    assert!(fixture.evidence("qemu.cmdline").contains("snapshot=on"));
    let written: BootReport =
        serde_json::from_str(&fixture.evidence("report.json")).expect("a report");
    assert_eq!(written, report);
    // Nothing of the run is left but the evidence.
    let left = fs::read_dir(&fixture.plan.evidence)
        .expect("evidence")
        .count();
    assert_eq!(left, 5);
}

#[test]
fn records_on_the_console_do_as_well() {
    let all =
        [BOOT, LAYERS, READY, POWER_OFF].map(|part| part.replace("\nevent ", "\nconsole-event "));
    let report = Fixture::new().report(&all.each_ref().map(String::as_str));
    assert!(report.passed, "{report:#?}");
}

#[test]
fn forged_records_on_the_console_are_nothing() {
    let forged: String = format!("{LAYERS}{READY}").replace(
        "\nevent ",
        "\nconsole @slipform-0123456789abcdef0123456789abcdef ",
    );
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(1);
    let report = fixture.report(&[BOOT, &forged, "hang"]);
    assert_red(
        &report,
        "reached ready",
        "init: verity",
        "not ready after 1 s",
        "raise the limit",
    );
    assert!(
        report.events.len() == 5 && skipped(&report, "every layer is verified"),
        "{report:#?}"
    );
}

#[test]
fn a_panic_in_mid_boot_ends_the_run_at_once() {
    let fixture = Fixture::new();
    let start = Instant::now();
    let panic = "console [    1.823042] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
console [    1.823050] Call Trace:
console [    1.823060]  panic+0x347/0x370
hang";
    let kernel = BOOT.split("event ").next().unwrap_or_default();
    let report = fixture.report(&[kernel, panic]);
    assert_red(
        &report,
        "no kernel panic, oops or BUG",
        "kernel",
        "VFS: Unable to mount root fs",
        "no /init that runs",
    );
    assert!(start.elapsed() < fixture.plan.ready_limit);
    let console = report
        .failure
        .map(|failure| failure.console)
        .unwrap_or_default();
    assert_eq!(
        console.last().map(String::as_str),
        Some("[    1.823060]  panic+0x347/0x370")
    );
    let report = fixture.report(&[BOOT, "console [    2.1] x\nconsole [    2.130114] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\nhang"]);
    assert_red(
        &report,
        "no kernel panic, oops or BUG",
        "init: verity",
        "Attempted to kill init!",
        "PID 1 ended",
    );
    assert!(
        skipped(&report, "serves the page")
            && skipped(&report, "clean power-off")
            && failed(&report, "reached ready")
    );
}

#[test]
fn a_panic_after_ready_leaves_the_power_off_untried() {
    let panic = "console [   12.441921] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300\nhang";
    let silent = READY.replace("http well hello there", "");
    let report = Fixture::new().report(&[BOOT, LAYERS, &silent, panic]);
    assert_red(
        &report,
        "no kernel panic, oops or BUG",
        "init: running",
        "exitcode=0x00000300",
        "PID 1",
    );
    assert!(
        passed(&report, "reached ready") && skipped(&report, "clean power-off"),
        "{report:#?}"
    );
    assert!(skipped(&report, "serves the page"), "{report:#?}");
}

#[test]
fn a_panic_that_ends_qemu_with_status_zero_is_red() {
    let fixture = Fixture::new();
    let panic = "qmp GUEST_PANICKED {\"action\":\"poweroff\"}\nqmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-panic\"}\nexit 0";
    let report = fixture.report(&[BOOT, LAYERS, panic]);
    assert_red(
        &report,
        "no kernel panic, oops or BUG",
        "init: services",
        "the guest panicked",
        "console.log",
    );
    // And a reboot after a panic nobody saw.
    let report = fixture.report(&[
        BOOT,
        "qmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-reset\"}\nexit 0",
    ]);
    assert_red(
        &report,
        "reached ready",
        "init: verity",
        "the guest rebooted (QEMU: guest-reset)",
        "who asked",
    );
}

#[test]
fn an_early_end_with_status_zero_is_red() {
    let report = Fixture::new().report(&[BOOT, LAYERS, "exit 0"]);
    assert_red(
        &report,
        "reached ready",
        "init: services",
        "QEMU ended with exit status 0 while the guest ran",
        "qemu.stderr",
    );
    // After ready it is the power-off that was not clean, and the checks say why they were not made.
    let end = "console [    9.000000] x\nqmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\nexit 0";
    let silent = READY.replace("http well hello there", "");
    let report = Fixture::new().report(&[BOOT, LAYERS, &silent, end]);
    assert_red(
        &report,
        "clean power-off",
        "init: running",
        "the guest powered itself off",
        "who asked",
    );
    assert!(
        passed(&report, "reached ready") && skipped(&report, "serves the page"),
        "{report:#?}"
    );
}

#[test]
fn a_silent_machine_is_red_in_the_firmware() {
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(1);
    let report = fixture.report(&["hang"]);
    assert_red(
        &report,
        "reached ready",
        "firmware",
        "nothing came on the console",
        "console=ttyS0",
    );
    assert!(
        skipped(&report, "no kernel panic, oops or BUG")
            && passed(&report, "artifact is unchanged")
    );
}

#[test]
fn a_disk_that_does_not_boot_is_red_at_once() {
    let report = Fixture::new().report(&[
        r#"console \e[2JBdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0): Not Found"#,
        "console UEFI Interactive Shell v2.2\nhang",
    ]);
    assert_red(
        &report,
        "reached ready",
        "firmware",
        "failed to load Boot0001",
        "EFI/BOOT/BOOTX64.EFI",
    );
    let report = Fixture::new().report(&[
        r#"console BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied"#,
        "hang",
    ]);
    assert_red(
        &report,
        "reached ready",
        "firmware",
        "Access Denied",
        "not signed",
    );
    let stub = "console BdsDxe: starting Boot0001 \"x\" from y\nconsole ../src/boot/stub.c:9@run: Error loading kernel image: Unsupported\nhang";
    let report = Fixture::new().report(&[stub]);
    assert_red(
        &report,
        "reached ready",
        "boot stub",
        "Error loading kernel image",
        "damaged",
    );
}

#[test]
fn a_verity_error_is_red_at_once() {
    let report = Fixture::new().report(&[
        BOOT,
        r#"event {"event":"phase","phase":"stack"}"#,
        "console [    2.551132] device-mapper: verity: 254:1: data block 3 is corrupted",
        r#"event {"event":"error","phase":"stack","what":"mount layer app","why":"EIO"}"#,
        "hang",
    ]);
    assert_red(
        &report,
        "no verity or I/O error",
        "init: stack",
        "data block 3 is corrupted",
        "root hash",
    );
    assert!(failed(&report, "init reports no error"), "{report:#?}");
}

#[test]
fn an_error_of_init_before_the_switch_is_red_at_once() {
    let report = Fixture::new().report(&[
        BOOT,
        r#"event {"event":"error","phase":"verity","what":"set up dm-verity for base","why":"EINVAL"}"#,
        "hang",
    ]);
    assert_red(
        &report,
        "init reports no error",
        "init: verity",
        "set up dm-verity for base: EINVAL",
        "slipform inspect",
    );
}

#[test]
fn an_error_with_which_init_goes_on_is_red_too() {
    let error = r#"event {"event":"error","phase":"modules","what":"set sysctl vm.nothing to \"1\"","why":"ENOENT"}"#;
    let report = Fixture::new().report(&[BOOT, error, LAYERS, READY, POWER_OFF]);
    assert_red(
        &report,
        "init reports no error",
        "init: modules",
        "set sysctl vm.nothing",
        "module",
    );
    assert!(
        passed(&report, "reached ready") && passed(&report, "clean power-off"),
        "{report:#?}"
    );
    let given_up = r#"event {"event":"error","phase":"disk","what":"find layer base","why":"no partition"}
event {"event":"shutdown","kind":"power-off","reason":"boot failed"}
event {"event":"end","clean":false}
qmp SHUTDOWN {"guest":true,"reason":"guest-shutdown"}
exit 0"#;
    let report = Fixture::new().report(&[BOOT, given_up]);
    assert_red(
        &report,
        "init reports no error",
        "init: disk",
        "find layer base: no partition",
        "partition was not found",
    );
    assert!(skipped(&report, "clean power-off"), "{report:#?}");
}

#[test]
fn what_init_reads_in_the_kernels_log_counts_as_the_kernels() {
    let error = r#"event {"event":"error","phase":"verity","what":"kernel","why":"device-mapper: verity: 254:2: data block 5 is corrupted"}"#;
    let report = Fixture::new().report(&[BOOT, error, "hang"]);
    assert_red(
        &report,
        "no verity or I/O error",
        "init: verity",
        "data block 5 is corrupted",
        "root hash",
    );
}

#[test]
fn a_wrong_root_hash_is_red() {
    let wrong = LAYERS.replace("bb22", "cc33");
    let report = Fixture::new().report(&[BOOT, &wrong, READY, POWER_OFF]);
    assert_red(
        &report,
        "every layer is verified",
        "init: verity",
        "root hash cc33, not bb22",
        "not this image",
    );
    // The rest was still looked at.
    assert!(
        passed(&report, "clean power-off") && passed(&report, "serves the page"),
        "{report:#?}"
    );
    let swapped = LAYERS
        .replace("base", "x")
        .replace("top", "base")
        .replace("\"x\"", "\"top\"");
    let report = Fixture::new().report(&[BOOT, &swapped, READY, POWER_OFF]);
    assert_red(
        &report,
        "every layer is verified",
        "init: verity",
        "layer 1 of the stack is top, not base",
        "not this image",
    );
    let missing = LAYERS.replace(
        r#"event {"event":"layer","name":"top","root_hash":"bb22"}"#,
        "",
    );
    let report = Fixture::new().report(&[BOOT, &missing, READY, POWER_OFF]);
    assert_red(
        &report,
        "every layer is verified",
        "init: running",
        "without reporting as verified: top",
        "",
    );
}

#[test]
fn a_writable_root_is_red() {
    let writable = LAYERS.replace(
        "\"refused\":true,\"detail\":\"EROFS\"",
        "\"refused\":false,\"detail\":\"file made\"",
    );
    let report = Fixture::new().report(&[BOOT, &writable, READY, POWER_OFF]);
    assert_red(
        &report,
        "root is read-only",
        "init: switch",
        "not refused: file made",
        "report it",
    );
    let untried = LAYERS.replace(
        r#"event {"event":"root-write","refused":true,"detail":"EROFS"}"#,
        "",
    );
    let report = Fixture::new().report(&[BOOT, &untried, READY, POWER_OFF]);
    assert_red(
        &report,
        "root is read-only",
        "init: running",
        "without reporting an attempt",
        "",
    );
}

#[test]
fn a_failed_service_is_red_without_waiting() {
    let fixture = Fixture::new();
    let start = Instant::now();
    let failed_service = r#"event {"event":"service","name":"web","state":"failed","detail":"exec /usr/bin/web: No such file or directory"}"#;
    let report = fixture.report(&[BOOT, LAYERS, failed_service, POWER_OFF]);
    assert_red(
        &report,
        "services are healthy",
        "service web",
        "No such file or directory",
        "grep '\"service\":\"web\"' events.jsonl",
    );
    assert!(start.elapsed() < fixture.plan.ready_limit);
    assert!(
        passed(&report, "clean power-off")
            && skipped(&report, "serves the page")
            && failed(&report, "reached ready")
    );
    // One that fails after ready.
    let report = fixture.report(&[BOOT, LAYERS, READY, failed_service, POWER_OFF]);
    assert_red(
        &report,
        "services are healthy",
        "service web",
        "service web failed",
        "exec, user",
    );
    assert!(passed(&report, "reached ready"));
}

#[test]
fn a_guest_that_never_gets_ready_names_the_service() {
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(1);
    let report = fixture.report(&[BOOT, LAYERS, "hang"]);
    assert_red(
        &report,
        "reached ready",
        "service web",
        "not ready after 1 s; service web is started",
        "readiness of service web",
    );
    fixture.accel.slowdown = 2.0;
    let report = fixture.report(&[BOOT, LAYERS, "hang"]);
    assert_red(
        &report,
        "reached ready",
        "service web",
        "not ready after 2 s",
        "",
    );
}

#[test]
fn garbage_on_the_report_channel_is_red() {
    let report = Fixture::new().report(&[BOOT, "report {not json", LAYERS, READY, POWER_OFF]);
    assert_red(
        &report,
        "init's report is readable",
        "init: verity",
        "{not json",
        "of one version",
    );
    assert!(passed(&report, "clean power-off"), "{report:#?}");
    let many = "report \u{1}garbage\n".repeat(1100);
    let report = Fixture::new().report(&[&many, "hang"]);
    assert_red(
        &report,
        "init's report is readable",
        "firmware",
        "no record",
        "",
    );
}

#[test]
fn an_endless_report_is_red_and_bounded() {
    let report = Fixture::new().report(&[BOOT, "flood report"]);
    assert_red(
        &report,
        "init's report is readable",
        "init: verity",
        "endless: more than 64 MiB",
        "",
    );
    let report = Fixture::new().report(&[
        BOOT,
        &"event {\"event\":\"phase\",\"phase\":\"start\"}\n".repeat(11_000),
        "hang",
    ]);
    assert_red(
        &report,
        "init's report is readable",
        "init: verity",
        "more than 10000 events",
        "",
    );
}

#[test]
fn an_endless_console_ends_at_the_limit() {
    let mut fixture = Fixture::new();
    fixture.plan.ready_limit = Duration::from_secs(2);
    let report = fixture.report(&[BOOT, "flood console"]);
    assert_red(
        &report,
        "reached ready",
        "init: verity",
        "not ready after 2 s",
        "",
    );
    assert!(fixture.evidence("console.log").len() < 70 << 20);
}

#[test]
fn a_wrong_page_is_red_and_the_rest_is_checked() {
    let mut fixture = Fixture::new();
    fixture.plan.checks = vec![
        http("serves the page", "good morning"),
        Check {
            name: "answers a ping".into(),
            probe: Probe::Tcp {
                port: 6379,
                steps: vec![TcpStep {
                    send: "PING\r\n".into(),
                    expect: "+PONG".into(),
                }],
            },
        },
        Check {
            name: "says where it listens".into(),
            probe: Probe::Console {
                matches: r"listening on \d+$".into(),
            },
        },
    ];
    let report = fixture.report(&[BOOT, LAYERS, "tcp PING +PONG", READY, POWER_OFF]);
    assert_red(
        &report,
        "serves the page",
        "probe",
        "status 200 without \"good morning\"",
        "try it by hand",
    );
    assert!(
        passed(&report, "answers a ping")
            && passed(&report, "says where it listens")
            && passed(&report, "clean power-off")
    );
    fixture.plan.checks.remove(0);
    let report = fixture.report(&[BOOT, LAYERS, "tcp PING -LOADING", READY, POWER_OFF]);
    assert_red(
        &report,
        "answers a ping",
        "probe",
        "expected \"+PONG\", got \"-LOADING",
        "",
    );
}

#[test]
fn an_unclean_power_off_is_red() {
    let fixture = Fixture::new();
    let table = [
        (
            POWER_OFF.replace("\"clean\":true", "\"clean\":false"),
            "something was left behind",
        ),
        (
            POWER_OFF.replace("event {\"event\":\"end\",\"clean\":true}\n", ""),
            "last word did not come",
        ),
        (
            POWER_OFF.replace("guest-shutdown", "guest-reset"),
            "guest-reset, not guest-shutdown",
        ),
        (
            POWER_OFF.replace(
                "qmp SHUTDOWN {\"guest\":true,\"reason\":\"guest-shutdown\"}\n",
                "",
            ),
            "without a shutdown of the guest",
        ),
    ];
    for (script, text) in table {
        let report = fixture.report(&[BOOT, LAYERS, READY, &script]);
        assert_red(
            &report,
            "clean power-off",
            "power-off",
            text,
            "did not stop",
        );
        assert!(passed(&report, "serves the page"));
    }
    let panic = "wait-power\nconsole [   20.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\nhang";
    let report = fixture.report(&[BOOT, LAYERS, READY, panic]);
    assert_red(
        &report,
        "no kernel panic, oops or BUG",
        "power-off",
        "Attempted to kill init",
        "PID 1",
    );
}

#[test]
fn an_ignored_power_button_is_red_even_if_the_channel_works() {
    let script = POWER_OFF
        .replace("wait-power", "wait-power\nwait-report")
        .replace("power button", "report channel");
    let report = Fixture::new().report(&[BOOT, LAYERS, READY, &script]);
    assert_red(
        &report,
        "clean power-off",
        "power-off",
        "took the command on the report channel",
        "",
    );
}

#[test]
fn a_written_artifact_is_red() {
    let fixture = Fixture::new();
    let touch = format!("touch {}", fixture.plan.disk.display());
    let report = fixture.report(&[BOOT, LAYERS, READY, &touch, POWER_OFF]);
    assert_red(
        &report,
        "artifact is unchanged",
        "artifact",
        "digest",
        "nothing else may write",
    );
}

#[test]
fn a_slow_host_is_no_fault_of_the_guest() {
    let stall =
        "console [   12.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]";
    let report = Fixture::new().report(&[BOOT, stall, LAYERS, READY, POWER_OFF]);
    assert!(report.passed, "{report:#?}");
    assert!(
        matches!(outcome(&report, "no kernel panic, oops or BUG"), Outcome::Passed(text) if text.contains("soft lockup"))
    );
}

#[test]
fn nothing_skipped_is_ever_green() {
    let mut fixture = Fixture::new();
    fixture.plan.layers.clear();
    let report = fixture.report(&[BOOT, LAYERS, READY, POWER_OFF]);
    assert!(!report.passed && skipped(&report, "every layer is verified"));
    assert!(
        report
            .failure
            .is_some_and(|failure| failure.line.contains("names no layers"))
    );
}

#[test]
fn an_emulator_that_does_not_start_is_an_error_with_its_words() {
    let mut fixture = Fixture::new();
    fixture.before = "stderr qemu: could not load PC BIOS\nexit 1".into();
    let text = fixture
        .run(&["hang"])
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        text.contains("exit status 1")
            && text.contains("could not load PC BIOS")
            && text.contains("qemu.cmdline"),
        "{text}"
    );
    fixture.before = "abort".into();
    let text = fixture
        .run(&["hang"])
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(text.contains("signal 6"), "{text}");
    assert!(fixture.evidence("qemu.cmdline").contains("-machine q35"));
}

#[test]
fn contradictory_plans_are_refused() {
    let refuse = |change: &dyn Fn(&mut Plan), words: &[&str]| {
        let mut fixture = Fixture::new();
        change(&mut fixture.plan);
        let text = fixture
            .run(&["hang"])
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refuse(&|plan| plan.sector_size = 520, &["520", "512 or 4096"]);
    refuse(
        &|plan| plan.emulation.disk = "ide".into(),
        &["`ide`", "nvme"],
    );
    refuse(&|plan| plan.emulation.processors = 0, &["processors is 0"]);
    refuse(&|plan| plan.emulation.memory_mib = 1, &["memory-mib is 1"]);
    refuse(
        &|plan| plan.emulation.machine = "-kernel".into(),
        &["one word"],
    );
    refuse(
        &|plan| plan.disk = PathBuf::from("/nowhere/disk.raw"),
        &["/nowhere/disk.raw", "build"],
    );
    refuse(
        &|plan| {
            plan.checks[0].probe = Probe::Console {
                matches: "(".into(),
            }
        },
        &["no regular expression", "serves the page"],
    );
    refuse(
        &|plan| {
            plan.checks[0].probe = Probe::Http {
                port: 80,
                path: "/ HTTP/1.1\r\nx".into(),
                status: 200,
                contains: None,
            };
        },
        &["must begin with / and have no blanks"],
    );
}

#[test]
fn kvm_is_only_taken_when_a_guest_runs_in_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = dir.path().join("kvm");
    fs::write(&device, b"").expect("a device");
    let choose = |word: &str, running: &str| {
        let emulator = Emulator {
            command: vec![env!("CARGO_BIN_EXE_fake-qemu").into()],
            env: [("FAKE_PROBE", word), ("FAKE_RUNNING", running)]
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            firmware_code: PathBuf::new(),
            firmware_vars: PathBuf::new(),
            version: "fake".into(),
        };
        let said = std::cell::RefCell::new(String::new());
        let accel = choose_on(&device, "auto", &emulator, &|line| {
            said.borrow_mut().push_str(line);
        });
        (accel.map(|accel| accel.kind).ok(), said.into_inner())
    };
    let (kind, said) = choose("noise slipform\n", "yes");
    assert_eq!(kind, Some(AccelKind::Kvm), "{said}");
    assert!(
        said.contains("accelerator kvm (a probe ran a guest in it)"),
        "{said}"
    );
    for (word, running, why) in [
        ("slipform\n", "no", "internal-error"),
        (
            "garbage",
            "yes",
            "it hung: nothing on its serial port in time",
        ),
    ] {
        let (kind, said) = choose(word, running);
        assert_eq!(kind, Some(AccelKind::Tcg), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
