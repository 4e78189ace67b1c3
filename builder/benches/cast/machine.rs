//! What init costs: its size, its memory and its time, of one boot of `hello`
//! under TCG, which every host can do.

use std::path::Path;
use std::process::Command;

use slipform::base::Arch;
use slipform::pipeline::init_binary;
use slipform_init::contract::event::Event;
use slipform_qemu_tests::BootReport;

use crate::slipform::COMMAND;
use crate::table::{self, Aims};

/// Boots `hello` and reads its report.
pub(crate) fn measure(folder: &Path, aims: &Aims) -> String {
    let hello = concat!(env!("CARGO_MANIFEST_DIR"), "/../layers/images/hello");
    let out = folder.join("hello");
    let output = Command::new(COMMAND)
        .args(["-q", "--json", "test", "--accel", "tcg", "--out"])
        .arg(&out)
        .arg("--report")
        .arg(out.join("boot"))
        .arg(hello)
        .output()
        .unwrap();
    let said = || {
        let (text, errors) = (&output.stdout, &output.stderr);
        format!(
            "{}{}",
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(errors)
        )
    };
    assert!(output.status.success(), "hello does not boot:\n{}", said());
    let mut told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let report: BootReport = serde_json::from_value(told["reports"][0].take()).unwrap();
    let ready = report
        .events
        .iter()
        .find(|record| matches!(record.event, Event::Ready { .. }))
        .expect("a machine that passed was ready");
    let first = report.events.first().map_or(ready.t, |record| record.t);
    let (allocated, apparent) = crate::room(&out.join("hello-0.1.0-qemu-x86_64.raw"));
    table::machine(
        &table::Machine {
            init_bytes: init_bytes(false),
            tls_bytes: init_bytes(true),
            rss_kib: report.init_rss_kib.unwrap_or_default(),
            start_to_ready: (ready.t - first) as f64 / 1e6,
            power_to_ready: report.ready_seconds.unwrap_or_default(),
            disk: (allocated, apparent),
        },
        aims,
    )
}

/// Size of the board's PID 1.
fn init_bytes(tls: bool) -> u64 {
    init_binary(Arch::X86_64, tls).map_or(0, |init| init.len() as u64)
}
