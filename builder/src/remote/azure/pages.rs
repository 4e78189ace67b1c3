//! Page blobs of one container.

use std::collections::BTreeMap;
use std::fmt;

use md5::{Digest as _, Md5};
use ureq::http::Method;
use ureq::http::header::{CONTENT_LENGTH, HeaderName, IF_NONE_MATCH};

use super::Login;
use super::login::MD5;
use crate::base::base64;
use crate::remote::aws::{Pace, now, xml};
use crate::remote::http::{
    Answer, Call, Http, Payload, Refusal, Trouble, again, header, read_all, strict,
};
use crate::remote::{RemoteError, RemoteOptions};
use crate::sources::Host;
use crate::sources::uri::Uri;

/// Most bytes that one request writes.
pub const MOST: u64 = 4 << 20;
/// Largest list of ranges that is read, in bytes, and most pages of it.
const LIST_LIMIT: u64 = 64 << 20;
const LISTS: usize = 10_000;

const TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
const SIZE: HeaderName = HeaderName::from_static("x-ms-blob-content-length");
const WRITE: HeaderName = HeaderName::from_static("x-ms-page-write");
const PAGES: HeaderName = HeaderName::from_static("x-ms-range");
const SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const COPY: HeaderName = HeaderName::from_static("x-ms-copy-status");
const CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
/// What a header of metadata begins with.
const META: &str = "x-ms-meta-";

/// A container of an account.
#[derive(Debug)]
pub struct PageBlobs {
    http: Http,
    login: Login,
    container: String,
    name: String,
}

/// A blob as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its bytes.
    pub size: u64,
    /// Its metadata, by names in lower case.
    pub metadata: BTreeMap<String, String>,
    /// What became of the copy that it is: `success`, `pending`, …; nothing when it is none.
    pub copy: Option<String>,
}

impl PageBlobs {
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// [`RemoteError::Login`] when nothing opens the account.
    pub fn open(
        account: &str,
        container: &str,
        host: &Host,
        options: RemoteOptions,
    ) -> Result<Self, RemoteError> {
        Ok(Self {
            http: Http::new(host, options),
            login: Login::load(host, account)?,
            container: container.to_owned(),
            name: format!("azure://{account}/{container}"),
        })
    }

    /// The first pause of whoever waits for something there.
    #[must_use]
    pub const fn pause(&self) -> std::time::Duration {
        self.http.options.backoff
    }

    /// The address of a blob, without what opens it.
    #[must_use]
    pub fn address(&self, blob: &str) -> String {
        self.at(blob, "").public()
    }

    fn at(&self, blob: &str, query: &str) -> Uri {
        let mut uri = self.login.endpoint.clone();
        let slash = if blob.is_empty() { "" } else { "/" };
        let (container, blob) = (strict(&self.container), strict(blob));
        uri.path = format!("{}/{container}{slash}{blob}{query}", uri.path);
        uri
    }

    /// Asks until there is an answer with one of `good`'s statuses.
    fn ask(
        &self,
        page: &PageCall,
        body: &[u8],
        good: &[u16],
        pace: Option<&Pace>,
    ) -> Result<Answer, RemoteError> {
        self.ask_for(page, body, (good, pace), Ok)
    }

    /// The same for what an answer brings: one that breaks off is asked for again.
    fn ask_for<T>(
        &self,
        page: &PageCall,
        body: &[u8],
        (good, pace): (&[u16], Option<&Pace>),
        take: impl Fn(Answer) -> Result<T, Trouble>,
    ) -> Result<T, RemoteError> {
        let operation = format!("{} of {}", page.action, page.blob);
        self.http.retry(&operation, &self.name, || {
            let turn = pace.map(Pace::enter);
            let mut call = Call::new(page.method.clone(), self.at(&page.blob, &page.query));
            if page.method == Method::PUT {
                call = call.body(Payload::Bytes(body));
            }
            for (name, value) in &page.headers {
                call = call.with(name.clone(), value.clone());
            }
            let login = self.login.sign(&mut call, now());
            let answer = self.http.send(&call, &login);
            drop(turn);
            let answer = answer?;
            let status = answer.status().as_u16();
            if good.contains(&status) {
                if let Some(pace) = pace {
                    pace.good();
                }
                return take(answer);
            }
            if let Some(pace) = pace
                && matches!(status, 429 | 503)
            {
                pace.throttled();
            }
            Err(self.refused(&operation, answer))
        })
    }

