//! The little of HTTP/1.1 that metadata servers need (RFC 9112), bounded on every side:
//! head, number of headers, body, time. No redirect is followed: none of these services
//! sends one, so a redirect is an answer that is wrong.
//!
//! ```text
//! Request -> bytes        bytes -> Reader -> Answer (pure)        Exchange: one connection
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use thiserror::Error;

use crate::sys::net;

/// Longest head of an answer, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Longest line of a chunk's size, in bytes.
const CHUNK_LINE_MAX: usize = 256;
/// Bytes that one turn of the loop reads at most.
const TURN_MAX: usize = 256 * 1024;

/// Why an answer is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum HttpError {
    /// The head.
    #[error("the answer's head is above {HEAD_MAX} bytes")]
    Head,
    /// The status line.
    #[error("the answer is not HTTP/1.x")]
    Status,
    /// The length.
    #[error("the answer's length is garbled")]
    Length,
    /// The body.
    #[error("the answer is above {0} bytes")]
    Body(usize),
    /// It ended early.
    #[error("the answer ends in the middle")]
    Short,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `GET path`.
    pub(super) fn get(path: impl Into<String>) -> Request {
        Request::new("GET", path)
    }

    /// Any method.
    pub(super) fn new(method: &'static str, path: impl Into<String>) -> Request {
        Request {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With a header; one whose value would start a second line is left out.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        let value = value.into();
        if value
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        {
            self.headers.push((name, value));
        }
        self
    }

    /// With a body.
    pub(super) fn body(mut self, body: Vec<u8>) -> Request {
        self.body = body;
        self
    }

    /// Its path.
    #[cfg(test)]
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn bytes(&self, to: SocketAddr) -> Vec<u8> {
        let host = match to.port() {
            80 => to.ip().to_string(),
            _ => to.to_string(),
        };
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: slipform-init\r\nAccept: */*\r\nConnection: close\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// Status code.
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// Decoded body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The first header of that name (lower case).
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// For tests of the sources.
    #[cfg(test)]
    pub(super) fn of(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        Answer {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: body.as_bytes().to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// So many bytes are missing.
    Sized(usize),
    /// Until the connection ends.
    Rest,
    /// A line with a chunk's size.
    ChunkLine,
    /// So many bytes of a chunk, and its line end.
    Chunk(usize),
    /// Lines behind the last chunk, until an empty one.
    Trailer,
    Done,
}

/// Reads an answer as it comes.
#[derive(Debug)]
pub(super) struct Reader {
    part: Part,
    /// What is not used yet: at most a head or a line.
    pending: Vec<u8>,
    trailer: usize,
    limit: usize,
    answer: Answer,
}

impl Reader {
    /// Bodies of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Reader {
        Reader {
            part: Part::Head,
            pending: Vec::new(),
            trailer: 0,
            limit,
            answer: Answer::default(),
        }
    }

    /// Takes bytes; true when the answer is complete.
    ///
    /// # Errors
    /// [`HttpError`]: the connection is of no more use.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<bool, HttpError> {
        while !bytes.is_empty() && self.part != Part::Done {
            bytes = match self.part {
                Part::Head => self.head(bytes)?,
                Part::Sized(missing) => {
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    self.body(now)?;
                    self.part = match missing - now.len() {
                        0 => Part::Done,
                        missing => Part::Sized(missing),
                    };
                    later
                }
                Part::Rest => {
                    self.body(bytes)?;
                    &[]
                }
                Part::ChunkLine | Part::Trailer => self.line(bytes)?,
                Part::Chunk(missing) => self.chunk(bytes, missing)?,
                Part::Done => &[],
            };
        }
        Ok(self.part == Part::Done)
    }

    /// The connection has ended; the answer, if that is no surprise.
    ///
    /// # Errors
    /// [`HttpError::Short`].
    pub(super) fn end(self) -> Result<Answer, HttpError> {
        match self.part {
            Part::Done | Part::Rest => Ok(self.answer),
            _ => Err(HttpError::Short),
        }
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        if self.answer.body.len() + bytes.len() > self.limit {
            return Err(HttpError::Body(self.limit));
        }
        self.answer.body.extend_from_slice(bytes);
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], HttpError> {
        // The end may lie across two reads: the last three bytes are looked at again.
        let from = self.pending.len().saturating_sub(3);
        let room = (HEAD_MAX + 1).saturating_sub(self.pending.len());
        let before = self.pending.len();
        self.pending
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let end = self.pending[from..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .map(|at| from + at + 4);
        let Some(end) = end else {
            return match self.pending.len() > HEAD_MAX {
                true => Err(HttpError::Head),
                false => Ok(&[]),
            };
        };
        let head = std::mem::take(&mut self.pending);
        let (status, headers) = parse_head(&head[..end])?;
        self.part = match status {
            100..=199 => Part::Head,
            _ => body_of(status, &headers, self.limit)?,
        };
        (self.answer.status, self.answer.headers) = (status, headers);
        Ok(&bytes[end - before..])
    }

    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], HttpError> {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            self.pending
                .extend_from_slice(&bytes[..bytes.len().min(CHUNK_LINE_MAX + 1)]);
            return match self.pending.len() > CHUNK_LINE_MAX {
                true => Err(HttpError::Length),
                false => Ok(&[]),
            };
        };
        if self.pending.len() + end > CHUNK_LINE_MAX {
            return Err(HttpError::Length);
        }
        let mut line = std::mem::take(&mut self.pending);
        line.extend_from_slice(&bytes[..end]);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if self.part == Part::Trailer {
            self.trailer += 1;
            if self.trailer > 64 {
                return Err(HttpError::Length);
            }
            if line.is_empty() {
                self.part = Part::Done;
            }
        } else {
            let digits = line.split(|&byte| byte == b';').next().unwrap_or(line);
            self.part = match chunk_size(digits.trim_ascii()).ok_or(HttpError::Length)? {
                0 => Part::Trailer,
                size if size > self.limit => return Err(HttpError::Body(self.limit)),
                size => Part::Chunk(size + 2),
            };
        }
        Ok(&bytes[end + 1..])
    }

    /// `missing` counts the chunk's line end.
    fn chunk<'a>(&mut self, bytes: &'a [u8], missing: usize) -> Result<&'a [u8], HttpError> {
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        let data = now.len().min(missing.saturating_sub(2));
        self.body(&now[..data])?;
        if now[data..].iter().any(|byte| !b"\r\n".contains(byte)) {
            return Err(HttpError::Length);
        }
        self.part = match missing - now.len() {
            0 => Part::ChunkLine,
            missing => Part::Chunk(missing),
        };
        Ok(later)
    }
}

/// Sizes that make no sense are not told from those that are garbled.
fn chunk_size(digits: &[u8]) -> Option<usize> {
    let fits = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| fits)?;
    usize::from_str_radix(text, 16).ok()
}

type Headers = Vec<(String, String)>;

fn parse_head(head: &[u8]) -> Result<(u16, Headers), HttpError> {
    // Latin-1 and worse is replaced: no name or value that matters has it.
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status
        .strip_prefix("HTTP/1.")
        .filter(|rest| rest.as_bytes().get(5).is_none_or(|&byte| byte == b' '))
        .and_then(|rest| rest.get(1..5))
        .filter(|code| code.starts_with(' '))
        .and_then(|code| code[1..].parse().ok())
        .filter(|code| (100..=599).contains(code))
        .ok_or(HttpError::Status)?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((code, headers))
}

/// How the body ends (RFC 9112 section 6.3).
fn body_of(status: u16, headers: &Headers, limit: usize) -> Result<Part, HttpError> {
    let all = |wanted: &'static str| {
        let named = headers.iter().filter(move |(name, _)| name == wanted);
        named.map(|(_, value)| value.as_str())
    };
    if matches!(status, 204 | 304) {
        return Ok(Part::Done);
    }
    if let Some(coding) = all("transfer-encoding").next_back() {
        return match coding.eq_ignore_ascii_case("chunked") {
            true => Ok(Part::ChunkLine),
            false => Err(HttpError::Length),
        };
    }
    let mut lengths = all("content-length");
    let Some(first) = lengths.next() else {
        return Ok(Part::Rest);
    };
    let digits = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || lengths.any(|other| other != first) {
        return Err(HttpError::Length);
    }
    match first.parse::<usize>() {
        Ok(0) => Ok(Part::Done),
        Ok(length) if length <= limit => Ok(Part::Sized(length)),
        _ => Err(HttpError::Body(limit)),
    }
}

/// A question on its way, and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
    connected: bool,
    request: Vec<u8>,
    sent: usize,
    reader: Option<Reader>,
    until: Duration,
}

/// How far an exchange is.
#[derive(Debug)]
pub(super) enum Progress {
    /// It waits.
    Pending,
    /// It is over; the text says why without an answer.
    Over(Result<Answer, String>),
}

impl Exchange {
    /// Begins; the answer must be there at `until`, and have at most `limit` bytes.
    ///
    /// # Errors
    /// What connect(2) knows at once, such as that there is no network.
    pub(super) fn start(
        to: SocketAddr,
        request: &Request,
        limit: usize,
        until: Duration,
    ) -> std::io::Result<Exchange> {
        Ok(Exchange {
            stream: net::connect(to)?,
            connected: false,
            request: request.bytes(to),
            sent: 0,
            reader: Some(Reader::new(limit)),
            until,
        })
    }

    /// What to poll.
    pub(super) fn fd(&self) -> (RawFd, i16) {
        let events = match self.sent < self.request.len() {
            true => libc::POLLOUT,
            false => libc::POLLIN,
        };
        (self.stream.as_raw_fd(), events)
    }

    /// When it is over at the latest.
    pub(super) fn deadline(&self) -> Duration {
        self.until
    }

    /// Goes on as far as the socket lets it.
    pub(super) fn advance(&mut self, now: Duration) -> Progress {
        match self.transfer() {
            Ok(Some(answer)) => Progress::Over(Ok(answer)),
            Ok(None) if now >= self.until => Progress::Over(Err("no answer in time".into())),
            Ok(None) => Progress::Pending,
            Err(why) => Progress::Over(Err(why)),
        }
    }

    fn transfer(&mut self) -> Result<Option<Answer>, String> {
        let told = |error: &std::io::Error| {
            crate::sys::process::error_text(error.raw_os_error().unwrap_or(0))
        };
        if !self.connected {
            if let Ok(Some(error)) | Err(error) = self.stream.take_error() {
                return Err(told(&error));
            }
            if self.stream.peer_addr().is_err() {
                return Ok(None);
            }
            self.connected = true;
        }
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(0) => return Err("the connection takes nothing".into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(told(&error)),
            }
        }
        let mut buffer = [0; 4096];
        let mut taken = 0;
        while taken < TURN_MAX {
            let Some(reader) = &mut self.reader else {
                return Err("it is over".into());
            };
            let complete = match self.stream.read(&mut buffer) {
                Ok(0) => true,
                Ok(count) => {
                    taken += count;
                    reader
                        .take(&buffer[..count])
                        .map_err(|error| error.to_string())?
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(told(&error)),
            };
            if complete && let Some(reader) = self.reader.take() {
                return reader.end().map(Some).map_err(|error| error.to_string());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn read(bytes: &[u8], step: usize) -> Result<Answer, HttpError> {
        let mut reader = Reader::new(1000);
        for part in bytes.chunks(step) {
            if reader.take(part)? {
                break;
            }
        }
        reader.end()
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n4;ext=1\r\nWiki\r\n5\r\npedia\r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn answers_however_they_are_cut() {
        let sized = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno and more";
        let rest = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end";
        for step in 1..80 {
            let got = read(CHUNKED, step).unwrap();
            assert_eq!((got.status, &got.body[..]), (200, &b"Wikipedia"[..]));
            assert_eq!(got.header("x"), Some("y"));
            assert_eq!(read(sized, step).unwrap().body, b"no");
            assert_eq!(read(rest, step).unwrap().text(), Some("until the end"));
        }
        assert_eq!(read(b"HTTP/1.1 204 No\r\n\r\n", 7).unwrap().status, 204);
    }

    #[test]
    fn wrong_answers_are_told_apart() {
        let table: [(&[u8], HttpError); 10] = [
            (b"", HttpError::Short),
            (b"HTTP/1.1 200 OK\r\n", HttpError::Short),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
                HttpError::Short,
            ),
            (b"SSH-2.0-x\r\n\r\n", HttpError::Status),
            (b"HTTP/1.1 2000 OK\r\n\r\n", HttpError::Status),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                HttpError::Length,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
                HttpError::Length,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                HttpError::Body(1000),
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
                HttpError::Body(1000),
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                HttpError::Length,
            ),
        ];
        for (bytes, want) in table {
            assert_eq!(
                read(bytes, 11),
                Err(want),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
        let endless = vec![b'x'; HEAD_MAX * 2];
        assert_eq!(read(&endless, 1000), Err(HttpError::Head));
        let mut body = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        body.resize(5000, b'x');
        assert_eq!(read(&body, 100), Err(HttpError::Body(1000)));
    }

    #[test]
    fn nothing_breaks_the_reader_or_makes_it_grow() {
        fuzz(&[CHUNKED], |bytes, random| {
            let step = 1 + random.below(40);
            if let Ok(answer) = read(bytes, step) {
                assert!(answer.body.len() <= 1000);
            }
        });
    }

    #[test]
    fn requests_byte_for_byte() {
        let to = "169.254.169.254:80".parse().unwrap();
        let text = |request: &Request| String::from_utf8(request.bytes(to)).unwrap();
        assert_eq!(
            text(
                &Request::get("/x")
                    .header("A", "b")
                    .header("Bad", "b\r\nc: d")
            ),
            "GET /x HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: slipform-init\r\nAccept: */*\r\nConnection: close\r\nA: b\r\n\r\n"
        );
        assert!(text(&Request::new("PUT", "/t")).ends_with("\r\nContent-Length: 0\r\n\r\n"));
    }
}
