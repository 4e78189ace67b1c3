//! A folder: an OCI image layout that skopeo and oras read as it is.
//!
//! ```text
//! <folder>/oci-layout  index.json  blobs/sha256/<hex>     tmp/ index.lock tmp.lock
//! ```
//!
//! The store's own code writes it: temporary file, fsync, rename, fsync of the
//! folder; `index.json` changes under a lock. Referrers are listed in the index
//! without a name, as oras does it.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::download::write_error;
use super::http::opener;
use super::{Document, Expect, Remote, RemoteError, Upload, check_tag};
use crate::base::Digest;
use crate::store::{DOCUMENT_LIMIT, Descriptor, REF_NAME, Store, StoreError};

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

/// An OCI image layout in a folder.
#[derive(Debug)]
pub struct Folder {
    uri: String,
    layout: Store,
    prepared: OnceLock<()>,
}

impl Folder {
    /// The layout at `path`, which the first write makes if need be.
    ///
    /// # Errors
    /// [`RemoteError::Store`] when a layout of another version is there.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RemoteError> {
        let path = path.into();
        Ok(Self {
            uri: format!("file://{}", path.display()),
            layout: Store::layout(path)?,
            prepared: OnceLock::new(),
        })
    }

    /// The layout, ready to be written to.
    fn writable(&self) -> Result<&Store, RemoteError> {
        if self.prepared.get().is_none() {
            self.layout.prepare()?;
            // Two threads that both prepare do the same.
            let _same = self.prepared.set(());
        }
        Ok(&self.layout)
    }

    fn index(&self) -> Result<Vec<Descriptor>, RemoteError> {
        match self.layout.index() {
            Ok(index) => Ok(index.manifests),
            Err(StoreError::Fs(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn damaged(&self, what: String, expected: String, found: String) -> RemoteError {
        RemoteError::Damaged {
            what,
            uri: self.uri.clone(),
            expected,
            found,
        }
    }

    /// Reads a document as it is described; `None` when it is not there.
    fn document(&self, digest: &Digest, media_type: &str) -> Result<Option<Document>, RemoteError> {
        let file = match self.layout.open_unverified(digest) {
            Ok(file) => file,
            Err(StoreError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let what = || format!("document {digest}");
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| RemoteError::Transport {
                operation: format!("read {}", what()),
                uri: self.uri.clone(),
                why: error.to_string(),
            })?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(RemoteError::Malformed {
                what: what(),
                uri: self.uri.clone(),
                why: format!("it has more than the {DOCUMENT_LIMIT} bytes that are read"),
            });
        }
        let document = Document::new(media_type, bytes);
        if document.digest != *digest {
            let (expected, found) = (digest.to_string(), document.digest.to_string());
            return Err(self.damaged(what(), expected, found));
        }
        Ok(Some(document))
    }
}

impl Remote for Folder {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn atomic(&self) -> bool {
        true
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, RemoteError> {
        Ok(self.layout.has(digest))
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        let read = |source| RemoteError::Read {
            digest: upload.digest,
            source,
        };
        let layout = self.writable()?;
        let mut writer = layout.writer()?;
        let mut reader = (upload.open)(0)
            .map_err(read)?
            .take(upload.size.saturating_add(1));
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read(error)),
            };
            writer
                .write_all(&buffer[..count])
                .map_err(|error| write_error(error, format!("blob {}", upload.digest)))?;
            (upload.sent)(count as u64);
        }
        match writer.finish_as(&upload.digest, "the blob to publish") {
            Err(StoreError::Unexpected {
                what,
                expected,
                found,
            }) => Err(self.damaged(what, expected.to_string(), found.to_string())),
            done => Ok(done?),
        }
    }

    fn get_blob(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mut dyn Write,
    ) -> Result<(), RemoteError> {
        let what = || format!("blob {digest}");
        let file = match self.layout.open_unverified(digest) {
            Ok(file) => file,
            Err(StoreError::Missing(_)) => {
                return Err(RemoteError::Missing {
                    what: what(),
                    uri: self.uri.clone(),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let mut sink = crate::base::DigestWriter::new(sink);
        io::copy(&mut file.take(size.saturating_add(1)), &mut sink)
            .map_err(|source| write_error(source, what()))?;
        let length = sink.length();
        let (found, _) = sink.finish();
        if length != size {
            let found = self.layout.size(digest).unwrap_or(length);
            return Err(self.damaged(what(), format!("{size} bytes"), format!("{found} bytes")));
        }
        if found != *digest {
            return Err(self.damaged(what(), digest.to_string(), found.to_string()));
        }
        Ok(())
    }

    fn put_manifest(&self, bytes: &[u8], _media_type: &str) -> Result<Digest, RemoteError> {
        let digest = Digest::of(bytes);
        self.put_blob(&Upload {
            digest,
            size: bytes.len() as u64,
            open: &opener(bytes),
            sent: &|_| (),
        })?;
        Ok(digest)
    }

    fn manifest(&self, digest: &Digest) -> Result<Option<Document>, RemoteError> {
        let Some(mut document) = self.document(digest, "")? else {
            return Ok(None);
        };
        // A layout keeps no media type beside a blob: the document says its own.
        document.media_type = declared_type(&document.bytes);
        Ok(Some(document))
    }

    fn tagged(&self, tag: &str) -> Result<Option<Document>, RemoteError> {
        check_tag(tag)?;
        let found = self.index()?.into_iter().find(|d| name(d) == Some(tag));
        let Some(found) = found else { return Ok(None) };
        match self.document(&found.digest, &found.media_type)? {
            Some(document) => Ok(Some(document)),
            None => Err(RemoteError::Missing {
                what: format!("document {} of the tag '{tag}'", found.digest),
                uri: self.uri.clone(),
            }),
        }
    }

    fn tags(&self) -> Result<Vec<String>, RemoteError> {
        let index = self.index()?;
        let mut tags: Vec<_> = index.iter().filter_map(name).map(str::to_owned).collect();
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    fn set_tag(&self, tag: &str, document: &Document, expect: Expect) -> Result<(), RemoteError> {
        check_tag(tag)?;
        let mut found = None;
        let done = self
            .writable()?
            .tag_if(tag, &document.descriptor(), |old| {
                found = old.map(|old| old.digest);
                expect.fits(found)
            })?;
        if done {
            return Ok(());
        }
        Err(RemoteError::Conflict {
            uri: self.uri.clone(),
            tag: tag.to_owned(),
            found,
        })
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        let mut referrers = Vec::new();
        for entry in self.index()? {
            match self.document(&entry.digest, &entry.media_type) {
                Ok(Some(document)) if document.subject() == Some(*subject) => {
                    referrers.push(document.as_referrer());
                }
                // What cannot be read says nothing of this subject; whoever needs it misses it.
                Ok(_) | Err(RemoteError::Damaged { .. } | RemoteError::Malformed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        referrers.sort_by_key(|d| d.digest);
        referrers.dedup_by_key(|d| d.digest);
        Ok(referrers)
    }

    fn refer(&self, _subject: &Digest, referrer: &Descriptor) -> Result<(), RemoteError> {
        Ok(self.writable()?.list(referrer)?)
    }
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(REF_NAME).map(String::as_str)
}

/// The media type that a manifest or an index names itself.
fn declared_type(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    serde_json::from_slice(bytes).map_or_else(
        |_| "application/octet-stream".to_owned(),
        |typed: Typed| typed.media_type,
    )
}
