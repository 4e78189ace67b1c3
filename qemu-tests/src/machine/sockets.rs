//! The harness listens, QEMU connects: so no byte of the machine is lost, and no
//! connect has to be retried. Paths of Unix sockets must stay below 108 bytes
//! (unix(7), `sun_path`), so the folder lies in a short place.

use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::HarnessError;

/// Room for the folder's path; names below it are short.
const LONGEST_DIR: usize = 80;

/// The ways between harness and machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Serial console.
    Console,
    /// virtio-serial port of init's report.
    Report,
    /// QMP.
    Monitor,
}

impl Channel {
    /// Also the socket's file name without its ending.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Report => "report",
            Self::Monitor => "qmp",
        }
    }

    /// The socket in the run's folder.
    pub(crate) fn path(self, run: &Path) -> PathBuf {
        run.join(self.name())
    }
}

/// Listeners in a folder of their own.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Removed with its content when dropped.
    pub(crate) dir: TempDir,
    console: UnixListener,
    report: UnixListener,
    monitor: UnixListener,
}

impl Sockets {
    /// Makes folder (for this user only) and listeners.
    pub(crate) fn create() -> Result<Self, HarnessError> {
        let mut base = std::env::temp_dir();
        if base.as_os_str().len() > LONGEST_DIR || base.is_relative() {
            base = PathBuf::from("/tmp");
        }
        let dir = tempfile::Builder::new()
            .prefix("slipform-")
            .tempdir_in(&base)
            .map_err(HarnessError::io(
                "make a folder in",
                &base,
                "set TMPDIR to a short path that can be written",
            ))?;
        let listen = |channel: Channel| {
            let path = channel.path(dir.path());
            let listener = UnixListener::bind(&path)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            listener.map_err(HarnessError::io(
                "listen on",
                &path,
                "set TMPDIR to a short path on a local file system",
            ))
        };
        Ok(Self {
            console: listen(Channel::Console)?,
            report: listen(Channel::Report)?,
            monitor: listen(Channel::Monitor)?,
            dir,
        })
    }

    /// Waits for QEMU's connection; `exited` tells its end.
    ///
    /// # Errors
    /// What happened instead, for people.
    pub(crate) fn accept(
        &self,
        channel: Channel,
        deadline: Instant,
        exited: &mut dyn FnMut() -> Option<String>,
    ) -> Result<UnixStream, String> {
        let listener = match channel {
            Channel::Console => &self.console,
            Channel::Report => &self.report,
            Channel::Monitor => &self.monitor,
        };
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    return stream
                        .set_nonblocking(false)
                        .map(|()| stream)
                        .map_err(|error| error.to_string());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("its {} socket: {error}", channel.name())),
            }
            if let Some(status) = exited() {
                return Err(format!("it ended at once with {status}"));
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "it did not connect its {} socket in time",
                    channel.name()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
