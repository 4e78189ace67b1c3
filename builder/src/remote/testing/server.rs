//! An HTTP server whose answers are a function of the requests.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sources::testing::read_request;
use crate::sources::uri::decode;

/// Most bytes of a body that are taken: tests are small.
const LIMIT: u64 = 64 * 1024 * 1024;

/// A request with its body.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path and query, as written.
    pub target: String,
    /// The head.
    pub head: crate::sources::testing::Request,
    /// The body.
    pub body: Vec<u8>,
    /// Whether all of it came.
    pub whole: bool,
}

impl Request {
    /// A header's value; empty when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.head.header(name)
    }

    /// The path, as written.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query, decoded.
    #[must_use]
    pub fn query(&self, key: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).and_then(|bytes| String::from_utf8(bytes).ok());
            (name == key).then_some(value).flatten()
        })
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// HTTP's status.
    pub status: u16,
    /// Headers, without the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body; for HEAD its length only is sent.
    pub body: Vec<u8>,
}

impl Reply {
    /// A status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// The same, with a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// What answers.
pub(super) type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on a port of its own, until dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Starts one.
    ///
    /// # Panics
    /// When no port can be had: a test cannot go on then.
    #[must_use]
    pub fn start(handler: Arc<Handler>) -> Self {
        Self::accept(move |stream| {
            let handler = handler.clone();
            // A client that goes away ends its own connection only.
            std::thread::spawn(move || drop(serve(&stream, &*handler)));
        })
    }

    /// Starts one that does as `each` says with every connection.
    ///
    /// # Panics
    /// When no port can be had.
    pub(super) fn accept(each: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback");
        let address = listener.local_addr().expect("the listener's address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    // Small answers need not wait for more.
                    let _slower = stream.set_nodelay(true);
                    each(stream);
                }
            }
        });
        Self { address, stop }
    }

    /// Address and port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees the flag.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: &TcpStream, handler: &Handler) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_request(&mut reader)? {
        let length = head.header("content-length").parse().unwrap_or(0);
        let mut body = Vec::new();
        let came = (&mut reader).take(length.min(LIMIT)).read_to_end(&mut body);
        let whole = came.is_ok() && body.len() as u64 == length;
        let close = !whole || head.header("connection").eq_ignore_ascii_case("close");
        let request = Request {
            method: head.method.clone(),
            target: head.target.clone(),
            head,
            body,
            whole,
        };
        send(stream, &request.method, &handler(&request), close)?;
        if close {
            break;
        }
    }
    Ok(())
}

fn send(mut stream: &TcpStream, method: &str, reply: &Reply, close: bool) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Status\r\n", reply.status);
    if reply.status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    if close {
        text.push_str("Connection: close\r\n");
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if method != "HEAD" && reply.status != 204 {
        bytes.extend_from_slice(&reply.body);
    }
    stream.write_all(&bytes)
}
