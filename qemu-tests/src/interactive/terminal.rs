//! The person's terminal in raw mode, put back when dropped.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::input;
use crate::error::HarnessError;

/// Standard input in raw mode.
#[derive(Debug)]
pub(crate) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Every key goes to the guest as it is.
    pub(crate) fn raw() -> Result<Self, HarnessError> {
        let failed = |operation| {
            move |errno: rustix::io::Errno| HarnessError::Terminal {
                operation,
                source: errno.into(),
            }
        };
        let before = tcgetattr(input()).map_err(failed("read the settings of"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input(), OptionalActions::Now, &raw).map_err(failed("switch to raw mode"))?;
        Ok(Self { before })
    }

    /// Keys that are there, without waiting; none if the terminal is gone.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        let stdin = input();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&now)) {
            Ok(0) | Err(_) => return Some(Vec::new()),
            Ok(_) => {}
        }
        let mut keys = [0; 256];
        match rustix::io::read(stdin.as_fd(), &mut keys) {
            Ok(0) => None,
            Ok(read) => Some(keys[..read].to_vec()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Some(Vec::new()),
            Err(_) => None,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done if either fails.
        let _ = tcsetattr(input(), OptionalActions::Now, &self.before);
        // Firmware leaves colours behind and may hide the cursor.
        let mut out = io::stdout();
        drop(
            out.write_all(b"\x1b[0m\x1b[?25h\r\n")
                .and_then(|()| out.flush()),
        );
    }
}
