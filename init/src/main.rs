//! PID 1: boots the machine ([`early`]), then runs it ([`cycle`]) until it goes down
//! ([`power`]). It never returns; what it has to say goes through [`report`].
//!
//! ```text
//! early: start -> modules -> disk -> verity -> stack -> switch
//!                                                          |
//! cycle: network -> services -> running -> shutdown  <-----+
//! ```

// The standard library's start-up is not for PID 1; see `sys::entry`.
#![cfg_attr(not(test), no_main)]

mod crc;
mod cycle;
mod early;
mod error;
mod inside;
mod layers;
mod metadata;
mod metrics;
mod net;
mod power;
mod report;
mod ship;
mod state;
mod supervise;
mod sys;
mod turn;

use slipform_init::contract::event::Phase;

use crate::cycle::Cycle;
use crate::error::BootError;
use crate::report::Reporter;
use crate::report::kmsg::Kmsg;
use crate::sys::host;
use crate::sys::signal::Signals;

/// What `main` calls. Returns only if this process is not PID 1.
#[cfg_attr(test, allow(dead_code))] // tests have a `main` of their own
fn run() -> i32 {
    if !host::is_pid_one() {
        #[cfg(feature = "tls")]
        {
            let arguments: Vec<String> = std::env::args().skip(1).collect();
            if let Some(code) = ship::secure::serve(&arguments) {
                return code;
            }
        }
        host::write_once(
            2,
            b"slipform-init is PID 1 of a Slipform image and does nothing else\n",
        );
        return 1;
    }
    host::occupy_standard_descriptors();
    host::set_umask();
    std::panic::set_hook(Box::new(power::fatal::panicked));
    if let Err(error) = sys::power::catch_ctrl_alt_del() {
        // Then the keys reset at once, as without an init.
        host::write_once(
            2,
            format!("slipform: Ctrl-Alt-Del cannot be caught: {error}\n").as_bytes(),
        );
    }
    // Without it services only have the kernel's limit.
    let _ = host::raise_file_limit();
    let mut report = Reporter::new();
    let mut kmsg = Kmsg::default();
    let signals =
        Signals::open().map_err(|error| BootError::new(Phase::Start, "take signals", error));
    let booted = signals.and_then(|signals| Ok((early::boot(&mut kmsg, &mut report)?, signals)));
    match booted {
        Ok((booted, signals)) => Cycle::new(booted, signals, kmsg, report).run(),
        Err(error) => power::fatal::boot_failed(&error, &mut kmsg, &mut report),
    }
}
