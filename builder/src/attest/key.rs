//! Public keys: ECDSA on P-256, as PEM `SubjectPublicKeyInfo`, which openssl and
//! cosign read and write, too.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64ct::{Base64Unpadded, Base64Url, Encoding};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use pkcs8::der::pem::LineEnding;
use pkcs8::{DecodePublicKey, EncodePublicKey};

use super::AttestError;
use crate::base::fs::At;
use crate::base::{Digest, base64};

/// Largest key file that is read, in bytes.
pub(super) const KEY_LIMIT: u64 = 64 * 1024;
const END: &str = "-----END PUBLIC KEY-----";

/// A public key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    der: Vec<u8>,
}

impl PublicKey {
    pub(super) fn new(key: VerifyingKey) -> Result<Self, AttestError> {
        let der = key
            .to_public_key_der()
            .map_err(|error| unusable("a signer", error))?;
        Ok(Self {
            key,
            der: der.into_vec(),
        })
    }

    /// Reads one key; `origin` is for messages.
    ///
    /// # Errors
    /// [`AttestError::PublicKey`].
    pub fn from_pem(text: &str, origin: &str) -> Result<Self, AttestError> {
        let mut keys = Self::all_from_pem(text, origin)?;
        match (keys.pop(), keys.is_empty()) {
            (Some(key), true) => Ok(key),
            _ => Err(unusable(
                origin,
                "there are several keys, and one is wanted",
            )),
        }
    }

    /// Reads one key or several, one after the other.
    ///
    /// # Errors
    /// [`AttestError::PublicKey`] for one that is none, or when there is none.
    pub fn all_from_pem(text: &str, origin: &str) -> Result<Vec<Self>, AttestError> {
        if text.contains("PRIVATE KEY") {
            return Err(unusable(
                origin,
                "it is a private key, which nobody but its owner should have",
            ));
        }
        let keys: Vec<Self> = text
            .split_inclusive(END)
            .map(str::trim)
            .filter(|part| part.ends_with(END))
            .map(|part| {
                let key =
                    VerifyingKey::from_public_key_pem(part).map_err(|e| unusable(origin, e))?;
                Self::new(key)
            })
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(unusable(origin, "there is none in it"));
        }
        Ok(keys)
    }

    /// Reads a file with one key or several.
    ///
    /// # Errors
    /// [`AttestError::Fs`], [`AttestError::PublicKey`].
    pub fn load(path: &Path) -> Result<Vec<Self>, AttestError> {
        Self::all_from_pem(&read_text(path)?, &path.display().to_string())
    }

    /// The PEM text, with its line break at the end.
    #[must_use]
    pub fn to_pem(&self) -> String {
        // What was made from a key can be written as one.
        self.key
            .to_public_key_pem(LineEnding::LF)
            .unwrap_or_default()
    }

    /// The digest of its DER form: how messages, records and `key show` name it.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.der)
    }

    /// How envelopes name it: the fingerprint of OpenSSH (`SHA256:…`), which the
    /// verifiers in Go compute for themselves and compare, if a name is there at all.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let point = self.key.to_encoded_point(false);
        let mut wire = Vec::new();
        for part in [
            b"ecdsa-sha2-nistp256".as_slice(),
            b"nistp256",
            point.as_bytes(),
        ] {
            wire.extend((part.len() as u32).to_be_bytes());
            wire.extend(part);
        }
        let digest = Digest::of(wire);
        format!(
            "SHA256:{}",
            Base64Unpadded::encode_string(digest.as_bytes())
        )
    }

    /// Whether `signature` (DER) is this key's over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature)
            .is_ok_and(|signature| self.key.verify(message, &signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

fn unusable(origin: &str, why: impl fmt::Display) -> AttestError {
    AttestError::PublicKey {
        origin: origin.to_owned(),
        why: why.to_string(),
    }
}

/// A small text file, bounded.
pub(super) fn read_text(path: &Path) -> Result<String, AttestError> {
    let mut bytes = Vec::new();
    File::open(path)
        .at("open", path)?
        .take(KEY_LIMIT + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    let wrong = |why: &str| AttestError::Key {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    if bytes.len() as u64 > KEY_LIMIT {
        return Err(wrong("it is longer than 64 KiB; a key must not be"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is no text; a key must be PEM"))
}

/// Base64 of either alphabet (DSSE, "Parameters": verifiers must take both).
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    base64::decode(text).or_else(|| Base64Url::decode_vec(text).ok())
}
