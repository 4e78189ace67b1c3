//! One layer's tree as an ext4 image. The only file that knows `mkext4`.
//!
//! ```text
//! Tree -> declare every name and length -> probe at a generous size -> smallest size
//!      -> declare again -> metadata, then content file by file -> sparse temporary file
//! ```
//!
//! The image is a pure function of the tree, its content and the seed: UUID and
//! hash seed come from the seed, times from the tree and
//! [`EPOCH`], order from the tree's own order.
//!
//! Three things of `mkext4` 0.0.3 shape this file:
//! - It always makes `/lost+found` in the root, and no whiteout of that name
//!   can stand beside it. [`Ext4Options::root`] puts the tree into a folder of
//!   its own, so that an overlay of those folders never shows it.
//! - It always makes a journal, and Linux takes none below 1024 blocks
//!   (`JBD2_MIN_JOURNAL_BLOCKS`) while `mkext4` allows it a quarter of the
//!   image: 16 MiB, nearly all holes, is the smallest image.
//! - Sparse files must be declared before they are read. Instead, blocks of
//!   zeros become holes of the *image* when they are written: they cost no
//!   room in the store, no time in hashing and none in any output format.

use std::collections::HashMap;
use std::io::{self, Read};

use mkext4::{FsBuilder, InodeCount, InodeHandle, Options, ROOT, RegionSink, SpecialKind};
use tempfile::NamedTempFile;

use super::error::FilesystemError;
use super::limits::{check, cut};
use super::size;
use super::sparse::SparseWriter;
use crate::base::fs::{At, FsError};
use crate::base::{Digest, DigestWriter, EPOCH, guid};
use crate::layers::{Content, Kind, Meta};
use crate::store::{Store, fault};
use crate::tree::{Node, Tree};

/// Bytes in a block.
pub const BLOCK_SIZE: u64 = 4096;
/// Blocks of the journal, the fewest that Linux takes (fs/jbd2/journal.c).
const JOURNAL_BLOCKS: u32 = 1024;
/// The journal may take a quarter of the image at most (a rule of `mkext4`).
const MIN_BLOCKS: u64 = 4 * JOURNAL_BLOCKS as u64;
/// Inodes 1 to 10 are reserved, 11 is lost+found.
const RESERVED_INODES: u64 = 11;

/// Opens a file's content for one reading from the start.
pub type OpenContent<'a> = dyn Fn(&Content) -> io::Result<Box<dyn Read>> + 'a;

/// What an image is made from besides its tree.
#[derive(Debug, Clone)]
pub struct Ext4Options<'a> {
    /// UUID and hash seed are drawn from it.
    pub seed: Digest,
    /// Volume label, at most 16 bytes (longer ones are cut at a character).
    pub label: &'a str,
    /// Folder (one name) that the tree is put into; empty for the root of the
    /// file system itself. With a folder, `lost+found` stays outside of what is stacked.
    pub root: &'a str,
}

/// A finished, unsealed file system in a temporary file of the store.
#[derive(Debug)]
pub struct FsImage {
    /// The image; dropped, it is gone.
    pub file: NamedTempFile,
    /// Length in bytes, a multiple of [`BLOCK_SIZE`].
    pub size: u64,
    /// Name of the file system for mount(2).
    pub filesystem: &'static str,
}

/// Writes `tree` as an ext4 image into a temporary file of `store`. `open` is
/// called once for each file that is not empty, in the order of the tree.
///
/// # Errors
/// [`FilesystemError`] naming the path that cannot be held or read, or what the
/// system refused; nothing is left behind.
pub fn write(
    store: &Store,
    tree: &Tree,
    options: &Ext4Options<'_>,
    open: &OpenContent<'_>,
) -> Result<FsImage, FilesystemError> {
    check(tree)?;
    let (layout, files) = plan(tree, options)?;
    let size = layout.image_len();
    let file = store.temp()?;
    let fail = |error: FsError| FilesystemError::Store(error.into());
    file.as_file()
        .set_len(size)
        .at("set the length of", file.path())
        .map_err(fail)?;
    let mut sink = FileSink {
        writer: SparseWriter::new(file.as_file()),
        failed: None,
    };
    let written = write_files(&layout, &mut sink, files, open);
    if let Some(error) = sink.failed.take() {
        return Err(error).at("write", file.path()).map_err(fail);
    }
    written?;
    let flushed = sink.writer.flush();
    flushed.at("write", file.path()).map_err(fail)?;
    Ok(FsImage {
        file,
        size,
        filesystem: "ext4",
    })
}

