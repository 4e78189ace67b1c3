//! One object: is it there, get, put under a condition; and lists.

use ureq::http::Method;
use ureq::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};

use super::{Payload, S3};
use crate::base::Digest;
use crate::remote::RemoteError;
use crate::remote::aws::{Scope, now, sign, xml};
use crate::remote::http::{Answer, Call, Refusal, Trouble, again, header, read_all, strict};
use crate::sources::uri::Uri;
use crate::store::DOCUMENT_LIMIT;

/// Most pages of a list, and most things in it.
const PAGES: usize = 1_000;
const LISTED: usize = 100_000;

/// An object as it came.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: String,
    pub(super) etag: String,
}

/// What must be so for an object to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    None,
    /// There is none.
    Absent,
    /// It has this ETag.
    Is(String),
}

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    /// The condition did not hold.
    Refused,
    /// The store knows no such condition.
    Unsupported,
}

impl S3 {
    /// An object's address, or the bucket's for an empty key.
    pub(super) fn at(&self, key: &str, query: &[(&str, &str)]) -> Uri {
        let mut uri = self.bucket.clone();
        // Keys are made of characters that need no encoding (checked on opening, and by `check_tag`).
        uri.path = format!("{}/{}{key}", uri.path, self.prefix);
        self.with_query(uri, query)
    }

    fn with_query(&self, mut uri: Uri, query: &[(&str, &str)]) -> Uri {
        let pairs: Vec<_> = query
            .iter()
            .map(|(key, value)| format!("{}={}", strict(key), strict(value)))
            .collect();
        if !pairs.is_empty() {
            uri.path = format!("{}?{}", uri.path, pairs.join("&"));
        }
        uri
    }

    /// Asks once, signed; `content` is the digest of the body.
    pub(super) fn ask(&self, call: &Call<'_>, content: &Digest) -> Result<Answer, Trouble> {
        let login = match &self.credentials {
            Some(credentials) => {
                let scope = Scope {
                    service: "s3",
                    region: &self.region,
                    now: now(),
                };
                sign(call, &credentials.keys()?, &scope, &content.hex())
            }
            None => Vec::new(),
        };
        self.http.send(call, &login)
    }

    /// What a status means that is not the one hoped for.
    pub(super) fn refused(&self, operation: &str, answer: Answer) -> Trouble {
        let refusal = Refusal::of(answer);
        let code = code(&refusal.text);
        match (refusal.status, code.as_str()) {
            // The bytes came too slowly, or changed on the way.
            (400, "RequestTimeout" | "XAmzContentSHA256Mismatch" | "BadDigest")
            | (409, "ConditionalRequestConflict" | "OperationAborted") => {
                again(format!("the store answers {} {code}", refusal.status))
            }
            (
                301 | 307 | 400,
                "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed",
            ) => Trouble::Final(RemoteError::Refused {
                operation: operation.to_owned(),
                uri: self.uri.clone(),
                status: refusal.status,
                why: format!(": {code}; the bucket is in another region, set AWS_REGION"),
            }),
            (403, code) if login_remedy(code).is_some() => Trouble::Final(RemoteError::Refused {
                operation: operation.to_owned(),
                uri: self.uri.clone(),
                status: refusal.status,
                why: login_remedy(code).unwrap_or_default().to_owned(),
            }),
            _ => refusal.trouble(operation, &self.uri),
        }
    }

    /// Whoever stores an object gives it an ETag: an answer without one is that
    /// of somebody else on the way, who stored nothing.
    pub(super) fn check_answer(&self, answer: &Answer) -> Result<(), Trouble> {
        match header(answer, &ETAG) {
            Some(tag) if !tag.is_empty() => Ok(()),
            _ => Err(again("the answer is not an object store's: it has no ETag")),
        }
    }

    pub(super) fn has(&self, key: &str) -> Result<bool, RemoteError> {
        let operation = format!("look for {key}");
        self.http.retry(&operation, &self.uri, || {
            let call = Call::new(Method::HEAD, self.at(key, &[]));
            let answer = self.ask(&call, &Digest::of(""))?;
            match answer.status().as_u16() {
                200 => {
                    self.check_answer(&answer)?;
                    Ok(true)
                }
                404 => Ok(false),
                _ => Err(self.refused(&operation, answer)),
            }
        })
    }

    pub(super) fn get(
        &self,
        key: &str,
        limit: u64,
        what: &str,
    ) -> Result<Option<Object>, RemoteError> {
        let operation = format!("read {what}");
        self.http.retry(&operation, &self.uri, || {
            let call = Call::new(Method::GET, self.at(key, &[]));
            let answer = self.ask(&call, &Digest::of(""))?;
            match answer.status().as_u16() {
                200 => {
                    self.check_answer(&answer)?;
                    let get = |name| header(&answer, name).unwrap_or_default().to_owned();
                    let (media_type, etag) = (get(&CONTENT_TYPE), get(&ETAG));
                    let media_type = media_type.split(';').next().unwrap_or_default().trim();
                    let media_type = media_type.to_owned();
                    let bytes = read_all(answer, limit, what)?;
                    Ok(Some(Object {
                        bytes,
                        media_type,
                        etag,
                    }))
                }
                404 => Ok(None),
                _ => Err(self.refused(&operation, answer)),
            }
        })
    }

