//! Sending a release, and repeating one that is there already.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{PublishError, Release, Sources, shipment};
use crate::attest::{ATT_SUFFIX, Attested, AttestedImage, Signer, beside_others};
use crate::base::{Digest, Progress};
use crate::channel::{self, ChannelError, CloudImage, Entry, Kind, RECORD_SCHEMA, REVOKED, Record};
use crate::remote::{Document, Expect, Remote, put_bytes, upload_all};
use crate::store::{Descriptor, MANIFEST, Manifest, Store};

/// Between what a release moves, who signs, who listens.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// Where it is.
    pub store: &'a Store,
    /// Where it goes.
    pub remote: &'a dyn Remote,
    /// Who signs the record.
    pub signer: &'a dyn Signer,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// What is published where, by whom, and why.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The channel.
    pub channel: &'a str,
    /// What is done.
    pub kind: Kind,
    /// Who does it.
    pub who: &'a str,
    /// Why, for people; may be empty.
    pub why: &'a str,
    /// Now, seconds since 1970.
    pub now: i64,
    /// The channel's newest record must still be this one.
    pub after: Option<Digest>,
    /// What the images became in clouds; for a release that is repeated, what its record says.
    pub clouds: &'a [CloudImage],
    /// The parameter in clouds that names the channel's newest release.
    pub parameter: Option<&'a str>,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Published {
    /// Where.
    pub remote: String,
    /// The channel.
    pub channel: String,
    /// The record's place in it.
    pub sequence: u64,
    /// Digest of the record's manifest.
    pub record: Digest,
    /// Digest of the release.
    pub release: Digest,
    /// Bytes that had to move.
    pub moved: u64,
    /// Bytes of the whole release.
    pub bytes: u64,
    /// The record was one that an interrupted run had left behind.
    pub taken_up: bool,
    /// The remote compares and swaps; see [`Remote::atomic`].
    pub atomic: bool,
    /// The channel said all of this already; nothing was added to it.
    pub unchanged: bool,
    /// What the images became in clouds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<CloudImage>,
    /// The parameter there that names the channel's newest release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Bytes of blocks that were sent to clouds.
    pub cloud_moved: u64,
    /// Blocks of the disks that a cloud did not have as an image yet.
    pub cloud_blocks: usize,
    /// Those of them that differ from the parent's.
    pub cloud_changed: usize,
}

/// Publishes what came through the gate: sends what is missing, then appends the record.
///
/// # Errors
/// [`PublishError`]. The channel names the old release then, or (when the cut came
/// after the last step) the new one; running it again completes it.
pub fn publish(
    ends: &Ends<'_>,
    attested: &Attested,
    release: &Release,
    sources: &Sources,
    request: &Request<'_>,
) -> Result<Published, PublishError> {
    let Ends {
        store,
        remote,
        signer,
        progress,
    } = *ends;
    channel::check_name(request.channel)?;
    if request.channel == REVOKED {
        return Err(ChannelError::Name(request.channel.to_owned()).into());
    }
    let shipment = shipment(store, attested, release, sources)?;
    let moved = upload_all(store, remote, &shipment.pieces(), progress)?;
    for document in &shipment.documents {
        remote.put_manifest(&document.bytes, &document.media_type)?;
    }
    for (subject, referrer) in &shipment.referrers {
        remote.refer(subject, referrer)?;
    }
    for (tag, document) in &shipment.tags {
        name(remote, tag, document)?;
    }
    let record = Record {
        schema: RECORD_SCHEMA,
        channel: request.channel.to_owned(),
        sequence: 0,
        predecessor: None,
        kind: request.kind,
        name: release.name.clone(),
        version: release.version.clone(),
        release: release.digest,
        images: shipment.images.clone(),
        sources: shipment.carried.first().map(|list| list.digest),
        lock: Some(release.lock),
        forced: attested.forced().map(str::to_owned),
        origin: None,
        clouds: request.clouds.to_vec(),
        parameter: request.parameter.map(str::to_owned),
        published: request.now,
        when: request.now,
        who: request.who.to_owned(),
        why: request.why.to_owned(),
    };
    let bytes = shipment.bytes();
    let appended = channel::append(remote, record, shipment.carried, request.after, signer)?;
    Ok(Published {
        moved: moved.bytes(),
        bytes,
        ..published(remote, appended)
    })
}

