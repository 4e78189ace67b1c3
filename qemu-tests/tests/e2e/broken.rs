//! Images that are really broken, booted: each must be red with the right phase and
//! reason, at once, and leave its evidence. Their healthy twins are booted in `boots`.
//!
//! TCG only, two machines at a time.

use crate::support::lab::{boot, slot};
use crate::support::project::Project;
use crate::support::red::{Expected, assert_red};
use crate::support::surgery::{Parts, archive, damage_esp, flip_in_file, machine, zero_layer};
use slipform_init::contract::machine::MACHINE_PATH;
use slipform_qemu_tests::{BootReport, Plan, Probe, Step};

const READY: &str = "reached ready";
const KERNEL: &str = "no kernel panic";
const STORAGE: &str = "no verity error";
const SERVICES: &str = "services are healthy";
const LOOP: &str = "no service crash loop";
const INIT: &str = "init reports no error";

/// By firmware from a disk whose ESP was overwritten, where `what` stands, by `with`.
fn damaged(name: &str, step: usize, what: &[u8], with: &[u8]) {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let plan = subject.by_firmware(name);
    damage_esp(&plan.disk, step, what, with);
    let report = boot(&plan);
    let expected = Expected {
        phase: "firmware",
        line: &["BdsDxe: failed to load Boot0"],
        next: "EFI/BOOT/BOOTX64.EFI",
        failed: READY,
    };
    assert_red(&plan, &report, &expected);
}

/// A FAT marks what was deleted by 0xe5 in the place of its name's first letter.
#[test]
fn a_disk_without_a_boot_entry() {
    damaged("boot-missing", 32, b"BOOTX64 EFI", b"\xe5");
}

#[test]
fn a_damaged_boot_entry() {
    damaged("boot-damaged", 512, b"MZ", b"??");
}

fn tampered(name: &str, layer: &str, path: &str) -> (Plan, BootReport) {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let plan = subject.direct(name);
    flip_in_file(&plan.disk, layer, path);
    let report = boot(&plan);
    (plan, report)
}

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

