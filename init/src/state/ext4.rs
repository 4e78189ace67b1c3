//! Makes an empty ext4 with a journal: one block group, 128 MiB at most. The kernel makes
//! it as large as its partition once it is mounted, by the way that later growth takes too
//! ([`crate::sys::block::resize`]); so there is one way to be large, and it is always gone.
//!
//! Layout and checksums: kernel documentation, `filesystems/ext4`. Blocks of 4096 bytes:
//!
//! ```text
//! 0  superblock (at byte 1024)   3    inode bitmap      516  root folder
//! 1  group descriptor            4…   inodes            517  lost+found
//! 2  block bitmap                                       518… journal, quotas, then free
//! ```
//!
//! `meta_bg` keeps descriptors with their groups, so that growing needs no room reserved
//! for them. Quotas ([`super::quota`]) are a hidden inode and two features, only if the
//! image asked for some when the file system was made. All is written before the superblock, with a flush between: what was
//! interrupted has none, and cannot be mounted.

use std::io;

use slipform_init::contract::machine::STATE_NAME;

use super::{Blocks, quota};
use crate::crc::CASTAGNOLI;
use crate::early::gpt::ReadAt;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Blocks of a group: what one block of bitmap counts.
const GROUP: u32 = 32768;
const INODES: u32 = 8192;
const INODE_SIZE: u32 = 256;
const DESCRIPTOR: u32 = 1;
const BLOCK_BITMAP: u32 = 2;
const INODE_BITMAP: u32 = 3;
const INODE_TABLE: u32 = 4;
const ROOT: u32 = INODE_TABLE + INODES * INODE_SIZE / 4096;
const LOST_FOUND: u32 = ROOT + 1;
const JOURNAL: u32 = LOST_FOUND + 1;

const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;
const LOST_FOUND_INODE: u32 = 11;
const QUOTA_INODE: u32 = 12;

/// Smallest file system: what it needs itself, the smallest journal (1024 blocks), and
/// as much again.
pub(crate) const MIN_BYTES: u64 = 16 << 20;
/// Where the superblock lies, in bytes.
const SUPER_OFFSET: u64 = 1024;

/// What stands in front while it is being made; ext4 leaves these bytes to others.
pub(crate) const BEING_MADE: &[u8] = b"slipform: state is being made\n";

/// has_journal, ext_attr, dir_index.
const COMPAT: u32 = 0x4 | 0x8 | 0x20;
/// filetype, meta_bg, extents, 64bit, flex_bg.
const INCOMPAT: u32 = 0x2 | 0x10 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// quota, project.
const RO_COMPAT_QUOTA: u32 = 0x100 | 0x2000;

/// What makes a file system this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    /// UUID, in the order of its text.
    pub(crate) uuid: [u8; 16],
    /// Seed of the folders' hashes.
    pub(crate) hash_seed: [u8; 16],
    /// Seconds since 1970.
    pub(crate) now: u32,
    /// Folders can have quotas.
    pub(crate) quotas: bool,
}

/// Makes one in `bytes` bytes of `disk` from `offset` on, which must be at least
/// [`MIN_BYTES`]. Whatever file system was there is gone with the first write.
pub(crate) fn format(
    disk: &dyn Blocks,
    offset: u64,
    bytes: u64,
    identity: &Identity,
) -> io::Result<()> {
    if bytes < MIN_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let image = Image {
        blocks: u32::try_from(bytes / BLOCK).unwrap_or(GROUP).min(GROUP),
        journal: journal_blocks(bytes),
        identity,
    };
    let at = |block: u32| offset + u64::from(block) * BLOCK;
    // No superblock, no file system: first of all.
    let mut head = vec![0; BLOCK as usize];
    put(&mut head, 0, BEING_MADE);
    disk.write(&head, at(0))?;
    disk.flush()?;
    disk.zero(at(INODE_TABLE), u64::from(ROOT - INODE_TABLE) * BLOCK)?;
    // Blocks of an older journal must not look as if they were this one's.
    disk.zero(at(JOURNAL), u64::from(image.journal) * BLOCK)?;
    let (block_bitmap, inode_bitmap) = (image.block_bitmap(), image.inode_bitmap());
    disk.write(
        &image.descriptor(&block_bitmap, &inode_bitmap),
        at(DESCRIPTOR),
    )?;
    disk.write(&block_bitmap, at(BLOCK_BITMAP))?;
    disk.write(&inode_bitmap, at(INODE_BITMAP))?;
    disk.write(&image.inodes(), at(INODE_TABLE))?;
    let root = [
        (ROOT_INODE, "."),
        (ROOT_INODE, ".."),
        (LOST_FOUND_INODE, "lost+found"),
    ];
    disk.write(&image.folder(ROOT_INODE, &root), at(ROOT))?;
    let lost_found = [(LOST_FOUND_INODE, "."), (ROOT_INODE, "..")];
    disk.write(&image.folder(LOST_FOUND_INODE, &lost_found), at(LOST_FOUND))?;
    disk.write(&image.journal_superblock(), at(JOURNAL))?;
    if identity.quotas {
        disk.write(&quota::empty_file(), at(image.quota_start()))?;
    }
    disk.flush()?;
    disk.write(&image.superblock(), at(0))?;
    disk.flush()
}

