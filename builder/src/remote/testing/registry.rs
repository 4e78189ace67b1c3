//! A registry by the letter of the distribution specification 1.1, in memory,
//! for one process of tests. Whatever a client does that the specification does
//! not allow is refused, and remembered as a complaint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::{Reply, Request, Server};
use crate::base::Digest;
use crate::sources::uri::Login;
use crate::store::{INDEX, Index, MANIFEST, Manifest};

/// How a registry wants to be logged in to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// `user`, `password` with every request.
    Basic(String, String),
    /// A token for `user`, `password`, good for so many requests.
    Token(String, String, usize),
}

/// What a registry is like.
#[derive(Debug, Clone)]
pub struct RegistryRules {
    /// Its login.
    pub auth: Auth,
    /// Whether it has the referrers API.
    pub referrers: bool,
    /// Things on a page of a list.
    pub page: usize,
    /// The smallest part of a blob but the last, of which clients are told; 0 for any.
    pub least: usize,
    /// Whether blobs are taken in parts.
    pub parts: bool,
    /// Where blobs are read from: `http://host:port` of another registry of these, of which it is told all.
    pub storage: Option<String>,
}

impl Default for RegistryRules {
    fn default() -> Self {
        Self {
            auth: Auth::None,
            referrers: true,
            page: 3,
            least: 0,
            parts: true,
            storage: None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) blobs: BTreeMap<Digest, Vec<u8>>,
    manifests: BTreeMap<Digest, (String, Vec<u8>)>,
    tags: BTreeMap<String, Digest>,
    pub(super) uploads: BTreeMap<u64, (u64, Vec<u8>)>,
    pub(super) next: u64,
    /// Tokens, what they allow, and how often they still do.
    tokens: BTreeMap<String, (String, usize)>,
    complaints: Vec<String>,
    requests: Vec<String>,
}

/// A registry on a port of its own, until dropped.
#[derive(Debug)]
pub struct TestRegistry {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TestRegistry {
    /// Starts one.
    #[must_use]
    pub fn new(rules: RegistryRules) -> Self {
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

    /// `oci://127.0.0.1:port/repository`.
    #[must_use]
    pub fn uri(&self, repository: &str) -> String {
        format!("oci://{}/{repository}", self.address())
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

    /// Changes a stored blob or document behind everybody's back.
    pub fn corrupt(&self, digest: &Digest) {
        let mut state = self.lock();
        if let Some(bytes) = state.blobs.get_mut(digest) {
            bytes[0] ^= 1;
        }
        if let Some((_, bytes)) = state.manifests.get_mut(digest) {
            bytes[0] ^= 1;
        }
    }

    /// Puts a blob without asking.
    pub fn insert_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.lock().blobs.insert(digest, bytes.to_vec());
        digest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error by the specification.
pub(super) fn error(status: u16, code: &str) -> Reply {
    let body = json!({"errors": [{"code": code, "message": "as the test registry has it"}]});
    Reply::status(status)
        .with("Content-Type", "application/json")
        .body(body.to_string())
}

/// As [`error`], for what no right client does.
pub(super) fn complain(state: &mut State, status: u16, code: &str, what: String) -> Reply {
    state.complaints.push(what);
    error(status, code)
}

fn answer(state: &mut State, rules: &RegistryRules, request: &Request) -> Reply {
    if request.path() == "/token" {
        return token(state, rules, request);
    }
    let Some(path) = request.path().strip_prefix("/v2/") else {
        return error(404, "NAME_UNKNOWN");
    };
    let Some((repository, kind, rest)) = split(path) else {
        return error(404, "NAME_UNKNOWN");
    };
    let push = !["GET", "HEAD"].contains(&request.method.as_str()) || rest.starts_with("uploads");
    if let Some(refusal) = login(state, rules, request, repository, push) {
        return refusal;
    }
    match kind {
        "blobs" => super::registry_uploads::blobs(state, rules, request, repository, rest),
        "manifests" if request.method == "PUT" => put_manifest(state, rules, request, rest),
        "manifests" => get_manifest(state, request, rest),
        "tags" => list_tags(state, rules, request),
        _ if rules.referrers => referrers(state, rules, request, rest),
        _ => error(404, "UNSUPPORTED"),
    }
}

/// Repository, kind and the rest of a path.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    ["blobs", "manifests", "tags", "referrers"]
        .iter()
        .find_map(|kind| {
            let at = path.find(&format!("/{kind}/"))?;
            Some((&path[..at], *kind, &path[at + kind.len() + 2..]))
        })
}

fn basic(user: &str, password: &str) -> String {
    let login = Login {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    login.basic()
}

fn login(
    state: &mut State,
    rules: &RegistryRules,
    request: &Request,
    repository: &str,
    push: bool,
) -> Option<Reply> {
    let given = request.header("authorization");
    match &rules.auth {
        Auth::None if given.is_empty() => None,
        Auth::None => Some(complain(
            state,
            400,
            "DENIED",
            "a login for nobody".to_owned(),
        )),
        Auth::Basic(user, password) if given == basic(user, password) => None,
        Auth::Basic(..) => {
            Some(error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"test\""))
        }
        Auth::Token(..) => {
            let actions = if push { "pull,push" } else { "pull" };
            let scope = format!("repository:{repository}:{actions}");
            let token = given.strip_prefix("Bearer ").unwrap_or_default();
            if let Some((granted, left)) = state.tokens.get_mut(token)
                && granted.starts_with(&scope)
                && *left > 0
            {
                *left -= 1;
                return None;
            }
            let host = request.header("host");
            let challenge =
                format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"{scope}\"");
            Some(error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
        }
    }
}

fn token(state: &mut State, rules: &RegistryRules, request: &Request) -> Reply {
    let Auth::Token(user, password, uses) = &rules.auth else {
        return error(404, "UNSUPPORTED");
    };
    let given = request.header("authorization");
    if given != basic(user, password) || request.query("service").as_deref() != Some("test") {
        return error(401, "UNAUTHORIZED");
    }
    state.next += 1;
    let token = format!("token-{}", state.next);
    let scope = request.query("scope").unwrap_or_default();
    state.tokens.insert(token.clone(), (scope, *uses));
    Reply::status(200).body(json!({"token": token, "expires_in": 60}).to_string())
}

fn put_manifest(
    state: &mut State,
    rules: &RegistryRules,
    request: &Request,
    reference: &str,
) -> Reply {
    if !request.whole {
        return error(400, "MANIFEST_INVALID");
    }
    let kind = request.header("content-type").to_owned();
    let missing = match kind.as_str() {
        MANIFEST => Manifest::parse(&request.body).map(|manifest| {
            let wanted = std::iter::once(&manifest.config).chain(&manifest.layers);
            wanted
                .filter(|d| !state.blobs.contains_key(&d.digest))
                .count()
        }),
        INDEX => Index::parse(&request.body).map(|index| {
            let wanted = index.manifests.iter();
            wanted
                .filter(|d| !state.manifests.contains_key(&d.digest))
                .count()
        }),
        _ => {
            return complain(
                state,
                400,
                "MANIFEST_INVALID",
                format!("a manifest as {kind}"),
            );
        }
    };
    match missing {
        Ok(0) => {}
        Ok(_) => return error(404, "MANIFEST_BLOB_UNKNOWN"),
        Err(_) => return error(400, "MANIFEST_INVALID"),
    }
    let digest = Digest::of(&request.body);
    if reference.contains(':') {
        if reference != digest.to_string() {
            return error(400, "DIGEST_INVALID");
        }
    } else {
        state.tags.insert(reference.to_owned(), digest);
    }
    state.manifests.insert(digest, (kind, request.body.clone()));
    let reply = Reply::status(201)
        .with("Location", format!("/v2/x/manifests/{digest}"))
        .with("Docker-Content-Digest", digest.to_string());
    match subject(&request.body) {
        Some(subject) if rules.referrers => reply.with("OCI-Subject", subject),
        _ => reply,
    }
}

fn subject(bytes: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    Some(document["subject"]["digest"].as_str()?.to_owned())
}

fn get_manifest(state: &State, request: &Request, reference: &str) -> Reply {
    let digest = match state.tags.get(reference) {
        Some(digest) => Some(*digest),
        None => reference.parse().ok(),
    };
    let Some((digest, (kind, bytes))) =
        digest.and_then(|digest| Some((digest, state.manifests.get(&digest)?)))
    else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let accept = request.header("accept");
    if !accept.contains(kind.as_str()) {
        return error(404, "MANIFEST_UNKNOWN");
    }
    Reply::status(200)
        .with("Content-Type", kind.clone())
        .with("Docker-Content-Digest", digest.to_string())
        .body(bytes.clone())
}

/// A page of `all`, and the link to the next one.
fn page<T: Clone>(all: &[T], rules: &RegistryRules, request: &Request) -> (Vec<T>, Option<String>) {
    let from: usize = request
        .query("last")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let end = (from + rules.page).min(all.len());
    let link = (end < all.len()).then(|| format!("<{}?last={end}>; rel=\"next\"", request.path()));
    (all[from.min(end)..end].to_vec(), link)
}

fn list_tags(state: &State, rules: &RegistryRules, request: &Request) -> Reply {
    if state.tags.is_empty() {
        return error(404, "NAME_UNKNOWN");
    }
    let all: Vec<_> = state.tags.keys().cloned().collect();
    let (tags, link) = page(&all, rules, request);
    let reply = Reply::status(200).body(json!({"name": "x", "tags": tags}).to_string());
    match link {
        Some(link) => reply.with("Link", link),
        None => reply,
    }
}

fn referrers(state: &State, rules: &RegistryRules, request: &Request, wanted: &str) -> Reply {
    let all: Vec<Value> = state
        .manifests
        .iter()
        .filter(|(_, (_, bytes))| subject(bytes).as_deref() == Some(wanted))
        .map(|(digest, (kind, bytes))| {
            let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
            let mut entry = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
            for key in ["artifactType", "annotations"] {
                if !document[key].is_null() {
                    entry[key] = document[key].clone();
                }
            }
            entry
        })
        .collect();
    let (manifests, link) = page(&all, rules, request);
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let reply = Reply::status(200)
        .with("Content-Type", INDEX)
        .body(body.to_string());
    match link {
        Some(link) => reply.with("Link", link),
        None => reply,
    }
}
