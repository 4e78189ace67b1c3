//! Evidence that outlives the machine it was made on: signed statements about an
//! image, and the gate that believes them.
//!
//! ```text
//! key.rs, keyfile.rs, passphrase.rs, signer.rs   keys, and who signs
//! dsse.rs         envelopes: a payload and its signatures
//! statement.rs    in-toto: what is said of which image
//! test_result.rs, provenance.rs, sbom/           what can be said
//! attestations.rs the three of them, signed, in the store
//! trust.rs        whose signatures count
//! gate.rs         attestations -> Attested, the only way to be published
//! ```

mod attestations;
mod dsse;
mod error;
mod gate;
mod key;
mod keyfile;
mod passphrase;
mod provenance;
mod sbom;
mod signer;
mod statement;
mod test_result;
mod trust;

#[cfg(test)]
mod key_tests;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use attestations::{
    ATT_SUFFIX, Attestations, Evidence, PREDICATE_NOTE, Packed, REFERRER_TYPE, att_tag, attest,
    beside_others, envelope_layers,
};
pub use dsse::{ENVELOPE_LIMIT, ENVELOPE_TYPE, Envelope, Verified};
pub use error::AttestError;
pub use gate::{
    Attested, AttestedImage, Candidate, GateError, GateInput, Policy, Refusal, force, gate,
};
pub use key::PublicKey;
pub use keyfile::{KeyFile, is_encrypted, public_path};
pub use passphrase::{PASSPHRASE, Passphrase, PassphraseSource};
pub use provenance::{BuildFacts, Provenance};
pub use sbom::{FileFacts, PackageFacts, Sbom, SbomFacts, purl};
pub use signer::{CommandSigner, Signer};
pub use statement::{PAYLOAD_TYPE, Predicate, Resource, Statement};
pub use test_result::{RunFacts, TestResult, Verdict};
pub use trust::{TRUSTED_KEYS, Trust, TrustSources};
