//! Everything that a release consists of, in the order in which it must arrive.

use std::collections::{BTreeMap, BTreeSet};

use super::{PublishError, SOURCES_TYPE, Sources};
use crate::attest::{Attested, AttestedImage, att_tag};
use crate::base::Digest;
use crate::channel::RecordImage;
use crate::remote::{Document, Piece};
use crate::store::{Descriptor, INDEX, Index, MANIFEST, Manifest, Store};

/// What a release is, beside its images.
#[derive(Debug, Clone)]
pub struct Release {
    /// Name of the image.
    pub name: String,
    /// The user's version of it.
    pub version: String,
    /// The manifest of its only image, or an index over its boards.
    pub digest: Digest,
    /// Digest of `slipform.lock`.
    pub lock: Digest,
    /// What each board's image had to pass.
    pub tests: BTreeMap<String, Tests>,
}

/// What an image had to pass.
#[derive(Debug, Clone)]
pub struct Tests {
    /// Digest of the test plan.
    pub plan: Digest,
    /// Names of all checks, built-in and the user's.
    pub checks: Vec<String>,
}

/// A release, taken apart.
#[derive(Debug, Clone, Default)]
pub struct Shipment {
    /// Blobs, each once, the largest first so that both ends of the line stay busy.
    pub blobs: Vec<Descriptor>,
    /// Documents whose blobs are all above: images, then the index over them, then attestations.
    pub documents: Vec<Document>,
    /// Tags that keep the documents from being swept, and what they name.
    pub tags: Vec<(String, Document)>,
    /// What must be listed as a referrer, and of which document.
    pub referrers: Vec<(Digest, Descriptor)>,
    /// What the record says of the images.
    pub images: Vec<RecordImage>,
    /// Of the blobs, those that belong to the record: the sources, their list first.
    pub carried: Vec<Descriptor>,
}

/// Takes a release apart. All of it is in the local store.
///
/// # Errors
/// [`PublishError::Store`] for what the store lacks; [`PublishError::OtherRelease`]
/// when the release is not made of exactly these images.
pub fn shipment(
    store: &Store,
    attested: &Attested,
    release: &Release,
    sources: &Sources,
) -> Result<Shipment, PublishError> {
    let mut shipment = Shipment::default();
    for image in attested.images() {
        shipment.image(store, image, release)?;
    }
    shipment.images.sort_by(|a, b| a.board.cmp(&b.board));
    let document = shipment.release(store, &release.digest)?;
    shipment
        .tags
        .push((release_tag(&release.version, &release.digest), document));
    shipment.sources(store, sources)?;
    let blobs = &mut shipment.blobs;
    blobs.sort_by(|a, b| b.size.cmp(&a.size).then(a.digest.cmp(&b.digest)));
    blobs.dedup_by_key(|blob| blob.digest);
    Ok(shipment)
}

impl Shipment {
    /// Takes an image in, with what was attested of it.
    fn image(
        &mut self,
        store: &Store,
        image: &AttestedImage,
        release: &Release,
    ) -> Result<(), PublishError> {
        let document = self.manifest(store, image.image())?;
        let tests = release
            .tests
            .get(image.board())
            .ok_or(PublishError::OtherRelease(release.digest))?;
        let mut of_record = RecordImage {
            board: image.board().to_owned(),
            image: *image.image(),
            plan: tests.plan,
            checks: tests.checks.clone(),
            attestations: None,
        };
        if let Some(attestations) = image.attestations() {
            let (att, referrers) = attestations.save(store, &document.descriptor())?;
            let att = self.manifest(store, &att.digest)?;
            of_record.attestations = Some(att.digest);
            // The newest is where cosign looks; each keeps one of its own, for older records.
            let own = format!("att-{}", att.digest.short());
            self.tags.push((att_tag(image.image()), att.clone()));
            self.tags.push((own, att));
            for referrer in referrers {
                let referrer = self.manifest(store, &referrer.digest)?;
                self.referrers
                    .push((*image.image(), referrer.as_referrer()));
            }
        }
        self.images.push(of_record);
        Ok(())
    }

    /// The release's own document: its only image, or an index that it brings.
    fn release(&mut self, store: &Store, digest: &Digest) -> Result<Document, PublishError> {
        let wrong = || PublishError::OtherRelease(*digest);
        let images: BTreeSet<Digest> = self.images.iter().map(|image| image.image).collect();
        if let Some(only) = self.documents.iter().find(|d| d.digest == *digest) {
            return if images.len() == 1 && images.contains(digest) {
                Ok(only.clone())
            } else {
                Err(wrong())
            };
        }
        let bytes = store.read(digest)?;
        let listed: BTreeSet<Digest> = Index::parse(&bytes)?
            .manifests
            .iter()
            .map(|image| image.digest)
            .collect();
        if listed != images {
            return Err(wrong());
        }
        let index = Document::new(INDEX, bytes);
        self.documents.push(index.clone());
        Ok(index)
    }

    /// Takes a manifest of the store in, with its blobs.
    fn manifest(&mut self, store: &Store, digest: &Digest) -> Result<Document, PublishError> {
        let bytes = store.read(digest)?;
        let manifest = Manifest::parse(&bytes)?;
        self.blobs
            .extend(manifest.layers.into_iter().chain([manifest.config]));
        let document = Document::new(MANIFEST, bytes);
        self.documents.push(document.clone());
        Ok(document)
    }

    fn sources(&mut self, store: &Store, sources: &Sources) -> Result<(), PublishError> {
        let bytes = sources.to_bytes()?;
        let list = Descriptor::new(SOURCES_TYPE, store.put(&bytes)?, bytes.len() as u64);
        self.carried.push(list);
        self.carried.extend(sources.blobs());
        self.blobs.extend(self.carried.iter().cloned());
        Ok(())
    }

    /// Its blobs as they are sent.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        self.blobs.iter().map(Piece::from).collect()
    }

    /// Bytes of all blobs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// The tag of a release: readable, never moved, and allowed everywhere.
fn release_tag(version: &str, release: &Digest) -> String {
    let clean: String = version
        .chars()
        .take(80)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let parts: Vec<&str> = clean.split('-').filter(|part| !part.is_empty()).collect();
    let clean = if parts.is_empty() {
        "release".to_owned()
    } else {
        parts.join("-")
    };
    format!("{clean}-{}", release.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_makes_a_tag() {
        let digest = Digest::of("x");
        for version in ["0.1.0", "2026-11-25", "", "..", "v1+é~rc", &"9".repeat(500)] {
            let tag = release_tag(version, &digest);
            crate::remote::check_tag(&tag).unwrap();
            assert!(tag.ends_with(&digest.short()), "{tag}");
        }
        assert!(release_tag("0.1.0", &digest).starts_with("0-1-0-"));
    }
}
