//! Layers on each other, as image-spec's layer.md has it.
//!
//! A layer's whiteouts take away what is below it and nothing of its own, wherever they
//! stand in it. What comes below a link of a lower layer goes to where that leads, and
//! never out of the root. A file that is replaced keeps its bytes under its other names.

use std::collections::{BTreeMap, BTreeSet};

use crate::layers::tar::{MAX_ENTRIES, MAX_PATH};
use crate::layers::{Content, Entry, Kind, LayersError, Meta};

/// How the name of a whiteout begins.
const WHITEOUT: &str = ".wh.";
/// How names begin that are of the making of layers and no files.
const OWN: &str = ".wh..wh.";
/// Says that nothing of the folder below is seen.
const OPAQUE: &str = ".wh..wh..opq";
/// Most links on one path, as Linux has it.
const MAX_LINKS: usize = 40;
/// Most entries of all layers together.
const MAX_TOTAL: usize = 4 * MAX_ENTRIES;

/// The files as they are after some layers.
pub(super) struct Root<'a> {
    origin: &'a str,
    nodes: BTreeMap<String, Node>,
    /// Files; several paths may name one.
    files: Vec<(Meta, Content)>,
    total: usize,
}

enum Node {
    File(usize),
    Other(Meta, Kind),
}

impl Node {
    const fn is_folder(&self) -> bool {
        matches!(self, Self::Other(_, Kind::Directory))
    }
}

