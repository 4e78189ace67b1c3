//! SHA-256 digests, the only names that content has here.
//!
//! Written as the OCI image specification writes them: `sha256:` and 64
//! lower-case hexadecimal digits (image-spec, descriptor.md, "Digests").

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes read at a time.
const BUFFER_SIZE: usize = 128 * 1024;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no digest; write sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of all that `reader` yields, and its length in bytes.
    ///
    /// # Errors
    /// What the reader reports.
    pub fn of_reader(reader: &mut dyn Read) -> io::Result<(Self, u64)> {
        thread_local! {
            // Many small files are digested one after the other: one buffer serves them all.
            static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut buffer = BUFFER.take();
        buffer.resize(BUFFER_SIZE, 0);
        let mut hasher = Sha256::new();
        let mut length = 0;
        let result = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break Ok((Self(hasher.finalize().into()), length)),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    length += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        BUFFER.set(buffer);
        result
    }

    /// A digest from its 32 raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// A digest from 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`DigestError`] when `hex` is anything else.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let error = || DigestError(hex.to_owned());
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(error());
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or_else(error)?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| DigestError(text.to_owned()))?;
        Self::from_hex(hex).map_err(|_| DigestError(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Passes bytes on to `inner` and digests them on the way.
pub struct DigestWriter<W> {
    inner: W,
    hasher: Sha256,
    length: u64,
}

impl<W> fmt::Debug for DigestWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestWriter")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<W: Write> DigestWriter<W> {
    /// A writer that digests what goes to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            length: 0,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that was written, and the inner writer.
    pub fn finish(self) -> (Digest, W) {
        (Digest(self.hasher.finalize().into()), self.inner)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let digest = Digest::of("abc");
        assert_eq!(
            digest.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for text in ["", "sha256:", "md5:00", "sha256:zz", &"é".repeat(32)] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
            assert!(Digest::from_hex(text).is_err(), "{text}");
        }
    }
}
