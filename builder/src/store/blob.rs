//! Blobs on their way in: temporary file, fsync, rename to the digest, fsync of the folder.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::error::is_full;
use super::read::Stamp;
use super::{StoreError, fault};
use crate::base::Digest;
use crate::base::fs::{At, sync_folder};

/// The layout file's content (image-spec, image-layout.md, "oci-layout file").
const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

/// Largest `oci-layout` file that is read.
const LAYOUT_LIMIT: u64 = 64 * 1024;

/// The store, open. Clones share what this process has verified already.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Blobs whose content this process has seen to be right, and the state of
    /// the file at that time.
    pub(super) verified: Arc<Mutex<HashMap<Digest, Stamp>>>,
    /// Blobs that this process found damaged.
    pub(super) damaged: Arc<Mutex<Vec<Digest>>>,
    /// Results of steps that this process found or recorded.
    pub(super) used: Arc<Mutex<BTreeSet<Digest>>>,
}

/// A blob on its way in: write, then [`BlobWriter::finish`]. Dropped before
/// that, it leaves nothing.
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: tempfile::NamedTempFile,
    hasher: Sha256,
    length: u64,
    /// Whether the file's end must still be moved to `length`, because it ends in a hole.
    ends_in_hole: bool,
}

impl std::fmt::Debug for BlobWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter")
            .field("file", &self.file.path())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `root`, making it if need be, and clears what killed
    /// processes left in `tmp`.
    ///
    /// # Errors
    /// [`StoreError::Fs`] when the folders cannot be made;
    /// [`StoreError::Malformed`] when an OCI layout of another version is there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let store = Self {
            root,
            verified: Arc::default(),
            damaged: Arc::default(),
            used: Arc::default(),
        };
        for folder in [
            "blobs/sha256",
            "steps",
            "subjects",
            "stat",
            "roots",
            "unpacked",
            "quarantine",
            "tmp",
        ] {
            let folder = store.root.join(folder);
            fs::create_dir_all(&folder).at("create", &folder)?;
        }
        store.clear_temp();
        if !store.check_layout()? {
            store.write_layout()?;
        }
        store.ensure_index()?;
        Ok(store)
    }

    /// A plain OCI image layout at `root`, for readers: nothing is made there,
    /// and it may not exist yet. Before anything is written, [`Store::prepare`].
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when a layout of another version is there;
    /// [`StoreError::Fs`].
    pub fn layout(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let layout = Self {
            root: root.into(),
            verified: Arc::default(),
            damaged: Arc::default(),
            used: Arc::default(),
        };
        layout.check_layout()?;
        Ok(layout)
    }

    /// Makes what a layout needs to be written to, and clears what killed
    /// processes left in `tmp`.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn prepare(&self) -> Result<(), StoreError> {
        for folder in ["blobs/sha256", "tmp"] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).at("create", &folder)?;
        }
        self.clear_temp();
        if !self.check_layout()? {
            self.write_layout()?;
        }
        self.ensure_index()
    }

    fn write_layout(&self) -> Result<(), StoreError> {
        self.replace(&self.root.join("oci-layout"), LAYOUT.as_bytes(), true)
    }

    /// Whether there is a layout; one of another version is an error.
    fn check_layout(&self) -> Result<bool, StoreError> {
        let path = self.root.join("oci-layout");
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file
                .take(LAYOUT_LIMIT)
                .read_to_string(&mut text)
                .at("read", &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(error) => Err(error).at("open", &path)?,
        };
        let found: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if found["imageLayoutVersion"] == "1.0.0" {
            return Ok(true);
        }
        Err(StoreError::Malformed {
            what: path.display().to_string(),
            why: "imageLayoutVersion must be 1.0.0; use another folder (SLIPFORM_STORE for the store)"
                .to_owned(),
        })
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the store's own file system for temporary files. Prefer
    /// [`Store::temp`]: what lies here without an owner is cleared after a day.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where a blob lies, whether it is there or not.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Where a folder made from blobs lies (unpacked tools), whether it is
    /// there or not; `digest` is that of all that it is made from. Make it with
    /// [`Store::temp_folder`] and [`TempFolder::publish`](super::TempFolder::publish).
    #[must_use]
    pub fn unpacked(&self, digest: &Digest) -> PathBuf {
        self.root.join("unpacked").join(digest.hex())
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Whether a blob is there (its bytes are not read).
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Size of a blob in bytes, holes included; `None` when it is not there.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let meta = fs::metadata(self.path(digest)).ok()?;
        meta.is_file().then_some(meta.len())
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        Ok(BlobWriter {
            store: self,
            file: self.temp()?,
            hasher: Sha256::new(),
            length: 0,
            ends_in_hole: false,
        })
    }

    /// Puts bytes. What is there already and right is not written again.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.size(&digest) == Some(bytes.len() as u64) && self.check(&digest)? {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).at("write", self.tmp())?;
        writer.finish()
    }

    /// Takes over a finished temporary file (made by [`Store::temp`], or in
    /// [`Store::tmp`]) whose digest the caller computed while it wrote it.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn adopt(&self, file: tempfile::NamedTempFile, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        fault::point();
        file.as_file().sync_all().at("sync", file.path())?;
        fault::point();
        let file = file
            .persist(&path)
            .map_err(|e| e.error)
            .at("rename to", &path)?;
        fault::point();
        sync_folder(&self.blobs())?;
        self.remember(digest, Stamp::of(&file).at("stat", &path)?);
        Ok(())
    }

    /// As [`Store::adopt`], for a file whose digest is not known yet: it is
    /// read once, from the start.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn adopt_unknown(&self, mut file: tempfile::NamedTempFile) -> Result<Digest, StoreError> {
        let path = file.path().to_owned();
        file.as_file_mut().rewind().at("read", &path)?;
        let (digest, _) = Digest::of_reader(file.as_file_mut()).at("read", &path)?;
        self.adopt(file, &digest)?;
        Ok(digest)
    }

    /// Takes blobs over from another store where it has them, without copying their
    /// bytes where the file system allows that. They are verified when they are read.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn share(
        &self,
        from: &Self,
        digests: impl Iterator<Item = Digest>,
    ) -> Result<(), StoreError> {
        for digest in digests.filter(|digest| from.has(digest) && !self.has(digest)) {
            let (source, target) = (from.path(&digest), self.path(&digest));
            if fs::hard_link(&source, &target).is_err() {
                let mut file = self.temp()?;
                let mut blob = from.open_blob(&digest)?;
                io::copy(&mut blob, file.as_file_mut()).at("copy", &source)?;
                self.adopt(file, &digest)?;
            }
        }
        sync_folder(&self.blobs())?;
        Ok(())
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        fault::point();
        let written = self
            .file
            .as_file_mut()
            .write(bytes)
            .map_err(|error| self.explain(error))?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        self.ends_in_hole &= written == 0;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl BlobWriter<'_> {
    /// Bytes so far, holes included.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Adds `count` zero bytes as a hole that takes no room on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn zeros(&mut self, count: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        if count == 0 {
            return Ok(());
        }
        let end = self
            .length
            .checked_add(count)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.file.as_file_mut().seek(SeekFrom::Start(end))?;
        let mut left = count;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..part as usize]);
            left -= part;
        }
        self.length = end;
        self.ends_in_hole = true;
        Ok(())
    }

    /// Names the blob by its digest, durably.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn finish(self) -> Result<Digest, StoreError> {
        let (store, file, digest) = self.seal()?;
        store.adopt(file, &digest)?;
        Ok(digest)
    }

    /// As [`BlobWriter::finish`], but refuses bytes other than promised; `what` names them in the error.
    ///
    /// # Errors
    /// [`StoreError::Unexpected`] and nothing is kept; [`StoreError::Fs`], [`StoreError::Full`].
    pub fn finish_as(self, expected: &Digest, what: &str) -> Result<(), StoreError> {
        let (store, file, found) = self.seal()?;
        if found != *expected {
            return Err(StoreError::Unexpected {
                what: what.to_owned(),
                expected: *expected,
                found,
            });
        }
        store.adopt(file, expected)
    }
}

impl<'a> BlobWriter<'a> {
    fn seal(self) -> Result<(&'a Store, tempfile::NamedTempFile, Digest), StoreError> {
        if self.ends_in_hole {
            self.file
                .as_file()
                .set_len(self.length)
                .at("write", self.file.path())?;
        }
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        Ok((self.store, self.file, digest))
    }

    /// A full disk under the store, named with its remedy: whoever writes here
    /// sees an [`io::Error`] only.
    fn explain(&self, error: io::Error) -> io::Error {
        if !is_full(&error) {
            return error;
        }
        let kind = error.kind();
        io::Error::new(
            kind,
            StoreError::Full {
                operation: "write",
                path: self.store.tmp(),
                source: error,
            },
        )
    }
}
