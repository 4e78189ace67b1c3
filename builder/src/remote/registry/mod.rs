//! An OCI registry (distribution-spec 1.1).
//!
//! ```text
//! session.rs   one request with login and redirects     token.rs    WWW-Authenticate, tokens
//! upload.rs    blobs, whole or in parts                 logins.rs   docker's configuration, helpers
//! documents.rs manifests, tags, referrers
//! ```
//!
//! A registry cannot compare and swap a tag: it is read before and after.

mod documents;
mod logins;
mod session;
mod token;
mod upload;

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};

use ureq::http::Method;
use ureq::http::header::RANGE;

use super::download::Download;
use super::http::{Call, Http, refused};
use super::{Document, Expect, Remote, RemoteError, RemoteOptions, Upload, check_tag};
use crate::base::Digest;
use crate::sources::Host;
use crate::sources::uri::{Uri, redact};
use crate::store::Descriptor;
use session::{Access, Session};

/// A repository in a registry.
#[derive(Debug)]
pub struct Registry {
    uri: String,
    session: Session,
    /// Whether the registry lists referrers, once it is known.
    lists_referrers: OnceLock<bool>,
    /// Whether the registry refused to take a blob in parts.
    no_parts: AtomicBool,
    /// Held while the index of referrers is read, changed and written.
    referring: Mutex<()>,
}

impl Registry {
    /// The repository of an `oci://` URI.
    ///
    /// # Errors
    /// [`RemoteError::Uri`].
    pub fn open(uri: &str, host: &Host, options: RemoteOptions) -> Result<Self, RemoteError> {
        let wrong = |why: &str| RemoteError::Uri {
            uri: redact(uri),
            why: why.to_owned(),
        };
        let rest = uri
            .strip_prefix("oci://")
            .ok_or_else(|| wrong("its scheme is not oci"))?;
        let mut base = Uri::parse(&format!("https://{rest}"))
            .map_err(|_| wrong("its host, port or login is broken"))?;
        if base.is_loopback() {
            base = Uri::parse(&format!("http://{rest}"))
                .map_err(|_| wrong("its host, port or login is broken"))?;
        }
        let repository = base.path.trim_matches('/').to_owned();
        if !is_repository(&repository) {
            return Err(wrong(
                "after the host stands a repository (lower case letters, digits and single . _ - / between them), without tag or digest",
            ));
        }
        base.path = format!("/v2/{repository}");
        let login = base.login.take();
        let shown = format!("oci://{}/{repository}", base.authority());
        Ok(Self {
            session: Session::new(Http::new(host, options), host, base, repository, login),
            uri: shown,
            lists_referrers: OnceLock::new(),
            no_parts: AtomicBool::new(false),
            referring: Mutex::default(),
        })
    }

    /// An address below the repository's.
    fn at(&self, path: &str) -> Uri {
        let mut uri = self.session.base.clone();
        uri.path = format!("{}/{path}", uri.path);
        uri
    }

    fn http(&self) -> &Http {
        &self.session.http
    }

    fn damaged(&self, what: String, expected: String, found: String) -> RemoteError {
        RemoteError::Damaged {
            what,
            uri: self.uri.clone(),
            expected,
            found,
        }
    }

    fn malformed(&self, what: impl Into<String>, why: impl Into<String>) -> RemoteError {
        RemoteError::Malformed {
            what: what.into(),
            uri: self.uri.clone(),
            why: why.into(),
        }
    }
}

/// distribution-spec, "Pulling manifests": `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, with `/` between.
fn is_repository(name: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 255
        && name.split('/').all(|part| {
            let bytes = part.as_bytes();
            let ends =
                bytes.first().is_some_and(|c| word(*c)) && bytes.last().is_some_and(|c| word(*c));
            ends && part
                .split(|c: char| c.is_ascii() && word(c as u8))
                .filter(|between| !between.is_empty())
                .all(|between| {
                    matches!(between, "." | "_" | "__") || between.bytes().all(|c| c == b'-')
                })
        })
}

