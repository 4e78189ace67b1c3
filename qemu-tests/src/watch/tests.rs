use std::time::Duration;

use super::*;
use crate::plan::{BootPath, DiskFormat, Emulation};

fn watch() -> Watch {
    let plan = Plan {
        name: "hello".into(),
        image: String::new(),
        disk: "/disk".into(),
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
        layers: vec![("base".into(), "aa".into())],
        checks: Vec::new(),
        ready_limit: Duration::from_secs(1),
        allowances: Vec::new(),
        run: crate::plan::RunOptions::default(),
        publish: Vec::new(),
        state_disk: None,
        evidence: "/evidence".into(),
    };
    Watch::new(&plan, "abc", Patterns::default())
}

fn record(text: &str) -> String {
    format!("{{\"t\":1,{text}}}\n")
}

#[test]
fn the_stage_only_goes_up() {
    let mut watch = watch();
    assert_eq!(watch.stage.name(), "firmware");
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"network\"").as_bytes());
    watch.console_bytes(b"[    1.000000] late line of the kernel\n");
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"disk\"").as_bytes());
    assert_eq!(watch.stage.name(), "init: network");
    watch.expect_end();
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"shutdown\"").as_bytes());
    assert_eq!(watch.stage.name(), "power-off");
}

#[test]
fn console_records_need_the_nonce_and_a_silent_port() {
    let layer = "{\"t\":1,\"event\":\"layer\",\"name\":\"base\",\"root_hash\":\"aa\"}";
    let mut watch = watch();
    watch.console_bytes(format!("@slipform-abd {layer}\r\n").as_bytes());
    assert!(watch.layers_seen.is_empty());
    watch.console_bytes(format!("@slipform-abc {layer}\r\n").as_bytes());
    assert_eq!(watch.layers_seen.len(), 1);
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"stack\"").as_bytes());
    watch.console_bytes(format!("@slipform-abc {layer}\r\n").as_bytes());
    assert_eq!(
        watch.layers_seen.len(),
        1,
        "the nonce leaked, the port had spoken"
    );
    // Records are no lines for people.
    assert_eq!(watch.lines.last().len(), 3);
}

#[test]
fn what_init_reported_before_its_death_settles_the_phase() {
    let mut watch = watch();
    watch.console_bytes(b"[    2.130114] Kernel panic - not syncing: Attempted to kill init!\n");
    assert_eq!(
        watch.problems.first().map(|problem| problem.phase.as_str()),
        Some("kernel")
    );
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"verity\"").as_bytes());
    watch.settle();
    assert_eq!(
        watch.problems.first().map(|problem| problem.phase.as_str()),
        Some("init: verity")
    );
    assert!(watch.is_dead());
}

#[test]
fn an_error_makes_init_suspect_until_it_goes_on() {
    let mut watch = watch();
    watch.report_bytes(
        record("\"event\":\"error\",\"phase\":\"modules\",\"what\":\"a\",\"why\":\"b\"").as_bytes(),
    );
    assert!(watch.is_suspect() && !watch.is_dead());
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"disk\"").as_bytes());
    assert!(!watch.is_suspect());
}

#[test]
fn an_end_is_a_problem_only_if_nobody_asked() {
    let shutdown = MonitorEvent {
        name: "SHUTDOWN".into(),
        reason: "guest-shutdown".into(),
    };
    let mut asked = watch();
    asked.expect_end();
    asked.monitor(&shutdown);
    asked.process_end("exit status 0");
    assert!(asked.problems.is_empty());
    let mut unasked = watch();
    unasked.monitor(&shutdown);
    unasked.process_end("exit status 0");
    assert_eq!(unasked.problems.len(), 1);
    let mut silent = watch();
    silent.process_end("exit status 0");
    assert_eq!(
        silent.problems.first().map(|problem| problem.cause.clone()),
        Some(Cause::Emulator)
    );
}

#[test]
fn a_storm_of_findings_is_bounded_and_still_ends_the_run() {
    let mut watch = watch();
    let storm = "[    3.000000] web[71]: segfault at 0 ip 0 sp 0 error 4\n".repeat(5000);
    watch.console_bytes(storm.as_bytes());
    assert_eq!(watch.problems.len(), MAX_PROBLEMS);
    assert!(!watch.is_dead());
    watch.console_bytes(b"[    4.000000] Kernel panic - not syncing: x\n");
    assert!(watch.is_dead());
}

/// The three ways of news come in any order: what init reported around a death says
/// where the machine was, not what it did afterwards.
#[test]
fn a_death_has_the_phase_that_it_came_in() {
    const LINE: &str = "device-mapper: verity: 254:3: data block 1072 is corrupted";
    let phase = |name: &str| record(&format!("\"event\":\"phase\",\"phase\":\"{name}\""));
    let error = record(&format!(
        "\"event\":\"error\",\"phase\":\"verity\",\"what\":\"kernel\",\"why\":\"{LINE}\""
    ));
    let ready = record("\"event\":\"ready\",\"rss_kib\":900");
    let table = [
        // The boot failed and init goes down; with and without the kernel's line in its report.
        (
            vec![phase("stack"), error.clone(), phase("shutdown")],
            "init: stack",
        ),
        (vec![phase("stack"), phase("shutdown")], "init: stack"),
        // The services get ready all the same.
        (
            vec![phase("services"), error, ready.clone()],
            "init: services",
        ),
        (vec![phase("services"), ready], "init: running"),
    ];
    for (records, want) in table {
        let mut watch = watch();
        watch.console_bytes(format!("[   14.188760] {LINE}\n").as_bytes());
        for record in &records {
            watch.report_bytes(record.as_bytes());
        }
        watch.settle();
        let phases: Vec<_> = watch
            .problems
            .iter()
            .map(|problem| &problem.phase)
            .collect();
        assert_eq!(phases.first(), Some(&&want.to_owned()), "{records:?}");
    }
}

#[test]
fn a_console_speaks_once_the_kernel_runs() {
    let mut watch = watch();
    watch.console_bytes(b"BdsDxe: loading Boot0001\n");
    watch.report_bytes(record("\"event\":\"phase\",\"phase\":\"start\"").as_bytes());
    assert!(!watch.console_spoke);
    watch.console_bytes(b"slipform: hello\n");
    assert!(watch.console_spoke);
}
