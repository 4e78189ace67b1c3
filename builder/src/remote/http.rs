//! What registry and object store share on the wire: sending with a body that
//! can be sent again, trying again, answers with limits.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ureq::http::Method;
use ureq::http::header::{HeaderName, RETRY_AFTER};

use super::{RemoteError, Upload};
use crate::base::Digest;
use crate::sources::Host;
use crate::sources::uri::{Scheme, Uri};
pub(super) use crate::sources::wire::{Answer, header};
use crate::sources::wire::{Wire, WireError};

/// Longest time that a server may ask to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Most attempts at one thing, however much each of them brings.
const ATTEMPTS: u32 = 200;

/// Bytes moved at a time.
pub(super) const CHUNK: usize = 64 * 1024;

/// Most bytes of an error's text that are read, and shown.
const ERROR_LIMIT: u64 = 16 * 1024;

/// Patience, persistence and sizes.
#[derive(Debug, Clone, Copy)]
pub struct RemoteOptions {
    /// Time for a connection.
    pub connect: Duration,
    /// Time without a byte after which a server is given up.
    pub read: Duration,
    /// How often something is tried again without getting further.
    pub retries: u32,
    /// Wait before the first retry; each further one waits twice as long.
    pub backoff: Duration,
    /// Blobs up to this size, in bytes, go in one request.
    pub whole: u64,
    /// Larger ones go in parts of this size. S3 takes none below 5 MiB, and at most 10,000.
    pub part: u64,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            read: Duration::from_secs(60),
            retries: 5,
            backoff: Duration::from_millis(500),
            whole: 16 << 20,
            part: 16 << 20,
        }
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Trying again may help.
    Again {
        /// What happened.
        why: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
    /// It will not.
    Final(RemoteError),
}

impl<E: Into<RemoteError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// A failure that may pass.
pub(super) fn again(why: impl Into<String>) -> Trouble {
    Trouble::Again {
        why: why.into(),
        wait: None,
    }
}

/// The content of a request, which can be sent as often as need be.
pub(super) enum Payload<'a> {
    /// Nothing at all.
    Nothing,
    /// These bytes.
    Bytes(&'a [u8]),
    /// `length` bytes of a blob from `start` on.
    Part {
        upload: &'a Upload<'a>,
        start: u64,
        length: u64,
        /// The end of what was ever sent of the blob.
        most: &'a AtomicU64,
    },
}

