//! The user's own `tar`, compressed or not, becomes an uncompressed tar in the store.
//!
//! Every header is checked while the stream goes by, before much of it is on the disk:
//! an archive made to exhaust the machine ends at the entry that says so. What can be
//! seen in the whole only (duplicates, links) is checked when the entries are read.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};

use super::compression::{Compression, limit};
use super::entry::TAR_ORIGIN;
use super::tar::{Mode, Stream, TarInput, UNPACKED, check_stream, gather};
use super::{Entry, LayersError, container};
use crate::base::Digest;
use crate::base::fs::At;
use crate::store::{BlobWriter, Store, StoreError};

/// Most bytes of one archive, uncompressed.
const MAX_DATA: u64 = 64 << 30;
const CHUNK: usize = 128 * 1024;

/// An archive whose files lie in the store as one uncompressed tar. A pure function of
/// the archive's bytes: callers may cache it by their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpackedTar {
    /// The blob with the tar; the archive itself where that is not compressed.
    pub tar: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How many device nodes of it are left out: the machine's /dev has them.
    pub devices: u32,
}

impl UnpackedTar {
    /// Its files, their content pointing into [`UnpackedTar::tar`]; `name` is the
    /// archive's for messages.
    ///
    /// # Errors
    /// [`LayersError`] when the blob is missing or damaged.
    pub fn entries(&self, store: &Store, name: &str) -> Result<Vec<Entry>, LayersError> {
        self.read(store, &format!("{TAR_ORIGIN}{name}"), Mode::Rootfs)
    }

    /// Its files as a container's layer has them: hard links may name files of the layers
    /// below, and device nodes are there, for what they hide.
    pub(super) fn layer_entries(
        &self,
        store: &Store,
        origin: &str,
    ) -> Result<Vec<Entry>, LayersError> {
        self.read(store, origin, Mode::Container)
    }

    fn read(&self, store: &Store, origin: &str, mode: Mode) -> Result<Vec<Entry>, LayersError> {
        let input = TarInput {
            blob: self.tar,
            size: self.size,
            origin,
        };
        gather(store.open_blob(&self.tar)?, input, mode)
    }
}

/// Unpacks the archive `blob` of the store: gzip, xz, zstd or nothing, by its first bytes.
/// `name` is the archive's for messages.
///
/// # Errors
/// [`LayersError::Malformed`] when it is no tar, [`LayersError::Refused`] for an entry
/// that must not reach an image, [`LayersError::TooLarge`] for more than any image has,
/// and what the store says.
pub fn unpack(store: &Store, blob: &Digest, name: &str) -> Result<UnpackedTar, LayersError> {
    unpack_as(store, blob, &format!("{TAR_ORIGIN}{name}"), Mode::Rootfs)
}

/// As [`unpack`], for a layer of a container or an archive of one.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_layer(store: &Store, blob: &Digest, name: &str) -> Result<UnpackedTar, LayersError> {
    unpack_as(store, blob, &container::origin(name), Mode::Container)
}

fn unpack_as(
    store: &Store,
    blob: &Digest,
    origin: &str,
    mode: Mode,
) -> Result<UnpackedTar, LayersError> {
    let broken = |source| LayersError::Archive {
        operation: "unpack",
        archive: origin.to_owned(),
        source,
    };
    let compressed = store.size(blob).unwrap_or_default();
    let mut reader = BufReader::with_capacity(CHUNK, store.open_blob(blob)?);
    let compression = Compression::of(reader.fill_buf().map_err(broken)?).map_err(|found| {
        LayersError::Malformed {
            archive: origin.to_owned(),
            problem: format!(
                "it is compressed by {found}, which is not known (gzip, xz and zstd are)"
            ),
        }
    })?;
    let size = match compression {
        Compression::None => compressed.min(MAX_DATA),
        _ => limit(compressed, MAX_DATA),
    };
    let input = TarInput {
        blob: *blob,
        size,
        origin,
    };
    let unpacked = if compression == Compression::None {
        UnpackedTar {
            tar: *blob,
            size,
            devices: check_stream(reader, input, mode)?,
        }
    } else {
        decompress(store, compression.decoder(reader).map_err(broken)?, input)?
    };
    // What only the whole shows, before anything is made of it.
    unpacked.read(store, origin, mode)?;
    Ok(unpacked)
}

/// Streams an archive into the store; `input.size` is the most that may come.
fn decompress(
    store: &Store,
    reader: Box<dyn Read + '_>,
    input: TarInput<'_>,
) -> Result<UnpackedTar, LayersError> {
    let mut tee = Tee {
        reader,
        writer: BufWriter::with_capacity(CHUNK, store.writer()?),
        left: input.size,
        buffer: vec![0; CHUNK],
    };
    let told = |error: LayersError, left: u64| match error {
        // The stream's own end of patience, whichever header was being read.
        _ if left == 0 => LayersError::TooLarge {
            archive: input.origin.to_owned(),
            what: UNPACKED.to_owned(),
            limit: input.size,
        },
        other => other,
    };
    let devices =
        check_stream(&mut tee, input, Mode::Stream).map_err(|error| told(error, tee.left))?;
    // Behind the end marker is padding; a checksum of the compression may be yet to come.
    tee.rest().map_err(|source| {
        let error = LayersError::Archive {
            operation: "unpack",
            archive: input.origin.to_owned(),
            source,
        };
        told(error, tee.left)
    })?;
    let writer = tee.writer.into_inner();
    let writer = writer
        .map_err(io::IntoInnerError::into_error)
        .at("write", store.tmp())
        .map_err(StoreError::from)?;
    let size = writer.length();
    Ok(UnpackedTar {
        tar: writer.finish()?,
        size,
        devices,
    })
}

/// What is read is written to the store too, up to a limit.
struct Tee<'a> {
    reader: Box<dyn Read + 'a>,
    writer: BufWriter<BlobWriter<'a>>,
    /// Bytes that may still come.
    left: u64,
    buffer: Vec<u8>,
}

impl Tee<'_> {
    /// Reads to the end.
    fn rest(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(ErrorKind::FileTooLarge.into());
            }
        }
        self.writer.write_all(&buffer[..read])?;
        Ok(read)
    }
}

impl Stream for &mut Tee<'_> {
    fn pass(&mut self, count: u64) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = count;
        let mut passed = Ok(());
        while left > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.read(&mut buffer[..wanted]) {
                Ok(0) => passed = Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    left -= read as u64;
                    continue;
                }
                Err(error) => passed = Err(error),
            }
            break;
        }
        self.buffer = buffer;
        passed
    }
}

#[cfg(test)]
#[path = "rootfs_tests.rs"]
mod tests;
