//! Readiness seen from outside: a TCP connection that is accepted, or an HTTP answer.
//! Nothing here waits: each call goes as far as the socket lets it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use slipform_init::contract::machine::Ready;
use thiserror::Error;

use crate::sys::net;

/// First pause after a failed attempt; it doubles up to [`PAUSE_CAP`].
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const PAUSE_CAP: Duration = Duration::from_secs(1);
/// Longest attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// How long an answer may go on after its status line.
const BODY_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read at all.
const ANSWER_MAX: usize = 256 * 1024;
/// `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;
/// Longest path of a URL.
const PATH_MAX: usize = 1024;

/// A readiness that cannot be probed.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ReadyError {
    /// No address.
    #[error(
        "ready: {0:?} must be address:port with a numeric address, such as 127.0.0.1:8080; correct slipform.toml"
    )]
    Address(String),
    /// No URL.
    #[error(
        "ready: {0:?} must be http://address:port/path with a numeric address; correct slipform.toml"
    )]
    Url(String),
}

#[derive(Debug)]
enum Kind {
    /// Something else tells: start, log, notification.
    None,
    Tcp(SocketAddr),
    Http(SocketAddr, Vec<u8>),
}

#[derive(Debug)]
enum Attempt {
    Off,
    Pause { until: Duration },
    Connecting { stream: TcpStream, until: Duration },
    Exchange(Exchange),
}

/// A request on its way out, and the answer on its way in.
#[derive(Debug)]
struct Exchange {
    stream: TcpStream,
    until: Duration,
    sent: usize,
    /// The first [`STATUS_LINE`] bytes of the answer.
    head: Vec<u8>,
    taken: usize,
}

/// The probe of one service.
#[derive(Debug)]
pub(crate) struct Probe {
    kind: Kind,
    attempt: Attempt,
    failures: u32,
    seen: String,
    limit: Duration,
}

impl Probe {
    /// A probe for `ready`; one that never says yes where no probe is needed.
    ///
    /// # Errors
    /// [`ReadyError`] for an address or URL that cannot be used without a resolver.
    pub(crate) fn new(ready: &Ready) -> Result<Probe, ReadyError> {
        let kind = match ready {
            Ready::Started | Ready::Log(_) | Ready::Notify => Kind::None,
            Ready::Tcp(text) => {
                Kind::Tcp(address(text).ok_or_else(|| ReadyError::Address(text.clone()))?)
            }
            Ready::Http(url) => http(url).ok_or_else(|| ReadyError::Url(url.clone()))?,
        };
        Ok(Probe {
            kind,
            attempt: Attempt::Off,
            failures: 0,
            seen: String::new(),
            limit: ATTEMPT_LIMIT,
        })
    }

    /// Asks nobody.
    pub(crate) fn never() -> Probe {
        Probe {
            kind: Kind::None,
            attempt: Attempt::Off,
            failures: 0,
            seen: String::new(),
            limit: ATTEMPT_LIMIT,
        }
    }

    /// With another limit for one attempt.
    pub(crate) fn with_limit(self, limit: Duration) -> Probe {
        Probe { limit, ..self }
    }

