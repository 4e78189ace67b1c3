//! The way back: a record's images, proven, into the local store.

use std::io::Write;

use super::sources::LIST_LIMIT;
use super::{PublishError, SOURCES_TYPE, Sources};
use crate::attest::{Attestations, ENVELOPE_LIMIT, Envelope, PublicKey, envelope_layers};
use crate::base::{Digest, Progress};
use crate::channel::{Entry, RecordImage};
use crate::remote::{Document, Piece, Remote, download_all};
use crate::store::{Manifest, Store};

/// A document that a record names.
///
/// # Errors
/// [`PublishError::Incomplete`] when the remote does not have it.
pub fn document(
    remote: &dyn Remote,
    digest: &Digest,
    what: &'static str,
) -> Result<Document, PublishError> {
    remote
        .manifest(digest)?
        .ok_or_else(|| PublishError::Incomplete {
            remote: remote.uri().to_owned(),
            digest: *digest,
            what,
        })
}

/// The manifest of one of a record's images.
///
/// # Errors
/// [`PublishError::Incomplete`], [`PublishError::Store`] for one that cannot be read.
pub fn image_manifest(
    remote: &dyn Remote,
    image: &RecordImage,
) -> Result<(Document, Manifest), PublishError> {
    let document = document(remote, &image.image, "an image")?;
    let manifest = Manifest::parse(&document.bytes)?;
    Ok((document, manifest))
}

/// The attestations that a record names for an image, of each kind the one that one of
/// `keys` signed; none for a forced image.
///
/// # Errors
/// [`PublishError::Incomplete`], [`PublishError::Attest`].
pub fn attestations(
    remote: &dyn Remote,
    image: &RecordImage,
    keys: &[PublicKey],
) -> Result<Option<Attestations>, PublishError> {
    let Some(digest) = &image.attestations else {
        return Ok(None);
    };
    let document = document(remote, digest, "the attestations")?;
    let manifest = Manifest::parse(&document.bytes)?;
    let mut envelopes = Vec::new();
    for layer in envelope_layers(&manifest)? {
        if layer.size > ENVELOPE_LIMIT {
            return Err(PublishError::Incomplete {
                remote: remote.uri().to_owned(),
                digest: layer.digest,
                what: "a readable attestation (it is longer than 64 MiB)",
            });
        }
        let mut bytes = Vec::new();
        remote.get_blob(&layer.digest, layer.size, &mut bytes)?;
        envelopes.push(Envelope::parse(&bytes)?);
    }
    Ok(Some(Attestations::choose(envelopes, keys)?))
}

/// Brings an image's manifest and all its blobs into the store, the manifest last.
///
/// # Errors
/// [`PublishError`]; the store then has some blobs more, and nothing that names them.
pub fn pull(
    store: &Store,
    remote: &dyn Remote,
    image: &RecordImage,
    progress: &dyn Progress,
) -> Result<u64, PublishError> {
    let (document, manifest) = image_manifest(remote, image)?;
    let blobs = manifest.layers.iter().chain([&manifest.config]);
    let pieces: Vec<Piece> = blobs.map(Piece::from).collect();
    let moved = download_all(remote, store, &pieces, progress)?;
    store.put(&document.bytes)?;
    Ok(moved.bytes())
}

/// One blob of a known size into the store; nothing moves when it is there.
///
/// # Errors
/// [`PublishError::Remote`].
pub fn fetch_blob(
    store: &Store,
    remote: &dyn Remote,
    digest: &Digest,
    size: u64,
) -> Result<(), PublishError> {
    if store.size(digest) == Some(size) && store.check(digest)? {
        return Ok(());
    }
    let mut writer = store.writer()?;
    remote.get_blob(digest, size, &mut writer as &mut dyn Write)?;
    Ok(writer.finish_as(digest, "a blob of the remote")?)
}

impl Sources {
    /// The sources of a record, list and blobs, into the store; `None` for a record without.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn pull(
        store: &Store,
        remote: &dyn Remote,
        entry: &Entry,
        progress: &dyn Progress,
    ) -> Result<Option<Self>, PublishError> {
        let Some(list) = entry.record.sources else {
            return Ok(None);
        };
        let manifest = Manifest::parse(&entry.document.bytes)?;
        let descriptor = manifest
            .layers
            .iter()
            // The manifest is not what was signed: its figures are only believed within bounds.
            .find(|layer| {
                layer.digest == list && layer.media_type == SOURCES_TYPE && layer.size <= LIST_LIMIT
            })
            .ok_or_else(|| PublishError::Incomplete {
                remote: remote.uri().to_owned(),
                digest: list,
                what: "the list of sources",
            })?;
        fetch_blob(store, remote, &list, descriptor.size)?;
        let sources = Self::parse(&store.read_at_most(&list, "list of sources", LIST_LIMIT)?)?;
        let pieces: Vec<Piece> = sources.blobs().iter().map(Piece::from).collect();
        download_all(remote, store, &pieces, progress)?;
        Ok(Some(sources))
    }
}