/// Lets a tag name its document; what others attested with cosign stays beside ours.
fn name(remote: &dyn Remote, tag: &str, document: &Document) -> Result<(), PublishError> {
    let Some(there) = remote.tagged(tag)? else {
        return Ok(remote.set_tag(tag, document, Expect::Any)?);
    };
    let ours = Manifest::parse(&document.bytes);
    let theirs = Manifest::parse(&there.bytes);
    let both = match (tag.ends_with(ATT_SUFFIX), ours, theirs) {
        (true, Ok(ours), Ok(theirs)) => beside_others(&ours, &theirs)?,
        // What is no manifest of attestations is nothing that could be kept.
        _ => None,
    };
    let Some((manifest, config)) = both else {
        if there.digest != document.digest {
            remote.set_tag(tag, document, Expect::Any)?;
        }
        return Ok(());
    };
    let document = Document::new(MANIFEST, manifest.to_bytes()?);
    if there.digest != document.digest {
        put_bytes(remote, &manifest.config.media_type, &config)?;
        remote.put_manifest(&document.bytes, MANIFEST)?;
        // Whoever attests at this very moment is not overwritten: we are told, and can do it again.
        remote.set_tag(tag, &document, Expect::Is(there.digest))?;
    }
    Ok(())
}

/// Publishes a release of the same remote once more, in this channel or another:
/// nothing moves but the record. `attested` is that it came through the gate again.
///
/// # Errors
/// As [`publish`].
pub fn repeat(
    remote: &dyn Remote,
    attested: &Attested,
    origin: &Entry,
    request: &Request<'_>,
    signer: &dyn Signer,
) -> Result<Published, PublishError> {
    let through: BTreeSet<&Digest> = attested.images().iter().map(AttestedImage::image).collect();
    let named = origin.record.images.iter().map(|image| &image.image);
    if through != named.collect() {
        return Err(PublishError::OtherRelease(origin.record.release));
    }
    let manifest = Manifest::parse(&origin.document.bytes)?;
    // The first is the origin's own envelope; what it carried belongs to this one, too.
    let carried: Vec<Descriptor> = manifest.layers.into_iter().skip(1).collect();
    let appended = channel::append(
        remote,
        again(origin, request),
        carried,
        request.after,
        signer,
    )?;
    Ok(published(remote, appended))
}

/// A record that says the same of the same release, in another place.
fn again(origin: &Entry, request: &Request<'_>) -> Record {
    Record {
        channel: request.channel.to_owned(),
        kind: request.kind,
        origin: Some(origin.digest),
        parameter: request.parameter.map(str::to_owned),
        when: request.now,
        who: request.who.to_owned(),
        why: request.why.to_owned(),
        ..origin.record.clone()
    }
}

/// Records that a release must not be used any more.
///
/// # Errors
/// As [`publish`].
pub fn revoke(
    remote: &dyn Remote,
    entry: &Entry,
    request: &Request<'_>,
    signer: &dyn Signer,
) -> Result<Published, PublishError> {
    let record = Record {
        kind: Kind::Revoke,
        ..again(entry, request)
    };
    let appended = channel::append(remote, record, Vec::new(), request.after, signer)?;
    Ok(published(remote, appended))
}

fn published(remote: &dyn Remote, appended: channel::Appended) -> Published {
    let channel::Appended {
        entry,
        taken_up,
        unchanged,
    } = appended;
    Published {
        remote: remote.uri().to_owned(),
        channel: entry.record.channel,
        sequence: entry.record.sequence,
        record: entry.digest,
        release: entry.record.release,
        moved: 0,
        bytes: 0,
        taken_up,
        atomic: remote.atomic(),
        unchanged,
        clouds: entry.record.clouds,
        parameter: entry.record.parameter,
        cloud_moved: 0,
        cloud_blocks: 0,
        cloud_changed: 0,
    }
}