    /// Attempts that failed since [`Probe::begin`].
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Begins anew, for a process that has just started.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.failures = 0;
        self.seen.clear();
        self.attempt = match self.kind {
            Kind::None => Attempt::Off,
            _ => Attempt::Pause { until: now },
        };
    }

    /// Nobody asks any more.
    pub(crate) fn end(&mut self) {
        self.attempt = Attempt::Off;
    }

    /// What the last failed attempt saw.
    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> Option<(RawFd, i16)> {
        match &self.attempt {
            Attempt::Connecting { stream, .. } => Some((stream.as_raw_fd(), libc::POLLOUT)),
            Attempt::Exchange(exchange) => {
                let Kind::Http(_, request) = &self.kind else {
                    return None;
                };
                let wanted = if exchange.sent < request.len() {
                    libc::POLLOUT
                } else {
                    libc::POLLIN
                };
                Some((exchange.stream.as_raw_fd(), wanted))
            }
            Attempt::Off | Attempt::Pause { .. } => None,
        }
    }

    /// When [`Probe::advance`] is due at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.attempt {
            Attempt::Off => None,
            Attempt::Pause { until } | Attempt::Connecting { until, .. } => Some(*until),
            Attempt::Exchange(exchange) => Some(exchange.until),
        }
    }

    /// Goes on; true as soon as the service has shown that it is ready.
    pub(crate) fn advance(&mut self, now: Duration) -> bool {
        match std::mem::replace(&mut self.attempt, Attempt::Off) {
            Attempt::Off => false,
            Attempt::Pause { until } if now < until => {
                self.attempt = Attempt::Pause { until };
                false
            }
            Attempt::Pause { .. } => {
                self.connect(now);
                false
            }
            Attempt::Connecting { stream, until } => self.connecting(now, stream, until),
            Attempt::Exchange(exchange) => self.exchange(now, exchange),
        }
    }

    fn target(&self) -> String {
        match &self.kind {
            Kind::Tcp(address) | Kind::Http(address, _) => address.to_string(),
            Kind::None => String::new(),
        }
    }

    fn connect(&mut self, now: Duration) {
        let (Kind::Tcp(address) | Kind::Http(address, _)) = self.kind else {
            return;
        };
        match net::connect(address) {
            Ok(stream) => {
                self.attempt = Attempt::Connecting {
                    stream,
                    until: now.saturating_add(self.limit),
                };
            }
            Err(error) => self.fail(now, format!("connect {address}: {}", reason(&error))),
        }
    }

    fn connecting(&mut self, now: Duration, stream: TcpStream, until: Duration) -> bool {
        // getpeername is the judge: a stale wake-up on this descriptor proves nothing.
        match (stream.take_error(), stream.peer_addr()) {
            (Ok(Some(error)) | Err(error), _) => {
                self.fail(
                    now,
                    format!("connect {}: {}", self.target(), reason(&error)),
                );
                false
            }
            // Nobody listens, and the kernel happened to call from the very port that is
            // called: the connection is with itself (RFC 793 section 3.4, both open at once).
            (Ok(None), Ok(peer)) if stream.local_addr().is_ok_and(|own| own == peer) => {
                self.fail(now, format!("connect {peer}: nobody but init itself"));
                false
            }
            (Ok(None), Ok(_)) => match &self.kind {
                Kind::Http(..) => {
                    let until = now.saturating_add(self.limit);
                    self.exchange(
                        now,
                        Exchange {
                            stream,
                            until,
                            sent: 0,
                            head: Vec::new(),
                            taken: 0,
                        },
                    )
                }
                _ => true,
            },
            (Ok(None), Err(_)) if now < until => {
                self.attempt = Attempt::Connecting { stream, until };
                false
            }
            (Ok(None), Err(_)) => {
                self.fail(now, format!("connect {}: no answer", self.target()));
                false
            }
        }
    }

    fn exchange(&mut self, now: Duration, mut exchange: Exchange) -> bool {
        let Kind::Http(_, request) = &self.kind else {
            return false;
        };
        let step = exchange.transfer(request);
        let known = status(&exchange.head);
        match step {
            Ok(Step::More) if now < exchange.until => {
                if known.is_some() {
                    // Reading on is a courtesy to servers that die of a reset: it has its limit.
                    exchange.until = exchange.until.min(now.saturating_add(BODY_LIMIT));
                }
                self.attempt = Attempt::Exchange(exchange);
                false
            }
            Err(error) if known.is_none() => {
                self.fail(now, format!("http: {}", reason(&error)));
                false
            }
            Ok(_) | Err(_) => match known {
                Some(200..=399) => true,
                Some(code) => {
                    self.fail(now, format!("http: status {code}"));
                    false
                }
                None if exchange.head.len() < STATUS_LINE => {
                    self.fail(now, "http: no answer".into());
                    false
                }
                None => {
                    self.fail(
                        now,
                        format!(
                            "http: not an answer: {:?}",
                            String::from_utf8_lossy(&exchange.head)
                        ),
                    );
                    false
                }
            },
        }
    }

    fn fail(&mut self, now: Duration, seen: String) {
        let pause = (PAUSE_FIRST * 2_u32.pow(self.failures.min(8))).min(PAUSE_CAP);
        self.failures = self.failures.saturating_add(1);
        self.seen = seen;
        self.attempt = Attempt::Pause {
            until: now.saturating_add(pause),
        };
    }
}

