//! Trees and entries from short lines, for this room's tests.
//!
//! `d /etc`, `d 0700 /root`, `f /etc/a=content`, `l /bin -> usr/bin`,
//! `h /b => a` (for trees the target as in trees, for entries absolute),
//! `w /gone` (whiteout), `o /dir` (opaque folder), `p`, `c`, `b`, `s`.

use std::collections::BTreeMap;

use super::below::OPAQUE;
use super::{Node, Tree};
use crate::base::EPOCH;
use crate::layers::{Content, Entry, Kind, Meta, Source};

/// One entry from a line.
pub(crate) fn entry(line: &str) -> Entry {
    let (letter, rest) = line.split_once(' ').unwrap();
    let (mode, rest) = match rest.split_once(' ') {
        Some((mode, rest)) if mode.bytes().all(|b| b.is_ascii_digit()) => {
            (u32::from_str_radix(mode, 8).ok(), rest)
        }
        _ => (None, rest),
    };
    let split = |by: &str| {
        let (path, target) = rest.split_once(by).unwrap();
        (path.to_owned(), target.to_owned())
    };
    let mut xattrs = BTreeMap::new();
    let (path, kind, default) = match letter {
        "d" => (rest.to_owned(), Kind::Directory, 0o755),
        "o" => {
            xattrs.insert(OPAQUE.to_owned(), b"y".to_vec());
            (rest.to_owned(), Kind::Directory, 0o755)
        }
        "f" => {
            let (path, content) = rest.split_once('=').unwrap_or((rest, ""));
            let content = Content {
                size: content.len() as u64,
                digest: None,
                source: Source::Bytes(content.into()),
            };
            (path.to_owned(), Kind::File(content), 0o644)
        }
        "l" => {
            let (path, target) = split(" -> ");
            (path, Kind::Symlink(target), 0o777)
        }
        "h" => {
            let (path, target) = split(" => ");
            (path, Kind::Hardlink(target), 0o644)
        }
        "w" => (rest.to_owned(), Kind::CharDevice(0, 0), 0),
        "c" => (rest.to_owned(), Kind::CharDevice(1, 3), 0o666),
        "b" => (rest.to_owned(), Kind::BlockDevice(8, 0), 0o660),
        "p" => (rest.to_owned(), Kind::Fifo, 0o644),
        _ => (rest.to_owned(), Kind::Socket, 0o755),
    };
    Entry {
        path,
        meta: Meta {
            mode: mode.unwrap_or(default),
            uid: 0,
            gid: 0,
            mtime: EPOCH,
            xattrs,
        },
        kind,
        origin: "test".into(),
    }
}

/// Entries from lines.
pub(crate) fn entries(lines: &[&str]) -> Vec<Entry> {
    lines.iter().map(|line| entry(line)).collect()
}

/// A tree from lines, exactly as written but for the root.
pub(crate) fn tree(lines: &[&str]) -> Tree {
    let mut tree = Tree::default();
    for entry in entries(&[&["d /"], lines].concat()) {
        let path = entry.path.trim_start_matches('/').to_owned();
        tree.nodes.insert(
            path,
            Node {
                meta: entry.meta,
                kind: entry.kind,
            },
        );
    }
    assert_eq!(tree.fault(), None, "{lines:?}");
    tree
}

/// A tree as lines of type, mode and path, for golden comparisons.
pub(crate) fn dump(tree: &Tree) -> Vec<String> {
    tree.nodes
        .iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, node)| {
            let opaque = if super::below::is_opaque(node) {
                " opaque"
            } else {
                ""
            };
            match &node.kind {
                Kind::Directory => format!("d {:04o} /{path}{opaque}", node.meta.mode),
                Kind::File(content) => match &content.source {
                    Source::Bytes(bytes) => {
                        format!("f {:04o} /{path}={}", node.meta.mode, bytes.escape_ascii())
                    }
                    _ => format!("f {:04o} /{path}", node.meta.mode),
                },
                Kind::Symlink(target) => format!("l /{path} -> {target}"),
                Kind::Hardlink(target) => format!("h /{path} => {target}"),
                Kind::CharDevice(0, 0) => format!("w /{path}"),
                other => format!("{other:?} /{path}"),
            }
        })
        .collect()
}