/// Lays the image out into `sink` and fills in the files' content.
fn write_files(
    layout: &mkext4::build::Layout,
    sink: &mut FileSink<'_>,
    files: Vec<File<'_>>,
    open: &OpenContent<'_>,
) -> Result<(), FilesystemError> {
    let refused = |error: mkext4::Error| FilesystemError::Layout {
        blocks: layout.image_len() / BLOCK_SIZE,
        reason: error.to_string(),
    };
    let mut writer = layout.writer(sink).map_err(refused)?;
    for (path, content, handle) in files {
        fill(&mut writer, path, content, handle, open)?;
    }
    writer.finish().map_err(refused)?;
    Ok(())
}

/// Copies one file's content to its place and checks length and digest.
fn fill<S: RegionSink>(
    writer: &mut mkext4::build::ImageWriter<'_, S>,
    path: &str,
    content: &Content,
    handle: InodeHandle,
    open: &OpenContent<'_>,
) -> Result<(), FilesystemError> {
    let failed = |source| FilesystemError::Content {
        path: path.to_owned(),
        source,
    };
    let reader = open(content).map_err(failed)?;
    let mut counted = Checked {
        reader,
        hasher: content.digest.map(|_| DigestWriter::new(io::sink())),
        length: 0,
        failed: None,
    };
    if content.size > 0 {
        let filled = writer.fill(handle, &mut counted);
        if let Some(source) = counted.failed.take() {
            return Err(failed(source));
        }
        if counted.length < content.size {
            return Err(FilesystemError::Length {
                path: path.to_owned(),
                expected: content.size,
                found: "shorter",
            });
        }
        filled.map_err(|error| failed(io::Error::other(error.to_string())))?;
    }
    if counted.reader.read(&mut [0]).map_err(failed)? != 0 {
        return Err(FilesystemError::Length {
            path: path.to_owned(),
            expected: content.size,
            found: "longer",
        });
    }
    match (content.digest, counted.hasher) {
        (Some(expected), Some(hasher)) => {
            let (found, _) = hasher.finish();
            if found != expected {
                return Err(FilesystemError::Digest {
                    path: path.to_owned(),
                    expected,
                    found,
                });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Counts and digests what is read, and keeps the first error, which `mkext4`
/// would otherwise turn into a text of its own.
struct Checked {
    reader: Box<dyn Read>,
    hasher: Option<DigestWriter<io::Sink>>,
    length: u64,
    failed: Option<io::Error>,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(read) => {
                    self.length += read as u64;
                    if let Some(hasher) = &mut self.hasher {
                        io::Write::write_all(hasher, &buffer[..read])?;
                    }
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let copy = io::Error::from(error.kind());
                    self.failed = Some(error);
                    return Err(copy);
                }
            }
        }
    }
}

/// The layout of the smallest image that holds the tree.
fn plan<'t>(
    tree: &'t Tree,
    options: &Ext4Options<'_>,
) -> Result<(mkext4::build::Layout, Vec<File<'t>>), FilesystemError> {
    let inodes = RESERVED_INODES
        + u64::from(!options.root.is_empty())
        + tree
            .nodes
            .values()
            .filter(|node| !matches!(node.kind, Kind::Hardlink(_)))
            .count() as u64;
    let generous = size::smallest(estimate(tree), inodes, MIN_BLOCKS);
    let probe = match seal(tree, options, generous, inodes) {
        Ok((layout, _)) => layout,
        Err(error) => return Err(blame(tree, options).unwrap_or(error)),
    };
    let payload = used_blocks(&probe)?.saturating_sub(size::overhead(generous, inodes));
    drop(probe);
    // A group boundary more or less can cost a block of an extent tree: the
    // writer has the last word, and a few blocks more are tried if it says no.
    let mut blocks = size::smallest(payload, inodes, MIN_BLOCKS).min(generous);
    let mut step = 1;
    loop {
        match seal(tree, options, blocks, inodes) {
            Ok(done) => return Ok(done),
            Err(error) if blocks >= generous => return Err(error),
            Err(_) => blocks = size::round_last_group(blocks + step).min(generous),
        }
        step *= 2;
    }
}

