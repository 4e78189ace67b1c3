//! Entries become the tree of one layer, in view of the layers below it.
//!
//! **Paths.** Every path is followed through the folder links of the layers
//! below and of this layer, as dpkg follows them: with `/lib -> usr/lib` below,
//! a package's `/lib/x` lies at `usr/lib/x`, and its folder `/lib` does not hide
//! the link. Links may be absolute or relative; circles are refused.
//!
//! **Usr-merge.** Packages of Debian 13 bring no `/bin`, `/lib`, `/sbin`, `/lib64`
//! of their own (base-files and the installer make them), yet binaries name
//! `/lib64/ld-linux-x86-64.so.2`. So the bottom layer of every stack gets the
//! four links into `/usr`, unless it brings a link there itself.
//!
//! **Parents** that nobody brings copy owner, mode and attributes from the same
//! folder below, or else are root's and 0755. So does a package's folder that is
//! there below already: dpkg leaves such a folder as it is, and a user's `dirs`
//! in a lower layer hold. Their time is the fixed one ([`Below::folder_meta`] says why).
//!
//! **Removing.** A removed path becomes a whiteout; when this layer makes it anew,
//! a folder becomes opaque and anything else simply stands in its place. Nothing
//! is whited out that the stack below does not have. Without being removed first,
//! a folder cannot take a file's place nor a file a folder's.
//!
//! **Hard links**: the first name in byte order is the file, the others are links
//! to it, whatever order they came in.
//!
//! **Extended attributes**: `security.capability`, POSIX ACLs and `user.*` are
//! kept; `trusted.*` is dropped, because overlayfs would take orders from it; all
//! others (SELinux and IMA labels) belong to another system and are dropped with a note.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::layers::{Entry, Kind, Meta};

use super::below::{Below, OPAQUE, Seen};
use super::{Node, Tree, TreeError, paths};

mod check;
mod hardlinks;

use check::{
    MAX_NAME, MAX_PATH, ancestors, bad_path, below_a_file, check_path, default_folder, join,
    sort_of, twice,
};

/// Links of a merged `/usr`, made in the bottom layer.
pub const USR_LINKS: [(&str, &str); 4] = [
    ("/bin", "usr/bin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/sbin", "usr/sbin"),
];

/// How often the layer's own links may change where its links lie.
const MAX_ROUNDS: usize = 40;

/// A layer's tree, and what its maker should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What the layer's file system holds.
    pub tree: Tree,
    /// Sentences for the user: what was left out and why.
    pub notes: Vec<String>,
}

/// Builds the tree of the layer that brings `entries` and hides `remove`
/// (guest paths or globs) of the layers `below`.
///
/// # Errors
/// [`TreeError`] names the path, who is at odds over it, and the remedy.
pub fn build(
    entries: Vec<Entry>,
    remove: &[String],
    below: &Below<'_>,
) -> Result<Built, TreeError> {
    let mut builder = Builder {
        below,
        removed: BTreeSet::new(),
        links: BTreeMap::new(),
        folders: RefCell::default(),
        placed: BTreeMap::new(),
        dropped: BTreeMap::new(),
        notes: Vec::new(),
    };
    builder.remove(remove)?;
    let entries = builder.checked(entries)?;
    builder.find_links(&entries)?;
    builder.place(entries)?;
    builder.parents()?;
    builder.white_out();
    builder.parents()?;
    Ok(builder.finish())
}

/// Something at its true path.
struct Placed {
    meta: Meta,
    kind: Kind,
    origin: String,
    /// Whether it was brought at this very path, and not through a link.
    direct: bool,
}

struct Builder<'a> {
    below: &'a Below<'a>,
    /// Topmost paths of the view below that are hidden.
    removed: BTreeSet<String>,
    /// This layer's symbolic links, at their true paths.
    links: BTreeMap<String, String>,
    /// Folders whose true path is known.
    folders: RefCell<HashMap<String, String>>,
    placed: BTreeMap<String, Placed>,
    /// Attributes left out: name to count and first path.
    dropped: BTreeMap<String, (u64, String)>,
    notes: Vec<String>,
}

