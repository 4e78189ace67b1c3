//! An object store that speaks S3, in memory, for one process of tests: it
//! checks signatures, digests of bodies, conditions and the rules of parts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use md5::{Digest as _, Md5};

use super::registry_uploads::ranged;
use super::s3_requests::{is_signed, keyed};
use super::{Reply, Request, Server};
use crate::base::Digest;

/// What an object store is like.
#[derive(Debug, Clone)]
pub struct S3Rules {
    /// Access key and secret; nothing lets everybody in.
    pub keys: Option<(String, String)>,
    /// The smallest part but the last. S3's own is 5 MiB.
    pub least: usize,
    /// Things on a page of a list.
    pub page: usize,
    /// Whether conditions on a PUT are heeded.
    pub conditions: bool,
    /// Whether what arrives is compared with the digest that was signed.
    pub digests: bool,
}

impl Default for S3Rules {
    fn default() -> Self {
        Self {
            keys: Some(("key".to_owned(), "secret".to_owned())),
            least: 64 * 1024,
            page: 3,
            conditions: true,
            digests: true,
        }
    }
}

#[derive(Debug, Default)]
struct Upload {
    key: String,
    parts: BTreeMap<u64, Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeMap<String, Upload>,
    next: u64,
    complaints: Vec<String>,
    requests: Vec<String>,
}

/// An object store on a port of its own, until dropped; its one bucket is `bucket`.
#[derive(Debug)]
pub struct TestS3 {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TestS3 {
    /// Starts one.
    #[must_use]
    pub fn new(rules: S3Rules) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = Server::start(Arc::new(move |request: &Request| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state
                .requests
                .push(format!("{} {}", request.method, request.target));
            answer(&mut state, &rules, request)
        }));
        Self { server, state }
    }

    /// Address and port.
    #[must_use]
    pub const fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// The variables of AWS that lead here, or to a proxy before it.
    #[must_use]
    pub fn variables(&self, at: std::net::SocketAddr) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL_S3", format!("http://{at}")),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "test-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    /// All requests: method and target.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// The keys of all objects.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Changes an object behind everybody's back.
    pub fn corrupt(&self, key: &str) {
        if let Some((_, bytes)) = self.lock().objects.get_mut(key) {
            bytes[0] ^= 1;
        }
    }

    /// How many uploads in parts were begun and not ended.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.lock().uploads.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error(status: u16, code: &str) -> Reply {
    Reply::status(status).body(format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test store has it</Message></Error>"
    ))
}

fn complain(state: &mut State, status: u16, code: &str, request: &Request) -> Reply {
    let what = format!("{code}: {} {}", request.method, request.target);
    state.complaints.push(what);
    error(status, code)
}

fn tag(bytes: &[u8]) -> String {
    let hex: String = Md5::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("\"{hex}\"")
}

fn answer(state: &mut State, rules: &S3Rules, request: &Request) -> Reply {
    if let Some((id, secret)) = &rules.keys {
        match is_signed(request, id, secret) {
            Ok((service, _)) if service == "s3" => {}
            Ok(_) => return error(403, "AuthorizationHeaderMalformed"),
            Err(code) => return error(403, code),
        }
        if !request.whole {
            return error(400, "IncompleteBody");
        }
        let signed = request.header("x-amz-content-sha256");
        if rules.digests && signed != Digest::of(&request.body).hex() {
            return error(400, "XAmzContentSHA256Mismatch");
        }
    }
    let Some(key) = keyed(request) else {
        return error(404, "NoSuchBucket");
    };
    let id = request.query("uploadId");
    match (request.method.as_str(), key.as_str(), id) {
        ("GET", "", _) if request.query("uploads").is_some() => list_uploads(state, request),
        ("GET", "", _) => list(state, rules, request),
        (_, "", _) => complain(state, 405, "MethodNotAllowed", request),
        ("POST", key, None) if request.query("uploads").is_some() => begin(state, key),
        ("PUT", key, Some(id)) => put_part(state, request, key, &id),
        ("GET", key, Some(id)) => list_parts(state, key, &id),
        ("POST", key, Some(id)) => complete(state, rules, request, key, &id),
        ("DELETE", _, Some(id)) => {
            state.uploads.remove(&id);
            Reply::status(204)
        }
        ("PUT", key, None) => put(state, rules, request, key),
        ("GET" | "HEAD", key, None) => get(state, request, key),
        _ => complain(state, 405, "MethodNotAllowed", request),
    }
}

fn get(state: &State, request: &Request, key: &str) -> Reply {
    let Some((kind, bytes)) = state.objects.get(key) else {
        return error(404, "NoSuchKey");
    };
    let reply = Reply::status(200)
        .with("Content-Type", kind.clone())
        .with("ETag", tag(bytes));
    ranged(reply, request, bytes)
}