#[test]
fn a_flipped_byte_in_a_library_of_the_base() {
    let (plan, report) = tampered("flip-base", "base", LIBC);
    let expected = Expected {
        phase: "init: services",
        line: &["verity", "corrupted"],
        next: "slipform inspect",
        failed: STORAGE,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_flipped_byte_in_the_apps_page() {
    let (plan, report) = tampered("flip-app", "app", "/srv/www/index.html");
    let expected = Expected {
        phase: "init: services",
        line: &["verity", "corrupted"],
        next: "slipform inspect",
        failed: STORAGE,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_flipped_byte_in_the_generated_layer() {
    let (plan, report) = tampered("flip-generated", "generated", "/etc/ld.so.cache");
    let expected = Expected {
        phase: "init: services",
        line: &["verity", "corrupted"],
        next: "slipform inspect",
        failed: STORAGE,
    };
    assert_red(&plan, &report, &expected);
}

/// `change` on the parts of a healthy boot entry, booted directly from a healthy disk.
fn changed(
    name: &str,
    change: impl FnOnce(&crate::support::project::Subject, Parts) -> Parts,
) -> (Plan, BootReport) {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let mut plan = subject.direct(name);
    change(&subject, Parts::of(&subject)).direct(&mut plan, subject.folder.path());
    let report = boot(&plan);
    (plan, report)
}

#[test]
fn an_initrd_without_init() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let mut parts = Parts::of(&subject);
    // Only machine.json is left.
    parts.initrds.remove(0);
    let plan = subject.plan(&parts.disk(&subject), "init-missing");
    let report = boot(&plan);
    let expected = Expected {
        phase: "kernel",
        line: &["Kernel panic", "VFS: Unable to mount root fs"],
        next: "the initrd has no /init",
        failed: KERNEL,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn an_init_that_cannot_run() {
    let (plan, report) = changed("init-not-executable", |_, mut parts| {
        parts
            .initrds
            .push(archive(&[("/init", 0o644, b"no program")]));
        parts
    });
    let expected = Expected {
        phase: "kernel",
        line: &["Kernel panic", "No working init found"],
        next: "the initrd has no /init",
        failed: KERNEL,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_machine_json_that_is_none() {
    let (plan, report) = changed("machine-garbage", |_, parts| parts.with_machine(b"no JSON"));
    let expected = Expected {
        phase: "init: start",
        line: &[MACHINE_PATH, "expected"],
        next: "machine.json",
        failed: INIT,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_wrong_root_hash() {
    let (plan, report) = changed("root-hash", |subject, parts| {
        let machine = machine(subject, |machine| {
            // The last digit: the partition is still found by the first ones.
            let hash = &mut machine.layers[1].root_hash;
            let last = if hash.pop() == Some('0') { '1' } else { '0' };
            hash.push(last);
        });
        parts.with_machine(&machine)
    });
    let expected = Expected {
        phase: "init: stack",
        line: &["verity", "corrupted"],
        next: "root hash",
        failed: STORAGE,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_layer_without_its_partition() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let mut parts = Parts::of(&subject);
    parts.layers.remove(1);
    let plan = subject.plan(&parts.disk(&subject), "layer-missing");
    let report = boot(&plan);
    let expected = Expected {
        phase: "init: disk",
        line: &["find the partitions of 3 layers", "app"],
        next: "a layer's partition was not found",
        failed: INIT,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_layer_of_zeros() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let plan = subject.direct("layer-zeroed");
    zero_layer(&plan.disk, "base");
    let report = boot(&plan);
    let expected = Expected {
        phase: "init: stack",
        line: &["verity", "corrupted"],
        next: "root hash",
        failed: STORAGE,
    };
    assert_red(&plan, &report, &expected);
}

/// `hello` with another service, booted directly.
fn serviced(name: &str, edits: &[(&str, &str)]) -> (Plan, BootReport) {
    let _slot = slot();
    let subject = Project::shipped("hello").variant(name, edits, &[]).cast();
    let plan = subject.direct(name);
    let report = boot(&plan);
    (plan, report)
}

#[test]
fn a_service_without_its_program() {
    let edits = [(
        "exec = [\"/usr/bin/webfsd\"",
        "exec = [\"/usr/bin/nothing\"",
    )];
    let (plan, report) = serviced("exec-missing", &edits);
    let expected = Expected {
        phase: "service web",
        line: &["/usr/bin/nothing", "No such file or directory"],
        next: "its exec",
        failed: SERVICES,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_service_that_dies_at_once() {
    let edits = [("\"-p\", \"8080\"", "\"-p\", \"8080\", \"-Z\"")];
    let (plan, report) = serviced("service-dies", &edits);
    let expected = Expected {
        phase: "service web",
        line: &["exit status 1"],
        next: "events.jsonl",
        failed: LOOP,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_service_that_never_gets_ready() {
    let edits = [(
        "ready = { http = \"http://127.0.0.1:8080/\" }",
        "ready = { http = \"http://127.0.0.1:8081/\", timeout = \"1s\" }",
    )];
    let (plan, report) = serviced("service-not-ready", &edits);
    let expected = Expected {
        phase: "service web",
        line: &["not ready within ", "Connection refused"],
        next: "events.jsonl",
        failed: SERVICES,
    };
    assert_red(&plan, &report, &expected);
}

#[test]
fn a_page_that_is_wrong() {
    let _slot = slot();
    let subject = Project::shipped("hello").cast();
    let mut plan = subject.direct("page-wrong");
    for check in &mut plan.checks {
        if let [Step::Probe(Probe::Http(http))] = check.steps.as_mut_slice() {
            http.contains = Some("Goodbye".to_owned());
        }
    }
    let report = boot(&plan);
    let expected = Expected {
        phase: "probe",
        line: &[
            "serves the page",
            "Goodbye",
            "Hello from an immutable machine",
        ],
        next: "slipform run",
        failed: "serves the page",
    };
    assert_red(&plan, &report, &expected);
}

/// SIGTERM to PID 1, as busybox's `reboot` or a careless script sends it.
#[test]
fn a_machine_that_goes_down_early() {
    let _slot = slot();
    let edits = [(
        "[\"/bin/sh\", \"/srv/stubborn.sh\"]",
        "[\"/bin/sh\", \"-c\", \"kill -TERM 1; exec sleep 100000\"]",
    )];
    let subject = Project::own("supervised")
        .variant("early-end", &edits, &[])
        .cast();
    let plan = subject.direct("early-end");
    let report = boot(&plan);
    let expected = Expected {
        phase: "init: services",
        line: &["init shuts down: reboot", "signal TERM"],
        next: "who asked",
        failed: READY,
    };
    assert_red(&plan, &report, &expected);
}

/// Nobody would see the kernel die.
#[test]
fn a_silent_console() {
    let (plan, report) = changed("silent", |_, mut parts| {
        parts.cmdline = "panic=10 quiet".to_owned();
        parts
    });
    let expected = Expected {
        phase: "kernel",
        line: &["console showed nothing"],
        next: "console=ttyS0",
        failed: KERNEL,
    };
    assert_red(&plan, &report, &expected);
}

/// The kernel does die, where nobody can see it.
#[test]
fn a_kernel_that_dies_in_silence() {
    let (plan, report) = changed("silent-panic", |_, mut parts| {
        parts.initrds.remove(0);
        parts.cmdline = "panic=1".to_owned();
        parts
    });
    let expected = Expected {
        phase: "kernel",
        line: &["the guest rebooted"],
        next: "console=ttyS0",
        failed: READY,
    };
    assert_red(&plan, &report, &expected);
}
