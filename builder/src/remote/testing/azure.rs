//! Azure's page blobs, in memory, as strict as the service: signatures by shared key, sums,
//! whole pages, sizes, conditions, copies that are pending for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use md5::{Digest as _, Md5};

use super::{Reply, Request, Server};
use crate::base::base64;
use crate::remote::aws::hmac;
use crate::sources::uri::decode;

const ACCOUNT: &str = "testaccount";
const KEY: &[u8] = b"the account's key";
const PAGE: u64 = 512;
/// Most bytes that one request writes.
const MOST: u64 = 4 << 20;

/// What this service is like.
#[derive(Debug, Clone, Default)]
pub struct AzureRules {
    /// How often somebody must look until a copy is there.
    pub pending: usize,
    /// Every so many requests one is answered by being too busy or a failure; 0: none.
    pub trouble: usize,
}

#[derive(Debug, Clone, Default)]
struct Blob {
    bytes: Vec<u8>,
    /// Pages that were written.
    pages: Vec<bool>,
    metadata: BTreeMap<String, String>,
    /// Looks until the copy is there; nothing when it is none.
    copy: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Blob>,
    requests: usize,
    seen: Vec<String>,
    written: u64,
    complaints: Vec<String>,
}

/// A storage account on a port of its own, until dropped; its one container is `images`.
#[derive(Debug)]
pub struct TestAzure {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TestAzure {
    /// Starts one.
    #[must_use]
    pub fn new(rules: AzureRules) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = Server::start(Arc::new(move |request: &Request| {
            answer(&mut lock(&shared), &rules, request)
        }));
        Self { server, state }
    }

    /// Address and port.
    #[must_use]
    pub const fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// The variables of Azure that lead here, or to a proxy before it.
    #[must_use]
    pub fn variables(&self, at: std::net::SocketAddr) -> Vec<(String, String)> {
        let key = base64::encode(KEY);
        let text =
            format!("AccountName={ACCOUNT};AccountKey={key};BlobEndpoint=http://{at}/{ACCOUNT};");
        vec![("AZURE_STORAGE_CONNECTION_STRING".to_owned(), text)]
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }

