//! A tree as text, one node a line: what golden tests show, what steps are
//! keyed by, and what the store keeps of a built layer.
//!
//! ```text
//! # slipform tree 1
//! d 0755 0:0 1577836800 /
//! f 0644 0:33 1577836800 5 sha256:2cf2… /etc/a\x20b user.x=31
//! f 0755 0:0 1699999999 70 sha256:9f86…+512 /usr/bin/b
//! h 0755 0:0 1699999999 /usr/bin/b /usr/bin/c
//! l 0777 0:0 1699999999 usr/bin /bin
//! c 0000 0:0 1577836800 0:0 /gone
//! ```
//!
//! Of a sparse file's content, each piece is named: `sha256:…+offset:length@place,…`.
//!
//! Type, mode, owner, time, what belongs to the type, path, attributes (name
//! and value in hexadecimal). Spaces, control characters and backslashes in
//! names are `\xNN`. Content is named and not held: by its digest, or by the
//! blob and offset that it lies at; the two name the same bytes for ever, so
//! that equal listings are equal file systems. Paths of the host never appear.
//!
//! A tree that was read back points to its contents in the store: at a range of
//! a blob as before, or at the blob of the content's own digest, if that is there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::base::Digest;
use crate::layers::{Content, Kind, Meta, Piece, Source};

use super::{Node, Tree, TreeError};

const HEADER: &str = "# slipform tree 1";
/// Most nodes that a listing may have.
const MAX_NODES: usize = 4_000_000;

/// The whole tree as text. Ends with a line break.
#[must_use]
pub fn write(tree: &Tree) -> String {
    let mut text = format!("{HEADER}\n");
    for (path, node) in &tree.nodes {
        add_line(&mut text, path, node);
    }
    text
}

/// One node's line with its line break.
pub(super) fn line(path: &str, node: &Node) -> String {
    let mut text = String::with_capacity(128 + path.len());
    add_line(&mut text, path, node);
    text
}

fn add_line(text: &mut String, path: &str, node: &Node) {
    let letter = match &node.kind {
        Kind::Directory => 'd',
        Kind::File(_) => 'f',
        Kind::Symlink(_) => 'l',
        Kind::Hardlink(_) => 'h',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let meta = &node.meta;
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{letter} {:04o} {}:{} {} ",
        meta.mode, meta.uid, meta.gid, meta.mtime
    );
    let _ = match &node.kind {
        Kind::File(content) => write!(text, "{} {} ", content.size, identity(content)),
        Kind::Symlink(target) => write!(text, "{} ", escape(target)),
        Kind::Hardlink(target) => write!(text, "/{} ", escape(target)),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            write!(text, "{major}:{minor} ")
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => Ok(()),
    };
    text.push('/');
    text.push_str(&escape(path));
    if !meta.xattrs.is_empty() {
        text.push_str(&xattrs_text(&meta.xattrs));
    }
    text.push('\n');
}

/// Everything of a node's metadata, as one text.
pub(super) fn meta_text(meta: &Meta) -> String {
    format!(
        "{:04o} {}:{} {}{}",
        meta.mode,
        meta.uid,
        meta.gid,
        meta.mtime,
        xattrs_text(&meta.xattrs)
    )
}

