//! What must not be used any more: a channel of its own, whose records name it.

use std::collections::BTreeMap;

use super::{ChannelError, History, Kind, Record};
use crate::attest::PublicKey;
use crate::base::Digest;
use crate::lock::date;
use crate::remote::Remote;

/// The channel of revocations.
pub const REVOKED: &str = "revoked";

/// Everything that was revoked on a remote.
#[derive(Debug, Clone, Default)]
pub struct Revocations(BTreeMap<Digest, Record>);

impl Revocations {
    /// Reads the channel of revocations; a remote without one has revoked nothing.
    ///
    /// # Errors
    /// As [`History::read`]: a broken list is no empty list.
    pub fn read(remote: &dyn Remote, keys: &[PublicKey]) -> Result<Self, ChannelError> {
        let history = match History::read(remote, REVOKED, keys) {
            Ok(history) => history,
            Err(ChannelError::NoChannel { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let records = history.entries.into_iter().map(|entry| entry.record);
        Ok(Self(
            records
                .filter(|record| record.kind == Kind::Revoke)
                .flat_map(|record| {
                    let names: Vec<Digest> = record.names().collect();
                    names.into_iter().map(move |name| (name, record.clone()))
                })
                .collect(),
        ))
    }

    /// Refuses a release or an image that was revoked.
    ///
    /// # Errors
    /// [`ChannelError::Revoked`].
    pub fn check(&self, names: impl Iterator<Item = Digest>) -> Result<(), ChannelError> {
        for name in names {
            if let Some(record) = self.0.get(&name) {
                return Err(ChannelError::Revoked {
                    image: name,
                    when: date::rfc3339(record.when),
                    who: record.who.clone(),
                    why: record.why.clone(),
                });
            }
        }
        Ok(())
    }
}
