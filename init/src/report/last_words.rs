//! What is said when init itself breaks. No memory is taken from the parts that may
//! be broken: only descriptors, kept here.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use slipform_init::contract::event::{Event, Phase, Record};

use crate::sys::{clock, host};

static CONSOLE: AtomicI32 = AtomicI32::new(-1);
static PORT: AtomicI32 = AtomicI32::new(-1);
static PHASE: AtomicU8 = AtomicU8::new(Phase::Start as u8);

pub(super) fn set_console(fd: i32) {
    CONSOLE.store(fd, Ordering::Relaxed);
}

pub(super) fn set_port(fd: i32) {
    PORT.store(fd, Ordering::Relaxed);
}

pub(super) fn set_phase(phase: Phase) {
    PHASE.store(phase as u8, Ordering::Relaxed);
}

/// Says it on the console and on the port; true if there is a port.
pub(crate) fn say(why: &str) -> bool {
    let phase = Phase::ALL[usize::from(PHASE.load(Ordering::Relaxed)).min(Phase::ALL.len() - 1)];
    let event = Event::Error {
        phase,
        what: "init is broken".to_owned(),
        why: why.replace('\n', " "),
    };
    let (console, port) = (
        CONSOLE.load(Ordering::Relaxed),
        PORT.load(Ordering::Relaxed),
    );
    if let Some(line) = super::human::line(&event) {
        host::write_once(console, format!("\n{line}\n").as_bytes());
    }
    let record = Record {
        t: u64::try_from(clock::since_boot().as_micros()).unwrap_or(0),
        event,
    };
    if let Ok(line) = serde_json::to_string(&record) {
        // A line may have been half written.
        host::write_once(port, format!("\n{line}\n").as_bytes());
    }
    port >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_found_by_their_number() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
    }
}
