//! A small HTTP server for tests: serves a folder, misbehaves on demand, and
//! can be asked as a proxy. Not for anything else: it trusts its clients.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::uri::{Login, decode};
use crate::base::Digest;

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// 503 with `Retry-After` in seconds.
    RetryAfter(u64),
    /// The connection breaks after so many bytes of the body.
    Truncate(usize),
    /// One bit of the body is flipped.
    Corrupt,
    /// The body has one byte more.
    Longer,
    /// The connection closes before anything is answered.
    Close,
    /// Nothing is answered for so long.
    Hang(Duration),
    /// 302 to there.
    Redirect(String),
    /// 206 with a range that nobody asked for.
    WrongRange,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `CONNECT`.
    pub method: String,
    /// As written: a path, an absolute URI, or `host:port`.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// A header's value; empty when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
struct State {
    faults: BTreeMap<String, VecDeque<Fault>>,
    always: BTreeMap<String, Fault>,
    requests: Vec<Request>,
    login: Option<String>,
    proxy_login: Option<String>,
    no_ranges: bool,
    tunnels: BTreeMap<String, SocketAddr>,
}

/// A server on a port of its own, until dropped.
#[derive(Debug)]
pub struct Server {
    root: PathBuf,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves the files below `root`.
    ///
    /// # Panics
    /// When no port can be had: a test cannot go on then.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback");
        let address = listener.local_addr().expect("the listener's address");
        let server = Self {
            root: root.into(),
            address,
            state: Arc::default(),
            stop: Arc::default(),
        };
        let (root, state, stop) = (
            server.root.clone(),
            server.state.clone(),
            server.stop.clone(),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (root, state) = (root.clone(), state.clone());
                if let Ok(stream) = stream {
                    // A client that goes away ends its own connection only.
                    std::thread::spawn(move || drop(serve(&stream, &root, &state)));
                }
            }
        });
        server
    }

    /// `http://127.0.0.1:port`, without a slash at the end.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Address and port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a file below the served folder.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("create a folder");
        fs::write(path, bytes).expect("write a file");
    }

    /// Removes a file below the served folder.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root.join(path.trim_start_matches('/'))).expect("remove a file");
    }

    /// The next answers for a path go wrong, one fault each.
    pub fn fault(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.lock()
            .faults
            .entry(path.to_owned())
            .or_default()
            .extend(faults);
    }

    /// Every answer for a path goes wrong.
    pub fn always(&self, path: &str, fault: Fault) {
        self.lock().always.insert(path.to_owned(), fault);
    }

    /// All requests need this login.
    pub fn require_login(&self, user: &str, password: &str) {
        self.lock().login = Some(basic(user, password));
    }

    /// All requests need this login for a proxy.
    pub fn require_proxy_login(&self, user: &str, password: &str) {
        self.lock().proxy_login = Some(basic(user, password));
    }

    /// `Range` is ignored from now on.
    pub fn ignore_ranges(&self) {
        self.lock().no_ranges = true;
    }

    /// CONNECT to `name` (`host:port`) leads to `address`.
    pub fn tunnel(&self, name: &str, address: SocketAddr) {
        self.lock().tunnels.insert(name.to_owned(), address);
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees the flag.
        drop(TcpStream::connect(self.address));
    }
}