    fn refused(&self, operation: &str, answer: Answer) -> Trouble {
        let told = header(&answer, &CODE).map(str::to_owned);
        let refusal = Refusal::of(answer);
        let text = String::from_utf8_lossy(&refusal.text).into_owned();
        let code = told
            .or_else(|| xml::text(&text, "Code"))
            .unwrap_or_default();
        let code: String = code
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(64)
            .collect();
        let remedy = match code.as_str() {
            "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
                "the key is wrong, the signature has ended, or this machine's clock is wrong"
            }
            "ContainerNotFound" => "make the container first, or check its name",
            "AuthorizationPermissionMismatch" | "AuthorizationFailure" => {
                "the login lacks the right to write blobs here"
            }
            _ => return refusal.trouble(operation, &self.name),
        };
        Trouble::Final(RemoteError::Refused {
            operation: operation.to_owned(),
            uri: self.name.clone(),
            status: refusal.status,
            why: format!(": {code}; {remedy}"),
        })
    }

    /// A blob as it is there; nothing when there is none.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn look(&self, blob: &str) -> Result<Option<Blob>, RemoteError> {
        let answer = self.ask(&look(blob), &[], &[200, 404], None)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        let size = header(&answer, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let metadata = answer.headers().iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(META)?;
            Some((name.to_ascii_lowercase(), value.to_str().ok()?.to_owned()))
        });
        Ok(Some(Blob {
            size: size.ok_or_else(|| self.malformed(blob, "it has no length"))?,
            metadata: metadata.collect(),
            copy: header(&answer, &COPY).map(str::to_owned),
        }))
    }

    fn malformed(&self, what: &str, why: &str) -> RemoteError {
        RemoteError::Malformed {
            what: what.to_owned(),
            uri: self.name.clone(),
            why: why.to_owned(),
        }
    }

    /// Makes the container if there is none, and the login may.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn prepare(&self) -> Result<(), RemoteError> {
        // Whoever may only write blobs is told so here; whether that does is seen by writing.
        self.ask(&container(), &[], &[201, 403, 409], None)
            .map(drop)
    }

    /// Asks for a [`create`] or [`copy`]; whether there was nothing of that name.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn begin(&self, call: &PageCall) -> Result<bool, RemoteError> {
        let answer = self.ask(call, &[], &[201, 202, 409, 412], None)?;
        Ok(matches!(answer.status().as_u16(), 201 | 202))
    }

    /// Sends a [`write`] with its bytes, or a [`clear`].
    ///
    /// # Errors
    /// [`RemoteError`]; the service compares the bytes with their sum.
    pub fn send(&self, call: &PageCall, bytes: &[u8], pace: &Pace) -> Result<(), RemoteError> {
        self.ask(call, bytes, &[201], Some(pace)).map(drop)
    }

    /// Replaces a blob's metadata.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn change(&self, call: &PageCall) -> Result<(), RemoteError> {
        self.ask(call, &[], &[200], None).map(drop)
    }

    /// Removes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn remove(&self, blob: &str) -> Result<(), RemoteError> {
        let call = PageCall::new("Delete Blob", Method::DELETE, blob, "");
        self.ask(&call, &[], &[202, 404], None).map(drop)
    }

    /// The ranges of bytes that were written, first and last, in order.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn ranges(&self, blob: &str) -> Result<Vec<(u64, u64)>, RemoteError> {
        let what = "the list of pages";
        let mut found = Vec::new();
        let mut marker = String::new();
        for _ in 0..LISTS {
            let mut call = list(blob);
            call.query.push_str(&marker);
            let answer = self.ask(&call, &[], &[200], None)?;
            let bytes = read_all(answer, LIST_LIMIT, what).map_err(|trouble| match trouble {
                Trouble::Final(error) => error,
                Trouble::Again { why, .. } => self.malformed(what, &why),
            })?;
            let text = String::from_utf8_lossy(&bytes);
            for range in xml::blocks(&text, "PageRange") {
                let number = |name| xml::text(range, name).and_then(|n| n.parse::<u64>().ok());
                let (start, end) = (number("Start"), number("End"));
                let range = start.zip(end).filter(|(start, end)| start <= end);
                found.push(range.ok_or_else(|| self.malformed(what, "a range is none"))?);
            }
            match xml::text(&text, "NextMarker").filter(|next| !next.is_empty()) {
                Some(next) => marker = format!("&marker={}", strict(&next)),
                None => {
                    found.sort_unstable();
                    return Ok(found);
                }
            }
        }
        Err(self.malformed(what, "it has no end"))
    }

    /// Reads `length` bytes from `at` on, at most [`MOST`]; those that were never written
    /// are zeros.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn read(
        &self,
        blob: &str,
        (at, length): (u64, u64),
        pace: &Pace,
    ) -> Result<Vec<u8>, RemoteError> {
        let call = read(blob, at, length);
        self.ask_for(&call, &[], (&[206], Some(pace)), |answer| {
            let bytes = read_all(answer, length, "a range of pages")?;
            let got = bytes.len() as u64;
            if got < length {
                return Err(again(format!("the answer has {got} of {length} bytes")));
            }
            Ok(bytes)
        })
    }

    /// A [`copy`] of another blob of the container.
    #[must_use]
    pub fn copy_of(&self, from: &str, blob: &str, metadata: &[(&str, String)]) -> PageCall {
        copy(&self.login.opened(&self.at(from, "")), blob, metadata)
    }
}

