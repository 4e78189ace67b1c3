//! Reads a layer's ext4 back: its tree, and the content of single files.
//!
//! The image may be anyone's. Every length is checked, a [`Budget`] bounds
//! blocks, names and bytes whatever the image says, and nothing is read but what
//! is asked for. Checksums are left to dm-verity, which the machine reads through.
//!
//! `ext4-view`, which the tests judge this by, tells neither extended attributes
//! nor device numbers: without them there are no whiteouts and no opaque folders.

mod raw;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

use crate::layers::{Content, Kind, Meta, Source};
use crate::tree::{Node, Tree};

pub use raw::Ext4Superblock;
use raw::{Attributes, BLOCK, ExtentNode, Inode, Run, invalid};

/// The inode of the root folder.
const ROOT: u32 = 2;
/// `NAME_MAX`.
const NAME_MAX: usize = 255;
/// `PATH_MAX`.
const PATH_MAX: u64 = 4096;
/// Most runs of one file.
const MAX_RUNS: usize = 1 << 20;
/// Blocks of metadata that are kept: neighbours hold neighbouring inodes.
const CACHED: usize = 256;

/// What reading trees may take altogether.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Files, folders, links and the like.
    pub nodes: u64,
    /// Bytes of their paths, targets and attributes.
    pub bytes: u64,
    /// Blocks of folders, extent trees and attributes.
    pub blocks: u64,
}

impl Default for Budget {
    /// Enough for a stack of layers with every package of a desktop.
    fn default() -> Self {
        Self {
            nodes: 2_000_000,
            bytes: 256 << 20,
            blocks: 2_000_000,
        }
    }
}

impl Budget {
    fn take(left: &mut u64, count: u64, what: &str) -> io::Result<()> {
        *left = left.checked_sub(count).ok_or_else(|| {
            invalid(format!(
                "ext4: there are more {what} than any real layer has"
            ))
        })?;
        Ok(())
    }
}

/// An ext4 file system with blocks of 4096 bytes in `source`.
#[derive(Debug)]
pub struct Ext4Reader<R> {
    source: R,
    superblock: Ext4Superblock,
    cache: HashMap<u64, Box<[u8; BLOCK]>>,
}

impl<R: Read + Seek> Ext4Reader<R> {
    /// Opens the file system that starts at `source`'s first byte.
    ///
    /// # Errors
    /// [`io::Error`] of the source, or of kind `InvalidData` naming what cannot be read here.
    pub fn open(mut source: R) -> io::Result<Self> {
        let length = source.seek(SeekFrom::End(0))?;
        let mut bytes = [0; 1024];
        source.seek(SeekFrom::Start(raw::SUPERBLOCK_AT))?;
        source.read_exact(&mut bytes)?;
        let superblock = Ext4Superblock::parse(&bytes)
            .ok_or_else(|| invalid("there is no ext4 with blocks of 4096 bytes"))?;
        superblock.check(length)?;
        Ok(Self {
            source,
            superblock,
            cache: HashMap::new(),
        })
    }

    /// Everything in the folder `root` (one name; empty for the file system's
    /// own root), with that folder as the tree's root. A file's content is
    /// [`Source::Inode`]; further names of a file are files, too. Names that are
    /// no UTF-8 have `\xNN` in the place of what is none.
    ///
    /// # Errors
    /// As [`Ext4Reader::open`]; of kind `InvalidData`, too, when `budget` is spent.
    pub fn tree(&mut self, root: &str, budget: &mut Budget) -> io::Result<Tree> {
        let mut top = ROOT;
        if !root.is_empty() {
            let folder = self.inode(ROOT)?;
            let entries = self.folder(&folder, budget)?;
            let found = entries.into_iter().find(|(_, name)| name == root);
            let missing = || invalid(format!("ext4: there is no folder '{root}'"));
            top = found.ok_or_else(missing)?.0;
        }
        let mut tree = Tree::default();
        let mut seen = HashSet::new();
        let mut folders = vec![(String::new(), self.add("", top, &mut tree, budget)?)];
        seen.insert(top);
        while let Some((path, folder)) = folders.pop() {
            let Some(folder) = folder else { continue };
            for (number, name) in self.folder(&folder, budget)? {
                let path = match path.as_str() {
                    "" => name,
                    path => format!("{path}/{name}"),
                };
                if path.len() as u64 >= PATH_MAX {
                    return Err(invalid("ext4: a path is longer than Linux takes"));
                }
                let folder = self.add(&path, number, &mut tree, budget)?;
                if folder.is_some() {
                    if !seen.insert(number) {
                        return Err(invalid(format!("ext4: folder '{path}' has two names")));
                    }
                    folders.push((path, folder));
                }
            }
        }
        match tree.nodes.get("").map(|node| &node.kind) {
            Some(Kind::Directory) => Ok(tree),
            _ => Err(invalid("ext4: the root is no folder")),
        }
    }