impl Payload<'_> {
    /// Its bytes.
    pub(super) const fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part { length, .. } => *length,
        }
    }
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) payload: Payload<'a>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, uri: Uri) -> Self {
        Self {
            method,
            uri,
            headers: Vec::new(),
            payload: Payload::Nothing,
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// Sends requests of one remote, and tries again.
#[derive(Debug)]
pub(super) struct Http {
    wire: Wire,
    pub(super) options: RemoteOptions,
}

impl Http {
    pub(super) fn new(host: &Host, options: RemoteOptions) -> Self {
        Self {
            wire: Wire::new(host, options.connect, options.read),
            options,
        }
    }

    /// Sends a request once, with further headers (logins). Whatever the
    /// status, an answer is no error.
    pub(super) fn send(
        &self,
        call: &Call<'_>,
        more: &[(HeaderName, String)],
    ) -> Result<Answer, Trouble> {
        if call.uri.scheme != Scheme::Https && !call.uri.is_loopback() {
            return Err(Trouble::Final(RemoteError::Transport {
                operation: "talk".to_owned(),
                uri: call.uri.public(),
                why: "plain http is for this host itself only; use https".to_owned(),
            }));
        }
        let headers: Vec<_> = call.headers.iter().chain(more).cloned().collect();
        let send = |body: Option<(&mut dyn Read, u64)>| {
            self.wire
                .send(call.method.clone(), &call.uri, &headers, body)
        };
        let answer = match &call.payload {
            Payload::Nothing => send(None),
            Payload::Bytes(bytes) => {
                let mut reader = *bytes;
                send(Some((&mut reader, bytes.len() as u64)))
            }
            Payload::Part {
                upload,
                start,
                length,
                most,
            } => {
                let mut source = Source::open(upload, *start, *length, most)?;
                let answer = send(Some((&mut source, *length)));
                if let Some(error) = source.failed {
                    return Err(Trouble::Final(RemoteError::Read {
                        digest: upload.digest,
                        source: error,
                    }));
                }
                answer
            }
        };
        answer.map_err(|WireError { again, why }| {
            if again {
                return Trouble::Again { why, wait: None };
            }
            Trouble::Final(RemoteError::Transport {
                operation: format!("{} something", call.method),
                uri: call
                    .uri
                    .public()
                    .split('?')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                why,
            })
        })
    }

    /// Does `attempt` until it succeeds, fails for good, or has failed too
    /// often without getting further (`progress` grows).
    pub(super) fn persist<T>(
        &self,
        operation: &str,
        uri: &str,
        progress: &dyn Fn() -> u64,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, RemoteError> {
        let (mut fruitless, mut attempts) = (0u32, 0u32);
        loop {
            let before = progress();
            attempts += 1;
            let (why, wait) = match attempt() {
                Ok(done) => return Ok(done),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again { why, wait }) => (why, wait),
            };
            fruitless = if progress() > before {
                0
            } else {
                fruitless + 1
            };
            if fruitless > self.options.retries || attempts >= ATTEMPTS {
                return Err(RemoteError::Transport {
                    operation: operation.to_owned(),
                    uri: uri.to_owned(),
                    why: format!("{why} (tried {attempts} times)"),
                });
            }
            let pause = self.options.backoff * 2u32.saturating_pow(fruitless.saturating_sub(1));
            std::thread::sleep(wait.unwrap_or(pause).max(pause).min(LONGEST_WAIT));
        }
    }

    /// As [`Http::persist`], for what has no progress to show.
    pub(super) fn retry<T>(
        &self,
        operation: &str,
        uri: &str,
        attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, RemoteError> {
        self.persist(operation, uri, &|| 0, attempt)
    }
}

/// A blob's bytes on their way out; tells how many are new.
struct Source<'a> {
    reader: Box<dyn Read + Send>,
    upload: &'a Upload<'a>,
    at: u64,
    end: u64,
    most: &'a AtomicU64,
    failed: Option<io::Error>,
}

impl<'a> Source<'a> {
    fn open(
        upload: &'a Upload<'a>,
        start: u64,
        length: u64,
        most: &'a AtomicU64,
    ) -> Result<Self, RemoteError> {
        let reader = (upload.open)(start).map_err(|source| RemoteError::Read {
            digest: upload.digest,
            source,
        })?;
        Ok(Self {
            reader,
            upload,
            at: start,
            end: start + length,
            most,
            failed: None,
        })
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        let fail = |error: io::Error, failed: &mut Option<io::Error>| {
            let shown = io::Error::new(error.kind(), error.to_string());
            *failed = Some(error);
            Err(shown)
        };
        let count = match self.reader.read(&mut buffer[..room]) {
            Ok(0) => {
                let short = format!("it ends after {} of {} bytes", self.at, self.upload.size);
                let short = io::Error::new(io::ErrorKind::UnexpectedEof, short);
                return fail(short, &mut self.failed);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return fail(error, &mut self.failed),
        };
        self.at += count as u64;
        let before = self.most.fetch_max(self.at, Ordering::Relaxed);
        if self.at > before {
            (self.upload.sent)(self.at - before);
        }
        Ok(count)
    }
}

/// Reads a whole answer of at most `limit` bytes.
pub(super) fn read_all(answer: Answer, limit: u64, what: &str) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    let mut body = answer
        .into_body()
        .into_reader()
        .take(limit.saturating_add(1));
    body.read_to_end(&mut bytes)
        .map_err(|error| again(format!("the answer broke off: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(Trouble::Final(RemoteError::Malformed {
            what: what.to_owned(),
            uri: "the server".to_owned(),
            why: format!("it has more than the {limit} bytes that are read"),
        }));
    }
    Ok(bytes)
}