/// A call that can be sent, or shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCall {
    /// The operation, as the service's reference names it.
    pub action: &'static str,
    /// The blob.
    pub blob: String,
    method: Method,
    query: String,
    headers: Vec<(HeaderName, String)>,
}

impl PageCall {
    fn new(action: &'static str, method: Method, blob: &str, query: &str) -> Self {
        Self {
            action,
            blob: blob.to_owned(),
            method,
            query: query.to_owned(),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn with_metadata(mut self, metadata: &[(&str, String)]) -> Self {
        for (name, value) in metadata {
            // Names are ours, of lower case letters.
            if let Ok(name) = HeaderName::try_from(format!("{META}{name}")) {
                self = self.with(name, value.clone());
            }
        }
        self
    }
}

/// One line: `blob Put Page of web-1.vhd: x-ms-page-write=update, x-ms-range=bytes=0-511`.
impl fmt::Display for PageCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.blob.is_empty() { "" } else { " of " };
        write!(f, "blob {}{of}{}:", self.action, self.blob)?;
        for (at, (name, value)) in self.headers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {name}={value}")?;
        }
        Ok(())
    }
}

/// `Create Container`, private as they are by default.
#[must_use]
pub fn container() -> PageCall {
    PageCall::new("Create Container", Method::PUT, "", "?restype=container")
}

/// `Get Blob Properties`.
#[must_use]
pub fn look(blob: &str) -> PageCall {
    PageCall::new("Get Blob Properties", Method::HEAD, blob, "")
}

/// `Put Blob`: zeros, where there is no blob of that name.
#[must_use]
pub fn create(blob: &str, size: u64, metadata: &[(&str, String)]) -> PageCall {
    PageCall::new("Put Blob", Method::PUT, blob, "")
        .with(TYPE, "PageBlob")
        .with(SIZE, size.to_string())
        .with(IF_NONE_MATCH, "*")
        .with_metadata(metadata)
}

/// `Copy Blob` from an address, where there is no blob of that name.
#[must_use]
pub fn copy(from: &str, blob: &str, metadata: &[(&str, String)]) -> PageCall {
    PageCall::new("Copy Blob", Method::PUT, blob, "")
        .with(SOURCE, from)
        .with(IF_NONE_MATCH, "*")
        .with_metadata(metadata)
}

/// `Put Page`: these bytes from `at` on, whole pages, at most [`MOST`].
#[must_use]
pub fn write(blob: &str, at: u64, bytes: &[u8]) -> PageCall {
    let end = at + bytes.len() as u64 - 1;
    PageCall::new("Put Page", Method::PUT, blob, "?comp=page")
        .with(WRITE, "update")
        .with(PAGES, format!("bytes={at}-{end}"))
        .with(MD5, base64::encode(&Md5::digest(bytes)))
}

/// `Put Page` that makes pages zero.
#[must_use]
pub fn clear(blob: &str, at: u64, length: u64) -> PageCall {
    PageCall::new("Put Page", Method::PUT, blob, "?comp=page")
        .with(WRITE, "clear")
        .with(PAGES, format!("bytes={at}-{}", at + length - 1))
}

/// `Get Blob`: a range of it.
#[must_use]
pub fn read(blob: &str, at: u64, length: u64) -> PageCall {
    PageCall::new("Get Blob", Method::GET, blob, "")
        .with(PAGES, format!("bytes={at}-{}", at + length - 1))
}

/// `Get Page Ranges`.
#[must_use]
pub fn list(blob: &str) -> PageCall {
    PageCall::new("Get Page Ranges", Method::GET, blob, "?comp=pagelist")
}

/// `Set Blob Metadata`.
#[must_use]
pub fn describe(blob: &str, metadata: &[(&str, String)]) -> PageCall {
    PageCall::new("Set Blob Metadata", Method::PUT, blob, "?comp=metadata").with_metadata(metadata)
}
