//! Is there one good signature by a key that may be relied on?

use pgp::composed::{CleartextSignedMessage, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag, Timestamp, VerifyingKey};

use crate::Error;
use crate::keyring::{Keyring, fingerprint};

/// Longest text, in bytes. Debian's longest InRelease has about 250 KB.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Most lines: the parser's time grows with their square.
const MAX_LINES: usize = 50_000;
/// Most signatures on one text.
const MAX_SIGNATURES: usize = 16;
/// How far a signature's time may lie ahead of the host's clock, in seconds.
const SLACK: i64 = 24 * 60 * 60;

/// The time at which keys and signatures must be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Now, in seconds since 1970.
    At(i64),
    /// When each signature was made: for archives that are no longer renewed.
    WhenSigned,
}

/// A text whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed text, with `\n` line ends, without trailing blanks, as the signature covers it.
    pub text: String,
    /// Who signed it; never empty.
    pub signers: Vec<Signer>,
}

/// One good signature's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Fingerprint of the primary key.
    pub key: String,
    /// Fingerprint of the key that signed: the primary key or one of its subkeys.
    pub signed_with: String,
}

/// Checks a clear-signed text: at least one signature must be good and by a key of
/// `keyring` that is neither expired nor revoked. Signatures by other keys do no harm.
///
/// # Errors
/// [`Error::Unreadable`] for anything but one whole clear-signed text; [`Error::Refused`]
/// with what is wrong with each signature and which keys would be accepted.
pub fn verify_clearsigned(
    bytes: &[u8],
    keyring: &Keyring,
    moment: Moment,
) -> Result<Verified, Error> {
    let message = parse(bytes)?;
    let signed = message.signed_text();
    let mut signers = Vec::new();
    let mut problems = Vec::new();
    for signature in message.signatures() {
        match check(signature, signed.as_bytes(), keyring, moment) {
            Ok(signer) => signers.push(signer),
            Err(problem) => problems.push(problem),
        }
    }
    if signers.is_empty() {
        if problems.is_empty() {
            problems.push("it has no signature".to_owned());
        }
        return Err(Error::Refused {
            problems,
            accepted: keyring.keys.iter().map(fingerprint).collect(),
        });
    }
    Ok(Verified {
        text: signed.replace("\r\n", "\n"),
        signers,
    })
}

fn parse(bytes: &[u8]) -> Result<CleartextSignedMessage, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::Unreadable(format!(
            "it has {} bytes, more than {MAX_BYTES}",
            bytes.len()
        )));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| Error::Unreadable("it is not UTF-8".to_owned()))?;
    if text.bytes().filter(|b| *b == b'\n').count() > MAX_LINES {
        return Err(Error::Unreadable(format!(
            "it has more than {MAX_LINES} lines"
        )));
    }
    let (message, _) = CleartextSignedMessage::from_string(text)
        .map_err(|error| Error::Unreadable(error.to_string()))?;
    if message.signatures().len() > MAX_SIGNATURES {
        return Err(Error::Unreadable(format!(
            "it has more than {MAX_SIGNATURES} signatures"
        )));
    }
    Ok(message)
}

/// One signature against the whole keyring; the error says what is wrong with it.
fn check(
    signature: &Signature,
    text: &[u8],
    keyring: &Keyring,
    moment: Moment,
) -> Result<Signer, String> {
    let name = issuer(signature);
    let at = times(signature, moment).map_err(|problem| format!("{name}: {problem}"))?;
    if !matches!(
        signature.typ(),
        Some(SignatureType::Binary | SignatureType::Text)
    ) {
        return Err(format!("{name}: not a signature of a document"));
    }
    if !strong(signature) {
        return Err(format!("{name}: its hash algorithm is too weak"));
    }
    let mut problem = format!("{name}: not an accepted key");
    for key in &keyring.keys {
        let found = if issued_by(signature, &key.primary_key) {
            verify_with(signature, text, &key.primary_key).and_then(|()| primary_valid(key, at))
        } else if let Some(sub) = key
            .public_subkeys
            .iter()
            .find(|sub| issued_by(signature, &sub.key))
        {
            verify_with(signature, text, &sub.key)
                .and_then(|()| primary_valid(key, at))
                .and_then(|()| subkey_valid(key, sub, at))
        } else {
            continue;
        };
        match found {
            Ok(()) => {
                return Ok(Signer {
                    key: fingerprint(key),
                    signed_with: name,
                });
            }
            Err(reason) => problem = format!("{name}: {reason}"),
        }
    }
    Err(problem)
}