fn put(state: &mut State, rules: &S3Rules, request: &Request, key: &str) -> Reply {
    let found = state.objects.get(key).map(|(_, bytes)| tag(bytes));
    let (absent, is) = (request.header("if-none-match"), request.header("if-match"));
    if rules.conditions {
        if !absent.is_empty() && absent != "*" {
            return complain(state, 501, "NotImplemented", request);
        }
        if absent == "*" && found.is_some() {
            return error(412, "PreconditionFailed");
        }
        if !is.is_empty() {
            match found {
                None => return error(404, "NoSuchKey"),
                Some(found) if found != is => return error(412, "PreconditionFailed"),
                Some(_) => {}
            }
        }
    }
    let kind = request.header("content-type").to_owned();
    let reply = Reply::status(200).with("ETag", tag(&request.body));
    state
        .objects
        .insert(key.to_owned(), (kind, request.body.clone()));
    reply
}

fn list(state: &mut State, rules: &S3Rules, request: &Request) -> Reply {
    if request.query("list-type").as_deref() != Some("2") {
        return complain(state, 400, "InvalidArgument", request);
    }
    let prefix = request.query("prefix").unwrap_or_default();
    let from: usize = request
        .query("continuation-token")
        .and_then(|token| token.strip_prefix("from ")?.parse().ok())
        .unwrap_or(0);
    let all: Vec<_> = state
        .objects
        .keys()
        .filter(|key| key.starts_with(&prefix))
        .collect();
    let end = (from + rules.page).min(all.len());
    let mut body = format!("<ListBucketResult xmlns=\"x\"><Prefix>{prefix}</Prefix>");
    for key in &all[from.min(end)..end] {
        body.push_str(&format!(
            "<Contents><Key>{key}</Key><Size>1</Size></Contents>"
        ));
    }
    let more = end < all.len();
    body.push_str(&format!("<IsTruncated>{more}</IsTruncated>"));
    if more {
        body.push_str(&format!(
            "<NextContinuationToken>from {end}</NextContinuationToken>"
        ));
    }
    Reply::status(200).body(format!("{body}</ListBucketResult>"))
}

fn begin(state: &mut State, key: &str) -> Reply {
    state.next += 1;
    let id = format!("upload+{}/=", state.next);
    let upload = Upload {
        key: key.to_owned(),
        parts: BTreeMap::new(),
    };
    state.uploads.insert(id.clone(), upload);
    Reply::status(200).body(format!(
        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
    ))
}

fn list_uploads(state: &State, request: &Request) -> Reply {
    let prefix = request.query("prefix").unwrap_or_default();
    let uploads: String = state
        .uploads
        .iter()
        .filter(|(_, upload)| upload.key.starts_with(&prefix))
        .map(|(id, upload)| {
            let key = &upload.key;
            format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>")
        })
        .collect();
    Reply::status(200).body(format!(
        "<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>"
    ))
}

fn put_part(state: &mut State, request: &Request, key: &str, id: &str) -> Reply {
    let number = request.query("partNumber").and_then(|n| n.parse().ok());
    let Some(number) = number.filter(|n| (1..=10_000).contains(n)) else {
        return complain(state, 400, "InvalidArgument", request);
    };
    let Some(upload) = state.uploads.get_mut(id).filter(|upload| upload.key == key) else {
        return error(404, "NoSuchUpload");
    };
    upload.parts.insert(number, request.body.clone());
    Reply::status(200).with("ETag", tag(&request.body))
}

fn list_parts(state: &State, key: &str, id: &str) -> Reply {
    let Some(upload) = state.uploads.get(id).filter(|upload| upload.key == key) else {
        return error(404, "NoSuchUpload");
    };
    let parts: String = upload
        .parts
        .iter()
        .map(|(number, bytes)| {
            let tag = tag(bytes).replace('"', "&quot;");
            let size = bytes.len();
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag><Size>{size}</Size></Part>")
        })
        .collect();
    Reply::status(200).body(format!(
        "<ListPartsResult>{parts}<IsTruncated>false</IsTruncated></ListPartsResult>"
    ))
}

fn complete(state: &mut State, rules: &S3Rules, request: &Request, key: &str, id: &str) -> Reply {
    let Some(upload) = state.uploads.get(id).filter(|upload| upload.key == key) else {
        return error(404, "NoSuchUpload");
    };
    let wanted: String = upload
        .parts
        .iter()
        .map(|(number, bytes)| {
            let tag = tag(bytes).replace('"', "&quot;");
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
        })
        .collect();
    let wanted = format!("<CompleteMultipartUpload>{wanted}</CompleteMultipartUpload>");
    let small = upload
        .parts
        .values()
        .rev()
        .skip(1)
        .any(|part| part.len() < rules.least);
    let whole: Vec<u8> = upload.parts.values().flatten().copied().collect();
    if request.body != wanted.as_bytes() {
        return complain(state, 400, "InvalidPart", request);
    }
    if small {
        return complain(state, 400, "EntityTooSmall", request);
    }
    state.uploads.remove(id);
    let kind = "application/octet-stream".to_owned();
    state.objects.insert(key.to_owned(), (kind, whole));
    Reply::status(200).body(
        "<?xml version=\"1.0\"?><CompleteMultipartUploadResult xmlns=\"x\"><ETag>x</ETag></CompleteMultipartUploadResult>",
    )
}
