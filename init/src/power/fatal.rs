//! When the boot cannot go on, or init itself is broken.

use std::panic::PanicHookInfo;
use std::thread;
use std::time::Duration;

use slipform_init::contract::event::{EndReason, Event, Phase};

use super::{down, mark, panic_seconds};
use crate::error::BootError;
use crate::report::kmsg::Kmsg;
use crate::report::{Reporter, last_words};
use crate::sys::host;
use crate::sys::power::{self, Action};
use crate::turn::Report;

const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// Tells why, and ends: under a harness by switching off at once, else by starting
/// again after the machine's panic time, so that the console can be read.
pub(crate) fn boot_failed(error: &BootError, kmsg: &mut Kmsg, report: &mut Reporter) -> ! {
    if !report.has_console() {
        // The boot ended before /dev was there; the initramfs has a node of its own.
        report.open_console();
    }
    // What the kernel said first explains the rest.
    kmsg.drain(report);
    report.event(Event::Error {
        phase: error.phase,
        what: error.what.clone(),
        why: error.source.to_string(),
    });
    report.settle_channel();
    let harness = report.has_harness();
    let (action, kind, pause) = if harness {
        (Action::PowerOff, "power-off", Duration::ZERO)
    } else {
        (
            Action::Restart,
            "reboot",
            Duration::from_secs(u64::from(panic_seconds())),
        )
    };
    report.phase(Phase::Shutdown);
    if !harness {
        report.note(&format!(
            "the boot failed, a new attempt follows in {} seconds",
            pause.as_secs()
        ));
    }
    report.event(Event::Shutdown {
        kind: kind.to_owned(),
        reason: "boot failed".to_owned(),
    });
    report.drain(Duration::from_secs(2));
    mark::end(EndReason::BootFailed, report);
    power::sync(SYNC_LIMIT);
    thread::sleep(pause);
    report.event(Event::End { clean: false });
    down::leave(action, report)
}

/// For `std::panic::set_hook`: a panic of PID 1 ends the machine in order, instead of
/// by the kernel. In a forked child it only says so, and the child aborts.
pub(crate) fn panicked(info: &PanicHookInfo<'_>) {
    let why = info.to_string();
    if !host::is_pid_one() {
        last_words::say(&format!("in a child: {why}"));
        return;
    }
    let action = if last_words::say(&why) {
        Action::PowerOff
    } else {
        thread::sleep(Duration::from_secs(u64::from(panic_seconds())));
        Action::Restart
    };
    loop {
        power::reboot(action);
        thread::sleep(Duration::from_secs(1));
    }
}
