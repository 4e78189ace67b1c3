//! What a problem most likely comes from, in a sentence.

use slipform_init::contract::event::Phase;

use crate::console::Kind;
use crate::watch::{Cause, Problem};

/// The sentence.
pub(crate) fn cause(problem: &Problem) -> String {
    let text = match &problem.cause {
        Cause::Console(kind) => return console(*kind, problem).to_owned(),
        Cause::Init(phase) => {
            return format!("init could not do its part in {}", phase_text(*phase));
        }
        Cause::Service(name) => {
            return format!("service {name} ended, or could not be started");
        }
        Cause::ServiceSlow(name) => {
            return format!("service {name} hangs, or its `ready` looks for what it never does");
        }
        Cause::Pvpanic => "the kernel panicked",
        Cause::Layer => "the disk holds other layers than the image, or init trusts others",
        Cause::Writable => "init mounted the root so that it can be written to",
        Cause::Ended => "something in the guest switched the machine off or rebooted it",
        Cause::Emulator => "QEMU crashed, was killed, or the host ran out of memory",
        Cause::Report => {
            "something else than init writes to the report channel, or init is of another version"
        }
        Cause::Late => "the guest hangs, or the host is slower than was measured",
        Cause::Silent => "nothing runs, or nothing of it reaches the serial port",
        Cause::Check => "the service answers, but not as the test wants it, or not at all",
        Cause::Expired => "the time that was given to mend it is over",
        Cause::PowerOff => "a service or a mount does not let go, or init hangs",
        Cause::Artifact => "something wrote to the artifact while it was tested",
        Cause::Unchecked => "the run ended before it could be looked at",
    };
    text.to_owned()
}

fn console(kind: Kind, problem: &Problem) -> &'static str {
    match kind {
        Kind::Firmware => "the firmware found no boot entry on the disk, or crashed",
        Kind::Refused => "the firmware does not trust the boot entry's signature",
        Kind::Stub => "the boot entry is damaged, or does not fit into memory",
        Kind::Initramfs => "the initrd is damaged, or does not fit into memory",
        Kind::Panic if problem.line.contains("VFS: Unable to mount root") => {
            "the kernel found no /init in the initrd"
        }
        Kind::Panic => {
            "the kernel cannot go on: a fault of its own, of a driver, or of the machine"
        }
        Kind::InitDied => "PID 1 ended or was killed",
        Kind::Oops | Kind::Bug => "a fault in the kernel or in one of its modules",
        Kind::Verity => "bytes on the disk are not those that were cast",
        Kind::Io => "the disk is cut off or damaged, or a file system on it is",
        Kind::OutOfMemory => "the machine's memory is too small for what runs",
        Kind::Segfault => "a program crashed: a fault of its own, or libraries that do not fit",
        Kind::Warning => "the kernel met what its makers did not expect",
        Kind::HungTask => "a task waits in the kernel for a device that does not answer",
        Kind::Stall => "the host gives the guest too little time",
    }
}

fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "its start: machine.json is not what it expects",
        Phase::Modules => "loading modules: they are not of this kernel, or not there",
        Phase::Disk => "finding the layers: the disk or its driver is not there",
        Phase::Verity => "verifying: the layers are not those of machine.json",
        Phase::Stack => "stacking the layers: a file system is damaged, or its driver missing",
        Phase::Switch => "switching to the new root",
        Phase::State => "bringing up the state: it is damaged, another's, or has no room",
        Phase::Network => "setting up the network",
        Phase::Services => "starting services",
        Phase::Running => "running",
        Phase::Shutdown => "shutting down: something was still in use",
    }
}
