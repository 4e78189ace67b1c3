//! A tar archive in the store becomes entries; its content stays where it is.
//!
//! Everything that an archive could do to reach out of its place is refused
//! here, with the entry's name: absolute paths, `..`, a path through a symbolic
//! link of the same archive, hard links to what is not there yet, device nodes,
//! duplicates, names that no file system takes, sizes beyond the archive's end.
//!
//! The `tar` crate reads header fields. The walk is our own: the crate's
//! iterator reads long names and PAX headers whole before one can ask for their
//! size, and splits PAX records at line breaks, which breaks binary attributes.
//! Formats: tar(5) (ustar, GNU long names, PAX).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, ErrorKind, Read, Seek};

use tar::{EntryType, Header};

use super::pax::Pax;
use super::{Content, Entry, Kind, LayersError, Meta, Source};
use crate::base::Digest;

/// Most entries that one archive may hold.
pub const MAX_ENTRIES: usize = 500_000;
/// Longest path and link target, in bytes (Linux' `PATH_MAX`).
pub const MAX_PATH: usize = 4095;
/// Longest name of one file, in bytes (ext4).
pub const MAX_NAME: usize = 255;
/// Largest GNU long name or PAX header.
const MAX_EXTENSION: u64 = 1 << 20;
/// The first and last second that ext4 can store (1901 and 2446).
const MTIMES: std::ops::RangeInclusive<i64> = -(1 << 31)..=((1 << 34) - (1 << 31) - 1);
const BLOCK: u64 = 512;

/// An archive to read.
#[derive(Debug, Clone, Copy)]
pub struct TarInput<'a> {
    /// Its blob, which the entries' contents point into.
    pub blob: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Who brings it, for messages and as the entries' origin: `package webfs`.
    pub origin: &'a str,
}

/// Reads all headers of an archive; contents are skipped.
///
/// Entries come in the archive's order, with clean absolute paths. The
/// archive's own root entry is left out: the root's mode is not a package's to say.
///
/// # Errors
/// [`LayersError::Refused`] for an entry that must not reach an image,
/// [`LayersError::Malformed`], [`LayersError::TooLarge`], [`LayersError::Archive`].
pub fn read_tar<R: Read + Seek>(reader: R, input: TarInput<'_>) -> Result<Vec<Entry>, LayersError> {
    let mut walk = Walk {
        reader: BufReader::with_capacity(16 * 1024, reader),
        position: 0,
        input,
        next: Pax::default(),
    };
    let mut entries = Vec::new();
    while let Some(header) = walk.header()? {
        if let Some(entry) = walk.entry(&header)? {
            if entries.len() == MAX_ENTRIES {
                return Err(LayersError::TooLarge {
                    archive: input.origin.to_owned(),
                    what: "its number of entries".into(),
                    limit: MAX_ENTRIES as u64,
                });
            }
            entries.push(entry);
        }
    }
    check_whole(&mut entries, input.origin)?;
    Ok(entries)
}