fn basic(user: &str, password: &str) -> String {
    let login = Login {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    login.basic()
}

fn serve(stream: &TcpStream, root: &Path, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(request) = read_request(&mut reader)? else {
        return Ok(());
    };
    let path = path_of(&request.target);
    let (fault, answer) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(request.clone());
        let fault = state
            .faults
            .get_mut(&path)
            .and_then(VecDeque::pop_front)
            .or_else(|| state.always.get(&path).cloned());
        let refused = |wanted: &Option<String>, name| {
            wanted
                .as_ref()
                .is_some_and(|login| request.header(name) != login)
        };
        let answer = if refused(&state.proxy_login, "proxy-authorization") {
            Answer::Status(407)
        } else if request.method == "CONNECT" {
            state
                .tunnels
                .get(&request.target)
                .map_or(Answer::Status(502), |to| Answer::Tunnel(*to))
        } else if refused(&state.login, "authorization") {
            Answer::Status(401)
        } else {
            Answer::File {
                ranges: !state.no_ranges,
            }
        };
        (fault, answer)
    };
    match answer {
        Answer::Status(status) => head(stream, status, &[]),
        Answer::Tunnel(to) => tunnel(stream, to),
        Answer::File { ranges } => send_file(
            stream,
            &request,
            &root.join(path.trim_start_matches('/')),
            ranges,
            fault.as_ref(),
        ),
    }
}

enum Answer {
    Status(u16),
    Tunnel(SocketAddr),
    File { ranges: bool },
}

/// Reads a request's head; nothing when the client has gone.
pub(crate) fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: BTreeMap::new(),
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Some(request));
        }
        if let Some((name, value)) = line.split_once(':') {
            request
                .headers
                .insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// The decoded path of a target in origin or absolute form.
fn path_of(target: &str) -> String {
    let path = match target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => target,
    };
    let path = path.split('?').next().unwrap_or(path);
    String::from_utf8(decode(path).unwrap_or_default()).unwrap_or_default()
}

fn head(mut stream: &TcpStream, status: u16, headers: &[(&str, String)]) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        text.push_str("Content-Length: 0\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())
}

fn send_file(
    mut stream: &TcpStream,
    request: &Request,
    path: &Path,
    ranges: bool,
    fault: Option<&Fault>,
) -> io::Result<()> {
    match fault {
        Some(Fault::Status(status)) => return head(stream, *status, &[]),
        Some(Fault::RetryAfter(seconds)) => {
            return head(stream, 503, &[("Retry-After", seconds.to_string())]);
        }
        Some(Fault::Close) => return Ok(()),
        Some(Fault::Hang(time)) => std::thread::sleep(*time),
        Some(Fault::Redirect(to)) => return head(stream, 302, &[("Location", to.clone())]),
        _ => {}
    }
    let Ok(mut body) = fs::read(path) else {
        return head(stream, 404, &[]);
    };
    match fault {
        Some(Fault::Corrupt) if !body.is_empty() => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Some(Fault::Longer) => body.push(0),
        _ => {}
    }
    let tag = format!("\"{}\"", Digest::of(&body).short());
    let total = body.len();
    let start = request
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'))
        .and_then(|start| start.parse::<usize>().ok())
        .filter(|_| ranges && [tag.as_str(), ""].contains(&request.header("if-range")));
    let mut headers = vec![("ETag", tag)];
    let status = match start {
        Some(start) if start >= total => return head(stream, 416, &headers),
        Some(start) => {
            let first = if fault == Some(&Fault::WrongRange) {
                0
            } else {
                start
            };
            headers.push((
                "Content-Range",
                format!("bytes {first}-{}/{total}", total - 1),
            ));
            body.drain(..first);
            206
        }
        None => 200,
    };
    headers.push(("Content-Length", body.len().to_string()));
    if let Some(Fault::Truncate(length)) = fault {
        head(stream, status, &headers)?;
        return stream.write_all(&body[..(*length).min(body.len())]);
    }
    head(stream, status, &headers)?;
    stream.write_all(&body)
}

fn tunnel(client: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(to)?;
    head(client, 200, &[])?;
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn(move || {
        let done = copy(&mut up, &mut down);
        // The other half ends by itself when its peer does.
        let _closed = down.shutdown(std::net::Shutdown::Write);
        done
    });
    let (mut server, mut client) = (server, client.try_clone()?);
    let back = copy(&mut server, &mut client);
    let _closed = client.shutdown(std::net::Shutdown::Write);
    drop(there.join());
    back
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}
