//! The part of AWS that makes images of machines, in memory: EBS direct, EC2 and Systems
//! Manager, as strict as the real ones where emulators are not. It checks signatures, sums,
//! sizes, counts, tokens and names; things are pending for a while; it throttles and fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::s3_requests::is_signed;
use super::{Reply, Request, Server, aws_ebs, aws_ec2};
use crate::base::Digest;

/// What this AWS is like.
#[derive(Debug, Clone)]
pub struct AwsRules {
    /// How often somebody must look until something pending is there.
    pub pending: usize,
    /// Every so many requests one is answered by being too much, or by a failure that passes;
    /// 0: none.
    pub trouble: usize,
    /// Blocks that may be under way at once; 0: any number.
    pub burst: usize,
    /// Things on a page of a list.
    pub page: usize,
    /// How often a snapshot that was begun is not known yet when a block comes.
    pub settle: usize,
    /// An action that the keys have no right to.
    pub deny: Option<&'static str>,
}

impl Default for AwsRules {
    fn default() -> Self {
        Self {
            pending: 1,
            trouble: 0,
            burst: 0,
            page: 50,
            settle: 0,
            deny: None,
        }
    }
}

/// A request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `ebs`, `ec2` or `ssm`.
    pub service: String,
    /// The region that it was signed for.
    pub region: String,
    /// The action.
    pub action: String,
    /// What it said, lists and numbers as JSON.
    pub parameters: BTreeMap<String, String>,
}

/// Where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Takes blocks.
    Open,
    /// So many looks until it is there.
    Pending(usize),
    Ready,
    Failed,
}

impl Status {
    /// As somebody looks at it: now, and from now on.
    pub(super) fn look(&mut self) -> Self {
        let now = *self;
        if let Self::Pending(left) = now {
            *self = if left <= 1 {
                Self::Ready
            } else {
                Self::Pending(left - 1)
            };
        }
        now
    }
}

#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) region: String,
    pub(super) gib: u64,
    pub(super) parent: Option<String>,
    /// Token, and all that was said with it.
    pub(super) begun: (String, String),
    pub(super) tags: BTreeMap<String, String>,
    pub(super) blocks: BTreeMap<u32, Digest>,
    /// Blocks that come too early.
    pub(super) settle: usize,
    pub(super) status: Status,
}

#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) region: String,
    pub(super) said: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) snapshot: String,
    pub(super) status: Status,
    pub(super) shared: BTreeSet<String>,
    pub(super) deprecated: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    pub(super) images: BTreeMap<String, Image>,
    /// Region and name to the value, and looks until it is seen, with the value before.
    pub(super) parameters: BTreeMap<(String, String), (String, usize, Option<String>)>,
    pub(super) no_parents: BTreeSet<String>,
    /// What was put, by its sum.
    pub(super) bytes: BTreeMap<Digest, Vec<u8>>,
    pub(super) next: u64,
    requests: usize,
    seen: Vec<Seen>,
    complaints: Vec<String>,
}

impl State {
    pub(super) fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{:017x}", self.next)
    }

    pub(super) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }
}

/// AWS on a port of its own, until dropped.
#[derive(Debug)]
pub struct TestAws {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TestAws {
    /// Starts one.
    #[must_use]
    pub fn new(rules: AwsRules) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let under_way = AtomicUsize::new(0);
        let server = Server::start(Arc::new(move |request: &Request| {
            if request.method != "PUT" || rules.burst == 0 {
                return answer(&mut lock(&shared), &rules, request);
            }
            let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
            // Long enough for others to come.
            std::thread::sleep(Duration::from_millis(3));
            let reply = if now > rules.burst {
                aws_ebs::error(400, "RequestThrottledException")
            } else {
                answer(&mut lock(&shared), &rules, request)
            };
            under_way.fetch_sub(1, Ordering::SeqCst);
            reply
        }));
        // Ids of one service are none of another's.
        lock(&state).next = u64::from(server.address().port()) << 20;
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
            ("AWS_ENDPOINT_URL", format!("http://{at}")),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }

