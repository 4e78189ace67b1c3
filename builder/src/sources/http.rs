//! Fetching one file: proxies, redirects, logins, retries, resuming.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use ureq::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
};

use super::credentials::Credentials;
use super::uri::{Scheme, Uri};
use super::wire::{Answer, Wire, WireError, header};
use super::{Host, SourceError};
use crate::base::fs::At;
use crate::base::progress::{Quiet, Task};
use crate::store::StoreError;

/// Most redirects that are followed.
const REDIRECTS: usize = 10;

/// Longest time that a server may ask to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Most attempts for one file, however much each of them brings.
const ATTEMPTS: u32 = 30;

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

/// Patience and persistence.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Time for a connection.
    pub connect: Duration,
    /// Time without a byte after which a server is given up.
    pub read: Duration,
    /// How often a file is asked for again without getting further.
    pub retries: u32,
    /// Wait before the first retry; each further one waits three times as long.
    pub backoff: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            read: Duration::from_secs(60),
            retries: 3,
            backoff: Duration::from_millis(400),
        }
    }
}

/// Fetches files over HTTP, HTTPS and from folders.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    credentials: Credentials,
    options: ClientOptions,
}

/// What became of a transfer.
#[derive(Debug)]
pub enum Fetched<W> {
    /// All of it, in the sink.
    Done(W),
    /// The server does not have it.
    Absent,
    /// It has another size than expected; this many bytes at least.
    OtherSize(u64),
}

/// What to fetch, and how much of it is right.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// From where.
    pub uri: &'a Uri,
    /// Its exact size in bytes, if known.
    pub size: Option<u64>,
    /// The most bytes to take.
    pub limit: u64,
    /// Whether caches on the way must ask the server again.
    pub fresh: bool,
}

/// Why an attempt failed.
enum Trouble {
    /// Trying again may help.
    Again { why: String, wait: Option<Duration> },
    /// It will not.
    Final(SourceError),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
}

impl Client {
    /// A client with the host's proxies, certificates and logins.
    #[must_use]
    pub fn new(host: &Host, options: ClientOptions) -> Self {
        Self {
            wire: Wire::new(host, options.connect, options.read),
            credentials: Credentials::load(host),
            options,
        }
    }