/// What is on a disk that is to hold a state whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing at its ends, or what formatting left when it was cut.
    Blank,
    /// A file system of this label, in order or not.
    Ext4(String),
    /// Anything else.
    Foreign,
}

/// The label of a superblock's 1024 bytes, if they are one.
fn label_in(superblock: &[u8]) -> Option<String> {
    let label = superblock.get(0x78..0x88)?;
    let length = label.iter().position(|&byte| byte == 0);
    (superblock[0x38..0x3a] == [0x53, 0xef])
        .then(|| String::from_utf8_lossy(&label[..length.unwrap_or(16)]).into_owned())
}

/// The label of the file system on a device, if it is an ext4 (or 2, or 3).
pub(crate) fn label(disk: &dyn ReadAt) -> io::Result<Option<String>> {
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, SUPER_OFFSET)?;
    Ok(label_in(&superblock))
}

/// Looks at a disk of `bytes` bytes, 2 MiB at least.
pub(crate) fn content(disk: &dyn ReadAt, bytes: u64) -> io::Result<Content> {
    const END: usize = 1 << 20;
    let mut end = vec![0; END];
    disk.read_exact_at(&mut end, 0)?;
    if let Some(label) = label_in(&end[SUPER_OFFSET as usize..][..1024]) {
        return Ok(Content::Ext4(label));
    }
    if end.starts_with(BEING_MADE) {
        return Ok(Content::Blank);
    }
    let mut blank = end.iter().all(|&byte| byte == 0);
    disk.read_exact_at(&mut end, bytes.saturating_sub(END as u64))?;
    blank &= end.iter().all(|&byte| byte == 0);
    Ok(if blank {
        Content::Blank
    } else {
        Content::Foreign
    })
}

/// As mke2fs has it: by the size that the file system is to have, not the one it begins with.
fn journal_blocks(bytes: u64) -> u32 {
    match bytes >> 20 {
        0..=127 => 1024,
        128..=1023 => 4096,
        1024..=8191 => 8192,
        _ => 16384,
    }
}

struct Image<'a> {
    blocks: u32,
    journal: u32,
    identity: &'a Identity,
}

