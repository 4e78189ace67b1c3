//! Collecting: what no root reaches goes.
//!
//! Roots are the files in `roots/`, one for each project, and the manifests that
//! `index.json` names, unless the name was given beside something else: an image's
//! name lasts as long as a project keeps the image, its attestations' as long as
//! the image. From there the marks spread through every reached blob
//! that is text: a digest written in a manifest, a disk map, a release record or
//! a lock keeps the blob that it names. That needs to know no format, and errs
//! on the side of keeping. Whoever wants a blob kept writes its digest, as
//! `sha256:` and 64 digits, into something that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::oci::{Descriptor, KEPT_WITH};
use super::steps::{Output, StepRecord, read_record};
use super::temp::remove_any;
use super::{ExclusiveGuard, Store, StoreError, fault};
use crate::base::Digest;
use crate::base::fs::{At, FsError};

/// Blobs above this size are not searched for digests: our documents are smaller.
const DOCUMENT_LIMIT: u64 = 16 * 1024 * 1024;

/// Largest root file that is read, in bytes.
const ROOT_LIMIT: u64 = 16 * 1024 * 1024;

/// What a project keeps in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The file that needs the blobs (a project's lock). When it is gone, so is the root.
    pub path: PathBuf,
    /// The blobs, and the digests of unpacked folders.
    pub digests: BTreeSet<Digest>,
}

/// What collecting did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Blobs and folders removed.
    pub removed: u64,
    /// The room on the disk that they took, in bytes.
    pub bytes: u64,
    /// Blobs and folders kept.
    pub kept: u64,
    /// Roots dropped because their file is gone.
    pub dropped_roots: Vec<PathBuf>,
    /// Names dropped because nothing keeps what they were given beside.
    pub dropped_names: u64,
}

impl Store {
    /// Says what a project keeps. The root's name is made from its path: a
    /// project has one root.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Full`], [`StoreError::Malformed`].
    pub fn set_root(&self, root: &Root) -> Result<(), StoreError> {
        let name = Digest::of(root.path.as_os_str().as_encoded_bytes()).hex();
        let path = self.root().join("roots").join(format!("{name}.json"));
        let malformed = |why: serde_json::Error| StoreError::Malformed {
            what: format!("the root {}", root.path.display()),
            why: why.to_string(),
        };
        let bytes = serde_json::to_vec(root).map_err(malformed)?;
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        self.replace(&path, &bytes, true)
    }

    /// All roots by the name of their file.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for one that cannot be read: collecting without
    /// it would remove what it keeps.
    pub fn roots(&self) -> Result<BTreeMap<PathBuf, Root>, StoreError> {
        let mut roots = BTreeMap::new();
        for entry in list(&self.root().join("roots"))? {
            let path = entry.path();
            let size = entry.metadata().at("stat", &path)?.len();
            let malformed = |why: String| StoreError::Malformed {
                what: path.display().to_string(),
                why: format!("{why}; remove the file, and build its project again"),
            };
            if size > ROOT_LIMIT {
                return Err(malformed(format!("it has {size} bytes")));
            }
            let bytes = fs::read(&path).at("read", &path)?;
            let root = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
            roots.insert(path, root);
        }
        Ok(roots)
    }

    /// Removes what no root reaches: blobs, unpacked folders, records of steps
    /// whose results are gone, damaged blobs that were set aside. With `dry_run`
    /// nothing is removed.
    ///
    /// # Errors
    /// [`StoreError::Fs`], [`StoreError::Malformed`]; what was removed until then stays removed.
    pub fn collect(&self, _alone: &ExclusiveGuard, dry_run: bool) -> Result<Collected, StoreError> {
        let mut sweep = Sweep {
            dry_run,
            done: Collected::default(),
        };
        let named = self.index()?.manifests;
        let (beside, own): (Vec<_>, Vec<_>) = named.iter().partition(|d| kept_with(d).is_some());
        let mut start: BTreeSet<Digest> = own.iter().map(|d| d.digest).collect();
        for (file, root) in self.roots()? {
            if root.path.exists() {
                start.extend(root.digests);
            } else {
                sweep.done.dropped_roots.push(root.path);
                sweep.remove_small(&file)?;
            }
        }
        let marked = self.mark(start, &beside)?;
        let stays = |d: &Descriptor| kept_with(d).is_none_or(|subject| marked.contains(&subject));
        sweep.done.dropped_names = named.iter().filter(|d| !stays(d)).count() as u64;
        if !dry_run {
            // First: no name may outlive what it names.
            self.prune_index(stays)?;
        }
        for folder in [self.blobs(), self.root().join("unpacked")] {
            for entry in list(&folder)? {
                let name = entry.file_name();
                let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
                match digest {
                    Some(digest) if marked.contains(&digest) => sweep.done.kept += 1,
                    // A file of a name that is no digest is not ours to remove.
                    None => sweep.done.kept += 1,
                    Some(_) => sweep.remove(&entry)?,
                }
            }
        }
        for entry in list(&self.root().join("quarantine"))? {
            sweep.remove(&entry)?;
        }
        self.sweep_steps(&marked, &mut sweep)?;
        Ok(sweep.done)
    }

