//! The user's own `files`, `dirs` and `symlinks`.
//!
//! Rules that keep a layer to itself and the same everywhere:
//! - no path of the host leaves the layer's folder, by `..` or through a symbolic link;
//! - a link that a rule names is followed (inside the folder); links inside a
//!   copied folder or found by a glob are kept as links and never read through;
//! - sockets, devices and pipes of the host are refused;
//! - entries come in byte order of their paths, whatever order the host lists them in;
//! - modes are 0755 for folders and for files that are executable, else 0644, unless given;
//!   owner root unless given; time [`crate::base::EPOCH`].
//!
//! A copied folder brings entries for what is in it, and for folders that are
//! empty. Folders that hold something are left to be made as parents, so that
//! copying `rootfs/tmp/x` to `/` does not change the mode of the image's `/tmp`.
//! With an owner given, every folder below `to` is brought with that owner.
//!
//! A glob's files keep their path behind the glob's fixed part: `www/**/*.css`
//! to `/srv` brings `/srv/a/b.css` for `www/a/b.css`.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use globset::GlobMatcher;

use super::collect::CollectInput;
use super::exclude::glob;
use super::tar::{MAX_ENTRIES, MAX_NAME, MAX_PATH, check_target};
use super::{Content, Entry, Kind, LayersError, Meta, Source};
use crate::base::EPOCH;
use crate::base::fs::At;
use crate::spec::{FileRule, Owner};

/// All that the user's rules bring, `files` first, then the cargo binary,
/// `dirs` and `symlinks`.
///
/// # Errors
/// [`LayersError::Rule`] naming the rule that cannot be followed.
pub fn user_entries(input: &CollectInput<'_>) -> Result<Vec<Entry>, LayersError> {
    let mut entries = Vec::new();
    for (index, rule) in input.spec.files.iter().enumerate() {
        let name = format!("files[{index}] {}", rule.from);
        Rules { input, name: &name }.files(rule, &mut entries)?;
    }
    if let Some(cargo) = &input.spec.cargo {
        let name = format!("cargo {}", cargo.bin);
        let rules = Rules { input, name: &name };
        let built = input.built.ok_or_else(|| {
            rules.problem("it was not built; run `cargo build` in its folder to see why")
        })?;
        let found = fs::metadata(built).at("inspect", built)?;
        let to = format!("/usr/bin/{}", cargo.bin);
        let attributes = Attributes {
            mode: Some(0o755),
            ids: None,
        };
        entries.push(rules.file(built.to_owned(), &found, &to, &attributes)?);
    }
    for (index, rule) in input.spec.dirs.iter().enumerate() {
        let name = format!("dirs[{index}] {}", rule.path);
        let rules = Rules { input, name: &name };
        let ids = rules.ids(rule.owner.as_ref())?.unwrap_or_default();
        let mode = rule.mode.unwrap_or(0o755);
        entries.push(rules.entry(&rule.path, meta(mode, ids), Kind::Directory)?);
    }
    for (index, rule) in input.spec.symlinks.iter().enumerate() {
        let name = format!("symlinks[{index}] {}", rule.path);
        let rules = Rules { input, name: &name };
        check_target(&rule.target).map_err(|p| rules.problem(p))?;
        let kind = Kind::Symlink(rule.target.clone());
        entries.push(rules.entry(&rule.path, meta(0o777, (0, 0)), kind)?);
    }
    Ok(entries)
}

fn meta(mode: u32, (uid, gid): (u32, u32)) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        mtime: EPOCH,
        xattrs: BTreeMap::new(),
    }
}

/// What a rule gives to all that it brings.
struct Attributes {
    mode: Option<u32>,
    ids: Option<(u32, u32)>,
}

/// One rule at work.
struct Rules<'a> {
    input: &'a CollectInput<'a>,
    /// For messages and as origin: `files[0] www`.
    name: &'a str,
}

