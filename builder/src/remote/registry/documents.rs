//! Manifests, tags and referrers in a registry.

use std::sync::PoisonError;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LINK};

use super::Registry;
use super::session::Access;
use super::upload::{CONTENT_DIGEST, DOUBTS};
use crate::base::Digest;
use crate::remote::http::{Answer, Call, Payload, Trouble, again, header, read_all, refused};
use crate::remote::{Document, RemoteError};
use crate::sources::uri::Uri;
use crate::store::{DOCUMENT_LIMIT, Descriptor, INDEX, Index};

/// Says that the registry itself lists what has a subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// What is taken when a manifest is asked for.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, */*;q=0.1";

/// Most pages of a list, and most things in it.
const PAGES: usize = 1_000;
const LISTED: usize = 100_000;

/// How often the index of referrers is written again because somebody else wrote it, too.
const TURNS: u32 = 10;

/// A page of a list, and where the next one is.
type Page = (Vec<u8>, Option<Uri>);

impl Registry {
    /// The document that a tag or a digest names.
    pub(super) fn document(&self, reference: &str) -> Result<Option<Document>, RemoteError> {
        let operation = format!("read {reference}");
        self.http().retry(&operation, &self.uri, || {
            let call = Call::new(Method::GET, self.at(&format!("manifests/{reference}")))
                .with(ACCEPT, ACCEPTED);
            let answer = self.session.ask(call, Access::Pull)?;
            match answer.status().as_u16() {
                200 => self.take_document(reference, answer).map(Some),
                404 => Ok(None),
                _ => Err(refused(&operation, &self.uri, answer)),
            }
        })
    }

    fn take_document(&self, reference: &str, answer: Answer) -> Result<Document, Trouble> {
        let said = header(&answer, &CONTENT_DIGEST).map(str::to_owned);
        let media_type = header(&answer, &CONTENT_TYPE)
            .and_then(|kind| kind.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_owned();
        let what = format!("document {reference}");
        if media_type.is_empty() {
            return Err(self.malformed(what, "it came without a media type").into());
        }
        let bytes = read_all(answer, DOCUMENT_LIMIT, &what)?;
        let document = Document::new(media_type, bytes);
        if let Some(said) = said.filter(|said| said.starts_with("sha256:"))
            && said != document.digest.to_string()
        {
            let said = said.chars().take(100).collect();
            return Err(self.damaged(what, said, document.digest.to_string()).into());
        }
        document
            .check_type()
            .map_err(|why| self.malformed(what, why))?;
        Ok(document)
    }

    /// Puts a document under a tag or its digest.
    pub(super) fn put_document(
        &self,
        reference: &str,
        document: &Document,
    ) -> Result<(), RemoteError> {
        let operation = format!("write {reference}");
        let mut doubts = 0;
        self.http().retry(&operation, &self.uri, || {
            let call = Call::new(Method::PUT, self.at(&format!("manifests/{reference}")))
                .with(CONTENT_TYPE, &document.media_type)
                .body(Payload::Bytes(&document.bytes));
            let answer = self.session.ask(call, Access::Push)?;
            // A registry on a file system may look at a blob's link while somebody else
            // writes it, and then says that our digest is wrong (docker-registry 2.8).
            if answer.status() == 400 && doubts < DOUBTS {
                doubts += 1;
                return Err(again("the registry finds fault with it"));
            }
            if answer.status() != 201 {
                return Err(refused(&operation, &self.uri, answer));
            }
            if let Some(subject) = document.subject()
                && header(&answer, &OCI_SUBJECT) == Some(&subject.to_string())
            {
                // Known already is as good.
                let _known = self.lists_referrers.set(true);
            }
            match header(&answer, &CONTENT_DIGEST) {
                Some(found) if found != document.digest.to_string() => {
                    let found = found.chars().take(100).collect();
                    let what = format!("document {}", document.digest);
                    Err(self
                        .damaged(what, document.digest.to_string(), found)
                        .into())
                }
                _ => Ok(()),
            }
        })
    }

    /// All tags, over as many pages as there are.
    pub(super) fn list_tags(&self) -> Result<Vec<String>, RemoteError> {
        #[derive(Deserialize)]
        struct Listed {
            // null when there are none
            tags: Option<Vec<String>>,
        }
        let operation = "list the tags";
        let mut tags = Vec::new();
        let mut next = Some(self.at("tags/list?n=1000"));
        for _ in 0..PAGES {
            let Some(uri) = next.take() else {
                tags.sort();
                tags.dedup();
                return Ok(tags);
            };
            let page = self.page(operation, &uri)?;
            let Some((bytes, after)) = page else { continue };
            let page: Listed = serde_json::from_slice(&bytes)
                .map_err(|error| self.malformed("the list of tags", error.to_string()))?;
            tags.extend(page.tags.unwrap_or_default());
            if tags.len() > LISTED {
                break;
            }
            next = after;
        }
        let why = format!("it has more than {LISTED} tags or {PAGES} pages");
        Err(self.malformed("the list of tags", why))
    }

    /// One page of a list and where the next one is; nothing when there is no list.
    fn page(&self, operation: &str, uri: &Uri) -> Result<Option<Page>, RemoteError> {
        self.http().retry(operation, &self.uri, || {
            let call = Call::new(Method::GET, uri.clone());
            let answer = self.session.ask(call, Access::Pull)?;
            match answer.status().as_u16() {
                200 => {
                    let after = match header(&answer, &LINK).and_then(next_link) {
                        Some(link) => Some(self.next_page(uri, link)?),
                        None => None,
                    };
                    Ok(Some((read_all(answer, DOCUMENT_LIMIT, "a list")?, after)))
                }
                404 => Ok(None),
                _ => Err(refused(operation, &self.uri, answer)),
            }
        })
    }

    fn next_page(&self, uri: &Uri, link: &str) -> Result<Uri, Trouble> {
        let next = uri.resolve(link)?;
        if next.same_origin(uri) && next.path != uri.path {
            return Ok(next);
        }
        Err(self
            .malformed("a list", "its next page is elsewhere")
            .into())
    }

    pub(super) fn list_referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        let mut found = match self.ask_referrers(subject)? {
            Some(found) => found,
            None => self.kept_referrers(subject)?.manifests,
        };
        found.sort_by_key(|d| d.digest);
        found.dedup_by_key(|d| d.digest);
        Ok(found)
    }