impl Builder<'_> {
    /// Finds what `remove` hits.
    fn remove(&mut self, patterns: &[String]) -> Result<(), TreeError> {
        for pattern in patterns {
            let bad = |rule: String| TreeError::BadRemove {
                pattern: pattern.clone(),
                rule,
            };
            if !pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
                return Err(bad(
                    "write an absolute path of the image without '..'".into()
                ));
            }
            let link = |at: &str| match self.below.kind(at) {
                Some(Seen::Symlink(target)) => Some(target),
                _ => None,
            };
            let literal = paths::resolve(pattern, false, &link)
                .ok_or_else(|| bad("the path runs in circles through symbolic links".into()))?;
            if literal.is_empty() {
                return Err(bad("the root cannot be removed; name what is in it".into()));
            }
            let hits = if self.below.kind(&literal).is_some() {
                vec![literal]
            } else if pattern.contains(['*', '?', '[', '{']) {
                self.below
                    .glob(pattern)
                    .map_err(|e| bad(format!("the glob is malformed ({e})")))?
            } else {
                Vec::new()
            };
            if hits.is_empty() {
                return Err(TreeError::RemovesNothing(pattern.clone()));
            }
            self.removed.extend(hits);
        }
        let all = std::mem::take(&mut self.removed);
        self.removed = all
            .iter()
            .filter(|path| !ancestors(path).any(|above| all.contains(above)))
            .cloned()
            .collect();
        Ok(())
    }

    fn is_removed(&self, path: &str) -> bool {
        !self.removed.is_empty()
            && (self.removed.contains(path)
                || ancestors(path).any(|above| self.removed.contains(above)))
    }

    /// What is below at `path` once the removed is gone.
    fn seen(&self, path: &str) -> Option<Seen> {
        if self.is_removed(path) {
            None
        } else {
            self.below.kind(path)
        }
    }

    /// What a folder that is not this layer's own idea looks like.
    fn folder_below(&self, path: &str) -> Meta {
        let meta = if self.is_removed(path) {
            None
        } else {
            self.below.folder_meta(path)
        };
        let mut meta = meta.unwrap_or_else(default_folder);
        meta.xattrs.retain(|name, _| !name.starts_with("trusted."));
        meta
    }

    /// Checks paths, drops attributes and `lost+found`, adds the links of a merged `/usr`.
    fn checked(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, TreeError> {
        let mut checked = Vec::with_capacity(entries.len());
        for mut entry in entries {
            check_path(&entry)?;
            if entry.path == "/lost+found" || entry.path.starts_with("/lost+found/") {
                self.notes
                    .push(format!("left out {}: ext4 has its own", entry.path));
                continue;
            }
            entry.meta.mode &= 0o7777;
            if matches!(entry.kind, Kind::Symlink(_)) {
                entry.meta.mode = 0o777;
            }
            self.filter_xattrs(&mut entry);
            checked.push(entry);
        }
        if self.below.is_bottom() {
            for (path, target) in USR_LINKS {
                let own = checked
                    .iter()
                    .any(|e| e.path == path && matches!(e.kind, Kind::Symlink(_)));
                if !own {
                    checked.push(Entry {
                        path: path.to_owned(),
                        meta: Meta {
                            mode: 0o777,
                            ..default_folder()
                        },
                        kind: Kind::Symlink(target.to_owned()),
                        origin: "the merged /usr".to_owned(),
                    });
                }
            }
        }
        Ok(checked)
    }

    /// The target of a folder link at a true path, this layer's before those below.
    fn link(&self, at: &str) -> Option<String> {
        self.links.get(at).cloned().or_else(|| match self.seen(at) {
            Some(Seen::Symlink(target)) => Some(target),
            _ => None,
        })
    }

    fn circle(entry: &Entry) -> TreeError {
        TreeError::Loop {
            origin: entry.origin.clone(),
            path: entry.path.clone(),
        }
    }

    /// Finds where this layer's own links truly lie. One link can move another,
    /// so that this goes round until nothing moves.
    fn find_links(&mut self, entries: &[Entry]) -> Result<(), TreeError> {
        let mut own = Vec::new();
        for entry in entries {
            if let Kind::Symlink(target) = &entry.kind {
                own.push((entry, target));
            }
        }
        for _ in 0..MAX_ROUNDS {
            let mut links = BTreeMap::new();
            for (entry, target) in &own {
                let at = paths::resolve(&entry.path, false, &|at| self.link(at))
                    .ok_or_else(|| Self::circle(entry))?;
                links.insert(at, (*target).clone());
            }
            if links == self.links {
                return Ok(());
            }
            self.links = links;
        }
        Err(own.first().map_or_else(
            || TreeError::RemovesNothing(String::new()),
            |(entry, _)| Self::circle(entry),
        ))
    }

    /// The true path of a folder.
    fn folder(&self, path: &str, entry: &Entry) -> Result<String, TreeError> {
        if let Some(known) = self.folders.borrow().get(path) {
            return Ok(known.clone());
        }
        let at =
            paths::resolve(path, true, &|at| self.link(at)).ok_or_else(|| Self::circle(entry))?;
        self.folders
            .borrow_mut()
            .insert(path.to_owned(), at.clone());
        Ok(at)
    }

    /// The true path of something in a folder, itself not followed.
    fn within(&self, path: &str, entry: &Entry) -> Result<String, TreeError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(join(&self.folder(folder, entry)?, name))
    }

    /// Puts every entry at its true path, hard links last.
    fn place(&mut self, entries: Vec<Entry>) -> Result<(), TreeError> {
        let mut hard = Vec::new();
        for entry in entries {
            let at = if entry.kind == Kind::Directory {
                self.folder(&entry.path, &entry)?
            } else {
                self.within(&entry.path, &entry)?
            };
            if let Kind::Hardlink(target) = &entry.kind {
                let target = self.within(target, &entry)?;
                hard.push((at, target, entry));
            } else {
                self.put(at, entry)?;
            }
        }
        self.put_hard_links(hard)
    }

    /// Refuses a file in a folder's place and a folder in a file's.
    fn check_against_below(&self, at: &str, entry: &Entry) -> Result<(), TreeError> {
        let first = match (self.seen(at), entry.kind == Kind::Directory) {
            (Some(Seen::Directory), false) => "a folder",
            (Some(Seen::File), true) => "a file",
            (Some(Seen::Other), true) => "a device, pipe or socket",
            _ => return Ok(()),
        };
        Err(TreeError::Collision {
            path: at.to_owned(),
            first: format!(
                "{first} of layer '{}'",
                self.below.layer_of(at).unwrap_or_default()
            ),
            second: format!("{} brings {} there", entry.origin, sort_of(&entry.kind)),
            remedy: "`remove` it in this layer first, or move one of the two",
        })
    }

    fn put(&mut self, at: String, entry: Entry) -> Result<(), TreeError> {
        if at.len() > MAX_PATH {
            return Err(bad_path(
                &entry,
                format!("leads to one longer than {MAX_PATH} bytes; shorten it"),
            ));
        }
        self.check_against_below(&at, &entry)?;
        let mut entry = entry;
        if entry.kind == Kind::Directory
            && entry.is_of_package()
            && self.seen(&at) == Some(Seen::Directory)
        {
            entry.meta = self.folder_below(&at);
        }
        let direct = entry.path.strip_prefix('/') == Some(at.as_str());
        let new = Placed {
            meta: entry.meta,
            kind: entry.kind,
            origin: entry.origin,
            direct,
        };
        match self.placed.get_mut(&at) {
            None => {
                self.placed.insert(at, new);
            }
            Some(there) if there.kind == Kind::Directory && new.kind == Kind::Directory => {
                if new.direct && !there.direct {
                    *there = new;
                }
            }
            Some(there) if there.kind == new.kind && !matches!(new.kind, Kind::Hardlink(_)) => {}
            Some(there) => return Err(twice(&at, there, &new)),
        }
        Ok(())
    }

    /// Makes the folders that nobody brought, the root among them.
    fn parents(&mut self) -> Result<(), TreeError> {
        let mut missing: BTreeMap<String, String> = BTreeMap::new();
        if !self.placed.contains_key("") {
            missing.insert(String::new(), String::new());
        }
        for (path, placed) in &self.placed {
            for above in ancestors(path) {
                match self.placed.get(above) {
                    Some(Placed {
                        kind: Kind::Directory,
                        ..
                    }) => {}
                    Some(there) => {
                        return Err(below_a_file(
                            above,
                            sort_of(&there.kind),
                            &there.origin,
                            path,
                            &placed.origin,
                        ));
                    }
                    None => {
                        if !missing.contains_key(above) {
                            missing.insert(above.to_owned(), placed.origin.clone());
                        }
                    }
                }
            }
        }
        for (path, origin) in missing {
            if path.split('/').any(|part| part.len() > MAX_NAME) {
                return Err(TreeError::BadPath {
                    origin,
                    path: format!("/{path}"),
                    rule: format!("has a name longer than {MAX_NAME} bytes; shorten it"),
                });
            }
            let what = match self.seen(&path) {
                Some(Seen::File) => Some("a file"),
                Some(Seen::Other) => Some("a device, pipe or socket"),
                _ => None,
            };
            if let Some(what) = what {
                let layer = format!("layer '{}'", self.below.layer_of(&path).unwrap_or_default());
                return Err(below_a_file(&path, what, &layer, &path, &origin));
            }
            let meta = self.folder_below(&path);
            self.placed.insert(
                path,
                Placed {
                    meta,
                    kind: Kind::Directory,
                    origin,
                    direct: true,
                },
            );
        }
        Ok(())
    }

    /// Hides what is removed.
    fn white_out(&mut self) {
        for path in std::mem::take(&mut self.removed) {
            match self.placed.get_mut(&path) {
                Some(placed) if placed.kind == Kind::Directory => {
                    // Over anything but a folder there is nothing to look through to.
                    if self.below.kind(&path) == Some(Seen::Directory) {
                        placed.meta.xattrs.insert(OPAQUE.to_owned(), b"y".to_vec());
                    }
                }
                Some(_) => {}
                None => {
                    self.placed.insert(
                        path,
                        Placed {
                            meta: Meta {
                                mode: 0,
                                ..default_folder()
                            },
                            kind: Kind::CharDevice(0, 0),
                            origin: "remove".to_owned(),
                            direct: true,
                        },
                    );
                }
            }
        }
    }

    fn finish(self) -> Built {
        let mut notes = self.notes;
        for (name, (count, first)) in self.dropped {
            notes.push(format!("left out the attribute {name} of {count} entries, {first} first: it belongs to another system"));
        }
        let nodes = self.placed.into_iter().map(|(path, placed)| {
            (
                path,
                Node {
                    meta: placed.meta,
                    kind: placed.kind,
                },
            )
        });
        Built {
            tree: Tree {
                nodes: nodes.collect(),
            },
            notes,
        }
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
