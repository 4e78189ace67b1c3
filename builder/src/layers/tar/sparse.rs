//! Sparse files of archives: which of their bytes are there, and where.
//!
//! Formats (GNU tar's manual, "Storing Sparse Files"; all that GNU tar and bsdtar write):
//!
//! ```text
//! old GNU  type 'S'; pieces in the header, four of them, and in blocks behind it, 21 each
//! PAX 0.0  GNU.sparse.size, and for each piece GNU.sparse.offset and GNU.sparse.numbytes
//! PAX 0.1  GNU.sparse.size, and all pieces in GNU.sparse.map
//! PAX 1.0  GNU.sparse.realsize; the pieces stand before the content, in decimal lines
//! ```
//!
//! A piece is a place in the file and a length; the pieces' bytes follow each other in the
//! archive. What lies between them is zeros, and no room in the store.

use std::sync::Arc;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{BLOCK, Stream, Walk};
use crate::layers::pax::PaxSparse;
use crate::layers::{Content, LayersError, Piece, Source};

/// Most bytes of holes in all files of one archive: they cost nothing in it, and time in the
/// making of a file system.
pub(super) const MAX_HOLES: u64 = 16 << 30;
/// Most pieces of all files of one archive.
const MAX_PIECES: usize = 500_000;

/// What an archive said of a sparse file.
struct Map {
    /// Place in the file, and length, of each piece.
    pieces: Vec<(u64, u64)>,
    /// Length of the file, holes included.
    real: u64,
    /// Bytes of its content that the map itself took (PAX 1.0).
    read: u64,
}

/// The file's content and how many bytes of the archive are still to be passed over.
pub(super) type Found = (Content, u64);

