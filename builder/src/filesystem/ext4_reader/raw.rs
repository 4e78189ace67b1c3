//! The structures of ext4 on disk, as far as a layer has them. Pure parsing.
//!
//! Source: Linux, Documentation/filesystems/ext4/{super,group_descr,inodes,ifork,attributes}.rst.

use std::collections::BTreeMap;
use std::io;

/// Bytes of a block; the only size that is read (and written).
pub(super) const BLOCK: usize = 4096;
/// Where the superblock lies.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
/// `EXT4_EXTENTS_FL`: the inode's blocks are told by an extent tree.
const EXTENTS_FLAG: u32 = 0x8_0000;
/// Incompatible features that are read: filetype, extents, 64bit, flex_bg, csum_seed.
const READABLE: u32 = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000;
const FEATURE_64BIT: u32 = 0x80;
/// Longest target that lies in the inode itself.
const FAST_LINK: u64 = 59;
const ATTRIBUTES_MAGIC: u32 = 0xEA02_0000;
const EXTENT_MAGIC: u16 = 0xF30A;

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The bytes at `at`, or zeros where the source ends before.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(part) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        array.copy_from_slice(part);
    }
    array
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// What a superblock says of a file system of blocks of 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4Superblock {
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks that nothing uses.
    pub free_blocks: u64,
    /// Inodes that there is room for.
    pub inodes: u32,
    /// Inodes that nothing uses.
    pub free_inodes: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) descriptor_size: u16,
    incompatible: u32,
}

impl Ext4Superblock {
    /// Reads the 1024 bytes at byte 1024; `None` for what is no ext4 with
    /// blocks of 4096 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8; 1024]) -> Option<Self> {
        let incompatible = u32_at(bytes, 0x60);
        let high = |at| match incompatible & FEATURE_64BIT {
            0 => 0,
            _ => u64::from(u32_at(bytes, at)) << 32,
        };
        let superblock = Self {
            blocks: u64::from(u32_at(bytes, 0x4)) | high(0x150),
            free_blocks: u64::from(u32_at(bytes, 0xC)) | high(0x158),
            inodes: u32_at(bytes, 0x0),
            free_inodes: u32_at(bytes, 0x10),
            inodes_per_group: u32_at(bytes, 0x28),
            inode_size: u16_at(bytes, 0x58),
            descriptor_size: match incompatible & FEATURE_64BIT {
                0 => 32,
                _ => u16_at(bytes, 0xFE),
            },
            incompatible,
        };
        let known = u16_at(bytes, 0x38) == 0xEF53 && u32_at(bytes, 0x18) == 2;
        (known && superblock.blocks < 1 << 48).then_some(superblock)
    }

    /// Whether the files can be read, `length` bytes being there.
    pub(super) fn check(&self, length: u64) -> io::Result<()> {
        let require = |holds: bool, field: &str, value: u64, rule: &str| {
            let text = || format!("ext4: {field} is {value:#x}, but must be {rule}");
            holds.then_some(()).ok_or_else(|| invalid(text()))
        };
        let features = u64::from(self.incompatible);
        let readable = self.incompatible & !READABLE == 0;
        let rule = "nothing but filetype, extents, 64bit, flex_bg and csum_seed";
        require(readable, "s_feature_incompat", features, rule)?;
        let whole = self.blocks * BLOCK as u64 <= length;
        require(whole, "s_blocks_count", self.blocks, "within the partition")?;
        let some = self.inodes_per_group > 0;
        require(some, "s_inodes_per_group", 0, "at least 1")?;
        let size = self.inode_size;
        let usual = size.is_power_of_two() && (128..=4096).contains(&size);
        let rule = "a power of two from 128 to 4096";
        require(usual, "s_inode_size", u64::from(size), rule)?;
        let size = self.descriptor_size;
        let usual = size.is_power_of_two() && (32..=1024).contains(&size);
        let rule = "a power of two from 32 to 1024";
        require(usual, "s_desc_size", u64::from(size), rule)
    }
}

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: i64,
    flags: u32,
    /// `i_block`: extent tree, device numbers or a short link's target.
    block: [u8; 60],
    /// Block with further attributes; 0 for none.
    pub(super) attributes: u64,
    /// Attributes within the inode, from their magic on.
    inside: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let half = |low, high| u32::from(u16_at(bytes, low)) | u32::from(u16_at(bytes, high)) << 16;
        let extra = match bytes.len() {
            0..=0x81 => 0,
            _ => usize::from(u16_at(bytes, 0x80)),
        };
        let epoch = match extra {
            0..12 => 0,
            _ => i64::from(u32_at(bytes, 0x88) & 3) << 32,
        };
        Self {
            mode: u32::from(u16_at(bytes, 0)),
            uid: half(0x2, 0x78),
            gid: half(0x18, 0x7A),
            size: u64::from(u32_at(bytes, 0x4)) | u64::from(u32_at(bytes, 0x6C)) << 32,
            mtime: i64::from(u32_at(bytes, 0x10).cast_signed()) + epoch,
            flags: u32_at(bytes, 0x20),
            block: array(bytes, 0x28),
            attributes: u64::from(u32_at(bytes, 0x68)) | u64::from(u16_at(bytes, 0x76)) << 32,
            inside: bytes.get(0x80 + extra..).unwrap_or_default().to_vec(),
        }
    }

    /// The root of the extent tree.
    pub(super) fn extents(&self) -> io::Result<&[u8]> {
        if self.flags & EXTENTS_FLAG == 0 {
            return Err(invalid(
                "ext4: an inode has no extents (ext2, or inline data)",
            ));
        }
        Ok(&self.block)
    }

    /// A link's target when it lies in the inode.
    pub(super) fn fast_target(&self) -> Option<&[u8]> {
        let short = self.size <= FAST_LINK && self.flags & EXTENTS_FLAG == 0;
        short.then(|| &self.block[..self.size as usize])
    }

    /// Major and minor number of a device (include/linux/kdev_t.h).
    pub(super) fn device(&self) -> (u32, u32) {
        match (u32_at(&self.block, 0), u32_at(&self.block, 4)) {
            (0, new) => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
            (old, _) => (old >> 8 & 0xff, old & 0xff),
        }
    }

    /// Adds the attributes within the inode.
    pub(super) fn attributes_inside(&self, into: &mut Attributes) -> io::Result<()> {
        if u32_at(&self.inside, 0) != ATTRIBUTES_MAGIC {
            return Ok(());
        }
        let area = &self.inside[4..];
        add_attributes(area, area, into)
    }
}