    /// The referrers API; nothing where the registry has none.
    fn ask_referrers(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, RemoteError> {
        if self.lists_referrers.get() == Some(&false) {
            return Ok(None);
        }
        let what = "the list of referrers";
        let mut found = Vec::new();
        let mut next = Some(self.at(&format!("referrers/{subject}")));
        for _ in 0..PAGES {
            let Some(uri) = next.take() else {
                // Known already is as good.
                let _known = self.lists_referrers.set(true);
                return Ok(Some(found));
            };
            let Some((bytes, after)) = self.page("list the referrers", &uri)? else {
                if self.lists_referrers.get() == Some(&true) {
                    return Err(self.malformed(what, "the registry has lists, but not this one"));
                }
                let _known = self.lists_referrers.set(false);
                return Ok(None);
            };
            let page = Index::parse(&bytes)?;
            found.extend(page.manifests);
            if found.len() > LISTED {
                break;
            }
            next = after;
        }
        Err(self.malformed(
            what,
            format!("it has more than {LISTED} entries or {PAGES} pages"),
        ))
    }

    /// The index that clients keep where the registry lists no referrers
    /// (distribution-spec, "Referrers Tag Schema").
    fn kept_referrers(&self, subject: &Digest) -> Result<Index, RemoteError> {
        match self.document(&fallback_tag(subject))? {
            Some(document) => Ok(Index::parse(&document.bytes)?),
            None => Ok(Index::default()),
        }
    }

    pub(super) fn add_referrer(
        &self,
        subject: &Digest,
        referrer: &Descriptor,
    ) -> Result<(), RemoteError> {
        if self.lists_referrers.get() == Some(&true) || self.ask_referrers(subject)?.is_some() {
            return Ok(());
        }
        let _turn = self
            .referring
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // No compare-and-swap here: written, read back, and written again when
        // somebody else's index came in between.
        for turn in 0..TURNS {
            let mut index = self.kept_referrers(subject)?;
            if index.manifests.iter().any(|d| d.digest == referrer.digest) {
                return Ok(());
            }
            if turn > 0 {
                std::thread::sleep(self.http().options.backoff.min(Duration::from_secs(1)) * turn);
            }
            index.manifests.push(referrer.clone());
            index.manifests.sort_by_key(|d| d.digest);
            let document = Document::new(INDEX, index.to_bytes()?);
            self.put_document(&fallback_tag(subject), &document)?;
        }
        Err(RemoteError::Transport {
            operation: format!("list {} among the referrers of {subject}", referrer.digest),
            uri: self.uri.clone(),
            why: format!("others wrote the list {TURNS} times meanwhile; publish again"),
        })
    }
}

/// `sha256-<hex>`.
fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The target of `Link: <target>; rel="next"`.
fn next_link(link: &str) -> Option<&str> {
    link.split(',').find_map(|link| {
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = rest.split(';').any(|p| {
            let p = p.trim();
            p.eq_ignore_ascii_case("rel=next") || p.eq_ignore_ascii_case("rel=\"next\"")
        });
        next.then_some(target)
    })
}
