//! DSSE v1: what is signed is the payload with its type, not JSON's idea of it.
//! Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md.

use serde::{Deserialize, Serialize};

use super::error::malformed;
use super::key::from_base64;
use super::{AttestError, PublicKey, Signer};
use crate::base::base64;

/// Media type of an envelope.
pub const ENVELOPE_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Largest envelope that is read, in bytes: an SBOM of 100,000 files fits.
pub const ENVELOPE_LIMIT: u64 = 64 * 1024 * 1024;
/// Most signatures that are tried.
const MOST_SIGNATURES: usize = 16;
const WHAT: &str = "the DSSE envelope";

/// A payload and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    /// A hint, and never trusted.
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// A payload that a trusted key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The bytes.
    pub payload: Vec<u8>,
    /// The keys whose signatures hold; at least one.
    pub keys: Vec<PublicKey>,
}

impl Envelope {
    /// Signs `payload`.
    ///
    /// # Errors
    /// What the signer reports.
    pub fn sign(
        payload_type: &str,
        payload: &[u8],
        signer: &dyn Signer,
    ) -> Result<Self, AttestError> {
        let mut envelope = Self {
            payload_type: payload_type.to_owned(),
            payload: base64::encode(payload),
            signatures: Vec::new(),
        };
        envelope.add(payload, signer)?;
        Ok(envelope)
    }

    /// Adds another's signature over the same payload.
    ///
    /// # Errors
    /// What the signer reports; [`AttestError::Malformed`] when there are too many.
    pub fn countersign(&mut self, signer: &dyn Signer) -> Result<(), AttestError> {
        if self.signatures.len() >= MOST_SIGNATURES {
            return Err(malformed(
                WHAT,
                "it has 16 signatures; there cannot be more",
            ));
        }
        let payload = self.payload()?;
        self.add(&payload, signer)
    }

    fn add(&mut self, payload: &[u8], signer: &dyn Signer) -> Result<(), AttestError> {
        let signature = signer.sign(&pae(&self.payload_type, payload))?;
        self.signatures.push(Signature {
            keyid: signer.public().fingerprint(),
            sig: base64::encode(&signature),
        });
        Ok(())
    }

    /// The payload if one of `keys` signed it and it is of `payload_type`.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] for another type; [`AttestError::Untrusted`].
    pub fn verify(&self, payload_type: &str, keys: &[PublicKey]) -> Result<Verified, AttestError> {
        if self.payload_type != payload_type {
            return Err(malformed(
                WHAT,
                format!(
                    "its payload is '{}', but '{payload_type}' is wanted",
                    self.payload_type.escape_debug()
                ),
            ));
        }
        let payload = self.payload()?;
        let message = pae(&self.payload_type, &payload);
        let signatures: Vec<Vec<u8>> = self
            .signatures
            .iter()
            .take(MOST_SIGNATURES)
            .filter_map(|signature| from_base64(&signature.sig))
            .collect();
        let holds = |key: &&PublicKey| signatures.iter().any(|s| key.verifies(&message, s));
        let keys: Vec<PublicKey> = keys.iter().filter(holds).cloned().collect();
        if keys.is_empty() {
            return Err(AttestError::Untrusted(self.untrusted()));
        }
        Ok(Verified { payload, keys })
    }

    fn untrusted(&self) -> String {
        let named: Vec<String> = self
            .signatures
            .iter()
            .take(MOST_SIGNATURES)
            .map(|s| s.keyid.chars().take(64).collect::<String>())
            .map(|name| {
                if name.is_empty() {
                    "a key without a name".to_owned()
                } else {
                    name.escape_debug().to_string()
                }
            })
            .collect();
        match named.as_slice() {
            [] => "it has no signature".to_owned(),
            named => format!(
                "it is signed by {}, which no trusted key verifies",
                named.join(", ")
            ),
        }
    }

    /// The payload, whoever signed it or did not: for showing, never for believing.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] when it is no base64.
    pub fn payload(&self) -> Result<Vec<u8>, AttestError> {
        from_base64(&self.payload).ok_or_else(|| malformed(WHAT, "its payload is no base64"))
    }