impl Rules<'_> {
    fn problem(&self, problem: impl Into<String>) -> LayersError {
        LayersError::Rule {
            layer: self.input.spec.name.clone(),
            rule: self.name.to_owned(),
            problem: problem.into(),
        }
    }

    fn ids(&self, owner: Option<&Owner>) -> Result<Option<(u32, u32)>, LayersError> {
        owner
            .map(|owner| (self.input.ids)(owner).map_err(|p| self.problem(p)))
            .transpose()
    }

    fn entry(&self, path: &str, meta: Meta, kind: Kind) -> Result<Entry, LayersError> {
        let path = path.trim_end_matches('/').to_owned();
        let too_long = path.split('/').find(|part| part.len() > MAX_NAME);
        if let Some(part) = too_long {
            return Err(self.problem(format!("the name '{part}' is longer than {MAX_NAME} bytes")));
        }
        if path.len() > MAX_PATH {
            return Err(self.problem(format!("a path it makes is longer than {MAX_PATH} bytes")));
        }
        Ok(Entry {
            path,
            meta,
            kind,
            origin: self.name.to_owned(),
        })
    }

    fn file(
        &self,
        host: PathBuf,
        found: &Metadata,
        to: &str,
        with: &Attributes,
    ) -> Result<Entry, LayersError> {
        let executable = found.permissions().mode() & 0o111 != 0;
        let mode = with.mode.unwrap_or(if executable { 0o755 } else { 0o644 });
        let (digest, size) = (self.input.digest_of)(&host, found)?;
        let content = Content {
            size,
            digest: Some(digest),
            source: Source::Host(host),
        };
        self.entry(
            to,
            meta(mode, with.ids.unwrap_or_default()),
            Kind::File(content),
        )
    }

    /// `files = [{ from, to, .. }]`.
    fn files(&self, rule: &FileRule, entries: &mut Vec<Entry>) -> Result<(), LayersError> {
        let with = Attributes {
            mode: rule.mode,
            ids: self.ids(rule.owner.as_ref())?,
        };
        let from = clean_from(&rule.from).map_err(|p| self.problem(p))?;
        let mut made: BTreeMap<String, Entry> = BTreeMap::new();
        match self.inside(&from)? {
            Some(host) => {
                let found = fs::metadata(&host).at("inspect", &host)?;
                if found.is_dir() {
                    self.folder(&host, rule.to.trim_end_matches('/'), &with, &mut made)?;
                } else {
                    self.regular(&host, &found)?;
                    let last = from.rsplit('/').next().unwrap_or_default();
                    let to = if rule.to.ends_with('/') {
                        format!("{}{last}", rule.to)
                    } else {
                        rule.to.clone()
                    };
                    let entry = self.file(host, &found, &to, &with)?;
                    made.insert(entry.path.clone(), entry);
                }
            }
            None if from.contains(['*', '?', '[', '{']) => {
                self.globbed(&from, rule, &with, &mut made)?;
            }
            None => {
                return Err(self.problem(format!(
                    "'{}' is not in {}; create it, or mend `from`",
                    rule.from,
                    self.input.spec.dir.display()
                )));
            }
        }
        entries.extend(made.into_values());
        Ok(())
    }

    /// The host path of `from`, links followed, `None` when it is not there.
    /// Outside the layer's folder nothing is looked at.
    fn inside(&self, from: &str) -> Result<Option<PathBuf>, LayersError> {
        let root = &self.input.spec.dir;
        let root = fs::canonicalize(root).at("find the layer's folder", root)?;
        let mut path = root.clone();
        for part in from.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error).at("inspect", &path)?,
                Ok(found) if found.is_symlink() => {
                    let target = fs::canonicalize(&path).at("follow", &path)?;
                    if !target.starts_with(&root) {
                        return Err(self.problem(format!(
                            "{} is a link to {}, outside the layer's folder; copy what you need into the folder",
                            path.display(),
                            target.display()
                        )));
                    }
                    path = target;
                }
                Ok(_) => {}
            }
        }
        Ok(Some(path))
    }

    fn regular(&self, host: &Path, found: &Metadata) -> Result<(), LayersError> {
        let kind = found.file_type();
        let what = if kind.is_file() {
            return Ok(());
        } else if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        Err(self.problem(format!(
            "{} is {what}; only files, folders and symbolic links can go into a layer",
            host.display()
        )))
    }

    fn add(&self, made: &mut BTreeMap<String, Entry>, entry: Entry) -> Result<(), LayersError> {
        made.insert(entry.path.clone(), entry);
        if made.len() > MAX_ENTRIES {
            return Err(self.problem(format!(
                "it brings more than {MAX_ENTRIES} entries; name a smaller folder"
            )));
        }
        Ok(())
    }

    /// Copies what is in a folder of the host to `to`.
    fn folder(
        &self,
        host: &Path,
        to: &str,
        with: &Attributes,
        made: &mut BTreeMap<String, Entry>,
    ) -> Result<(), LayersError> {
        let mut folders = vec![(host.to_owned(), to.to_owned())];
        while let Some((host, to)) = folders.pop() {
            let mut empty = true;
            for child in self.children(&host)? {
                empty = false;
                let child_host = host.join(&child);
                let child_to = format!("{to}/{child}");
                let found = fs::symlink_metadata(&child_host).at("inspect", &child_host)?;
                if found.is_dir() {
                    folders.push((child_host, child_to));
                } else {
                    let entry = self.leaf(child_host, &found, &child_to, with)?;
                    self.add(made, entry)?;
                }
            }
            if (empty || with.ids.is_some()) && !to.is_empty() {
                let ids = with.ids.unwrap_or_default();
                let entry = self.entry(&to, meta(0o755, ids), Kind::Directory)?;
                self.add(made, entry)?;
            }
        }
        Ok(())
    }

    /// A file or a link that was found and not named.
    fn leaf(
        &self,
        host: PathBuf,
        found: &Metadata,
        to: &str,
        with: &Attributes,
    ) -> Result<Entry, LayersError> {
        if !found.is_symlink() {
            self.regular(&host, found)?;
            return self.file(host, found, to, with);
        }
        let target = fs::read_link(&host).at("read the link", &host)?;
        let target = target.into_os_string().into_string().map_err(|_| {
            self.problem(format!(
                "the target of the link {} is not UTF-8",
                host.display()
            ))
        })?;
        check_target(&target).map_err(|p| self.problem(format!("{}: {p}", host.display())))?;
        self.entry(
            to,
            meta(0o777, with.ids.unwrap_or_default()),
            Kind::Symlink(target),
        )
    }

    /// Names in a folder, sorted.
    fn children(&self, host: &Path) -> Result<Vec<String>, LayersError> {
        let mut names = Vec::new();
        for child in fs::read_dir(host).at("list", host)? {
            let name = child.at("list", host)?.file_name();
            names.push(name.into_string().map_err(|name| {
                let shown = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str())
                    .escape_ascii()
                    .to_string();
                self.problem(format!(
                    "the name '{shown}' in {} is not UTF-8; rename it",
                    host.display()
                ))
            })?);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Copies what a glob finds below its fixed part.
    fn globbed(
        &self,
        from: &str,
        rule: &FileRule,
        with: &Attributes,
        made: &mut BTreeMap<String, Entry>,
    ) -> Result<(), LayersError> {
        let bad = |error: globset::Error| self.problem(format!("the glob is malformed ({error})"));
        let matcher = glob(from).map_err(bad)?.compile_matcher();
        let fixed: Vec<&str> = from
            .split('/')
            .take_while(|part| !part.contains(['*', '?', '[', '{', '\\']))
            .collect();
        let fixed = fixed.join("/");
        if let Some(base) = self.inside(&fixed)? {
            let search = Search {
                rules: self,
                matcher: &matcher,
                with,
                to: rule.to.trim_end_matches('/'),
            };
            search.run(&base, &fixed, made)?;
        }
        if made.is_empty() {
            return Err(self.problem(format!(
                "no file in {} matches '{}'; mend the glob, or leave the rule out",
                self.input.spec.dir.display(),
                rule.from
            )));
        }
        Ok(())
    }
}

