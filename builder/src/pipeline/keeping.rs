//! A disk for `slipform run --state`: a file that the machine writes to, and whose state
//! outlives the image. Each run casts the image anew beside it, puts the old file's state
//! partition behind the new layers, and takes the old file's name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Cast, PipelineError, Settings};
use crate::base::fs::At;
use crate::base::{MIB, align_up};
use crate::disk::gpt::{self, Partition, Table};
use crate::output::{Artifact, OutputFormat};

/// A disk to run, held against others who would run it.
#[derive(Debug)]
pub struct KeptDisk {
    /// The disk.
    pub artifact: Artifact,
    /// Bytes of state that came along; 0 if there was none yet.
    pub state: u64,
    /// Locked as long as this lives.
    _held: File,
}

impl Settings {
    /// Makes `path` the disk of `cast` with the state that was on it.
    ///
    /// # Errors
    /// [`PipelineError::Kept`] for a file that is in use, or none that a run left;
    /// [`PipelineError::Output`] and [`PipelineError::Fs`] when it cannot be written. Then
    /// it is as it was.
    pub fn keeping(&self, cast: &Cast, path: &Path) -> Result<KeptDisk, PipelineError> {
        let old = old_state(path)?;
        let new = beside(path);
        let mut artifact = self.write(cast, OutputFormat::Raw, &new)?;
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).open(&new).at("open", &new)?;
        hold(&disk, path)?;
        let mut state = 0;
        if let Some((mut from, partition)) = old {
            state = partition.length;
            graft(&mut from, &partition, &disk)
                .map_err(|why| kept(path, &format!("its state cannot be taken along: {why}")))?;
        }
        disk.sync_all().at("write", &new)?;
        std::fs::rename(&new, path).at("rename", path)?;
        artifact.bytes = disk.metadata().at("look at", path)?.len();
        artifact.path = path.to_owned();
        Ok(KeptDisk {
            artifact,
            state,
            _held: disk,
        })
    }
}

fn kept(path: &Path, why: &str) -> PipelineError {
    PipelineError::Kept {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn hold(disk: &File, path: &Path) -> Result<(), PipelineError> {
    match disk.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(kept(
            path,
            "another slipform runs on it; end that one first",
        )),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path)?,
    }
}

/// Where a state partition lies on its disk, in bytes.
#[derive(Debug)]
struct State {
    start: u64,
    length: u64,
    entry: Partition,
}

/// The state on the disk of the last run; none if there is no such file, or no state yet.
fn old_state(path: &Path) -> Result<Option<(File, State)>, PipelineError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.at("open", path)?,
    };
    hold(&file, path)?;
    let table = gpt::read(&mut file).at("read", path)?;
    let table = table.ok_or_else(|| {
        kept(
            path,
            "it is no disk that a run left; name another file, or one that is not there yet",
        )
    })?;
    let mut states = table.partitions.iter().filter(|p| gpt::is_state(p));
    match (states.next(), states.next()) {
        (None, _) => Ok(None),
        (Some(entry), None) => {
            let sector = u64::from(table.sector_size);
            let state = State {
                start: entry.first_lba * sector,
                length: (entry.last_lba - entry.first_lba + 1) * sector,
                entry: entry.clone(),
            };
            Ok(Some((file, state)))
        }
        (Some(_), Some(_)) => Err(kept(
            path,
            "it has several state partitions; give all but the right one another name (sgdisk -c)",
        )),
    }
}

/// Puts the state behind the last partition of a disk that was just cast.
fn graft(from: &mut File, state: &State, mut disk: &File) -> io::Result<()> {
    let table = gpt::read(&mut disk)?.ok_or(io::ErrorKind::InvalidData)?;
    let sector = u64::from(table.sector_size);
    let end = table.partitions.iter().map(|p| (p.last_lba + 1) * sector);
    // Where it lay, if the layers leave it there.
    let start = align_up(end.max().unwrap_or(0).max(state.start), MIB);
    let size = disk.metadata()?.len();
    let needed = align_up(
        start + state.length + gpt::backup_size(table.sector_size),
        MIB,
    );
    disk.set_len(size.max(needed))?;
    copy(from, state, disk, start)?;
    tables(table, state, disk, start)
}

/// The table of the cast with the state's entry behind the others, on a disk of another size.
fn tables(mut table: Table, state: &State, mut disk: &File, start: u64) -> io::Result<()> {
    let sector = u64::from(table.sector_size);
    let size = disk.metadata()?.len();
    table.partitions.push(Partition {
        first_lba: start / sector,
        last_lba: (start + state.length) / sector - 1,
        ..state.entry.clone()
    });
    let tables = gpt::tables(
        table.sector_size,
        size / sector,
        table.disk_guid,
        &table.partitions,
    )
    .map_err(io::Error::other)?;
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&tables.primary)?;
    disk.seek(SeekFrom::Start(size - tables.backup.len() as u64))?;
    disk.write_all(&tables.backup)
}

