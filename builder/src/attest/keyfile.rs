//! Private keys in files: PKCS#8 PEM, encrypted (PBES2: scrypt, AES-256-CBC)
//! unless the user said otherwise. `openssl pkey -in key.pem` reads them.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::rand_core::{OsRng, RngCore};
use pkcs8::der::pem::{LineEnding, PemLabel};
use pkcs8::der::{Decode, SecretDocument};
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::scrypt;
use pkcs8::{DecodePrivateKey, EncodePrivateKey, EncryptedPrivateKeyInfo, PrivateKeyInfo};
use zeroize::Zeroizing;

use super::key::{PublicKey, read_text};
use super::{AttestError, Passphrase, Signer};
use crate::base::fs::{At, write_new};

/// The work that guessing a passphrase takes. openssl gives scrypt 32 MiB and no
/// more, so that the memory is 16 MiB and the passes are five, which OWASP's
/// password storage cheat sheet holds to be as good as 128 MiB and one.
const LOG_N: u8 = 14;
const R: u32 = 8;
const P: u32 = 5;
/// What a key file may ask of its reader: 256 MiB, and some seconds.
const MOST_SCRYPT: (u64, u64, u16) = (1 << 17, 1 << 18, 16);
const MOST_ITERATIONS: u32 = 10_000_000;

/// A private key, in memory.
pub struct KeyFile {
    key: SigningKey,
    public: PublicKey,
}

impl KeyFile {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// [`AttestError::PublicKey`] when its public half cannot be written.
    pub fn generate() -> Result<Self, AttestError> {
        Self::of(SigningKey::random(&mut OsRng))
    }

    /// The key of a number: for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_scalar(scalar: &[u8; 32]) -> Result<Self, AttestError> {
        let key = SigningKey::from_bytes(scalar.into());
        Self::of(key.map_err(|error| super::error::malformed("the test key", error))?)
    }

    fn of(key: SigningKey) -> Result<Self, AttestError> {
        let public = PublicKey::new(*key.verifying_key())?;
        Ok(Self { key, public })
    }

    /// The file's text, encrypted by `passphrase`; without one, in the clear.
    ///
    /// # Errors
    /// [`AttestError::Malformed`].
    pub fn to_pem(
        &self,
        passphrase: Option<&Passphrase>,
    ) -> Result<Zeroizing<String>, AttestError> {
        let failed = |why: String| super::error::malformed("the new key", why);
        let Some(passphrase) = passphrase else {
            return self
                .key
                .to_pkcs8_pem(LineEnding::LF)
                .map_err(|e| failed(e.to_string()));
        };
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        OsRng.fill_bytes(&mut salt);
        OsRng.fill_bytes(&mut iv);
        let work = scrypt::Params::new(LOG_N, R, P, scrypt::Params::RECOMMENDED_LEN)
            .map_err(|e| failed(e.to_string()))?;
        let parameters =
            Parameters::scrypt_aes256cbc(work, &salt, &iv).map_err(|e| failed(e.to_string()))?;
        let plain = self.key.to_pkcs8_der().map_err(|e| failed(e.to_string()))?;
        let info = PrivateKeyInfo::try_from(plain.as_bytes()).map_err(|e| failed(e.to_string()))?;
        let document = info
            .encrypt_with_params(parameters, passphrase.bytes())
            .map_err(|e| failed(e.to_string()))?;
        document
            .to_pem(EncryptedPrivateKeyInfo::PEM_LABEL, LineEnding::LF)
            .map_err(|e| failed(e.to_string()))
    }

    /// Reads a key; `passphrase` is asked only if it is encrypted. `path` is for messages.
    ///
    /// # Errors
    /// [`AttestError::Key`], [`AttestError::Passphrase`].
    pub fn from_pem(
        text: &str,
        path: &Path,
        passphrase: impl FnOnce() -> Result<Passphrase, AttestError>,
    ) -> Result<Self, AttestError> {
        let wrong = |why: String| AttestError::Key {
            path: path.to_owned(),
            why,
        };
        if is_encrypted(text) {
            let (_, document) = SecretDocument::from_pem(text)
                .map_err(|error| wrong(format!("it is no PEM: {error}")))?;
            let info = EncryptedPrivateKeyInfo::from_der(document.as_bytes())
                .map_err(|error| wrong(format!("it is no PKCS#8: {error}")))?;
            bounded(&info).map_err(wrong)?;
            let plain = info
                .decrypt(passphrase()?.bytes())
                .map_err(|_| wrong("the passphrase is not the key's".to_owned()))?;
            let key = SigningKey::from_pkcs8_der(plain.as_bytes())
                .map_err(|error| wrong(not_ours(error)))?;
            return Self::of(key);
        }
        let key = SigningKey::from_pkcs8_pem(text).map_err(|error| wrong(not_ours(error)))?;
        Self::of(key)
    }

    /// Writes the key to `path` and its public half beside it (`key.pem`, `key.pub`),
    /// each whole or not at all, readable by the owner only, and never over a file
    /// that is there. Returns the path of the public half.
    ///
    /// # Errors
    /// [`AttestError::Key`] when one of the two is there; [`AttestError::Fs`].
    pub fn create(
        &self,
        path: &Path,
        passphrase: Option<&Passphrase>,
    ) -> Result<PathBuf, AttestError> {
        let public = public_path(path);
        for taken in [path, &public] {
            if taken.symlink_metadata().is_ok() {
                return Err(AttestError::Key {
                    path: taken.to_owned(),
                    why: "it is there already, and a lost key cannot be had back; move it away, or name another with --out"
                        .to_owned(),
                });
            }
        }
        let pem = self.to_pem(passphrase)?;
        write_new(path, pem.as_bytes(), 0o600)?;
        write_new(&public, self.public.to_pem().as_bytes(), 0o644)?;
        Ok(public)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`KeyFile::from_pem`]; [`AttestError::Key`] for one in the clear that others can read.
    pub fn load(
        path: &Path,
        passphrase: impl FnOnce() -> Result<Passphrase, AttestError>,
    ) -> Result<Self, AttestError> {
        let text = Zeroizing::new(read_text(path)?);
        let mode = path.metadata().at("stat", path)?.mode();
        if !is_encrypted(&text) && mode & 0o077 != 0 {
            return Err(AttestError::Key {
                path: path.to_owned(),
                why: format!(
                    "it has no passphrase, and its mode {:04o} lets others read it; run chmod 600 {}",
                    mode & 0o7777,
                    path.display()
                ),
            });
        }
        Self::from_pem(&text, path, passphrase)
    }
}

