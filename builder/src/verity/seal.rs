//! From a file system image to a sealed blob of the store.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::format::{BLOCK_SIZE, Superblock};
use super::holes::next_data;
use super::tree;
use crate::base::fs::{At, FsError};
use crate::base::{Digest, guid};
use crate::filesystem::FsImage;
use crate::store::{Store, StoreError};

/// What can go wrong in sealing.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// The store, in which images are sealed, refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image that is no whole number of blocks.
    #[error("cannot seal a file system of {0} bytes: it must be a multiple of 4096 and not empty")]
    Size(u64),
}

impl From<FsError> for VerityError {
    fn from(error: FsError) -> Self {
        Self::Store(error.into())
    }
}

/// A file system with its hash tree behind it, in the store: the bytes of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The blob with data, superblock and tree.
    pub blob: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Blocks of 4096 bytes that the file system takes.
    pub data_blocks: u64,
    /// Bytes from the blob's start to the first block of the tree, behind the superblock.
    pub hash_offset: u64,
    /// Digest of the tree's top.
    #[serde(with = "hex_bytes")]
    pub root_hash: [u8; 32],
    /// Salt of every hash.
    #[serde(with = "hex_bytes")]
    pub salt: Vec<u8>,
    /// Name of the file system for mount(2).
    pub filesystem: String,
}

impl Sealed {
    /// Whether the sizes of one that came from elsewhere fit together.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let block = BLOCK_SIZE;
        let data = self.data_blocks.checked_mul(block);
        self.size.is_multiple_of(block)
            && self.hash_offset.is_multiple_of(block)
            && self.hash_offset < self.size
            && data.is_some_and(|data| data > 0 && data <= self.hash_offset)
            && self.salt.len() <= 256
            && self.filesystem == "ext4"
    }

    /// The root hash as 64 hexadecimal digits.
    #[must_use]
    pub fn root_hex(&self) -> String {
        hex_bytes::text(&self.root_hash)
    }

    /// The salt in hexadecimal digits.
    #[must_use]
    pub fn salt_hex(&self) -> String {
        hex_bytes::text(&self.salt)
    }

    /// The GUID of the partition: the first 128 bits of the root hash as they
    /// are, in the order in which the text form writes them.
    #[must_use]
    pub fn partition_guid(&self) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.root_hash[..16]);
        Uuid::from_bytes(bytes)
    }
}

/// Puts the hash tree behind `image` and the whole into the store. Salt and
/// UUID are drawn from `seed`; the flat digest is computed beside the tree.
///
/// # Errors
/// [`VerityError`]; the store is then as it was.
pub fn seal(store: &Store, image: FsImage, seed: &Digest) -> Result<Sealed, VerityError> {
    let FsImage {
        file,
        size: data,
        filesystem,
    } = image;
    if data == 0 || !data.is_multiple_of(BLOCK_SIZE) {
        return Err(VerityError::Size(data));
    }
    let data_blocks = data / BLOCK_SIZE;
    let hash_offset = data + BLOCK_SIZE;
    let size = hash_offset + tree::size(data_blocks);
    let salt = salt(seed);
    let superblock = Superblock {
        uuid: guid::derive(seed, "verity").into_bytes(),
        data_blocks,
        salt: salt.clone(),
    };
    let path = file.path();
    let handle = file.as_file();
    handle.set_len(size).at("set the length of", path)?;
    handle
        .write_all_at(&superblock.encode(), data)
        .at("write", path)?;

    let (root, flat) = std::thread::scope(|scope| {
        let flat = scope.spawn(|| {
            let mut hasher = Sha256::new();
            digest_range(handle, 0..data, &mut hasher).map(|()| hasher)
        });
        let root = tree::write(handle, data_blocks, hash_offset, &salt);
        let flat = flat
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the hashing thread died")));
        (root, flat)
    });
    let root = root.at("hash the blocks of", path)?;
    let mut flat = flat.at("read", path)?;
    digest_range(handle, data..size, &mut flat).at("read", path)?;
    let blob = Digest::from_bytes(flat.finalize().into());
    store.adopt(file, &blob)?;
    Ok(Sealed {
        blob,
        size,
        data_blocks,
        hash_offset,
        root_hash: root,
        salt,
        filesystem: filesystem.to_owned(),
    })
}

/// 64 bytes: one whole block of SHA-256, so that hashing starts from its state.
fn salt(seed: &Digest) -> Vec<u8> {
    ["verity salt 0", "verity salt 1"]
        .iter()
        .flat_map(|label| *Digest::of([seed.as_bytes(), label.as_bytes()].concat()).as_bytes())
        .collect()
}

/// Hashes a range of `file`; holes are not read.
fn digest_range(file: &File, range: Range<u64>, hasher: &mut Sha256) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut buffer = vec![0; 256 * 1024];
    let mut at = range.start;
    while at < range.end {
        let data = next_data(file, at..range.end)?.unwrap_or(range.end..range.end);
        while at < data.start {
            let step = (data.start - at).min(ZEROS.len() as u64);
            hasher.update(&ZEROS[..step as usize]);
            at += step;
        }
        while at < data.end {
            let step = (data.end - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..step], at)?;
            hasher.update(&buffer[..step]);
            at += step as u64;
        }
    }
    Ok(())
}

/// Bytes as lower-case hexadecimal text.
mod hex_bytes {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn text(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> = text
            .bytes()
            .map(|digit| char::from(digit).to_digit(16).map(|value| value as u8))
            .collect();
        digits
            .filter(|digits| digits.len().is_multiple_of(2))
            .map(|digits| {
                digits
                    .chunks(2)
                    .map(|pair| pair[0] << 4 | pair[1])
                    .collect()
            })
            .and_then(|bytes: Vec<u8>| T::try_from(bytes).ok())
            .ok_or_else(|| {
                D::Error::custom(format!("'{text}' is not the hexadecimal text expected"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_reads_what_it_writes() {
        let sealed = Sealed {
            blob: Digest::of("x"),
            size: 8192,
            data_blocks: 1,
            hash_offset: 8192,
            root_hash: *Digest::of("root").as_bytes(),
            salt: vec![1; 64],
            filesystem: "ext4".to_owned(),
        };
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
        let short = json.replace(&sealed.root_hex(), "abcd");
        assert!(serde_json::from_str::<Sealed>(&short).is_err());
        let guid = sealed.partition_guid().simple().to_string();
        assert_eq!(guid, sealed.root_hex()[..32]);
    }
}