/// A glob looking for its files.
struct Search<'a> {
    rules: &'a Rules<'a>,
    matcher: &'a GlobMatcher,
    with: &'a Attributes,
    to: &'a str,
}

impl Search<'_> {
    fn run(
        &self,
        base: &Path,
        fixed: &str,
        made: &mut BTreeMap<String, Entry>,
    ) -> Result<(), LayersError> {
        // Path on the host, path that the glob is matched with, path behind the fixed part.
        let mut folders = vec![(base.to_owned(), fixed.to_owned(), String::new())];
        let mut seen = 0;
        while let Some((host, name, behind)) = folders.pop() {
            if !host.is_dir() {
                continue;
            }
            for child in self.rules.children(&host)? {
                seen += 1;
                if seen > MAX_ENTRIES {
                    return Err(self.rules.problem(format!("it would look at more than {MAX_ENTRIES} files; begin the glob with a folder")));
                }
                let host = host.join(&child);
                let name = if name.is_empty() {
                    child.clone()
                } else {
                    format!("{name}/{child}")
                };
                let behind = format!("{behind}/{child}");
                let found = fs::symlink_metadata(&host).at("inspect", &host)?;
                let to = format!("{}{behind}", self.to);
                match (found.is_dir(), self.matcher.is_match(&name)) {
                    (true, true) => self.rules.folder(&host, &to, self.with, made)?,
                    (true, false) => folders.push((host, name, behind)),
                    (false, true) => {
                        let entry = self.rules.leaf(host, &found, &to, self.with)?;
                        self.rules.add(made, entry)?;
                    }
                    (false, false) => {}
                }
            }
        }
        Ok(())
    }
}

/// `from` without `.` parts, refused when it is absolute or climbs.
fn clean_from(from: &str) -> Result<String, String> {
    if from.starts_with('/') {
        return Err(format!(
            "`from` = '{from}' must be relative to the layer's folder; copy what you need into the folder"
        ));
    }
    let parts: Vec<&str> = from
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err(format!(
            "`from` = '{from}' leads out of the layer's folder by '..'; copy what you need into the folder"
        ));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
