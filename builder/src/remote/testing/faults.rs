//! A proxy between a client and a server that does to the n-th request what
//! networks and servers do. Each connection carries one request.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Server;

/// Longest body that passes, in bytes.
const LIMIT: u64 = 256 * 1024 * 1024;

/// What goes wrong with one request or its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes before anything reaches the server.
    CutBefore,
    /// Half of the request's body reaches the server, then all is cut.
    CutRequest,
    /// The server does what it is asked; its answer is lost.
    CutAnswer,
    /// Half of the answer's body comes, then the connection closes.
    Truncate,
    /// Half of the answer's body comes and passes for the whole.
    Shorten,
    /// The answer comes so much later.
    Delay(Duration),
    /// This status, without a body; the server hears nothing.
    Status(u16),
    /// 429 with `Retry-After` in seconds; the server hears nothing.
    RetryAfter(u64),
    /// Bytes that are no HTTP.
    Garbage,
    /// 200 with a body that is nothing.
    GarbageBody,
    /// One bit of the answer's body is flipped.
    Corrupt,
    /// One bit of the request's body is flipped.
    CorruptRequest,
    /// The digests in the answer's headers are others.
    WrongDigest,
    /// 307 to there.
    Redirect(String),
}

impl Fault {
    /// One of each kind that needs no choice, for sweeps.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::CutBefore,
            Self::CutRequest,
            Self::CutAnswer,
            Self::Truncate,
            Self::Shorten,
            Self::Delay(Duration::from_millis(20)),
            Self::RetryAfter(0),
            Self::Garbage,
            Self::GarbageBody,
            Self::Corrupt,
            Self::CorruptRequest,
            Self::WrongDigest,
        ];
        all.extend([401, 403, 404, 429, 500, 503].map(Self::Status));
        all
    }
}

#[derive(Debug, Default)]
struct Plan {
    at: BTreeMap<usize, Fault>,
    from: Option<(usize, Fault)>,
    seen: Vec<String>,
}

/// The proxy, on a port of its own, until dropped.
#[derive(Debug)]
pub struct FaultProxy {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

impl FaultProxy {
    /// A proxy before `upstream` that passes everything on.
    ///
    /// # Panics
    /// When no port can be had: a test cannot go on then.
    #[must_use]
    pub fn new(upstream: SocketAddr) -> Self {
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let shared = plan.clone();
        let server = Server::accept(move |stream| {
            let plan = shared.clone();
            // Who goes away ends its own connection only.
            std::thread::spawn(move || drop(pass(&stream, upstream, &plan)));
        });
        Self { server, plan }
    }

    /// Address and port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The `n`-th request from now on (the first is 0) meets this fault.
    pub fn fault_at(&self, n: usize, fault: Fault) {
        let mut plan = lock(&self.plan);
        let n = plan.seen.len() + n;
        plan.at.insert(n, fault);
    }

    /// The `n`-th request from now on and all after it meet this fault.
    pub fn fault_from(&self, n: usize, fault: Fault) {
        let mut plan = lock(&self.plan);
        let n = plan.seen.len() + n;
        plan.from = Some((n, fault));
    }

    /// All goes well from now on, and counting begins anew.
    pub fn reset(&self) {
        *lock(&self.plan) = Plan::default();
    }

    /// The requests so far: method and target.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.plan).seen.clone()
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A head, its lines without line ends, and its body.
struct Message {
    lines: Vec<String>,
    body: Vec<u8>,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn set(&mut self, name: &str, value: &str) {
        self.lines.retain(|line| {
            !line
                .split_once(':')
                .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
        });
        self.lines.push(format!("{name}: {value}"));
    }

