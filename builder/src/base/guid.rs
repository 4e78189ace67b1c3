//! GUIDs drawn from digests, so that the same inputs give the same disk.
//!
//! Version 8 UUIDs (RFC 9562, section 5.8): the application defines the bits.

use uuid::Uuid;

use super::Digest;

/// The GUID for `label` under `seed`: SHA-256 of both, cut to 128 bits, with
/// version 8 and the RFC variant set.
#[must_use]
pub fn derive(seed: &Digest, label: &str) -> Uuid {
    let mut bytes = [0; 16];
    let both = [seed.as_bytes().as_slice(), label.as_bytes()].concat();
    bytes.copy_from_slice(&Digest::of(both).as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_version_8_and_depends_on_both_inputs() {
        let seed = Digest::of("seed");
        let guid = derive(&seed, "disk");
        assert_eq!(guid.get_version_num(), 8);
        assert_ne!(guid, derive(&seed, "esp"));
        assert_ne!(guid, derive(&Digest::of("other"), "disk"));
    }
}
