//! `/etc/ld.so.cache`, as ldconfig(8) makes it, without running anything of the image.
//!
//! Folders: those of `/etc/ld.so.conf` and what it includes, then `/lib` and
//! `/usr/lib`; a folder that is reached twice counts once, under the name that
//! comes first. Without `/etc/ld.so.conf` (it belongs to `libc-bin`, which a
//! minimal image has no other use for) `/etc/ld.so.conf.d/*.conf` is read, as
//! Debian's would have it. Libraries for special processors in `glibc-hwcaps`
//! and the old `tls` and platform folders are passed over: the loader then
//! takes the general ones.
//!
//! A library is listed by its SONAME; where no file of that name is there, the
//! link that ldconfig would make is made. Links that are there are left as they are.
//!
//! ```text
//! "glibc-ld.so.cache1.1"  count  length of strings  endianness (2 = little)  extension 0   48 bytes
//! per library: flags, offset of its name, offset of its path, 0, 0                         24 bytes
//! paths, each ended by NUL; a name is its path's tail
//! ```
//! Little-endian. Source: glibc, sysdeps/generic/dl-cache.h (format "new"). The
//! loader searches by halves, so the order is part of the format: names from
//! high to low, digits compared as numbers.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::elf::{self, SharedObject};
use super::{Entry, GenerateInput, Seen, TreeError, file, symlink};
use crate::layers::Kind;

const CONF: &str = "etc/ld.so.conf";
const CACHE: &str = "/etc/ld.so.cache";
const SYSTEM_FOLDERS: [&str; 2] = ["/lib", "/usr/lib"];
/// How deep files of the configuration may include each other.
const MAX_INCLUDES: usize = 16;
const HEADER: usize = 48;
const RECORD: usize = 24;

/// One line of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cached {
    soname: String,
    path: String,
    flags: u32,
}

/// The cache and missing SONAME links; nothing when there are no libraries.
pub(super) fn entries(input: &GenerateInput<'_>) -> Result<Vec<Entry>, TreeError> {
    let mut cached = Vec::new();
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for folder in folders(input)? {
        if let Some((at, Some(Seen::Directory))) = input.below.resolve(&folder)
            && seen.insert(at.clone())
        {
            for library in libraries(input, &at)? {
                if let Some(target) = &library.link {
                    entries.push(symlink(&format!("/{at}/{}", library.soname), target));
                }
                let path = format!("{folder}/{}", library.soname);
                cached.push(Cached {
                    soname: library.soname,
                    path,
                    flags: library.flags,
                });
            }
        }
    }
    if !cached.is_empty() {
        cached.sort_by(order);
        entries.push(file(CACHE, 0o644, 0, format(&cached)));
    }
    Ok(entries)
}

/// Folders in the order in which ldconfig visits them.
fn folders(input: &GenerateInput<'_>) -> Result<Vec<String>, TreeError> {
    let mut folders = Vec::new();
    match input.text(CONF)? {
        Some(text) => configured(input, &text, CONF, 0, &mut folders)?,
        None => included(input, "/etc/ld.so.conf.d/*.conf", 0, &mut folders)?,
    }
    folders.extend(SYSTEM_FOLDERS.map(str::to_owned));
    Ok(folders)
}

fn configured(
    input: &GenerateInput<'_>,
    text: &str,
    path: &str,
    depth: usize,
    folders: &mut Vec<String>,
) -> Result<(), TreeError> {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words = line
            .strip_prefix("include")
            .filter(|rest| rest.starts_with([' ', '\t']));
        if let Some(words) = words {
            for pattern in words.split_whitespace() {
                let pattern = if pattern.starts_with('/') {
                    pattern.to_owned()
                } else {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    format!("/{parent}/{pattern}")
                };
                included(input, &pattern, depth + 1, folders)?;
            }
        } else if line.starts_with('/') {
            // `=libc6` and the like told old kinds of libraries apart.
            let folder = line.split('=').next().unwrap_or_default().trim_end();
            let folder = folder.trim_end_matches('/');
            if !folder.is_empty() {
                folders.push(folder.to_owned());
            }
        }
    }
    Ok(())
}

fn included(
    input: &GenerateInput<'_>,
    pattern: &str,
    depth: usize,
    folders: &mut Vec<String>,
) -> Result<(), TreeError> {
    let bad = |problem: String| TreeError::Input {
        path: CONF.to_owned(),
        problem,
    };
    if depth > MAX_INCLUDES {
        return Err(bad(format!(
            "includes itself, or more than {MAX_INCLUDES} files deep; mend it"
        )));
    }
    let hits = input.below.glob(pattern).map_err(|problem| {
        bad(format!(
            "has the malformed pattern '{pattern}' ({problem}); mend it"
        ))
    })?;
    for path in hits {
        if let Some(text) = input.text(&path)? {
            configured(input, &text, &path, depth, folders)?;
        }
    }
    Ok(())
}

