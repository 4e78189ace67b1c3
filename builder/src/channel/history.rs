//! Reading a channel: from its tag back to its first record, each link proven.

use std::collections::BTreeSet;

use super::{ChannelError, RECORD_TYPE, Record, check_name};
use crate::attest::{Envelope, PublicKey};
use crate::base::Digest;
use crate::remote::{Document, Remote};
use crate::store::Manifest;

/// Longest history that is read.
const LONGEST: usize = 100_000;
/// Largest envelope of a record, in bytes.
const RECORD_LIMIT: u64 = 1 << 20;

/// A record that was read, and where from.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Digest of the manifest that carries it.
    pub digest: Digest,
    /// What it says.
    pub record: Record,
    /// Id of the trusted key that signed it; none when no key was given to check with.
    pub key: Option<Digest>,
    /// The manifest itself, to move tags to.
    pub document: Document,
}

/// A channel's records, newest first, every link checked.
#[derive(Debug, Clone)]
pub struct History {
    /// The channel.
    pub channel: String,
    /// Newest first; empty for a channel that does not exist.
    pub entries: Vec<Entry>,
}

impl History {
    /// Reads the whole history of `channel`; with `keys`, each record must be signed by one of them.
    ///
    /// # Errors
    /// [`ChannelError::Broken`] names the record where the chain ends;
    /// [`ChannelError::NoChannel`].
    pub fn read(
        remote: &dyn Remote,
        channel: &str,
        keys: &[PublicKey],
    ) -> Result<Self, ChannelError> {
        let newest = head(remote, channel, keys)?.ok_or_else(|| ChannelError::NoChannel {
            channel: channel.to_owned(),
            remote: remote.uri().to_owned(),
        })?;
        let mut entries = vec![newest];
        while let Some(last) = entries.last()
            && let Some(digest) = last.record.predecessor
        {
            if entries.len() >= LONGEST {
                return Err(broken(channel, digest, "it has more than 100000 records"));
            }
            let before = predecessor(remote, last, digest, keys)?;
            entries.push(before);
        }
        Ok(Self {
            channel: channel.to_owned(),
            entries,
        })
    }

    /// The newest record.
    #[must_use]
    pub fn head(&self) -> Option<&Entry> {
        self.entries.first()
    }

    /// The entry that a person means: a sequence number, or (the beginning of) the
    /// digest of a record, a release or an image. The newest of several alike.
    ///
    /// # Errors
    /// [`ChannelError::NotThere`], [`ChannelError::Ambiguous`].
    pub fn find(&self, wanted: &str) -> Result<&Entry, ChannelError> {
        let channel = self.channel.clone();
        if let Ok(number) = wanted.parse::<u64>()
            && let Some(entry) = self.entries.iter().find(|e| e.record.sequence == number)
        {
            return Ok(entry);
        }
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let fits = |digest: &Digest| hex.len() >= 6 && digest.hex().starts_with(hex);
        let found: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|e| fits(&e.digest) || e.record.names().any(|d| fits(&d)))
            .collect();
        let releases: BTreeSet<Digest> = found.iter().map(|e| e.record.release).collect();
        match (found.first(), releases.len()) {
            (Some(entry), 1) => Ok(entry),
            (Some(_), _) => Err(ChannelError::Ambiguous {
                channel,
                wanted: wanted.to_owned(),
                found: releases
                    .iter()
                    .map(Digest::short)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
            (None, _) => Err(ChannelError::NotThere {
                channel,
                wanted: wanted.to_owned(),
            }),
        }
    }

    /// The newest entry of another release than the current one: what a rollback goes to.
    #[must_use]
    pub fn previous(&self) -> Option<&Entry> {
        let now = self.head()?.record.release;
        self.entries.iter().find(|e| e.record.release != now)
    }
}

/// The newest record of `channel`; `None` when there is no such channel.
///
/// # Errors
/// [`ChannelError`].
pub fn head(
    remote: &dyn Remote,
    channel: &str,
    keys: &[PublicKey],
) -> Result<Option<Entry>, ChannelError> {
    check_name(channel)?;
    remote
        .tagged(channel)?
        .map(|document| entry(remote, channel, document, keys))
        .transpose()
}

/// Names of all channels of a remote: tags that have a record's tag beside them.
///
/// # Errors
/// [`ChannelError::Remote`].
pub fn channels(remote: &dyn Remote) -> Result<Vec<String>, ChannelError> {
    let tags: BTreeSet<String> = remote.tags()?.into_iter().collect();
    let with_records: BTreeSet<&str> = tags
        .iter()
        .filter_map(|tag| Some(super::append::parse_tag(tag)?.0))
        .collect();
    Ok(with_records
        .into_iter()
        .filter(|name| tags.contains(*name))
        .map(str::to_owned)
        .collect())
}

fn predecessor(
    remote: &dyn Remote,
    after: &Entry,
    digest: Digest,
    keys: &[PublicKey],
) -> Result<Entry, ChannelError> {
    let channel = &after.record.channel;
    let document = remote
        .manifest(&digest)?
        .ok_or_else(|| broken(channel, digest, "it is missing from the remote"))?;
    let before = entry(remote, channel, document, keys)?;
    if before.record.sequence + 1 != after.record.sequence {
        let why = format!(
            "its sequence is {}, but its successor's is {}",
            before.record.sequence, after.record.sequence
        );
        return Err(broken(channel, digest, &why));
    }
    Ok(before)
}

/// Reads the record in `document` and checks that it belongs to `channel`.
pub(super) fn entry(
    remote: &dyn Remote,
    channel: &str,
    document: Document,
    keys: &[PublicKey],
) -> Result<Entry, ChannelError> {
    let digest = document.digest;
    let wrong = |why: String| broken(channel, digest, &why);
    let manifest = Manifest::parse(&document.bytes).map_err(|e| wrong(e.to_string()))?;
    if manifest.artifact_type.as_deref() != Some(RECORD_TYPE) {
        return Err(wrong(format!(
            "its type is '{}', not '{RECORD_TYPE}'",
            manifest.artifact_type.unwrap_or_default()
        )));
    }
    let [layer, ..] = manifest.layers.as_slice() else {
        return Err(wrong("it holds no record".to_owned()));
    };
    if layer.size > RECORD_LIMIT {
        return Err(wrong(format!("its record has {} bytes", layer.size)));
    }
    let mut bytes = Vec::new();
    remote.get_blob(&layer.digest, layer.size, &mut bytes)?;
    let envelope = Envelope::parse(&bytes).map_err(|e| wrong(e.to_string()))?;
    let (payload, key) = if keys.is_empty() {
        let payload = envelope.payload().map_err(|e| wrong(e.to_string()))?;
        (payload, None)
    } else {
        let verified = envelope
            .verify(RECORD_TYPE, keys)
            .map_err(|e| wrong(e.to_string()))?;
        let key = verified.keys.first().map(PublicKey::id);
        (verified.payload, key)
    };
    let record = Record::parse(&payload).map_err(|e| wrong(e.to_string()))?;
    if record.channel != channel {
        return Err(wrong(format!("it belongs to channel '{}'", record.channel)));
    }
    Ok(Entry {
        digest,
        record,
        key,
        document,
    })
}

pub(super) fn broken(channel: &str, record: Digest, why: &str) -> ChannelError {
    ChannelError::Broken {
        channel: channel.to_owned(),
        record,
        why: why.to_owned(),
    }
}