/// An answer with another status than hoped for.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) wait: Option<Duration>,
    pub(super) text: Vec<u8>,
}

impl Refusal {
    pub(super) fn of(answer: Answer) -> Self {
        let status = answer.status().as_u16();
        let wait = header(&answer, &RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        let mut text = Vec::new();
        // What cannot be read of an explanation is left out.
        let _partly = answer
            .into_body()
            .into_reader()
            .take(ERROR_LIMIT)
            .read_to_end(&mut text);
        Self { status, wait, text }
    }

    /// What it means: whether to try again, or what to tell a person. The text
    /// that came with it is shown, made harmless.
    pub(super) fn trouble(self, operation: &str, uri: &str) -> Trouble {
        let status = self.status;
        let said = explanation(&self.text);
        if status == 408 || status == 429 || status >= 500 {
            return Trouble::Again {
                why: format!("the server answers {status}{said}"),
                wait: self.wait,
            };
        }
        let remedy = match status {
            401 => "; log in (docker login, or the variables of AWS for s3://), or check the login",
            403 => "; the login lacks the right to do this",
            404 => "; check the repository or bucket, and that it exists",
            _ => "",
        };
        Trouble::Final(RemoteError::Refused {
            operation: operation.to_owned(),
            uri: uri.to_owned(),
            status,
            why: format!("{said}{remedy}"),
        })
    }
}

/// What a status means that is not the one hoped for.
pub(super) fn refused(operation: &str, uri: &str, answer: Answer) -> Trouble {
    Refusal::of(answer).trouble(operation, uri)
}

/// An error's text for people: code and message of a registry's JSON or S3's
/// XML, else its beginning, in one line without control characters.
fn explanation(text: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = String::from_utf8_lossy(text);
    let said = match serde_json::from_str::<Errors>(&text) {
        Ok(Errors { errors }) => errors
            .first()
            .map(|one| format!("{} {}", one.code, one.message))
            .unwrap_or_default(),
        Err(_) => {
            let between = |tag: &str| {
                let (_, rest) = text.split_once(&format!("<{tag}>"))?;
                Some(rest.split_once('<')?.0.to_owned())
            };
            match (between("Code"), between("Message")) {
                (Some(code), Some(message)) => format!("{code} {message}"),
                _ => text.into_owned(),
            }
        }
    };
    let said: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    match said.trim() {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

/// Digests what would be sent, to tell whose fault a refused upload is.
pub(super) fn check_source(upload: &Upload<'_>, uri: &str) -> Result<(), RemoteError> {
    let read = |source| RemoteError::Read {
        digest: upload.digest,
        source,
    };
    let mut reader = (upload.open)(0).map_err(read)?;
    let limit = upload.size.saturating_add(1);
    let (found, size) = Digest::of_reader(&mut (&mut reader).take(limit)).map_err(read)?;
    if found == upload.digest && size == upload.size {
        return Ok(());
    }
    Err(RemoteError::Damaged {
        what: "the blob to publish".to_owned(),
        uri: uri.to_owned(),
        expected: format!("{} ({} bytes)", upload.digest, upload.size),
        found: format!("{found} ({size} bytes)"),
    })
}

/// Bytes in memory as an [`Upload`]'s.
pub(super) fn opener(bytes: &[u8]) -> impl Fn(u64) -> io::Result<Box<dyn Read + Send>> + Sync + '_ {
    |start| {
        let start = usize::try_from(start)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        Ok(Box::new(io::Cursor::new(bytes[start..].to_vec())))
    }
}

/// Percent-encodes all but what RFC 3986 leaves unreserved.
pub(super) fn strict(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