enum Step {
    /// The socket would block.
    More,
    /// End of the answer, or enough of it.
    End,
}

impl Exchange {
    /// Sends and receives as much as goes without waiting.
    fn transfer(&mut self, request: &[u8]) -> std::io::Result<Step> {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::More),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 2048];
        while self.taken < ANSWER_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Step::End),
                Ok(count) => {
                    self.taken += count;
                    let missing = STATUS_LINE - self.head.len();
                    self.head.extend_from_slice(&buffer[..count.min(missing)]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::More),
                Err(error) => return Err(error),
            }
        }
        Ok(Step::End)
    }
}

/// The status of `HTTP/1.x NNN` (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let digits = match head.get(..STATUS_LINE)? {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0'..=b'9',
            b' ',
            digits @ ..,
        ] => digits,
        _ => return None,
    };
    let text = std::str::from_utf8(digits).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => crate::sys::process::error_text(errno),
        None => error.to_string(),
    }
}

/// `address:port`; `localhost` is 127.0.0.1, there is no resolver in PID 1.
fn address(text: &str) -> Option<SocketAddr> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
}

fn http(url: &str) -> Option<Kind> {
    let rest = url.strip_prefix("http://")?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(split);
    let path = path.split('#').next().unwrap_or_default();
    // Anything else could smuggle a second header into the request.
    if path.len() > PATH_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = address(host).or_else(|| address(&format!("{host}:80")))?;
    let request = format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: slipform-init\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    Some(Kind::Http(target, request.into_bytes()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::sys::process::testing::poll;

    #[test]
    fn urls_and_addresses() {
        for (url, expected) in [
            (
                "http://127.0.0.1:8080/",
                Some((
                    "127.0.0.1:8080",
                    "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n",
                )),
            ),
            (
                "http://127.0.0.1",
                Some(("127.0.0.1:80", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")),
            ),
            (
                "http://localhost:81?x",
                Some(("127.0.0.1:81", "GET /?x HTTP/1.1\r\nHost: localhost:81\r\n")),
            ),
            (
                "http://[::1]:8080/a#b",
                Some(("[::1]:8080", "GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n")),
            ),
            ("https://127.0.0.1/", None),
            ("http://example.org/", None),
            ("http://127.0.0.1/a b", None),
            ("http://127.0.0.1/a\r\nX: y", None),
            ("http://127.0.0.1:0/", None),
            ("http://", None),
        ] {
            match (http(url), expected) {
                (None, None) => {}
                (Some(Kind::Http(to, request)), Some((address, start))) => {
                    assert_eq!(to.to_string(), address, "{url}");
                    assert!(
                        request.starts_with(start.as_bytes()),
                        "{url}: {}",
                        String::from_utf8_lossy(&request)
                    );
                }
                (got, expected) => panic!("{url}: {got:?}, expected {expected:?}"),
            }
        }
        assert_eq!(
            Probe::new(&Ready::Tcp("redis:6379".into())).err(),
            Some(ReadyError::Address("redis:6379".into()))
        );
    }

    #[test]
    fn status_lines() {
        for (head, expected) in [
            ("HTTP/1.1 200", Some(200)),
            ("HTTP/1.0 404", Some(404)),
            ("HTTP/1.1 +20", None),
            ("HTTP/2.0 200", None),
            ("SSH-2.0-Open", None),
            ("HTTP/1.1 20", None),
        ] {
            assert_eq!(status(head.as_bytes()), expected, "{head}");
        }
        slipform_fuzz::fuzz(&[b"HTTP/1.1 200 OK"], |bytes, _| {
            assert!(status(bytes).is_none_or(|code| code < 1000));
        });
    }

    /// Runs the probe against a server that answers each connection with the next of `answers`.
    fn probe(answers: Vec<Vec<u8>>) -> (bool, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/health", listener.local_addr().expect("address"));
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("request");
                    request.push(byte[0]);
                }
                assert!(request.starts_with(b"GET /health HTTP/1.1\r\n"));
                stream
                    .write_all(&answer)
                    .expect("the probe reads the whole answer");
            }
        });
        let mut probe = Probe::new(&Ready::Http(url)).expect("url");
        let mut now = Duration::ZERO;
        probe.begin(now);
        let mut seen = String::new();
        let mut ready = false;
        // The server may end before its last answer is read.
        while !ready && (!server.is_finished() || probe.fd().is_some()) {
            let mut fds: Vec<_> = probe
                .fd()
                .map(|(fd, events)| libc::pollfd {
                    fd,
                    events,
                    revents: 0,
                })
                .into_iter()
                .collect();
            poll(&mut fds, Duration::from_millis(20));
            if fds.is_empty() {
                now = probe.deadline().expect("a pause ends");
            }
            ready = probe.advance(now);
            // Once the server is gone, refusals follow.
            if probe.seen().starts_with("http") {
                seen = probe.seen().to_owned();
            }
        }
        server.join().expect("server");
        (ready, seen)
    }

    #[test]
    fn an_http_answer_of_200_to_399_is_ready_and_is_read_whole() {
        let mut long = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
        long.resize(100_000, b'x');
        assert!(probe(vec![long]).0);
        assert!(probe(vec![b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n".to_vec()]).0);
    }

    #[test]
    fn it_asks_again_until_the_answer_is_good() {
        let bad = b"HTTP/1.1 503 Not yet\r\n\r\n".to_vec();
        let (ready, seen) = probe(vec![
            bad.clone(),
            bad,
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        ]);
        assert!(ready);
        assert_eq!(seen, "http: status 503");
    }

    #[test]
    fn garbage_is_named_and_not_ready() {
        let (ready, seen) = probe(vec![b"SSH-2.0-OpenSSH_10.0\r\n".to_vec()]);
        assert!(!ready);
        assert_eq!(seen, "http: not an answer: \"SSH-2.0-Open\"");
        let (ready, seen) = probe(vec![Vec::new()]);
        assert!(!ready);
        assert_eq!(seen, "http: no answer");
    }

    #[test]
    #[allow(clippy::print_stdout)]
    fn a_connection_with_itself_is_no_answer() {
        // Where other tests have no ports, so that nobody else gets this one meanwhile.
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            return println!("Skipped: this machine has no IPv6");
        };
        // The kernel gives odd ports to who listens, and calls from even ones.
        let mut address = listener.local_addr().expect("address");
        address.set_port(address.port() & !1);
        let mut probe = Probe::new(&Ready::Tcp(address.to_string())).expect("address");
        let (mut now, mut own) = (Duration::ZERO, 0);
        probe.begin(now);
        // More often than there are ports to call from.
        for _ in 0..70_000 {
            assert!(!probe.advance(now));
            while probe.fd().is_some() {
                assert!(!probe.advance(now));
            }
            own += u32::from(probe.seen().contains("itself"));
            now = probe.deadline().expect("it goes on");
        }
        drop(listener);
        println!("{own} connections with itself");
    }

    #[test]
    fn a_refused_connection_is_tried_again_with_growing_pauses() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            listener.local_addr().expect("address").port()
        };
        let mut probe = Probe::new(&Ready::Tcp(format!("127.0.0.1:{port}"))).expect("address");
        let mut now = Duration::from_secs(5);
        probe.begin(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert!(!probe.advance(now));
            while probe.fd().is_some() {
                assert!(!probe.advance(now));
            }
            let until = probe.deadline().expect("it goes on");
            pauses.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert!(
            probe.seen().contains("Connection refused"),
            "{}",
            probe.seen()
        );
    }
}
