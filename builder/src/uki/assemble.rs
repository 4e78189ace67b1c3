//! Stub, kernel, command line and initrds become one EFI application.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::pe::{self, Pe, PeError};
use super::section::Section;
use crate::base::Digest;
use crate::base::fs::{At, FsError};
use crate::store::{BlobWriter, Store, StoreError};

/// A stub longer than this is none (Debian's has 92 KiB).
const MAX_STUB: u64 = 8 * 1024 * 1024;
/// Texts longer than this are refused; Linux itself takes 2048 bytes of command line on x86.
const MAX_TEXT: usize = 64 * 1024;

/// What can go wrong in assembling a unified kernel image.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// The system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stub cannot take sections.
    #[error("cannot append sections to the boot stub: {0}")]
    Stub(#[from] PeError),
    /// A part that breaks a rule.
    #[error("cannot use this {part} in a unified kernel image: {rule}")]
    Part {
        /// `kernel`, `command line`, …
        part: &'static str,
        /// What it must be.
        rule: String,
    },
    /// A part that could not be read.
    #[error("cannot read the {part} of the unified kernel image: {source}")]
    Read {
        /// `kernel`, `stub`, …
        part: &'static str,
        /// What was reported.
        source: io::Error,
    },
}

/// Where a part's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// In memory: small parts.
    Bytes(&'a [u8]),
    /// A range of a blob of the store, as a file inside of a package's archive.
    Blob {
        /// The blob.
        digest: Digest,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        size: u64,
    },
}

impl Source<'_> {
    /// Length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }

    /// A reader over exactly these bytes (a shorter blob ends early).
    fn open<'s>(&'s self, store: &Store) -> Result<Box<dyn Read + 's>, UkiError> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(*bytes)),
            Self::Blob {
                digest,
                offset,
                size,
            } => {
                let mut file = store.open_blob(digest)?;
                file.seek(SeekFrom::Start(*offset))
                    .at("seek in", store.path(digest))?;
                Ok(Box::new(file.take(*size)))
            }
        }
    }
}

/// What a unified kernel image is made from.
#[derive(Debug, Clone, Copy)]
pub struct UkiInput<'a> {
    /// systemd-stub, unsigned.
    pub stub: Source<'a>,
    /// An EFI-stub kernel.
    pub kernel: Source<'a>,
    /// Kernel command line; nothing that matters is trusted from it.
    pub cmdline: &'a str,
    /// Content of os-release.
    pub osrel: &'a str,
    /// Kernel release, `uname -r`.
    pub uname: &'a str,
    /// Archives, in order; what changes most comes last.
    pub initrds: &'a [Source<'a>],
}

/// A unified kernel image in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UkiBlob {
    /// The blob.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// Writes the image into the store. The same input gives the same bytes.
///
/// # Errors
/// [`UkiError`] naming the part and its rule.
pub fn assemble(store: &Store, input: &UkiInput<'_>) -> Result<UkiBlob, UkiError> {
    check_texts(input)?;
    check_kernel(store, &input.kernel)?;
    let mut stub = Vec::new();
    input
        .stub
        .open(store)?
        .take(MAX_STUB + 1)
        .read_to_end(&mut stub)
        .map_err(|source| UkiError::Read {
            part: "stub",
            source,
        })?;
    if stub.len() as u64 > MAX_STUB {
        let rule = format!("it has more than {MAX_STUB} bytes; use systemd's linuxx64.efi.stub");
        return Err(UkiError::Part { part: "stub", rule });
    }
    let parts = parts(input);
    let sizes: Vec<_> = parts
        .iter()
        .map(|(section, sources)| {
            let size = sources.iter().fold(0, |end: u64, source| {
                end.next_multiple_of(4) + source.size()
            });
            (section.name(), size)
        })
        .collect();
    let headers = &stub[..stub.len().min(pe::MAX_HEADERS)];
    let plan = Pe::parse(headers, stub.len() as u64)?.append(headers, &sizes)?;

    let mut out = Out {
        writer: store.writer()?,
        written: 0,
    };
    out.put("stub", &plan.headers)?;
    out.put("stub", &stub[plan.headers.len()..])?;
    for ((section, sources), offset) in parts.iter().zip(&plan.offsets) {
        out.pad_to(*offset)?;
        for source in sources {
            out.pad_to(out.written.next_multiple_of(4))?;
            out.copy(part_name(*section), source, store)?;
        }
    }
    out.pad_to(plan.file_length)?;
    let digest = out.writer.finish()?;
    Ok(UkiBlob {
        digest,
        size: plan.file_length,
    })
}

