//! All that one layer brings: its container or its `tar`, its packages in order of their names, then the
//! user's own files.
//!
//! Who wins at one path:
//! - the user's files, folders and links, over an archive's of the same sort (a
//!   file or link over a file or link, a folder's owner and mode over a folder's);
//! - between archives (the container or `tar` and the packages), folders merge (the first in order gives mode and
//!   owner, as the first unpacked does with dpkg) and equal files are one; different
//!   files are an error, because dpkg's diversions and `Replaces` are not followed;
//! - a folder meets a symbolic link: the link stays, and what is below the folder
//!   goes to where the link leads (`tree` follows it), as with dpkg;
//! - anything else (a file and a folder) is an error that names both.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read;
use std::path::Path;

use super::deb::UnpackedDeb;
use super::exclude::{Excludes, promote_links};
use super::{Content, Entry, Kind, LayersError, UnpackedContainer, UnpackedTar, content, files};
use crate::base::Digest;
use crate::base::fs::At;
use crate::spec::{LayerSpec, Owner};
use crate::store::{StatError, Store};

/// Digest and length in bytes of a file of the host that has just been looked at.
pub type DigestOf<'a> = &'a dyn Fn(&Path, &Metadata) -> Result<(Digest, u64), StatError>;
/// The numbers of an owner given by name; the error says which name is unknown.
pub type IdsOf<'a> = &'a dyn Fn(&Owner) -> Result<(u32, u32), String>;

/// What [`collect`] reads.
#[derive(Clone, Copy)]
pub struct CollectInput<'a> {
    /// The layer as written.
    pub spec: &'a LayerSpec,
    /// Its packages, in any order.
    pub packages: &'a [UnpackedDeb],
    /// Where the packages' files are.
    pub store: &'a Store,
    /// Digests of the user's files (the store's stat cache knows most of them).
    pub digest_of: DigestOf<'a>,
    /// Looks up owners given by name (`tree::generated::Accounts::ids`).
    pub ids: IdsOf<'a>,
    /// The binary that cargo built for the layer's `cargo` rule.
    pub built: Option<&'a Path>,
    /// The layer's `tar`, unpacked.
    pub tar: Option<&'a UnpackedTar>,
    /// The layer's container, unpacked.
    pub container: Option<&'a UnpackedContainer>,
}

impl std::fmt::Debug for CollectInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CollectInput")
            .field("spec", &self.spec.name)
            .finish_non_exhaustive()
    }
}

/// Gathers one layer. Entries come in byte order of their paths; at a path with
/// both a link and a folder (see the module's text) the link comes first.
///
/// # Errors
/// [`LayersError::Rule`] for a rule that cannot be followed, [`LayersError::Collision`]
/// for two things at one path, and what reading the packages reports.
pub fn collect(input: &CollectInput<'_>) -> Result<Vec<Entry>, LayersError> {
    collect_with(input, files::user_entries(input)?)
}

/// As [`collect`], with what [`user_entries`](super::user_entries) found before:
/// a build that asks for it more than once looks at the user's files once.
///
/// # Errors
/// As [`collect`].
pub fn collect_with(input: &CollectInput<'_>, user: Vec<Entry>) -> Result<Vec<Entry>, LayersError> {
    let spec = input.spec;
    let excludes = |docs| {
        Excludes::new(docs, &spec.exclude).map_err(|error| LayersError::Rule {
            layer: spec.name.clone(),
            rule: "exclude".into(),
            problem: format!("the glob is malformed: {error}"),
        })
    };
    let mut packages: Vec<&UnpackedDeb> = input.packages.iter().collect();
    packages.sort_by(|a, b| {
        (&a.name, &a.version, &a.architecture).cmp(&(&b.name, &b.version, &b.architecture))
    });
    if let Some(pair) = packages
        .windows(2)
        .find(|pair| pair[0].name == pair[1].name)
    {
        return Err(LayersError::Rule {
            layer: spec.name.clone(),
            rule: format!("package {}", pair[0].name),
            problem: format!(
                "both {} and {} are in the layer; keep one",
                pair[0].version, pair[1].version
            ),
        });
    }
    let mut merge = Merge {
        input,
        entries: BTreeMap::new(),
        through_links: Vec::new(),
    };
    if let (Some(rule), Some(tar)) = (&spec.tar, input.tar) {
        // Whoever made it chose what is in it: its documentation stays.
        for entry in excludes(true)?.apply(tar.entries(input.store, &rule.written)?) {
            merge.archive(entry)?;
        }
    }
    if let (Some(rule), Some(container)) = (&spec.oci, input.container) {
        for entry in excludes(true)?.apply(container.entries(input.store, &rule.written)?) {
            merge.archive(entry)?;
        }
    }
    let excludes = excludes(spec.docs)?;
    for package in packages {
        for entry in excludes.apply(package.entries(input.store)?) {
            merge.archive(entry)?;
        }
    }
    for entry in user {
        if !excludes.leaves_out(&entry.path) {
            merge.user(entry)?;
        }
    }
    let mut entries: Vec<Entry> = merge.entries.into_values().collect();
    entries.extend(merge.through_links);
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Entries by path, and folders that lie behind links.
struct Merge<'a> {
    input: &'a CollectInput<'a>,
    entries: BTreeMap<String, Entry>,
    through_links: Vec<Entry>,
}