    /// Reads the file of the inode `number`, which [`Ext4Reader::tree`] found.
    ///
    /// # Errors
    /// As [`Ext4Reader::open`].
    pub fn content(&mut self, number: u32, budget: &mut Budget) -> io::Result<FileReader<'_, R>> {
        let inode = self.inode(number)?;
        let runs = match inode.size {
            0 => Vec::new(),
            _ => self.runs(&inode, budget)?,
        };
        Ok(FileReader {
            source: &mut self.source,
            runs,
            size: inode.size,
            at: 0,
        })
    }

    /// Adds the node of inode `number`; returns the inode of a folder.
    fn add(
        &mut self,
        path: &str,
        number: u32,
        tree: &mut Tree,
        budget: &mut Budget,
    ) -> io::Result<Option<Inode>> {
        let inode = self.inode(number)?;
        let (major, minor) = inode.device();
        let kind = match inode.mode & 0xf000 {
            0x1000 => Kind::Fifo,
            0x2000 => Kind::CharDevice(major, minor),
            0x4000 => Kind::Directory,
            0x6000 => Kind::BlockDevice(major, minor),
            0x8000 => Kind::File(self.file(number, &inode)?),
            0xa000 => Kind::Symlink(self.target(&inode, budget)?),
            0xc000 => Kind::Socket,
            mode => return Err(invalid(format!("ext4: '{path}' has the mode {mode:#o}"))),
        };
        let mut xattrs = Attributes::new();
        inode.attributes_inside(&mut xattrs)?;
        if inode.attributes != 0 {
            let block = self.charged(inode.attributes, budget)?;
            raw::attributes_of_block(&block[..], &mut xattrs)?;
        }
        let target = match &kind {
            Kind::Symlink(target) => target.len(),
            _ => 0,
        };
        let attributes: usize = xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        Budget::take(&mut budget.nodes, 1, "files")?;
        let bytes = path.len() + target + attributes;
        Budget::take(&mut budget.bytes, bytes as u64, "names and attributes")?;
        let folder = kind == Kind::Directory;
        let meta = Meta {
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs,
        };
        tree.nodes.insert(path.to_owned(), Node { meta, kind });
        Ok(folder.then_some(inode))
    }

    /// Slipform writes no sparse files: what is larger than the file system is a lie.
    fn file(&self, number: u32, inode: &Inode) -> io::Result<Content> {
        if inode.size > self.superblock.blocks * BLOCK as u64 {
            return Err(invalid("ext4: a file is larger than the file system"));
        }
        Ok(Content {
            size: inode.size,
            digest: None,
            source: Source::Inode(number),
        })
    }

    fn target(&mut self, inode: &Inode, budget: &mut Budget) -> io::Result<String> {
        if let Some(target) = inode.fast_target() {
            return Ok(text(target));
        }
        if inode.size >= PATH_MAX {
            return Err(invalid("ext4: a link's target is longer than Linux takes"));
        }
        let runs = self.runs(inode, budget)?;
        let first = runs.iter().find(|run| run.logical == 0);
        let Some(block) = first.and_then(|run| run.physical) else {
            return Err(invalid("ext4: a link has no target"));
        };
        let block = self.charged(block, budget)?;
        Ok(text(&block[..inode.size as usize]))
    }

    /// Inodes and names in a folder.
    fn folder(&mut self, inode: &Inode, budget: &mut Budget) -> io::Result<Vec<(u32, String)>> {
        let mut found = BTreeMap::new();
        let blocks = inode.size.div_ceil(BLOCK as u64);
        for run in self.runs(inode, budget)? {
            let count = run.count.min(blocks.saturating_sub(run.logical));
            let Some(start) = run.physical else { continue };
            for block in start..start.saturating_add(count) {
                let block = self.charged(block, budget)?;
                for (inode, name) in raw::names(&block[..])? {
                    let odd = name.is_empty() || name.contains(&b'/') || name.contains(&0);
                    if odd || name.len() > NAME_MAX {
                        return Err(invalid("ext4: a folder has a name that Linux takes not"));
                    }
                    found.insert(text(name), inode);
                }
                if found.len() as u64 > budget.nodes {
                    return Err(invalid("ext4: a folder has more files than any real one"));
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|(name, inode)| (inode, name))
            .collect())
    }

    /// All runs of a file, in order.
    fn runs(&mut self, inode: &Inode, budget: &mut Budget) -> io::Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut left = vec![ExtentNode::parse(inode.extents()?, None)?];
        while let Some(node) = left.pop() {
            match node {
                ExtentNode::Runs(more) => {
                    for run in more {
                        let next = runs.last().map_or(0, |last| last.logical + last.count);
                        if run.count == 0 || run.logical < next || runs.len() >= MAX_RUNS {
                            return Err(invalid(
                                "ext4: extents are empty, overlap or are too many",
                            ));
                        }
                        runs.push(run);
                    }
                }
                ExtentNode::Children(depth, blocks) => {
                    for block in blocks.into_iter().rev() {
                        let node = self.charged(block, budget)?;
                        left.push(ExtentNode::parse(&node[..], Some(depth))?);
                    }
                }
            }
        }
        Ok(runs)
    }

    fn inode(&mut self, number: u32) -> io::Result<Inode> {
        let index = number
            .checked_sub(1)
            .filter(|_| number <= self.superblock.inodes)
            .ok_or_else(|| invalid(format!("ext4: there is no inode {number}")))?;
        let group = u64::from(index / self.superblock.inodes_per_group);
        let index = u64::from(index % self.superblock.inodes_per_group);
        let size = usize::from(self.superblock.descriptor_size);
        // The descriptors follow the superblock's block.
        let (block, at) = split(BLOCK as u64 + group * size as u64);
        let descriptor = &self.block(block)?[at..at + size];
        let low = u64::from(raw::u32_at(descriptor, 0x8));
        let table = match size {
            32 => low,
            _ => low | u64::from(raw::u32_at(descriptor, 0x28)) << 32,
        };
        let size = usize::from(self.superblock.inode_size);
        let (block, at) = split(index * size as u64);
        let block = self.block(table.saturating_add(block))?;
        Ok(Inode::parse(&block[at..at + size]))
    }

    fn charged(&mut self, number: u64, budget: &mut Budget) -> io::Result<&[u8; BLOCK]> {
        Budget::take(&mut budget.blocks, 1, "blocks of metadata")?;
        self.block(number)
    }

    fn block(&mut self, number: u64) -> io::Result<&[u8; BLOCK]> {
        if number >= self.superblock.blocks {
            return Err(invalid(format!("ext4: there is no block {number:#x}")));
        }
        if self.cache.len() >= CACHED && !self.cache.contains_key(&number) {
            self.cache.clear();
        }
        match self.cache.entry(number) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let mut bytes = Box::new([0; BLOCK]);
                self.source.seek(SeekFrom::Start(number * BLOCK as u64))?;
                self.source.read_exact(&mut bytes[..])?;
                Ok(entry.insert(bytes))
            }
        }
    }
}