impl Image<'_> {
    fn quota_start(&self) -> u32 {
        JOURNAL + self.journal
    }

    fn used(&self) -> u32 {
        let quotas = u32::from(self.identity.quotas);
        self.quota_start() + quotas * quota::FILE_BLOCKS
    }

    fn last_inode(&self) -> u32 {
        if self.identity.quotas {
            QUOTA_INODE
        } else {
            LOST_FOUND_INODE
        }
    }

    fn seed(&self) -> u32 {
        crc32c(!0, &self.identity.uuid)
    }

    fn superblock(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let bytes = &mut block[SUPER_OFFSET as usize..][..1024];
        let quotas = self.identity.quotas;
        let longs = [
            (0x00, INODES),
            (0x04, self.blocks),
            (0x0c, self.blocks - self.used()),
            (0x10, INODES - self.last_inode()),
            (0x18, 2),
            (0x1c, 2),
            (0x20, GROUP),
            (0x24, GROUP),
            (0x28, INODES),
            (0x30, self.identity.now),
            (0x40, self.identity.now),
            (0x4c, 1),
            (0x54, LOST_FOUND_INODE),
            (0x5c, COMPAT),
            (0x60, INCOMPAT),
            (0x64, RO_COMPAT | if quotas { RO_COMPAT_QUOTA } else { 0 }),
            (0xe0, JOURNAL_INODE),
            // Mount options by default: user_xattr, acl.
            (0x100, 0xc),
            (0x108, self.identity.now),
            // Folders are hashed with signed letters.
            (0x160, 1),
            (0x268, LOST_FOUND_INODE),
            (0x26c, if quotas { QUOTA_INODE } else { 0 }),
        ];
        for (at, value) in longs {
            put(bytes, at, &value.to_le_bytes());
        }
        let shorts: [(usize, u16); 9] = [
            // Never checked by count of mounts.
            (0x36, 0xffff),
            (0x38, 0xef53),
            // Clean.
            (0x3a, 1),
            // An error makes it read-only.
            (0x3c, 2),
            (0x58, INODE_SIZE as u16),
            // Descriptors of 64 bytes.
            (0xfe, 64),
            (0x15c, 32),
            (0x15e, 32),
            // 16 groups are one flexible group; CRC-32C.
            (0x174, 0x0104),
        ];
        for (at, value) in shorts {
            put(bytes, at, &value.to_le_bytes());
        }
        put(bytes, 0x68, &self.identity.uuid);
        put(bytes, 0x78, STATE_NAME.as_bytes());
        put(bytes, 0xec, &self.identity.hash_seed);
        // Half MD4; the journal's inode is kept here as well.
        put(bytes, 0xfc, &[1, 1]);
        put(bytes, 0x10c, &extent(JOURNAL, self.journal));
        put(bytes, 0x14c, &(self.journal * 4096).to_le_bytes());
        let sum = crc32c(!0, &bytes[..0x3fc]);
        put(bytes, 0x3fc, &sum.to_le_bytes());
        block
    }

    fn descriptor(&self, block_bitmap: &[u8], inode_bitmap: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let bytes = &mut block[..64];
        let block_sum = crc32c(self.seed(), block_bitmap);
        let inode_sum = crc32c(self.seed(), &inode_bitmap[..INODES as usize / 8]);
        for (at, value) in [(0x0, BLOCK_BITMAP), (0x4, INODE_BITMAP), (0x8, INODE_TABLE)] {
            put(bytes, at, &value.to_le_bytes());
        }
        let free_inodes = (INODES - self.last_inode()) as u16;
        let shorts = [
            (0xc, (self.blocks - self.used()) as u16),
            (0xe, free_inodes),
            // Two folders; the table of inodes is zeroed.
            (0x10, 2),
            (0x12, 4),
            (0x18, block_sum as u16),
            (0x1a, inode_sum as u16),
            (0x1c, free_inodes),
            (0x38, (block_sum >> 16) as u16),
            (0x3a, (inode_sum >> 16) as u16),
        ];
        for (at, value) in shorts {
            put(bytes, at, &value.to_le_bytes());
        }
        let sum = crc32c(crc32c(self.seed(), &0u32.to_le_bytes()), bytes);
        put(bytes, 0x1e, &(sum as u16).to_le_bytes());
        block
    }

    fn block_bitmap(&self) -> Vec<u8> {
        bitmap(|bit| bit < self.used() || bit >= self.blocks)
    }

    fn inode_bitmap(&self) -> Vec<u8> {
        bitmap(|bit| !(self.last_inode()..INODES).contains(&bit))
    }

    /// The first block of the table of inodes.
    fn inodes(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let whole = |first, blocks| (extent(first, blocks), blocks, u64::from(blocks) * BLOCK);
        let quotas = whole(self.quota_start(), quota::FILE_BLOCKS);
        let inodes = [
            // Only init goes through the root: services see what is bound for them.
            (ROOT_INODE, 0o40700, 3, whole(ROOT, 1)),
            (JOURNAL_INODE, 0o100_600, 1, whole(JOURNAL, self.journal)),
            (LOST_FOUND_INODE, 0o40700, 2, whole(LOST_FOUND, 1)),
            (
                QUOTA_INODE,
                0o100_600,
                1,
                (quotas.0, quotas.1, quota::FILE_BYTES),
            ),
        ];
        let made = |inode: &u32| *inode <= self.last_inode();
        for (number, mode, links, (map, blocks, bytes)) in
            inodes.into_iter().filter(|(number, ..)| made(number))
        {
            let at = ((number - 1) * INODE_SIZE) as usize;
            let inode = &mut block[at..at + INODE_SIZE as usize];
            put(inode, 0x0, &(mode as u16).to_le_bytes());
            put(inode, 0x4, &(bytes as u32).to_le_bytes());
            // Access, change, modification; creation.
            for time in [0x8, 0xc, 0x10, 0x90] {
                put(inode, time, &self.identity.now.to_le_bytes());
            }
            put(inode, 0x1a, &(links as u16).to_le_bytes());
            put(inode, 0x1c, &(blocks * 8).to_le_bytes());
            // Mapped by extents; quotas are not to be changed but by the kernel.
            let immutable = u32::from(number == QUOTA_INODE) * 0x10;
            put(inode, 0x20, &(0x80000 | immutable).to_le_bytes());
            put(inode, 0x28, &map);
            put(inode, 0x80, &32u16.to_le_bytes());
            let sum = crc32c(self.inode_seed(number), inode);
            put(inode, 0x7c, &(sum as u16).to_le_bytes());
            put(inode, 0x82, &((sum >> 16) as u16).to_le_bytes());
        }
        block
    }

    /// Of generation 0.
    fn inode_seed(&self, inode: u32) -> u32 {
        crc32c(crc32c(self.seed(), &inode.to_le_bytes()), &[0; 4])
    }

    /// A folder's only block: entries, and a tail with the checksum.
    fn folder(&self, inode: u32, entries: &[(u32, &str)]) -> Vec<u8> {
        const TAIL: usize = BLOCK as usize - 12;
        let mut block = vec![0; BLOCK as usize];
        let mut at = 0;
        for (index, (target, name)) in entries.iter().enumerate() {
            let last = index + 1 == entries.len();
            let length = if last {
                TAIL - at
            } else {
                (8 + name.len()).next_multiple_of(4)
            };
            put(&mut block, at, &target.to_le_bytes());
            put(&mut block, at + 4, &(length as u16).to_le_bytes());
            // A folder.
            put(&mut block, at + 6, &[name.len() as u8, 2]);
            put(&mut block, at + 8, name.as_bytes());
            at += length;
        }
        put(&mut block, TAIL + 4, &[12, 0, 0, 0xde]);
        let sum = crc32c(self.inode_seed(inode), &block[..TAIL]);
        put(&mut block, TAIL + 8, &sum.to_le_bytes());
        block
    }

    /// Version 2, empty, big-endian (`struct journal_superblock_s`). The kernel adds its
    /// checksums when it mounts.
    fn journal_superblock(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        for (at, value) in [
            (0x0, 0xc03b_3998),
            (0x4, 4),
            (0xc, BLOCK as u32),
            (0x10, self.journal),
            (0x14, 1),
            (0x18, 1),
            (0x40, 1),
        ] {
            put(&mut block, at, &u32::to_be_bytes(value));
        }
        put(&mut block, 0x30, &self.identity.uuid);
        block
    }
}

/// An inode's map: a header and one extent from logical block 0.
fn extent(start: u32, blocks: u32) -> [u8; 60] {
    let mut map = [0; 60];
    for (at, value) in [(0, 0xf30a_u16), (2, 1), (4, 4), (16, blocks as u16)] {
        put(&mut map, at, &value.to_le_bytes());
    }
    put(&mut map, 20, &start.to_le_bytes());
    map
}

/// A block of bits.
fn bitmap(is_set: impl Fn(u32) -> bool) -> Vec<u8> {
    let byte = |index: u32| {
        (0..8).fold(0, |byte, bit| {
            byte | u8::from(is_set(8 * index + bit)) << bit
        })
    };
    (0..BLOCK as u32).map(byte).collect()
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC-32C without the last inversion, as the kernel's `crc32c`.
fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    CASTAGNOLI.update(start, bytes)
}

#[cfg(test)]
#[path = "ext4_tests.rs"]
mod tests;
