//! An object store that speaks S3.
//!
//! ```text
//! <prefix>/blobs/sha256/<hex>        content
//! <prefix>/manifests/<hex>           documents; the media type is the object's
//! <prefix>/tags/<name>               a descriptor: what the tag names
//! <prefix>/referrers/<hex>/<hex>     a descriptor: who refers to the first
//! <prefix>/slipform.json             says what this is; written to learn whether
//!                                    conditions on a PUT are heeded
//!
//! objects.rs   one object: get, put, list      upload.rs  blobs, whole or in parts
//! ```
//!
//! A tag changes by `If-None-Match: *` or `If-Match: <etag>`. A store that does
//! not heed them is found out before the first tag is set, and said to be not atomic.

mod objects;
mod upload;

use std::io::Write;
use std::sync::OnceLock;

use ureq::http::Method;
use ureq::http::header::RANGE;

use super::aws::{Credentials, Profile};
use super::download::Download;
use super::http::{Call, Http, Payload, Trouble, again};
use super::{Document, Expect, Remote, RemoteError, RemoteOptions, Upload, check_tag};
use crate::base::Digest;
use crate::sources::Host;
use crate::sources::uri::{Uri, redact};
use crate::store::{DOCUMENT_LIMIT, Descriptor};
use objects::{Condition, Object, Put};

/// Largest descriptor that is read, in bytes.
const DESCRIPTOR_BYTES: u64 = 64 * 1024;

/// What lies at the root of what is published.
const MARKER: &str = "slipform.json";
const MARKER_TEXT: &[u8] = b"{\"layout\":\"slipform\",\"version\":1}\n";

/// A bucket, or a part of one.
#[derive(Debug)]
pub struct S3 {
    uri: String,
    http: Http,
    /// Nothing: asked without a signature, which does for public buckets.
    credentials: Option<Credentials>,
    region: String,
    /// The address of the bucket, without a slash at the end.
    bucket: Uri,
    /// `prefix/`, or nothing.
    prefix: String,
    /// Whether conditions on a PUT are heeded, once it is known.
    heeds: OnceLock<bool>,
}

impl S3 {
    /// The bucket of an `s3://` URI.
    ///
    /// # Errors
    /// [`RemoteError::Uri`], [`RemoteError::Login`].
    pub fn open(uri: &str, host: &Host, options: RemoteOptions) -> Result<Self, RemoteError> {
        let wrong = |why: &str| RemoteError::Uri {
            uri: redact(uri),
            why: why.to_owned(),
        };
        let rest = uri
            .strip_prefix("s3://")
            .ok_or_else(|| wrong("its scheme is not s3"))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let named = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
        if !(3..=63).contains(&name.len()) || !name.bytes().all(named) || name.contains("..") {
            return Err(wrong(
                "a bucket has 3 to 63 lower case letters, digits, - and .",
            ));
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        let part = |part: &str| !["", ".", ".."].contains(&part) && part.bytes().all(plain);
        let fine = prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(part));
        if !fine {
            return Err(wrong(
                "a prefix has letters, digits, - . _ and single / between them",
            ));
        }
        let profile = Profile::load(host, "S3")?;
        let bucket = match &profile.endpoint {
            Some(endpoint) => {
                let mut bucket = endpoint.clone();
                bucket.login = None;
                bucket.path = format!("{}/{name}", bucket.path.trim_end_matches('/'));
                bucket
            }
            // A name with dots is in no wildcard certificate.
            None if name.contains('.') => Uri::parse(&format!(
                "https://s3.{}.amazonaws.com/{name}",
                profile.region
            ))?,
            None => {
                let text = format!("https://{name}.s3.{}.amazonaws.com", profile.region);
                let mut bucket = Uri::parse(&text)?;
                bucket.path = String::new();
                bucket
            }
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self {
            uri: format!("s3://{name}{slash}{prefix}"),
            http: Http::new(host, options),
            credentials: Credentials::find_known(host, &profile.region, profile.keys)?,
            region: profile.region,
            bucket,
            prefix: format!("{prefix}{slash}"),
            heeds: OnceLock::new(),
        })
    }

