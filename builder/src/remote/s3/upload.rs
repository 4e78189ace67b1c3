//! Blobs on their way into an object store: small ones in one request, large
//! ones in parts. Parts that an earlier attempt (or process) left are used when
//! their ETag shows that they are right.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use md5::{Digest as _, Md5};
use ureq::http::Method;
use ureq::http::header::{CONTENT_TYPE, ETAG};

use super::objects::code;
use super::{S3, blob};
use crate::base::{Digest, DigestWriter};
use crate::remote::aws::xml;
use crate::remote::http::{Call, Payload, Refusal, Trouble, again, check_source, header, read_all};
use crate::remote::{Remote, RemoteError, Upload};

/// What a blob's bytes are called.
const BYTES: &str = "application/octet-stream";

/// Most parts of an object, as S3 has it.
const PARTS: u64 = 10_000;

/// Largest answer about parts that is read, in bytes.
const ANSWER_LIMIT: u64 = 4 * 1024 * 1024;

/// How often an upload is begun again because the store forgot it.
const BEGINNINGS: u32 = 3;

/// Parts that are there by number: ETag (without quotes) and size.
type Parts = BTreeMap<u64, (String, u64)>;

/// What became of an attempt in parts.
enum Outcome {
    Done,
    /// The store knows nothing of the upload: it was completed or ended by somebody else.
    Forgotten,
}

impl S3 {
    pub(super) fn upload(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        if upload.size <= self.http.options.whole {
            return self.upload_whole(upload);
        }
        for _ in 0..BEGINNINGS {
            match self.upload_parts(upload)? {
                Outcome::Done => return Ok(()),
                Outcome::Forgotten if self.has_blob(&upload.digest)? => return Ok(()),
                Outcome::Forgotten => {}
            }
        }
        Err(RemoteError::Transport {
            operation: format!("send blob {}", upload.digest),
            uri: self.uri.clone(),
            why: format!("the store forgot the upload {BEGINNINGS} times"),
        })
    }

    fn upload_whole(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        let operation = format!("send blob {}", upload.digest);
        let most = AtomicU64::new(0);
        let mut doubted = false;
        // Not every store compares what arrives with the digest that was signed (moto
        // does not), and without a signature none can.
        check_source(upload, &self.uri)?;
        self.http.retry(&operation, &self.uri, || {
            let call = Call::new(Method::PUT, self.at(&blob(&upload.digest), &[]))
                .with(CONTENT_TYPE, BYTES)
                .body(Payload::Part {
                    upload,
                    start: 0,
                    length: upload.size,
                    most: &most,
                });
            let answer = self.ask(&call, &upload.digest)?;
            match answer.status().as_u16() {
                200 => self.check_answer(&answer),
                400 if !doubted => {
                    // Either the bytes are wrong, or they arrived so.
                    check_source(upload, &self.uri)?;
                    doubted = true;
                    match self.refused(&operation, answer) {
                        Trouble::Final(_) => Err(again("the bytes arrived damaged")),
                        trouble => Err(trouble),
                    }
                }
                _ => Err(self.refused(&operation, answer)),
            }
        })
    }

