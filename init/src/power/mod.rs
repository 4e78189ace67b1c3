//! Going down: who may ask for it, and how it is done.
//!
//! | who | asks for |
//! |---|---|
//! | SIGUSR2, SIGRTMIN+4, ACPI power button, `{"command":"power-off"}` | power-off |
//! | SIGTERM, SIGRTMIN+5, SIGINT (Ctrl-Alt-Del), `{"command":"reboot"}` | reboot |
//! | a service that does not get well, if its policy says so | reboot |
//! | SIGUSR1, SIGRTMIN+3 | halt |
//!
//! SIGUSR1, SIGUSR2 and SIGTERM are those of busybox's `halt`, `poweroff` and `reboot`;
//! SIGRTMIN+3 to +5 those of systemd (systemd(1)), which hypervisors and scripts send, too.
//! The two differ over SIGTERM (systemd starts itself anew at it, which there is no reason
//! for here). Whoever takes it for a polite end gets one, and a machine that comes back.

pub(crate) mod button;
pub(crate) mod down;
pub(crate) mod fatal;
pub(crate) mod mark;
pub(crate) mod watchdog;

use std::sync::atomic::{AtomicU32, Ordering};

use slipform_init::contract::event::{Command, EndReason};

use crate::sys::power::Action;
use crate::sys::signal;

/// Before machine.json was read.
const DEFAULT_PANIC_SECONDS: u32 = 10;

static PANIC_SECONDS: AtomicU32 = AtomicU32::new(DEFAULT_PANIC_SECONDS);

/// How long a broken machine stands before it starts again.
pub(crate) fn panic_seconds() -> u32 {
    PANIC_SECONDS.load(Ordering::Relaxed)
}

/// Sets it; never 0, which the kernel takes for "hang".
pub(crate) fn set_panic_seconds(seconds: u32) {
    PANIC_SECONDS.store(seconds.clamp(1, 3600), Ordering::Relaxed);
}

/// Somebody wants the machine to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// How.
    pub(crate) action: Action,
    /// Who asked.
    pub(crate) reason: &'static str,
}

/// A service's policy asks for a new start.
pub(crate) const UNHEALTHY: Request = Request {
    action: Action::Restart,
    reason: "health policy",
};

/// How the boot will be said to have ended.
pub(crate) fn end_reason(request: Request) -> EndReason {
    match request.action {
        Action::PowerOff | Action::Halt => EndReason::Clean,
        Action::Restart if request == UNHEALTHY => EndReason::Health,
        Action::Restart => EndReason::Reboot,
    }
}

/// The word for it in reports.
pub(crate) fn action_name(action: Action) -> &'static str {
    match action {
        Action::PowerOff => "power-off",
        Action::Restart => "reboot",
        Action::Halt => "halt",
    }
}

/// What a signal asks for.
pub(crate) fn of_signal(number: i32) -> Option<Request> {
    let (action, reason) = match number {
        libc::SIGTERM => (Action::Restart, "signal TERM"),
        libc::SIGUSR2 => (Action::PowerOff, "signal USR2"),
        libc::SIGUSR1 => (Action::Halt, "signal USR1"),
        libc::SIGINT => (Action::Restart, "signal INT"),
        _ if number == signal::RT_HALT => (Action::Halt, "signal RTMIN+3"),
        _ if number == signal::RT_POWER_OFF => (Action::PowerOff, "signal RTMIN+4"),
        _ if number == signal::RT_REBOOT => (Action::Restart, "signal RTMIN+5"),
        _ => return None,
    };
    Some(Request { action, reason })
}

/// What a command of the harness asks for, if it is to go down.
pub(crate) fn of_command(command: &Command) -> Option<Request> {
    let action = match command {
        Command::PowerOff => Action::PowerOff,
        Command::Reboot => Action::Restart,
        Command::ReadLayers | Command::StateFile { .. } | Command::Show(_) => return None,
    };
    Some(Request {
        action,
        reason: "report channel",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_gets_what_is_written_above() {
        for (number, expected) in [
            (libc::SIGTERM, Some(Action::Restart)),
            (37, Some(Action::Halt)),
            (38, Some(Action::PowerOff)),
            (39, Some(Action::Restart)),
            (libc::SIGUSR2, Some(Action::PowerOff)),
            (libc::SIGUSR1, Some(Action::Halt)),
            (libc::SIGINT, Some(Action::Restart)),
            (libc::SIGCHLD, None),
        ] {
            assert_eq!(
                of_signal(number).map(|request| request.action),
                expected,
                "{number}"
            );
        }
        let action = |command: Command| of_command(&command).map(|request| request.action);
        assert_eq!(action(Command::Reboot), Some(Action::Restart));
        assert_eq!(action(Command::PowerOff), Some(Action::PowerOff));
        assert_eq!(action(Command::ReadLayers), None);
    }

    #[test]
    fn a_machine_never_hangs_in_a_panic() {
        set_panic_seconds(0);
        assert_eq!(panic_seconds(), 1);
        set_panic_seconds(u32::MAX);
        assert_eq!(panic_seconds(), 3600);
    }
}
