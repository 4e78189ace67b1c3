//! A `.deb` in the store becomes the uncompressed tar of its files, in the
//! store too, and what its control file says. Streams; every size is bounded.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Cursor, Read, Write};

use serde::{Deserialize, Serialize};

use super::ar::{ArReader, Member};
use super::control;
use crate::base::Digest;
use crate::base::fs::At;
use crate::layers::compression::{Compression, limit};
use crate::layers::entry::PACKAGE_ORIGIN;
use crate::layers::tar::{TarInput, read_tar};
use crate::layers::{Content, Entry, Kind, LayersError, Source};
use crate::store::{Store, StoreError};

/// Most bytes of files in one package.
const MAX_DATA: u64 = 4 << 30;
/// Most bytes of control files in one package.
const MAX_CONTROL: u64 = 64 << 20;
/// Most bytes of one text that is kept: control file, conffiles, a sysusers.d file.
const MAX_TEXT: u64 = 1 << 20;

/// A package whose files lie in the store as one uncompressed tar. A pure
/// function of the package's bytes: callers may cache it by their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpackedDeb {
    /// Package name.
    pub name: String,
    /// Version in Debian's syntax.
    pub version: String,
    /// `amd64`, `all`, …
    pub architecture: String,
    /// The blob with the tar.
    pub tar: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// All fields of the control file as written there.
    pub control: BTreeMap<String, String>,
    /// Guest paths of its configuration files.
    pub conffiles: Vec<String>,
    /// Its `/usr/lib/sysusers.d/*.conf`, text by guest path: users that its
    /// scripts would have made.
    pub sysusers: BTreeMap<String, String>,
}

impl UnpackedDeb {
    /// How messages and entries name it: `package webfs`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{PACKAGE_ORIGIN}{}", self.name)
    }

    /// Its files, their content pointing into [`UnpackedDeb::tar`].
    ///
    /// # Errors
    /// [`LayersError`] when the blob is missing or damaged.
    pub fn entries(&self, store: &Store) -> Result<Vec<Entry>, LayersError> {
        let origin = self.origin();
        read_tar(
            store.open_blob(&self.tar)?,
            TarInput {
                blob: self.tar,
                size: self.size,
                origin: &origin,
            },
        )
    }
}

/// Unpacks the package `deb`, a blob of the store, into a tar beside it.
///
/// # Errors
/// [`LayersError::Malformed`] when it is no package, [`LayersError::Refused`]
/// when its files must not reach an image, [`LayersError::TooLarge`] when it
/// unpacks to more than any package has, and what the store says.
pub fn unpack(store: &Store, deb: &Digest) -> Result<UnpackedDeb, LayersError> {
    let file = store.open_blob(deb)?;
    let mut reader = Unpacker {
        archive: format!("package {}", deb.short()),
        ar: None,
    };
    reader.open(file)?;
    let control_files = reader.control()?;
    let control = control::parse(&control_files.control).map_err(|p| reader.malformed(p))?;
    let word = |name: &str| control::word(&control, name).map_err(|p| reader.malformed(p));
    let (name, version, architecture) = (word("Package")?, word("Version")?, word("Architecture")?);
    reader.archive = format!("package {name}");
    let (tar, size) = reader.data(store)?;
    let mut unpacked = UnpackedDeb {
        name,
        version,
        architecture,
        tar,
        size,
        control,
        conffiles: control_files.conffiles,
        sysusers: BTreeMap::new(),
    };
    // Reading the files at once finds a hostile archive before anything is made of it.
    for entry in unpacked.entries(store)? {
        if let (Some(name), Kind::File(content)) =
            (entry.path.strip_prefix("/usr/lib/sysusers.d/"), &entry.kind)
            && name.ends_with(".conf")
            && !name.contains('/')
        {
            let text = text_of(content, store, &reader.archive, &entry.path)?;
            unpacked.sysusers.insert(entry.path, text);
        }
    }
    Ok(unpacked)
}