/// When the signature must hold, or why its own times are wrong.
fn times(signature: &Signature, moment: Moment) -> Result<i64, String> {
    let created = signature
        .created()
        .map(seconds)
        .ok_or("it does not say when it was made")?;
    let at = match moment {
        Moment::WhenSigned => created,
        Moment::At(now) => now,
    };
    if created > at.saturating_add(SLACK) {
        return Err("it was made in the future; check this host's clock".to_owned());
    }
    match signature.signature_expiration_time() {
        Some(life) if life.as_secs() != 0 && created + i64::from(life.as_secs()) < at => {
            Err("it has expired".to_owned())
        }
        _ => Ok(at),
    }
}

fn verify_with(signature: &Signature, text: &[u8], key: &impl VerifyingKey) -> Result<(), String> {
    signature
        .verify(key, text)
        .map_err(|_| "the signature does not fit the text".to_owned())
}

/// Whether the primary key may be relied on at `at`.
fn primary_valid(key: &SignedPublicKey, at: i64) -> Result<(), String> {
    if key
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(&key.primary_key).is_ok())
    {
        return Err("the key was revoked".to_owned());
    }
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(&key.primary_key).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature
                .verify_certification(&key.primary_key, Tag::UserId, &user.id)
                .is_ok()
        })
    });
    let newest = direct
        .chain(users)
        .filter(|signature| signature.typ() != Some(SignatureType::CertRevocation))
        .filter(|signature| strong(signature))
        .max_by_key(|signature| signature.created().map(seconds))
        .ok_or("the key has no signature of its own")?;
    alive("key", seconds(key.primary_key.created_at()), newest, at)
}

/// Whether the subkey is bound to its key, both ways, for signing, at `at`.
fn subkey_valid(key: &SignedPublicKey, sub: &SignedPublicSubKey, at: i64) -> Result<(), String> {
    let good = |kind: SignatureType| {
        sub.signatures.iter().filter(move |signature| {
            signature.typ() == Some(kind)
                && signature
                    .verify_subkey_binding(&key.primary_key, &sub.key)
                    .is_ok()
        })
    };
    if good(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("the subkey was revoked".to_owned());
    }
    let newest = good(SignatureType::SubkeyBinding)
        .filter(|signature| strong(signature))
        .max_by_key(|signature| signature.created().map(seconds))
        .ok_or("the subkey is not bound to its key")?;
    // The subkey's own signature over the primary key, without which anybody
    // could adopt somebody else's signing key.
    let bound_back = newest.embedded_signature().is_some_and(|back| {
        back.verify_primary_key_binding(&sub.key, &key.primary_key)
            .is_ok()
    });
    if !newest.key_flags().sign() || !bound_back {
        return Err("the subkey is not one for signing".to_owned());
    }
    alive("subkey", seconds(sub.key.created_at()), newest, at)
}

/// Whether a key made at `created` lives at `at`, by the signature that says how long.
fn alive(what: &str, created: i64, signature: &Signature, at: i64) -> Result<(), String> {
    if created > at.saturating_add(SLACK) {
        return Err(format!(
            "the {what} was made in the future; check this host's clock"
        ));
    }
    match signature.key_expiration_time() {
        Some(life) if life.as_secs() != 0 && created + i64::from(life.as_secs()) < at => {
            Err(format!("the {what} has expired"))
        }
        _ => Ok(()),
    }
}

/// MD5, SHA-1 and RIPEMD-160 can be collided, or nearly.
fn strong(signature: &Signature) -> bool {
    matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

fn issued_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        let id = key.legacy_key_id();
        return signature.issuer_key_id().into_iter().any(|i| *i == id);
    }
    let own = key.fingerprint();
    fingerprints.into_iter().any(|f| *f == own)
}

/// The signing key's fingerprint, or its id if that is all the signature has.
fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint();
    let name = fingerprint.first().map(ToString::to_string);
    name.or_else(|| {
        let ids = signature.issuer_key_id();
        ids.first().map(ToString::to_string)
    })
    .map_or_else(|| "unnamed key".to_owned(), |name| name.to_uppercase())
}

