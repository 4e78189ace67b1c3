//! The bytes of a file of a layer, checked while they are read.
//!
//! A plan holds sizes and, for the user's own files, digests. Both are checked
//! again when the bytes are read, so that a file edited during a build is an
//! error and never a torn image.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Content, LayersError, Piece, Source};
use crate::base::Digest;
use crate::base::fs::At;
use crate::store::Store;

/// Yields exactly the bytes that were planned, or an error.
pub struct ContentReader {
    inner: Box<dyn Read + Send>,
    name: String,
    left: u64,
    check: Option<(Digest, Sha256)>,
    ended: bool,
}

impl std::fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentReader")
            .field("name", &self.name)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Opens `content` for reading from its first byte to its last.
///
/// The reader fails (with a [`LayersError::Changed`] inside the [`io::Error`])
/// when there are fewer or more bytes than planned, or others.
///
/// # Errors
/// [`LayersError`] when the source is not there or has another size already.
pub fn open(content: &Content, store: &Store) -> Result<ContentReader, LayersError> {
    let check = content.digest.map(|digest| (digest, Sha256::new()));
    Ok(ContentReader {
        check,
        ..open_unhashed(content, store)?
    })
}

/// As [`open`], but only the number of bytes is checked: for who digests what it reads
/// itself. Hashing a large tree twice is what a cast would mostly do.
///
/// # Errors
/// As [`open`].
pub fn open_unhashed(content: &Content, store: &Store) -> Result<ContentReader, LayersError> {
    let (inner, name): (Box<dyn Read + Send>, String) = match &content.source {
        Source::Bytes(bytes) => (
            Box::new(Cursor::new(bytes.clone())),
            "generated file".into(),
        ),
        Source::Blob { digest, offset } => {
            let mut file = store.open_blob(digest)?;
            file.seek(SeekFrom::Start(*offset))
                .at("seek in", store.path(digest))?;
            (Box::new(file.take(content.size)), format!("blob {digest}"))
        }
        Source::Sparse { digest, pieces } => {
            let reader = SparseReader {
                file: store.open_blob(digest)?,
                pieces: pieces.clone(),
                next: 0,
                position: 0,
                size: content.size,
            };
            (Box::new(reader), format!("blob {digest}"))
        }
        Source::Host(path) => {
            let file = open_host(path, content.size)?;
            (Box::new(file), path.display().to_string())
        }
        Source::Inode(number) => return Err(elsewhere(*number)),
    };
    Ok(ContentReader {
        inner,
        name,
        left: content.size,
        check: None,
        ended: false,
    })
}

/// Reads at most `length` bytes from `offset` on, fewer at the end of the file.
/// For looking into headers: size is checked, the digest is not.
///
/// # Errors
/// [`LayersError`] when the source is not there, has another size, or breaks off.
pub fn read_range(
    content: &Content,
    store: &Store,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, LayersError> {
    let length = content.size.saturating_sub(offset).min(length as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    match &content.source {
        Source::Bytes(all) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            let end = start.saturating_add(bytes.len()).min(all.len());
            bytes = all[start..end].to_vec();
        }
        Source::Blob {
            digest,
            offset: base,
        } => {
            let file = store.open_blob(digest)?;
            file.read_exact_at(&mut bytes, base.saturating_add(offset))
                .at("read", store.path(digest))?;
        }
        Source::Sparse { digest, pieces } => {
            let end = offset.saturating_add(bytes.len() as u64);
            let file = store.open_blob(digest)?;
            for piece in pieces.iter() {
                let from = piece.at.max(offset);
                let to = piece.at.saturating_add(piece.length).min(end);
                if from < to {
                    let place = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
                    let there = piece.offset.saturating_add(from - piece.at);
                    file.read_exact_at(&mut bytes[place(from)..place(to)], there)
                        .at("read", store.path(digest))?;
                }
            }
        }
        Source::Host(path) => {
            let file = open_host(path, content.size)?;
            file.read_exact_at(&mut bytes, offset).at("read", path)?;
        }
        Source::Inode(number) => return Err(elsewhere(*number)),
    }
    Ok(bytes)
}

/// A sparse file from its first byte to its last: pieces of a blob, and zeros.
struct SparseReader {
    file: File,
    pieces: Arc<[Piece]>,
    /// The first piece that does not end before `position`.
    next: usize,
    position: u64,
    size: u64,
}

impl Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (end, piece) = match self.pieces.get(self.next) {
            Some(piece) if piece.at <= self.position => (piece.at + piece.length, Some(piece)),
            Some(piece) => (piece.at, None),
            None => (self.size, None),
        };
        let wanted = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(wanted);
        let buffer = &mut buffer[..length];
        let read = match piece {
            Some(piece) => {
                let there = piece.offset + (self.position - piece.at);
                self.file.read_at(buffer, there)?
            }
            None => {
                buffer.fill(0);
                length
            }
        };
        self.position += read as u64;
        if self.position == end && piece.is_some() {
            self.next += 1;
        }
        Ok(read)
    }
}

/// No content of a layer that is gathered is an inode of one that was read back.
fn elsewhere(number: u32) -> LayersError {
    LayersError::Archive {
        operation: "open",
        archive: format!("inode {number}"),
        source: io::Error::other("only the reader of its file system can"),
    }
}