struct Walk<'a, R> {
    reader: BufReader<R>,
    position: u64,
    input: TarInput<'a>,
    /// What long-name and PAX headers said about the entry to come.
    next: Pax,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn broken(&self, source: io::Error) -> LayersError {
        LayersError::Archive {
            operation: "read the files of",
            archive: self.input.origin.to_owned(),
            source,
        }
    }

    fn malformed(&self, problem: impl Into<String>) -> LayersError {
        LayersError::Malformed {
            archive: self.input.origin.to_owned(),
            problem: problem.into(),
        }
    }

    fn refused(&self, path: &[u8], rule: impl Into<String>) -> LayersError {
        refused(self.input.origin, path, rule)
    }

    /// The next header, checked; `None` at the end marker.
    fn header(&mut self) -> Result<Option<Header>, LayersError> {
        let mut header = Header::new_old();
        match self.reader.read_exact(header.as_mut_bytes()) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(self.malformed("its archive of files is cut short"));
            }
            other => other.map_err(|e| self.broken(e))?,
        }
        self.position += BLOCK;
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|b| u32::from(*b))
            .sum::<u32>()
            + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed(format!(
                "the header at byte {} of its archive of files has a wrong checksum",
                self.position - BLOCK
            )));
        }
        Ok(Some(header))
    }

    /// Moves behind the content of an entry.
    fn skip(&mut self, size: u64) -> Result<(), LayersError> {
        let padded = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|padded| i64::try_from(padded).ok())
            .filter(|padded| self.position + padded.unsigned_abs() <= self.input.size)
            .ok_or_else(|| {
                self.malformed("an entry of its archive of files is longer than the archive")
            })?;
        self.reader
            .seek_relative(padded)
            .map_err(|e| self.broken(e))?;
        self.position += padded.unsigned_abs();
        Ok(())
    }

    /// Reads the content of a long-name or PAX header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayersError> {
        let size = header
            .entry_size()
            .map_err(|_| self.malformed("a header has no proper size"))?;
        if size > MAX_EXTENSION {
            return Err(LayersError::TooLarge {
                archive: self.input.origin.to_owned(),
                what: "a long name or PAX header".into(),
                limit: MAX_EXTENSION,
            });
        }
        if self.position + size > self.input.size {
            return Err(self.malformed("a header is longer than the archive"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|e| self.broken(e))?;
        self.position += size;
        let padding = size.next_multiple_of(BLOCK) - size;
        if padding > 0 {
            if self.position + padding > self.input.size {
                return Err(self.malformed("a header is longer than the archive"));
            }
            self.reader
                .seek_relative(padding.cast_signed())
                .map_err(|e| self.broken(e))?;
            self.position += padding;
        }
        Ok(bytes)
    }

    /// What a header stands for; `None` when it only announces the next one.
    fn entry(&mut self, header: &Header) -> Result<Option<Entry>, LayersError> {
        let mut kind = header.entry_type();
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => {
                let mut name = self.extension(header)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                let field = match kind {
                    EntryType::GNULongName => &mut self.next.path,
                    _ => &mut self.next.linkpath,
                };
                *field = Some(name);
                return Ok(None);
            }
            EntryType::XHeader => {
                let bytes = self.extension(header)?;
                self.next = Pax::parse(&bytes).map_err(|problem| self.malformed(problem))?;
                return Ok(None);
            }
            EntryType::XGlobalHeader => {
                let bytes = self.extension(header)?;
                if Pax::says_something(&bytes).map_err(|problem| self.malformed(problem))? {
                    return Err(self.malformed(
                        "a global PAX header in it changes entries; that is not supported",
                    ));
                }
                return Ok(None);
            }
            _ => {}
        }
        let pax = std::mem::take(&mut self.next);
        let raw_path = pax
            .path
            .clone()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        // Old archives mark folders by the slash alone.
        if kind.is_file() && raw_path.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let size = match pax.size {
            Some(size) => size,
            None => header
                .entry_size()
                .map_err(|_| self.refused(&raw_path, "its size is no number"))?,
        };
        let path = clean_path(&raw_path).map_err(|rule| self.refused(&raw_path, rule))?;
        let kind = self.kind(header, kind, &raw_path, &pax, size)?;
        let meta = self.meta(header, &raw_path, pax)?;
        self.skip(size)?;
        Ok(path.map(|path| Entry {
            path,
            meta,
            kind,
            origin: self.input.origin.to_owned(),
        }))
    }

    fn kind(
        &self,
        header: &Header,
        kind: EntryType,
        path: &[u8],
        pax: &Pax,
        size: u64,
    ) -> Result<Kind, LayersError> {
        let target = || {
            pax.linkpath
                .clone()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default()
        };
        if kind == EntryType::Regular || kind == EntryType::Continuous {
            return Ok(Kind::File(Content {
                size,
                digest: None,
                source: Source::Blob {
                    digest: self.input.blob,
                    offset: self.position,
                },
            }));
        }
        if size != 0 {
            return Err(self.refused(path, "only regular files have content"));
        }
        match kind {
            EntryType::Directory => Ok(Kind::Directory),
            EntryType::Symlink => {
                let target = target();
                let text = String::from_utf8(target)
                    .map_err(|_| self.refused(path, "its link target is not UTF-8"))?;
                check_target(&text).map_err(|rule| self.refused(path, rule))?;
                Ok(Kind::Symlink(text))
            }
            EntryType::Link => {
                let target = target();
                let clean = clean_path(&target)
                    .map_err(|rule| self.refused(path, format!("as a hard link's target, {rule}")))?
                    .ok_or_else(|| self.refused(path, "it is a hard link to the root"))?;
                Ok(Kind::Hardlink(clean))
            }
            EntryType::Fifo => Ok(Kind::Fifo),
            EntryType::Char | EntryType::Block => Err(self.refused(
                path,
                "packages must not bring device nodes (Debian policy 10.6); the machine's /dev has them",
            )),
            EntryType::GNUSparse => Err(self.refused(path, "sparse files in archives are not supported")),
            other => Err(self.refused(
                path,
                format!("its type '{}' is not supported", other.as_byte().escape_ascii()),
            )),
        }
    }

    fn meta(&self, header: &Header, path: &[u8], pax: Pax) -> Result<Meta, LayersError> {
        let number = |pax: Option<u64>, header: io::Result<u64>, what: &str| {
            pax.map_or(header, Ok)
                .ok()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| {
                    self.refused(path, format!("its {what} is no number below 4294967295"))
                })
        };
        let mtime = pax
            .mtime
            .or_else(|| header.mtime().ok().and_then(|t| i64::try_from(t).ok()))
            .filter(|t| MTIMES.contains(t))
            .ok_or_else(|| {
                self.refused(path, "its time is beyond what ext4 can hold (1901 to 2446)")
            })?;
        Ok(Meta {
            mode: header
                .mode()
                .map_err(|_| self.refused(path, "its mode is no number"))?
                & 0o7777,
            uid: number(pax.uid, header.uid(), "owner")?,
            gid: number(pax.gid, header.gid(), "group")?,
            mtime,
            xattrs: pax.xattrs,
        })
    }
}

