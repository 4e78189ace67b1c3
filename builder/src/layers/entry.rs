//! The entries of a layer, before they meet the layers below.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::Digest;

/// One file system object that a layer brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute guest path as bytes, without a trailing slash: `/usr/bin/redis-server`. Valid UTF-8 (checked; mkext4 takes text).
    pub path: String,
    /// Owner, mode and times.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
    /// Who brought it, for messages: `package webfs`, `files[0] www`.
    pub origin: String,
}

/// How the origin of everything that a package brings begins.
pub(crate) const PACKAGE_ORIGIN: &str = "package ";
/// How the origin of everything that the layer's `tar` brings begins.
pub(crate) const TAR_ORIGIN: &str = "tar ";
/// How the origin of everything that the layer's container brings begins.
pub(crate) const CONTAINER_ORIGIN: &str = "container ";

impl Entry {
    /// Whether a package brought it, and not one of the user's rules.
    #[must_use]
    pub fn is_of_package(&self) -> bool {
        self.origin.starts_with(PACKAGE_ORIGIN)
    }

    /// Whether an archive brought it, a package, the layer's `tar` or its container: the user's rules go before it.
    #[must_use]
    pub fn is_of_archive(&self) -> bool {
        self.is_of_package()
            || self.origin.starts_with(TAR_ORIGIN)
            || self.origin.starts_with(CONTAINER_ORIGIN)
    }
}

/// Ownership, permission and time of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and what it says.
    Symlink(String),
    /// Another name of the file at this guest path, of the same layer.
    Hardlink(String),
    /// A character device, major and minor. 0:0 is overlayfs' whiteout.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the bytes, where it is known before they are read; checked while they are.
    pub digest: Option<Digest>,
    /// Where they are.
    pub source: Source,
}

/// The place of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Small, generated.
    Bytes(Vec<u8>),
    /// A range of a blob of the store (an unpacked package's tar).
    Blob {
        /// The blob.
        digest: Digest,
        /// First byte.
        offset: u64,
    },
    /// Pieces of a blob with zeros between them and behind them (a sparse file of a tar).
    Sparse {
        /// The blob.
        digest: Digest,
        /// In order, without overlap, none of them empty or behind the end.
        pieces: Arc<[Piece]>,
    },
    /// A file of the user's; an error if it changes while it is read.
    Host(PathBuf),
    /// An inode of a file system that was read back; its reader alone opens it.
    Inode(u32),
}

/// A part of a sparse file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte in the file.
    pub at: u64,
    /// Its first byte in the blob.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}