/// Extended attributes by full name.
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;

/// Adds the attributes of a block of their own.
pub(super) fn attributes_of_block(block: &[u8], into: &mut Attributes) -> io::Result<()> {
    if u32_at(block, 0) != ATTRIBUTES_MAGIC {
        return Err(invalid("ext4: a block of attributes has no magic"));
    }
    add_attributes(block.get(32..).unwrap_or_default(), block, into)
}

/// Adds the attributes of a list; offsets of values count from `base`'s start.
fn add_attributes(mut list: &[u8], base: &[u8], into: &mut Attributes) -> io::Result<()> {
    let outside = || invalid("ext4: an attribute leaves its block");
    while u32_at(list, 0) != 0 {
        let name_length = usize::from(list[0]);
        let prefix = match list[1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            _ => "system.",
        };
        if u32_at(list, 4) != 0 {
            return Err(invalid("ext4: an attribute lies in an inode of its own"));
        }
        let name = list.get(16..16 + name_length).ok_or_else(outside)?;
        let start = usize::from(u16_at(list, 2));
        let end = start.checked_add(u32_at(list, 8) as usize);
        let value = end
            .and_then(|end| base.get(start..end))
            .ok_or_else(outside)?;
        into.insert(format!("{prefix}{}", super::text(name)), value.to_vec());
        let next = (16 + name_length).next_multiple_of(4);
        list = list.get(next..).unwrap_or_default();
    }
    Ok(())
}

/// Blocks of a file that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block in the file.
    pub(super) logical: u64,
    /// First block in the file system; `None` where zeros are read.
    pub(super) physical: Option<u64>,
    pub(super) count: u64,
}

/// A node of an extent tree.
#[derive(Debug)]
pub(super) enum ExtentNode {
    Runs(Vec<Run>),
    /// Depth of the children, and their blocks.
    Children(u16, Vec<u64>),
}

impl ExtentNode {
    /// Reads a node, which must have the depth `expected` unless it is the root.
    pub(super) fn parse(node: &[u8], expected: Option<u16>) -> io::Result<Self> {
        let (entries, depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        let room = node.len().saturating_sub(12) / 12;
        let fits = u16_at(node, 0) == EXTENT_MAGIC
            && entries <= room
            && depth <= 5
            && expected.is_none_or(|expected| expected == depth);
        if !fits {
            return Err(invalid("ext4: a node of an extent tree is damaged"));
        }
        let entries = node[12..].chunks_exact(12).take(entries);
        if depth > 0 {
            let block =
                |entry: &[u8]| u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
            return Ok(Self::Children(depth - 1, entries.map(block).collect()));
        }
        let run = |entry: &[u8]| {
            let start = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
            // Above 32768: allocated, never written.
            let (count, written) = match u16_at(entry, 4) {
                count @ ..=32768 => (count, true),
                count => (count - 32768, false),
            };
            Run {
                logical: u64::from(u32_at(entry, 0)),
                physical: written.then_some(start),
                count: u64::from(count),
            }
        };
        Ok(Self::Runs(entries.map(run).collect()))
    }
}

/// The names in a block of a folder, with their inodes.
pub(super) fn names(block: &[u8]) -> io::Result<Vec<(u32, &[u8])>> {
    let mut names = Vec::new();
    let mut at = 0;
    // Hashed folders hide their index in entries without an inode.
    while at + 8 <= block.len() {
        let length = usize::from(u16_at(block, at + 4));
        let name_length = usize::from(block[at + 6]);
        let whole = length >= 8 + name_length && at + length <= block.len() && length % 4 == 0;
        if !whole {
            return Err(invalid("ext4: a folder's entry leaves its block"));
        }
        let inode = u32_at(block, at);
        let name = &block[at + 8..at + 8 + name_length];
        if inode != 0 && name != b"." && name != b".." {
            names.push((inode, name));
        }
        at += length;
    }
    Ok(names)
}
