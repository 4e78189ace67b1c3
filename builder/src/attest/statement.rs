//! in-toto Statement v1: what is said of which artifact.
//! Source: github.com/in-toto/attestation, spec/v1/statement.md and resource_descriptor.md.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dsse::ENVELOPE_LIMIT;
use super::error::malformed;
use super::{AttestError, Envelope, PublicKey, Signer};
use crate::base::Digest;

/// Type of a DSSE payload that is a statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const WHAT: &str = "the in-toto statement";

/// A predicate: what can be said of an image.
pub trait Predicate: Serialize + DeserializeOwned {
    /// Its type's URI.
    const TYPE: &'static str;
}

/// What is said of which artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement<P> {
    #[serde(rename = "_type")]
    kind: String,
    /// The artifacts.
    pub subject: Vec<Resource>,
    /// Type of what is said.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said.
    pub predicate: P,
}

/// A thing, named by digest, with notes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Name for people, or a key for those who know it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Identity as a URI (a purl).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Hexadecimal digests by algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, serde_json::Value>,
}

impl Resource {
    /// A thing with a name and a SHA-256.
    #[must_use]
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]),
            ..Self::default()
        }
    }

    /// The same, with a note.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Its SHA-256, if it has a proper one.
    #[must_use]
    pub fn sha256(&self) -> Option<Digest> {
        Digest::from_hex(self.digest.get("sha256")?).ok()
    }
}

impl<P: Predicate> Statement<P> {
    /// `predicate` about the image whose manifest has the digest `image`.
    #[must_use]
    pub fn new(name: &str, image: &Digest, predicate: P) -> Self {
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Resource::new(name, image)],
            predicate_type: P::TYPE.to_owned(),
            predicate,
        }
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`AttestError::Malformed`], and what the signer reports.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Envelope, AttestError> {
        let payload = serde_json::to_vec(self).map_err(|error| malformed(WHAT, error))?;
        Envelope::sign(PAYLOAD_TYPE, &payload, signer)
    }

    /// Reads what a trusted key signed.
    ///
    /// # Errors
    /// [`AttestError::Untrusted`], [`AttestError::Malformed`].
    pub fn verify(envelope: &Envelope, keys: &[PublicKey]) -> Result<Self, AttestError> {
        Self::parse(&envelope.verify(PAYLOAD_TYPE, keys)?.payload)
    }

    /// Reads a statement of this predicate.
    ///
    /// # Errors
    /// [`AttestError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Self, AttestError> {
        if payload.len() as u64 > ENVELOPE_LIMIT {
            return Err(malformed(WHAT, "it is longer than 64 MiB"));
        }
        // Types first: an unknown predicate is not a broken one.
        let head: Head = serde_json::from_slice(payload).map_err(|e| malformed(WHAT, e))?;
        for (found, wanted) in [
            (&head.kind, STATEMENT_TYPE),
            (&head.predicate_type, P::TYPE),
        ] {
            if found != wanted {
                return Err(malformed(
                    WHAT,
                    format!(
                        "it is of '{}', but '{wanted}' is wanted",
                        found.escape_debug()
                    ),
                ));
            }
        }
        serde_json::from_slice(payload).map_err(|error| malformed(WHAT, error))
    }

    /// Whether it is about the image with this manifest, and about nothing else.
    #[must_use]
    pub fn is_about(&self, image: &Digest) -> bool {
        matches!(self.subject.as_slice(), [only] if only.sha256() == Some(*image))
    }
}

/// The predicate type of a payload, unverified; for sorting envelopes.
pub(super) fn predicate_type(payload: &[u8]) -> Option<String> {
    serde_json::from_slice::<Head>(payload)
        .ok()
        .map(|head| head.predicate_type)
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}
