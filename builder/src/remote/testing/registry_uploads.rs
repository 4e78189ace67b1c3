//! The test registry's blobs. An upload's address changes with every step, and
//! only the newest one takes bytes: clients must follow `Location`.

use super::registry::{RegistryRules, State, complain, error};
use super::{Reply, Request};
use crate::base::Digest;

pub(super) fn blobs(
    state: &mut State,
    rules: &RegistryRules,
    request: &Request,
    repository: &str,
    rest: &str,
) -> Reply {
    let Some(id) = rest.strip_prefix("uploads/") else {
        return get_blob(state, rules, request, rest);
    };
    if request.method == "POST" {
        state.next += 1;
        let id = state.next;
        state.uploads.insert(id, (0, Vec::new()));
        let reply = placed(state, repository, id, 202);
        return if rules.least > 0 {
            reply.with("OCI-Chunk-Min-Length", rules.least.to_string())
        } else {
            reply
        };
    }
    let Some(id) = id.parse().ok().filter(|id| state.uploads.contains_key(id)) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    match request.method.as_str() {
        "GET" => placed(state, repository, id, 204),
        "PATCH" if !rules.parts => error(405, "UNSUPPORTED"),
        "PATCH" => patch(state, request, repository, id),
        "PUT" => put(state, request, id),
        method => complain(state, 405, "UNSUPPORTED", format!("{method} of an upload")),
    }
}

/// The state of an upload, at a new address.
fn placed(state: &mut State, repository: &str, id: u64, status: u16) -> Reply {
    let Some((step, bytes)) = state.uploads.get_mut(&id) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    *step += 1;
    let last = bytes.len().saturating_sub(1);
    Reply::status(status)
        .with(
            "Location",
            format!("/v2/{repository}/blobs/uploads/{id}?step={step}"),
        )
        .with("Range", format!("0-{last}"))
}

/// Whether the request is at the newest address.
fn is_newest(state: &State, request: &Request, id: u64) -> bool {
    let step = request.query("step").and_then(|step| step.parse().ok());
    state.uploads.get(&id).map(|(newest, _)| *newest) == step
}

fn patch(state: &mut State, request: &Request, repository: &str, id: u64) -> Reply {
    if !is_newest(state, request, id) {
        return complain(
            state,
            400,
            "BLOB_UPLOAD_INVALID",
            "an old address".to_owned(),
        );
    }
    let Some((_, bytes)) = state.uploads.get_mut(&id) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    let expected = format!(
        "{}-{}",
        bytes.len(),
        (bytes.len() + length).saturating_sub(1)
    );
    if request.header("content-range") != expected {
        let last = bytes.len().saturating_sub(1);
        return error(416, "BLOB_UPLOAD_INVALID").with("Range", format!("0-{last}"));
    }
    // What came before a cut is kept, as real registries do.
    bytes.extend_from_slice(&request.body);
    placed(state, repository, id, 202)
}

fn put(state: &mut State, request: &Request, id: u64) -> Reply {
    if !is_newest(state, request, id) {
        return complain(
            state,
            400,
            "BLOB_UPLOAD_INVALID",
            "an old address".to_owned(),
        );
    }
    if !request.whole {
        state.uploads.remove(&id);
        return error(400, "SIZE_INVALID");
    }
    let Some((_, mut bytes)) = state.uploads.remove(&id) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    bytes.extend_from_slice(&request.body);
    let digest = Digest::of(&bytes);
    if request.query("digest") != Some(digest.to_string()) {
        return error(400, "DIGEST_INVALID");
    }
    state.blobs.insert(digest, bytes);
    Reply::status(201)
        .with("Location", format!("/v2/x/blobs/{digest}"))
        .with("Docker-Content-Digest", digest.to_string())
}

fn get_blob(state: &State, rules: &RegistryRules, request: &Request, digest: &str) -> Reply {
    let bytes = digest
        .parse()
        .ok()
        .and_then(|digest: Digest| state.blobs.get(&digest));
    if let (Some(storage), "GET") = (&rules.storage, request.method.as_str()) {
        let place = format!("{storage}/v2/storage/blobs/{digest}");
        return Reply::status(307).with("Location", place);
    }
    let Some(bytes) = bytes else {
        return error(404, "BLOB_UNKNOWN");
    };
    let reply = Reply::status(200).with("Docker-Content-Digest", digest);
    ranged(reply, request, bytes)
}

/// A body, or the part of it that is asked for.
pub(super) fn ranged(mut reply: Reply, request: &Request, bytes: &[u8]) -> Reply {
    let start = request
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'))
        .and_then(|start| start.parse::<usize>().ok());
    match start {
        Some(start) if start >= bytes.len() => Reply::status(416),
        Some(start) => {
            reply.status = 206;
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            reply.with("Content-Range", range).body(&bytes[start..])
        }
        None => reply.body(bytes),
    }
}