impl Signer for KeyFile {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AttestError> {
        // RFC 6979: no randomness, equal messages have equal signatures.
        let signature: DerSignature = self.key.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({:?})", self.public)
    }
}

/// The public half's place: `key.pem` has `key.pub`.
#[must_use]
pub fn public_path(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Whether a key's text is encrypted.
#[must_use]
pub fn is_encrypted(text: &str) -> bool {
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

fn not_ours(error: impl fmt::Display) -> String {
    format!(
        "it is no ECDSA P-256 key in PKCS#8 ({error}); make one with `slipform key new`, or convert it with `openssl pkcs8 -topk8`"
    )
}

/// Refuses a file that would take the reader's memory or day.
fn bounded(info: &EncryptedPrivateKeyInfo<'_>) -> Result<(), String> {
    let Some(parameters) = info.encryption_algorithm.pbes2() else {
        return Err(
            "it is encrypted by an old scheme; convert it with `openssl pkcs8 -topk8 -scrypt`"
                .to_owned(),
        );
    };
    let fine = match &parameters.kdf {
        Kdf::Scrypt(work) => {
            let (n, rn, p) = MOST_SCRYPT;
            let blocks = u64::from(work.block_size).checked_mul(work.cost_parameter);
            work.cost_parameter <= n
                && blocks.is_some_and(|blocks| blocks <= rn * 8)
                && work.parallelization <= p
        }
        Kdf::Pbkdf2(work) => work.iteration_count <= MOST_ITERATIONS,
        _ => false,
    };
    if fine {
        Ok(())
    } else {
        Err(
            "its passphrase asks for more work than any honest file does; it is not read"
                .to_owned(),
        )
    }
}