fn text_of(
    content: &Content,
    store: &Store,
    archive: &str,
    path: &str,
) -> Result<String, LayersError> {
    if content.size > MAX_TEXT {
        return Err(LayersError::TooLarge {
            archive: archive.to_owned(),
            what: path.to_owned(),
            limit: MAX_TEXT,
        });
    }
    let mut bytes = Vec::new();
    crate::layers::content::open(content, store)?
        .read_to_end(&mut bytes)
        .at("read", store.root())?;
    String::from_utf8(bytes).map_err(|_| LayersError::Malformed {
        archive: archive.to_owned(),
        problem: format!("its {path} is not UTF-8"),
    })
}

/// What is kept of `control.tar`.
struct ControlFiles {
    control: String,
    conffiles: Vec<String>,
}

struct Unpacker {
    /// How messages name the package.
    archive: String,
    ar: Option<ArReader<BufReader<std::fs::File>>>,
}

impl Unpacker {
    fn malformed(&self, problem: impl Into<String>) -> LayersError {
        LayersError::Malformed {
            archive: self.archive.clone(),
            problem: problem.into(),
        }
    }

    fn broken(&self, operation: &'static str, source: io::Error) -> LayersError {
        LayersError::Archive {
            operation,
            archive: self.archive.clone(),
            source,
        }
    }

    fn too_large(&self, what: &str, limit: u64) -> LayersError {
        LayersError::TooLarge {
            archive: self.archive.clone(),
            what: what.to_owned(),
            limit,
        }
    }

    /// Opens the container and checks its first member.
    fn open(&mut self, file: std::fs::File) -> Result<(), LayersError> {
        let mut ar = ArReader::new(BufReader::with_capacity(64 * 1024, file))
            .map_err(|e| self.malformed(e.to_string()))?;
        let first = ar
            .next_member()
            .map_err(|e| self.malformed(e.to_string()))?;
        if first
            .as_ref()
            .is_none_or(|m| m.name != "debian-binary" || m.size > 64)
        {
            return Err(self.malformed("its first member is not 'debian-binary'"));
        }
        let mut version = String::new();
        ar.read_to_string(&mut version)
            .map_err(|e| self.broken("read the version of", e))?;
        if !version.starts_with("2.") || !version.ends_with('\n') {
            let shown = version.trim_end().escape_default().to_string();
            return Err(self.malformed(format!("its format is '{shown}', but only 2.x is known")));
        }
        self.ar = Some(ar);
        Ok(())
    }

    /// The member that must come next, `_…` before it passed over (deb(5) allows them).
    fn member(&mut self, base: &str) -> Result<Member, LayersError> {
        loop {
            let next = match &mut self.ar {
                Some(ar) => ar.next_member(),
                None => Ok(None),
            };
            match next.map_err(|e| self.malformed(e.to_string()))? {
                Some(member) if member.name.starts_with('_') => {}
                Some(member)
                    if member.name == base
                        || member
                            .name
                            .strip_prefix(base)
                            .is_some_and(|rest| rest.starts_with('.')) =>
                {
                    return Ok(member);
                }
                Some(member) => {
                    let found = member.name.escape_default().to_string();
                    return Err(self.malformed(format!("'{found}' is where {base} must be")));
                }
                None => return Err(self.malformed(format!("it has no {base}"))),
            }
        }
    }

