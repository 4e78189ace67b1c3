//! Writes a disk onto a disk of this host, and reads it back.
//!
//! What is zero is discarded where the target then reads as zeros, and written
//! where it does not. The partition table comes last: a disk whose writing was cut
//! off has none, and does not half boot. The bytes are those of the image: that the
//! backup table is not at the end of a larger disk, init mends at first boot.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{Advice, OFlags, fadvise};

use super::blocks::{Job, each_block};
use super::copy::zero_range;
use super::target::Target;
use super::{OutputError, first_difference};
use crate::base::MIB;
use crate::base::fs::At;

/// What flashing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flashed {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of it that are not in holes, and were written.
    pub written: u64,
}

/// Writes the disk to the target, which was looked at, syncs, and reads it back.
pub(super) fn flash(mut job: Job<'_>, target: &Target) -> Result<Flashed, OutputError> {
    target.check(job.size, job.sector_size)?;
    let path = &target.path;
    // On a block device, O_EXCL is the kernel's own word that nobody uses it.
    let exclusive = if target.sector_size == 0 {
        OFlags::empty()
    } else {
        OFlags::EXCL
    };
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(exclusive.bits() as i32)
        .open(path)
        .at("open", path)?;
    let written = write(&mut job, &file).at("write", path)?;
    // What is compared must come from the medium, not from memory.
    fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(io::Error::from)
        .at("read back", path)?;
    let same = (&file).seek(SeekFrom::Start(0)).and_then(|_| {
        job.disk.seek(SeekFrom::Start(0))?;
        first_difference(&mut job.disk, &mut (&file).take(job.size))
    });
    if let Some(offset) = same.at("read back", path)? {
        return Err(OutputError::Differs {
            path: path.clone(),
            offset,
        });
    }
    Ok(Flashed {
        size: job.size,
        written,
    })
}

/// Writes all, the first MiB last; bytes written.
fn write(job: &mut Job<'_>, file: &File) -> io::Result<u64> {
    let size = job.size;
    let (mut first, mut next, mut written) = (None, 0, 0);
    let head = MIB.min(size);
    file.write_all_at(&vec![0; head as usize], 0)?;
    each_block(job, MIB, |index, bytes| {
        let at = index * MIB;
        let length = MIB.min(size - at);
        zero_range(file, next..at)?;
        next = at + length;
        written += length;
        if index == 0 {
            first = Some(bytes);
            return Ok(());
        }
        file.write_all_at(&bytes[..length as usize], at)
    })?;
    zero_range(file, next.max(head)..size)?;
    file.sync_all()?;
    if let Some(bytes) = first {
        file.write_all_at(&bytes[..head as usize], 0)?;
        file.sync_all()?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::OutputFormat;
    use super::super::opening::FileDisk;
    use super::super::target::Kernel;
    use super::*;
    use crate::base::progress::Quiet;

    /// A disk with content at both ends and in between, not a multiple of 1 MiB.
    fn disk() -> Vec<u8> {
        let mut bytes = vec![0; 5 * MIB as usize + 4096];
        let end = bytes.len();
        for range in [0..100, 3_000_000..3_000_512, end - 700..end] {
            bytes[range].fill(7);
        }
        bytes
    }

    fn run(bytes: &[u8], target: &Path) -> Result<Flashed, OutputError> {
        let source = Box::new(FileDisk::new(
            OutputFormat::Raw,
            Box::new(io::Cursor::new(bytes.to_vec())),
            None,
        ));
        let facts = (bytes.len() as u64, 512);
        let job = Job::new(source, facts, target, &Quiet).unwrap();
        flash(job, &Target::look(&Kernel::default(), target, true)?)
    }

    #[test]
    fn all_is_written_and_what_lies_behind_stays() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, vec![0xee; 8 * MIB as usize]).unwrap();
        let disk = disk();
        let flashed = run(&disk, &target).unwrap();
        assert_eq!(flashed.size, disk.len() as u64);
        assert_eq!(flashed.written, 3 * MIB + 4096 - MIB);
        let found = std::fs::read(&target).unwrap();
        assert!(found[..disk.len()] == disk);
        assert!(found[disk.len()..].iter().all(|byte| *byte == 0xee));
        assert_eq!(found.len(), 8 * MIB as usize);
    }

    #[test]
    fn a_target_that_is_too_small_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, vec![0xee; 5 * MIB as usize]).unwrap();
        let error = run(&disk(), &target).unwrap_err().to_string();
        assert!(error.contains("take a larger disk"), "{error}");
        assert!(
            std::fs::read(&target)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0xee)
        );
    }

    #[test]
    fn a_source_that_breaks_off_leaves_no_partition_table() {
        #[derive(Debug)]
        struct Breaks(io::Cursor<Vec<u8>>);
        impl Read for Breaks {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.position() > 4 * MIB {
                    return Err(io::Error::other("gone"));
                }
                self.0.read(buffer)
            }
        }
        impl Seek for Breaks {
            fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
                self.0.seek(to)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, vec![0xee; 8 * MIB as usize]).unwrap();
        let bytes = disk();
        let facts = (bytes.len() as u64, 512);
        let source = Box::new(FileDisk::new(
            OutputFormat::Raw,
            Box::new(Breaks(io::Cursor::new(bytes))),
            None,
        ));
        let job = Job::new(source, facts, &target, &Quiet).unwrap();
        let looked = Target::look(&Kernel::default(), &target, true).unwrap();
        assert!(flash(job, &looked).is_err());
        let found = std::fs::read(&target).unwrap();
        assert!(found[..MIB as usize].iter().all(|byte| *byte == 0));
    }
}
