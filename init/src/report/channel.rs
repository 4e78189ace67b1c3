//! The way to the harness: a virtio-serial port, or the console with a nonce.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use slipform_init::contract::event::{NONCE_FW_CFG, REPORT_PORT, SLOWDOWN_FW_CFG};

const PORTS: &str = "/sys/class/virtio-ports";
const VIRTIO_DEVICES: &str = "/sys/bus/virtio/devices";
/// Device id of a virtio console (Virtual I/O Device 1.2, section 5).
const VIRTIO_CONSOLE: &str = "0x0003";

/// A device that may not be open (yet): then nothing can be written or read.
#[derive(Debug, Default)]
pub(crate) struct Stream(pub(crate) Option<File>);

impl Stream {
    /// Its descriptor, if it is open.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.0.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// One read, without waiting.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or_else(
            || Err(io::ErrorKind::WouldBlock.into()),
            |file| file.read(buffer),
        )
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or_else(
            || Err(io::ErrorKind::WouldBlock.into()),
            |file| file.write(bytes),
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Looks for the port and opens it. Ports are told apart by name, their numbers vary.
pub(crate) fn open_port() -> Option<File> {
    let port = fs::read_dir(PORTS).ok()?.flatten().find(|entry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == REPORT_PORT)
    })?;
    let device = PathBuf::from("/dev").join(port.file_name());
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(device)
        .ok()
}

/// How long a port may still take to come. The ports of a device tell their names a
/// few messages after the device was found; the others are a sign that ours is near.
pub(crate) fn port_limit() -> Duration {
    let mut devices = fs::read_dir(VIRTIO_DEVICES).into_iter().flatten().flatten();
    let device = devices.any(|entry| {
        fs::read_to_string(entry.path().join("device")).is_ok_and(|id| id.trim() == VIRTIO_CONSOLE)
    });
    let others = fs::read_dir(PORTS).is_ok_and(|mut ports| ports.next().is_some());
    match (device, others) {
        (false, _) => Duration::ZERO,
        (true, false) => Duration::from_secs(2),
        (true, true) => Duration::from_millis(300),
    }
}

/// The nonce that the harness handed in by fw_cfg.
pub(crate) fn nonce() -> Option<String> {
    let path = format!("/sys/firmware/qemu_fw_cfg/by_name/{NONCE_FW_CFG}/raw");
    let mut nonce = String::new();
    File::open(path)
        .ok()?
        .take(65)
        .read_to_string(&mut nonce)
        .ok()?;
    let nonce = nonce.trim_end_matches(['\n', '\0']);
    is_nonce(nonce).then(|| nonce.to_owned())
}

/// By how much a test's emulator is slower than real hardware; 1 where nobody says.
pub(crate) fn slowdown() -> f64 {
    let path = format!("/sys/firmware/qemu_fw_cfg/by_name/{SLOWDOWN_FW_CFG}/raw");
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(32).read_to_string(&mut text));
    read.map_or(1.0, |_| factor(&text))
}

/// Never below 1: it must not make a limit shorter. Never above 100: nor endless.
fn factor(text: &str) -> f64 {
    let number: f64 = text.trim_end_matches(['\n', '\0']).parse().unwrap_or(1.0);
    if number.is_nan() {
        return 1.0;
    }
    number.clamp(1.0, 100.0)
}

fn is_nonce(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_plain_and_not_too_short_to_guess() {
        assert!(is_nonce("0123456789abcdef"));
        for bad in ["", "short", "with space in", "üüüüüüüüü", &"x".repeat(65)] {
            assert!(!is_nonce(bad), "{bad}");
        }
    }

    #[test]
    fn a_slowdown_makes_no_limit_shorter_or_endless() {
        let table = [
            ("8.00", 8.0),
            ("8\n", 8.0),
            ("0.1", 1.0),
            ("-5", 1.0),
            ("", 1.0),
            ("NaN", 1.0),
            ("-NaN", 1.0),
            ("inf", 100.0),
            ("1e300", 100.0),
            ("8 apples", 1.0),
        ];
        for (text, want) in table {
            assert!((factor(text) - want).abs() < f64::EPSILON, "{text:?}");
        }
    }

    #[test]
    fn a_port_that_is_not_open_takes_nothing_and_loses_nothing() {
        let mut port = Stream::default();
        assert_eq!(
            port.write(b"x").unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(
            port.read(&mut [0; 4]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(port.fd(), None);
    }
}
