//! What may be in a tree: paths, attributes, and the words for what may not.

use std::collections::BTreeMap;

use super::{Builder, Placed};
use crate::base::EPOCH;
use crate::layers::{Entry, Kind, Meta};
use crate::tree::TreeError;

/// Longest name of one file, in bytes (ext4).
pub(super) const MAX_NAME: usize = 255;
/// Longest path, in bytes (Linux' `PATH_MAX`).
pub(super) const MAX_PATH: usize = 4095;

impl Builder<'_> {
    /// Drops the attributes that do not belong into an image, and counts them.
    pub(super) fn filter_xattrs(&mut self, entry: &mut Entry) {
        let dropped = &mut self.dropped;
        let path = &entry.path;
        entry.meta.xattrs.retain(|name, _| {
            let kept = matches!(
                name.as_str(),
                "security.capability" | "system.posix_acl_access" | "system.posix_acl_default"
            ) || name
                .strip_prefix("user.")
                .is_some_and(|rest| !rest.is_empty());
            if !kept && !name.starts_with("trusted.") {
                dropped
                    .entry(name.clone())
                    .or_insert_with(|| (0, path.clone()))
                    .0 += 1;
            }
            kept
        });
    }
}

pub(super) fn twice(at: &str, there: &Placed, new: &Placed) -> TreeError {
    TreeError::Collision {
        path: at.to_owned(),
        first: format!("{} of {}", sort_of(&there.kind), there.origin),
        second: format!("{} brings {} there too", new.origin, sort_of(&new.kind)),
        remedy: "leave one out with `exclude`, or move it",
    }
}

pub(super) fn below_a_file(
    above: &str,
    what: &str,
    whose: &str,
    path: &str,
    origin: &str,
) -> TreeError {
    TreeError::Collision {
        path: above.to_owned(),
        first: format!("{what} of {whose}"),
        second: format!("{origin} needs a folder there for /{path}"),
        remedy: "`remove` or move one of the two",
    }
}

pub(super) fn bad_path(entry: &Entry, rule: impl Into<String>) -> TreeError {
    TreeError::BadPath {
        origin: entry.origin.clone(),
        path: entry.path.clone(),
        rule: rule.into(),
    }
}

/// Refuses paths and kinds that no tree can hold.
pub(super) fn check_path(entry: &Entry) -> Result<(), TreeError> {
    let path = &entry.path;
    let Some(rest) = path.strip_prefix('/') else {
        return Err(bad_path(entry, "is not absolute; begin it with '/'"));
    };
    if entry.kind == Kind::CharDevice(0, 0) {
        return Err(bad_path(entry, "is a whiteout; use `remove`"));
    }
    if rest.is_empty() {
        return match entry.kind {
            Kind::Directory => Ok(()),
            _ => Err(bad_path(
                entry,
                "is the root, which is a folder; name a path in it",
            )),
        };
    }
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err(bad_path(
            entry,
            format!("is longer than {MAX_PATH} bytes or holds a NUL; shorten it"),
        ));
    }
    for part in rest.split('/') {
        if matches!(part, "" | "." | "..") {
            return Err(bad_path(
                entry,
                "has an empty part, '.' or '..'; write it plainly",
            ));
        }
        if part.len() > MAX_NAME {
            return Err(bad_path(
                entry,
                format!("has a name longer than {MAX_NAME} bytes; shorten it"),
            ));
        }
    }
    Ok(())
}

pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

pub(super) fn default_folder() -> Meta {
    Meta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: EPOCH,
        xattrs: BTreeMap::new(),
    }
}

pub(super) fn sort_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory => "a folder",
        Kind::File(_) | Kind::Hardlink(_) => "a file",
        Kind::Symlink(_) => "a symbolic link",
        _ => "a device, pipe or socket",
    }
}
