//! How much each path may hold: ext4's project quotas.
//!
//! Everything below a path bears the path's number, which new files and folders take from
//! the folder that they are made in; the kernel counts their blocks and refuses more than
//! the limit (EDQUOT). The counts are in a hidden file that [`super::ext4`] makes with the
//! file system: one that was made without cannot have quotas, and then the machine goes on
//! without and reports it, for it is better off so than without its state.
//!
//! A quota that is new on a path that was kept before numbers what is there. The folder
//! itself comes last: numbered, it says that all is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::StatePath;

use super::ext4::{BLOCK, put};
use crate::sys::quota;
use crate::turn::Report;

/// Blocks of ext4 that the file of counts begins with.
pub(super) const FILE_BLOCKS: u32 = 2;
/// Blocks of the file's own.
const TREE_BLOCK: usize = 1024;
/// Its information, four levels of the tree, and one block with counts.
const TREE_BLOCKS: usize = 6;
/// The file's length.
pub(super) const FILE_BYTES: u64 = (TREE_BLOCKS * TREE_BLOCK) as u64;
/// For how long a soft limit may be passed, which nobody sets: a week, as everywhere.
const GRACE: u32 = 7 * 24 * 60 * 60;

/// The file of counts (linux/fs/quota/quotaio_v2.h, format v2r1): what belongs to no path
/// has the root folder and lost+found, a block each.
pub(super) fn empty_file() -> Vec<u8> {
    let mut file = vec![0; FILE_BLOCKS as usize * BLOCK as usize];
    let last = TREE_BLOCKS as u32 - 1;
    // Magic of projects, version 1; grace times, flags, blocks, free block, block with room.
    let head = [0xd9c0_3f14, 1, GRACE, GRACE, 0, TREE_BLOCKS as u32, 0, last];
    for (index, value) in head.into_iter().enumerate() {
        put(&mut file, index * 4, &u32::to_le_bytes(value));
    }
    // Number 0 is the first of each level.
    for level in 1..last {
        put(
            &mut file,
            level as usize * TREE_BLOCK,
            &(level + 1).to_le_bytes(),
        );
    }
    let counts = last as usize * TREE_BLOCK;
    put(&mut file, counts + 8, &1u16.to_le_bytes());
    put(&mut file, counts + 16 + 24, &2u64.to_le_bytes());
    put(&mut file, counts + 16 + 48, &(2 * BLOCK).to_le_bytes());
    file
}

/// They are counted, and limits hold.
#[derive(Debug)]
pub(super) struct Quotas {
    root: File,
}

impl Quotas {
    /// Makes limits hold on the mounted state, if the image has any; reports why they do not.
    pub(super) fn switch_on(
        root: &Path,
        paths: &[StatePath],
        report: &mut dyn Report,
    ) -> Option<Self> {
        if paths.iter().all(|path| path.quota.is_none()) {
            return None;
        }
        let on = File::open(root).and_then(|root| {
            quota::enforce(&root)?;
            Ok(Self { root })
        });
        let error = match on {
            Ok(quotas) => return Some(quotas),
            Err(error) => error,
        };
        report.event(Event::Error {
            phase: Phase::State,
            what: "limit what the state's paths hold".to_owned(),
            why: format!(
                "{error}: this state was made without quotas, and is used without; for them, start with a new one"
            ),
        });
        None
    }

    /// Sets a path's limit, or lifts the one that it had.
    pub(super) fn apply(&self, path: &StatePath, folder: &Path, report: &mut dyn Report) {
        if let Err(error) = self.try_apply(path, folder) {
            let what = match path.quota {
                Some(quota) => format!("limit {} to {quota} bytes", path.path),
                None => format!("lift the limit of {}", path.path),
            };
            report.event(Event::Error {
                phase: Phase::State,
                what,
                why: error.to_string(),
            });
        }
    }

    fn try_apply(&self, path: &StatePath, folder: &Path) -> io::Result<()> {
        let project = path.project();
        let numbered = quota::project(&open(folder)?)? == project;
        match path.quota {
            Some(_) if !numbered => number(folder, project)?,
            None if !numbered => return Ok(()),
            _ => {}
        }
        quota::limit(&self.root, project, path.quota.unwrap_or(0))
    }
}

/// Gives everything below a folder, and then the folder itself, to a project. What can hold
/// no blocks, such as a link or a pipe, keeps its number.
fn number(folder: &Path, project: u32) -> io::Result<()> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                quota::set_project(&open(&entry.path())?, project, true)?;
                folders.push(entry.path());
            } else if kind.is_file() {
                quota::set_project(&open(&entry.path())?, project, false)?;
            }
        }
    }
    quota::set_project(&open(folder)?, project, true)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Events;

    #[test]
    fn where_nothing_is_counted_it_is_said_and_the_machine_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let mut path = StatePath {
            path: "/var/lib/app".to_owned(),
            owner: None,
            mode: None,
            quota: None,
        };
        let mut told = Events::default();
        assert!(Quotas::switch_on(root.path(), &[path.clone()], &mut told).is_none());
        assert!(told.0.is_empty());
        path.quota = Some(1 << 20);
        assert!(Quotas::switch_on(root.path(), &[path], &mut told).is_none());
        assert!(
            matches!(&told.0[..], [Event::Error { why, .. }] if why.contains("made without quotas")),
            "{:?}",
            told.0
        );
    }
}
