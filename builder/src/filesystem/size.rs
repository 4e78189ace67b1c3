//! How many blocks an ext4 file system needs: pure arithmetic over the
//! geometry that the writer lays out (4096-byte blocks, groups of 32768 blocks,
//! 256-byte inodes, `sparse_super`, 32-byte group descriptors).
//!
//! Source: Linux kernel, Documentation/filesystems/ext4/overview.rst and
//! blockgroup.rst. The result is a proposal that the writer itself confirms.

/// Blocks in a block group.
const GROUP: u64 = 32_768;
/// Inodes that one group's bitmap can count.
const INODES_PER_GROUP: u64 = 32_768;
/// Inodes of 256 bytes in a block.
const INODES_PER_BLOCK: u64 = 16;
/// A last group smaller than this is not worth its descriptors, and the writer
/// needs room for a superblock copy in it; mke2fs demands 50 beyond overhead.
const SMALLEST_LAST_GROUP: u64 = 64;

/// Blocks that can never hold content: superblock and its copies, group
/// descriptors, bitmaps and inode tables. The journal is not among them.
pub(super) fn overhead(blocks: u64, inodes: u64) -> u64 {
    let groups = blocks.div_ceil(GROUP);
    let descriptors = (groups * 32).div_ceil(4096);
    let copies = (1..groups).filter(|g| has_copy(*g)).count() as u64;
    let inodes_per_group = inodes
        .div_ceil(groups)
        .next_multiple_of(INODES_PER_BLOCK)
        .clamp(INODES_PER_BLOCK, INODES_PER_GROUP);
    (1 + copies) * (1 + descriptors) + groups * (2 + inodes_per_group / INODES_PER_BLOCK)
}

/// Whether group `g` holds a copy of the superblock: 1 and the powers of 3, 5 and 7.
fn has_copy(g: u64) -> bool {
    let power_of = |base: u64| {
        let mut n = g;
        while n.is_multiple_of(base) {
            n /= base;
        }
        n == 1
    };
    g == 1 || power_of(3) || power_of(5) || power_of(7)
}

/// The smallest size in blocks that holds `payload` blocks (content, folders,
/// journal) and `inodes`, at least `minimum`.
pub(super) fn smallest(payload: u64, inodes: u64, minimum: u64) -> u64 {
    let groups = inodes.div_ceil(INODES_PER_GROUP);
    let mut blocks = minimum.max(payload).max((groups.max(1) - 1) * GROUP + 1);
    loop {
        let needed = round_last_group(payload + overhead(blocks, inodes));
        if needed <= blocks {
            return round_last_group(blocks);
        }
        blocks = needed;
    }
}

/// `blocks`, or a little more, so that the last group is no mere stub.
pub(super) fn round_last_group(blocks: u64) -> u64 {
    let smallest = SMALLEST_LAST_GROUP + (blocks.div_ceil(GROUP) * 32).div_ceil(4096);
    match blocks % GROUP {
        0 => blocks,
        last if last < smallest => blocks - last + smallest,
        _ => blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_what_mke2fs_counts() {
        // Figures of mke2fs 1.47 without the journal: 512 MiB (131072 blocks,
        // 4 groups of 8192 inodes) and 64 GiB (512 groups).
        assert_eq!(overhead(131_072, 32_768), 6158 - 4096);
        assert_eq!(overhead(16_777_216, 4_194_304), 394_305 - 131_072);
    }

    #[test]
    fn the_result_fits_and_one_block_less_does_not() {
        for payload in [0, 1, 5000, 32_000, 32_700, 32_768, 65_536, 1_000_000] {
            for inodes in [12, 1000, 32_768, 40_000, 500_000] {
                let blocks = smallest(payload, inodes, 1);
                assert!(payload + overhead(blocks, inodes) <= blocks);
                let groups = blocks.div_ceil(GROUP);
                assert!(groups * INODES_PER_GROUP >= inodes, "{payload} {inodes}");
                assert!(blocks.is_multiple_of(GROUP) || blocks % GROUP >= SMALLEST_LAST_GROUP);
            }
        }
        assert_eq!(smallest(10, 12, 4096), 4096);
    }
}