    fn upload_parts(&self, upload: &Upload<'_>) -> Result<Outcome, RemoteError> {
        let key = blob(&upload.digest);
        let id = match self.unfinished(&key)? {
            Some(id) => id,
            None => self.begin(&key)?,
        };
        let Some(there) = self.parts(&key, &id)? else {
            return Ok(Outcome::Forgotten);
        };
        let length = self.http.options.part.max(upload.size.div_ceil(PARTS));
        let read = |source| RemoteError::Read {
            digest: upload.digest,
            source,
        };
        let mut reader = (upload.open)(0).map_err(read)?;
        let mut all = DigestWriter::new(io::sink());
        let mut tags = Vec::new();
        let mut part = Vec::new();
        while all.length() < upload.size {
            let length = length.min(upload.size - all.length());
            part.clear();
            (&mut reader)
                .take(length)
                .read_to_end(&mut part)
                .map_err(read)?;
            io::Write::write_all(&mut all, &part).map_err(read)?;
            if (part.len() as u64) < length {
                break;
            }
            let number = tags.len() as u64 + 1;
            let tag = hex(&Md5::digest(&part));
            if there.get(&number) == Some(&(tag.clone(), length)) {
                (upload.sent)(length);
                tags.push(format!("\"{tag}\""));
                continue;
            }
            match self.send_part(upload, (&key, &id), number, &part)? {
                Some(tag) => tags.push(tag),
                None => return Ok(Outcome::Forgotten),
            }
        }
        let (found, _) = all.finish();
        if found != upload.digest {
            self.abort(&key, &id);
            check_source(upload, &self.uri)?;
            return Err(RemoteError::Damaged {
                what: "the blob to publish".to_owned(),
                uri: self.uri.clone(),
                expected: upload.digest.to_string(),
                found: found.to_string(),
            });
        }
        self.complete(&key, &id, &tags)
    }

    /// Sends a part; gives its ETag, or nothing when the upload is gone.
    fn send_part(
        &self,
        upload: &Upload<'_>,
        (key, id): (&str, &str),
        number: u64,
        part: &[u8],
    ) -> Result<Option<String>, RemoteError> {
        let operation = format!("send part {number} of blob {}", upload.digest);
        let number = number.to_string();
        let content = Digest::of(part);
        let reported = AtomicU64::new(0);
        let tag = self.http.retry(&operation, &self.uri, || {
            let query = [("partNumber", number.as_str()), ("uploadId", id)];
            let call = Call::new(Method::PUT, self.at(key, &query)).body(Payload::Bytes(part));
            let answer = self.ask(&call, &content)?;
            match answer.status().as_u16() {
                200 => match header(&answer, &ETAG) {
                    Some(tag) if tag.len() <= 1024 => Ok(Some(tag.to_owned())),
                    _ => Err(again("the store gives a part no ETag")),
                },
                404 => self
                    .forgotten(&operation, Refusal::of(answer))
                    .map(|()| None),
                _ => Err(self.refused(&operation, answer)),
            }
        })?;
        if tag.is_some() && reported.swap(1, Ordering::Relaxed) == 0 {
            (upload.sent)(part.len() as u64);
        }
        Ok(tag)
    }

    /// Whether a 404 says that the upload is gone, and not the bucket.
    fn forgotten(&self, operation: &str, refusal: Refusal) -> Result<(), Trouble> {
        if code(&refusal.text) == "NoSuchUpload" {
            return Ok(());
        }
        Err(refusal.trouble(operation, &self.uri))
    }

    fn begin(&self, key: &str) -> Result<String, RemoteError> {
        let operation = format!("begin {key}");
        self.http.retry(&operation, &self.uri, || {
            let call = Call::new(Method::POST, self.at(key, &[("uploads", "")]))
                .with(CONTENT_TYPE, BYTES)
                .body(Payload::Bytes(&[]));
            let answer = self.ask(&call, &Digest::of(""))?;
            if answer.status() != 200 {
                return Err(self.refused(&operation, answer));
            }
            let bytes = read_all(answer, ANSWER_LIMIT, "an upload")?;
            xml::text(&String::from_utf8_lossy(&bytes), "UploadId")
                .filter(|id| !id.is_empty() && id.len() <= 1024)
                .ok_or_else(|| self.malformed("an upload", "it has no UploadId").into())
        })
    }

