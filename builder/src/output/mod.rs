//! Disk maps become files, in every format that clouds and hypervisors take.
//!
//! Every format holds exactly the disk of the map: what was written is read back
//! and compared before it gets its name. A file appears under its final name whole
//! or not at all: it is written beside it under a hidden name and renamed.
//! Artifacts are not fsynced: they can be written again from the store at any time,
//! and a record of one (see `record`) is trusted only until the host reboots.
//!
//! A format is a file with its writer (`write(job, file)`, see `blocks`), and its
//! reader there or beside it (`Blocks`, see `reading`).

mod blocks;
mod compare;
mod copy;
mod error;
mod flash;
mod format;
mod gcp_tar;
mod iso;
mod netboot;
mod opening;
mod ova;
mod ovf;
mod qcow2;
mod qcow2_reader;
mod raw;
mod raw_zst;
mod reading;
mod record;
mod target;
mod vhd;
mod vhd_reader;
mod vhdx;
mod vmdk;
mod vmdk_reader;
mod vmdk_stream;

use std::error::Error;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub use compare::first_difference;
pub use error::OutputError;
pub use flash::Flashed;
pub use format::OutputFormat;
pub use gcp_tar::GcpTarReader;
pub use iso::IsoReader;
pub use netboot::NetbootReader;
pub use opening::{DiskSource, open};
pub use ova::open_ova;
pub use qcow2_reader::Qcow2Reader;
pub use raw_zst::RawZstReader;
pub use reading::BlockReader;
use serde::{Deserialize, Serialize};
pub use target::{Kernel, Part, Target};
pub use vhd::fixed_footer;
pub use vhd_reader::VhdReader;
pub use vhdx::VhdxReader;
pub use vmdk_reader::VmdkReader;

use self::blocks::{Job, Unfit};
use self::compare::first_difference_sparse;
use self::copy::Partial;
use self::opening::FileDisk;
use crate::base::Digest;
use crate::base::fs::At;
use crate::base::progress::{Progress, Quiet};
use crate::disk::{self, DiskMap, DiskReader};
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

/// As [`write_told`], in silence.
///
/// # Errors
/// As there.
pub fn write(
    format: OutputFormat,
    map: &DiskMap,
    store: &Store,
    path: &Path,
) -> Result<Artifact, OutputError> {
    write_told(format, map, (store, &Quiet), path)
}

/// Writes the disk of `map` to `path` in `format`. A file there that is known
/// to be an untouched earlier output is left alone when it holds this very
/// disk, and, for raw, changed only where the disks differ.
///
/// # Errors
/// [`OutputError`]; `path` then holds no half-written file.
pub fn write_told(
    format: OutputFormat,
    map: &DiskMap,
    (store, progress): (&Store, &dyn Progress),
    path: &Path,
) -> Result<Artifact, OutputError> {
    map.check()?;
    let record = record::Record::open(store, path)?;
    let map_digest = map.digest();
    let known = record.untouched(format);
    if known != Some(map_digest) {
        if format == OutputFormat::Raw {
            let known = known.and_then(|digest| {
                let json = store.read(&digest).ok()?;
                DiskMap::from_json(&json).ok()
            });
            raw::write(map, known.as_ref(), store, path)?;
        } else {
            let job = map_job(map, store, path, progress)?;
            write_job(format, job, path)?;
        }
        store.put(&map.to_json())?;
        record.keep(format, map_digest)?;
    }
    artifact(format, path)
}

/// Writes the disk that an image file holds to `path` in another format.
///
/// # Errors
/// [`OutputError`]; `path` then holds no half-written file.
pub fn convert(
    from: &Path,
    format: OutputFormat,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Artifact, OutputError> {
    let job = file_job(from, path, progress)?;
    write_job(format, job, path)?;
    artifact(format, path)
}

/// Writes the disk of `map` over `target`, and reads it back.
///
/// # Errors
/// [`OutputError`]; once writing has begun, the target holds no partition table then.
pub fn flash_map(
    map: &DiskMap,
    store: &Store,
    target: &Target,
    progress: &dyn Progress,
) -> Result<Flashed, OutputError> {
    map.check()?;
    flash::flash(map_job(map, store, &target.path, progress)?, target)
}

/// Writes the disk that an image file holds over `target`, and reads it back.
///
/// # Errors
/// As [`flash_map`].
pub fn flash_file(
    from: &Path,
    target: &Target,
    progress: &dyn Progress,
) -> Result<Flashed, OutputError> {
    flash::flash(file_job(from, &target.path, progress)?, target)
}

/// The disk of a map, to be written to `path`.
fn map_job<'a>(
    map: &'a DiskMap,
    store: &'a Store,
    path: &Path,
    progress: &'a dyn Progress,
) -> Result<Job<'a>, OutputError> {
    let source = Box::new(DiskReader::new(store, map));
    let facts = (map.size, map.sector_size);
    Ok(Job::new(source, facts, path, progress).at("read the disk for", path)?)
}

