//! The store further away: what is published, and what machines share, lies in
//! a folder, an OCI registry or an object store.
//!
//! ```text
//! file:///path          folder.rs   an OCI image layout; tags change under a lock
//! oci://host[:port]/…   registry/   distribution-spec 1.1; tags are checked before and after
//! s3://bucket/prefix    s3/         blobs/sha256/<hex>, manifests/<hex>, tags/<name>,
//!                                   referrers/<subject>/<hex>; tags change by If-Match
//! transfer.rs           many blobs: sizes first, only what is missing, in parallel
//! ```
//!
//! Nothing that comes from there is trusted: every read has a limit, every blob
//! and document is digested, and a login goes to the host that it is for only.
//! Blobs before manifests, manifests before tags: that order is the caller's.

pub mod aws;
pub mod azure;
mod download;
pub mod error;
pub mod folder;
pub mod gcp;
mod http;
pub mod registry;
pub mod s3;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transfer;

use std::fmt::Debug;
use std::io::{self, Read, Write};

use serde::Deserialize;

use crate::base::Digest;
use crate::sources::Host;
use crate::sources::uri::{Scheme, Uri, redact};
use crate::store::{DOCUMENT_LIMIT, Descriptor};

pub use error::RemoteError;
pub use folder::Folder;
pub use http::RemoteOptions;
pub use registry::Registry;
pub use s3::S3;
pub use transfer::{Piece, Plan, download_all, plan_download, plan_upload, upload_all};

/// A manifest, an index or another small document, as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their media type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    /// A document of these bytes.
    #[must_use]
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: Digest::of(&bytes),
            media_type: media_type.into(),
            bytes,
        }
    }

    /// What an index says of it: with the artifact's type, if it has one.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        let mut descriptor =
            Descriptor::new(&self.media_type, self.digest, self.bytes.len() as u64);
        descriptor.artifact_type = self.facts().artifact_type;
        descriptor
    }

    /// What a list of referrers says of it (distribution-spec, "Listing
    /// Referrers"): with its annotations; the configuration's type stands for
    /// the artifact's where that is missing.
    #[must_use]
    pub fn as_referrer(&self) -> Descriptor {
        let facts = self.facts();
        let mut descriptor = self.descriptor();
        descriptor.artifact_type = descriptor
            .artifact_type
            .or_else(|| facts.config.map(|config| config.media_type));
        descriptor.annotations = facts.annotations;
        descriptor
    }

    /// The manifest that it is about.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        self.facts().subject.map(|subject| subject.digest)
    }

    /// Whether it is what it was called on the way: a document that names its
    /// own type must not pass for another.
    fn check_type(&self) -> Result<(), String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let typed: Typed =
            serde_json::from_slice(&self.bytes).map_err(|error| error.to_string())?;
        match typed.media_type {
            Some(own) if own != self.media_type => {
                let came = &self.media_type;
                Err(format!("it came as '{came}' and calls itself '{own}'"))
            }
            _ => Ok(()),
        }
    }

    fn facts(&self) -> Facts {
        if self.bytes.len() as u64 > DOCUMENT_LIMIT {
            return Facts::default();
        }
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

/// What lists say of manifests and indexes alike.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Facts {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    subject: Option<Descriptor>,
    annotations: std::collections::BTreeMap<String, String>,
}

/// Opens a blob's bytes from an offset on, as often as need be.
pub type Opener<'a> = dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Sync + 'a;

/// A blob to send.
pub struct Upload<'a> {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes, from an offset on.
    pub open: &'a Opener<'a>,
    /// Told how many more bytes are there; a byte that is sent twice counts once.
    pub sent: &'a (dyn Fn(u64) + Sync),
}

impl Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What a tag must name for it to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// This document.
    Is(Digest),
}

impl Expect {
    /// Whether that is what is there.
    #[must_use]
    pub fn fits(self, found: Option<Digest>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Is(digest) => found == Some(digest),
        }
    }
}

/// A store further away. Everything can be asked from several threads at once.
pub trait Remote: Debug + Send + Sync {
    /// Its name for people, without logins.
    fn uri(&self) -> &str;

    /// Whether [`Remote::set_tag`] compares and swaps in one step. Where it does
    /// not, two publishers at the very same moment can both believe they won,
    /// and what the tags name must prove its own order.
    fn atomic(&self) -> bool;

    /// Whether a blob is there. Its bytes are not read.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn has_blob(&self, digest: &Digest) -> Result<bool, RemoteError>;

