//! EBS direct APIs ("Amazon EBS API Reference"): the blocks of a snapshot, written and
//! listed without a volume.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use ureq::http::Method;
use ureq::http::header::HeaderName;

use super::call::Shape;
use super::{Aws, AwsCall, Pace, Service, is_id};
use crate::base::{Digest, base64};
use crate::remote::RemoteError;
use crate::remote::http::strict;

/// Bytes of a block; the service takes no other size.
pub const BLOCK: usize = 512 * 1024;
/// Minutes without a block after which the service gives an unfinished snapshot up: long
/// enough to come back after a cut, within the service's 10 to 4320.
const TIMEOUT: u32 = 1440;
/// Blocks on a page of a list, as many as there may be.
const PAGE: u32 = 10_000;
/// Most pages of a list: a volume of 64 TiB has 13,422.
const PAGES: usize = 16_384;

pub(super) const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum");
const ALGORITHM: HeaderName = HeaderName::from_static("x-amz-checksum-algorithm");
const METHOD: HeaderName = HeaderName::from_static("x-amz-checksum-aggregation-method");
const LENGTH: HeaderName = HeaderName::from_static("x-amz-data-length");
const COUNT: HeaderName = HeaderName::from_static("x-amz-changedblockscount");

/// A snapshot to begin.
#[derive(Debug, Clone)]
pub struct NewSnapshot<'a> {
    /// Size of its volume, in GiB.
    pub gib: u64,
    /// The snapshot whose blocks it has where none are written.
    pub parent: Option<&'a str>,
    /// For people.
    pub description: &'a str,
    /// Key and value.
    pub tags: &'a [(String, String)],
    /// Stands for this very snapshot, however often it is begun.
    pub token: &'a str,
}

/// `StartSnapshot`.
#[must_use]
pub fn start_snapshot(region: &str, new: &NewSnapshot<'_>) -> AwsCall {
    let tags: Vec<Value> = new
        .tags
        .iter()
        .map(|(key, value)| json!({"Key": key, "Value": value}))
        .collect();
    let mut said = Map::new();
    let mut say = |name: &str, value: Value| said.insert(name.to_owned(), value);
    say("VolumeSize", new.gib.into());
    if let Some(parent) = new.parent {
        say("ParentSnapshotId", parent.into());
    }
    say("Description", new.description.into());
    say("Tags", tags.into());
    say("ClientToken", new.token.into());
    say("Timeout", TIMEOUT.into());
    AwsCall::json(Service::Ebs, region, "StartSnapshot", "/snapshots", said)
}

/// `PutSnapshotBlock`; the bytes themselves go with it when it is sent.
#[must_use]
pub fn put_snapshot_block(region: &str, snapshot: &str, index: u32, sum: &Digest) -> AwsCall {
    let checksum = base64::encode(sum.as_bytes());
    let parameters = json!({
        "SnapshotId": snapshot, "BlockIndex": index, "DataLength": BLOCK,
        "Checksum": checksum, "ChecksumAlgorithm": "SHA256",
    });
    let headers = vec![
        (LENGTH, BLOCK.to_string()),
        (CHECKSUM, checksum),
        (ALGORITHM, "SHA256".to_owned()),
    ];
    call(
        region,
        "PutSnapshotBlock",
        parameters,
        Shape {
            method: Method::PUT,
            path: format!("/snapshots/{}/blocks/{index}", strict(snapshot)),
            headers,
            // The signed checksum stands for the body, as the service's model wants it.
            unsigned: true,
            ..Shape::default()
        },
    )
}

/// `CompleteSnapshot`: so many blocks were written, and this is the sum of their sums.
#[must_use]
pub fn complete_snapshot(region: &str, snapshot: &str, count: usize, sum: &Digest) -> AwsCall {
    let checksum = base64::encode(sum.as_bytes());
    let parameters = json!({
        "SnapshotId": snapshot, "ChangedBlocksCount": count, "Checksum": checksum,
        "ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR",
    });
    let headers = vec![
        (COUNT, count.to_string()),
        (CHECKSUM, checksum),
        (ALGORITHM, "SHA256".to_owned()),
        (METHOD, "LINEAR".to_owned()),
    ];
    call(
        region,
        "CompleteSnapshot",
        parameters,
        Shape {
            method: Method::POST,
            path: format!("/snapshots/completion/{}", strict(snapshot)),
            headers,
            ..Shape::default()
        },
    )
}

/// `ListSnapshotBlocks`.
#[must_use]
pub fn list_blocks(region: &str, snapshot: &str, page: Option<&str>) -> AwsCall {
    let mut parameters = json!({"SnapshotId": snapshot, "MaxResults": PAGE});
    let mut path = format!("/snapshots/{}/blocks?maxResults={PAGE}", strict(snapshot));
    if let Some(page) = page {
        parameters["NextToken"] = page.into();
        path.push_str(&format!("&pageToken={}", strict(page)));
    }
    read(region, "ListSnapshotBlocks", parameters, path)
}

