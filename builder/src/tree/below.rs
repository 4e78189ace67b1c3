//! The layers below as one view, as overlayfs would show it, which remembers
//! every answer that it gave.
//!
//! The answers are the facts that a layer's bytes depend on beside its own
//! inputs. A later build replays the questions ([`Below::still_true`]): when all
//! answers are the same, the layer is the same, although something else below
//! it has changed. So each question asks for as little as it needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::base::{Digest, EPOCH};
use crate::layers::{Content, Kind, Meta};

use super::listing;
use super::{Node, Tree};

/// Questions asked and the digests of their answers.
///
/// A question is a word and a path or glob: `kind usr/lib`, `meta usr`,
/// `node etc/hosts`, `content etc/hosts`, `glob /etc/*.d`, `children usr/lib`.
pub type Facts = BTreeMap<String, Digest>;

/// What is at a path, as far as paths are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A folder.
    Directory,
    /// A symbolic link and what it says.
    Symlink(String),
    /// A file.
    File,
    /// A device, pipe or socket.
    Other,
}

/// Name of the attribute that hides a folder's content below.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// A stack of trees, seen from above.
#[derive(Debug, Default)]
pub struct Below<'a> {
    /// Path to node and the index of the layer that it comes from.
    view: BTreeMap<&'a str, (&'a Node, usize)>,
    names: Vec<String>,
    trees: Vec<&'a Tree>,
    facts: RefCell<Facts>,
}

/// Whether a node is overlayfs' whiteout.
#[must_use]
pub fn is_whiteout(node: &Node) -> bool {
    node.kind == Kind::CharDevice(0, 0)
}

/// Whether a folder hides what lies below it.
#[must_use]
pub fn is_opaque(node: &Node) -> bool {
    node.kind == Kind::Directory && node.meta.xattrs.get(OPAQUE).is_some_and(|v| v == b"y")
}

impl<'a> Below<'a> {
    /// The view of `layers`, bottom to top, each with its name for messages.
    #[must_use]
    pub fn new(layers: &[(&str, &'a Tree)]) -> Self {
        let mut below = Self::default();
        for (index, (name, tree)) in layers.iter().enumerate() {
            below.names.push((*name).to_owned());
            below.trees.push(tree);
            for (path, node) in &tree.nodes {
                below.stack(path, node, index);
            }
        }
        below
    }

    fn stack(&mut self, path: &'a str, node: &'a Node, layer: usize) {
        let covers = node.kind != Kind::Directory || is_opaque(node);
        if covers && !path.is_empty() {
            let start = format!("{path}/");
            let gone: Vec<&str> = self
                .view
                .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
                .map(|(path, _)| *path)
                .take_while(|path| path.starts_with(&start))
                .collect();
            for path in gone {
                self.view.remove(path);
            }
        }
        if is_whiteout(node) {
            self.view.remove(path);
        } else {
            self.view.insert(path, (node, layer));
        }
    }

    /// Whether there is nothing below: the layer to be built is the bottom one.
    #[must_use]
    pub fn is_bottom(&self) -> bool {
        self.names.is_empty()
    }

    /// All that is seen: paths in byte order, nodes, and the index of the layer
    /// that each comes from. For comparing finished stacks; not a fact.
    pub fn nodes(&self) -> impl Iterator<Item = (&'a str, &'a Node, usize)> + '_ {
        self.view
            .iter()
            .map(|(path, (node, layer))| (*path, *node, *layer))
    }

    /// The name of the layer that a path's node comes from, for messages. Not a fact.
    #[must_use]
    pub fn layer_of(&self, path: &str) -> Option<&str> {
        let (_, layer) = self.view.get(path)?;
        self.names.get(*layer).map(String::as_str)
    }

    fn answer<T>(&self, question: String, value: T, text: impl FnOnce(&T) -> String) -> T {
        let mut facts = self.facts.borrow_mut();
        facts
            .entry(question)
            .or_insert_with(|| Digest::of(text(&value)));
        value
    }

    /// What sort of thing is at `path` (`usr/lib`), links not followed.
    #[must_use]
    pub fn kind(&self, path: &str) -> Option<Seen> {
        let seen = self.view.get(path).map(|(node, _)| match &node.kind {
            Kind::Directory => Seen::Directory,
            Kind::Symlink(target) => Seen::Symlink(target.clone()),
            Kind::File(_) | Kind::Hardlink(_) => Seen::File,
            _ => Seen::Other,
        });
        self.answer(format!("kind {path}"), seen, |seen| format!("{seen:?}"))
    }

    /// Owner, mode and attributes of the folder at `path`; `None` when there is none.
    ///
    /// The time is the fixed one and not the folder's: with the real one, every
    /// update of a package below would change each layer above that has something
    /// in the same folder, and a new base could not carry an old app layer as it is.
    #[must_use]
    pub fn folder_meta(&self, path: &str) -> Option<Meta> {
        let meta = self
            .view
            .get(path)
            .filter(|(node, _)| node.kind == Kind::Directory)
            .map(|(node, _)| Meta {
                mtime: EPOCH,
                ..node.meta.clone()
            });
        self.answer(format!("meta {path}"), meta, |meta| {
            meta.as_ref().map_or_else(String::new, listing::meta_text)
        })
    }

    /// The node at `path` with its content, links not followed.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<&'a Node> {
        let node = self.view.get(path).map(|(node, _)| *node);
        self.answer(format!("node {path}"), node, |node| {
            node.map_or_else(String::new, |node| listing::line(path, node))
        })
    }