    /// All that is reached from `start`, and from each of `beside` whose subject is.
    fn mark(
        &self,
        start: BTreeSet<Digest>,
        beside: &[&Descriptor],
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let mut marked = BTreeSet::new();
        let mut next: Vec<Digest> = start.into_iter().collect();
        while let Some(digest) = next.pop() {
            let with = beside.iter().filter(|d| kept_with(d) == Some(digest));
            next.extend(with.map(|d| d.digest).filter(|d| !marked.contains(d)));
            if !marked.insert(digest) || self.size(&digest).is_none_or(|s| s > DOCUMENT_LIMIT) {
                continue;
            }
            let path = self.path(&digest);
            // Unverified on purpose: a damaged document may still name what to keep.
            let bytes = fs::read(&path).at("read", &path)?;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                next.extend(digests_in(text).filter(|found| !marked.contains(found)));
            }
        }
        Ok(marked)
    }

    /// A step's record outlives its results by nothing; a subject's last inputs
    /// are kept as long as any record is.
    fn sweep_steps(&self, marked: &BTreeSet<Digest>, sweep: &mut Sweep) -> Result<(), StoreError> {
        let mut kept = 0;
        for entry in list(&self.root().join("steps"))? {
            let record: Option<StepRecord> = read_record(&entry.path());
            let lives = record.is_some_and(|record| {
                let with = record
                    .beside
                    .is_none_or(|subject| marked.contains(&subject));
                with && record.outputs.values().all(|output| match output {
                    Output::Blob(digest) => marked.contains(digest) && self.has(digest),
                    Output::Value(_) => true,
                })
            });
            if lives {
                kept += 1;
            } else {
                sweep.remove_small(&entry.path())?;
            }
        }
        if kept == 0 {
            for entry in list(&self.root().join("subjects"))? {
                sweep.remove_small(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// What an index entry was named beside, if anything.
fn kept_with(entry: &Descriptor) -> Option<Digest> {
    entry.annotations.get(KEPT_WITH)?.parse().ok()
}

/// Removes and counts.
struct Sweep {
    dry_run: bool,
    done: Collected,
}

impl Sweep {
    fn remove(&mut self, entry: &DirEntry) -> Result<(), FsError> {
        let path = entry.path();
        self.done.bytes += room(&path).at("stat", &path)?;
        self.done.removed += 1;
        if !self.dry_run {
            fault::point();
            remove_any(&path).at("remove", &path)?;
        }
        Ok(())
    }

    /// A record of ours, too small to count.
    fn remove_small(&self, path: &Path) -> Result<(), FsError> {
        if self.dry_run {
            return Ok(());
        }
        fault::point();
        fs::remove_file(path).at("remove", path)
    }
}

/// The room that a file, or all files of a folder, take on the disk, in bytes.
fn room(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut next = vec![path.to_owned()];
    while let Some(path) = next.pop() {
        let meta = fs::symlink_metadata(&path)?;
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                next.push(entry?.path());
            }
        }
    }
    Ok(bytes)
}

fn list(folder: &Path) -> Result<Vec<DirEntry>, FsError> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .at("list", folder)
}

/// Every `sha256:` with 64 hexadecimal digits behind it.
fn digests_in(text: &str) -> impl Iterator<Item = Digest> {
    text.match_indices("sha256:").filter_map(|(at, word)| {
        let start = at + word.len();
        Digest::from_hex(text.get(start..start + 64)?).ok()
    })
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
