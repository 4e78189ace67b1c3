//! The topmost layer: what depends on the whole stack of layers below it.
//!
//! Maintainer scripts of packages are never run. What they would have done, and
//! images need, is done here, for the whole stack at once:
//!
//! | a script would | here |
//! |---|---|
//! | add users and groups (`base-passwd`, `sysusers.d`) | `accounts.rs`: `/etc/passwd`, `group`, `shadow`, `gshadow` from Debian's fixed accounts, the packages' sysusers.d and the image's `users` and `groups` |
//! | run `ldconfig` (`libc-bin`'s trigger) | `ldcache.rs`: `/etc/ld.so.cache` and missing SONAME links |
//! | run `update-ca-certificates` | `certs.rs`: `/etc/ssl/certs/ca-certificates.crt`, the bundle alone |
//! | make `/etc/os-release`'s link, `/var/run`, standard folders (`base-files`) | `skeleton.rs` |
//! | make the links of a merged `/usr` (`usrmerge`, the installer) | `build.rs`, in the bottom layer |
//!
//! What they would have done and is **not** done; a layer that needs it says so
//! with `files`, `dirs`, `symlinks` or `users`:
//! - users that a postinst makes with `adduser` (redis, postgres, …): `users`;
//! - folders that a postinst makes or gives away (`chown redis /var/lib/redis`): `dirs` with `owner`;
//! - `update-alternatives`: `symlinks` (`/usr/bin/awk -> mawk`);
//! - hash links of single certificates in `/etc/ssl/certs` (`c_rehash`): the bundle serves OpenSSL, GnuTLS, Go and curl;
//! - files below `/usr/local/share/ca-certificates` count as the image's own certificates;
//! - diversions (`dpkg-divert`), `tmpfiles.d` and `systemctl enable`: init has services of its own;
//! - caches (fonts, mime types, GIO modules, icons, `locale-gen`, initramfs, byte-compiled Python);
//! - debconf questions and what is written from their answers.
//!
//! Addresses and names that the machine learns when it boots are links into
//! `/run/slipform`, which init fills: resolv.conf, hostname, machine-id.
//!
//! `lost+found`: every ext4 has one in its root, this layer's too, and a layer
//! cannot hide what is in itself; so no whiteout for it is made here. It stays
//! out of the image when the writer puts the tree into a folder of its own and
//! the machine stacks that folder.

mod accounts;
mod certs;
mod elf;
mod ldcache;
mod skeleton;
mod sysusers;

pub use accounts::{Accounts, Group, User};

use super::below::Seen;
use super::{Below, Built, TreeError, build};
use crate::base::EPOCH;
use crate::layers::{Content, Entry, Kind, LayersError, Meta, Source};
use crate::spec::{ScratchSpec, StateSpec};

/// Folder that init fills with what the machine learns when it boots.
pub const RUNTIME_DIR: &str = "/run/slipform";
/// How messages name this layer, and the origin of all that is in it.
const ORIGIN: &str = "the generated layer";
/// Largest file that is read whole here.
const MAX_TEXT: u64 = 4 << 20;

/// Reads at most so many bytes of a content from an offset on, fewer at its end
/// (`layers::content::read_range`).
pub type ReadContent<'a> = &'a dyn Fn(&Content, u64, usize) -> Result<Vec<u8>, LayersError>;

/// What [`generate`] reads.
#[derive(Clone, Copy)]
pub struct GenerateInput<'a> {
    /// All layers of the image.
    pub below: &'a Below<'a>,
    /// Users and groups of the image.
    pub accounts: &'a Accounts,
    /// Content of the layers' files.
    pub read: ReadContent<'a>,
    /// Image name.
    pub name: &'a str,
    /// Image version.
    pub version: &'a str,
    /// tmpfs mounts, which need a folder to be mounted on.
    pub scratch: &'a [ScratchSpec],
    /// What is kept, which needs a folder to be mounted on and to begin with.
    pub state: Option<&'a StateSpec>,
    /// init speaks TLS: without certificates it could trust nobody.
    pub tls: bool,
}

impl std::fmt::Debug for GenerateInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerateInput")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Builds the topmost layer.
///
/// What it depends on beside its input is in `below`'s facts afterwards.
///
/// # Errors
/// [`TreeError::Generated`] when a layer brings what only this one may,
/// [`TreeError::Input`] for certificates or configuration that cannot be used,
/// [`TreeError::Collision`] when a layer has a file where a folder must be.
pub fn generate(input: &GenerateInput<'_>) -> Result<Built, TreeError> {
    let mut entries = input.accounts.entries(input.below)?;
    entries.extend(skeleton::entries(input)?);
    entries.extend(ldcache::entries(input)?);
    entries.extend(certs::entries(input)?);
    build(entries, &[], input.below)
}

fn file(path: &str, mode: u32, gid: u32, bytes: impl Into<Vec<u8>>) -> Entry {
    let bytes = bytes.into();
    let content = Content {
        size: bytes.len() as u64,
        digest: Some(crate::base::Digest::of(&bytes)),
        source: Source::Bytes(bytes),
    };
    Entry {
        meta: Meta { gid, ..meta(mode) },
        ..entry(path, Kind::File(content))
    }
}

fn symlink(path: &str, target: &str) -> Entry {
    Entry {
        meta: meta(0o777),
        ..entry(path, Kind::Symlink(target.to_owned()))
    }
}

fn folder(path: &str, mode: u32) -> Entry {
    Entry {
        meta: meta(mode),
        ..entry(path, Kind::Directory)
    }
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.to_owned(),
        meta: meta(0),
        kind,
        origin: ORIGIN.to_owned(),
    }
}

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: 0,
        gid: 0,
        mtime: EPOCH,
        xattrs: Default::default(),
    }
}

impl GenerateInput<'_> {
    /// Whether a path leads to anything at all.
    fn exists(&self, path: &str) -> bool {
        matches!(self.below.resolve(path), Some((_, Some(_))))
    }

    /// Whether a path leads to a folder.
    fn is_folder(&self, path: &str) -> bool {
        matches!(self.below.resolve(path), Some((_, Some(Seen::Directory))))
    }

    /// The content of the file that a path leads to.
    fn content(&self, path: &str) -> Option<&Content> {
        match self.below.resolve(path) {
            Some((at, Some(Seen::File))) => self.below.content(&at),
            _ => None,
        }
    }

    /// The whole text of the file that a path (`etc/ld.so.conf`) leads to; `None` when there is none.
    fn text(&self, path: &str) -> Result<Option<String>, TreeError> {
        let Some(content) = self.content(path) else {
            return Ok(None);
        };
        let input = |problem: String| TreeError::Input {
            path: path.to_owned(),
            problem,
        };
        if content.size > MAX_TEXT {
            return Err(input(format!(
                "is larger than {MAX_TEXT} bytes, which no such file is; mend it"
            )));
        }
        let bytes = (self.read)(content, 0, usize::try_from(content.size).unwrap_or(0))?;
        String::from_utf8(bytes).map(Some).map_err(|_| {
            input("is not UTF-8 text; convert it, or leave it out with `exclude`".into())
        })
    }
}

#[cfg(test)]
#[path = "generated_tests.rs"]
mod tests;
