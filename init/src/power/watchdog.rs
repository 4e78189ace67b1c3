//! The watchdog: fed by the main loop, so that a kernel or an init that hangs ends in a
//! reset. It stays armed on the way down.

use std::os::fd::RawFd;
use std::time::Duration;

use slipform_init::contract::event::Event;

use crate::report::Reporter;
use crate::sys::clock;
use crate::sys::watchdog::Device;
use crate::turn::{Report, Turn, Watched};

/// The first one: boards load a real device's driver before that of the kernel's own timer.
const DEVICE: &str = "/dev/watchdog0";
/// Signs of life within its time.
const SIGNS: u32 = 3;

/// The machine's watchdog, if it has one.
#[derive(Debug)]
pub(crate) struct Watchdog {
    device: Option<Device>,
    pause: Duration,
    next: Duration,
    has_reset: bool,
}

impl Watchdog {
    /// Arms it for so many seconds (0: there shall be none), more on an emulated machine
    /// that is slower. A machine without one goes on.
    pub(crate) fn arm(seconds: u32, slowdown: f64, report: &mut Reporter) -> Watchdog {
        let mut watchdog = Watchdog {
            device: None,
            pause: Duration::from_secs(1),
            next: Duration::ZERO,
            has_reset: false,
        };
        let wanted = Duration::from_secs(seconds.into()).mul_f64(slowdown.clamp(1.0, 20.0));
        let Ok(device) = Device::open(DEVICE) else {
            return watchdog;
        };
        watchdog.has_reset = device.has_reset();
        if seconds == 0 {
            device.disarm();
            return watchdog;
        }
        let wanted = u32::try_from(wanted.as_secs()).unwrap_or(seconds);
        match device.set_timeout(wanted) {
            Ok(seconds) => {
                watchdog.pause = Duration::from_secs(seconds.max(1).into()) / SIGNS;
                report.event(Event::Watchdog {
                    device: device.identity(),
                    seconds,
                });
            }
            Err(error) => report.note(&format!(
                "watchdog: {} does not take {wanted} s and keeps its own time: {error}",
                device.identity()
            )),
        }
        watchdog.device = Some(device);
        watchdog.feed();
        watchdog
    }

    /// Whether there is one, and it runs.
    pub(crate) fn is_armed(&self) -> bool {
        self.device.is_some()
    }

    /// Whether the last reset of the machine was its doing.
    pub(crate) fn has_reset(&self) -> bool {
        self.has_reset
    }

    /// A sign of life.
    pub(crate) fn feed(&mut self) {
        if let Some(device) = &mut self.device {
            device.feed();
            self.next = clock::monotonic() + self.pause;
        }
    }

    /// For a machine that is to stand still.
    pub(crate) fn disarm(&mut self) {
        if let Some(device) = self.device.take() {
            device.disarm();
        }
    }
}

impl Watched for Watchdog {
    fn fds(&self, _out: &mut Vec<libc::pollfd>) {}

    fn ready(&mut self, _fd: RawFd, _turn: &mut Turn<'_>) {}

    fn deadline(&self) -> Option<Duration> {
        self.device.as_ref().map(|_| self.next)
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {
        self.feed();
    }
}