/// Blocks that are certainly enough for what the tree holds.
fn estimate(tree: &Tree) -> u64 {
    let content: u64 = tree
        .nodes
        .iter()
        .map(|(path, node)| {
            let data = match &node.kind {
                // Extent blocks: 340 extents of at most 32768 blocks each.
                Kind::File(content) => content.size.div_ceil(BLOCK_SIZE) + 1 + (content.size >> 32),
                Kind::Directory => 2,
                Kind::Symlink(_) => 1,
                _ => 0,
            };
            // Names: entries of 8 bytes and the name, in blocks at least half full.
            data + u64::from(!node.meta.xattrs.is_empty()) + (path.len() as u64 + 16) / 1024
        })
        .sum();
    let names: u64 = tree
        .nodes
        .keys()
        .map(|path| path.len().min(263) as u64 + 12)
        .sum();
    u64::from(JOURNAL_BLOCKS) + 64 + content + content / 256 + names / 1024
}

/// Blocks in use, as the superblock of a sealed layout tells
/// (`s_blocks_count_lo` at 0x4, `s_free_blocks_count_lo` at 0xC).
fn used_blocks(layout: &mkext4::build::Layout) -> Result<u64, FilesystemError> {
    let mut sink = FirstBlock(Vec::new());
    let emitted = layout.writer(&mut sink).map(drop);
    let field = |at: usize| {
        let bytes = sink.0.get(1024 + at..1024 + at + 4)?;
        Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
    };
    match (emitted, field(0x4), field(0xC)) {
        (Ok(()), Some(blocks), Some(free)) => Ok(blocks.saturating_sub(free)),
        (emitted, ..) => Err(FilesystemError::Layout {
            blocks: layout.image_len() / BLOCK_SIZE,
            reason: emitted.err().map_or_else(
                || "the writer emitted no superblock".to_owned(),
                |error| error.to_string(),
            ),
        }),
    }
}

/// A file with content: guest path, content, handle.
type File<'t> = (&'t str, &'t Content, InodeHandle);

/// Declares the tree and freezes it at a size of `blocks`.
fn seal<'t>(
    tree: &'t Tree,
    options: &Ext4Options<'_>,
    blocks: u64,
    inodes: u64,
) -> Result<(mkext4::build::Layout, Vec<File<'t>>), FilesystemError> {
    let refused = |error: mkext4::Error| FilesystemError::Layout {
        blocks,
        reason: error.to_string(),
    };
    let uuid = guid::derive(&options.seed, "ext4 uuid");
    let hash_seed = guid::derive(&options.seed, "ext4 hash seed");
    let mut settings = Options::new(blocks * BLOCK_SIZE, *uuid.as_bytes(), EPOCH);
    for (word, bytes) in settings
        .hash_seed
        .iter_mut()
        .zip(hash_seed.as_bytes().chunks(4))
    {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    settings.label = Some(cut(options.label, 16).to_owned());
    settings.inodes = InodeCount::Exact(u32::try_from(inodes).unwrap_or(u32::MAX));
    settings.reserved_percent = 0;
    settings.journal_blocks = Some(JOURNAL_BLOCKS);
    let mut builder = FsBuilder::new(settings).map_err(refused)?;
    let files = declare(&mut builder, tree, options.root)?;
    Ok((builder.seal().map_err(refused)?, files))
}

/// Declares every node: first what has an inode of its own, in the tree's
/// order, then the further names.
fn declare<'t>(
    builder: &mut FsBuilder,
    tree: &'t Tree,
    root: &str,
) -> Result<Vec<File<'t>>, FilesystemError> {
    let mut handles: HashMap<&str, InodeHandle> = HashMap::with_capacity(tree.nodes.len());
    let mut files = Vec::new();
    let top = if root.is_empty() {
        ROOT
    } else {
        let meta = mkext4::Meta::new(0o755, 0, 0, (EPOCH, 0));
        builder
            .mkdir(ROOT, root, meta)
            .map_err(|error| refused_path(root, &error))?
    };
    handles.insert("", top);
    for (path, node) in &tree.nodes {
        if matches!(node.kind, Kind::Hardlink(_)) || (root.is_empty() && path == "lost+found") {
            continue;
        }
        let handle = if path.is_empty() {
            builder.set_meta(top, meta(&node.meta)).map(|()| top)
        } else {
            let (parent, name) = split(path, &handles)?;
            declare_node(builder, parent, name, node)
        }
        .map_err(|error| refused_path(path, &error))?;
        for (name, value) in &node.meta.xattrs {
            builder
                .set_xattr(handle, name, value)
                .map_err(|error| refused_path(path, &error))?;
        }
        if let Kind::File(content) = &node.kind {
            files.push((path.as_str(), content, handle));
        }
        handles.insert(path, handle);
    }
    for (path, node) in &tree.nodes {
        if let Kind::Hardlink(target) = &node.kind {
            let (parent, name) = split(path, &handles)?;
            let target = *handles.get(target.as_str()).ok_or_else(|| {
                broken(path, format!("it is a hard link to /{target}, which is not a file of this layer; link to a file of the same layer"))
            })?;
            builder
                .hardlink(parent, name, target)
                .map_err(|error| refused_path(path, &error))?;
        }
    }
    Ok(files)
}

