//! The files that differ between two stacks of layers, as the machine sees them.
//!
//! Layers of one root hash have one content, wherever they are: what both sides
//! see through such a layer is the same, and is never read. Contents are read
//! only of files of one size, and a [`Budget`] bounds it all.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::rc::Rc;

use serde_json::json;
use slipform_init::contract::machine::LAYER_ROOT;

use super::super::PipelineError;
use super::change::{Change, Field, Mark, Values, change};
use super::facts::{ImageFacts, LayerFacts, LayerPlace};
use super::side::no_image;
use crate::base::Digest;
use crate::disk::Window;
use crate::filesystem::{Budget, Ext4Reader};
use crate::layers::{Content, Kind, Source};
use crate::output::DiskSource;
use crate::store::Store;
use crate::tree::{Below, Node, Tree};

/// More layers than init stacks.
const MAX_LAYERS: usize = 128;

/// The files that differ, by path; `Err` within says why they cannot be read.
pub(super) fn changes(
    store: &Store,
    old: &ImageFacts,
    new: &ImageFacts,
) -> Result<Result<Vec<Change>, String>, PipelineError> {
    let hashes = |facts: &ImageFacts| -> Vec<String> {
        facts
            .layers
            .iter()
            .map(|layer| layer.root_hash.clone())
            .collect()
    };
    if hashes(old) == hashes(new) {
        return Ok(Ok(Vec::new()));
    }
    let mut known = HashMap::new();
    let mut old_side = Stack::new(old, old.place.open(store)?);
    let mut new_side = Stack::new(new, new.place.open(store)?);
    let read = old_side
        .list(&mut known)
        .and_then(|()| new_side.list(&mut known))
        .and_then(|()| compare(&mut old_side, &mut new_side));
    match read {
        Ok(changes) => Ok(Ok(changes)),
        Err(Fault { what, source }) => match source.kind() {
            // What is on the disk, rather than what the system says.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                Ok(Err(format!("{what}: {source}")))
            }
            _ => Err(no_image(what, source)),
        },
    }
}

/// What could not be read, and why.
struct Fault {
    what: String,
    source: io::Error,
}

fn fault(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Fault {
    let what = what.to_string();
    |source| Fault { what, source }
}

/// One side: its disk, its layers and their trees.
struct Stack<'a> {
    what: &'a str,
    layers: &'a [LayerFacts],
    trees: Vec<Rc<Tree>>,
    reader: Contents<'a>,
}

/// Reads a disk's files, in bounds.
struct Contents<'a> {
    disk: Box<dyn DiskSource + 'a>,
    budget: Budget,
    /// Bytes of contents that may still be read: no more than the disk has,
    /// because each file is read once.
    left: u64,
    /// Digests by layer and inode.
    digests: HashMap<(usize, u32), Digest>,
}

impl<'a> Stack<'a> {
    fn new(facts: &'a ImageFacts, disk: Box<dyn DiskSource + 'a>) -> Self {
        Self {
            what: &facts.what,
            layers: &facts.layers,
            trees: Vec::new(),
            reader: Contents {
                disk,
                budget: Budget::default(),
                left: facts.info.size,
                digests: HashMap::new(),
            },
        }
    }

    /// Lists every layer; `known` holds those that are listed already, by root hash.
    fn list(&mut self, known: &mut HashMap<String, Rc<Tree>>) -> Result<(), Fault> {
        if self.layers.len() > MAX_LAYERS {
            let many = format!(
                "it has {} layers, more than a machine stacks",
                self.layers.len()
            );
            return Err(fault(self.what)(io::Error::new(
                ErrorKind::InvalidData,
                many,
            )));
        }
        for layer in self.layers {
            let tree = match known.get(&layer.root_hash) {
                Some(tree) => Rc::clone(tree),
                None => {
                    let named = format!("{}: layer '{}'", self.what, layer.name);
                    let tree = Rc::new(self.reader.tree(layer).map_err(fault(named))?);
                    known.insert(layer.root_hash.clone(), Rc::clone(&tree));
                    tree
                }
            };
            self.trees.push(tree);
        }
        Ok(())
    }

    fn view(layers: &'a [LayerFacts], trees: &'a [Rc<Tree>]) -> Below<'a> {
        let named = layers.iter().zip(trees);
        let named: Vec<(&str, &Tree)> = named
            .map(|(layer, tree)| (layer.name.as_str(), &**tree))
            .collect();
        Below::new(&named)
    }
}

impl Contents<'_> {
    fn tree(&mut self, layer: &LayerFacts) -> io::Result<Tree> {
        let mut reader = Ext4Reader::open(window(&mut self.disk, layer)?)?;
        reader.tree(LAYER_ROOT, &mut self.budget)
    }

    /// The digest of a file's content in the layer at `index`.
    fn digest(&mut self, layer: &LayerFacts, index: usize, inode: u32) -> io::Result<Digest> {
        if let Some(digest) = self.digests.get(&(index, inode)) {
            return Ok(*digest);
        }
        let mut reader = Ext4Reader::open(window(&mut self.disk, layer)?)?;
        let content = reader.content(inode, &mut self.budget)?;
        let mut content = content.take(self.left);
        let (digest, length) = Digest::of_reader(&mut content)?;
        self.left -= length.min(self.left);
        if self.left == 0 {
            let why = "the files together are larger than the disk";
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        self.digests.insert((index, inode), digest);
        Ok(digest)
    }
}

