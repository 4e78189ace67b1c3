//! Blobs on their way into a registry (distribution-spec, "Pushing blobs"):
//! small ones in one request, large ones in parts that go on where they were cut.

use std::sync::atomic::{AtomicU64, Ordering};

use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};

use super::Registry;
use super::session::Access;
use crate::remote::http::{Answer, Call, Payload, Trouble, again, check_source, header, refused};
use crate::remote::{Remote, RemoteError, Upload};
use crate::sources::uri::Uri;

/// What a blob's bytes are called on the way.
const BYTES: &str = "application/octet-stream";

/// The smallest part that a registry takes.
const MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// The digest that a registry gave to what it took.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The largest part that is sent because a registry wants it, in bytes.
const LARGEST_PART: u64 = 1 << 30;

/// How often a registry may say that the bytes are wrong when they are right.
pub(super) const DOUBTS: u32 = 2;

/// A blob under way in parts.
struct Parts {
    /// Where the next part goes; nowhere before the upload has begun.
    place: Option<Uri>,
    /// Bytes that the registry has.
    at: u64,
    /// Whether `at` must be asked for, after a part that broke off.
    unsure: bool,
    length: u64,
}

impl Registry {
    pub(super) fn upload(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        let most = AtomicU64::new(0);
        let whole = upload.size <= self.http().options.whole;
        if whole || self.no_parts.load(Ordering::Relaxed) {
            return self.upload_whole(upload, &most);
        }
        if self.upload_parts(upload, &most)? {
            return Ok(());
        }
        self.no_parts.store(true, Ordering::Relaxed);
        self.upload_whole(upload, &most)
    }

    fn upload_whole(&self, upload: &Upload<'_>, most: &AtomicU64) -> Result<(), RemoteError> {
        let operation = format!("send blob {}", upload.digest);
        let (mut tried, mut doubts) = (false, 0);
        self.http().retry(&operation, &self.uri, || {
            // The last attempt may have got there, and only its answer was lost.
            if std::mem::replace(&mut tried, true) && self.has_blob(&upload.digest)? {
                return Ok(());
            }
            let (place, _) = self.begin(&operation)?;
            let payload = Payload::Part {
                upload,
                start: 0,
                length: upload.size,
                most,
            };
            let call = Call::new(Method::PUT, with_digest(place, upload))
                .with(CONTENT_TYPE, BYTES)
                .body(payload);
            let answer = self.session.ask(call, Access::Push)?;
            self.finished(upload, &operation, answer, &mut doubts)
        })
    }

    /// Sends a large blob; `false` when the registry takes none in parts.
    fn upload_parts(&self, upload: &Upload<'_>, most: &AtomicU64) -> Result<bool, RemoteError> {
        let operation = format!("send blob {}", upload.digest);
        let confirmed = AtomicU64::new(0);
        let mut parts = Parts {
            place: None,
            at: 0,
            unsure: false,
            length: self.http().options.part.max(1),
        };
        let (mut tried, mut doubts) = (false, 0);
        self.http().persist(
            &operation,
            &self.uri,
            &|| confirmed.load(Ordering::Relaxed),
            || {
                if std::mem::replace(&mut tried, true)
                    && parts.at >= upload.size
                    && self.has_blob(&upload.digest)?
                {
                    return Ok(true);
                }
                let done = self.attempt_parts(upload, &mut parts, most, &confirmed, &operation);
                match done {
                    Ok(Some(place)) => {
                        parts.unsure = true;
                        let call = Call::new(Method::PUT, with_digest(place, upload))
                            .with(CONTENT_TYPE, BYTES)
                            .body(Payload::Bytes(&[]));
                        let answer = self.session.ask(call, Access::Push)?;
                        let done = self.finished(upload, &operation, answer, &mut doubts);
                        if done.is_err() {
                            parts.place = None;
                        }
                        done.map(|()| true)
                    }
                    Ok(None) => Ok(false),
                    Err(trouble) => {
                        parts.unsure = true;
                        Err(trouble)
                    }
                }
            },
        )
    }