/// Opens a regular file of the host, not through a link in its place.
fn open_host(path: &Path, size: u64) -> Result<File, LayersError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .at("open", path)?;
    let found = file.metadata().at("inspect", path)?;
    if !found.is_file() || found.len() != size {
        return Err(LayersError::Changed {
            path: path.display().to_string(),
            problem: format!("{} bytes now, {size} when it was planned", found.len()),
        });
    }
    Ok(file)
}

impl ContentReader {
    fn changed(&self, problem: String) -> io::Error {
        io::Error::other(LayersError::Changed {
            path: self.name.clone(),
            problem,
        })
    }

    /// At the planned end: nothing may follow, and the digest must be right.
    fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        if self.inner.read(&mut [0; 1])? != 0 {
            return Err(self.changed("it is longer than planned".into()));
        }
        match self.check.take() {
            Some((expected, hasher)) => {
                let found = Digest::from_bytes(hasher.finalize().into());
                if found != expected {
                    return Err(
                        self.changed(format!("{found} now, {expected} when it was planned"))
                    );
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            if !self.ended {
                self.finish()?;
            }
            return Ok(0);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(self.changed(format!("it is {} bytes shorter than planned", self.left)));
        }
        if let Some((_, hasher)) = &mut self.check {
            hasher.update(&buffer[..read]);
        }
        self.left -= read as u64;
        // Checked with the last byte too: a consumer that knows the size may never ask for the end.
        if self.left == 0 {
            self.finish()?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn all(content: &Content, store: &Store) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        open(content, store)
            .map_err(|e| e.to_string())?
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn reads_every_kind_of_source() {
        let (dir, store) = store();
        let blob = store.put(b"0123456789").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "host").unwrap();
        for (source, expected) in [
            (Source::Bytes(b"own".to_vec()), "own"),
            (
                Source::Blob {
                    digest: blob,
                    offset: 3,
                },
                "345",
            ),
            (Source::Host(path), "host"),
        ] {
            let content = Content {
                size: expected.len() as u64,
                digest: Some(Digest::of(expected)),
                source,
            };
            assert_eq!(all(&content, &store).unwrap(), expected.as_bytes());
            assert_eq!(
                read_range(&content, &store, 1, 100).unwrap(),
                &expected.as_bytes()[1..]
            );
            assert_eq!(read_range(&content, &store, 9, 100).unwrap(), b"");
        }
    }

    #[test]
    fn a_sparse_file_is_its_pieces_and_zeros() {
        let (_dir, store) = store();
        let digest = store.put(b"..abcde..").unwrap();
        let piece = |at, offset, length| Piece { at, offset, length };
        for (size, pieces, expected) in [
            (3, vec![], "000"),
            (5, vec![piece(0, 2, 3), piece(3, 5, 2)], "abcde"),
            (9, vec![piece(1, 2, 3), piece(6, 5, 2)], "0abc00de0"),
        ] {
            let content = Content {
                size,
                digest: None,
                source: Source::Sparse {
                    digest,
                    pieces: pieces.into(),
                },
            };
            let expected = expected.replace('0', "\0");
            assert_eq!(all(&content, &store).unwrap(), expected.as_bytes());
            for start in 0..size {
                let rest = &expected.as_bytes()[usize::try_from(start).unwrap()..];
                for length in 0..=rest.len() {
                    assert_eq!(
                        read_range(&content, &store, start, length).unwrap(),
                        &rest[..length]
                    );
                }
            }
        }
        // A blob that ends too early is no file with fewer bytes.
        let content = Content {
            size: 9,
            digest: None,
            source: Source::Sparse {
                digest,
                pieces: vec![piece(0, 5, 9)].into(),
            },
        };
        assert!(all(&content, &store).unwrap_err().contains("shorter"));
    }

    #[test]
    fn a_file_that_changed_is_an_error() {
        let (dir, store) = store();
        let path = dir.path().join("file");
        for now in ["other", "longer than it was", ""] {
            std::fs::write(&path, now).unwrap();
            let content = Content {
                size: 5,
                digest: Some(Digest::of("plans")),
                source: Source::Host(path.clone()),
            };
            let error = all(&content, &store).unwrap_err();
            assert!(error.contains("changed while it was read"), "{error}");
        }
    }

    #[test]
    fn a_file_that_grows_or_shrinks_after_it_was_opened_is_an_error() {
        let (dir, store) = store();
        let path = dir.path().join("file");
        for (now, problem) in [("0123456789+", "longer"), ("0123", "shorter")] {
            std::fs::write(&path, "0123456789").unwrap();
            let content = Content {
                size: 10,
                digest: None,
                source: Source::Host(path.clone()),
            };
            let mut reader = open(&content, &store).unwrap();
            std::fs::write(&path, now).unwrap();
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_link_put_in_a_files_place_is_not_followed() {
        let (dir, store) = store();
        let path = dir.path().join("file");
        std::fs::write(dir.path().join("secret"), "12345").unwrap();
        std::os::unix::fs::symlink("secret", &path).unwrap();
        let content = Content {
            size: 5,
            digest: None,
            source: Source::Host(path),
        };
        assert!(open(&content, &store).is_err());
    }
}
