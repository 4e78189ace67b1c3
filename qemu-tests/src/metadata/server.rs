//! The server behind the relay: connections on a Unix socket, one request each, answered
//! by [`super::clouds`] as the day goes.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::clouds::{self, Request};
use super::{Day, Metadata, MetadataSource};
use crate::error::HarnessError;

/// Longest request.
const REQUEST_MAX: usize = 64 * 1024;
/// Longest wait for a guest that says nothing.
const PATIENCE: Duration = Duration::from_secs(30);
const LATE: Duration = Duration::from_secs(3);
const SLOW: Duration = Duration::from_secs(1);
const HUGE: usize = 10_000_000;

/// The socket in a run's folder.
pub(super) fn socket(run: &Path) -> PathBuf {
    run.join("metadata")
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    state: Arc<State>,
}

impl Server {
    /// Listens in the run's folder.
    pub(crate) fn start(metadata: &Metadata, run: &Path) -> Result<Self, HarnessError> {
        let path = socket(run);
        let remedy = "set TMPDIR to a short path on a local file system";
        let failed = || HarnessError::io("listen on", &path, remedy);
        let listener = UnixListener::bind(&path).map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let day = Arc::new(State {
            metadata: metadata.clone(),
            // Nobody asks before the machine runs: then the first request begins the day.
            count: AtomicU32::new(0),
            first: std::sync::OnceLock::new(),
            reported: AtomicBool::new(false),
        });
        let state = day.clone();
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let day = day.clone();
                        std::thread::spawn(move || drop(day.serve(stream)));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        });
        Ok(Self { stop, state })
    }

    /// The machine has said that it is ready, in a cloud that wants to hear it.
    pub(crate) fn is_reported(&self) -> bool {
        self.state.reported.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    metadata: Metadata,
    count: AtomicU32,
    first: std::sync::OnceLock<Instant>,
    reported: AtomicBool,
}

impl State {
    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let first = *self.first.get_or_init(Instant::now);
        let Some(request) = read(&mut stream)? else {
            return Ok(());
        };
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let answer = |status: u16, body: &str| clouds::Answer::of(status, body).bytes();
        let refuses = self.metadata.source != MetadataSource::Ec2 || count == 1;
        let bytes = match self.metadata.day {
            Day::Late if first.elapsed() < LATE => return Ok(()),
            Day::Unauthorized if refuses => answer(401, "Unauthorized"),
            Day::Busy if count.is_multiple_of(2) => answer(429, "Too Many Requests"),
            Day::Good | Day::Late | Day::Slow | Day::Unauthorized | Day::Busy => {
                if self.metadata.day == Day::Slow {
                    std::thread::sleep(SLOW);
                }
                let answer = clouds::answer(&self.metadata, &request);
                self.reported
                    .fetch_or(answer.is_reported, Ordering::Relaxed);
                answer.bytes()
            }
            Day::Failing => answer(500, "Internal Server Error"),
            Day::Malformed => vec![0xfe; 2000],
            Day::Huge => answer(200, &"x".repeat(HUGE)),
            Day::Silent => {
                std::thread::sleep(PATIENCE);
                return Ok(());
            }
        };
        stream.write_all(&bytes)
    }
}

/// Head and body; none if the guest ends before.
fn read(stream: &mut UnixStream) -> std::io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(request) = Request::parse(&bytes) {
            return Ok(Some(request));
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(count) if bytes.len() + count <= REQUEST_MAX => {
                bytes.extend_from_slice(&buffer[..count]);
            }
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(run: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(socket(run)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn days_differ() {
        let token = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n";
        let days = [
            (Day::Good, ["HTTP/1.1 200", "HTTP/1.1 200"]),
            (Day::Unauthorized, ["HTTP/1.1 200", "HTTP/1.1 401"]),
            (Day::Busy, ["HTTP/1.1 429", "HTTP/1.1 200"]),
            (Day::Failing, ["HTTP/1.1 500", "HTTP/1.1 500"]),
            (Day::Late, ["", ""]),
            (Day::Malformed, ["\u{fffd}", "\u{fffd}"]),
        ];
        for (day, wanted) in days {
            let run = tempfile::tempdir().unwrap();
            let mut metadata = Metadata::of(MetadataSource::Ec2);
            metadata.day = day;
            let _server = Server::start(&metadata, run.path()).unwrap();
            for want in wanted {
                let got = ask(run.path(), token);
                assert!(
                    got.starts_with(want) && want.is_empty() == got.is_empty(),
                    "{day:?}: {got}"
                );
            }
        }
        // Who has no tokens refuses everything.
        let run = tempfile::tempdir().unwrap();
        let mut metadata = Metadata::of(MetadataSource::Openstack);
        metadata.day = Day::Unauthorized;
        let _server = Server::start(&metadata, run.path()).unwrap();
        for _ in 0..3 {
            let got = ask(
                run.path(),
                "GET /openstack/latest/meta_data.json HTTP/1.1\r\n\r\n",
            );
            assert!(got.starts_with("HTTP/1.1 401"), "{got}");
        }
    }
}