/// Declares one node that has an inode of its own.
fn declare_node(
    builder: &mut FsBuilder,
    parent: InodeHandle,
    name: &str,
    node: &Node,
) -> mkext4::Result<InodeHandle> {
    let meta = meta(&node.meta);
    match &node.kind {
        Kind::Directory => builder.mkdir(parent, name, meta),
        Kind::File(content) => builder.file(parent, name, meta, content.size),
        Kind::Symlink(target) => builder.symlink(parent, name, target, meta),
        Kind::CharDevice(major, minor) => {
            let (major, minor) = (*major, *minor);
            builder.mknod(parent, name, meta, SpecialKind::Char { major, minor })
        }
        Kind::BlockDevice(major, minor) => {
            let (major, minor) = (*major, *minor);
            builder.mknod(parent, name, meta, SpecialKind::Block { major, minor })
        }
        Kind::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo),
        Kind::Socket => builder.mknod(parent, name, meta, SpecialKind::Socket),
        Kind::Hardlink(_) => Err(mkext4::Error::Invalid("a hard link has no inode".into())),
    }
}

fn meta(meta: &Meta) -> mkext4::Meta {
    mkext4::Meta::new(
        (meta.mode & 0o7777) as u16,
        meta.uid,
        meta.gid,
        (meta.mtime, 0),
    )
}

/// The parent's handle and the name of `path`.
fn split<'p>(
    path: &'p str,
    handles: &HashMap<&str, InodeHandle>,
) -> Result<(InodeHandle, &'p str), FilesystemError> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = handles.get(parent).ok_or_else(|| {
        broken(
            path,
            format!("its parent /{parent} is not in the layer's tree"),
        )
    })?;
    Ok((*parent, name))
}

/// The node whose attributes alone are already too much, found by trying each:
/// only after the whole was refused, because the writer names no path.
fn blame(tree: &Tree, options: &Ext4Options<'_>) -> Option<FilesystemError> {
    tree.nodes
        .iter()
        .filter(|(_, node)| !node.meta.xattrs.is_empty())
        .find_map(|(path, node)| {
            let mut alone = Tree::default();
            let kind = Kind::Directory;
            let meta = node.meta.clone();
            alone.nodes.insert(String::new(), Node { meta, kind });
            let error = seal(&alone, options, MIN_BLOCKS, 64).err()?;
            Some(broken(
                path,
                format!("{error}; give it fewer or shorter extended attributes"),
            ))
        })
}

fn refused_path(path: &str, error: &mkext4::Error) -> FilesystemError {
    broken(path, error.to_string())
}

fn broken(path: &str, rule: String) -> FilesystemError {
    FilesystemError::Path {
        path: path.to_owned(),
        format: "ext4",
        rule,
    }
}

/// Writes into a sparse file.
struct FileSink<'a> {
    writer: SparseWriter<'a>,
    /// The first failure, which `mkext4` would turn into a text of its own.
    failed: Option<io::Error>,
}

impl RegionSink for FileSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        fault::point();
        self.writer.write(offset, bytes).map_err(|error| {
            let told = io::Error::from(error.kind());
            self.failed.get_or_insert(error);
            told
        })
    }
    fn zeros(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the image's first block, which holds the superblock.
struct FirstBlock(Vec<u8>);

impl RegionSink for FirstBlock {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.0 = bytes.to_vec();
        }
        Ok(())
    }
    fn zeros(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}
