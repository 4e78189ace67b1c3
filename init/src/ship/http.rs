//! HTTP/1.1 as a client of one request at a time (RFC 9112). Pure; answers are hostile:
//! head and body have limits, and what is beyond them is an error.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

/// Longest head.
const HEAD_MAX: usize = 8 * 1024;
/// Longest body.
const BODY_MAX: usize = 64 * 1024;
/// 1xx answers before the final one.
const INTERIM_MAX: u32 = 8;

/// An answer that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// Not HTTP/1.
    #[error("the answer is no HTTP/1")]
    Malformed,
    /// Longer than it may be.
    #[error("the answer is longer than it may be")]
    TooLong,
    /// The connection ended in the middle.
    #[error("the answer ends too early")]
    Cut,
}

/// A POST request of JSON.
pub(crate) fn post(
    host: &str,
    port: u16,
    path: &str,
    headers: &BTreeMap<String, String>,
    body: &str,
) -> Vec<u8> {
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nHost: {bracketed}:{port}\r\nUser-Agent: slipform-init/{}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// `Retry-After` in seconds (its date form is passed over).
    pub(crate) retry_after: Option<Duration>,
    /// The connection may be used again.
    pub(crate) keeps: bool,
    /// The body.
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
    ToTheEnd,
}

#[derive(Debug)]
struct Head {
    status: u16,
    length: Length,
    retry_after: Option<Duration>,
    keeps: bool,
}

/// Puts an answer together from pieces.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    head: Option<Head>,
    body: Vec<u8>,
    interim: u32,
}

impl Reader {
    /// Takes a piece; gives the answer once it is whole.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<Option<Answer>, HttpError> {
        if self.bytes.len() + piece.len() > HEAD_MAX + BODY_MAX {
            return Err(HttpError::TooLong);
        }
        self.bytes.extend_from_slice(piece);
        while self.head.is_none() {
            let Some(end) = find(&self.bytes, b"\r\n\r\n") else {
                return if self.bytes.len() > HEAD_MAX {
                    Err(HttpError::TooLong)
                } else {
                    Ok(None)
                };
            };
            if end > HEAD_MAX {
                return Err(HttpError::TooLong);
            }
            let head = head(self.bytes.get(..end).unwrap_or_default())?;
            self.bytes.drain(..end + 4);
            if (100..200).contains(&head.status) {
                self.interim += 1;
                if self.interim > INTERIM_MAX || head.status == 101 {
                    return Err(HttpError::Malformed);
                }
            } else {
                self.head = Some(head);
            }
        }
        self.body(false)
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self) -> Result<Answer, HttpError> {
        self.body(true)?.ok_or(HttpError::Cut)
    }

    fn body(&mut self, ended: bool) -> Result<Option<Answer>, HttpError> {
        let Some(head) = &self.head else {
            return Ok(None);
        };
        let whole = match head.length {
            Length::Known(length) => {
                let whole = self.bytes.len() >= length;
                if whole {
                    self.body = self.bytes.drain(..length).collect();
                }
                whole
            }
            Length::Chunked => chunks(&mut self.bytes, &mut self.body)?,
            Length::ToTheEnd => {
                self.body.append(&mut self.bytes);
                ended
            }
        };
        if self.body.len() > BODY_MAX {
            return Err(HttpError::TooLong);
        }
        if !whole {
            return Ok(None);
        }
        Ok(Some(Answer {
            status: head.status,
            retry_after: head.retry_after,
            // What comes behind the answer was not asked for.
            keeps: head.keeps && head.length != Length::ToTheEnd && self.bytes.is_empty(),
            body: std::mem::take(&mut self.body),
        }))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

fn head(bytes: &[u8]) -> Result<Head, HttpError> {
    let text = std::str::from_utf8(bytes).map_err(|_| HttpError::Malformed)?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let rest = status_line
        .strip_prefix("HTTP/1.")
        .ok_or(HttpError::Malformed)?;
    let (minor, rest) = rest.split_once(' ').ok_or(HttpError::Malformed)?;
    let status = rest
        .get(..3)
        .filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|code| code.parse().ok())
        .filter(|code| (100..600).contains(code))
        .ok_or(HttpError::Malformed)?;
    let mut head = Head {
        status,
        length: if matches!(status, 204 | 304) || status < 200 {
            Length::Known(0)
        } else {
            Length::ToTheEnd
        },
        retry_after: None,
        keeps: minor != "0",
    };
    let fixed = head.length != Length::ToTheEnd;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(HttpError::Malformed)?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if !fixed && head.length != Length::Chunked => {
                let length = value.parse().map_err(|_| HttpError::Malformed)?;
                if length > BODY_MAX {
                    return Err(HttpError::TooLong);
                }
                match head.length {
                    Length::Known(other) if other != length => return Err(HttpError::Malformed),
                    _ => head.length = Length::Known(length),
                }
            }
            "transfer-encoding" if !fixed => {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(HttpError::Malformed);
                }
                // It wins over a length (RFC 9112 section 6.3).
                head.length = Length::Chunked;
            }
            "connection" => {
                let close = value
                    .split(',')
                    .any(|word| word.trim().eq_ignore_ascii_case("close"));
                head.keeps &= !close;
            }
            "retry-after" => head.retry_after = value.parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    Ok(head)
}

