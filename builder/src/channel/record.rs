//! One release record: the payload that is signed.

use serde::{Deserialize, Serialize};

use super::{ChannelError, REVOKED};
use crate::base::Digest;

/// Version of the record's format; a newer one is refused by name.
pub const RECORD_SCHEMA: u32 = 1;
/// DSSE payload type of a record, and artifact type of the manifest that carries it.
pub const RECORD_TYPE: &str = "application/vnd.slipform.release.v1+json";
/// Most images that a release can have: one a board.
const MOST_IMAGES: usize = 64;
/// Most images that a release can have become in clouds.
const MOST_CLOUDS: usize = 4096;
/// Longest name of a cloud's for something in it, in bytes.
const LONGEST_ID: usize = 512;
/// Longest text of a person in a record, in bytes.
const LONGEST_TEXT: usize = 4096;
/// Longest name or version, in bytes: files are called by them.
const LONGEST_NAME: usize = 80;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A new image came through the gate.
    Publish,
    /// An image of another channel, through the gate again.
    Promote,
    /// An earlier image of this channel, through the gate again.
    Rollback,
    /// Published around the gate, with a reason.
    Forced,
    /// Must not be used any more; only in the channel of revocations.
    Revoke,
}

impl Kind {
    /// As records and `log` show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Forced => "forced",
            Self::Revoke => "revoke",
        }
    }
}

/// An image of a release, for one board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordImage {
    /// The board.
    pub board: String,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// Digest of the test plan that it had to pass.
    pub plan: Digest,
    /// Names of all checks that there were then: a later slipform may have more, and
    /// must still let a release of today through again.
    pub checks: Vec<String>,
    /// Digest of the manifest with its attestations; none for a forced image without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestations: Option<Digest>,
}

/// What an image became in a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudImage {
    /// Whose cloud: `aws`.
    pub provider: String,
    /// Where.
    pub region: String,
    /// The board.
    pub board: String,
    /// The processor's architecture, as the cloud names it.
    pub arch: String,
    /// The cloud's name for it: `ami-…`.
    pub id: String,
    /// What its disk is cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// One entry of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`RECORD_SCHEMA`].
    pub schema: u32,
    /// The channel that it belongs to.
    pub channel: String,
    /// 1 for the first record, then one more each time.
    pub sequence: u64,
    /// Digest of the manifest of the record before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Digest>,
    /// What was done.
    pub kind: Kind,
    /// Name of the image.
    pub name: String,
    /// The user's version of it.
    pub version: String,
    /// The release: the manifest of its only image, or an index over its boards.
    pub release: Digest,
    /// Its images, sorted by board.
    pub images: Vec<RecordImage>,
    /// Manifest of the specification, lock and files that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Digest>,
    /// Digest of `slipform.lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Digest>,
    /// Why the gate was passed by, for as long as this image is around.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<String>,
    /// The record that this one repeats: where it was promoted from, or rolled back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Digest>,
    /// What its images became in clouds; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<CloudImage>,
    /// The parameter there that names the channel's newest release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// When the release came through the gate first; seconds since 1970.
    pub published: i64,
    /// When this record was made; seconds since 1970.
    pub when: i64,
    /// Who made it.
    pub who: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Record {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// [`ChannelError::Malformed`] if it breaks a rule of its own.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ChannelError> {
        self.check()?;
        serde_json::to_vec(self).map_err(|error| malformed(error.to_string()))
    }

    /// Reads a record and checks its rules.
    ///
    /// # Errors
    /// [`ChannelError::Malformed`]: what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChannelError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        // The version first: a newer record may look different in every other field.
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if version.schema != RECORD_SCHEMA {
            return Err(malformed(format!(
                "its schema is {}, this slipform reads {RECORD_SCHEMA}; take a newer slipform",
                version.schema
            )));
        }
        let record: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), ChannelError> {
        let rule = |good: bool, what: &str| {
            if good {
                Ok(())
            } else {
                Err(malformed(what.to_owned()))
            }
        };
        check_name(&self.channel)?;
        let first = self.sequence == 1;
        rule(self.sequence >= 1, "its sequence is 0")?;
        rule(
            first == self.predecessor.is_none(),
            "only the first record has no predecessor",
        )?;
        rule(
            (1..=MOST_IMAGES).contains(&self.images.len()),
            "it must name 1 to 64 images",
        )?;
        rule(
            self.images.windows(2).all(|w| w[0].board < w[1].board),
            "its images must be sorted by board, each board once",
        )?;
        rule(
            self.forced.is_some() || self.images.iter().all(|i| i.attestations.is_some()),
            "an image without attestations can only be forced",
        )?;
        rule(
            self.kind != Kind::Forced || self.forced.as_ref().is_some_and(|why| !why.is_empty()),
            "a forced release needs its reason",
        )?;
        rule(
            (self.kind == Kind::Revoke) == (self.channel == REVOKED),
            "revocations, and nothing else, stand in the channel 'revoked'",
        )?;
        let boards = self.images.iter().map(|image| &image.board);
        rule(
            boards
                .chain([&self.name, &self.version])
                .all(|t| is_name(t)),
            "a name or version in it is none: 1 to 80 characters, no '/', no '.' first",
        )?;
        rule(
            self.clouds.len() <= MOST_CLOUDS && self.clouds.iter().all(CloudImage::is_plain),
            "an image of a cloud in it has a name that is none, or there are more than 4096",
        )?;
        rule(
            self.parameter
                .as_ref()
                .is_none_or(|name| is_plain(name, LONGEST_TEXT)),
            "the parameter in it has spaces or control characters",
        )?;
        let said = [&self.who, &self.why].into_iter().chain(&self.forced);
        rule(
            said.clone().all(|text| text.len() <= LONGEST_TEXT),
            "a text in it is longer than 4096 bytes",
        )?;
        rule(
            !said.clone().any(|text| text.contains(char::is_control)),
            "a text in it has control characters; write one line",
        )
    }

    /// All digests that name this release: its own and its images'.
    pub fn names(&self) -> impl Iterator<Item = Digest> {
        [self.release]
            .into_iter()
            .chain(self.images.iter().map(|image| image.image))
    }
}

impl CloudImage {
    /// What is read from it goes into requests.
    fn is_plain(&self) -> bool {
        let own = [
            &self.provider,
            &self.region,
            &self.board,
            &self.arch,
            &self.id,
        ];
        own.into_iter()
            .chain(&self.snapshot)
            .all(|text| is_plain(text, LONGEST_ID))
    }
}

/// Printable ASCII without spaces.
fn is_plain(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What a file can be called by without leaving its folder or moving a cursor.
fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && !text.starts_with('.')
        && !text.contains(|c: char| c == '/' || c.is_control())
}

fn malformed(why: String) -> ChannelError {
    ChannelError::Malformed(why)
}

/// Checks a channel's name: it must be a tag with room for a record's suffix
/// (OCI distribution-spec, "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`),
/// and must not look like a digest's tag.
///
/// # Errors
/// [`ChannelError::Name`].
pub fn check_name(name: &str) -> Result<(), ChannelError> {
    let good = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with("sha256-");
    if good {
        Ok(())
    } else {
        Err(ChannelError::Name(name.to_owned()))
    }
}