/// `GetSnapshotBlock`, by the token that the list names.
#[must_use]
pub fn get_snapshot_block(region: &str, snapshot: &str, index: u32, token: &str) -> AwsCall {
    let parameters = json!({"SnapshotId": snapshot, "BlockIndex": index, "BlockToken": token});
    let (snapshot, token) = (strict(snapshot), strict(token));
    let path = format!("/snapshots/{snapshot}/blocks/{index}?blockToken={token}");
    read(region, "GetSnapshotBlock", parameters, path)
}

fn read(region: &str, action: &'static str, parameters: Value, path: String) -> AwsCall {
    let shape = Shape {
        method: Method::GET,
        path,
        ..Shape::default()
    };
    call(region, action, parameters, shape)
}

fn call(region: &str, action: &'static str, parameters: Value, shape: Shape) -> AwsCall {
    AwsCall {
        service: Service::Ebs,
        action,
        region: region.to_owned(),
        parameters: match parameters {
            Value::Object(parameters) => parameters,
            _ => Map::new(),
        },
        shape,
    }
}

/// The sum of blocks' sums, in the order of their indexes: what the service calls LINEAR.
#[must_use]
pub fn linear<'a>(sums: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut hasher = Sha256::new();
    for sum in sums {
        hasher.update(sum.as_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Started {
    snapshot_id: String,
    block_size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    blocks: Vec<Listing>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    block_index: u32,
    block_token: String,
}

impl Aws {
    /// Begins a snapshot, or finds the one that was begun with the same token; its id.
    ///
    /// # Errors
    /// [`RemoteError`]; code `ConflictException` for a token that stands for another one.
    pub fn start_snapshot(&self, call: &AwsCall) -> Result<String, RemoteError> {
        let started: Started = self.read(call)?;
        if !is_id(&started.snapshot_id, "snap-") {
            return Err(self.malformed(call, "its snapshot has no id"));
        }
        if started.block_size != BLOCK as u64 {
            let why = format!("its blocks have {} bytes, not {BLOCK}", started.block_size);
            return Err(self.malformed(call, why));
        }
        Ok(started.snapshot_id)
    }

    /// Writes a block of exactly [`BLOCK`] bytes; one that is written again is replaced.
    ///
    /// # Errors
    /// [`RemoteError::Damaged`] when the service has other bytes than were sent.
    pub fn put_block(
        &self,
        call: &AwsCall,
        bytes: &[u8],
        sum: &Digest,
        pace: &Pace,
    ) -> Result<(), RemoteError> {
        let reply = self.ask_with(call, bytes, Some(pace))?;
        let sum = base64::encode(sum.as_bytes());
        match reply.checksum {
            Some(found) if found == sum => Ok(()),
            found => Err(RemoteError::Damaged {
                what: "a block of the snapshot".to_owned(),
                uri: format!("ebs in {}", call.region),
                expected: sum,
                found: found.unwrap_or_default().chars().take(60).collect(),
            }),
        }
    }

    /// Says that all blocks are written.
    ///
    /// # Errors
    /// [`RemoteError`]; the service checks count and sum.
    pub fn complete_snapshot(&self, call: &AwsCall) -> Result<(), RemoteError> {
        self.ask(call).map(drop)
    }

    /// The indexes of a finished snapshot's blocks with their tokens, sorted.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn blocks(&self, region: &str, snapshot: &str) -> Result<Vec<(u32, String)>, RemoteError> {
        let mut found: Vec<(u32, String)> = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES {
            let call = list_blocks(region, snapshot, page.as_deref());
            let listed: Listed = self.read(&call)?;
            let listings = listed.blocks.into_iter();
            found.extend(listings.map(|at| (at.block_index, at.block_token)));
            match listed.next_token {
                Some(next) if !next.is_empty() => page = Some(next),
                _ => {
                    found.sort_unstable();
                    found.dedup_by_key(|(index, _)| *index);
                    return Ok(found);
                }
            }
        }
        let call = list_blocks(region, snapshot, None);
        Err(self.malformed(&call, format!("it has more than {PAGES} pages")))
    }

    /// The sum of a block, over the bytes that come.
    ///
    /// # Errors
    /// [`RemoteError::Malformed`] for one that is not whole.
    pub fn block_sum(&self, call: &AwsCall, pace: &Pace) -> Result<Digest, RemoteError> {
        let reply = self.ask_with(call, &[], Some(pace))?;
        if reply.body.len() != BLOCK {
            let why = format!("it has {} bytes, not {BLOCK}", reply.body.len());
            return Err(self.malformed(call, why));
        }
        Ok(Digest::of(&reply.body))
    }
}
