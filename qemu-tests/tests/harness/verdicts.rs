//! Guests that come up and are not as they must be; plans and hosts.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::*;
use slipform_qemu_tests::{
    AccelKind, Check, Emulator, HttpProbe, Outcome, Plan, Probe, TcpStep, accel::choose_on,
};

#[test]
fn what_init_reads_in_the_kernels_log_counts_as_the_kernels() {
    let error = r#"event {"event":"error","phase":"verity","what":"kernel","why":"device-mapper: verity: 254:2: data block 5 is corrupted"}"#;
    let report = Fixture::new().report(&[BOOT, error, "hang"]);
    assert_red(
        &report,
        "no verity error",
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
fn a_red_machine_tells_what_it_looks_like_inside_for_the_evidence() {
    let fixture = Fixture::new();
    let failed = r#"event {"event":"service","name":"web","state":"failed","detail":"no"}
wait-report
event {"event":"inside","query":1,"item":{"lost":4711}}
event {"event":"inside","query":1,"item":{"end":""}}"#;
    let report = fixture.report(&[BOOT, LAYERS, failed, POWER_OFF]);
    assert!(!report.passed);
    let events = fs::read_to_string(fixture.plan.evidence.join("events.jsonl"))
        .expect("the events are kept");
    assert!(events.contains("\"lost\":4711"), "{events}");
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
        Check::new(
            "answers a ping",
            Probe::Tcp {
                port: 6379,
                steps: vec![TcpStep {
                    send: "PING\r\n".into(),
                    expect: "+PONG".into(),
                }],
            },
        ),
        Check::new(
            "says where it listens",
            Probe::Console {
                matches: r"listening on \d+$".into(),
            },
        ),
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
        "no kernel panic",
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
        matches!(outcome(&report, "no hung task"), Outcome::Passed(text) if text.contains("soft lockup"))
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
    refuse(
        &|plan| plan.emulation.network = "ne2k".into(),
        &["`ne2k`", "vmxnet3"],
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
            plan.checks[0] = Check::new(
                "serves the page",
                Probe::Console {
                    matches: "(".into(),
                },
            );
        },
        &["no regular expression", "serves the page"],
    );
    let http = |change: &dyn Fn(&mut HttpProbe), words: &[&str]| {
        refuse(
            &|plan| {
                let mut probe = HttpProbe::default();
                change(&mut probe);
                plan.checks[0] = Check::new("x", Probe::Http(probe));
            },
            words,
        );
    };
    http(
        &|probe| probe.path = "/ HTTP/1.1\r\nx".into(),
        &["must begin with / and have no blanks"],
    );
    http(&|probe| probe.method = "GET /".into(), &["capital letters"]);
    http(
        &|probe| {
            probe.headers.insert("x".into(), "1\r\ny: 2".into());
        },
        &["one line"],
    );
    refuse(&|plan| plan.checks[0].steps.clear(), &["must have a step"]);
    refuse(&|plan| plan.run.shard = Some((3, 2)), &["shard is 3/2"]);
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
            ipxe: None,
            relay: Vec::new(),
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