    /// The document's bytes.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AttestError> {
        serde_json::to_vec(self).map_err(|error| malformed(WHAT, error))
    }

    /// Reads an envelope; verifies nothing.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] when it is too long or no envelope.
    pub fn parse(bytes: &[u8]) -> Result<Self, AttestError> {
        if bytes.len() as u64 > ENVELOPE_LIMIT {
            return Err(malformed(WHAT, "it is longer than 64 MiB"));
        }
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(WHAT, error))?;
        if envelope.signatures.len() > MOST_SIGNATURES {
            return Err(malformed(WHAT, "it has more than 16 signatures"));
        }
        Ok(envelope)
    }
}

/// The pre-authentication encoding.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::testing::key;

    #[test]
    fn the_encoding_of_the_specification() {
        // protocol.md, "Test Vectors".
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    }

    #[test]
    fn each_signer_is_enough_and_a_stranger_is_not() {
        let (first, second, stranger) = (key(1), key(2), key(3));
        let mut envelope = Envelope::sign("a/b", b"payload", &first).unwrap();
        envelope.countersign(&second).unwrap();
        let envelope = Envelope::parse(&envelope.to_bytes().unwrap()).unwrap();
        let keys = |signers: &[&dyn Signer]| -> Vec<PublicKey> {
            signers.iter().map(|s| s.public().clone()).collect()
        };
        for trusted in [vec![&first as &dyn Signer], vec![&stranger, &second]] {
            let verified = envelope.verify("a/b", &keys(&trusted)).unwrap();
            assert_eq!(
                (verified.payload.as_slice(), verified.keys.len()),
                (b"payload".as_slice(), 1)
            );
        }
        let both = envelope.verify("a/b", &keys(&[&first, &second])).unwrap();
        assert_eq!(both.keys.len(), 2);
        let error = envelope.verify("a/b", &keys(&[&stranger])).unwrap_err();
        assert!(
            error.to_string().contains(&first.public().fingerprint()),
            "{error}"
        );
        assert!(envelope.verify("a/b", &[]).is_err());
        assert!(
            envelope.verify("a/c", &keys(&[&first])).is_err(),
            "another type"
        );
    }

    #[test]
    fn a_changed_payload_or_type_is_refused() {
        let signer = key(1);
        let trusted = [signer.public().clone()];
        let good = Envelope::sign("a/b", b"payload", &signer).unwrap();
        let changed = Envelope {
            payload: base64::encode(b"Payload"),
            ..good.clone()
        };
        assert!(changed.verify("a/b", &trusted).is_err());
        let changed = Envelope {
            payload_type: "a/c".into(),
            ..good.clone()
        };
        assert!(changed.verify("a/c", &trusted).is_err());
        let unsigned = Envelope {
            signatures: Vec::new(),
            ..good
        };
        let error = unsigned.verify("a/b", &trusted).unwrap_err().to_string();
        assert!(error.contains("no signature"), "{error}");
    }

    #[test]
    fn both_alphabets_are_read() {
        let signer = key(1);
        let payload = b"\xfb\xff\xfe>>>???";
        let mut envelope = Envelope::sign("a/b", payload, &signer).unwrap();
        for text in [&mut envelope.payload, &mut envelope.signatures[0].sig] {
            *text = text.replace('+', "-").replace('/', "_");
        }
        let verified = envelope.verify("a/b", &[signer.public().clone()]).unwrap();
        assert_eq!(verified.payload, payload);
    }

    #[test]
    fn too_many_signatures_and_hostile_documents_are_errors() {
        let signer = key(1);
        let mut envelope = Envelope::sign("a/b", b"x", &signer).unwrap();
        for _ in 1..MOST_SIGNATURES {
            envelope.countersign(&signer).unwrap();
        }
        assert!(envelope.countersign(&signer).is_err());
        envelope.signatures.push(envelope.signatures[0].clone());
        assert!(Envelope::parse(&envelope.to_bytes().unwrap()).is_err());
        for text in ["", "null", "{}", "[]", &"[".repeat(100_000)] {
            assert!(Envelope::parse(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn mutated_envelopes_never_verify_as_something_else() {
        let signer = key(1);
        let trusted = [signer.public().clone()];
        let envelope = Envelope::sign("a/b", br#"{"a":1}"#, &signer).unwrap();
        slipform_fuzz::fuzz(&[&envelope.to_bytes().unwrap()], |bytes, _| {
            if let Ok(read) = Envelope::parse(bytes)
                && let Ok(verified) = read.verify("a/b", &trusted)
            {
                assert_eq!(verified.payload, br#"{"a":1}"#);
            }
        });
    }
}
