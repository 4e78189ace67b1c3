//! The hash tree, level by level, on all cores.
//!
//! Leaves are the digests of salt and data block; each further level hashes the
//! blocks that the level below fills with digests (padded with zeros), until
//! one block is left. Its digest is the root hash. On disk the root's level
//! comes first (cryptsetup, lib/verity/verity_hash.c).

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::format::{BLOCK_SIZE, DIGEST_SIZE, DIGESTS_PER_BLOCK};
use super::holes::next_data;

/// Blocks that a worker takes at once: 256 KiB of data, which stay in its cache.
const CHUNK: u64 = 64;

/// Where the levels of a tree lie, leaves first: bytes from the tree's start, and blocks.
#[must_use]
pub fn levels(data_blocks: u64) -> Vec<(u64, u64)> {
    let mut counts = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(DIGESTS_PER_BLOCK);
        counts.push(blocks);
    }
    let mut offset = 0;
    let mut levels: Vec<_> = counts
        .into_iter()
        .rev()
        .map(|blocks| {
            let start = offset;
            offset += blocks * BLOCK_SIZE;
            (start, blocks)
        })
        .collect();
    levels.reverse();
    levels
}

/// Bytes of the tree over so many data blocks.
#[must_use]
pub fn size(data_blocks: u64) -> u64 {
    levels(data_blocks)
        .iter()
        .map(|(_, blocks)| blocks * BLOCK_SIZE)
        .sum()
}

/// Writes the tree over the first `data_blocks` (at least one) blocks of `file`
/// at `tree_offset`, where the file must hold zeros (or a hole) so far, and
/// gives the root hash.
///
/// # Errors
/// What the file reports.
pub fn write(
    file: &File,
    data_blocks: u64,
    tree_offset: u64,
    salt: &[u8],
) -> io::Result<[u8; DIGEST_SIZE]> {
    let hasher = BlockHasher::new(salt);
    let mut source = 0;
    let mut blocks = data_blocks;
    for (offset, level_blocks) in levels(data_blocks) {
        let target = tree_offset + offset;
        hash_level(file, &hasher, source..source + blocks * BLOCK_SIZE, target)?;
        source = target;
        blocks = level_blocks;
    }
    let mut top = [0; BLOCK_SIZE as usize];
    file.read_exact_at(&mut top, source)?;
    Ok(hasher.digest(&top))
}

/// Digests salted blocks. The salt is hashed once; a salt of 64 bytes is one
/// whole SHA-256 block, so that its state is all that a block starts from.
struct BlockHasher {
    salted: Sha256,
    zero: [u8; DIGEST_SIZE],
}

impl BlockHasher {
    fn new(salt: &[u8]) -> Self {
        let mut hasher = Self {
            salted: Sha256::new_with_prefix(salt),
            zero: [0; DIGEST_SIZE],
        };
        hasher.zero = hasher.digest(&[0; BLOCK_SIZE as usize]);
        hasher
    }

    fn digest(&self, block: &[u8]) -> [u8; DIGEST_SIZE] {
        let mut state = self.salted.clone();
        state.update(block);
        state.finalize().into()
    }
}

/// Hashes the blocks of `source` and writes their digests at `target`.
fn hash_level(
    file: &File,
    hasher: &BlockHasher,
    source: Range<u64>,
    target: u64,
) -> io::Result<()> {
    let chunks = (source.end - source.start).div_ceil(CHUNK * BLOCK_SIZE);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; (CHUNK * BLOCK_SIZE) as usize];
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return Ok(());
            }
            let start = source.start + chunk * CHUNK * BLOCK_SIZE;
            let end = source.end.min(start + CHUNK * BLOCK_SIZE);
            let digests = hash_chunk(file, hasher, start..end, &mut buffer)?;
            file.write_all_at(&digests, target + chunk * CHUNK * DIGEST_SIZE as u64)?;
        }
    };
    let workers = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(16);
    let workers = workers
        .min(usize::try_from(chunks).unwrap_or(usize::MAX))
        .max(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let other = other
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a hashing thread died")));
            result = result.and(other);
        }
        result
    })
}

/// The digests of the blocks in `range`, one after the other. Holes are not read.
fn hash_chunk(
    file: &File,
    hasher: &BlockHasher,
    range: Range<u64>,
    buffer: &mut [u8],
) -> io::Result<Vec<u8>> {
    let blocks = (range.end - range.start) / BLOCK_SIZE;
    let mut digests = Vec::with_capacity(blocks as usize * DIGEST_SIZE);
    let mut at = range.start;
    while at < range.end {
        // A block with any data is read whole, whatever the unit of holes.
        let data = match next_data(file, at..range.end)? {
            Some(data) => {
                let start = data.start - (data.start - range.start) % BLOCK_SIZE;
                let end = range.start + (data.end - range.start).next_multiple_of(BLOCK_SIZE);
                start.max(at)..end.min(range.end)
            }
            None => range.end..range.end,
        };
        for _ in 0..(data.start - at) / BLOCK_SIZE {
            digests.extend_from_slice(&hasher.zero);
        }
        let bytes = &mut buffer[..(data.end - data.start) as usize];
        file.read_exact_at(bytes, data.start)?;
        for block in bytes.chunks(BLOCK_SIZE as usize) {
            digests.extend_from_slice(&hasher.digest(block));
        }
        at = data.end;
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_lie_root_first() {
        assert_eq!(levels(1), []);
        assert_eq!(levels(2), [(0, 1)]);
        assert_eq!(levels(128), [(0, 1)]);
        assert_eq!(levels(129), [(4096, 2), (0, 1)]);
        assert_eq!(levels(128 * 128 + 1), [(3 * 4096, 129), (4096, 2), (0, 1)]);
        assert_eq!(size(129), 3 * 4096);
    }

    #[test]
    fn holes_hash_as_the_zeros_that_they_are() {
        let sparse = tempfile::tempfile().unwrap();
        let dense = tempfile::tempfile().unwrap();
        let blocks = 700u64;
        let mut bytes = vec![0u8; (blocks * BLOCK_SIZE) as usize];
        for at in [5 * 4096 + 1, 300 * 4096, 699 * 4096 + 4095] {
            bytes[at] = 1;
            sparse.write_all_at(&[1], at as u64).unwrap();
        }
        dense.write_all_at(&bytes, 0).unwrap();
        let tree = blocks * BLOCK_SIZE;
        for file in [&sparse, &dense] {
            file.set_len(tree + size(blocks)).unwrap();
        }
        let salt = [3; 64];
        let root = write(&sparse, blocks, tree, &salt).unwrap();
        assert_eq!(root, write(&dense, blocks, tree, &salt).unwrap());
        let read = |file: &File| {
            let mut all = vec![0; size(blocks) as usize];
            file.read_exact_at(&mut all, tree).unwrap();
            all
        };
        assert_eq!(read(&sparse), read(&dense));
    }
}
