//! Blobs on their way out: verified, and set aside when they are damaged.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;

use rustix::fs::{SeekFrom as Whence, seek};

use super::{Store, StoreError};
use crate::base::fs::At;
use crate::base::{Digest, DigestWriter};

/// The most that [`Store::read`] takes into memory, in bytes.
pub const READ_LIMIT: u64 = 256 * 1024 * 1024;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

/// The state of a file by which a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    /// Seconds and nanoseconds.
    pub(super) ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|meta| Self::from(&meta))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Takes a blob's bytes in order. All that is [`Write`] does, and then gets the
/// holes as zero bytes; who can do better with a hole implements [`BlobSink::zeros`].
pub trait BlobSink {
    /// The next bytes.
    ///
    /// # Errors
    /// What the sink says.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The next `count` bytes are zero.
    ///
    /// # Errors
    /// What the sink says.
    fn zeros(&mut self, count: u64) -> io::Result<()>;
}

impl<W: Write + ?Sized> BlobSink for W {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        write_zeros(self, count)
    }
}

fn write_zeros(sink: &mut (impl Write + ?Sized), mut count: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while count > 0 {
        let part = count.min(ZEROS.len() as u64);
        sink.write_all(&ZEROS[..part as usize])?;
        count -= part;
    }
    Ok(())
}

impl Store {
    /// Opens a blob for reading ranges. Its bytes are verified first, unless
    /// this process has verified or written it already.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Fs`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let mut file = self.open_unverified(digest)?;
        let path = self.path(digest);
        let stamp = Stamp::of(&file).at("stat", &path)?;
        if self.remembers(digest, stamp) {
            return Ok(file);
        }
        let (found, _) = Digest::of_reader(&mut file).at("read", &path)?;
        if found != *digest {
            return Err(self.set_aside(digest, found, stamp));
        }
        self.remember(digest, stamp);
        file.rewind().at("read", &path)?;
        Ok(file)
    }

    /// Opens a blob without reading it: for who digests it while using it, or
    /// hands it to a machine that verifies every block.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Fs`].
    pub fn open_unverified(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing(*digest))
            }
            Err(error) => Err(error).at("open", path)?,
        }
    }

    /// Whether a blob is there and right: `false` when it is missing, and when
    /// it was damaged (it is then set aside).
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn check(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.open_blob(digest) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing(_) | StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a whole small blob (at most [`READ_LIMIT`] bytes), verified.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; [`StoreError::TooBig`].
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.read_at_most(digest, "blob", READ_LIMIT)
    }

    /// Reads a whole blob of at most `limit` bytes, verified; `what` names its kind in errors.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; [`StoreError::TooBig`].
    pub fn read_at_most(
        &self,
        digest: &Digest,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let file = self.open_unverified(digest)?;
        let path = self.path(digest);
        let stamp = Stamp::of(&file).at("stat", &path)?;
        if stamp.size > limit {
            return Err(StoreError::TooBig {
                what,
                digest: *digest,
                size: stamp.size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).at("read", &path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(self.set_aside(digest, found, stamp));
        }
        self.remember(digest, stamp);
        Ok(bytes)
    }

    /// Streams a blob into `sink`, verifying it on the way; holes are not read.
    /// Returns its size. When it fails, the sink has taken bytes that must not be used.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; what the sink says, as [`StoreError::Fs`].
    pub fn copy_verified(
        &self,
        digest: &Digest,
        sink: &mut dyn BlobSink,
    ) -> Result<u64, StoreError> {
        let mut file = self.open_unverified(digest)?;
        let path = self.path(digest);
        let stamp = Stamp::of(&file).at("stat", &path)?;
        let mut hasher = DigestWriter::new(io::sink());
        for extent in extents(&file, stamp.size).at("read", &path)? {
            match extent {
                Extent::Hole(count) => {
                    write_zeros(&mut hasher, count).at("read", &path)?;
                    sink.zeros(count).at("copy", &path)?;
                }
                Extent::Data { offset, length } => {
                    file.seek(SeekFrom::Start(offset)).at("read", &path)?;
                    copy_range(&mut file, length, &mut hasher, sink).at("copy", &path)?;
                }
            }
        }
        let (found, _) = hasher.finish();
        if found != *digest {
            return Err(self.set_aside(digest, found, stamp));
        }
        self.remember(digest, stamp);
        Ok(stamp.size)
    }

    pub(super) fn remember(&self, digest: &Digest, stamp: Stamp) {
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*digest, stamp);
    }

    fn remembers(&self, digest: &Digest, stamp: Stamp) -> bool {
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            == Some(&stamp)
    }

    /// The blobs that this process found damaged, and set aside, since this was
    /// asked last: whoever can make them anew, does.
    #[must_use]
    pub fn take_damaged(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.damaged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves a damaged blob out of the way, so that [`Store::has`] says that it
    /// is not there, and returns the error that names it.
    fn set_aside(&self, name: &Digest, found: Digest, stamp: Stamp) -> StoreError {
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(*name);
        let path = self.path(name);
        // Another process may have put a good one there in the meantime.
        let same = fs::metadata(&path).is_ok_and(|meta| Stamp::from(&meta) == stamp);
        if same {
            let aside = self.root().join("quarantine").join(name.hex());
            // In a read-only store it stays, and is found again.
            let _ = fs::rename(&path, aside);
        }
        StoreError::Damaged { name: *name, found }
    }
}

/// A run of a file.
#[derive(Debug, PartialEq, Eq)]
enum Extent {
    Hole(u64),
    Data { offset: u64, length: u64 },
}

/// The holes and the data of a file, in order; where the file system does not
/// know, all is data.
fn extents(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, Whence::Data(at)) {
            Ok(data) => data.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        if data > at {
            extents.push(Extent::Hole(data - at));
        }
        if data >= size {
            break;
        }
        let end = match seek(file, Whence::Hole(data)) {
            Ok(end) => end.min(size),
            Err(rustix::io::Errno::INVAL) => size,
            Err(error) => return Err(error.into()),
        };
        extents.push(Extent::Data {
            offset: data,
            length: end - data,
        });
        at = end;
    }
    Ok(extents)
}

fn copy_range(
    file: &mut File,
    length: u64,
    hasher: &mut impl Write,
    sink: &mut dyn BlobSink,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        file.read_exact(&mut buffer[..part])?;
        hasher.write_all(&buffer[..part])?;
        sink.data(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
