//! Keys and signatures for tests. The keys follow from a seed: worthless as secrets.

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
    SubkeyParamsBuilder,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{Duration, Password, SigningKey, Tag, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::keyring::fingerprint;

/// A secret key for tests: Ed25519, with a signing subkey.
#[derive(Debug, Clone)]
pub struct TestKey {
    key: SignedSecretKey,
}

/// Which of a test key's keys signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// The primary key.
    Primary,
    /// The subkey, as Debian does.
    Subkey,
}

impl TestKey {
    /// The key of a seed, made at `created` (seconds since 1970).
    ///
    /// # Panics
    /// When the crate below cannot make such a key.
    #[must_use]
    pub fn new(seed: u64, created: u32) -> Self {
        let mut subkey = SubkeyParamsBuilder::default();
        subkey
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .created_at(Timestamp::from_secs(created));
        let mut key = SecretKeyParamsBuilder::default();
        key.key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .created_at(Timestamp::from_secs(created))
            .primary_user_id(format!("Test key {seed} <test@example.org>"))
            .subkey(subkey.build().expect("a subkey's parameters"));
        let params = key.build().expect("a key's parameters");
        let key = params.generate(StdRng::seed_from_u64(seed)).expect("a key");
        Self { key }
    }

    /// The same key with a life of so many seconds.
    ///
    /// # Panics
    /// Never, for a key that was made.
    #[must_use]
    pub fn living(mut self, at: u32, seconds: u32) -> Self {
        let primary = &self.key.primary_key;
        let mut config = config(primary, SignatureType::CertPositive, at);
        let life = SubpacketData::KeyExpirationTime(Duration::from_secs(seconds));
        config
            .hashed_subpackets
            .push(Subpacket::regular(life).expect("a subpacket"));
        let user = &mut self.key.details.users[0];
        let signature = config
            .sign_certification(
                primary,
                primary.public_key(),
                &Password::empty(),
                Tag::UserId,
                &user.id,
            )
            .expect("a certification");
        user.signatures = vec![signature];
        self
    }

    /// The public half, armoured.
    ///
    /// # Panics
    /// Never, for a key that was made.
    #[must_use]
    pub fn public(&self) -> String {
        self.key
            .to_public_key()
            .to_armored_string(ArmorOptions::default())
            .expect("an armoured key")
    }

    /// The public half after its owner revoked it, armoured.
    ///
    /// # Panics
    /// Never, for a key that was made.
    #[must_use]
    pub fn revoked(&self, at: u32) -> String {
        let mut public = self.key.to_public_key();
        let primary = &self.key.primary_key;
        let config = config(primary, SignatureType::KeyRevocation, at);
        let revocation = config
            .sign_key(primary, &Password::empty(), primary.public_key())
            .expect("a revocation");
        public.details.revocation_signatures.push(revocation);
        public
            .to_armored_string(ArmorOptions::default())
            .expect("an armoured key")
    }

    /// Fingerprint of the primary key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.key.primary_key)
    }

    /// `text`, clear-signed at `at` (seconds since 1970).
    ///
    /// # Panics
    /// Never, for a key that was made.
    #[must_use]
    pub fn clearsign(&self, text: &str, with: With, at: u32) -> String {
        let signed = match with {
            With::Primary => sign(text, &self.key.primary_key, at),
            With::Subkey => sign(text, &self.key.secret_subkeys[0].key, at),
        };
        signed
            .to_armored_string(ArmorOptions::default())
            .expect("an armoured text")
    }
}

fn sign(text: &str, key: &impl SigningKey, at: u32) -> CleartextSignedMessage {
    let config = config(key, SignatureType::Text, at);
    CleartextSignedMessage::new(text, config, key, &Password::empty()).expect("a signature")
}

fn config(key: &impl SigningKey, kind: SignatureType, at: u32) -> SignatureConfig {
    let mut config = SignatureConfig::v4(kind, key.algorithm(), HashAlgorithm::Sha256);
    config.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(at)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ]
    .into_iter()
    .map(|data| Subpacket::regular(data).expect("a subpacket"))
    .collect();
    config
}