    /// An upload of this blob that was begun and not finished.
    fn unfinished(&self, key: &str) -> Result<Option<String>, RemoteError> {
        let key = format!("{}{key}", self.prefix);
        let page = self.page(
            &[("uploads", ""), ("prefix", &key)],
            "the unfinished uploads",
        );
        let page = match page {
            Ok(page) => page,
            // Listing may be forbidden where writing is not.
            Err(RemoteError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let uploads = xml::blocks(&page, "Upload");
        let of_this = uploads
            .iter()
            .find(|upload| xml::text(upload, "Key").as_deref() == Some(key.as_str()));
        Ok(of_this
            .and_then(|upload| xml::text(upload, "UploadId"))
            .filter(|id| !id.is_empty() && id.len() <= 1024))
    }

    /// The parts that are there; nothing when the upload is gone.
    fn parts(&self, key: &str, id: &str) -> Result<Option<Parts>, RemoteError> {
        let operation = format!("list the parts of {key}");
        let mut parts = BTreeMap::new();
        let mut after = String::new();
        // A thousand a page.
        for _ in 0..=PARTS / 1_000 {
            let page = self.http.retry(&operation, &self.uri, || {
                let mut query = vec![("uploadId", id)];
                if !after.is_empty() {
                    query.push(("part-number-marker", after.as_str()));
                }
                let call = Call::new(Method::GET, self.at(key, &query));
                let answer = self.ask(&call, &Digest::of(""))?;
                match answer.status().as_u16() {
                    200 => {
                        let page = read_all(answer, ANSWER_LIMIT, "the parts")?;
                        if !String::from_utf8_lossy(&page).contains("<ListPartsResult") {
                            return Err(again("the answer is no list of parts"));
                        }
                        Ok(Some(page))
                    }
                    404 => self
                        .forgotten(&operation, Refusal::of(answer))
                        .map(|()| None),
                    // It may be forbidden where writing is not: all parts are sent then.
                    403 => Ok(Some(Vec::new())),
                    _ => Err(self.refused(&operation, answer)),
                }
            })?;
            let Some(page) = page else { return Ok(None) };
            let page = String::from_utf8_lossy(&page);
            for part in xml::blocks(&page, "Part") {
                let number = |tag| xml::text(part, tag).and_then(|n| n.parse::<u64>().ok());
                let tag = xml::text(part, "ETag").map(|tag| tag.trim_matches('"').to_owned());
                if let (Some(at), Some(tag), Some(size)) =
                    (number("PartNumber"), tag, number("Size"))
                {
                    parts.insert(at, (tag, size));
                }
            }
            let next = xml::text(&page, "NextPartNumberMarker").unwrap_or_default();
            if xml::text(&page, "IsTruncated").as_deref() != Some("true") || next == after {
                break;
            }
            after = next;
        }
        Ok(Some(parts))
    }

    fn complete(&self, key: &str, id: &str, tags: &[String]) -> Result<Outcome, RemoteError> {
        let operation = format!("finish {key}");
        let mut body = String::from("<CompleteMultipartUpload>");
        for (at, tag) in tags.iter().enumerate() {
            let (number, tag) = (at + 1, xml::escape(tag));
            body.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            ));
        }
        body.push_str("</CompleteMultipartUpload>");
        self.http.retry(&operation, &self.uri, || {
            let call = Call::new(Method::POST, self.at(key, &[("uploadId", id)]))
                .with(CONTENT_TYPE, "application/xml")
                .body(Payload::Bytes(body.as_bytes()));
            let answer = self.ask(&call, &Digest::of(&body))?;
            match answer.status().as_u16() {
                200 => {
                    // It may have failed after the status was sent.
                    let bytes = read_all(answer, ANSWER_LIMIT, "an upload")?;
                    let said = String::from_utf8_lossy(&bytes);
                    if said.contains("<CompleteMultipartUploadResult") {
                        return Ok(Outcome::Done);
                    }
                    let code = code(&bytes);
                    Err(again(format!("the store could not join the parts: {code}")))
                }
                404 => self
                    .forgotten(&operation, Refusal::of(answer))
                    .map(|()| Outcome::Forgotten),
                _ => Err(self.refused(&operation, answer)),
            }
        })
    }

    /// Ends an upload whose bytes are wrong. Failing to is no error of its own:
    /// what is left has no name.
    fn abort(&self, key: &str, id: &str) {
        let call = Call::new(Method::DELETE, self.at(key, &[("uploadId", id)]));
        let _left = self.ask(&call, &Digest::of(""));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
