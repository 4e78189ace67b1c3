//! Guests that die on the way up, and what the report says of it.

use std::time::{Duration, Instant};

use crate::support::*;

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
        "no kernel panic",
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
        "no kernel panic",
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
        "no kernel panic",
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
        "no kernel panic",
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
    assert!(skipped(&report, "no kernel panic") && passed(&report, "artifact is unchanged"));
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
        "no verity error",
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