fn xattrs_text(xattrs: &BTreeMap<String, Vec<u8>>) -> String {
    let mut text = String::new();
    for (name, value) in xattrs {
        let _ = write!(text, " {}=", escape(name).replace('=', "\\x3d"));
        for byte in value {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

/// Size and name of a content, as one text.
pub(super) fn content_text(content: &Content) -> String {
    format!("{} {}", content.size, identity(content))
}

/// What names a content's bytes.
fn identity(content: &Content) -> String {
    match (&content.digest, &content.source) {
        (_, Source::Blob { digest, offset }) if Some(digest) != content.digest.as_ref() => {
            format!("{digest}+{offset}")
        }
        (_, Source::Sparse { digest, pieces }) => {
            let mut text = format!("{digest}+");
            for (number, piece) in pieces.iter().enumerate() {
                let comma = if number == 0 { "" } else { "," };
                let Piece { at, offset, length } = piece;
                let _ = write!(text, "{comma}{offset}:{length}@{at}");
            }
            text
        }
        (Some(digest), _) => digest.to_string(),
        (None, Source::Bytes(bytes)) => Digest::of(bytes).to_string(),
        (None, Source::Blob { digest, .. }) => digest.to_string(),
        // Collected host files always have a digest; this cannot name one, so that it never equals another.
        (None, Source::Host(_) | Source::Inode(_)) => "unknown".to_owned(),
    }
}

fn escape(text: &str) -> Cow<'_, str> {
    let special = |byte: u8| byte <= b' ' || byte == b'\\' || byte == 0x7f;
    if !text.bytes().any(special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c <= ' ' || c == '\\' || c == '\x7f' {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let hex = rest.get(at + 1..at + 4)?.strip_prefix('x')?;
        let byte = u8::from_str_radix(hex, 16).ok().filter(u8::is_ascii)?;
        out.push(char::from(byte));
        rest = &rest[at + 4..];
    }
    out.push_str(rest);
    Some(out)
}

/// Reads a listing back.
///
/// # Errors
/// [`TreeError::Listing`] when the text is not exactly what [`write()`] makes of some tree.
pub fn read(text: &str) -> Result<Tree, TreeError> {
    let error = |line: usize, problem: &str| TreeError::Listing {
        line,
        problem: problem.to_owned(),
    };
    let body = text
        .strip_prefix(HEADER)
        .and_then(|rest| rest.strip_prefix('\n'))
        .ok_or_else(|| error(1, "is not the header of this version"))?;
    let mut tree = Tree::default();
    let mut last: Option<String> = None;
    for (index, content) in body.split_inclusive('\n').enumerate() {
        let number = index + 2;
        if index >= MAX_NODES {
            return Err(error(number, "is one too many"));
        }
        let (path, node) = node_of(content).ok_or_else(|| error(number, "is malformed"))?;
        if last.as_ref().is_some_and(|last| *last >= path) || line(&path, &node) != content {
            return Err(error(number, "is out of order or not as it was written"));
        }
        last = Some(path.clone());
        tree.nodes.insert(path, node);
    }
    match tree.fault() {
        None => Ok(tree),
        Some((path, problem)) => Err(error(0, &format!("has /{path}, which {problem}"))),
    }
}

fn node_of(line: &str) -> Option<(String, Node)> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let letter = words.next()?;
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let (uid, gid) = words.next()?.split_once(':')?;
    let mtime = words.next()?.parse().ok()?;
    let kind = match letter {
        "d" => Kind::Directory,
        "p" => Kind::Fifo,
        "s" => Kind::Socket,
        "f" => Kind::File(content_of(words.next()?, words.next()?)?),
        "l" => Kind::Symlink(unescape(words.next()?)?),
        "h" => Kind::Hardlink(unescape(words.next()?)?.strip_prefix('/')?.to_owned()),
        "c" | "b" => {
            let (major, minor) = words.next()?.split_once(':')?;
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            if letter == "c" {
                Kind::CharDevice(major, minor)
            } else {
                Kind::BlockDevice(major, minor)
            }
        }
        _ => return None,
    };
    let path = unescape(words.next()?)?.strip_prefix('/')?.to_owned();
    let mut xattrs = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=')?;
        xattrs.insert(unescape(name)?, hex(value)?);
    }
    let meta = Meta {
        mode,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        mtime,
        xattrs,
    };
    Some((path, Node { meta, kind }))
}

fn content_of(size: &str, identity: &str) -> Option<Content> {
    let size = size.parse().ok()?;
    let (digest, source, digested) = match identity.split_once('+') {
        None => {
            let digest: Digest = identity.parse().ok()?;
            (digest, Source::Blob { digest, offset: 0 }, true)
        }
        Some((digest, place)) => {
            let digest: Digest = digest.parse().ok()?;
            let source = if place.is_empty() || place.contains('@') {
                let pieces = pieces_of(place, size)?;
                Source::Sparse { digest, pieces }
            } else {
                let offset = place.parse().ok()?;
                Source::Blob { digest, offset }
            };
            (digest, source, false)
        }
    };
    Some(Content {
        size,
        digest: digested.then_some(digest),
        source,
    })
}

/// The pieces of a sparse file of `size` bytes, only as an archive may have them.
fn pieces_of(text: &str, size: u64) -> Option<Arc<[Piece]>> {
    let (mut pieces, mut end) = (Vec::new(), 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (offset, rest) = part.split_once(':')?;
        let (length, at) = rest.split_once('@')?;
        let number = |text: &str| text.parse::<u64>().ok();
        let (offset, length, at) = (number(offset)?, number(length)?, number(at)?);
        if at < end || length == 0 || offset.checked_add(length).is_none() {
            return None;
        }
        end = at.checked_add(length).filter(|end| *end <= size)?;
        pieces.push(Piece { at, offset, length });
    }
    Some(pieces.into())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::tree;

    fn sample() -> Tree {
        let mut tree = tree(&[
            "d /etc",
            "f /etc/a b=x",
            "h /etc/c => etc/a b",
            "l /bin -> usr bin",
            "d /usr",
            "f 4755 /usr/ü\\=z",
            "w /gone",
            "o /hidden",
            "f /usr/sparse",
            "f /usr/void",
        ]);
        for (path, pieces) in [
            ("usr/sparse", vec![(1, 512, 2), (6, 514, 4)]),
            ("usr/void", Vec::new()),
        ] {
            let pieces = pieces.into_iter();
            let pieces = pieces.map(|(at, offset, length)| Piece { at, offset, length });
            tree.nodes.get_mut(path).unwrap().kind = Kind::File(Content {
                size: 10,
                digest: None,
                source: Source::Sparse {
                    digest: Digest::of("tar"),
                    pieces: pieces.collect(),
                },
            });
        }
        let node = tree.nodes.get_mut("etc/a b").unwrap();
        node.meta.xattrs.insert("user.a=b c".into(), vec![0, 255]);
        let ranged = tree.nodes.get_mut("usr/ü\\").unwrap();
        ranged.kind = Kind::File(Content {
            size: 70,
            digest: None,
            source: Source::Blob {
                digest: Digest::of("tar"),
                offset: 512,
            },
        });
        tree
    }

    #[test]
    fn golden() {
        let expected = "\
# slipform tree 1
d 0755 0:0 1577836800 /
l 0777 0:0 1577836800 usr\\x20bin /bin
d 0755 0:0 1577836800 /etc
f 0644 0:0 1577836800 1 sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 /etc/a\\x20b user.a\\x3db\\x20c=00ff
h 0644 0:0 1577836800 /etc/a\\x20b /etc/c
c 0000 0:0 1577836800 0:0 /gone
d 0755 0:0 1577836800 /hidden trusted.overlay.opaque=79
d 0755 0:0 1577836800 /usr
f 0644 0:0 1577836800 10 sha256:x+512:2@1,514:4@6 /usr/sparse
f 0644 0:0 1577836800 10 sha256:x+ /usr/void
f 4755 0:0 1577836800 70 sha256:788ccb2620b8e6b84a5eb6e14cdeda86de55bd30bd8ba2b4c0a2ac4ebc95b6d7+512 /usr/ü\\x5c
";
        let text = write(&sample());
        let without_digest = |text: &str| -> String {
            text.lines()
                .map(|l| {
                    l.split(' ')
                        .filter(|w| !w.starts_with("sha256:"))
                        .collect::<Vec<_>>()
                        .join(" ")
                        + "\n"
                })
                .collect()
        };
        assert_eq!(without_digest(&text), without_digest(expected));
        assert!(
            text.contains(&Digest::of("x").to_string())
                && text.contains(&format!("{}+512 ", Digest::of("tar")))
                && text.contains(&format!("{}+512:2@1,514:4@6 ", Digest::of("tar")))
                && text.contains(&format!("{}+ ", Digest::of("tar")))
        );
    }

    #[test]
    fn reads_what_it_writes() {
        let text = write(&sample());
        let read_back = read(&text).unwrap();
        assert_eq!(write(&read_back), text);
        assert_eq!(read_back.nodes.len(), sample().nodes.len());
    }

    #[test]
    fn refuses_other_texts() {
        let good = write(&sample());
        for (from, to) in [
            ("tree 1", "tree 2"),
            ("d 0755 0:0 1577836800 /etc\n", ""),
            (
                "d 0755 0:0 1577836800 /etc\n",
                "f 0755 0:0 1577836800 /etc\n",
            ),
            ("0:0 /gone", "0:0 /zzz"),
            (" /usr\n", " //usr\n"),
            (" /usr\n", " /usr/../x\n"),
            (" /usr\n", " /usr \n"),
            ("0:0 /gone", "0:0:0 /gone"),
            ("\\x20", "\\xzz"),
            ("=00ff", "=00f"),
            ("/etc/a\\x20b /etc/c", "/etc/none /etc/c"),
            ("\n", "\r\n"),
            ("514:4@6", "514:4@2"),
            ("514:4@6", "514:5@6"),
            ("514:4@6", "514:0@6"),
            ("514:4@6", "18446744073709551615:4@6"),
            ("514:4@6", "514@6"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(bad != good && read(&bad).is_err(), "{from:?} -> {to:?}");
        }
        assert!(read("").is_err());
        assert!(read(good.trim_end()).is_err());
    }

    #[test]
    fn fuzz_mutated_listings() {
        let good = write(&sample());
        slipform_fuzz::fuzz(&[good.as_bytes()], |bytes, _| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(tree) = read(text)
            {
                assert_eq!(write(&tree), text);
            }
        });
    }
}
