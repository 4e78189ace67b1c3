//! EBS direct APIs: what they check of snapshots' blocks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::aws::{AwsRules, Seen, Snapshot, State, Status, texts};
use super::{Reply, Request};
use crate::base::{Digest, base64};
use sha2::{Digest as _, Sha256};

/// Bytes of a block, and blocks of a GiB.
const BLOCK: usize = 524_288;
const OF_GIB: u64 = 2048;

/// An error as REST services write it.
pub(super) fn error(status: u16, code: &str) -> Reply {
    Reply::status(status)
        .with("x-amzn-errortype", format!("{code}:http://internal/"))
        .body(format!("{{\"message\":\"{code}, as the test has it\"}}"))
}

/// Action and parameters of a request, if it is one of the reference's.
pub(super) fn read(request: &Request) -> Option<(String, BTreeMap<String, String>)> {
    let parts: Vec<&str> = request.path().trim_start_matches('/').split('/').collect();
    let header = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(name, from)| ((*name).to_owned(), request.header(from).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let (action, mut said) = match (request.method.as_str(), parts.as_slice()) {
        ("POST", ["snapshots"]) => {
            let said: Value = serde_json::from_slice(&request.body).ok()?;
            ("StartSnapshot", texts(&said)?)
        }
        ("PUT", ["snapshots", id, "blocks", index]) => {
            let mut said = header(&[
                ("DataLength", "x-amz-data-length"),
                ("Checksum", "x-amz-checksum"),
                ("ChecksumAlgorithm", "x-amz-checksum-algorithm"),
            ]);
            said.insert("SnapshotId".to_owned(), (*id).to_owned());
            said.insert("BlockIndex".to_owned(), (*index).to_owned());
            ("PutSnapshotBlock", said)
        }
        ("POST", ["snapshots", "completion", id]) => {
            let mut said = header(&[
                ("ChangedBlocksCount", "x-amz-changedblockscount"),
                ("Checksum", "x-amz-checksum"),
                ("ChecksumAlgorithm", "x-amz-checksum-algorithm"),
                (
                    "ChecksumAggregationMethod",
                    "x-amz-checksum-aggregation-method",
                ),
            ]);
            said.insert("SnapshotId".to_owned(), (*id).to_owned());
            ("CompleteSnapshot", said)
        }
        ("GET", ["snapshots", id, "blocks"]) => {
            let said = BTreeMap::from([("SnapshotId".to_owned(), (*id).to_owned())]);
            ("ListSnapshotBlocks", said)
        }
        ("GET", ["snapshots", id, "blocks", index]) => {
            let said = BTreeMap::from([
                ("SnapshotId".to_owned(), (*id).to_owned()),
                ("BlockIndex".to_owned(), (*index).to_owned()),
                ("BlockToken".to_owned(), request.query("blockToken")?),
            ]);
            ("GetSnapshotBlock", said)
        }
        _ => return None,
    };
    for (name, from) in [("MaxResults", "maxResults"), ("NextToken", "pageToken")] {
        if let Some(value) = request.query(from) {
            said.insert(name.to_owned(), value);
        }
    }
    Some((action.to_owned(), said))
}

pub(super) fn answer(state: &mut State, rules: &AwsRules, seen: &Seen, request: &Request) -> Reply {
    let done = match seen.action.as_str() {
        "StartSnapshot" => start(state, rules, seen),
        "PutSnapshotBlock" => put(state, seen, request),
        "CompleteSnapshot" => complete(state, rules, seen),
        "GetSnapshotBlock" => get(state, seen),
        _ => list(state, rules, seen),
    };
    done.unwrap_or_else(|(status, code, why)| {
        if !why.is_empty() {
            state.complain(format!("{}: {why}", seen.action));
        }
        error(status, code)
    })
}

/// Status, code, and what the client must not have done, if it is that.
type Refusal = (u16, &'static str, &'static str);

fn invalid(why: &'static str) -> Refusal {
    (400, "ValidationException", why)
}

fn start(state: &mut State, rules: &AwsRules, seen: &Seen) -> Result<Reply, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    let token = get("ClientToken").to_owned();
    let gib: u64 = get("VolumeSize").parse().unwrap_or(0);
    if token.is_empty() || token.len() > 255 || !(1..=65_536).contains(&gib) {
        return Err(invalid(
            "a token of 1 to 255 bytes, a volume of 1 to 65536 GiB",
        ));
    }
    let minutes = get("Timeout").parse().unwrap_or(60);
    if !(10..=4320).contains(&minutes) {
        return Err(invalid("a timeout of 10 to 4320 minutes"));
    }
    let said = format!("{:?}", seen.parameters);
    let known = state
        .snapshots
        .iter()
        .find(|(_, s)| s.region == seen.region && s.begun.0 == token);
    if let Some((id, known)) = known {
        if known.begun.1 != said {
            return Err((503, "ConflictException", "a token used for something else"));
        }
        return Ok(started(id, known.gib));
    }
    let parent = seen.parameters.get("ParentSnapshotId").cloned();
    if parent
        .as_ref()
        .is_some_and(|parent| state.no_parents.contains(parent))
    {
        return Err(invalid(""));
    }
    if let Some(parent) = &parent {
        let usable = state.snapshots.get(parent).is_some_and(|parent| {
            parent.region == seen.region && parent.status == Status::Ready && parent.gib <= gib
        });
        if !usable {
            return Err((
                404,
                "ResourceNotFoundException",
                "a parent that cannot be one",
            ));
        }
    }
    let tags: Vec<BTreeMap<String, String>> =
        serde_json::from_str(get("Tags")).map_err(|_| invalid("tags that are none"))?;
    let tags = tags
        .into_iter()
        .filter_map(|mut tag| Some((tag.remove("Key")?, tag.remove("Value")?)))
        .collect();
    let id = state.id("snap");
    let snapshot = Snapshot {
        region: seen.region.clone(),
        gib,
        parent,
        begun: (token, said),
        tags,
        blocks: BTreeMap::new(),
        settle: rules.settle,
        status: Status::Open,
    };
    state.snapshots.insert(id.clone(), snapshot);
    Ok(started(&id, gib))
}

