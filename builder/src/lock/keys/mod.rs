//! The keys that sign Debian's archives, as data: exported from Debian's package
//! `debian-archive-keyring`, one file per key, named by fingerprint below.
//!
//! Debian signs a suite with the automatic keys of its own and of the previous
//! release and with its release key, security with the security keys: one of
//! them is enough.

use slipform_openpgp::{Error, Keyring};

/// A key that Slipform brings along.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveKey {
    /// Fingerprint of the primary key.
    pub fingerprint: &'static str,
    /// What it signs.
    pub purpose: &'static str,
    data: &'static [u8],
}

/// Every key that a Debian suite may be signed with.
pub const DEBIAN: [ArchiveKey; 6] = [
    ArchiveKey {
        fingerprint: "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
        purpose: "Debian 13 (trixie): archive, automatic",
        data: include_bytes!("trixie-automatic.gpg"),
    },
    ArchiveKey {
        fingerprint: "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
        purpose: "Debian 13 (trixie): security archive, automatic",
        data: include_bytes!("trixie-security-automatic.gpg"),
    },
    ArchiveKey {
        fingerprint: "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
        purpose: "Debian 13 (trixie): release team",
        data: include_bytes!("trixie-stable.gpg"),
    },
    ArchiveKey {
        fingerprint: "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
        purpose: "Debian 12 (bookworm): archive, automatic",
        data: include_bytes!("bookworm-automatic.gpg"),
    },
    ArchiveKey {
        fingerprint: "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
        purpose: "Debian 12 (bookworm): security archive, automatic",
        data: include_bytes!("bookworm-security-automatic.gpg"),
    },
    ArchiveKey {
        fingerprint: "4D64FEC119C2029067D6E791F8D2585B8783D481",
        purpose: "Debian 12 (bookworm): release team",
        data: include_bytes!("bookworm-stable.gpg"),
    },
];

/// All of [`DEBIAN`] as one keyring.
///
/// # Errors
/// [`Error::Key`], only if the data built in were damaged.
pub fn debian() -> Result<Keyring, Error> {
    let mut keyring = Keyring::default();
    for key in &DEBIAN {
        keyring.merge(Keyring::from_binary(key.data)?);
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_has_exactly_the_keys_named() {
        for key in &DEBIAN {
            let found = Keyring::from_binary(key.data).unwrap().keys();
            assert_eq!(found.len(), 1, "{}", key.purpose);
            assert_eq!(found[0].fingerprint, key.fingerprint, "{}", key.purpose);
            assert!(found[0].user.contains("Debian"), "{}", found[0].user);
        }
        assert_eq!(debian().unwrap().keys().len(), DEBIAN.len());
    }
}
