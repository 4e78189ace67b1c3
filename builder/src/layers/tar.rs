//! A tar archive in the store becomes entries; its content stays where it is.
//!
//! Everything that an archive could do to reach out of its place is refused
//! here, with the entry's name: absolute paths, `..`, a path through a symbolic
//! link of the same archive, hard links to what is not there yet, duplicates (but
//! of folders: tools that make layers list those again and again), names that no
//! file system takes, sizes beyond the archive's end. Device nodes are refused in
//! packages and left out of other archives.
//!
//! The `tar` crate reads header fields. The walk is our own: the crate's
//! iterator reads long names and PAX headers whole before one can ask for their
//! size, and splits PAX records at line breaks, which breaks binary attributes.
//! Formats: tar(5) (ustar, GNU long names, PAX); sparse files of all kinds.

mod sparse;
mod whole;

use std::io::{self, BufReader, ErrorKind, Read, Seek};

use tar::{EntryType, Header};

use super::pax::Pax;
use super::{Content, Entry, Kind, LayersError, Meta, Source};
use crate::base::Digest;
use whole::check_whole;

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
/// Most device nodes that are left out of one archive; Debian's own tar of a root has a dozen.
const MAX_DEVICES: u32 = 4096;
const BLOCK: u64 = 512;
/// How a limit on what is decompressed is told.
pub(super) const UNPACKED: &str = "its unpacked size";

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

/// A stream of an archive that can pass over content.
pub(super) trait Stream: Read {
    /// Passes over `count` bytes.
    fn pass(&mut self, count: u64) -> io::Result<()>;
}

impl<R: Read + Seek> Stream for BufReader<R> {
    fn pass(&mut self, count: u64) -> io::Result<()> {
        let count = i64::try_from(count).map_err(|_| ErrorKind::InvalidInput)?;
        self.seek_relative(count)
    }
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
    gather(reader, input, Mode::Package)
}

/// As [`read_tar`], for other archives too.
pub(super) fn gather<R: Read + Seek>(
    reader: R,
    input: TarInput<'_>,
    mode: Mode,
) -> Result<Vec<Entry>, LayersError> {
    let reader = BufReader::with_capacity(16 * 1024, reader);
    let mut entries = Vec::new();
    let mut keep = |entry| entries.push(entry);
    visit(reader, input, mode, &mut keep)?;
    check_whole(&mut entries, input.origin, mode)?;
    Ok(entries)
}

/// Checks each header of an archive for itself as it comes by, and keeps none of them:
/// how many device nodes it would bring. Memory is bounded whatever the archive.
pub(super) fn check_stream(
    reader: impl Stream,
    input: TarInput<'_>,
    mode: Mode,
) -> Result<u32, LayersError> {
    visit(reader, input, mode, &mut drop)
}

/// Whose archive it is, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A package's: device nodes are refused.
    Package,
    /// Any other: device nodes are left out.
    Rootfs,
    /// A container's layer: they are told, for what they hide; hard links may lead to layers below.
    Container,
    /// The same while it is decompressed: its length is a limit, not known.
    Stream,
}

/// Tells of each entry; returns how many devices were left out.
fn visit(
    reader: impl Stream,
    input: TarInput<'_>,
    mode: Mode,
    tell: &mut dyn FnMut(Entry),
) -> Result<u32, LayersError> {
    let mut walk = Walk {
        reader,
        position: 0,
        input,
        mode,
        left_out: 0,
        holes: 0,
        pieces: 0,
        next: Pax::default(),
    };
    let mut seen = 0;
    while let Some(header) = walk.header()? {
        let Some(entry) = walk.entry(&header)? else {
            continue;
        };
        if seen == MAX_ENTRIES {
            return Err(walk.too_large("its number of entries", MAX_ENTRIES as u64));
        }
        seen += 1;
        tell(entry);
    }
    Ok(walk.left_out)
}

struct Walk<'a, R> {
    reader: R,
    position: u64,
    input: TarInput<'a>,
    mode: Mode,
    left_out: u32,
    /// Bytes of holes, and pieces, of all sparse files until now.
    holes: u64,
    pieces: usize,
    /// What long-name and PAX headers said about the entry to come.
    next: Pax,
}

