//! Google's Cloud Storage and Compute Engine, in memory, as strict as the services: tokens and
//! the signatures that they are had for, parts of 256 KiB, sums, conditions, operations that
//! take their time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use super::{Reply, Request, Server};
use crate::base::base64;
use crate::sources::uri::decode;

const STEP: usize = 256 * 1024;
const PROJECT: &str = "/compute/v1/projects/test-project/global/";
const BUCKET: &str = "/storage/v1/b/images/o/";
const EMAIL: &str = "publisher@test-project.iam.gserviceaccount.com";
/// An RSA key of these tests, which opens nothing.
const KEY: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCVENvXIZ89kkuZ+1hH1gQTrHE+pK+E+PmW5a5gbh\
    UIJTS31bqcz/VI+potyiCGE00FeVhFaDV0afH0zpDdU9f+xSXN+XKO/R8bg8efDmDq3pLRA6mchth+xocjKwYbu6e0\
    Y8QgA7b6qAUipL9H2ywO3tUFMqZ1RZWW+W+GPE4xNyyrBrp4IwfPWegXv23K82N3HUOaEmFfMi23py7zSmIgxHsBO/\
    tOTcIEIerPqWUyGUs0PuYm7hfewEKd3ogjNeW1RQ80w1EyupyGj0ziZGLOjOFJEonXMzrMspbv227QUsSPmt7eUJU1\
    S9hLiJSbXdf1OIKye9Qlb3yb8leVzr4XAgMBAAECggEAGH1nkMWOUuBJGWgozcyEaPMIu+D0kSUSZE8hwefz/p2WNq\
    mfegnUY4QAdothooVjPwX7kZOYTKLnRG/3btVKhCnBl0BnKMS/KpcQ4bnMBGpCtqIiaHvi75kQNJ/p5f6Dg+hsHVJe\
    6nlWNqXYYybH6z2Cw9LZdCTVebNLNkOMGRuWQRMiNZ0YDVU69fvcrKY4Fdm8p+7UMB7dfDOsbzZRWjZ8/zjBEx3wXd\
    5RWRJij7Gj+rRLWDuE6Y6jpF6HzReTpeaU3FzUthsMWjmjeRc6bW7fNH/LqkpUPrctf7iPGhcROE7Yra7vqv29IuGO\
    zMJHv8NaNPcAK+AqLPQnwrZ66QKBgQDHC0U319pscs34qWOJWCl7+7fTvCVQJwMG0+Sk1Trc+8vRL4bxVuc6PtIp+A\
    eRlrhNdXLGrc/Xpf2NH+X070hj+QBVBfcrdjs42Z5wPNbPRNE/r1VthzYh0NY3dvj73CjZzGM9E95v1LbC9n2rQ6m7\
    ImJWx6HekkbMxD41lhLWkwKBgQC/uH9z6iAx7VBqhCRuJhzLft8vA0p7T44Zqx7xbat0rbaDNpiegBcnRGE/Xu0KOC\
    fE73YHEOjemB1KyJnSew7Alrhbe6BNU1EV/eAzrLFrMpXiDKZaS50ryjSsV/Pz4KOrGrZ0lFD4OkryFLYJmX2nFQD4\
    PmucJ6h1tOMfJiCI7QKBgGNbQuAPRZ7g5+P6Wg9TDNIw4qA0yMNr1dzwpK+LKOjqX+E5wjhyUtYGSc5dWxnXjIRN3k\
    9Cr/9LgneRtq4/S3lr8DiA09LEH+fO6YHJPMkV5wXNNe2IkwLqRiRFpR/D1Dh0CA2S/3P/UIOdmzmEexNIpKIA4NJD\
    XkgUpaEGGr01AoGAcSXb4ncspQqfyR1Puso3eEnaQg65KGldPfzl+Cp3ZBcZffr8u55xC7WphxLo5n0Zy3pft+/c33\
    H656XYUoZZwIOzLhqaEsi3NDlu1lB3LQLfvlck3ml9ytg9mfEWgrnzHgpX4BmgZ79Pd+uNO8EgjTkyJ0//hltJap5k\
    5H9F+EkCgYEAj8tH6onO4W0UEjRAFpSxHhGpCiHuGJ6jHe1H5544wruqSrmLwS0lvYPkmJYDQ/HXUOrcxmRxDAK/A/\
    Slt1vd/CaWKDrnPKi4HxWmL1hRtAMitn5CY/qpHnPn6LXNzS173lZjAxajLSkiisVpcB28Ovz9o5Hfqc/RPyCNGBQd\
    G+A=";