    /// Writes a small object, and tries again.
    pub(super) fn put(
        &self,
        key: &str,
        bytes: &[u8],
        media_type: &str,
        condition: &Condition,
    ) -> Result<Put, RemoteError> {
        self.http.retry(&format!("write {key}"), &self.uri, || {
            self.put_once(key, bytes, media_type, condition)
        })
    }

    /// Writes a small object, once.
    pub(super) fn put_once(
        &self,
        key: &str,
        bytes: &[u8],
        media_type: &str,
        condition: &Condition,
    ) -> Result<Put, Trouble> {
        let mut call = Call::new(Method::PUT, self.at(key, &[]))
            .with(CONTENT_TYPE, media_type)
            .body(Payload::Bytes(bytes));
        match condition {
            Condition::None => {}
            Condition::Absent => call = call.with(IF_NONE_MATCH, "*"),
            Condition::Is(etag) => call = call.with(IF_MATCH, etag),
        }
        let answer = self.ask(&call, &Digest::of(bytes))?;
        let conditional = *condition != Condition::None;
        match answer.status().as_u16() {
            200 => {
                self.check_answer(&answer)?;
                Ok(Put::Done)
            }
            412 if conditional => Ok(Put::Refused),
            501 if conditional => Ok(Put::Unsupported),
            404 if matches!(condition, Condition::Is(_)) => {
                let refusal = Refusal::of(answer);
                if code(&refusal.text) == "NoSuchKey" {
                    return Ok(Put::Refused);
                }
                Err(refusal.trouble(&format!("write {key}"), &self.uri))
            }
            _ => Err(self.refused(&format!("write {key}"), answer)),
        }
    }

    /// The names of all objects whose key begins with `folder`, without it, sorted.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<String>, RemoteError> {
        let what = format!("the list of {folder}");
        let prefix = format!("{}{folder}", self.prefix);
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES {
            let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let page = self.page(&query, &what)?;
            for entry in xml::blocks(&page, "Contents") {
                let key = xml::text(entry, "Key");
                let name = key.as_deref().and_then(|key| key.strip_prefix(&prefix));
                names.push(
                    name.ok_or_else(|| self.malformed(&what, "it has foreign keys"))?
                        .to_owned(),
                );
            }
            if names.len() > LISTED {
                break;
            }
            if xml::text(&page, "IsTruncated").as_deref() != Some("true") {
                names.sort();
                names.dedup();
                return Ok(names);
            }
            let next = xml::text(&page, "NextContinuationToken");
            if next.is_none() || next == token {
                return Err(self.malformed(&what, "it goes on, but does not say where"));
            }
            token = next;
        }
        let why = format!("it has more than {LISTED} entries or {PAGES} pages");
        Err(self.malformed(&what, why))
    }

    /// An answer of the bucket itself.
    pub(super) fn page(&self, query: &[(&str, &str)], what: &str) -> Result<String, RemoteError> {
        let operation = format!("read {what}");
        self.http.retry(&operation, &self.uri, || {
            let mut uri = self.bucket.clone();
            uri.path = format!("{}/", uri.path);
            let call = Call::new(Method::GET, self.with_query(uri, query));
            let answer = self.ask(&call, &Digest::of(""))?;
            if answer.status() != 200 {
                return Err(self.refused(&operation, answer));
            }
            let bytes = read_all(answer, DOCUMENT_LIMIT, what)?;
            String::from_utf8(bytes)
                .ok()
                .filter(|page| {
                    page.contains("<ListBucketResult")
                        || page.contains("<ListMultipartUploadsResult")
                })
                .ok_or_else(|| self.malformed(what, "it is no list").into())
        })
    }
}

/// What is wrong with the keys, and not with what they may do. An answer without a
/// body (to HEAD) cannot tell the two apart.
fn login_remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "SignatureDoesNotMatch" => {
            ": SignatureDoesNotMatch; AWS_SECRET_ACCESS_KEY is not the one of AWS_ACCESS_KEY_ID"
        }
        "InvalidAccessKeyId" => {
            ": InvalidAccessKeyId; nobody there knows AWS_ACCESS_KEY_ID; check it, and AWS_ENDPOINT_URL_S3"
        }
        "RequestTimeTooSkewed" => ": RequestTimeTooSkewed; this machine's clock is wrong, set it",
        "ExpiredToken" | "InvalidToken" => ": AWS_SESSION_TOKEN is expired or wrong; get a new one",
        "" => {
            "; AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is wrong, or lacks the right to do this"
        }
        _ => return None,
    })
}

/// The code of an error's XML.
pub(super) fn code(text: &[u8]) -> String {
    let code = xml::text(&String::from_utf8_lossy(text), "Code").unwrap_or_default();
    code.chars()
        .filter(char::is_ascii_alphanumeric)
        .take(64)
        .collect()
}