/// A layer's file system on its disk.
fn window<'w, 'd>(
    disk: &'w mut Box<dyn DiskSource + 'd>,
    layer: &LayerFacts,
) -> io::Result<Window<'w, Box<dyn DiskSource + 'd>>> {
    let lost = || io::Error::new(ErrorKind::InvalidData, "it is not on the disk");
    let LayerPlace {
        offset, filesystem, ..
    } = layer.place.ok_or_else(lost)?;
    Ok(Window::new(disk, offset, filesystem))
}

/// A node and the index of its layer.
type Seen<'a> = (&'a Node, usize);

fn compare(old: &mut Stack<'_>, new: &mut Stack<'_>) -> Result<Vec<Change>, Fault> {
    let (old_trees, new_trees) = (old.trees.clone(), new.trees.clone());
    let (old_view, new_view) = (
        Stack::view(old.layers, &old_trees),
        Stack::view(new.layers, &new_trees),
    );
    let mut pairs: BTreeMap<&str, (Option<Seen<'_>>, Option<Seen<'_>>)> = BTreeMap::new();
    for (path, node, layer) in old_view.nodes() {
        pairs.entry(path).or_default().0 = Some((node, layer));
    }
    for (path, node, layer) in new_view.nodes() {
        pairs.entry(path).or_default().1 = Some((node, layer));
    }
    let mut changes = Vec::new();
    for (path, (a, b)) in pairs {
        let same_layer = match (a, b) {
            (Some((_, a)), Some((_, b))) => old.layers[a].root_hash == new.layers[b].root_hash,
            _ => false,
        };
        if same_layer {
            continue;
        }
        let path = format!("/{path}");
        let (before, after) = (
            a.map(|(node, _)| values(node)),
            b.map(|(node, _)| values(node)),
        );
        let told = change(&path, before.as_ref(), after.as_ref());
        let contents = match (a, b) {
            (Some(a), Some(b)) => content(&path, (old, a), (new, b))?,
            _ => None,
        };
        changes.extend(match (told, contents) {
            (Some(mut change), Some(field)) => {
                change.fields.push(field);
                Some(change)
            }
            (None, Some(field)) => Some(Change {
                mark: Mark::Changed,
                name: path,
                fields: vec![field],
            }),
            (told, None) => told,
        });
    }
    Ok(changes)
}

/// The digests of two files of one size, when they differ.
fn content(
    path: &str,
    (old, (a, a_layer)): (&mut Stack<'_>, Seen<'_>),
    (new, (b, b_layer)): (&mut Stack<'_>, Seen<'_>),
) -> Result<Option<Field>, Fault> {
    let (Some((a_inode, a_size)), Some((b_inode, b_size))) = (inode(a), inode(b)) else {
        return Ok(None);
    };
    if a_size != b_size || a_size == 0 {
        return Ok(None);
    }
    let digest = |stack: &mut Stack<'_>, layer: usize, inode: u32| {
        let facts = &stack.layers[layer];
        let named = format!("{}: {path}", stack.what);
        stack
            .reader
            .digest(facts, layer, inode)
            .map_err(fault(named))
    };
    let (before, after) = (
        digest(old, a_layer, a_inode)?,
        digest(new, b_layer, b_inode)?,
    );
    Ok((before != after).then(|| Field {
        name: "sha256",
        old: json!(before),
        new: json!(after),
    }))
}

/// Inode and size of a file.
fn inode(node: &Node) -> Option<(u32, u64)> {
    match &node.kind {
        Kind::File(Content {
            source: Source::Inode(number),
            size,
            ..
        }) => Some((*number, *size)),
        _ => None,
    }
}

/// What people are told of a node.
fn values(node: &Node) -> Values {
    let kind = match &node.kind {
        Kind::Directory => "folder",
        Kind::File(_) | Kind::Hardlink(_) => "file",
        Kind::Symlink(_) => "link",
        Kind::CharDevice(..) => "character device",
        Kind::BlockDevice(..) => "block device",
        Kind::Fifo => "pipe",
        Kind::Socket => "socket",
    };
    let meta = &node.meta;
    let mut values = vec![
        ("type", json!(kind)),
        ("mode", super::image::octal(meta.mode)),
        ("owner", json!(format!("{}:{}", meta.uid, meta.gid))),
    ];
    match &node.kind {
        Kind::File(content) => values.push(("size", json!(content.size))),
        Kind::Symlink(target) => values.push(("target", json!(target))),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            values.push(("device", json!(format!("{major}:{minor}"))));
        }
        _ => {}
    }
    // How a layer hides what is below is no property of what is seen.
    let xattrs = meta
        .xattrs
        .iter()
        .filter(|(name, _)| *name != crate::tree::below::OPAQUE);
    let xattrs: BTreeMap<_, String> = xattrs
        .map(|(name, value)| (name, value.iter().map(|b| format!("{b:02x}")).collect()))
        .collect();
    if !xattrs.is_empty() {
        values.push(("attributes", json!(xattrs)));
    }
    values
}