    fn malformed(&self, what: impl Into<String>, why: impl Into<String>) -> RemoteError {
        RemoteError::Malformed {
            what: what.into(),
            uri: self.uri.clone(),
            why: why.into(),
        }
    }

    fn missing(&self, what: String) -> RemoteError {
        RemoteError::Missing {
            what,
            uri: self.uri.clone(),
        }
    }

    /// Asks the store whether it heeds conditions: neither of two that cannot
    /// hold may be taken.
    fn heeds_conditions(&self) -> Result<bool, RemoteError> {
        if let Some(known) = self.heeds.get() {
            return Ok(*known);
        }
        let put =
            |condition: &Condition| self.put(MARKER, MARKER_TEXT, "application/json", condition);
        // Whether it was there before does not matter; after this it is.
        let mut heeded = put(&Condition::Absent)? != Put::Unsupported;
        heeded = heeded && put(&Condition::Absent)? == Put::Refused;
        let other = "\"00000000000000000000000000000000\"".to_owned();
        heeded = heeded && put(&Condition::Is(other))? == Put::Refused;
        Ok(*self.heeds.get_or_init(|| heeded))
    }

    fn tag_object(&self, tag: &str) -> Result<Option<(Descriptor, Object)>, RemoteError> {
        let what = format!("the tag '{tag}'");
        let Some(object) = self.get(&format!("tags/{tag}"), DESCRIPTOR_BYTES, &what)? else {
            return Ok(None);
        };
        let descriptor = self.descriptor(&object.bytes, &what)?;
        Ok(Some((descriptor, object)))
    }

    fn descriptor(&self, bytes: &[u8], what: &str) -> Result<Descriptor, RemoteError> {
        serde_json::from_slice(bytes).map_err(|error| self.malformed(what, error.to_string()))
    }

    fn conflict(&self, tag: &str, found: Option<Digest>) -> RemoteError {
        RemoteError::Conflict {
            uri: self.uri.clone(),
            tag: tag.to_owned(),
            found,
        }
    }

    /// One attempt at a tag. `unsure` says whether an earlier one may have got
    /// through, and is set when this one may have.
    fn try_tag(
        &self,
        tag: &str,
        (digest, bytes): (Digest, &[u8]),
        expect: Expect,
        unsure: &mut bool,
    ) -> Result<(), Trouble> {
        let found = self.tag_object(tag)?;
        let named = found.as_ref().map(|(descriptor, _)| descriptor.digest);
        if *unsure && named == Some(digest) {
            return Ok(());
        }
        if !expect.fits(named) {
            return Err(self.conflict(tag, named).into());
        }
        let heeds = expect != Expect::Any && self.heeds_conditions()?;
        let condition = match (heeds, found) {
            (false, _) => Condition::None,
            (true, None) => Condition::Absent,
            (true, Some((_, object))) => Condition::Is(object.etag),
        };
        let key = format!("tags/{tag}");
        let done = self.put_once(&key, bytes, "application/json", &condition);
        match done {
            Ok(Put::Done) if !heeds => {
                // Nothing kept others from writing at the same moment.
                let named = self.tag_object(tag)?.map(|(d, _)| d.digest);
                if named == Some(digest) {
                    return Ok(());
                }
                Err(self.conflict(tag, named).into())
            }
            Ok(Put::Done) => Ok(()),
            Ok(Put::Refused) => {
                let named = self.tag_object(tag)?.map(|(d, _)| d.digest);
                if expect.fits(named) || (*unsure && named == Some(digest)) {
                    return Err(again("the tag changed and changed back"));
                }
                Err(self.conflict(tag, named).into())
            }
            Ok(Put::Unsupported) => Err(again("the store takes conditions no more")),
            Err(trouble) => {
                *unsure |= matches!(trouble, Trouble::Again { .. });
                Err(trouble)
            }
        }
    }
}

impl Remote for S3 {
    fn uri(&self) -> &str {
        &self.uri
    }