    /// All requests that were understood and heeded, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        lock(&self.state).seen.clear();
    }

    /// How often an action was heeded.
    #[must_use]
    pub fn count(&self, action: &str) -> usize {
        let state = lock(&self.state);
        state
            .seen
            .iter()
            .filter(|seen| seen.action == action)
            .count()
    }

    /// Ids and regions of all images.
    #[must_use]
    pub fn images(&self) -> Vec<(String, String)> {
        let state = lock(&self.state);
        let all = state.images.iter();
        all.map(|(id, image)| (id.clone(), image.region.clone()))
            .collect()
    }

    /// Ids of the snapshots that are finished.
    #[must_use]
    pub fn snapshots(&self) -> Vec<String> {
        let state = lock(&self.state);
        let ready = state
            .snapshots
            .iter()
            .filter(|(_, s)| s.status == Status::Ready);
        ready.map(|(id, _)| id.clone()).collect()
    }

    /// What was said of an image, and who may start it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn image(&self, id: &str) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let state = lock(&self.state);
        let image = state.images.get(id).expect("an image with that id");
        (image.said.clone(), image.shared.clone())
    }

    /// When an image is deprecated.
    #[must_use]
    pub fn deprecated(&self, id: &str) -> Option<String> {
        lock(&self.state).images.get(id)?.deprecated.clone()
    }

    /// The blocks of an image's disk that are not zero, parents' included, by their sums.
    ///
    /// # Panics
    /// When there is no such image.
    #[must_use]
    pub fn disk(&self, id: &str) -> BTreeMap<u32, Digest> {
        let state = lock(&self.state);
        let snapshot = &state
            .images
            .get(id)
            .expect("an image with that id")
            .snapshot;
        let mut blocks = state.blocks(snapshot);
        let zero = Digest::of(vec![0; crate::remote::aws::ebs::BLOCK]);
        blocks.retain(|_, sum| *sum != zero);
        blocks
    }

    /// What a parameter names.
    #[must_use]
    pub fn parameter(&self, region: &str, name: &str) -> Option<String> {
        let key = (region.to_owned(), name.to_owned());
        Some(lock(&self.state).parameters.get(&key)?.0.clone())
    }

    /// Changes an image's tag behind everybody's back.
    pub fn retag(&self, id: &str, key: &str, value: &str) {
        if let Some(image) = lock(&self.state).images.get_mut(id) {
            image.tags.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Gives unfinished snapshots up, as the service does after its timeout.
    pub fn time_out(&self) {
        for snapshot in lock(&self.state).snapshots.values_mut() {
            if snapshot.status == Status::Open {
                snapshot.status = Status::Failed;
            }
        }
    }

    /// Takes a snapshot as nobody's parent any more.
    pub fn refuse_parent(&self, id: &str) {
        lock(&self.state).no_parents.insert(id.to_owned());
    }

    /// Changes a block of an image's disk behind everybody's back.
    pub fn corrupt(&self, id: &str, index: u32) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let other = vec![1; crate::remote::aws::ebs::BLOCK];
        let sum = Digest::of(&other);
        state.bytes.insert(sum, other);
        let snapshot = state.images.get(id).map(|image| image.snapshot.clone());
        if let Some(snapshot) = snapshot.and_then(|id| state.snapshots.get_mut(&id)) {
            snapshot.blocks.insert(index, sum);
        }
    }

    /// Deletes every snapshot behind everybody's back.
    pub fn delete_snapshots(&self) {
        lock(&self.state).snapshots.clear();
    }
}

