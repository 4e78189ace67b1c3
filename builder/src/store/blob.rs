//! Blobs: put = temporary file, fsync, rename to the digest; read = verified.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::base::fs::{At, FsError, sync_folder};
use crate::base::{Digest, DigestWriter};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A blob that is not there.
    #[error("blob {0} is not in the store; run without --offline, or `slipform fetch`")]
    Missing(Digest),
    /// A blob whose bytes are not what its name says.
    #[error(
        "blob {name} in the store is damaged (its bytes have {found}); it was set aside, run again to make it anew"
    )]
    Damaged {
        /// The name.
        name: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Bytes that are not what was promised.
    #[error("{what} has digest {found}, but {expected} was expected")]
    Unexpected {
        /// What was being put.
        what: String,
        /// Promised.
        expected: Digest,
        /// Found.
        found: Digest,
    },
}

/// The store, open.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A blob on its way in: write, then [`BlobWriter::finish`]. Dropped before
/// that, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    sink: DigestWriter<tempfile::NamedTempFile>,
}

impl Store {
    /// Opens the store at `root`, making it if need be.
    ///
    /// # Errors
    /// [`StoreError::Fs`] when the folders cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        for folder in ["blobs/sha256", "steps", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).at("create", &folder)?;
        }
        Ok(Self { root })
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the store's own file system for temporary files.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where a blob lies, whether it is there or not.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there (its bytes are not read).
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let folder = self.tmp();
        let file = tempfile::Builder::new()
            .prefix("put-")
            .tempfile_in(&folder)
            .at("create a file in", &folder)?;
        Ok(BlobWriter {
            store: self,
            sink: DigestWriter::new(file),
        })
    }

    /// Puts bytes.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writer = self.writer()?;
        writer.write_all(bytes).at("write", self.tmp())?;
        writer.finish()
    }

    /// Takes over a finished temporary file (made in [`Store::tmp`]) whose digest the caller computed while it wrote it.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn adopt(&self, file: tempfile::NamedTempFile, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        file.as_file().sync_all().at("sync", file.path())?;
        file.persist(&path)
            .map_err(|e| e.error)
            .at("rename to", &path)?;
        sync_folder(&self.root.join("blobs/sha256"))?;
        Ok(())
    }

    /// Opens a blob for reading ranges. Its bytes are verified first, unless
    /// this process has verified or written it already.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Fs`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::Missing(*digest))
            }
            Err(error) => Err(error).at("open", path)?,
        }
    }

    /// Reads a whole small blob, verified.
    ///
    /// # Errors
    /// As [`Store::open_blob`].
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .read_to_end(&mut bytes)
            .at("read", self.path(digest))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::Damaged {
                name: *digest,
                found,
            });
        }
        Ok(bytes)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sink.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

impl BlobWriter<'_> {
    /// Names the blob by its digest, durably.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn finish(self) -> Result<Digest, StoreError> {
        let (digest, file) = self.sink.finish();
        self.store.adopt(file, &digest)?;
        Ok(digest)
    }

    /// As [`BlobWriter::finish`], but refuses bytes other than promised; `what` names them in the error.
    ///
    /// # Errors
    /// [`StoreError::Unexpected`] and nothing is kept; [`StoreError::Fs`].
    pub fn finish_as(self, expected: &Digest, what: &str) -> Result<(), StoreError> {
        let (found, file) = self.sink.finish();
        if found != *expected {
            return Err(StoreError::Unexpected {
                what: what.to_owned(),
                expected: *expected,
                found,
            });
        }
        self.store.adopt(file, expected)
    }
}
