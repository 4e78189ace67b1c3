//! A layer: ext4 with blocks of 4096 bytes, a verity superblock behind it, and the
//! hash tree behind that (kernel documentation: filesystems/ext4 and
//! admin-guide/device-mapper/verity).

use super::SweepError;
use super::gpt::Partition;
use super::reads::Reads;
use super::region::{Guard, Region, Regions};
use super::seed::Random;
use super::source::{Source, number};

/// Of file system and tree.
const BLOCK: u64 = 4096;
/// Digests in a block of the tree.
const DIGESTS: u64 = BLOCK / 32;
/// More groups than a layer of a terabyte has.
const MAX_GROUPS: u64 = 8192;
/// How often a block is drawn until one fits.
const DRAWS: u32 = 4096;

struct Layout {
    blocks: u64,
    /// Blocks that hold tables, sorted.
    tables: Vec<(u64, u64)>,
    descriptors: u64,
    first_inodes: u64,
    used: Vec<u64>,
    free: Vec<u64>,
}

/// Adds the regions of a layer. `reads` is what an untouched boot read; `random`
/// chooses among the blocks of files.
pub(crate) fn regions(
    disk: &mut Source<'_>,
    layer: &str,
    partition: &Partition,
    reads: &Reads,
    random: &mut Random,
    out: &mut Regions,
) -> Result<(), SweepError> {
    let at = partition.offset;
    let layout = layout(disk, layer, partition)?;
    let mut add = |name: &str, guard: Guard, offset: u64, length: u64| {
        let name = format!("layer {layer}, {name}");
        out.add(Region::new(&name, guard, offset, length));
    };
    let verity = Guard::Verity;
    add("ext4 superblock", verity, at + 1024, 1024);
    let descriptors = layout.descriptors;
    add("group descriptors", verity, at + BLOCK, descriptors);
    let inodes = at + layout.first_inodes * BLOCK;
    add("inode table", verity, inodes, BLOCK);
    for (name, wanted) in [
        ("file data read at boot", true),
        ("file data not read at boot", false),
    ] {
        let fits = |block: u64| reads.covers(at + block * BLOCK) == wanted;
        if let Some(block) = draw(disk, at, &layout, random, fits)? {
            add(name, verity, at + block * BLOCK, BLOCK);
        }
    }
    if !layout.free.is_empty() {
        let chosen = random.below(layout.free.len() as u64);
        let block = layout.free[usize::try_from(chosen).unwrap_or(0)];
        add("unused block", verity, at + block * BLOCK, BLOCK);
    }
    let superblock = at + layout.blocks * BLOCK;
    add("verity superblock", Guard::Parameters, superblock, 512);
    let tree = superblock + BLOCK;
    let (leaves, total) = tree_blocks(layout.blocks);
    if total > leaves {
        add("hash tree, root block", verity, tree, BLOCK);
        let offset = tree + (total - leaves) * BLOCK;
        add("hash tree, leaves", verity, offset, leaves * BLOCK);
    } else {
        add("hash tree, its only block", verity, tree, leaves * BLOCK);
    }
    let behind = tree + total * BLOCK;
    let left = (at + partition.length).saturating_sub(behind);
    add("padding behind the hash tree", Guard::Nothing, behind, left);
    Ok(())
}

/// Blocks of the leaves' level, and of all levels.
fn tree_blocks(data: u64) -> (u64, u64) {
    let (mut level, mut total, mut leaves) = (data, 0, 0);
    while level > 1 {
        level = level.div_ceil(DIGESTS);
        if leaves == 0 {
            leaves = level;
        }
        total += level;
    }
    (leaves, total)
}