impl State {
    /// A snapshot's blocks over its parent's.
    pub(super) fn blocks(&self, id: &str) -> BTreeMap<u32, Digest> {
        let Some(snapshot) = self.snapshots.get(id) else {
            return BTreeMap::new();
        };
        let below = snapshot.parent.as_deref();
        let mut blocks = below.map_or_else(BTreeMap::new, |parent| self.blocks(parent));
        blocks.extend(&snapshot.blocks);
        blocks
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(state: &mut State, rules: &AwsRules, request: &Request) -> Reply {
    let (service, region) = match is_signed(request, "key", "secret") {
        Ok(found) => found,
        Err(code) => return refuse("ec2", 403, code),
    };
    if request.method != "GET" && request.header("content-length").is_empty() {
        return refuse(&service, 411, "MissingContentLength");
    }
    if !request.whole {
        return refuse(&service, 400, "IncompleteBody");
    }
    let signed = request.header("x-amz-content-sha256");
    let block = request.method == "PUT" && service == "ebs";
    if block != (signed == "UNSIGNED-PAYLOAD")
        || !block && signed != Digest::of(&request.body).hex()
    {
        return refuse(&service, 403, "InvalidSignatureException");
    }
    state.requests += 1;
    if rules.trouble > 0 && state.requests.is_multiple_of(rules.trouble) {
        return trouble(&service, state.requests / rules.trouble);
    }
    let read = match service.as_str() {
        "ebs" => aws_ebs::read(request),
        "ec2" => aws_ec2::read(request),
        "ssm" => read_parameter(request),
        _ => None,
    };
    let Some((action, parameters)) = read else {
        state.complain(format!("{service}: {} {}", request.method, request.target));
        return refuse(&service, 400, "InvalidAction");
    };
    if rules.deny == Some(&*action) {
        return refuse(&service, 403, "AccessDeniedException");
    }
    let seen = Seen {
        service,
        region,
        action,
        parameters,
    };
    state.seen.push(seen.clone());
    match seen.service.as_str() {
        "ebs" => aws_ebs::answer(state, rules, &seen, request),
        "ec2" => aws_ec2::answer(state, rules, &seen),
        _ => parameter(state, rules, &seen),
    }
}

fn refuse(service: &str, status: u16, code: &str) -> Reply {
    match service {
        "ec2" => aws_ec2::error(status, code),
        _ => aws_ebs::error(status, code),
    }
}

/// What passes by itself, of each kind in turn.
fn trouble(service: &str, turn: usize) -> Reply {
    match (turn % 4, service) {
        (0, _) => Reply::status(429),
        (1, _) => Reply::status(500),
        (2, "ec2") => aws_ec2::error(503, "RequestLimitExceeded"),
        (2, "ebs") => aws_ebs::error(400, "RequestThrottledException"),
        (2, _) => aws_ebs::error(400, "ThrottlingException"),
        (_, "ec2") => aws_ec2::error(503, "Unavailable"),
        _ => aws_ebs::error(500, "InternalServerException"),
    }
}

/// Every value of an object as text.
pub(super) fn texts(value: &Value) -> Option<BTreeMap<String, String>> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let object = value.as_object()?;
    Some(object.iter().map(|(k, v)| (k.clone(), text(v))).collect())
}

fn read_parameter(request: &Request) -> Option<(String, BTreeMap<String, String>)> {
    let action = request.header("x-amz-target").strip_prefix("AmazonSSM.")?;
    if request.header("content-type") != "application/x-amz-json-1.1" {
        return None;
    }
    let said: Value = serde_json::from_slice(&request.body).ok()?;
    Some((action.to_owned(), texts(&said)?))
}

/// What somebody who looks sees: not at once what was written last.
fn seen_now(state: &mut State, key: &(String, String)) -> Option<String> {
    let (value, looks, before) = state.parameters.get_mut(key)?;
    if *looks == 0 {
        return Some(value.clone());
    }
    *looks -= 1;
    before.clone()
}

fn parameter(state: &mut State, rules: &AwsRules, seen: &Seen) -> Reply {
    let get = |name: &str| seen.parameters.get(name).cloned().unwrap_or_default();
    let key = (seen.region.clone(), get("Name"));
    match seen.action.as_str() {
        "GetParameter" => match seen_now(state, &key) {
            Some(value) => {
                let body = serde_json::json!({"Parameter": {"Name": key.1, "Value": value}});
                Reply::status(200).body(body.to_string())
            }
            None => aws_ebs::error(400, "ParameterNotFound"),
        },
        "PutParameter" => {
            if state.parameters.contains_key(&key) && get("Overwrite") != "true" {
                return aws_ebs::error(400, "ParameterAlreadyExists");
            }
            let id = get("Value");
            let image = state
                .images
                .get(&id)
                .filter(|image| image.region == seen.region && image.status == Status::Ready);
            if image.is_none() || get("DataType") != "aws:ec2:image" || get("Type") != "String" {
                state.complain(format!(
                    "PutParameter of {id}, which is no image of the region"
                ));
                return aws_ebs::error(400, "ValidationException");
            }
            let before = state.parameters.get(&key).map(|(value, ..)| value.clone());
            state.parameters.insert(key, (id, rules.pending, before));
            Reply::status(200).body("{\"Version\":1,\"Tier\":\"Standard\"}")
        }
        _ => aws_ebs::error(400, "InvalidAction"),
    }
}
