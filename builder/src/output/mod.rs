//! Disk maps become files: raw (sparse) and qcow2 (zstd).
//!
//! Every format holds exactly the disk of the map. A file appears under its
//! final name whole or not at all: it is written beside it under a hidden name
//! and renamed. Artifacts are not fsynced: they can be written again from the
//! store at any time, and a record of one (see `record`) is trusted only until
//! the host reboots.

mod copy;
mod error;
mod format;
mod qcow2;
mod qcow2_reader;
mod raw;
mod record;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub use error::OutputError;
pub use format::OutputFormat;
pub use qcow2_reader::Qcow2Reader;
use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::base::fs::At;
use crate::disk::DiskMap;
use crate::store::Store;

/// A finished image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub format: OutputFormat,
    /// Length of the file in bytes (a sparse file takes less).
    pub bytes: u64,
}

/// Writes the disk of `map` to `path` in `format`. A file there that is known
/// to be an untouched earlier output is left alone when it holds this very
/// disk, and, for raw, changed only where the disks differ.
///
/// # Errors
/// [`OutputError`]; `path` then holds no half-written file.
pub fn write(
    format: OutputFormat,
    map: &DiskMap,
    store: &Store,
    path: &Path,
) -> Result<Artifact, OutputError> {
    map.check()?;
    let record = record::Record::open(store, path)?;
    let map_digest = map.digest();
    let known = record.untouched(format);
    if known != Some(map_digest) {
        let known = known.and_then(|digest| {
            let json = store.read(&digest).ok()?;
            DiskMap::from_json(&json).ok()
        });
        match format {
            OutputFormat::Raw => raw::write(map, known.as_ref(), store, path)?,
            OutputFormat::Qcow2 => qcow2::write(map, store, path)?,
        }
        store.put(&map.to_json())?;
        record.keep(format, map_digest)?;
    }
    let bytes = std::fs::metadata(path)
        .at("read the length of", path)?
        .len();
    Ok(Artifact {
        path: path.to_owned(),
        format,
        bytes,
    })
}

/// The flat SHA-256 of a file, for export and publishing.
///
/// # Errors
/// [`OutputError::Fs`].
pub fn sha256(path: &Path) -> Result<Digest, OutputError> {
    let mut file = File::open(path).at("open", path)?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, &mut file);
    let (digest, _) = Digest::of_reader(&mut reader).at("read", path)?;
    Ok(digest)
}

/// A source of a disk's bytes.
pub trait DiskSource: Read + Seek + std::fmt::Debug {}
impl<T: Read + Seek + std::fmt::Debug> DiskSource for T {}

/// Opens an image file as the disk that it holds, whatever its format.
///
/// # Errors
/// [`OutputError::Fs`], [`OutputError::Image`] for a qcow2 file that cannot be read.
pub fn open(path: &Path) -> Result<(OutputFormat, Box<dyn DiskSource>), OutputError> {
    let mut file = File::open(path).at("open", path)?;
    let mut magic = Vec::new();
    file.by_ref()
        .take(4)
        .read_to_end(&mut magic)
        .at("read", path)?;
    file.seek(SeekFrom::Start(0)).at("seek in", path)?;
    if magic != qcow2::MAGIC {
        return Ok((OutputFormat::Raw, Box::new(file)));
    }
    let reader = Qcow2Reader::open(file).map_err(|source| OutputError::Image {
        path: path.to_owned(),
        source,
    })?;
    Ok((OutputFormat::Qcow2, Box::new(reader)))
}