/// Bytes of the disk in an image file, and of its sectors.
///
/// # Errors
/// [`OutputError::Image`], [`OutputError::Fs`].
pub fn facts(from: &Path) -> Result<(u64, u32), OutputError> {
    let (_, mut source) = open(from)?;
    let size = source.seek(SeekFrom::End(0)).at("seek in", from)?;
    let info = disk::inspect(&mut source).at("read", from)?;
    // A disk without a partition table has sectors as most disks have.
    Ok((size, info.sector_size.max(512)))
}

/// The disk in an image file, to be written to `path`.
fn file_job<'a>(
    from: &Path,
    path: &Path,
    progress: &'a dyn Progress,
) -> Result<Job<'a>, OutputError> {
    let facts = facts(from)?;
    let (format, disk) = open(from)?;
    let source = Box::new(FileDisk::new(format, disk, File::open(from).ok()));
    Ok(Job::new(source, facts, path, progress).at("read", from)?)
}

/// Writes a file, reads it back, and gives it its name.
fn write_job(format: OutputFormat, mut job: Job<'_>, path: &Path) -> Result<(), OutputError> {
    let writer: fn(&mut Job<'_>, &File) -> io::Result<()> = match format {
        OutputFormat::Raw => raw::copy,
        OutputFormat::RawZst => raw_zst::write,
        OutputFormat::Qcow2 => qcow2::write,
        OutputFormat::Qcow2Zlib => qcow2::write_zlib,
        OutputFormat::Vhd => vhd::write_fixed,
        OutputFormat::VhdDynamic => vhd::write_dynamic,
        OutputFormat::Vhdx => vhdx::write,
        OutputFormat::Vmdk => vmdk::write,
        OutputFormat::VmdkStream => vmdk_stream::write,
        OutputFormat::Ova => ova::write,
        OutputFormat::GcpTar => gcp_tar::write,
        OutputFormat::Iso => iso::write,
        OutputFormat::Netboot => netboot::write,
    };
    let partial = Partial::create(path)?;
    match writer(&mut job, partial.file()) {
        Err(source)
            if source
                .get_ref()
                .is_some_and(<dyn Error + Send + Sync>::is::<Unfit>) =>
        {
            return Err(OutputError::Unfit {
                path: path.to_owned(),
                source,
            });
        }
        written => written.at("write", partial.path())?,
    }
    let back = opening::reader(format, partial.file());
    let same = back.and_then(|back| {
        let mut back = FileDisk::new(format, back, partial.file().try_clone().ok());
        first_difference_sparse(&mut *job.disk, &mut back, job.size)
    });
    if let Some(offset) = same.at("read back", partial.path())? {
        return Err(OutputError::Differs {
            path: path.to_owned(),
            offset,
        });
    }
    partial.finish()
}

fn artifact(format: OutputFormat, path: &Path) -> Result<Artifact, OutputError> {
    let found = std::fs::metadata(path).at("read the length of", path)?;
    Ok(Artifact {
        path: path.to_owned(),
        format,
        bytes: found.len(),
    })
}

/// The flat SHA-256 of a file, for export and publishing.
///
/// # Errors
/// [`OutputError::Fs`].
pub fn sha256(path: &Path) -> Result<Digest, OutputError> {
    let mut file = File::open(path).at("open", path)?;
    let mut reader = io::BufReader::with_capacity(1 << 20, &mut file);
    let (digest, _) = Digest::of_reader(&mut reader).at("read", path)?;
    Ok(digest)
}
