//! `sd_notify`: a datagram socket per service, for its own processes only
//! (sd_notify(3); of the protocol, READY, STATUS, STOPPING, WATCHDOG and WATCHDOG_USEC).

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::sys::net;

/// Longest datagram that is read.
const MESSAGE_MAX: usize = 4096;
/// Longest status text that is reported.
const STATUS_MAX: usize = 1024;
/// Datagrams that one turn takes.
const PER_TURN: usize = 16;

/// The socket of one service.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who sent it; `None` if the kernel did not say, or it was too long.
    pub(crate) sender: Option<i32>,
    /// `READY=1`.
    pub(crate) ready: bool,
    /// `STOPPING=1`.
    pub(crate) stopping: bool,
    /// `WATCHDOG=1`.
    pub(crate) alive: bool,
    /// `WATCHDOG=trigger`.
    pub(crate) trigger: bool,
    /// `WATCHDOG_USEC=…`, microseconds.
    pub(crate) watchdog: Option<u64>,
    /// `STATUS=…`.
    pub(crate) status: Option<String>,
}

impl Notify {
    /// Binds `path` for the user of the service (`None`: the caller's, in tests).
    ///
    /// # Errors
    /// The call that failed, on the path.
    pub(crate) fn bind(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Notify> {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("notify socket {}: {error}", path.display()),
            )
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(named)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        let socket = UnixDatagram::bind(path).map_err(named)?;
        socket.set_nonblocking(true).map_err(named)?;
        net::pass_credentials(socket.as_fd()).map_err(named)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(named)?;
        if let Some((uid, gid)) = owner {
            chown(path, Some(uid), Some(gid)).map_err(named)?;
        }
        Ok(Notify {
            socket,
            path: path.to_owned(),
        })
    }

    /// To poll for input.
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// One turn's share of what is there.
    pub(crate) fn read(&self) -> Vec<Message> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut messages = Vec::new();
        while messages.len() < PER_TURN {
            match net::receive_from_process(self.socket.as_fd(), &mut buffer) {
                Ok((count, sender)) => {
                    messages.push(parse(&buffer[..count.min(MESSAGE_MAX)], sender));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        messages
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn parse(bytes: &[u8], sender: Option<i32>) -> Message {
    let mut message = Message {
        sender,
        ready: false,
        stopping: false,
        alive: false,
        trigger: false,
        watchdog: None,
        status: None,
    };
    for line in bytes.split(|&byte| byte == b'\n') {
        match line {
            b"READY=1" => message.ready = true,
            b"STOPPING=1" => message.stopping = true,
            b"WATCHDOG=1" => message.alive = true,
            b"WATCHDOG=trigger" => message.trigger = true,
            _ => {
                if let Some(text) = line.strip_prefix(b"WATCHDOG_USEC=") {
                    let text = std::str::from_utf8(text).ok();
                    message.watchdog = text.and_then(|text| text.parse().ok());
                }
                if let Some(text) = line.strip_prefix(b"STATUS=") {
                    let text = &text[..text.len().min(STATUS_MAX)];
                    message.status = Some(String::from_utf8_lossy(text).into_owned());
                }
            }
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_can_break_the_reader() {
        let seed = b"STATUS=loading\nREADY=1\nWATCHDOG=1\nWATCHDOG_USEC=2000000\nSTOPPING=1\n";
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let message = parse(bytes, Some(7));
            // Invalid UTF-8 is replaced by three bytes each.
            let status = message.status.unwrap_or_default();
            assert!(status.len() <= 3 * STATUS_MAX && !status.contains('\n'));
        });
    }

    #[test]
    fn messages() {
        let got = parse(
            b"STATUS=loading\nREADY=1\nWATCHDOG=1\nWATCHDOG_USEC=2000000\n",
            Some(7),
        );
        assert_eq!(
            got,
            Message {
                sender: Some(7),
                ready: true,
                stopping: false,
                alive: true,
                trigger: false,
                watchdog: Some(2_000_000),
                status: Some("loading".into())
            }
        );
        for hostile in [
            &b""[..],
            b"READY=10",
            b"READY",
            b"=",
            b"\0\0\n\xff=\xff",
            b"XREADY=1",
            b"WATCHDOG_USEC=-1",
            b"WATCHDOG_USEC=99999999999999999999",
        ] {
            let message = parse(hostile, None);
            assert!(!message.ready && message.watchdog.is_none(), "{hostile:?}");
        }
        let long = [b"STATUS=".as_slice(), &[0xff; 4000]].concat();
        assert!(
            parse(&long, None)
                .status
                .is_some_and(|status| status.chars().count() == STATUS_MAX)
        );
    }

    #[test]
    fn only_the_owner_may_send_and_the_socket_goes_with_its_service() {
        let folder = std::env::temp_dir().join(format!("slipform-notify-{}", std::process::id()));
        let path = folder.join("web");
        for _ in 0..2 {
            let notify = Notify::bind(&path, None).expect("bind, also over a stale socket");
            assert_eq!(
                fs::metadata(&path).expect("socket").permissions().mode() & 0o777,
                0o600
            );
            let client = UnixDatagram::unbound().expect("client");
            client.send_to(b"READY=1", &path).expect("send");
            let got = notify.read();
            assert_eq!(
                (got.len(), got[0].ready, got[0].sender),
                (1, true, Some(std::process::id() as i32))
            );
            std::mem::forget(notify.socket.try_clone());
        }
        let notify = Notify::bind(&path, None).expect("bind");
        drop(notify);
        assert!(!path.exists());
        fs::remove_dir_all(&folder).expect("clean up");
    }
}
