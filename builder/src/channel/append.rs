//! Adding a record to a channel, with any number of publishers at work.
//!
//! The order is what makes it safe: the record (and all that it names) is there
//! before the channel's tag moves to it, so that a reader sees the old release or
//! the new one. Killed before the last step, the record stays behind as a claim:
//! the same publisher's next run takes it up again, another's passes it by.
//!
//! Where the remote compares and swaps, the last step decides a race. A registry
//! cannot: there each publisher first puts up its claim and then looks for others'.
//! Whoever sees none goes on at once. Of several that see each other all but the
//! earliest give way, and that one waits until somebody who saw none must be done,
//! and gives way to them. Because every record names its predecessor and keeps a tag
//! of its own, whatever goes wrong all the same stays visible and nothing is lost.

use std::time::Duration;

use super::history::{broken, entry, head};
use super::{ChannelError, Entry, RECORD_TYPE, Record, check_name};
use crate::attest::{ENVELOPE_TYPE, Envelope, PublicKey, Signer};
use crate::base::Digest;
use crate::remote::{Document, Expect, Remote, RemoteError, put_bytes};
use crate::store::{Descriptor, MANIFEST, Manifest};

/// Seconds after which somebody else's claim that came to nothing is passed by.
const CLAIM_AGE: u64 = 300;
/// How long a publisher who saw nobody else may take from there to the last step.
const GRACE: Duration = Duration::from_secs(2);
/// Most claims for one sequence number that are looked at.
const MOST_CLAIMS: usize = 32;

/// What became of a record.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The channel's newest record now.
    pub entry: Entry,
    /// It is one that an interrupted run had left behind.
    pub taken_up: bool,
    /// The channel said this very thing already: a run that was done, but could not
    /// say so, did it before.
    pub unchanged: bool,
}

/// Appends `draft` to its channel: fills in sequence and predecessor, signs it, puts
/// it up, moves the tag. `carried` are the blobs that must live as long as the record.
///
/// With `after`, the channel's newest record must still be that one.
///
/// # Errors
/// [`ChannelError::Lost`] when somebody else was quicker; then the channel is theirs
/// and valid.
pub fn append(
    remote: &dyn Remote,
    draft: Record,
    carried: Vec<Descriptor>,
    after: Option<Digest>,
    signer: &dyn Signer,
) -> Result<Appended, ChannelError> {
    check_name(&draft.channel)?;
    let keys = [signer.public().clone()];
    let newest = head(remote, &draft.channel, &[])?;
    let found = newest.as_ref().map(|e| e.digest);
    if let Some(after) = after
        && found != Some(after)
    {
        return Err(lost(&draft.channel, found));
    }
    let record = Record {
        sequence: newest.as_ref().map_or(1, |e| e.record.sequence + 1),
        predecessor: found,
        ..draft
    };
    if let Some(newest) = &newest {
        // Left by a run that was killed between its last two steps, or overwritten in a race.
        keep_tag(remote, newest)?;
        if says(remote, newest, &record, &keys) {
            return Ok(Appended {
                entry: newest.clone(),
                taken_up: false,
                unchanged: true,
            });
        }
    }
    let now = record.when;
    let mine = claims(remote, &record, &keys)?
        .into_iter()
        .find(|claim| is_same(&claim.record, &record));
    let taken_up = mine.is_some();
    let entry = match mine {
        Some(own) => own,
        None => {
            let entry = put(remote, record, carried, signer)?;
            keep_tag(remote, &entry)?;
            entry
        }
    };
    if !remote.atomic() {
        give_way(remote, &entry, found, now)?;
    }
    move_head(remote, &entry, found)?;
    Ok(Appended {
        entry,
        taken_up,
        unchanged: false,
    })
}

/// Whether a channel's newest record says the same as `draft` would, by the same key.
fn says(remote: &dyn Remote, newest: &Entry, draft: &Record, keys: &[PublicKey]) -> bool {
    let placed = Record {
        sequence: newest.record.sequence,
        predecessor: newest.record.predecessor,
        ..draft.clone()
    };
    let channel = &newest.record.channel;
    is_same(&newest.record, &placed)
        && entry(remote, channel, newest.document.clone(), keys).is_ok()
}

/// The tag of a record: it keeps it from being swept, and says whose it is.
pub(super) fn record_tag(record: &Record, digest: &Digest) -> String {
    format!(
        "{}.{:06}.{}",
        record.channel,
        record.sequence,
        digest.short()
    )
}

/// Channel and sequence of a record's tag.
pub(super) fn parse_tag(tag: &str) -> Option<(&str, u64)> {
    let mut parts = tag.split('.');
    let (channel, sequence, hex) = (parts.next()?, parts.next()?, parts.next()?);
    let good = parts.next().is_none()
        && sequence.len() >= 6
        && hex.len() == 12
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && check_name(channel).is_ok();
    good.then(|| Some((channel, sequence.parse().ok()?)))?
}