/// A block of a file that fits and is not all zero.
fn draw(
    disk: &mut Source<'_>,
    at: u64,
    layout: &Layout,
    random: &mut Random,
    fits: impl Fn(u64) -> bool,
) -> Result<Option<u64>, SweepError> {
    let fitting: Vec<u64> = layout.used.iter().copied().filter(|&b| fits(b)).collect();
    if fitting.is_empty() {
        return Ok(None);
    }
    for _ in 0..DRAWS {
        let chosen = random.below(fitting.len() as u64);
        let block = fitting[usize::try_from(chosen).unwrap_or(0)];
        let bytes = disk.read(at + block * BLOCK, BLOCK)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

fn layout(disk: &mut Source<'_>, layer: &str, partition: &Partition) -> Result<Layout, SweepError> {
    let wrong = |rule: &str| SweepError::structure(format!("the partition of layer {layer}"), rule);
    let at = partition.offset;
    let sb = disk.read(at + 1024, 1024)?;
    let wide = number::<4>(&sb, 96) & 0x80 != 0;
    let high = if wide { number::<4>(&sb, 0x150) } else { 0 };
    let blocks = number::<4>(&sb, 4) | high << 32;
    let size = if wide { number::<2>(&sb, 254) } else { 32 };
    let (per_group, inodes) = (number::<4>(&sb, 32), number::<4>(&sb, 40));
    let inode_size = number::<2>(&sb, 88);
    if number::<2>(&sb, 56) != 0xef53 || number::<4>(&sb, 24) != 2 {
        return Err(wrong("must be ext4 with blocks of 4096 bytes"));
    }
    let groups = blocks
        .checked_div(per_group)
        .map(|_| blocks.div_ceil(per_group));
    let groups = groups.filter(|groups| {
        (1..=MAX_GROUPS).contains(groups) && per_group <= 8 * BLOCK && (32..=1024).contains(&size)
    });
    let groups = groups.ok_or_else(|| wrong("must have groups of a usual size"))?;
    let in_partition = partition.length / BLOCK;
    if blocks >= in_partition {
        return Err(wrong("must have its hash tree behind its file system"));
    }
    let verity = disk.read(at + blocks * BLOCK, 80)?;
    if !verity.starts_with(b"verity\0\0") || number::<8>(&verity, 72) != blocks {
        return Err(wrong("must have a verity superblock of as many blocks"));
    }
    let descriptors = groups * size;
    let table = disk.read(at + BLOCK, descriptors)?;
    let inode_blocks = (inodes * inode_size).div_ceil(BLOCK);
    let mut layout = Layout {
        blocks,
        tables: vec![(0, 1 + descriptors.div_ceil(BLOCK))],
        descriptors,
        first_inodes: number::<4>(&table, 8),
        used: Vec::new(),
        free: Vec::new(),
    };
    let each: Vec<&[u8]> = table
        .chunks_exact(usize::try_from(size).unwrap_or(32))
        .collect();
    for (group, descriptor) in (0..).zip(&each) {
        let start = group * per_group;
        // Where a copy of superblock and descriptors may be.
        layout
            .tables
            .push((start, start + 1 + descriptors.div_ceil(BLOCK)));
        for field in [0, 4] {
            let block = number::<4>(descriptor, field);
            layout.tables.push((block, block + 1));
        }
        let block = number::<4>(descriptor, 8);
        layout.tables.push((block, block + inode_blocks));
    }
    for (group, descriptor) in (0..).zip(&each) {
        // BLOCK_UNINIT: the bitmap says nothing.
        if number::<2>(descriptor, 18) & 2 != 0 {
            continue;
        }
        let bitmap = number::<4>(descriptor, 0);
        if bitmap >= blocks {
            return Err(wrong("must have its bitmaps inside of it"));
        }
        let bitmap = disk.read(at + bitmap * BLOCK, BLOCK)?;
        let start = group * per_group;
        for block in start..(start + per_group).min(blocks) {
            let bit = usize::try_from(block - start).unwrap_or(0);
            let is_table = |(from, to): &(u64, u64)| (*from..*to).contains(&block);
            if bitmap[bit / 8] & (1 << (bit % 8)) == 0 {
                layout.free.push(block);
            } else if !layout.tables.iter().any(is_table) {
                layout.used.push(block);
            }
        }
    }
    if layout.first_inodes >= blocks {
        return Err(wrong("must have its inodes inside of it"));
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_the_tree_are_counted_as_verity_lays_them_out() {
        assert_eq!(tree_blocks(1), (0, 0));
        assert_eq!(tree_blocks(2), (1, 1));
        assert_eq!(tree_blocks(128), (1, 1));
        assert_eq!(tree_blocks(129), (2, 3));
        assert_eq!(tree_blocks(128 * 128 + 1), (129, 132));
    }
}