fn sort_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory => "folder",
        Kind::File(_) | Kind::Hardlink(_) => "file",
        Kind::Symlink(_) => "symbolic link",
        Kind::CharDevice(..) | Kind::BlockDevice(..) => "device",
        Kind::Fifo => "pipe",
        Kind::Socket => "socket",
    }
}

impl Merge<'_> {
    fn collision(&self, first: &Entry, second: &Entry) -> LayersError {
        let what = |entry: &Entry| format!("a {} of {}", sort_of(&entry.kind), entry.origin);
        LayersError::Collision {
            layer: self.input.spec.name.clone(),
            path: second.path.clone(),
            first: what(first),
            second: what(second),
        }
    }

    /// Handles a folder and a link at one path; `None` when it was such a pair.
    fn folder_or_link(&mut self, entry: Entry) -> Option<Entry> {
        let there = self.entries.get(&entry.path).map(|there| &there.kind);
        match (there, &entry.kind) {
            (Some(Kind::Symlink(_)), Kind::Directory) => {
                self.through_links.push(entry);
                None
            }
            (Some(Kind::Directory), Kind::Symlink(_)) => {
                if let Some(folder) = self.entries.insert(entry.path.clone(), entry) {
                    self.through_links.push(folder);
                }
                None
            }
            _ => Some(entry),
        }
    }

    /// Adds what a package or the `tar` brings.
    fn archive(&mut self, entry: Entry) -> Result<(), LayersError> {
        let Some(entry) = self.folder_or_link(entry) else {
            return Ok(());
        };
        let Some(there) = self.entries.get(&entry.path) else {
            self.entries.insert(entry.path.clone(), entry);
            return Ok(());
        };
        let same = match (&there.kind, &entry.kind) {
            (Kind::Directory, Kind::Directory) | (Kind::Fifo, Kind::Fifo) => true,
            (Kind::Symlink(a), Kind::Symlink(b)) => a == b,
            (Kind::File(a), Kind::File(b)) => {
                there.meta.mode == entry.meta.mode && self.same_bytes(a, b)?
            }
            _ => false,
        };
        if same {
            Ok(())
        } else {
            Err(self.collision(there, &entry))
        }
    }

    /// Adds what the user's rules bring.
    fn user(&mut self, entry: Entry) -> Result<(), LayersError> {
        let there = self.entries.get(&entry.path);
        let from_user = there.is_some_and(|there| !there.is_of_archive());
        let pair = !from_user || matches!(entry.kind, Kind::Directory);
        // A user's link in the place of an archive's folder is a mistake more often than a wish.
        let link = matches!(entry.kind, Kind::Symlink(_));
        let entry = if pair && !link {
            match self.folder_or_link(entry) {
                Some(entry) => entry,
                None => return Ok(()),
            }
        } else {
            entry
        };
        let Some(there) = self.entries.get(&entry.path) else {
            self.entries.insert(entry.path.clone(), entry);
            return Ok(());
        };
        let (a, b) = (there.kind == Kind::Directory, entry.kind == Kind::Directory);
        let same = there.kind == entry.kind && there.meta == entry.meta;
        if a != b || (!a && from_user && !same) {
            return Err(self.collision(there, &entry));
        }
        let gone = self.entries.insert(entry.path.clone(), entry);
        if let Some(gone) = gone.filter(|gone| matches!(gone.kind, Kind::File(_))) {
            self.promote(&gone);
        }
        Ok(())
    }

    /// The user's file took a package file's place: other names of that file keep the package's bytes.
    fn promote(&mut self, gone: &Entry) {
        let linked =
            |entry: &&Entry| matches!(&entry.kind, Kind::Hardlink(target) if *target == gone.path);
        let mut links: Vec<Entry> = self.entries.values().filter(linked).cloned().collect();
        promote_links(&mut links, gone);
        for link in links {
            self.entries.insert(link.path.clone(), link);
        }
    }

    fn same_bytes(&self, a: &Content, b: &Content) -> Result<bool, LayersError> {
        if a.size != b.size {
            return Ok(false);
        }
        let digest = |content: &Content| -> Result<Digest, LayersError> {
            let mut reader = content::open(content, self.input.store)?;
            let reader: &mut dyn Read = &mut reader;
            Ok(Digest::of_reader(reader)
                .at("read", self.input.store.root())?
                .0)
        };
        Ok(digest(a)? == digest(b)?)
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