    /// Sends a blob; one that is there already is no error. Goes on where it
    /// was cut off, and tries again.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::Damaged`] when the bytes read are not
    /// what the digest says, and nothing is kept.
    fn put_blob(&self, upload: &Upload<'_>) -> Result<(), RemoteError>;

    /// Fetches a blob of exactly `size` bytes. When it fails, `sink` has taken
    /// bytes that must not be used.
    ///
    /// # Errors
    /// [`RemoteError::Missing`]; [`RemoteError::Damaged`] for other bytes.
    fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write)
    -> Result<(), RemoteError>;

    /// Puts a document under its digest.
    ///
    /// # Errors
    /// [`RemoteError`]; a registry refuses a manifest whose blobs are missing.
    fn put_manifest(&self, bytes: &[u8], media_type: &str) -> Result<Digest, RemoteError>;

    /// The document with that digest, verified.
    ///
    /// # Errors
    /// [`RemoteError::Damaged`] and what else may happen on the way.
    fn manifest(&self, digest: &Digest) -> Result<Option<Document>, RemoteError>;

    /// The document that a tag names.
    ///
    /// # Errors
    /// As [`Remote::manifest`].
    fn tagged(&self, tag: &str) -> Result<Option<Document>, RemoteError>;

    /// All tags, sorted.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn tags(&self) -> Result<Vec<String>, RemoteError>;

    /// Lets a tag name a document (put before), if it names now what is expected.
    ///
    /// # Errors
    /// [`RemoteError::Conflict`] with what is there instead.
    fn set_tag(&self, tag: &str, document: &Document, expect: Expect) -> Result<(), RemoteError>;

    /// The documents whose subject that is, sorted by digest.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError>;

    /// Lets [`Remote::referrers`] list a document, put before
    /// ([`Document::as_referrer`]). Where the server does that by itself, nothing happens.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn refer(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), RemoteError>;
}

/// Sends a small blob that is in memory.
///
/// # Errors
/// As [`Remote::put_blob`].
pub fn put_bytes(
    remote: &dyn Remote,
    media_type: &str,
    bytes: &[u8],
) -> Result<Descriptor, RemoteError> {
    let descriptor = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
    remote.put_blob(&Upload {
        digest: descriptor.digest,
        size: descriptor.size,
        open: &http::opener(bytes),
        sent: &|_| (),
    })?;
    Ok(descriptor)
}

/// Opens `oci://host[:port]/repository`, `s3://bucket/prefix` or
/// `file:///folder`. Nobody is asked yet.
///
/// # Errors
/// [`RemoteError::Uri`]; [`RemoteError::Login`] for logins that cannot be read.
pub fn open(uri: &str, host: &Host) -> Result<Box<dyn Remote>, RemoteError> {
    open_with(uri, host, RemoteOptions::default())
}

/// As [`open`], with other patience and sizes.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    uri: &str,
    host: &Host,
    options: RemoteOptions,
) -> Result<Box<dyn Remote>, RemoteError> {
    let wrong = |why: &str| RemoteError::Uri {
        uri: redact(uri),
        why: why.to_owned(),
    };
    match uri.split_once("://") {
        Some(("file", _)) => match Uri::parse(uri) {
            Ok(parsed) if parsed.scheme == Scheme::File => Ok(Box::new(Folder::open(parsed.path)?)),
            _ => Err(wrong("a file: URI has an absolute path and no host")),
        },
        Some(("oci", _)) => Ok(Box::new(Registry::open(uri, host, options)?)),
        Some(("s3", _)) => Ok(Box::new(S3::open(uri, host, options)?)),
        Some(_) => Err(wrong("its scheme is none of oci, s3 and file")),
        None => Err(wrong("it has no scheme")),
    }
}

/// A tag that every kind of remote takes, so that what is in one can move to any.
///
/// # Errors
/// [`RemoteError::Tag`].
pub fn check_tag(tag: &str) -> Result<(), RemoteError> {
    let bytes = tag.as_bytes();
    let word = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let good = bytes.len() <= 128
        && word(bytes.first())
        && word(bytes.last())
        && bytes.iter().all(|c| word(Some(c)) || b"._-".contains(c))
        && bytes
            .windows(2)
            .all(|pair| word(Some(&pair[0])) || word(Some(&pair[1])) || pair == b"--");
    if good {
        Ok(())
    } else {
        Err(RemoteError::Tag(tag.chars().take(140).collect()))
    }
}