impl<R: Stream> Walk<'_, R> {
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

    fn too_large(&self, what: &str, limit: u64) -> LayersError {
        LayersError::TooLarge {
            archive: self.input.origin.to_owned(),
            what: what.to_owned(),
            limit,
        }
    }

    /// An archive that ends where it must not; other errors as they are.
    fn ended(&self, error: io::Error) -> LayersError {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.malformed("its archive of files is cut short"),
            _ => self.broken(error),
        }
    }

    /// The next header, checked; `None` at the end marker.
    fn header(&mut self) -> Result<Option<Header>, LayersError> {
        let mut header = Header::new_old();
        self.reader
            .read_exact(header.as_mut_bytes())
            .map_err(|e| self.ended(e))?;
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
            .filter(|padded| *padded <= self.input.size.saturating_sub(self.position))
            .ok_or_else(|| match self.mode {
                Mode::Stream => self.too_large(UNPACKED, self.input.size),
                _ => self.malformed("an entry of its archive of files is longer than the archive"),
            })?;
        self.reader.pass(padded).map_err(|e| self.ended(e))?;
        self.position += padded;
        Ok(())
    }

    /// Reads the content of a long-name or PAX header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayersError> {
        let size = header
            .entry_size()
            .map_err(|_| self.malformed("a header has no proper size"))?;
        if size > MAX_EXTENSION {
            return Err(self.too_large("a long name or PAX header", MAX_EXTENSION));
        }
        if self.position + size > self.input.size {
            return Err(self.malformed("a header is longer than the archive"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|e| self.ended(e))?;
        self.position += size;
        let padding = size.next_multiple_of(BLOCK) - size;
        if padding > 0 {
            if self.position + padding > self.input.size {
                return Err(self.malformed("a header is longer than the archive"));
            }
            self.reader.pass(padding).map_err(|e| self.ended(e))?;
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
        // The header of a sparse file has a name for programs that do not know the format.
        let named = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let raw_path = named
            .or_else(|| pax.path.clone())
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
        if kind.is_character_special() || kind.is_block_special() {
            self.device(&raw_path)?;
            self.skip(size)?;
            return Ok(path
                .filter(|_| self.mode == Mode::Container)
                .map(|path| self.hiding(path)));
        }
        if self.mode == Mode::Package && (kind == EntryType::GNUSparse || pax.sparse.is_some()) {
            // Nor does dpkg take them.
            return Err(self.refused(
                &raw_path,
                "sparse files in packages are not supported; make it without `tar --sparse`",
            ));
        }
        let (kind, left) = match self.sparse(header, &raw_path, pax.sparse.as_ref(), size)? {
            Some((content, left)) => (Kind::File(content), left),
            None => (self.kind(header, kind, &raw_path, &pax, size)?, size),
        };
        let meta = self.meta(header, &raw_path, pax)?;
        self.skip(left)?;
        Ok(path.map(|path| Entry {
            path,
            meta,
            kind,
            origin: self.input.origin.to_owned(),
        }))
    }

    /// Leaves a device node out, or refuses it.
    fn device(&mut self, path: &[u8]) -> Result<(), LayersError> {
        if self.mode == Mode::Package {
            return Err(self.refused(
                path,
                "packages must not bring device nodes (Debian policy 10.6); the machine's /dev has them",
            ));
        }
        if self.left_out == MAX_DEVICES {
            return Err(self.too_large("its number of device nodes", u64::from(MAX_DEVICES)));
        }
        self.left_out += 1;
        Ok(())
    }

    /// What stands for a device node that is left out.
    fn hiding(&self, path: String) -> Entry {
        let meta = Meta {
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: std::collections::BTreeMap::new(),
        };
        Entry {
            path,
            meta,
            kind: Kind::CharDevice(0, 0),
            origin: self.input.origin.to_owned(),
        }
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
            other => Err(self.refused(
                path,
                format!(
                    "its type '{}' is not supported",
                    other.as_byte().escape_ascii()
                ),
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

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