    /// Reads a whole file of at most `limit` bytes; `None` when it is not there.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(&self, uri: &Uri, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let wanted = Wanted {
            uri,
            size: None,
            limit,
            fresh: false,
        };
        match self.fetch(wanted, &Quiet, &mut || Ok(Vec::new()))? {
            Fetched::Done(bytes) => Ok(Some(bytes)),
            Fetched::Absent => Ok(None),
            Fetched::OtherSize(_) => Err(SourceError::TooBig {
                uri: uri.public(),
                limit,
            }),
        }
    }

    /// Fetches a file into a sink that `open` makes (again, when a transfer
    /// must start over). `task` advances by what is new.
    ///
    /// # Errors
    /// [`SourceError`]; what `open` and the sink say.
    pub fn fetch<W: Write>(
        &self,
        wanted: Wanted<'_>,
        task: &dyn Task,
        open: &mut dyn FnMut() -> Result<W, SourceError>,
    ) -> Result<Fetched<W>, SourceError> {
        if wanted.size.is_some_and(|size| size > wanted.limit) {
            return Err(SourceError::TooBig {
                uri: wanted.uri.public(),
                limit: wanted.limit,
            });
        }
        if wanted.uri.scheme == Scheme::File {
            return fetch_file(wanted, task, open);
        }
        let mut transfer = Transfer {
            client: self,
            wanted,
            task,
            sink: open()?,
            open,
            got: 0,
            most: 0,
            validator: None,
        };
        let (mut fruitless, mut attempts) = (0, 0);
        loop {
            let before = transfer.most;
            attempts += 1;
            let (why, wait) = match transfer.attempt() {
                Ok(Outcome::Done) => return Ok(Fetched::Done(transfer.sink)),
                Ok(Outcome::Absent) => return Ok(Fetched::Absent),
                Ok(Outcome::OtherSize(size)) => return Ok(Fetched::OtherSize(size)),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again { why, wait }) => (why, wait),
            };
            fruitless = if transfer.most > before {
                0
            } else {
                fruitless + 1
            };
            if fruitless > self.options.retries || attempts >= ATTEMPTS {
                return Err(SourceError::Transport {
                    uri: wanted.uri.public(),
                    why: format!("{why} (tried {attempts} times)"),
                });
            }
            let pause = self.options.backoff * 3u32.saturating_pow(fruitless.saturating_sub(1));
            std::thread::sleep(wait.unwrap_or(pause).max(pause).min(LONGEST_WAIT));
        }
    }

    /// Asks for a file, from `start` on if that is not 0, along all redirects.
    fn ask(&self, wanted: Wanted<'_>, start: Option<(u64, &str)>) -> Result<Answer, Trouble> {
        let mut uri = wanted.uri.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.ask_once(&uri, wanted.fresh, start)?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = header(&answer, &LOCATION).unwrap_or_default();
            let next = uri.resolve(location)?;
            let why = match (uri.scheme, next.scheme) {
                (_, Scheme::File) => "a file of this host",
                (Scheme::Https, Scheme::Http) => "an address without TLS",
                _ => {
                    uri = next;
                    continue;
                }
            };
            return Err(final_error(
                wanted.uri,
                format!(
                    "it redirects to {why} ({}), which is not followed",
                    next.public()
                ),
            ));
        }
        Err(final_error(
            wanted.uri,
            format!("it redirects more than {REDIRECTS} times"),
        ))
    }

    fn ask_once(
        &self,
        uri: &Uri,
        fresh: bool,
        start: Option<(u64, &str)>,
    ) -> Result<Answer, Trouble> {
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        if let Some(login) = self.credentials.find(uri) {
            headers.push((AUTHORIZATION, login.basic()));
        }
        if let Some((start, validator)) = start {
            headers.push((RANGE, format!("bytes={start}-")));
            headers.push((IF_RANGE, validator.to_owned()));
        }
        if fresh {
            headers.push((CACHE_CONTROL, "no-cache".to_owned()));
        }
        self.wire
            .get(uri, &headers)
            .map_err(|WireError { again, why }| {
                if again {
                    Trouble::Again { why, wait: None }
                } else {
                    final_error(uri, why)
                }
            })
    }
}

enum Outcome {
    Done,
    Absent,
    OtherSize(u64),
}

/// A file under way.
struct Transfer<'a, W> {
    client: &'a Client,
    wanted: Wanted<'a>,
    task: &'a dyn Task,
    open: &'a mut dyn FnMut() -> Result<W, SourceError>,
    sink: W,
    /// Bytes in the sink.
    got: u64,
    /// The most that ever were in it: progress counts from here.
    most: u64,
    /// What the server calls this version of the file (ETag or Last-Modified).
    validator: Option<String>,
}

