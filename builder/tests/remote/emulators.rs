//! Emulators of clouds that others wrote, where a host has them; their absence is one visible
//! line.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an emulator may take until it listens, beside other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// An emulator on a port and in a folder of its own, until dropped.
pub(crate) struct Emulator {
    server: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Emulator {
    /// Azurite, Microsoft's own, of Azure's storage (npm: `azurite`).
    pub(crate) fn azurite() -> Option<Self> {
        Self::start("azurite-blob", |command, port, folder| {
            command.args(["--blobHost", "127.0.0.1", "--blobPort", port]);
            command.args(["--disableTelemetry", "--skipApiVersionCheck", "--silent"]);
            command.arg("--location").arg(folder);
        })
    }

    /// An emulator of Google's Cloud Storage with a bucket `images` (PyPI:
    /// `gcp-storage-emulator`). It ignores conditions and has no Compute Engine.
    pub(crate) fn google() -> Option<Self> {
        Self::start("gcp-storage-emulator", |command, port, _| {
            command.args(["start", "--host", "127.0.0.1", "--port", port]);
            command.args(["--in-memory", "--default-bucket", "images"]);
        })
    }

    fn start(name: &str, with: impl Fn(&mut Command, &str, &Path)) -> Option<Self> {
        let Some(program) = on_path(name) else {
            // Past what the test runner captures; a closed stderr is nobody who could be told.
            let _ = writeln!(std::io::stderr(), "SKIPPED: this host has no {name}");
            return None;
        };
        // Not all of them say which port they chose. Who takes the free one in between makes
        // the emulator end, and there is another.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("log");
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut command = Command::new(&program);
            with(&mut command, &address.port().to_string(), folder.path());
            let server = command
                .stdin(Stdio::null())
                .stdout(File::create(&log).unwrap())
                .stderr(File::options().append(true).open(&log).unwrap())
                .spawn()
                .unwrap();
            let mut emulator = Self {
                server,
                address,
                _folder: folder,
            };
            if emulator.listens() {
                return Some(emulator);
            }
            let said = std::fs::read_to_string(&log).unwrap();
            let _ = writeln!(std::io::stderr(), "{name} does not listen: {said}");
        }
        panic!("{name} does not start");
    }

    fn listens(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && self.server.try_wait().unwrap().is_none() {
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