    /// The content of the file at `path`, links not followed; `None` when it is no file.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<&'a Content> {
        let content = self
            .view
            .get(path)
            .and_then(|(node, layer)| match &node.kind {
                Kind::File(content) => Some(content),
                // A hard link means the file of its own layer, whatever a layer above put at that path.
                Kind::Hardlink(target) => match &self.trees.get(*layer)?.nodes.get(target)?.kind {
                    Kind::File(content) => Some(content),
                    _ => None,
                },
                _ => None,
            });
        self.answer(format!("content {path}"), content, |content| {
            content.map_or_else(String::new, listing::content_text)
        })
    }

    /// What lies right in the folder `path`: names and nodes, sorted. Empty when it is no folder.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<(&'a str, &'a Node)> {
        let nodes: Vec<_> = self
            .below(path)
            .filter_map(|(at, node)| {
                let name = at.get(path.len()..)?.trim_start_matches('/');
                (!name.contains('/')).then_some((name, node))
            })
            .collect();
        self.answer(format!("children {path}"), nodes, |nodes| {
            nodes
                .iter()
                .map(|(name, node)| listing::line(name, node))
                .collect()
        })
    }

    /// All nodes below a folder.
    fn below(&self, path: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let start = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        self.view
            .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(&start))
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, (node, _))| (*path, *node))
    }

    /// Paths that a glob over absolute paths (`/etc/*.d`) matches, sorted.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
        let matcher = globset::GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|error| error.to_string())?
            .compile_matcher();
        let hits: Vec<String> = self
            .view
            .keys()
            .filter(|path| !path.is_empty() && matcher.is_match(format!("/{path}")))
            .map(|path| (*path).to_owned())
            .collect();
        Ok(self.answer(format!("glob {pattern}"), hits, |hits| hits.join("\n")))
    }

    /// Where `path` leads through symbolic links of this view, and what is
    /// there. `None` when the links run in circles.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<(String, Option<Seen>)> {
        let at = super::paths::resolve(path, true, &|path| match self.kind(path) {
            Some(Seen::Symlink(target)) => Some(target),
            _ => None,
        })?;
        let seen = self.kind(&at);
        Some((at, seen))
    }

    /// All questions so far and their answers.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.borrow().clone()
    }

    /// Whether this view would answer every question of `facts` as before.
    /// Asking does not add to this view's own facts.
    #[must_use]
    pub fn still_true(&self, facts: &Facts) -> bool {
        let kept = self.facts.take();
        for question in facts.keys() {
            if !self.ask(question) {
                self.facts.replace(kept);
                return false;
            }
        }
        let answers = self.facts.replace(kept);
        answers == *facts
    }

    /// Asks a recorded question again; false when it is none.
    fn ask(&self, question: &str) -> bool {
        let Some((word, about)) = question.split_once(' ') else {
            return false;
        };
        match word {
            "kind" => drop(self.kind(about)),
            "meta" => drop(self.folder_meta(about)),
            "node" => drop(self.node(about).is_some()),
            "glob" => return self.glob(about).is_ok(),
            "content" => drop(self.content(about).is_some()),
            "children" => drop(self.children(about)),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::tree;

    fn view(layers: &[(&str, &Tree)]) -> Vec<String> {
        Below::new(layers)
            .view
            .keys()
            .map(|p| (*p).to_owned())
            .collect()
    }

    #[test]
    fn upper_layers_hide_and_merge_as_overlayfs_does() {
        let base = tree(&[
            "d /a", "f /a/1", "f /a/2", "d /b", "f /b/1", "d /c", "f /c/1", "f /f", "f /a.x",
        ]);
        let top = tree(&[
            "d /a",
            "w /a/1",
            "f /a/3",
            "o /b",
            "f /b/2",
            "l /c -> a",
            "w /f",
        ]);
        assert_eq!(
            view(&[("base", &base), ("top", &top)]),
            ["", "a", "a.x", "a/2", "a/3", "b", "b/2", "c"]
        );
        let again = tree(&["d /c", "f /f"]);
        let below = Below::new(&[("base", &base), ("top", &top), ("again", &again)]);
        assert_eq!(below.kind("c"), Some(Seen::Directory));
        assert_eq!(below.kind("c/1"), None);
        assert_eq!(
            (below.layer_of("f"), below.layer_of("a/2")),
            (Some("again"), Some("base"))
        );
    }

    #[test]
    fn answers_become_facts_that_hold_until_the_answer_changes() {
        let base = tree(&["d /a", "f /a/1=x", "l /l -> a", "f /other=1"]);
        let below = Below::new(&[("base", &base)]);
        assert_eq!(below.kind("l"), Some(Seen::Symlink("a".into())));
        assert_eq!(below.kind("missing"), None);
        assert!(below.folder_meta("a").is_some() && below.folder_meta("a/1").is_none());
        assert_eq!(below.glob("/a/*").unwrap(), ["a/1"]);
        assert_eq!(below.children("a").len(), 1);
        assert!(below.content("a/1").is_some() && below.content("l").is_none());
        assert_eq!(
            below.resolve("l/1").unwrap(),
            ("a/1".into(), Some(Seen::File))
        );
        let facts = below.facts();
        assert!(facts.contains_key("kind missing") && facts.contains_key("glob /a/*"));

        let unrelated = tree(&["d /a", "f /a/1=x", "l /l -> a", "f /other=2", "f /more"]);
        assert!(Below::new(&[("base", &unrelated)]).still_true(&facts));
        for changed in [
            &["d /a", "f /a/1=y", "l /l -> a"][..],
            &["d /a", "f /a/1=x", "l /l -> b"],
            &["d 0700 /a", "f /a/1=x", "l /l -> a"],
            &["d /a", "f /a/1=x", "f /a/2", "l /l -> a"],
            &["d /a", "f /a/1=x", "l /l -> a", "f /missing"],
        ] {
            let changed = tree(changed);
            assert!(
                !Below::new(&[("base", &changed)]).still_true(&facts),
                "{changed:?}"
            );
        }
    }

    #[test]
    fn replaying_adds_no_facts_and_refuses_unknown_questions() {
        let base = tree(&["d /a"]);
        let below = Below::new(&[("base", &base)]);
        let _ = below.kind("a");
        let facts = below.facts();
        assert!(below.still_true(&Facts::new()));
        assert!(!below.still_true(&Facts::from([("size a".into(), Digest::of(""))])));
        assert_eq!(below.facts(), facts);
    }

    #[test]
    fn children_are_what_lies_right_in_a_folder() {
        let base = tree(&["d /a", "d /a/b", "f /a/b/c", "f /a/z", "f /a.x", "f /b"]);
        let below = Below::new(&[("base", &base)]);
        let names = |path: &str| -> Vec<&str> {
            below
                .children(path)
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(names(""), ["a", "a.x", "b"]);
        assert_eq!(names("a"), ["b", "z"]);
        assert_eq!(names("b"), [""; 0]);
        assert_eq!(names("missing"), [""; 0]);
    }

    #[test]
    fn a_hard_link_means_the_file_of_its_own_layer() {
        let base = tree(&["f /a=old", "h /b => a"]);
        let top = tree(&["f /a=new content"]);
        let below = Below::new(&[("base", &base), ("top", &top)]);
        assert_eq!(below.content("b").map(|c| c.size), Some(3));
        assert_eq!(below.content("a").map(|c| c.size), Some(11));
    }

    #[test]
    fn links_in_circles_are_told() {
        let base = tree(&["l /a -> b", "l /b -> /a"]);
        assert_eq!(Below::new(&[("base", &base)]).resolve("a/x"), None);
    }
}