/// Parent and name of a clean absolute path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl<'a> Root<'a> {
    pub(super) fn new(origin: &'a str) -> Self {
        Self {
            origin,
            nodes: BTreeMap::new(),
            files: Vec::new(),
            total: 0,
        }
    }

    fn refused(&self, path: &str, rule: impl Into<String>) -> LayersError {
        LayersError::Refused {
            archive: self.origin.to_owned(),
            path: path.escape_debug().take(300).collect(),
            rule: rule.into(),
        }
    }

    /// One layer more. Its entries have been checked as an archive's.
    pub(super) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), LayersError> {
        self.total += entries.len();
        if self.total > MAX_TOTAL {
            return Err(self.too_many(MAX_TOTAL));
        }
        let mut own = BTreeSet::new();
        // Links to files of layers below, which this one may take away or replace later on.
        let mut linked = BTreeMap::new();
        for entry in &entries {
            if let Kind::Hardlink(target) = &entry.kind
                && !own.contains(target)
            {
                linked.insert(entry.path.clone(), self.file_at(target, &entry.path)?);
            }
            own.insert(entry.path.clone());
        }
        for entry in &entries {
            self.take_away(entry, &own)?;
        }
        let (folders, others): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .filter(|entry| !is_mark(entry))
            .partition(|entry| entry.kind == Kind::Directory);
        let mut folders = folders;
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        // Links last: what they name is there then, wherever it stood.
        let (links, others): (Vec<Entry>, Vec<Entry>) = others
            .into_iter()
            .partition(|entry| matches!(entry.kind, Kind::Hardlink(_)));
        for entry in folders.into_iter().chain(others) {
            self.place(entry)?;
        }
        for entry in links {
            let Kind::Hardlink(target) = &entry.kind else {
                continue;
            };
            let file = match linked.get(&entry.path) {
                Some(file) => *file,
                None => self.file_at(target, &entry.path)?,
            };
            self.put(&entry.path, Node::File(file))?;
        }
        if self.nodes.len() > MAX_ENTRIES {
            return Err(self.too_many(MAX_ENTRIES));
        }
        Ok(())
    }

    fn too_many(&self, limit: usize) -> LayersError {
        LayersError::TooLarge {
            archive: self.origin.to_owned(),
            what: "its number of entries".to_owned(),
            limit: limit as u64,
        }
    }

    /// The file that a hard link names.
    fn file_at(&self, target: &str, link: &str) -> Result<usize, LayersError> {
        let at = self.resolve(target, link)?;
        match self.nodes.get(&at) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Other(..)) => Err(self.refused(
                link,
                format!("it is a hard link to {target}, which is no file"),
            )),
            None => Err(self.refused(
                link,
                format!("it is a hard link to {target}, which is in no layer before it"),
            )),
        }
    }

    /// What a whiteout or the place of a device hides of the layers below.
    fn take_away(&mut self, entry: &Entry, own: &BTreeSet<String>) -> Result<(), LayersError> {
        let (folder, name) = split(&entry.path);
        if folder.split('/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(self.refused(&entry.path, "it lies below a whiteout"));
        }
        if !is_mark(entry) || (name.starts_with(OWN) && name != OPAQUE) {
            return Ok(());
        }
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or(name);
        if matches!(hidden, "" | "." | "..") {
            return Err(self.refused(&entry.path, "it is a whiteout of no name"));
        }
        // A folder that this layer lists itself takes the place of a link below.
        let folder = if own.contains(folder) {
            self.resolve(folder, &entry.path)
        } else {
            self.follow(folder, &entry.path)
        };
        // What is below no folder is not there.
        let Ok(folder) = folder else { return Ok(()) };
        if name == OPAQUE {
            if self.nodes.get(&folder).is_none_or(Node::is_folder) {
                self.clear(&folder);
            }
        } else {
            let path = format!("{folder}/{hidden}");
            self.clear(&path);
            self.nodes.remove(&path);
        }
        Ok(())
    }

    /// Takes everything below a path away.
    fn clear(&mut self, path: &str) {
        let start = format!("{path}/");
        let below: Vec<String> = self
            .nodes
            .range(start.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&start))
            .cloned()
            .collect();
        for path in below {
            self.nodes.remove(&path);
        }
    }

    fn place(&mut self, entry: Entry) -> Result<(), LayersError> {
        let Entry {
            path, meta, kind, ..
        } = entry;
        let node = match kind {
            Kind::File(content) => {
                self.files.push((meta, content));
                Node::File(self.files.len() - 1)
            }
            kind => Node::Other(meta, kind),
        };
        self.put(&path, node)
    }

    fn put(&mut self, path: &str, node: Node) -> Result<(), LayersError> {
        let at = self.resolve(path, path)?;
        if !node.is_folder() {
            self.clear(&at);
        }
        self.nodes.insert(at, node);
        Ok(())
    }

    /// Where a path is, its last name not followed.
    fn resolve(&self, path: &str, asked: &str) -> Result<String, LayersError> {
        let (folder, name) = split(path);
        let at = format!("{}/{name}", self.follow(folder, asked)?);
        if at.len() > MAX_PATH {
            return Err(self.refused(
                asked,
                format!("behind links it is longer than {MAX_PATH} bytes"),
            ));
        }
        Ok(at)
    }

    /// Where a folder is, all links followed; `..` does not lead out of the root.
    fn follow(&self, path: &str, asked: &str) -> Result<String, LayersError> {
        let mut left: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let (mut at, mut links) = (String::new(), 0);
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{at}/{part}");
            match self.nodes.get(&next) {
                Some(Node::Other(_, Kind::Symlink(target))) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(self.refused(asked, "links on its way lead in a circle"));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    left.extend(target.rsplit('/').map(str::to_owned));
                }
                Some(node) if !node.is_folder() => {
                    return Err(
                        self.refused(asked, format!("it lies below {next}, which is no folder"))
                    );
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    /// All that is left, in byte order; the first name of a file has its content.
    pub(super) fn finish(self) -> Vec<Entry> {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut entries = Vec::with_capacity(self.nodes.len());
        for (path, node) in self.nodes {
            let (meta, kind) = match node {
                Node::Other(meta, kind) => (meta, kind),
                Node::File(file) => {
                    let (meta, content) = &self.files[file];
                    let kind = match first.get(&file) {
                        Some(target) => Kind::Hardlink(target.clone()),
                        None => Kind::File(content.clone()),
                    };
                    first.entry(file).or_insert_with(|| path.clone());
                    (meta.clone(), kind)
                }
            };
            entries.push(Entry {
                path,
                meta,
                kind,
                origin: self.origin.to_owned(),
            });
        }
        entries
    }
}

/// Whether an entry only takes away: a whiteout, or a device node, which is left out.
fn is_mark(entry: &Entry) -> bool {
    split(&entry.path).1.starts_with(WHITEOUT)
        || matches!(entry.kind, Kind::CharDevice(..) | Kind::BlockDevice(..))
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