impl<W: Write> Transfer<'_, W> {
    fn attempt(&mut self) -> Result<Outcome, Trouble> {
        let resume = self.validator.as_deref().filter(|_| self.got > 0);
        let resume = resume.map(|validator| (self.got, validator));
        let answer = self.client.ask(self.wanted, resume)?;
        match answer.status().as_u16() {
            200 => self.start_over(&answer)?,
            206 if self.continues(&answer) => {}
            206 | 416 => {
                self.validator = None;
                return Err(again("the server mixes up ranges"));
            }
            404 | 410 => return Ok(Outcome::Absent),
            status => return Err(refused(self.wanted.uri, status, &answer)),
        }
        let length = header(&answer, &CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        if let (Some(length), Some(size)) = (length, self.wanted.size)
            && self.got.saturating_add(length) != size
        {
            return Ok(Outcome::OtherSize(self.got.saturating_add(length)));
        }
        self.receive(answer)
    }

    /// The whole file comes: what came before is thrown away.
    fn start_over(&mut self, answer: &Answer) -> Result<(), Trouble> {
        if self.got > 0 {
            self.sink = (self.open)()?;
            self.got = 0;
        }
        let strong = header(answer, &ETAG).filter(|tag| !tag.starts_with("W/"));
        let validator = strong.or_else(|| header(answer, &LAST_MODIFIED));
        let resumable = header(answer, &ACCEPT_RANGES) != Some("none");
        self.validator = validator.filter(|_| resumable).map(str::to_owned);
        Ok(())
    }

    /// Whether a partial answer goes on where the sink ends.
    fn continues(&self, answer: &Answer) -> bool {
        let range = header(answer, &CONTENT_RANGE).and_then(|range| {
            let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let (first, _) = span.split_once('-')?;
            Some((first.parse::<u64>().ok()?, total.parse::<u64>().ok()))
        });
        range.is_some_and(|(first, total)| {
            self.got > 0
                && first == self.got
                && (self.wanted.size.is_none() || total.is_none() || total == self.wanted.size)
        })
    }

    fn receive(&mut self, answer: Answer) -> Result<Outcome, Trouble> {
        let end = self.wanted.size.unwrap_or(self.wanted.limit);
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(again(format!(
                        "the transfer broke off after {} bytes: {error}",
                        self.got
                    )));
                }
            };
            if self.got + count as u64 > end {
                return Ok(Outcome::OtherSize(self.got + count as u64));
            }
            self.sink
                .write_all(&buffer[..count])
                .map_err(|error| sink_error(error, self.wanted.uri))?;
            self.got += count as u64;
            if self.got > self.most {
                self.task.advance(self.got - self.most);
                self.most = self.got;
            }
        }
        match self.wanted.size {
            Some(size) if self.got < size => Err(again(format!(
                "the transfer ended after {} of {size} bytes",
                self.got
            ))),
            _ => Ok(Outcome::Done),
        }
    }
}

fn fetch_file<W: Write>(
    wanted: Wanted<'_>,
    task: &dyn Task,
    open: &mut dyn FnMut() -> Result<W, SourceError>,
) -> Result<Fetched<W>, SourceError> {
    let path = &wanted.uri.path;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Fetched::Absent);
        }
        Err(error) => Err(error).at("open", path)?,
    };
    let meta = file.metadata().at("stat", path)?;
    if !meta.is_file() {
        return Ok(Fetched::Absent);
    }
    let size = meta.len();
    if size > wanted.limit || wanted.size.is_some_and(|wanted| wanted != size) {
        return Ok(Fetched::OtherSize(size));
    }
    let mut sink = open()?;
    let mut buffer = vec![0; CHUNK];
    let mut left = size;
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        let count = file.read(&mut buffer[..part]).at("read", path)?;
        if count == 0 {
            return Ok(Fetched::OtherSize(size - left));
        }
        sink.write_all(&buffer[..count])
            .map_err(|error| sink_error(error, wanted.uri))?;
        task.advance(count as u64);
        left -= count as u64;
    }
    Ok(Fetched::Done(sink))
}

fn again(why: impl Into<String>) -> Trouble {
    Trouble::Again {
        why: why.into(),
        wait: None,
    }
}

fn final_error(uri: &Uri, why: impl Into<String>) -> Trouble {
    Trouble::Final(SourceError::Transport {
        uri: uri.public(),
        why: why.into(),
    })
}

/// A sink of the store says its own error in full.
fn sink_error(error: io::Error, uri: &Uri) -> SourceError {
    match StoreError::from_writer(error) {
        Ok(store) => SourceError::Store(store),
        Err(error) => SourceError::Transport {
            uri: uri.public(),
            why: format!("it cannot be written down: {error}"),
        },
    }
}

/// What a status means that brings no file.
fn refused(uri: &Uri, status: u16, answer: &Answer) -> Trouble {
    let why = match status {
        401 => "401: it wants a login; put one into ~/.netrc or apt's auth.conf, or a right one"
            .to_owned(),
        403 => "403: it is forbidden; check the login and the mirror".to_owned(),
        407 => "407: the proxy wants a login; write http://user:password@proxy:port".to_owned(),
        status => format!("the server answers {status}"),
    };
    if status == 408 || status == 429 || status >= 500 {
        let wait = header(answer, &RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        return Trouble::Again { why, wait };
    }
    final_error(uri, why)
}

#[cfg(test)]
#[path = "http_tests.rs"]
pub(super) mod tests;