    /// Writes the marker to find out, the first time.
    fn atomic(&self) -> bool {
        self.heeds_conditions().unwrap_or(false)
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, RemoteError> {
        self.has(&blob(digest))
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        self.upload(upload)
    }

    fn get_blob(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mut dyn Write,
    ) -> Result<(), RemoteError> {
        let operation = format!("fetch blob {digest}");
        let got = std::cell::Cell::new(0);
        let mut download = Download::new(*digest, size, &self.uri, sink);
        self.http.persist(&operation, &self.uri, &|| got.get(), || {
            if download.is_whole() {
                return download.finish();
            }
            let mut call = Call::new(Method::GET, self.at(&blob(digest), &[]));
            if let Some(range) = download.range() {
                call = call.with(RANGE, range);
            }
            let answer = self.ask(&call, &Digest::of(""))?;
            match answer.status().as_u16() {
                200 | 206 => {
                    let done = download.receive(answer);
                    got.set(download.got);
                    done
                }
                404 => Err(self.missing(format!("blob {digest}")).into()),
                _ => Err(self.refused(&operation, answer)),
            }
        })
    }

    fn put_manifest(&self, bytes: &[u8], media_type: &str) -> Result<Digest, RemoteError> {
        let digest = Digest::of(bytes);
        self.put(&manifest(&digest), bytes, media_type, &Condition::None)?;
        Ok(digest)
    }

    fn manifest(&self, digest: &Digest) -> Result<Option<Document>, RemoteError> {
        let what = format!("document {digest}");
        let Some(object) = self.get(&manifest(digest), DOCUMENT_LIMIT, &what)? else {
            return Ok(None);
        };
        let document = Document::new(object.media_type, object.bytes);
        if document.digest != *digest {
            return Err(RemoteError::Damaged {
                what,
                uri: self.uri.clone(),
                expected: digest.to_string(),
                found: document.digest.to_string(),
            });
        }
        document
            .check_type()
            .map_err(|why| self.malformed(what, why))?;
        Ok(Some(document))
    }

    fn tagged(&self, tag: &str) -> Result<Option<Document>, RemoteError> {
        check_tag(tag)?;
        let Some((descriptor, _)) = self.tag_object(tag)? else {
            return Ok(None);
        };
        match self.manifest(&descriptor.digest)? {
            Some(document) => Ok(Some(document)),
            None => Err(self.missing(format!("document {} of the tag '{tag}'", descriptor.digest))),
        }
    }

    fn tags(&self) -> Result<Vec<String>, RemoteError> {
        let mut tags = self.list("tags/")?;
        // What others put there is no tag of ours.
        tags.retain(|tag| check_tag(tag).is_ok());
        Ok(tags)
    }

    fn set_tag(&self, tag: &str, document: &Document, expect: Expect) -> Result<(), RemoteError> {
        check_tag(tag)?;
        let bytes = serde_json::to_vec(&document.descriptor())
            .map_err(|error| self.malformed("the tag", error.to_string()))?;
        let mut unsure = false;
        self.http
            .retry(&format!("set the tag '{tag}'"), &self.uri, || {
                self.try_tag(tag, (document.digest, &bytes), expect, &mut unsure)
            })
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        let folder = format!("referrers/{}/", subject.hex());
        let mut found = Vec::new();
        for name in self.list(&folder)? {
            let what = format!("referrer {name}");
            let Some(object) = self.get(&format!("{folder}{name}"), DESCRIPTOR_BYTES, &what)?
            else {
                continue;
            };
            let descriptor = self.descriptor(&object.bytes, &what)?;
            if descriptor.digest.hex() == name {
                found.push(descriptor);
            }
        }
        found.sort_by_key(|d| d.digest);
        Ok(found)
    }

    fn refer(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), RemoteError> {
        let key = format!("referrers/{}/{}", subject.hex(), referrer.digest.hex());
        let bytes = serde_json::to_vec(referrer)
            .map_err(|error| self.malformed("the referrer", error.to_string()))?;
        self.put(&key, &bytes, "application/json", &Condition::None)?;
        Ok(())
    }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn manifest(digest: &Digest) -> String {
    format!("manifests/{}", digest.hex())
}