/// The sections that are not empty, in order.
fn parts<'a>(input: &UkiInput<'a>) -> Vec<(Section, Vec<Source<'a>>)> {
    let text = |text: &'a str| vec![Source::Bytes(text.as_bytes())];
    Section::ALL
        .into_iter()
        .map(|section| {
            let sources = match section {
                Section::OsRel => text(input.osrel),
                Section::Cmdline => text(input.cmdline),
                Section::Uname => text(input.uname),
                Section::Linux => vec![input.kernel],
                Section::Initrd => input.initrds.to_vec(),
            };
            (section, sources)
        })
        .filter(|(_, sources)| sources.iter().any(|source| source.size() > 0))
        .collect()
}

const fn part_name(section: Section) -> &'static str {
    match section {
        Section::OsRel => "os-release",
        Section::Cmdline => "command line",
        Section::Uname => "kernel release",
        Section::Linux => "kernel",
        Section::Initrd => "initrd",
    }
}

fn check_texts(input: &UkiInput<'_>) -> Result<(), UkiError> {
    for (part, text) in [
        ("command line", input.cmdline),
        ("os-release", input.osrel),
        ("kernel release", input.uname),
    ] {
        if text.len() > MAX_TEXT || text.contains('\0') {
            let rule = format!("it must have {MAX_TEXT} bytes at most and no zero byte");
            return Err(UkiError::Part { part, rule });
        }
    }
    Ok(())
}

/// An EFI-stub kernel starts like every EFI application; anything else would
/// only fail on the machine.
fn check_kernel(store: &Store, kernel: &Source<'_>) -> Result<(), UkiError> {
    let mut magic = [0; 2];
    let found = kernel.open(store)?.read_exact(&mut magic);
    if found.is_err() || magic != *b"MZ" {
        let rule = "it must be a kernel with an EFI stub (CONFIG_EFI_STUB), which starts with MZ"
            .to_owned();
        return Err(UkiError::Part {
            part: "kernel",
            rule,
        });
    }
    Ok(())
}

/// The image on its way into the store.
struct Out<'s> {
    writer: BlobWriter<'s>,
    written: u64,
}

impl Out<'_> {
    fn put(&mut self, part: &'static str, bytes: &[u8]) -> Result<(), UkiError> {
        self.written += bytes.len() as u64;
        self.writer
            .write_all(bytes)
            .map_err(|error| match StoreError::from_writer(error) {
                Ok(store) => UkiError::Store(store),
                Err(source) => UkiError::Read { part, source },
            })
    }

    fn pad_to(&mut self, offset: u64) -> Result<(), UkiError> {
        let mut missing = offset.saturating_sub(self.written);
        while missing > 0 {
            let step = missing.min(4096);
            self.put("padding", &[0; 4096][..step as usize])?;
            missing -= step;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        part: &'static str,
        source: &Source<'_>,
        store: &Store,
    ) -> Result<(), UkiError> {
        let mut reader = source.open(store)?;
        let mut buffer = vec![0; 256 * 1024];
        let mut copied = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    self.put(part, &buffer[..read])?;
                    copied += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(UkiError::Read { part, source }),
            }
        }
        if copied == source.size() {
            return Ok(());
        }
        let rule = format!("it has {copied} bytes, but {} were declared", source.size());
        Err(UkiError::Part { part, rule })
    }
}
