//! The dm-verity superblock, version 1.
//!
//! Source: cryptsetup, lib/verity/verity.c (`struct verity_sb`) and
//! <https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity>.

/// Data and hash blocks alike, in bytes.
pub const BLOCK_SIZE: u64 = 4096;
/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 32;
/// Digests in one hash block.
pub const DIGESTS_PER_BLOCK: u64 = BLOCK_SIZE / DIGEST_SIZE as u64;
/// Bytes of the superblock; the rest of its block is zero.
pub const SUPERBLOCK_SIZE: usize = 512;
/// The superblock starts with this.
pub const MAGIC: [u8; 8] = *b"verity\0\0";
/// Longest salt.
pub const MAX_SALT: usize = 256;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// UUID of the hash device.
    pub uuid: [u8; 16],
    /// Data blocks that the tree covers.
    pub data_blocks: u64,
    /// Salt, at most [`MAX_SALT`] bytes, hashed before each block.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// The superblock's bytes: version 1, hash type 1, sha256, blocks of 4096.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let salt = &self.salt[..self.salt.len().min(MAX_SALT)];
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &1u32.to_le_bytes());
        put(12, &1u32.to_le_bytes());
        put(16, &self.uuid);
        put(32, b"sha256");
        put(64, &(BLOCK_SIZE as u32).to_le_bytes());
        put(68, &(BLOCK_SIZE as u32).to_le_bytes());
        put(72, &self.data_blocks.to_le_bytes());
        put(80, &(salt.len() as u16).to_le_bytes());
        put(88, salt);
        bytes
    }

    /// Reads a superblock of the kind that [`Superblock::encode`] writes;
    /// `None` for anything else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SUPERBLOCK_SIZE] = bytes.get(..SUPERBLOCK_SIZE)?.try_into().ok()?;
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let block = Some(BLOCK_SIZE as u32);
        let known = bytes[..8] == MAGIC
            && u32_at(8) == Some(1)
            && u32_at(12) == Some(1)
            && bytes[32..64].starts_with(b"sha256\0")
            && u32_at(64) == block
            && u32_at(68) == block
            && salt_size <= MAX_SALT;
        known.then_some(())?;
        Some(Self {
            uuid: bytes[16..32].try_into().ok()?,
            data_blocks: u64::from_le_bytes(bytes[72..80].try_into().ok()?),
            salt: bytes[88..88 + salt_size].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let superblock = Superblock {
            uuid: [7; 16],
            data_blocks: 4096,
            salt: vec![9; 64],
        };
        let bytes = superblock.encode();
        assert_eq!(Superblock::parse(&bytes), Some(superblock));
        for at in [0, 8, 12, 32, 64, 68] {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Superblock::parse(&other), None, "byte {at}");
        }
        let mut salty = bytes;
        salty[81] = 0xff;
        assert_eq!(Superblock::parse(&salty), None);
        assert_eq!(Superblock::parse(&bytes[..511]), None);
    }
}