    /// Unpacks the current member.
    fn decompress(&mut self, member: &Member) -> Result<Box<dyn Read + '_>, LayersError> {
        let unknown = LayersError::Malformed {
            archive: self.archive.clone(),
            problem: format!(
                "'{}' is compressed in a way that is not known (gz, xz, zst are)",
                member.name.escape_default()
            ),
        };
        let broken = |source| LayersError::Archive {
            operation: "unpack",
            archive: self.archive.clone(),
            source,
        };
        let Some(ar) = &mut self.ar else {
            return Err(unknown);
        };
        let (_, suffix) = member.name.split_once(".tar").unwrap_or_default();
        let compression = match suffix {
            "" => Compression::None,
            ".gz" => Compression::Gzip,
            ".xz" => Compression::Xz,
            ".zst" => Compression::Zstd,
            _ => return Err(unknown),
        };
        compression.decoder(BufReader::new(ar)).map_err(broken)
    }

    fn control(&mut self) -> Result<ControlFiles, LayersError> {
        let member = self.member("control.tar")?;
        let mut tar = Vec::new();
        let read = self
            .decompress(&member)?
            .take(MAX_CONTROL + 1)
            .read_to_end(&mut tar);
        read.map_err(|e| self.broken("unpack the control files of", e))?;
        if tar.len() as u64 > MAX_CONTROL {
            return Err(self.too_large("the size of its control files", MAX_CONTROL));
        }
        let input = TarInput {
            blob: *member_digest(),
            size: tar.len() as u64,
            origin: &self.archive,
        };
        let mut texts = BTreeMap::new();
        for entry in read_tar(Cursor::new(&tar), input)? {
            let wanted = matches!(entry.path.as_str(), "/control" | "/conffiles");
            if let (
                true,
                Kind::File(Content {
                    size,
                    source: Source::Blob { offset, .. },
                    ..
                }),
            ) = (wanted, entry.kind)
            {
                if size > MAX_TEXT {
                    return Err(
                        self.too_large(&format!("the size of its {}", &entry.path[1..]), MAX_TEXT)
                    );
                }
                let range = usize::try_from(offset).unwrap_or(0)
                    ..usize::try_from(offset + size).unwrap_or(0);
                let bytes = tar.get(range).unwrap_or_default().to_vec();
                let text = String::from_utf8(bytes).map_err(|_| {
                    self.malformed(format!("its {} is not UTF-8", &entry.path[1..]))
                })?;
                texts.insert(entry.path, text);
            }
        }
        let control = texts
            .remove("/control")
            .ok_or_else(|| self.malformed("it has no control file"))?;
        let conffiles = texts.remove("/conffiles").unwrap_or_default();
        let conffiles = conffiles
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .map(str::to_owned)
            .collect();
        Ok(ControlFiles { control, conffiles })
    }

    /// Streams `data.tar` into the store: its digest and length.
    fn data(&mut self, store: &Store) -> Result<(Digest, u64), LayersError> {
        let member = self.member("data.tar")?;
        let limit = limit(member.size, MAX_DATA);
        let mut writer = BufWriter::with_capacity(256 * 1024, store.writer()?);
        let mut size = 0;
        let mut buffer = vec![0; 128 * 1024];
        {
            let mut reader = self.decompress(&member)?;
            loop {
                let read = match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        drop(reader);
                        return Err(self.broken("unpack the files of", error));
                    }
                };
                size += read as u64;
                if size > limit {
                    drop(reader);
                    return Err(self.too_large("the unpacked size of its files", limit));
                }
                writer
                    .write_all(&buffer[..read])
                    .at("write", store.tmp())
                    .map_err(StoreError::from)?;
            }
        }
        self.nothing_more()?;
        let writer = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .at("write", store.tmp())
            .map_err(StoreError::from)?;
        Ok((writer.finish()?, size))
    }

    /// Behind `data.tar` only `_…` members (signatures) may stand.
    fn nothing_more(&mut self) -> Result<(), LayersError> {
        loop {
            let next = match &mut self.ar {
                Some(ar) => ar.next_member(),
                None => Ok(None),
            };
            match next.map_err(|e| self.malformed(e.to_string()))? {
                None => return Ok(()),
                Some(member) if member.name.starts_with('_') => {}
                Some(member) => {
                    let found = member.name.escape_default().to_string();
                    return Err(self.malformed(format!("it has an unknown member '{found}'")));
                }
            }
        }
    }
}

/// The control files are read from memory; no blob is behind them.
fn member_digest() -> &'static Digest {
    const NONE: Digest = Digest::from_bytes([0; 32]);
    &NONE
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