/// Copies the state; runs of zeros become holes.
fn copy(from: &mut File, state: &State, mut to: &File, start: u64) -> io::Result<()> {
    const CHUNK: u64 = 256 * 1024;
    from.seek(SeekFrom::Start(state.start))?;
    let mut chunk = Vec::new();
    let mut done = 0;
    while done < state.length {
        chunk.clear();
        let wanted = CHUNK.min(state.length - done);
        let got = (&mut *from).take(wanted).read_to_end(&mut chunk)?;
        if got as u64 != wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What was cast there before is the old second table at most.
        to.seek(SeekFrom::Start(start + done))?;
        if chunk.iter().any(|&byte| byte != 0) || done + wanted == state.length {
            to.write_all(&chunk)?;
        } else {
            zero(to, start + done, wanted)?;
        }
        done += wanted;
    }
    Ok(())
}

/// Makes bytes zero that may not be; a hole stays one.
fn zero(mut disk: &File, at: u64, length: u64) -> io::Result<()> {
    let mut there = Vec::new();
    disk.seek(SeekFrom::Start(at))?;
    disk.take(length).read_to_end(&mut there)?;
    if there.iter().any(|&byte| byte != 0) {
        there.fill(0);
        disk.seek(SeekFrom::Start(at))?;
        disk.write_all(&there)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// A disk with one layer of so many MiB, and a state of 16 MiB if `state`.
    fn disk(path: &Path, layer: u64, state: Option<u8>) {
        let sectors = |bytes: u64| bytes / 512;
        let mut partitions = vec![Partition {
            type_guid: gpt::LAYER_TYPE,
            guid: Uuid::from_u128(u128::from(layer) + 1),
            first_lba: sectors(MIB),
            last_lba: sectors((1 + layer) * MIB) - 1,
            attributes: 0,
            name: "layer".to_owned(),
        }];
        let mut size = (2 + layer) * MIB;
        let mut bytes = vec![0; size as usize];
        bytes[MIB as usize..((1 + layer) * MIB) as usize].fill(0x11);
        if let Some(fill) = state {
            size += 16 * MIB;
            bytes.resize(size as usize, 0);
            let start = ((1 + layer) * MIB) as usize;
            bytes[start..start + 1000].fill(fill);
            bytes[size as usize - 2 * MIB as usize..size as usize - MIB as usize].fill(fill);
            partitions.push(Partition {
                type_guid: gpt::STATE_TYPE,
                guid: Uuid::from_u128(99),
                first_lba: sectors((1 + layer) * MIB),
                last_lba: sectors(size - MIB) - 1,
                attributes: 0,
                name: gpt::STATE_NAME.to_owned(),
            });
        }
        let tables = gpt::tables(512, sectors(size), Uuid::from_u128(7), &partitions).unwrap();
        bytes[..tables.primary.len()].copy_from_slice(&tables.primary);
        let at = bytes.len() - tables.backup.len();
        bytes[at..].copy_from_slice(&tables.backup);
        std::fs::write(path, bytes).unwrap();
    }

    fn state_of(path: &Path) -> (u64, Vec<u8>, usize) {
        let (mut file, state) = old_state(path).unwrap().expect("a state");
        let count = gpt::read(&mut file).unwrap().unwrap().partitions.len();
        file.seek(SeekFrom::Start(state.start)).unwrap();
        let mut bytes = Vec::new();
        file.take(state.length).read_to_end(&mut bytes).unwrap();
        (state.start, bytes, count)
    }

    #[test]
    fn the_state_comes_along_whatever_the_size_of_the_new_layers() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        disk(&old, 4, Some(0x5a));
        let (_, before, _) = state_of(&old);
        for layer in [2, 4, 9, 40] {
            disk(&new, layer, None);
            let (mut from, state) = old_state(&old).unwrap().expect("a state");
            let mut options = OpenOptions::new();
            let target = options.read(true).write(true).open(&new).unwrap();
            graft(&mut from, &state, &target).unwrap();
            drop((from, target));
            let (start, bytes, count) = state_of(&new);
            assert_eq!(start, (1 + layer).max(5) * MIB, "{layer}");
            assert!(bytes == before, "{layer}");
            assert_eq!(count, 2);
            let whole = std::fs::read(&new).unwrap();
            let layer_bytes = &whole[MIB as usize..((1 + layer) * MIB) as usize];
            assert!(layer_bytes.iter().all(|&byte| byte == 0x11), "{layer}");
        }
    }

    #[test]
    fn a_file_in_use_or_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        assert!(old_state(&path).unwrap().is_none());
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let error = old_state(&path).unwrap_err().to_string();
        assert!(error.contains("no disk that a run left"), "{error}");
        disk(&path, 1, None);
        assert!(old_state(&path).unwrap().is_none());
        disk(&path, 1, Some(1));
        let held = old_state(&path).unwrap();
        let error = old_state(&path).unwrap_err().to_string();
        assert!(error.contains("another slipform runs on it"), "{error}");
        drop(held);
        assert!(old_state(&path).unwrap().is_some());
    }
}
