//! Public keys that are trusted.

use pgp::composed::{Deserializable, SignedPublicKey};
use pgp::types::KeyDetails;

use crate::Error;

/// Longest key file read, in bytes: Debian's whole keyring has 56 KB.
const MAX_BYTES: usize = 1024 * 1024;
/// Most keys in one keyring.
const MAX_KEYS: usize = 256;
/// Where an armoured key begins (RFC 9580, section 6.2).
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// A set of trusted public keys.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    pub(crate) keys: Vec<SignedPublicKey>,
}

/// What a key says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Fingerprint of the primary key, upper-case hexadecimal.
    pub fingerprint: String,
    /// Fingerprints of its subkeys.
    pub subkeys: Vec<String>,
    /// Its first user id, empty if it has none.
    pub user: String,
}

impl Keyring {
    /// Reads one or more armoured blocks, each with one or more keys.
    ///
    /// # Errors
    /// [`Error::Key`] when a block cannot be read or there is none.
    pub fn from_armored(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bounded(bytes)?)
            .map_err(|_| Error::Key("armoured text must be ASCII".to_owned()))?;
        let mut keyring = Self::default();
        let starts: Vec<usize> = text.match_indices(ARMOR).map(|(at, _)| at).collect();
        for (index, start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(text.len());
            let (keys, _) = SignedPublicKey::from_armor_many(&text.as_bytes()[*start..end])
                .map_err(|error| Error::Key(error.to_string()))?;
            keyring.extend(keys)?;
        }
        keyring.not_empty()
    }

    /// Reads keys in the binary form, one after the other.
    ///
    /// # Errors
    /// [`Error::Key`] when a key cannot be read or there is none.
    pub fn from_binary(bytes: &[u8]) -> Result<Self, Error> {
        let keys = SignedPublicKey::from_bytes_many(bounded(bytes)?)
            .map_err(|error| Error::Key(error.to_string()))?;
        let mut keyring = Self::default();
        keyring.extend(keys)?;
        keyring.not_empty()
    }

    /// Reads keys in either form.
    ///
    /// # Errors
    /// As the two others.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        // The first bit of a binary packet is always set (RFC 9580, section 4.2).
        match bytes.first() {
            Some(first) if first & 0x80 != 0 => Self::from_binary(bytes),
            _ => Self::from_armored(bytes),
        }
    }

    /// Adds the keys of another keyring.
    pub fn merge(&mut self, other: Self) {
        for key in other.keys {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
    }

    /// What the keys say about themselves, in their order.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.keys
            .iter()
            .map(|key| KeyInfo {
                fingerprint: fingerprint(&key.primary_key),
                subkeys: key
                    .public_subkeys
                    .iter()
                    .map(|sub| fingerprint(&sub.key))
                    .collect(),
                user: key
                    .details
                    .users
                    .first()
                    .map(|user| String::from_utf8_lossy(user.id.id()).into_owned())
                    .unwrap_or_default(),
            })
            .collect()
    }

    fn extend(
        &mut self,
        keys: impl Iterator<Item = pgp::errors::Result<SignedPublicKey>>,
    ) -> Result<(), Error> {
        for key in keys {
            let key = key.map_err(|error| Error::Key(error.to_string()))?;
            if self.keys.len() == MAX_KEYS {
                return Err(Error::Key(format!("it holds more than {MAX_KEYS} keys")));
            }
            self.keys.push(key);
        }
        Ok(())
    }

    fn not_empty(self) -> Result<Self, Error> {
        if self.keys.is_empty() {
            return Err(Error::Key("it holds no key".to_owned()));
        }
        Ok(self)
    }
}

/// The fingerprint as people write it.
pub(crate) fn fingerprint(key: &impl KeyDetails) -> String {
    key.fingerprint().to_string().to_uppercase()
}

fn bounded(bytes: &[u8]) -> Result<&[u8], Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::Key(format!(
            "it has {} bytes, more than {MAX_BYTES}",
            bytes.len()
        )));
    }
    Ok(bytes)
}