fn seconds(time: Timestamp) -> i64 {
    i64::from(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestKey, With};

    const MADE: u32 = 1_700_000_000;
    const SIGNED: u32 = MADE + 1000;
    const NOW: Moment = Moment::At(SIGNED as i64 + 1000);
    const TEXT: &str = "Suite: test\n- a dash\n\nlast";

    fn ring(armored: &str) -> Keyring {
        Keyring::from_armored(armored.as_bytes()).unwrap()
    }

    fn problem(text: &str, keyring: &Keyring, moment: Moment) -> String {
        verify_clearsigned(text.as_bytes(), keyring, moment)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn accepts_primary_and_subkey_among_others() {
        let (key, other) = (TestKey::new(1, MADE), TestKey::new(2, MADE));
        let mut keyring = ring(&other.public());
        keyring.merge(ring(&key.public()));
        for with in [With::Primary, With::Subkey] {
            let signed = key.clearsign(TEXT, with, SIGNED);
            let verified = verify_clearsigned(signed.as_bytes(), &keyring, NOW).unwrap();
            assert_eq!(verified.text, TEXT);
            assert_eq!(verified.signers[0].key, key.fingerprint());
            let own = verified.signers[0].signed_with == key.fingerprint();
            assert_eq!(own, with == With::Primary);
        }
    }

    #[test]
    fn refuses_a_stranger_and_names_who_would_do() {
        let (key, other) = (TestKey::new(1, MADE), TestKey::new(2, MADE));
        let signed = other.clearsign(TEXT, With::Primary, SIGNED);
        let message = problem(&signed, &ring(&key.public()), NOW);
        assert!(message.contains(&format!("{}: not an accepted key", other.fingerprint())));
        assert!(message.contains(&format!("accepted: {}", key.fingerprint())));
    }

    #[test]
    fn refuses_changed_text() {
        let key = TestKey::new(1, MADE);
        let signed = key.clearsign(TEXT, With::Subkey, SIGNED);
        let message = problem(&signed.replace("last", "lost"), &ring(&key.public()), NOW);
        assert!(message.contains("does not fit the text"), "{message}");
    }

    #[test]
    fn refuses_text_outside_the_signature() {
        let key = TestKey::new(1, MADE);
        let keyring = ring(&key.public());
        let signed = key.clearsign(TEXT, With::Subkey, SIGNED);
        for text in [
            format!("Suite: other\n{signed}"),
            format!("{signed}\nSuite: other\n"),
            signed.replacen("Hash: SHA256", "Suite: other", 1),
            "<html>".to_owned(),
            String::new(),
        ] {
            let error = verify_clearsigned(text.as_bytes(), &keyring, NOW).unwrap_err();
            assert!(matches!(error, Error::Unreadable(_)), "{error}");
        }
    }

    #[test]
    fn refuses_revoked_and_expired_keys() {
        let key = TestKey::new(1, MADE);
        let signed = key.clearsign(TEXT, With::Subkey, SIGNED);
        let message = problem(&signed, &ring(&key.revoked(SIGNED + 1)), NOW);
        assert!(message.contains("revoked"), "{message}");

        let short = TestKey::new(3, MADE).living(MADE, 1500);
        let signed = short.clearsign(TEXT, With::Subkey, SIGNED);
        let keyring = ring(&short.public());
        let message = problem(&signed, &keyring, NOW);
        assert!(message.contains("the key has expired"), "{message}");
        assert!(verify_clearsigned(signed.as_bytes(), &keyring, Moment::WhenSigned).is_ok());
    }

    #[test]
    fn refuses_a_signature_from_the_future() {
        let key = TestKey::new(1, MADE);
        let signed = key.clearsign(TEXT, With::Primary, SIGNED + 10 * 86_400);
        let message = problem(&signed, &ring(&key.public()), NOW);
        assert!(message.contains("clock"), "{message}");
    }

    #[test]
    fn refuses_a_subkey_adopted_by_another_key() {
        // The thief's key carries the victim's subkey with its binding by the victim.
        let (victim, thief) = (TestKey::new(1, MADE), TestKey::new(2, MADE));
        let mut keyring = ring(&thief.public());
        keyring.keys[0].public_subkeys = ring(&victim.public()).keys[0].public_subkeys.clone();
        let signed = victim.clearsign(TEXT, With::Subkey, SIGNED);
        let message = problem(&signed, &keyring, NOW);
        assert!(message.contains("not bound"), "{message}");
    }

    #[test]
    fn key_files_may_hold_several_blocks_or_none() {
        let both = TestKey::new(1, MADE).public() + &TestKey::new(2, MADE).public();
        assert_eq!(ring(&both).keys().len(), 2);
        for bytes in [&b""[..], b"no key", b"\xff\xff\xff", &[0x99; 40]] {
            assert!(Keyring::from_bytes(bytes).is_err());
        }
    }

    /// Seeded mutation: nothing panics, and what is accepted is the text that was signed.
    #[test]
    fn mutated_texts_and_keys_are_refused_or_equal() {
        let key = TestKey::new(1, MADE);
        let public = key.public();
        let keyring = ring(&public);
        let signed = key.clearsign(TEXT, With::Subkey, SIGNED);
        slipform_fuzz::fuzz(&[&signed, &public], |bytes, _| {
            if let Ok(verified) = verify_clearsigned(bytes, &keyring, NOW) {
                assert_eq!(verified.text.trim_end(), TEXT);
            }
            let _ = Keyring::from_bytes(bytes);
        });
    }
}