fn refused(archive: &str, path: &[u8], rule: impl Into<String>) -> LayersError {
    let shown = match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    };
    LayersError::Refused {
        archive: archive.to_owned(),
        path: shown.chars().take(300).collect(),
        rule: rule.into(),
    }
}

/// An archive's path as an absolute guest path; `None` for the root itself.
pub(super) fn clean_path(raw: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(raw).map_err(|_| "its name is not UTF-8")?;
    if text.is_empty() {
        return Err("it has no name".into());
    }
    if text.starts_with('/') {
        return Err("paths in archives must be relative".into());
    }
    if text.contains('\0') {
        return Err("it has a NUL in its name".into());
    }
    let mut clean = String::with_capacity(text.len());
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err("'..' leads out of the archive".into());
        }
        if part.len() > MAX_NAME {
            return Err(format!("a name in it is longer than {MAX_NAME} bytes"));
        }
        clean.push('/');
        clean.push_str(part);
    }
    if clean.len() > MAX_PATH {
        return Err(format!("it is longer than {MAX_PATH} bytes"));
    }
    Ok((!clean.is_empty()).then_some(clean))
}

/// What a symbolic link may say.
pub(super) fn check_target(target: &str) -> Result<(), String> {
    if target.is_empty() {
        return Err("its link target is empty".into());
    }
    if target.contains('\0') {
        return Err("its link target has a NUL".into());
    }
    if target.len() > MAX_PATH {
        return Err(format!("its link target is longer than {MAX_PATH} bytes"));
    }
    Ok(())
}

/// Rules over the whole archive: no duplicates, nothing below what is no
/// folder, hard links only to a file that came before.
fn check_whole(entries: &mut Vec<Entry>, origin: &str) -> Result<(), LayersError> {
    let mut kinds: BTreeMap<&str, &Kind> = BTreeMap::new();
    let mut again = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path.as_str();
        if let Kind::Hardlink(target) = &entry.kind {
            match kinds.get(target.as_str()) {
                Some(Kind::File(_) | Kind::Hardlink(_)) => {}
                Some(_) => {
                    return Err(refused(
                        origin,
                        path.as_bytes(),
                        format!("it is a hard link to {target}, which is no file"),
                    ));
                }
                None => {
                    return Err(refused(
                        origin,
                        path.as_bytes(),
                        format!(
                            "it is a hard link to {target}, which is not in the archive before it"
                        ),
                    ));
                }
            }
        }
        match kinds.insert(path, &entry.kind) {
            None => {}
            // A folder listed twice is common and harmless; the first one counts.
            Some(Kind::Directory) if entry.kind == Kind::Directory => {
                again.insert(index);
            }
            Some(_) => {
                return Err(refused(
                    origin,
                    path.as_bytes(),
                    "it is in the archive twice",
                ));
            }
        }
    }
    for entry in entries.iter() {
        for (end, _) in entry.path.match_indices('/').skip(1) {
            let parent = &entry.path[..end];
            match kinds.get(parent) {
                None | Some(Kind::Directory) => {}
                Some(Kind::Symlink(target)) => {
                    return Err(refused(
                        origin,
                        entry.path.as_bytes(),
                        format!(
                            "it lies below {parent}, which the same archive makes a link to {target}"
                        ),
                    ));
                }
                Some(_) => {
                    return Err(refused(
                        origin,
                        entry.path.as_bytes(),
                        format!("it lies below {parent}, which is no folder"),
                    ));
                }
            }
        }
    }
    if !again.is_empty() {
        let mut index = 0;
        entries.retain(|_| {
            index += 1;
            !again.contains(&(index - 1))
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
