//! Copying ranges between files, and the hidden file that becomes the output.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;

use super::OutputError;
use crate::base::fs::At;
use crate::store::fault;

/// Bytes copied at once where the kernel cannot copy by itself.
const BUFFER: usize = 256 * 1024;

/// The file being written, under a hidden name beside its final one. Dropped
/// before [`Partial::finish`], it is gone. A stale one from a killed run is replaced.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Partial {
    /// A new, empty file.
    pub(super) fn create(target: &Path) -> Result<Self, OutputError> {
        let path = Self::hidden(target)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("remove", &path)?;
            }
            _ => {}
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .at("create", &path)?;
        fault::point();
        Ok(Self {
            file,
            path,
            target: target.to_owned(),
            done: false,
        })
    }

    /// The existing output, taken away from its name until it is whole again.
    pub(super) fn take(target: &Path) -> Result<Self, OutputError> {
        let path = Self::hidden(target)?;
        let file = File::options()
            .read(true)
            .write(true)
            .open(target)
            .at("open", target)?;
        fs::rename(target, &path).at("rename", target)?;
        fault::point();
        Ok(Self {
            file,
            path,
            target: target.to_owned(),
            done: false,
        })
    }

    fn hidden(target: &Path) -> Result<PathBuf, OutputError> {
        let name = target.file_name().ok_or_else(|| OutputError::NoName {
            path: target.to_owned(),
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        Ok(target.with_file_name(hidden))
    }

    /// The open file.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// The hidden path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its final name.
    pub(super) fn finish(mut self) -> Result<(), OutputError> {
        fault::point();
        fs::rename(&self.path, &self.target).at("rename to", &self.target)?;
        fault::point();
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Copies `range` of `from` to `offset` in `to`, inside of the kernel where it
/// can (file systems with shared extents then copy nothing at all).
pub(super) fn copy_range(from: &File, range: Range<u64>, to: &File, offset: u64) -> io::Result<()> {
    let (mut source, mut target) = (range.start, offset);
    while source < range.end {
        fault::point();
        let left = usize::try_from(range.end - source)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::BADF,
            ) => {
                return copy_by_hand(from, source..range.end, to, target);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, range: Range<u64>, to: &File, offset: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        let step = usize::try_from(range.end - at)
            .unwrap_or(BUFFER)
            .min(BUFFER);
        from.read_exact_at(&mut buffer[..step], at)?;
        to.write_all_at(&buffer[..step], at - range.start + offset)?;
        at += step as u64;
    }
    Ok(())
}

/// Makes `range` of `file` read as zeros, as a hole where the file system can.
pub(super) fn zero_range(file: &File, range: Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    fault::point();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, range.start, range.end - range.start) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = vec![0; BUFFER];
            let mut at = range.start;
            while at < range.end {
                let step = usize::try_from(range.end - at)
                    .unwrap_or(BUFFER)
                    .min(BUFFER);
                file.write_all_at(&zeros[..step], at)?;
                at += step as u64;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
