//! What to try next, per cause.

use crate::console::Kind;
use crate::watch::{Cause, Problem};

use super::stages::Seen;

/// A command or a place to look at, and where the evidence lies.
pub(crate) fn advice(problem: &Problem, seen: &Seen<'_>) -> String {
    let disk = crate::evidence::quoted(seen.plan.disk.as_os_str());
    let dir = seen.evidence.dir().display();
    let text = match &problem.cause {
        Cause::Console(kind) => console(*kind, &disk, problem),
        Cause::Pvpanic => "look for the panic's text in console.log".to_owned(),
        Cause::Init(phase) => init(*phase, &disk),
        Cause::Service(name) => format!(
            "look at its log lines: `grep '\"service\":\"{name}\"' events.jsonl`; then at its exec, user and capabilities in slipform.toml"
        ),
        Cause::ServiceSlow(name) => format!(
            "check the readiness of service {name} (`ready = …`) against what it does: `slipform run` and try by hand; `grep '\"service\":\"{name}\"' events.jsonl` has its log"
        ),
        Cause::Layer => format!("the disk is not this image: build it again, and compare `slipform inspect {disk}` with the manifest"),
        Cause::Writable => "this is a fault in init or in the board's kernel, not in the image: report it with the evidence folder".to_owned(),
        Cause::Ended if seen.watch.records.is_empty() => "the kernel ended before init spoke, and the serial port saw nothing of it: its console must be there (`console=ttyS0` in the board's command line), and init in the initrd".to_owned(),
        Cause::Ended => "see the end of console.log for who asked; a service that calls reboot or poweroff ends the test".to_owned(),
        Cause::Emulator => "see qemu.stderr; start it by hand with qemu.cmdline (without -S)".to_owned(),
        Cause::Report => "init and harness must be of one version: build the image again with this slipform; events.jsonl ends where it broke".to_owned(),
        Cause::Late => format!("if it only is slow, raise the limit; else look at the end of console.log for what `{}` waits for", problem.phase),
        Cause::Silent => "the kernel's console must be the serial port (`console=ttyS0`): look at the board's command line, and at qemu.stderr".to_owned(),
        Cause::Check => "try it by hand: `slipform run` with the port published, and compare with the [[test]] in slipform.toml".to_owned(),
        Cause::Expired => "look at the [[allow]] in slipform.toml".to_owned(),
        Cause::PowerOff => "see which service did not stop: `tail events.jsonl`; a service gets SIGTERM and its stop timeout".to_owned(),
        Cause::Artifact => "nothing else may write to the artifact while it is tested: test a finished build".to_owned(),
        Cause::Unchecked => "init did not do what this version of the harness expects: build the image again with this slipform".to_owned(),
    };
    format!("{text} (evidence: {dir})")
}

fn console(kind: Kind, disk: &str, problem: &Problem) -> String {
    match kind {
        Kind::Firmware => format!(
            "the firmware must find EFI/BOOT/BOOTX64.EFI on the first partition: `slipform inspect {disk}`; a wrong sector size hides it too"
        ),
        Kind::Refused => "the boot entry is not signed by a key that this firmware knows: sign it, or test with firmware without enrolled keys".to_owned(),
        Kind::Stub => format!("the unified kernel image is damaged or too large for the memory: `slipform inspect {disk}`, more memory-mib in the board"),
        Kind::Initramfs => "the initrd in the unified kernel image is damaged or too large for the memory: build again, more memory-mib in the board".to_owned(),
        Kind::Panic if problem.line.contains("VFS: Unable to mount root") || problem.line.contains("No working init") => {
            format!("the initrd has no /init that runs: `slipform inspect {disk}`, and look for `Initramfs` in console.log")
        }
        Kind::Panic => "see the call trace in console.log; try another kernel with `slipform lock --update`".to_owned(),
        Kind::InitDied => "PID 1 ended: its last lines in console.log and events.jsonl say why".to_owned(),
        Kind::Oops | Kind::Bug => "see the call trace in console.log for the module; leave it out of the board, or take another kernel with `slipform lock --update`".to_owned(),
        Kind::Verity => format!("a layer's bytes are not those of its root hash: `slipform inspect {disk}`, and build again from the store"),
        Kind::Io => format!("the disk cannot be read to its end, or a file system is damaged: compare its size with `slipform inspect {disk}`, and build again"),
        Kind::OutOfMemory => "give the board more memory-mib, or the service less to hold".to_owned(),
        Kind::Segfault => "a program of the image crashed: check that its libraries come from the same suite; `slipform run` and try it by hand".to_owned(),
        Kind::Warning => "see the call trace in console.log; if it does no harm, a dated [[allow]] in slipform.toml lets it pass, and `slipform lock --update` may bring a kernel without it".to_owned(),
        Kind::HungTask => "see the call trace in console.log for what it waits for; `slipform run` and look at the disk and the network".to_owned(),
        Kind::Stall => "the host is too slow for this guest: try again on an idle one".to_owned(),
    }
}

fn init(phase: slipform_init::contract::event::Phase, disk: &str) -> String {
    use slipform_init::contract::event::Phase;
    match phase {
        Phase::Start => format!("machine.json in the initrd is missing or of another version: build again with this slipform; `slipform inspect {disk}`"),
        Phase::Modules => "a module of the board does not load in this kernel: look at the board's modules and at [kernel] modules".to_owned(),
        Phase::Disk => format!("a layer's partition was not found: `slipform inspect {disk}`; the board needs the disk's driver among its modules"),
        Phase::Verity => format!("dm-verity refused a layer: `slipform inspect {disk}`, and build again from the store"),
        Phase::Stack | Phase::Switch => format!("the layers cannot be stacked: `slipform inspect {disk}`; the board needs ext4, dm-verity and overlay"),
        Phase::State => "look at the error's text in events.jsonl; [state] in slipform.toml has size, policy and version".to_owned(),
        Phase::Network => "look at the lines about DHCP in events.jsonl; the board needs the network card's driver".to_owned(),
        Phase::Services | Phase::Running => "see events.jsonl around the error".to_owned(),
        Phase::Shutdown => "see which service or mount was left behind: `tail events.jsonl`".to_owned(),
    }
}