    fn flip(&mut self) {
        let middle = self.body.len() / 2;
        if let Some(byte) = self.body.get_mut(middle) {
            *byte ^= 1;
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            return Ok(Some(lines));
        }
        lines.push(line);
    }
}

fn pass(client: &TcpStream, upstream: SocketAddr, plan: &Mutex<Plan>) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let Some(lines) = read_head(&mut reader)? else {
        return Ok(());
    };
    let mut request = Message {
        lines,
        body: Vec::new(),
    };
    let fault = {
        let mut plan = lock(plan);
        let n = plan.seen.len();
        let line = request.lines.first().cloned().unwrap_or_default();
        plan.seen
            .push(line.trim_end_matches(" HTTP/1.1").to_owned());
        let from = plan.from.clone().filter(|(from, _)| n >= *from);
        plan.at
            .get(&n)
            .cloned()
            .or_else(|| from.map(|(_, fault)| fault))
    };
    if fault == Some(Fault::CutBefore) {
        return client.shutdown(Shutdown::Both);
    }
    let length = request.header("content-length");
    let length = length.and_then(|l| l.parse().ok()).unwrap_or(0u64);
    (&mut reader)
        .take(length.min(LIMIT))
        .read_to_end(&mut request.body)?;
    if let Some(reply) = instead(fault.as_ref()) {
        return finish(client, reply.as_bytes());
    }
    request.set("Connection", "close");
    match fault {
        Some(Fault::CutRequest) => {
            let half = request.body.len() / 2;
            request.body.truncate(half);
            let mut server = TcpStream::connect(upstream)?;
            server.write_all(&request.bytes())?;
            server.shutdown(Shutdown::Write)?;
            // Until the server has seen the end, so that what follows is not too early.
            io::copy(&mut server, &mut io::sink())?;
            return client.shutdown(Shutdown::Both);
        }
        Some(Fault::CorruptRequest) => request.flip(),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&request.bytes())?;
    let mut answer = Vec::new();
    server.take(LIMIT).read_to_end(&mut answer)?;
    match fault {
        Some(Fault::CutAnswer) => return client.shutdown(Shutdown::Both),
        Some(Fault::Delay(time)) => std::thread::sleep(time),
        _ => {}
    }
    let mut rest = answer.as_slice();
    let Some(lines) = read_head(&mut rest)? else {
        return client.shutdown(Shutdown::Both);
    };
    let mut answer = Message {
        lines,
        body: rest.to_vec(),
    };
    answer.set("Connection", "close");
    spoil(&mut answer, fault.as_ref());
    finish(client, &answer.bytes())
}

/// What is answered without asking the server.
fn instead(fault: Option<&Fault>) -> Option<String> {
    let empty = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    Some(match fault? {
        Fault::Status(status) => format!("HTTP/1.1 {status} Fault\r\n{empty}"),
        Fault::RetryAfter(seconds) => {
            format!("HTTP/1.1 429 Fault\r\nRetry-After: {seconds}\r\n{empty}")
        }
        Fault::Redirect(to) => format!("HTTP/1.1 307 Fault\r\nLocation: {to}\r\n{empty}"),
        Fault::Garbage => "\u{1}\u{2} this is not what was hoped for \r\n\r\n\0".to_owned(),
        Fault::GarbageBody => {
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"a\":[}<>"
                .to_owned()
        }
        _ => return None,
    })
}

fn spoil(answer: &mut Message, fault: Option<&Fault>) {
    let half = answer.body.len() / 2;
    match fault {
        Some(Fault::Truncate) => answer.body.truncate(half),
        Some(Fault::Shorten) if half > 0 && answer.header("content-length").is_some() => {
            answer.body.truncate(half);
            answer.set("Content-Length", &half.to_string());
        }
        Some(Fault::Corrupt) => answer.flip(),
        Some(Fault::WrongDigest) => {
            let wrong = format!("sha256:{}", "0".repeat(64));
            for name in ["Docker-Content-Digest", "ETag"] {
                if answer.header(name).is_some() {
                    answer.set(name, &wrong);
                }
            }
        }
        _ => {}
    }
}

fn finish(mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    client.write_all(bytes)?;
    client.shutdown(Shutdown::Write)?;
    // Takes what the client still sends, so that closing does not reset what it has not read.
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    io::copy(&mut { client }, &mut io::sink()).map(drop)
}