/// A library of one folder.
struct Library {
    /// Name of the file that was looked at.
    name: String,
    soname: String,
    flags: u32,
    /// Whether `name` is a link that stands for itself.
    is_link: bool,
    /// What the missing link `soname` must say.
    link: Option<String>,
}

/// Libraries of a folder, one for each name, as ldconfig chooses them.
fn libraries(input: &GenerateInput<'_>, folder: &str) -> Result<Vec<Library>, TreeError> {
    let children = input.below.children(folder);
    let names: BTreeSet<&str> = children.iter().map(|(name, _)| *name).collect();
    let mut libraries: Vec<Library> = Vec::new();
    for (name, node) in children {
        if !is_library_name(name) {
            continue;
        }
        let path = format!("{folder}/{name}");
        let Some(object) = object_at(input, &path)? else {
            continue;
        };
        let soname = object.soname.unwrap_or_else(|| name.to_owned());
        // A link counts as one when it is the SONAME, or the name without version that ld(1) uses.
        let is_link = matches!(node.kind, Kind::Symlink(_))
            && (name == soname || (name.ends_with(".so") && soname.starts_with(name)));
        let soname = if is_link { name.to_owned() } else { soname };
        let new = Library {
            name: name.to_owned(),
            soname,
            flags: object.flags,
            is_link,
            link: None,
        };
        match libraries
            .iter_mut()
            .find(|there| there.soname == new.soname)
        {
            None => libraries.push(new),
            Some(there) => {
                let newer = compare(&there.name, &new.name) == Ordering::Less;
                if (!new.is_link && there.is_link) || (new.is_link == there.is_link && newer) {
                    *there = new;
                }
            }
        }
    }
    for library in &mut libraries {
        if !library.is_link && !names.contains(library.soname.as_str()) {
            library.link = Some(library.name.clone());
        }
    }
    Ok(libraries)
}

fn is_library_name(name: &str) -> bool {
    let loader = name.starts_with("ld.so.") || name.starts_with("ld64.so.");
    loader || ((name.starts_with("lib") || name.starts_with("ld-")) && name.contains(".so"))
}

/// The shared object that a path leads to.
fn object_at(input: &GenerateInput<'_>, path: &str) -> Result<Option<SharedObject>, TreeError> {
    let Some(content) = input.content(path) else {
        return Ok(None);
    };
    Ok(elf::shared_object(&|offset, length| {
        (input.read)(content, offset, length)
    })?)
}

/// Names compared as the loader does: digits as numbers, and digits after all else.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let ((x, rest_a), (y, rest_b)) = (leading_number(a), leading_number(b));
                if x != y {
                    return x.cmp(&y);
                }
                (a, b) = (rest_a, rest_b);
            }
            (Some(x), _) if x.is_ascii_digit() => return Ordering::Greater,
            (_, Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (x, y) if x != y => return x.cmp(&y),
            _ => (a, b) = (&a[1..], &b[1..]),
        }
    }
}

fn leading_number(text: &[u8]) -> (u64, &[u8]) {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = text[..digits].iter().fold(0_u64, |value, b| {
        value.saturating_mul(10).saturating_add(u64::from(b - b'0'))
    });
    (value, &text[digits..])
}

/// Order of the cache: names from high to low, then flags from high to low;
/// what is equal stays in the order of the folders.
fn order(a: &Cached, b: &Cached) -> Ordering {
    compare(&b.soname, &a.soname).then_with(|| b.flags.cmp(&a.flags))
}

fn format(cached: &[Cached]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let strings: usize = cached.iter().map(|c| c.path.len() + 1).sum();
    let mut bytes = Vec::with_capacity(HEADER + cached.len() * RECORD + strings);
    bytes.extend(b"glibc-ld.so.cache1.1");
    bytes.extend(number(cached.len()));
    bytes.extend(number(strings));
    bytes.extend([2, 0, 0, 0]);
    bytes.resize(HEADER, 0);
    let mut path_at = HEADER + cached.len() * RECORD;
    for entry in cached {
        bytes.extend(entry.flags.to_le_bytes());
        bytes.extend(number(path_at + entry.path.len() - entry.soname.len()));
        bytes.extend(number(path_at));
        bytes.extend([0; 12]);
        path_at += entry.path.len() + 1;
    }
    for entry in cached {
        bytes.extend(entry.path.bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
#[path = "ldcache_tests.rs"]
mod tests;