/// Block and byte in it. What is read there is a power of two and lies at a
/// multiple of itself, so that it never leaves the block.
fn split(at: u64) -> (u64, usize) {
    (at / BLOCK as u64, (at % BLOCK as u64) as usize)
}

/// Bytes as text; what is no UTF-8 becomes `\xNN`.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A file's bytes from the first to the last; holes are zeros.
#[derive(Debug)]
pub struct FileReader<'a, R> {
    source: &'a mut R,
    /// In order, without overlaps.
    runs: Vec<Run>,
    size: u64,
    at: u64,
}

impl<R: Read + Seek> Read for FileReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let block = BLOCK as u64;
        let at = self.at / block;
        let index = self
            .runs
            .partition_point(|run| run.logical + run.count <= at);
        let run = self.runs.get(index).copied();
        let (end, physical) = match run {
            Some(run) if run.logical <= at => {
                let shifted = run.physical.map(|start| start + (at - run.logical));
                (run.logical + run.count, shifted)
            }
            Some(run) => (run.logical, None),
            None => (u64::MAX / block, None),
        };
        let room = (end * block).min(self.size).saturating_sub(self.at);
        let length = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = &mut buffer[..length];
        if length > 0 {
            match physical {
                None => buffer.fill(0),
                Some(physical) => {
                    let from = physical * block + self.at % block;
                    self.source.seek(SeekFrom::Start(from))?;
                    self.source.read_exact(buffer)?;
                }
            }
        }
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
#[path = "../ext4_reader_tests.rs"]
mod tests;