/// What this service is like.
#[derive(Debug, Clone, Default)]
pub struct GcpRules {
    /// How often somebody must look until an operation is done, and then an image ready.
    pub pending: usize,
    /// Every so many requests one is answered by being too busy or a failure; 0: none.
    pub trouble: usize,
    /// Whether only half of each part is kept, if it has two steps.
    pub greedy: bool,
    /// What the operation fails of.
    pub fails: Option<&'static str>,
    /// After how many parts uploads are forgotten, once; 0: never.
    pub forgets: usize,
}

#[derive(Debug, Clone)]
struct Object {
    said: Value,
    bytes: Vec<u8>,
    total: Option<u64>,
}

#[derive(Debug, Clone)]
struct Image {
    said: Value,
    /// The request's id, and its operation.
    request: String,
    /// Looks until the operation is done, and until it is ready.
    looks: (usize, usize),
    failed: Option<&'static str>,
}

#[derive(Debug, Default)]
struct State {
    tokens: Vec<String>,
    sessions: BTreeMap<String, Object>,
    objects: BTreeMap<String, Object>,
    images: BTreeMap<String, Image>,
    requests: usize,
    parts: usize,
    received: u64,
    seen: Vec<String>,
    complaints: Vec<String>,
}

/// Both services on a port of their own, until dropped: the project `test-project`, its bucket
/// `images`.
#[derive(Debug)]
pub struct TestGcp {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TestGcp {
    /// Starts one.
    #[must_use]
    pub fn new(rules: GcpRules) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        lock(&state).tokens.push("a-token".to_owned());
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

    /// The variables of Google's tools that lead here, or to a proxy before it.
    #[must_use]
    pub fn variables(&self, at: std::net::SocketAddr) -> Vec<(String, String)> {
        let storage = (
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
            format!("http://{at}/"),
        );
        let compute = (
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE",
            format!("http://{at}/compute/v1/"),
        );
        let token = ("CLOUDSDK_AUTH_ACCESS_TOKEN", "a-token".to_owned());
        [storage, compute, token]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
    }

    /// A service account's key file, as Google writes it.
    #[must_use]
    pub fn key_file(&self) -> String {
        let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        json!({
            "type": "service_account",
            "client_email": EMAIL,
            "private_key_id": "k1",
            "private_key": format!("{begin}\n{KEY}\n{end}\n"),
            "token_uri": format!("http://{}/token", self.address()),
        })
        .to_string()
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }

    /// Requests that were heeded: method and path.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        lock(&self.state).seen.clone()
    }

    /// Bytes of parts that came, and how many parts.
    #[must_use]
    pub fn received(&self) -> (u64, usize) {
        let state = lock(&self.state);
        (state.received, state.parts)
    }