/// Moves whole chunks (RFC 9112 section 7.1) from `bytes` to `body`; true at the end.
fn chunks(bytes: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool, HttpError> {
    loop {
        let Some(line_end) = find(bytes, b"\r\n") else {
            return if bytes.len() > 1024 {
                Err(HttpError::Malformed)
            } else {
                Ok(false)
            };
        };
        let line = std::str::from_utf8(bytes.get(..line_end).unwrap_or_default())
            .map_err(|_| HttpError::Malformed)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(HttpError::Malformed);
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| HttpError::TooLong)?;
        if size > BODY_MAX || body.len() + size > BODY_MAX {
            return Err(HttpError::TooLong);
        }
        let data = line_end + 2;
        if size == 0 {
            // Trailers, of which none is wanted, end with an empty line.
            let rest = bytes.get(line_end..).unwrap_or_default();
            let Some(end) = find(rest, b"\r\n\r\n") else {
                return if rest.len() > HEAD_MAX {
                    Err(HttpError::TooLong)
                } else {
                    Ok(false)
                };
            };
            bytes.drain(..line_end + end + 4);
            return Ok(true);
        }
        match bytes.get(data + size..data + size + 2) {
            None => return Ok(false),
            Some(b"\r\n") => {}
            Some(_) => return Err(HttpError::Malformed),
        }
        body.extend_from_slice(bytes.get(data..data + size).unwrap_or_default());
        bytes.drain(..data + size + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn read(bytes: &[u8], piece: usize) -> Result<Option<Answer>, HttpError> {
        let mut reader = Reader::default();
        for part in bytes.chunks(piece) {
            if let Some(answer) = reader.take(part)? {
                return Ok(Some(answer));
            }
        }
        reader.end().map(Some)
    }

    #[test]
    fn a_request_byte_for_byte() {
        let headers = BTreeMap::from([("x-key".to_owned(), "abc".to_owned())]);
        let text = String::from_utf8(post("::1", 4318, "/v1/logs", &headers, "{}")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text,
            format!(
                "POST /v1/logs HTTP/1.1\r\nHost: [::1]:4318\r\nUser-Agent: slipform-init/{version}\r\n\
                 Content-Type: application/json\r\nContent-Length: 2\r\nx-key: abc\r\n\r\n{{}}"
            )
        );
    }

    #[test]
    fn answers_come_whole_whatever_the_pieces() {
        let known = &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"[..];
        let chunked =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n1\r\n \r\n0\r\nT: x\r\n\r\n"[..];
        let to_the_end = &b"HTTP/1.0 200 OK\r\n\r\nall of it"[..];
        let none = &b"HTTP/1.1 204 No Content\r\nConnection: x, close\r\n\r\n"[..];
        for piece in [1, 2, 3, 7, 1000] {
            let answer = read(known, piece).unwrap().unwrap();
            assert_eq!((answer.status, answer.keeps), (503, true));
            assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
            assert_eq!(answer.body, b"no");
            let answer = read(chunked, piece).unwrap().unwrap();
            assert_eq!((answer.status, answer.keeps), (200, true));
            assert_eq!(answer.body, b"{} ");
            let answer = read(to_the_end, piece).unwrap().unwrap();
            assert_eq!(
                (answer.body.as_slice(), answer.keeps),
                (&b"all of it"[..], false)
            );
            let answer = read(none, piece).unwrap().unwrap();
            assert_eq!((answer.status, answer.keeps), (204, false));
        }
    }

    #[test]
    fn broken_and_endless_answers_are_refused() {
        let endless_head = [b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'x'; 20_000]].concat();
        let endless_body = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 100_000]].concat();
        for (bytes, error) in [
            (&b"SSH-2.0-x\r\n\r\n"[..], HttpError::Malformed),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", HttpError::Malformed),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", HttpError::Malformed),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                HttpError::TooLong,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
                HttpError::Cut,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                HttpError::TooLong,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n",
                HttpError::Malformed,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                HttpError::Malformed,
            ),
            (b"HTTP/1.1 101 Switch\r\n\r\n", HttpError::Malformed),
            (&endless_head, HttpError::TooLong),
            (&endless_body, HttpError::TooLong),
        ] {
            assert_eq!(read(bytes, 4096), Err(error), "{}", bytes.len());
        }
    }

    #[test]
    fn no_answer_can_break_the_reader() {
        let seed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        fuzz(&[seed], |bytes, random| {
            let _ = read(bytes, 1 + random.below(bytes.len() + 1));
        });
    }
}
