//! What a layer leaves out: documentation unless it is wished for, and the
//! user's `exclude` globs.
//!
//! Left out without `docs = true`, as minimal images of Debian do:
//! manual pages, info, help, lintian overrides, bug scripts, menus and
//! documentation below `/usr/share`, and translated messages
//! (`/usr/share/locale`; the locale data of glibc lies elsewhere and stays).
//! Copyright files stay, because their licences ask for it: each
//! `/usr/share/doc/<package>/copyright`, and links in place of such a folder.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Entry, Kind};

/// Folders whose content nobody reads on a machine without a shell.
const DOCUMENTATION: [&str; 13] = [
    "/usr/share/bug",
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/gnome/help",
    "/usr/share/groff",
    "/usr/share/gtk-doc",
    "/usr/share/help",
    "/usr/share/info",
    "/usr/share/linda",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/menu",
];

/// Decides which entries a layer brings.
#[derive(Debug)]
pub(super) struct Excludes {
    docs: bool,
    globs: GlobSet,
}

/// A glob over paths in which `*` stays within one folder and `**` does not.
pub fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

impl Excludes {
    pub(super) fn new(docs: bool, patterns: &[String]) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(glob(pattern)?);
        }
        Ok(Self {
            docs,
            globs: set.build()?,
        })
    }

    /// Whether a path or a folder above it is excluded by the user.
    fn by_user(&self, path: &str) -> bool {
        !self.globs.is_empty()
            && path
                .match_indices('/')
                .map(|(end, _)| &path[..end])
                .skip(1)
                .chain([path])
                .any(|path| self.globs.is_match(path))
    }

    fn by_default(&self, entry: &Entry) -> bool {
        if self.docs {
            return false;
        }
        let below = |folder: &str| {
            let rest = entry.path.strip_prefix(folder);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !DOCUMENTATION.iter().any(|folder| below(folder)) {
            return false;
        }
        let in_doc = entry
            .path
            .strip_prefix("/usr/share/doc/")
            .unwrap_or_default();
        let licence = in_doc
            .split_once('/')
            .is_some_and(|(_, file)| file == "copyright")
            || (matches!(entry.kind, Kind::Symlink(_))
                && !in_doc.is_empty()
                && !in_doc.contains('/'));
        !licence
    }

    /// Leaves out what is excluded from what a package brings. A folder stays
    /// when something below it does. Hard links whose file went become the file.
    pub(super) fn apply(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let out: Vec<bool> = entries
            .iter()
            .map(|entry| self.by_default(entry) || self.by_user(&entry.path))
            .collect();
        let mut needed = std::collections::BTreeSet::new();
        for (entry, out) in entries.iter().zip(&out) {
            if !out {
                needed.extend(
                    entry
                        .path
                        .match_indices('/')
                        .skip(1)
                        .map(|(end, _)| entry.path[..end].to_owned()),
                );
            }
        }
        let mut kept = Vec::with_capacity(entries.len());
        let mut gone: Vec<Entry> = Vec::new();
        for (entry, out) in entries.into_iter().zip(out) {
            let folder = entry.kind == Kind::Directory && needed.contains(&entry.path);
            if !out || folder {
                kept.push(entry);
            } else if matches!(entry.kind, Kind::File(_)) {
                gone.push(entry);
            }
        }
        for entry in &gone {
            promote_links(&mut kept, entry);
        }
        kept
    }

    /// Whether the user's own excludes leave out one of the user's own files.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        self.by_user(path)
    }
}

/// The file `gone` leaves `entries`: the first hard link to it takes its
/// content over, and the others become links to that one.
pub(super) fn promote_links(entries: &mut [Entry], gone: &Entry) {
    let mut heir: Option<String> = None;
    for entry in entries {
        if matches!(&entry.kind, Kind::Hardlink(target) if *target == gone.path) {
            match &heir {
                Some(heir) => entry.kind = Kind::Hardlink(heir.clone()),
                None => {
                    entry.kind = gone.kind.clone();
                    entry.meta = gone.meta.clone();
                    heir = Some(entry.path.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::Item;
    use crate::layers::testing::entries_of;

    fn left(docs: bool, patterns: &[&str], items: &[Item]) -> Vec<String> {
        let patterns: Vec<_> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let excludes = Excludes::new(docs, &patterns).unwrap();
        excludes
            .apply(entries_of(items))
            .into_iter()
            .map(|e| e.path)
            .collect()
    }

    fn documented() -> Vec<Item> {
        [
            "usr/share/doc/a/copyright",
            "usr/share/doc/a/changelog.gz",
            "usr/share/doc/a/more/copyright",
            "usr/share/doc-base/a",
            "usr/share/documents/a",
            "usr/share/man/man1/a.1.gz",
            "usr/share/locale/de/a.mo",
        ]
        .iter()
        .map(|path| Item::file(path, ""))
        .chain([
            Item::dir("usr/share/doc"),
            Item::dir("usr/share/doc/a"),
            Item::dir("usr/share/doc/empty"),
            Item::dir("usr/share/man"),
            Item::symlink("usr/share/doc/b", "a"),
        ])
        .collect()
    }

    #[test]
    fn documentation_goes_and_copyright_stays() {
        assert_eq!(
            left(false, &[], &documented()),
            [
                "/usr/share/doc/a/copyright",
                "/usr/share/documents/a",
                "/usr/share/doc",
                "/usr/share/doc/a",
                "/usr/share/doc/b"
            ]
        );
        assert_eq!(left(true, &[], &documented()).len(), documented().len());
    }

    #[test]
    fn globs_take_folders_with_all_below_them() {
        let items = [
            Item::dir("opt"),
            Item::dir("opt/a"),
            Item::file("opt/a/x", ""),
            Item::file("opt/b.txt", ""),
            Item::file("opt/c/d.txt", ""),
        ];
        assert_eq!(
            left(false, &["/opt/a"], &items),
            ["/opt", "/opt/b.txt", "/opt/c/d.txt"]
        );
        assert_eq!(
            left(false, &["/opt/*.txt"], &items),
            ["/opt", "/opt/a", "/opt/a/x", "/opt/c/d.txt"]
        );
        assert_eq!(
            left(false, &["/opt/**/*.txt", "/opt/a/**"], &items),
            ["/opt", "/opt/a"]
        );
        assert_eq!(left(false, &["/**"], &items), [""; 0]);
    }

    #[test]
    fn an_excluded_files_hard_links_keep_its_content() {
        let items = [
            Item::file("a", "content").mode(0o4755),
            Item::hardlink("b", "a"),
            Item::hardlink("c", "a"),
        ];
        let excludes = Excludes::new(false, &["/a".into()]).unwrap();
        let kept = excludes.apply(entries_of(&items));
        assert!(
            matches!(&kept[0].kind, Kind::File(content) if content.size == 7),
            "{kept:?}"
        );
        assert_eq!(kept[0].meta.mode, 0o4755);
        assert_eq!(kept[1].kind, Kind::Hardlink("/b".into()));
    }
}