    /// Requests that were heeded: method and query's `comp`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        lock(&self.state).seen.clone()
    }

    /// Bytes of pages that were written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        lock(&self.state).written
    }

    /// Names of all blobs.
    #[must_use]
    pub fn blobs(&self) -> Vec<String> {
        lock(&self.state).blobs.keys().cloned().collect()
    }

    /// A blob's bytes and metadata.
    #[must_use]
    pub fn blob(&self, name: &str) -> Option<(Vec<u8>, BTreeMap<String, String>)> {
        let state = lock(&self.state);
        let blob = state.blobs.get(name)?;
        Some((blob.bytes.clone(), blob.metadata.clone()))
    }

    /// Changes one byte behind everybody's back.
    pub fn corrupt(&self, blob: &str, at: usize) {
        if let Some(blob) = lock(&self.state).blobs.get_mut(blob) {
            blob.bytes[at] ^= 1;
            blob.pages[at / 512] = true;
        }
    }

    /// Makes a page zero behind everybody's back, as if it had never been written.
    pub fn lose(&self, blob: &str, at: usize) {
        if let Some(blob) = lock(&self.state).blobs.get_mut(blob) {
            let page = at / 512;
            blob.bytes[page * 512..(page + 1) * 512].fill(0);
            blob.pages[page] = false;
        }
    }

    /// Removes a blob behind everybody's back.
    pub fn remove(&self, blob: &str) {
        lock(&self.state).blobs.remove(blob);
    }

    /// Changes metadata behind everybody's back.
    pub fn retag(&self, blob: &str, name: &str, value: &str) {
        if let Some(blob) = lock(&self.state).blobs.get_mut(blob) {
            blob.metadata.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(status: u16, code: &str) -> Reply {
    Reply::status(status)
        .with("x-ms-error-code", code)
        .body(format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test has it</Message></Error>"))
}

type Refusal = (u16, &'static str, &'static str);

fn answer(state: &mut State, rules: &AzureRules, request: &Request) -> Reply {
    if !is_signed(request) {
        return error(403, "AuthenticationFailed");
    }
    if !request.whole {
        return error(400, "IncompleteBody");
    }
    state.requests += 1;
    if rules.trouble > 0 && state.requests.is_multiple_of(rules.trouble) {
        return match state.requests / rules.trouble % 2 {
            0 => error(503, "ServerBusy"),
            _ => error(500, "InternalError"),
        };
    }
    if request.method == "PUT" && request.path() == format!("/{ACCOUNT}/images") {
        return error(409, "ContainerAlreadyExists");
    }
    let container = format!("/{ACCOUNT}/images/");
    let Some(name) = request.path().strip_prefix(&container) else {
        return error(404, "ContainerNotFound");
    };
    let name = decode(name).and_then(|name| String::from_utf8(name).ok());
    let name = name.unwrap_or_default();
    let what = request.query("comp").unwrap_or_default();
    state.seen.push(format!("{} {what}", request.method));
    let done = match (request.method.as_str(), what.as_str()) {
        ("HEAD", "") => look(state, &name),
        ("PUT", "") if !request.header("x-ms-copy-source").is_empty() => {
            copy(state, rules, request, &name)
        }
        ("PUT", "") => create(state, request, &name),
        ("PUT", "page") => page(state, request, &name),
        ("PUT", "metadata") => blob(state, &name).map(|blob| {
            blob.metadata = metadata(request);
            Reply::status(200)
        }),
        ("GET", "") => read(state, request, &name),
        ("GET", "pagelist") => list(state, request, &name),
        ("DELETE", "") => {
            state.blobs.remove(&name);
            Ok(Reply::status(202))
        }
        _ => Err((
            400,
            "InvalidQueryParameterValue",
            "a question that there is none of",
        )),
    };
    done.unwrap_or_else(|(status, code, why)| {
        if !why.is_empty() {
            state
                .complaints
                .push(format!("{} {}: {why}", request.method, request.target));
        }
        error(status, code)
    })
}

fn blob<'a>(state: &'a mut State, name: &str) -> Result<&'a mut Blob, Refusal> {
    state.blobs.get_mut(name).ok_or((404, "BlobNotFound", ""))
}

fn metadata(request: &Request) -> BTreeMap<String, String> {
    let headers = request.head.headers.iter();
    headers
        .filter_map(|(name, value)| {
            Some((name.strip_prefix("x-ms-meta-")?.to_owned(), value.clone()))
        })
        .collect()
}

fn look(state: &mut State, name: &str) -> Result<Reply, Refusal> {
    let blob = blob(state, name)?;
    let mut reply = Reply::status(200)
        .with("x-ms-blob-type", "PageBlob")
        .body(blob.bytes.clone());
    match &mut blob.copy {
        None => {}
        Some(0) => reply = reply.with("x-ms-copy-status", "success"),
        Some(left) => {
            *left -= 1;
            reply = reply.with("x-ms-copy-status", "pending");
        }
    }
    for (name, value) in &blob.metadata {
        // Replies have headers of fixed names: those of ours are few.
        let header = match name.as_str() {
            "slipformimage" => "x-ms-meta-slipformimage",
            "slipformdisk" => "x-ms-meta-slipformdisk",
            "slipformparent" => "x-ms-meta-slipformparent",
            "slipformstate" => "x-ms-meta-slipformstate",
            _ => continue,
        };
        reply = reply.with(header, value.clone());
    }
    Ok(reply)
}

fn is_new(state: &State, request: &Request, name: &str) -> Result<(), Refusal> {
    if request.header("if-none-match") != "*" {
        return Err((
            400,
            "InvalidHeaderValue",
            "a blob that may overwrite another",
        ));
    }
    if state.blobs.contains_key(name) {
        return Err((409, "BlobAlreadyExists", ""));
    }
    Ok(())
}

fn create(state: &mut State, request: &Request, name: &str) -> Result<Reply, Refusal> {
    is_new(state, request, name)?;
    let size: u64 = request
        .header("x-ms-blob-content-length")
        .parse()
        .unwrap_or(1);
    let good = request.header("x-ms-blob-type") == "PageBlob" && request.body.is_empty();
    if !good || !size.is_multiple_of(PAGE) {
        return Err((400, "InvalidHeaderValue", "no page blob of whole pages"));
    }
    let length = usize::try_from(size).unwrap_or_default();
    let blob = Blob {
        bytes: vec![0; length],
        pages: vec![false; length / 512],
        metadata: metadata(request),
        copy: None,
    };
    state.blobs.insert(name.to_owned(), blob);
    Ok(Reply::status(201))
}

fn copy(
    state: &mut State,
    rules: &AzureRules,
    request: &Request,
    name: &str,
) -> Result<Reply, Refusal> {
    is_new(state, request, name)?;
    let source = request.header("x-ms-copy-source");
    let from = source.split_once("/images/").map_or("", |(_, name)| name);
    let mut blob = blob(state, from)?.clone();
    blob.metadata = metadata(request);
    blob.copy = Some(rules.pending);
    state.blobs.insert(name.to_owned(), blob);
    Ok(Reply::status(202).with("x-ms-copy-status", "pending"))
}

/// First and last byte of the range that a request is about.
fn range(request: &Request) -> Result<(u64, u64), Refusal> {
    let range = request.header("x-ms-range").strip_prefix("bytes=");
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let range = range.filter(|(from, to)| from <= to);
    range.ok_or((400, "InvalidPageRange", "a range that is none"))
}

fn read(state: &mut State, request: &Request, name: &str) -> Result<Reply, Refusal> {
    let (from, to) = range(request)?;
    let blob = blob(state, name)?;
    let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
    // Ours never asks behind the end, where the service would send less than was asked for.
    let bytes = at(from)..at(to).saturating_add(1);
    let bytes = blob.bytes.get(bytes);
    let bytes = bytes.ok_or((416, "InvalidRange", "a range behind the end"))?;
    Ok(Reply::status(206).body(bytes.to_vec()))
}

fn page(state: &mut State, request: &Request, name: &str) -> Result<Reply, Refusal> {
    let wrong = |why| (400, "InvalidPageRange", why);
    let (from, to) = range(request)?;
    let length = (to + 1).saturating_sub(from);
    let blob = blob(state, name)?;
    if blob.copy.is_some_and(|left| left > 0) {
        return Err((
            409,
            "PendingCopyOperation",
            "pages of a copy that is not there yet",
        ));
    }
    if !from.is_multiple_of(PAGE)
        || !length.is_multiple_of(PAGE)
        || length == 0
        || to >= blob.bytes.len() as u64
    {
        return Err(wrong("pages that are not whole, or behind the end"));
    }
    let at = |byte: u64| usize::try_from(byte).unwrap_or_default();
    let (pages, bytes) = (at(from) / 512..at(to + 1) / 512, at(from)..at(to + 1));
    match request.header("x-ms-page-write") {
        "clear" if request.body.is_empty() => {
            blob.bytes[bytes].fill(0);
            blob.pages[pages].fill(false);
        }
        "update" => {
            if length > MOST || request.body.len() as u64 != length {
                return Err(wrong("more than 4 MiB, or another length than said"));
            }
            let sum = base64::encode(&Md5::digest(&request.body));
            if request.header("content-md5") != sum {
                return Err((400, "Md5Mismatch", "pages with the sum of others"));
            }
            blob.bytes[bytes].copy_from_slice(&request.body);
            blob.pages[pages].fill(true);
            state.written += length;
        }
        _ => return Err((400, "InvalidHeaderValue", "neither update nor clear")),
    }
    Ok(Reply::status(201))
}

fn list(state: &mut State, request: &Request, name: &str) -> Result<Reply, Refusal> {
    let blob = blob(state, name)?;
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (page, _) in blob.pages.iter().enumerate().filter(|(_, there)| **there) {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == page * 512 => *end += 512,
            _ => ranges.push((page * 512, page * 512 + 511)),
        }
    }
    // Five on a page of the list.
    let from: usize = request
        .query("marker")
        .map_or(0, |m| m.parse().unwrap_or(0));
    let end = (from + 5).min(ranges.len());
    let mut body = "<?xml version=\"1.0\"?><PageList>".to_owned();
    for (start, last) in &ranges[from.min(end)..end] {
        body.push_str(&format!(
            "<PageRange><Start>{start}</Start><End>{last}</End></PageRange>"
        ));
    }
    if end < ranges.len() {
        body.push_str(&format!("<NextMarker>{end}</NextMarker>"));
    }
    Ok(Reply::status(200).body(format!("{body}</PageList>")))
}

/// Whether a request is signed by the account's key over all that matters; from the request
/// as it came ("Authorize with Shared Key", version 2015-02-21 and later).
fn is_signed(request: &Request) -> bool {
    let length = match request.header("content-length") {
        "0" => "",
        length => length,
    };
    let mut text = format!("{}\n\n\n{length}\n", request.method);
    let standard = [
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    for name in standard {
        text.push_str(&format!("{}\n", request.header(name)));
    }
    let own = request
        .head
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-ms-"));
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{ACCOUNT}{}", request.path()));
    let query = request
        .target
        .split_once('?')
        .map_or("", |(_, query)| query);
    let mut names: Vec<&str> = query
        .split('&')
        .filter_map(|pair| Some(pair.split_once('=')?.0))
        .collect();
    names.sort_unstable();
    for name in names {
        let value = request.query(name).unwrap_or_default();
        text.push_str(&format!("\n{name}:{value}"));
    }
    let signature = base64::encode(&hmac(KEY, text.as_bytes()));
    let versions = ["x-ms-date", "x-ms-version"];
    versions.iter().all(|name| !request.header(name).is_empty())
        && request.header("authorization") == format!("SharedKey {ACCOUNT}:{signature}")
}