    /// Sends parts until the registry has all; gives where it then wants to
    /// hear the digest, or nothing when it takes no parts.
    fn attempt_parts(
        &self,
        upload: &Upload<'_>,
        parts: &mut Parts,
        most: &AtomicU64,
        confirmed: &AtomicU64,
        operation: &str,
    ) -> Result<Option<Uri>, Trouble> {
        if parts.unsure {
            parts.unsure = false;
            self.ask_where(parts, upload.size, operation)?;
        }
        let mut place = match parts.place.clone() {
            Some(place) => place,
            None => {
                let (place, least) = self.begin(operation)?;
                parts.length = parts.length.max(least.min(LARGEST_PART));
                parts.at = 0;
                parts.place = Some(place.clone());
                place
            }
        };
        while parts.at < upload.size {
            let length = parts.length.min(upload.size - parts.at);
            let range = format!("{}-{}", parts.at, parts.at + length - 1);
            let call = Call::new(Method::PATCH, place.clone())
                .with(CONTENT_TYPE, BYTES)
                .with(CONTENT_RANGE, range)
                .body(Payload::Part {
                    upload,
                    start: parts.at,
                    length,
                    most,
                });
            let answer = self.session.ask(call, Access::Push)?;
            match answer.status().as_u16() {
                202 => {
                    place = self.session.follow(&place, &answer)?;
                    let has = received(&answer).unwrap_or(parts.at + length);
                    if has <= parts.at || has > parts.at + length {
                        parts.place = None;
                        return Err(again("the registry miscounts what it has"));
                    }
                    parts.at = has;
                    parts.place = Some(place.clone());
                    confirmed.fetch_max(has, Ordering::Relaxed);
                }
                405 | 411 | 413 | 415 | 501 if parts.at == 0 => return Ok(None),
                404 | 410 => {
                    parts.place = None;
                    return Err(again("the registry has forgotten the upload"));
                }
                416 => return Err(again("the registry wants another part")),
                _ => return Err(refused(operation, &self.uri, answer)),
            }
        }
        Ok(Some(place))
    }

    /// Asks how much of an upload is there.
    fn ask_where(&self, parts: &mut Parts, size: u64, operation: &str) -> Result<(), Trouble> {
        let Some(place) = parts.place.clone() else {
            return Ok(());
        };
        // Until there is an answer, nothing is known.
        parts.unsure = true;
        let call = Call::new(Method::GET, place.clone());
        let answer = self.session.ask(call, Access::Push)?;
        parts.unsure = false;
        match answer.status().as_u16() {
            200 | 202 | 204 => {
                let at = received(&answer).unwrap_or(0);
                if at > size {
                    parts.place = None;
                    return Ok(());
                }
                parts.at = at;
                // The answer may name a new place, or none.
                parts.place = Some(self.session.follow(&place, &answer).unwrap_or(place));
                Ok(())
            }
            429 | 500.. => {
                parts.unsure = true;
                Err(refused(operation, &self.uri, answer))
            }
            // It knows nothing of it, or does not tell: from the start.
            _ => {
                parts.place = None;
                Ok(())
            }
        }
    }

    /// Begins an upload: where its bytes go, and the smallest part.
    fn begin(&self, operation: &str) -> Result<(Uri, u64), Trouble> {
        let call = Call::new(Method::POST, self.at("blobs/uploads/")).body(Payload::Bytes(&[]));
        let from = call.uri.clone();
        let answer = self.session.ask(call, Access::Push)?;
        if answer.status() != 202 {
            return Err(refused(operation, &self.uri, answer));
        }
        let least = header(&answer, &MIN_LENGTH).and_then(|least| least.parse().ok());
        Ok((self.session.follow(&from, &answer)?, least.unwrap_or(0)))
    }

    /// What the registry says of a blob once it has all of it.
    fn finished(
        &self,
        upload: &Upload<'_>,
        operation: &str,
        answer: Answer,
        doubts: &mut u32,
    ) -> Result<(), Trouble> {
        match answer.status().as_u16() {
            201 => {
                let found = header(&answer, &CONTENT_DIGEST);
                match found {
                    Some(found) if found != upload.digest.to_string() => {
                        let found = found.chars().take(100).collect();
                        let what = format!("blob {}", upload.digest);
                        Err(self.damaged(what, upload.digest.to_string(), found).into())
                    }
                    _ => Ok(()),
                }
            }
            400 => {
                check_source(upload, &self.uri)?;
                *doubts += 1;
                if *doubts > DOUBTS {
                    return Err(refused(operation, &self.uri, answer));
                }
                Err(again("the bytes arrived damaged"))
            }
            404 | 410 | 416 => Err(again("the registry has forgotten the upload")),
            _ => Err(refused(operation, &self.uri, answer)),
        }
    }
}

/// How many bytes a registry says that it has: `Range: 0-<last>`. `0-0` is also
/// said of an empty upload, and taken for that: parts are larger than a byte.
fn received(answer: &Answer) -> Option<u64> {
    let range = header(answer, &RANGE)?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then_some(if last == 0 { 0 } else { last.checked_add(1)? })
}

fn with_digest(mut place: Uri, upload: &Upload<'_>) -> Uri {
    let mark = if place.path.contains('?') { '&' } else { '?' };
    let digest = upload.digest.hex();
    place.path = format!("{}{mark}digest=sha256%3A{digest}", place.path);
    place
}
