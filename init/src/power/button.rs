//! The power button: every input device that has the key.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::sys::poll;
use crate::turn::{Turn, Watched};

/// linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// struct input_event with 64-bit times: time, type, code, value.
const EVENT_SIZE: usize = 24;

const SYS_INPUT: &str = "/sys/class/input";

/// The buttons of this machine.
#[derive(Debug)]
pub(crate) struct Buttons {
    devices: Vec<File>,
    pressed: bool,
}

impl Buttons {
    /// Opens all devices that have the key.
    pub(crate) fn open() -> Self {
        let entries = fs::read_dir(SYS_INPUT).into_iter().flatten().flatten();
        let devices = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).ok()?;
            let wanted = name.starts_with("event") && has_key(&keys, KEY_POWER);
            let device = Path::new("/dev/input").join(name);
            wanted.then(|| {
                OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(device)
                    .ok()
            })?
        });
        Self {
            devices: devices.collect(),
            pressed: false,
        }
    }

    /// Whether one was pressed since the last call.
    pub(crate) fn take_pressed(&mut self) -> bool {
        std::mem::take(&mut self.pressed)
    }
}

impl Watched for Buttons {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.extend(
            self.devices
                .iter()
                .map(|device| poll::entry(device.as_raw_fd(), libc::POLLIN)),
        );
    }

    fn ready(&mut self, fd: RawFd, _turn: &mut Turn<'_>) {
        let Some(index) = self
            .devices
            .iter()
            .position(|device| device.as_raw_fd() == fd)
        else {
            return;
        };
        let mut events = [0; EVENT_SIZE * 16];
        match self.devices[index].read(&mut events) {
            Ok(length) if length > 0 => self.pressed |= is_pressed(&events[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Unplugged.
            _ => drop(self.devices.swap_remove(index)),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}
}

/// Whether the bitmap of sysfs (hexadecimal words of a long each, highest first) has the key.
fn has_key(bitmap: &str, key: u16) -> bool {
    let (word, bit) = (usize::from(key / 64), key % 64);
    let word = bitmap.split_ascii_whitespace().rev().nth(word);
    word.and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> bit & 1 == 1)
}

/// Whether the key goes down in one of these events.
fn is_pressed(events: &[u8]) -> bool {
    let field = |event: &[u8], at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    events.chunks_exact(EVENT_SIZE).any(|event| {
        let down = event[20..24] == 1i32.to_ne_bytes();
        field(event, 16) == EV_KEY && field(event, 18) == KEY_POWER && down
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_the_bitmap() {
        for (bitmap, expected) in [
            ("10000000000000 0\n", true),
            ("8000 10000000000000 0", true),
            ("10000000000000", false),
            (
                "402000000 3803078f800d001 feefffdfffefffff fffffffffffffffe",
                false,
            ),
            (
                "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe",
                true,
            ),
            ("", false),
            ("xyz 0", false),
        ] {
            assert_eq!(has_key(bitmap, KEY_POWER), expected, "{bitmap}");
        }
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = vec![0; 16];
            event.extend(kind.to_ne_bytes());
            event.extend(code.to_ne_bytes());
            event.extend(value.to_ne_bytes());
            event
        };
        assert!(is_pressed(&[event(0, 0, 0), event(1, 116, 1)].concat()));
        assert!(!is_pressed(
            &[event(1, 116, 0), event(1, 30, 1), event(0, 116, 1)].concat()
        ));
        assert!(!is_pressed(&event(1, 116, 1)[..20]));
    }
}