    /// Names and bytes of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let state = lock(&self.state);
        let all = state.objects.iter();
        all.map(|(name, object)| (name.clone(), object.bytes.clone()))
            .collect()
    }

    /// Names of all images, and what was said of them.
    #[must_use]
    pub fn images(&self) -> Vec<(String, Value)> {
        let state = lock(&self.state);
        let all = state.images.iter();
        all.map(|(name, image)| (name.clone(), image.said.clone()))
            .collect()
    }

    /// Changes the first byte of an object behind everybody's back.
    pub fn corrupt(&self, name: &str) {
        if let Some(object) = lock(&self.state).objects.get_mut(name) {
            object.bytes[0] ^= 1;
        }
    }

    /// Changes an image's label behind everybody's back.
    pub fn relabel(&self, name: &str, label: &str) {
        if let Some(image) = lock(&self.state).images.get_mut(name) {
            image.said["labels"]["slipform-image"] = label.into();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reply(status: u16, value: &Value) -> Reply {
    Reply::status(status).body(value.to_string())
}

fn error(status: u16, reason: &str) -> Reply {
    let error = json!({"code": status, "message": reason, "errors": [{"reason": reason}]});
    reply(status, &json!({ "error": error }))
}

type Refusal = (u16, &'static str, &'static str);

fn answer(state: &mut State, rules: &GcpRules, request: &Request) -> Reply {
    state.requests += 1;
    if rules.trouble > 0 && state.requests.is_multiple_of(rules.trouble) {
        return match state.requests / rules.trouble % 2 {
            0 => error(503, "backendError"),
            _ => error(429, "rateLimitExceeded"),
        };
    }
    let done = route(state, rules, request);
    done.unwrap_or_else(|(status, reason, why)| {
        if !why.is_empty() {
            let line = format!("{} {}: {why}", request.method, request.target);
            state.complaints.push(line);
        }
        error(status, reason)
    })
}

fn route(state: &mut State, rules: &GcpRules, request: &Request) -> Result<Reply, Refusal> {
    let (method, path) = (request.method.as_str(), request.path());
    if (method, path) == ("POST", "/token") {
        return token(state, request);
    }
    if let Some(session) = path.strip_prefix("/session/") {
        return part(state, rules, request, session);
    }
    let bearer = request.header("authorization").strip_prefix("Bearer ");
    if !bearer.is_some_and(|token| state.tokens.iter().any(|known| known == token)) {
        return Err((401, "authError", ""));
    }
    if !request.whole {
        return Err((400, "invalid", ""));
    }
    state.seen.push(format!("{method} {path}"));
    if (method, path) == ("POST", "/upload/storage/v1/b/images/o") {
        return begin(state, request);
    }
    if let Some(name) = path.strip_prefix(BUCKET) {
        return object(state, method, &text(name));
    }
    let Some(rest) = path.strip_prefix(PROJECT) else {
        return Err((404, "notFound", ""));
    };
    match (method, rest.split_once('/')) {
        ("POST", None) if rest == "images" => insert(state, rules, request),
        ("GET", Some(("images", name))) => image(state, name),
        ("GET", Some(("operations", name))) => operation(state, name),
        _ => Err((400, "invalid", "a question that there is none of")),
    }
}

fn text(encoded: &str) -> String {
    let bytes = decode(encoded).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// A token for an assertion that the account's key has signed.
fn token(state: &mut State, request: &Request) -> Result<Reply, Refusal> {
    let wrong = |why| (400, "invalid_grant", why);
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let field = |name: &str| {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| text(value))
    };
    if field("grant_type").as_deref() != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err(wrong("another grant"));
    }
    let assertion = field("assertion").unwrap_or_default();
    let (signed, signature) = assertion
        .rsplit_once('.')
        .ok_or_else(|| wrong("no assertion"))?;
    let (head, claims) = signed.split_once('.').ok_or_else(|| wrong("no claims"))?;
    let read = |part: &str| Base64UrlUnpadded::decode_vec(part).unwrap_or_default();
    let json = |part: &str| serde_json::from_slice::<Value>(&read(part)).unwrap_or_default();
    let pair = RsaKeyPair::from_pkcs8(&base64::decode(KEY).unwrap_or_default());
    let pair = pair.map_err(|_| wrong("the test's own key"))?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
    public
        .verify(signed.as_bytes(), &read(signature))
        .map_err(|_| wrong("a signature of another key"))?;
    let (head, claims) = (json(head), json(claims));
    let lives = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
    let scope = claims["scope"] == "https://www.googleapis.com/auth/cloud-platform";
    let aud = claims["aud"]
        .as_str()
        .is_some_and(|aud| aud.ends_with("/token"));
    if head["alg"] != "RS256" || claims["iss"] != EMAIL || !scope || !aud || lives != 3600 {
        return Err(wrong("claims that are none of the account's"));
    }
    let token = format!("token-{}", state.tokens.len());
    state.tokens.push(token.clone());
    let said = json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"});
    Ok(reply(200, &said))
}

fn begin(state: &mut State, request: &Request) -> Result<Reply, Refusal> {
    let said: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let name = request.query("name").unwrap_or_default();
    let resumable = request.query("uploadType").as_deref() == Some("resumable");
    let new = request.query("ifGenerationMatch").as_deref() == Some("0");
    if !resumable || !new || said["name"] != name.as_str() || !said["crc32c"].is_string() {
        return Err((
            400,
            "invalid",
            "an upload that may overwrite, or says no sum",
        ));
    }
    if state.objects.contains_key(&name) {
        return Err((412, "conditionNotMet", ""));
    }
    let id = (state.sessions.len() + 1).to_string();
    let location = format!("http://{}/session/{id}", request.header("host"));
    let object = Object {
        said,
        bytes: Vec::new(),
        total: None,
    };
    state.sessions.insert(id, object);
    Ok(Reply::status(200).with("location", location))
}

/// A part of an upload, or the question how far it is.
fn part(
    state: &mut State,
    rules: &GcpRules,
    request: &Request,
    id: &str,
) -> Result<Reply, Refusal> {
    let wrong = |why| (400, "invalid", why);
    if !request.header("authorization").is_empty() {
        return Err(wrong("a token where the address suffices"));
    }
    if !request.body.is_empty() {
        state.parts += 1;
        state.received += request.body.len() as u64;
        if rules.forgets > 0 && state.parts == rules.forgets {
            state.sessions.remove(id);
        }
    }
    let upload = state.sessions.get_mut(id).ok_or((410, "gone", ""))?;
    let range = request.header("content-range").strip_prefix("bytes ");
    let (range, total) = range
        .and_then(|range| range.split_once('/'))
        .ok_or_else(|| wrong("no range"))?;
    let total: u64 = total.parse().map_err(|_| wrong("no total"))?;
    if *upload.total.get_or_insert(total) != total {
        return Err(wrong("another total than before"));
    }
    if range != "*" && (upload.bytes.len() as u64) < total {
        let (from, to) = range
            .split_once('-')
            .ok_or_else(|| wrong("a range that is none"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong("no number"));
        let (from, to) = (number(from)?, number(to)?);
        let length = (to + 1).saturating_sub(from);
        let last = to + 1 == total;
        if from != upload.bytes.len() as u64 || to >= total {
            return Err(wrong("a part that does not begin where the last ended"));
        }
        if !last && !length.is_multiple_of(STEP as u64) {
            return Err(wrong("a part of no whole steps"));
        }
        let mut keep = request.body.len();
        if !request.whole {
            keep = keep / STEP * STEP;
        } else if keep as u64 != length {
            return Err(wrong("another length than said"));
        } else if rules.greedy && keep >= 2 * STEP {
            keep = keep / 2 / STEP * STEP;
        }
        upload.bytes.extend_from_slice(&request.body[..keep]);
    }
    if upload.bytes.len() as u64 == total {
        return finish(state, id);
    }
    let reply = Reply::status(308);
    Ok(match upload.bytes.len() {
        0 => reply,
        count => reply.with("range", format!("bytes=0-{}", count - 1)),
    })
}

fn finish(state: &mut State, id: &str) -> Result<Reply, Refusal> {
    let object = state.sessions.get(id).cloned().ok_or((410, "gone", ""))?;
    if object.said["crc32c"] != sum(&object.bytes).as_str() {
        return Err((400, "invalid", "bytes with the sum of others"));
    }
    let name = object.said["name"].as_str().unwrap_or_default().to_owned();
    if state
        .objects
        .get(&name)
        .is_some_and(|there| there.said != object.said)
    {
        return Err((412, "conditionNotMet", ""));
    }
    let said = described(&object);
    state.objects.insert(name, object);
    Ok(reply(200, &said))
}

fn sum(bytes: &[u8]) -> String {
    base64::encode(&crc32c::crc32c(bytes).to_be_bytes())
}

fn described(object: &Object) -> Value {
    let mut said = object.said.clone();
    said["size"] = object.bytes.len().to_string().into();
    said["crc32c"] = sum(&object.bytes).into();
    said
}

fn object(state: &mut State, method: &str, name: &str) -> Result<Reply, Refusal> {
    match method {
        "GET" => {
            let object = state.objects.get(name).ok_or((404, "notFound", ""))?;
            Ok(reply(200, &described(object)))
        }
        "DELETE" => {
            state.objects.remove(name).ok_or((404, "notFound", ""))?;
            Ok(Reply::status(204))
        }
        _ => Err((400, "invalid", "a method that objects do not have")),
    }
}

fn insert(state: &mut State, rules: &GcpRules, request: &Request) -> Result<Reply, Refusal> {
    let wrong = |why| (400, "invalid", why);
    let said: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let name = said["name"].as_str().unwrap_or_default().to_owned();
    let id = request.query("requestId").unwrap_or_default();
    if id.len() != 36 {
        return Err(wrong("a request without an id"));
    }
    let operation = json!({"name": format!("operation-{name}"), "status": "PENDING"});
    if let Some(there) = state.images.get(&name) {
        if there.request == id {
            return Ok(reply(200, &operation));
        }
        return Err((409, "alreadyExists", ""));
    }
    for word in [&said["name"], &said["family"]] {
        let word = word.as_str().unwrap_or_default();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let first = word.starts_with(|c: char| c.is_ascii_lowercase());
        if !first || word.ends_with('-') || word.len() > 63 || !word.chars().all(plain) {
            return Err(wrong("a name that is none"));
        }
    }
    let labels = said["labels"].as_object().into_iter().flatten();
    let mut values = labels.map(|(_, value)| value.as_str().unwrap_or_default());
    if values.any(|value| value.is_empty() || value.len() > 63) {
        return Err(wrong("a label that is none"));
    }
    let features = said["guestOsFeatures"].as_array().map_or(0, Vec::len);
    let arch = ["X86_64", "ARM64"]
        .map(Value::from)
        .contains(&said["architecture"]);
    if features != 3 || !arch {
        return Err(wrong("an image that could not start, or not everywhere"));
    }
    let source = said["rawDisk"]["source"].as_str().unwrap_or_default();
    let object = source.strip_prefix("https://storage.googleapis.com/images/");
    if !object.is_some_and(|object| state.objects.contains_key(object)) {
        return Err(wrong("an image of no object"));
    }
    let image = Image {
        said,
        request: id,
        looks: (rules.pending, rules.pending),
        failed: rules.fails,
    };
    state.images.insert(name, image);
    Ok(reply(200, &operation))
}

fn operation(state: &mut State, name: &str) -> Result<Reply, Refusal> {
    let name = name.strip_prefix("operation-").unwrap_or_default();
    let image = state.images.get_mut(name).ok_or((404, "notFound", ""))?;
    if image.looks.0 > 0 {
        image.looks.0 -= 1;
        return Ok(reply(200, &json!({"status": "RUNNING"})));
    }
    let mut said = json!({"status": "DONE"});
    if let Some(failed) = image.failed {
        said["error"] = json!({"errors": [{"code": "INVALID", "message": failed}]});
    }
    Ok(reply(200, &said))
}

fn image(state: &mut State, name: &str) -> Result<Reply, Refusal> {
    let image = state.images.get_mut(name).ok_or((404, "notFound", ""))?;
    let mut said = image.said.clone();
    said["status"] = match (image.failed, image.looks) {
        (Some(_), _) => "FAILED",
        (None, (_, 0)) => "READY",
        (None, _) => {
            image.looks.1 -= 1;
            "PENDING"
        }
    }
    .into();
    Ok(reply(200, &said))
}