fn started(id: &str, gib: u64) -> Reply {
    let body = json!({
        "SnapshotId": id, "Status": "pending", "VolumeSize": gib, "BlockSize": BLOCK,
        "OwnerId": "123456789012",
    });
    Reply::status(201).body(body.to_string())
}

/// The snapshot that a request is about, which must still take blocks.
fn open<'a>(state: &'a mut State, seen: &Seen) -> Result<&'a mut Snapshot, Refusal> {
    let id = seen.parameters.get("SnapshotId").map_or("", String::as_str);
    let found = state.snapshots.get_mut(id);
    let found = found.filter(|s| s.region == seen.region && s.status != Status::Failed);
    let found = found.ok_or((404, "ResourceNotFoundException", ""))?;
    if found.status != Status::Open {
        return Err(invalid(""));
    }
    Ok(found)
}

fn put(state: &mut State, seen: &Seen, request: &Request) -> Result<Reply, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    let snapshot = open(state, seen)?;
    if snapshot.settle > 0 {
        snapshot.settle -= 1;
        return Err((404, "ResourceNotFoundException", ""));
    }
    let index: u32 = get("BlockIndex")
        .parse()
        .map_err(|_| invalid("an index that is none"))?;
    if u64::from(index) >= snapshot.gib * OF_GIB {
        return Err(invalid("a block behind the volume"));
    }
    if request.body.len() != BLOCK || get("DataLength") != BLOCK.to_string() {
        return Err(invalid("a block that is not whole"));
    }
    let sum = Digest::of(&request.body);
    let checksum = base64::encode(sum.as_bytes());
    if get("Checksum") != checksum || get("ChecksumAlgorithm") != "SHA256" {
        return Err(invalid("a block with the sum of another"));
    }
    snapshot.blocks.insert(index, sum);
    state
        .bytes
        .entry(sum)
        .or_insert_with(|| request.body.clone());
    Ok(Reply::status(201)
        .with("x-amz-Checksum", checksum)
        .with("x-amz-Checksum-Algorithm", "SHA256")
        .body("{}"))
}

fn complete(state: &mut State, rules: &AwsRules, seen: &Seen) -> Result<Reply, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    let snapshot = open(state, seen)?;
    if get("ChangedBlocksCount") != snapshot.blocks.len().to_string() {
        return Err(invalid("another number of blocks than were written"));
    }
    let mut all = Sha256::new();
    for sum in snapshot.blocks.values() {
        all.update(sum.as_bytes());
    }
    let sum: [u8; 32] = all.finalize().into();
    if get("Checksum") != base64::encode(&sum)
        || get("ChecksumAlgorithm") != "SHA256"
        || get("ChecksumAggregationMethod") != "LINEAR"
    {
        return Err(invalid("another sum of sums than that of the blocks"));
    }
    snapshot.status = match rules.pending {
        0 => Status::Ready,
        looks => Status::Pending(looks),
    };
    Ok(Reply::status(202).body("{\"Status\":\"pending\"}"))
}

fn token(index: u32, sum: &Digest) -> String {
    format!("{index}+/={}", sum.short())
}

fn get(state: &State, seen: &Seen) -> Result<Reply, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    let blocks = finished(state, seen)?;
    let index = get("BlockIndex").parse().unwrap_or(u32::MAX);
    let sum = blocks
        .get(&index)
        .filter(|sum| get("BlockToken") == token(index, sum));
    let sum = sum.ok_or_else(|| invalid("a block by another's token"))?;
    let bytes = state.bytes.get(sum).cloned().unwrap_or_default();
    Ok(Reply::status(200)
        .with("x-amz-Data-Length", BLOCK.to_string())
        .with("x-amz-Checksum", base64::encode(sum.as_bytes()))
        .with("x-amz-Checksum-Algorithm", "SHA256")
        .body(bytes))
}

/// The blocks of a snapshot that can be read.
fn finished(state: &State, seen: &Seen) -> Result<BTreeMap<u32, Digest>, Refusal> {
    let id = seen.parameters.get("SnapshotId").map_or("", String::as_str);
    match state.snapshots.get(id) {
        Some(found) if found.region == seen.region && found.status == Status::Ready => {
            Ok(state.blocks(id))
        }
        _ => Err(invalid("blocks of a snapshot that is not finished")),
    }
}

fn list(state: &State, rules: &AwsRules, seen: &Seen) -> Result<Reply, Refusal> {
    let get = |name: &str| seen.parameters.get(name).map_or("", String::as_str);
    let all: Vec<(u32, Digest)> = finished(state, seen)?.into_iter().collect();
    let from = get("NextToken").strip_prefix("from ");
    let from: usize = from.map_or(0, |n| n.parse().unwrap_or(0));
    let end = (from + rules.page).min(all.len());
    let blocks: Vec<Value> = all[from.min(end)..end]
        .iter()
        .map(|(index, sum)| json!({"BlockIndex": index, "BlockToken": token(*index, sum)}))
        .collect();
    let mut body = json!({ "Blocks": blocks, "BlockSize": BLOCK });
    if end < all.len() {
        body["NextToken"] = format!("from {end}").into();
    }
    Ok(Reply::status(200).body(body.to_string()))
}