impl Remote for Registry {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn atomic(&self) -> bool {
        false
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, RemoteError> {
        let operation = format!("look for blob {digest}");
        self.http().retry(&operation, &self.uri, || {
            let call = Call::new(Method::HEAD, self.at(&format!("blobs/{digest}")));
            let answer = self.session.ask(call, Access::Pull)?;
            match answer.status().as_u16() {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(refused(&operation, &self.uri, answer)),
            }
        })
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
        self.http()
            .persist(&operation, &self.uri, &|| got.get(), || {
                if download.is_whole() {
                    return download.finish();
                }
                let mut call = Call::new(Method::GET, self.at(&format!("blobs/{digest}")));
                if let Some(range) = download.range() {
                    call = call.with(RANGE, range);
                }
                let answer = self.session.ask(call, Access::Pull)?;
                match answer.status().as_u16() {
                    200 | 206 => {
                        let done = download.receive(answer);
                        got.set(download.got);
                        done
                    }
                    404 => Err(super::http::Trouble::Final(RemoteError::Missing {
                        what: format!("blob {digest}"),
                        uri: self.uri.clone(),
                    })),
                    _ => Err(refused(&operation, &self.uri, answer)),
                }
            })
    }

    fn put_manifest(&self, bytes: &[u8], media_type: &str) -> Result<Digest, RemoteError> {
        let document = Document::new(media_type, bytes);
        self.put_document(&document.digest.to_string(), &document)?;
        Ok(document.digest)
    }

    fn manifest(&self, digest: &Digest) -> Result<Option<Document>, RemoteError> {
        let Some(document) = self.document(&digest.to_string())? else {
            return Ok(None);
        };
        if document.digest != *digest {
            let (expected, found) = (digest.to_string(), document.digest.to_string());
            return Err(self.damaged(format!("document {digest}"), expected, found));
        }
        Ok(Some(document))
    }

    fn tagged(&self, tag: &str) -> Result<Option<Document>, RemoteError> {
        check_tag(tag)?;
        self.document(tag)
    }

    fn tags(&self) -> Result<Vec<String>, RemoteError> {
        self.list_tags()
    }

    fn set_tag(&self, tag: &str, document: &Document, expect: Expect) -> Result<(), RemoteError> {
        check_tag(tag)?;
        let conflict = |found| RemoteError::Conflict {
            uri: self.uri.clone(),
            tag: tag.to_owned(),
            found,
        };
        if expect != Expect::Any {
            let found = self.document(tag)?.map(|found| found.digest);
            if !expect.fits(found) {
                return Err(conflict(found));
            }
        }
        self.put_document(tag, document)?;
        let found = self.document(tag)?.map(|found| found.digest);
        if found == Some(document.digest) {
            return Ok(());
        }
        Err(conflict(found))
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        self.list_referrers(subject)
    }

    fn refer(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), RemoteError> {
        self.add_referrer(subject, referrer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_of_the_specification() {
        for good in ["a", "a/b", "team/app-1", "a--b/c__d", "a.b_c/9"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in [
            "", "A", "a:b", "a@b", "a/", "/a", "a//b", "-a", "a-", "a..b", "a___b", "a._b", "é",
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn only_this_host_is_asked_in_clear() {
        let host = Host::fake("/nowhere", &[]);
        for (uri, scheme) in [
            ("oci://localhost:5000/a", "http://localhost:5000/v2/a"),
            ("oci://127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b"),
            ("oci://[::1]:5000/a", "http://[::1]:5000/v2/a"),
            (
                "oci://localhost.example/a",
                "https://localhost.example/v2/a",
            ),
            ("oci://u:secret@h:444/a", "https://h:444/v2/a"),
        ] {
            let registry = Registry::open(uri, &host, RemoteOptions::default()).unwrap();
            assert_eq!(registry.session.base.public(), scheme);
            assert!(!format!("{registry:?}").contains("secret"));
            assert!(!registry.uri().contains("secret"));
        }
        for bad in [
            "oci://h",
            "oci://h/",
            "oci://h/A",
            "oci://h/a:tag",
            "oci://h:0/a",
            "oci:///a",
        ] {
            let error = Registry::open(bad, &host, RemoteOptions::default());
            assert!(error.is_err(), "{bad}");
        }
    }
}
