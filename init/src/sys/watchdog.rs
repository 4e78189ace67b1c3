//! A watchdog device (Linux, watchdog/watchdog-api).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use super::check;

/// Ioctls of linux/watchdog.h: `_IOR('W', 0, struct watchdog_info)`, `_IOR('W', 2, int)`, `_IOWR('W', 6, int)`.
const GET_SUPPORT: libc::Ioctl = 0x8028_5700_u32 as libc::Ioctl;
const GET_BOOT_STATUS: libc::Ioctl = 0x8004_5702_u32 as libc::Ioctl;
const SET_TIMEOUT: libc::Ioctl = 0xc004_5706_u32 as libc::Ioctl;
/// `WDIOF_CARDRESET`: the last reset was this device's.
const CARD_RESET: libc::c_int = 0x20;

/// struct watchdog_info.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// An open device: from the first moment on it wants to be fed.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    /// Opens, and so arms it.
    pub(crate) fn open(path: &str) -> io::Result<Device> {
        OpenOptions::new().write(true).open(path).map(Device)
    }

    /// What it calls itself.
    pub(crate) fn identity(&self) -> String {
        let mut info = Info {
            options: 0,
            firmware_version: 0,
            identity: [0; 32],
        };
        // SAFETY: the kernel fills in a structure of this layout.
        let done = check(unsafe { libc::ioctl(self.0.as_raw_fd(), GET_SUPPORT, &raw mut info) });
        let length = info
            .identity
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(32);
        match done {
            Ok(_) => String::from_utf8_lossy(&info.identity[..length]).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Whether the last reset was its doing.
    pub(crate) fn has_reset(&self) -> bool {
        let mut status: libc::c_int = 0;
        // SAFETY: the kernel writes one int.
        let done =
            check(unsafe { libc::ioctl(self.0.as_raw_fd(), GET_BOOT_STATUS, &raw mut status) });
        done.is_ok() && status & CARD_RESET != 0
    }

    /// Sets its time; what it took comes back.
    pub(crate) fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut value = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel reads and writes one int.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), SET_TIMEOUT, &raw mut value) })?;
        Ok(u32::try_from(value).unwrap_or(seconds))
    }

    /// A sign of life.
    pub(crate) fn feed(&mut self) {
        // Any byte but V. That it fails, the device itself answers.
        let _ = self.0.write(b"1");
    }

    /// Switches it off, where that is possible (magic close).
    pub(crate) fn disarm(mut self) {
        let _ = self.0.write(b"V");
    }
}