impl<R: Stream> Walk<'_, R> {
    /// The content of a file that is sparse; `None` for any other. `size` is what is stored.
    pub(super) fn sparse(
        &mut self,
        header: &Header,
        path: &[u8],
        pax: Option<&PaxSparse>,
        size: u64,
    ) -> Result<Option<Found>, LayersError> {
        let kind = header.entry_type();
        let map = match pax {
            _ if kind == EntryType::GNUSparse => self.old(header, path)?,
            Some(_) if kind != EntryType::Regular => {
                return Err(self.refused(path, "only regular files can be sparse"));
            }
            Some(PaxSparse {
                major: 0,
                real: Some(real),
                pieces,
                ..
            }) => Map {
                pieces: pieces.clone(),
                real: *real,
                read: 0,
            },
            Some(PaxSparse {
                major: 1,
                minor: 0,
                real: Some(real),
                ..
            }) => self.before_content(path, *real, size)?,
            Some(_) => {
                return Err(self.refused(
                    path,
                    "its map of a sparse file is of a format that is not known (0.0, 0.1 and 1.0 are)",
                ));
            }
            None => return Ok(None),
        };
        let stored = size - map.read;
        let pieces = self.pieces(path, &map, stored)?;
        self.pieces += pieces.len();
        self.holes = self.holes.saturating_add(map.real - stored);
        if self.pieces > MAX_PIECES {
            return Err(self.too_large("its number of pieces of sparse files", MAX_PIECES as u64));
        }
        if self.holes > MAX_HOLES {
            return Err(self.too_large("the holes of its sparse files", MAX_HOLES));
        }
        let digest = self.input.blob;
        let source = match pieces[..] {
            // One without a hole is an ordinary file.
            [Piece { offset, .. }] if stored == map.real => Source::Blob { digest, offset },
            _ => Source::Sparse {
                digest,
                pieces: Arc::from(pieces),
            },
        };
        let content = Content {
            size: map.real,
            digest: None,
            source,
        };
        Ok(Some((content, stored)))
    }

    /// The pieces with their places in the archive, checked against each other.
    fn pieces(&self, path: &[u8], map: &Map, stored: u64) -> Result<Vec<Piece>, LayersError> {
        let wrong = |rule: &str| self.refused(path, format!("as a sparse file, {rule}"));
        let (mut pieces, mut end, mut passed) = (Vec::new(), 0, 0_u64);
        for (at, length) in map.pieces.iter().copied().filter(|piece| piece.1 > 0) {
            if at < end {
                return Err(wrong("its pieces overlap or are out of order"));
            }
            end = at
                .checked_add(length)
                .filter(|end| *end <= map.real)
                .ok_or_else(|| wrong("a piece of it lies behind its end"))?;
            pieces.push(Piece {
                at,
                offset: self.position.saturating_add(passed),
                length,
            });
            // No more than `real`, for the pieces do not overlap.
            passed += length;
        }
        if passed == stored {
            Ok(pieces)
        } else {
            Err(wrong("its pieces are not as long as what is stored"))
        }
    }

    /// The map of an old GNU header, and of the blocks behind it.
    fn old(&mut self, header: &Header, path: &[u8]) -> Result<Map, LayersError> {
        let wrong = |walk: &Self| walk.refused(path, "its map as a sparse file is malformed");
        let gnu = header.as_gnu().ok_or_else(|| wrong(self))?;
        let real = gnu.real_size().map_err(|_| wrong(self))?;
        let mut pieces = Vec::new();
        let mut take = |descriptors: &[GnuSparseHeader]| {
            for piece in descriptors.iter().take_while(|piece| !piece.is_empty()) {
                pieces.push((piece.offset().ok()?, piece.length().ok()?));
            }
            (pieces.len() <= MAX_PIECES).then_some(())
        };
        take(&gnu.sparse).ok_or_else(|| wrong(self))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if self.position + BLOCK > self.input.size {
                return Err(self.malformed("a header is longer than the archive"));
            }
            self.reader
                .read_exact(block.as_mut_bytes())
                .map_err(|error| self.ended(error))?;
            self.position += BLOCK;
            // A block that says nothing would let the chain go on for ever.
            if block.sparse()[0].is_empty() {
                return Err(wrong(self));
            }
            take(block.sparse()).ok_or_else(|| wrong(self))?;
            more = block.is_extended();
        }
        Ok(Map {
            pieces,
            real,
            read: 0,
        })
    }

    /// The map that stands before the content: how many pieces, then place and length of
    /// each, a line for each number, filled up to a whole block.
    fn before_content(&mut self, path: &[u8], real: u64, size: u64) -> Result<Map, LayersError> {
        let mut lines = Lines {
            block: [0; BLOCK as usize],
            at: BLOCK as usize,
            read: 0,
        };
        let count = lines.next(self, path, size)?;
        if count > MAX_PIECES as u64 {
            return Err(self.too_large("its number of pieces of sparse files", MAX_PIECES as u64));
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            let at = lines.next(self, path, size)?;
            pieces.push((at, lines.next(self, path, size)?));
        }
        Ok(Map {
            pieces,
            real,
            read: lines.read,
        })
    }
}

/// Numbers in lines, over blocks.
struct Lines {
    block: [u8; BLOCK as usize],
    at: usize,
    read: u64,
}

impl Lines {
    fn next<R: Stream>(
        &mut self,
        walk: &mut Walk<'_, R>,
        path: &[u8],
        size: u64,
    ) -> Result<u64, LayersError> {
        let mut number = None;
        loop {
            if self.at == self.block.len() {
                let ends = walk.position + BLOCK > walk.input.size;
                if ends || self.read + BLOCK > size {
                    return Err(walk.refused(path, "its map as a sparse file is cut short"));
                }
                walk.reader
                    .read_exact(&mut self.block)
                    .map_err(|error| walk.ended(error))?;
                walk.position += BLOCK;
                (self.read, self.at) = (self.read + BLOCK, 0);
            }
            let byte = self.block[self.at];
            self.at += 1;
            number = match (byte, number) {
                (b'\n', Some(number)) => return Ok(number),
                (b'0'..=b'9', number) => number
                    .unwrap_or(0_u64)
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(u64::from(byte - b'0'))),
                _ => None,
            };
            if number.is_none() {
                return Err(walk.refused(path, "its map as a sparse file is malformed"));
            }
        }
    }
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