/// Records put up for the place that `record` wants, behind the same predecessor.
fn claims(
    remote: &dyn Remote,
    record: &Record,
    keys: &[PublicKey],
) -> Result<Vec<Entry>, ChannelError> {
    let tags = remote.tags()?;
    let mine = |tag: &&String| parse_tag(tag) == Some((record.channel.as_str(), record.sequence));
    let mut found = Vec::new();
    for tag in tags.iter().filter(mine).take(MOST_CLAIMS) {
        // Gone meanwhile, or signed by a stranger: nobody's claim.
        let Some(document) = remote.tagged(tag)? else {
            continue;
        };
        if let Ok(claim) = entry(remote, &record.channel, document, keys)
            && claim.record.predecessor == record.predecessor
        {
            found.push(claim);
        }
    }
    Ok(found)
}

/// The same thing done by the same person: an interrupted run's.
fn is_same(one: &Record, other: &Record) -> bool {
    let timeless = |record: &Record| Record {
        when: 0,
        published: 0,
        ..record.clone()
    };
    timeless(one) == timeless(other)
}

/// Where nothing compares and swaps: only one of those who see each other goes on.
fn give_way(
    remote: &dyn Remote,
    entry: &Entry,
    found: Option<Digest>,
    now: i64,
) -> Result<(), ChannelError> {
    let others: Vec<Entry> = claims(remote, &entry.record, &[])?
        .into_iter()
        .filter(|other| other.digest != entry.digest)
        // What is older came to nothing: whoever put it up was killed.
        .filter(|other| now.abs_diff(other.record.when) < CLAIM_AGE)
        .collect();
    let place = |entry: &Entry| (entry.record.when, entry.digest);
    if let Some(earlier) = others.iter().find(|other| place(other) < place(entry)) {
        return Err(ChannelError::Lost {
            channel: entry.record.channel.clone(),
            what: format!(
                "{} is putting up release {} as number {}",
                earlier.record.who,
                earlier.record.release.short(),
                earlier.record.sequence
            ),
        });
    }
    if !others.is_empty() {
        std::thread::sleep(GRACE);
        let newest = remote.tagged(&entry.record.channel)?.map(|d| d.digest);
        if newest != found {
            return Err(lost(&entry.record.channel, newest));
        }
    }
    Ok(())
}

/// Puts up the record's manifest and envelope, under their digests only.
fn put(
    remote: &dyn Remote,
    record: Record,
    carried: Vec<Descriptor>,
    signer: &dyn Signer,
) -> Result<Entry, ChannelError> {
    let envelope = Envelope::sign(RECORD_TYPE, &record.to_bytes()?, signer)?;
    let bytes = envelope.to_bytes()?;
    let layer = put_bytes(remote, ENVELOPE_TYPE, &bytes)?;
    let empty = put_bytes(remote, crate::store::EMPTY, b"{}")?;
    let mut layers = vec![layer];
    layers.extend(carried);
    let mut manifest = Manifest::artifact(RECORD_TYPE, empty, layers);
    let title = format!("{} {} of {}", record.name, record.version, record.channel);
    manifest
        .annotations
        .insert("org.opencontainers.image.title".to_owned(), title);
    let bytes = manifest
        .to_bytes()
        .map_err(|error| ChannelError::Malformed(error.to_string()))?;
    remote.put_manifest(&bytes, MANIFEST)?;
    let document = Document::new(MANIFEST, bytes);
    Ok(Entry {
        digest: document.digest,
        record,
        key: Some(signer.public().id()),
        document,
    })
}

/// Lets the record's own tag name it.
fn keep_tag(remote: &dyn Remote, entry: &Entry) -> Result<(), ChannelError> {
    let tag = record_tag(&entry.record, &entry.digest);
    if remote.tagged(&tag)?.map(|d| d.digest) == Some(entry.digest) {
        return Ok(());
    }
    Ok(remote.set_tag(&tag, &entry.document, Expect::Any)?)
}

/// The last step: the channel names the record.
fn move_head(
    remote: &dyn Remote,
    entry: &Entry,
    before: Option<Digest>,
) -> Result<(), ChannelError> {
    let channel = &entry.record.channel;
    let expect = before.map_or(Expect::Absent, Expect::Is);
    match remote.set_tag(channel, &entry.document, expect) {
        Ok(()) => {}
        Err(RemoteError::Conflict { found, .. }) => {
            // A cut after the server had taken it looks like this, too.
            if found == Some(entry.digest) {
                return Ok(());
            }
            return Err(lost(channel, found));
        }
        Err(error) => return Err(error.into()),
    }
    if remote.atomic() {
        return Ok(());
    }
    let found = remote.tagged(channel)?.map(|d| d.digest);
    if found == Some(entry.digest) || is_behind(remote, channel, entry)? {
        return Ok(());
    }
    Err(lost(channel, found))
}

/// Somebody appended to the record already.
fn is_behind(remote: &dyn Remote, channel: &str, entry: &Entry) -> Result<bool, ChannelError> {
    let newest = head(remote, channel, &[])?
        .ok_or_else(|| broken(channel, entry.digest, "its channel has vanished"))?;
    Ok(newest.record.predecessor == Some(entry.digest))
}

fn lost(channel: &str, found: Option<Digest>) -> ChannelError {
    ChannelError::Lost {
        channel: channel.to_owned(),
        what: found.map_or_else(
            || "it is gone".to_owned(),
            |digest| format!("its newest record is {} now", digest.short()),
        ),
    }
}
