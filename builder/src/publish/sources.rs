//! What a release was built from, kept with it: the specification, the lock, and
//! every file of the user's that they name, each a blob of its own, so that a
//! binary that did not change between two releases is sent and kept once.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::PublishError;
use crate::base::Digest;
use crate::store::Descriptor;

/// Media type of the list.
pub const SOURCES_TYPE: &str = "application/vnd.slipform.sources.v1+json";
/// Media type of a kept file.
const FILE_TYPE: &str = "application/octet-stream";
/// Version of the list's format.
const SCHEMA: u32 = 1;
/// Longest list that is read, in bytes.
pub(super) const LIST_LIMIT: u64 = 64 << 20;
/// Most files that are kept: the record's manifest names each, and no reader takes a
/// manifest of more than [`DESCRIPTOR_LIMIT`](crate::store::DESCRIPTOR_LIMIT) parts.
const MOST_FILES: usize = 9_000;

/// The list of what was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sources {
    schema: u32,
    /// Version of the slipform that built it.
    pub slipform: String,
    /// Digest of the init that it was built with, kept beside the files.
    pub init: Digest,
    /// Size of that init.
    pub init_size: u64,
    /// Those of further architectures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_inits: Vec<KeptInit>,
    /// Folder of the specification below the root of the list; empty for the root itself.
    pub project: String,
    /// Sorted by path, each path once.
    pub files: Vec<Kept>,
}

/// An init beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptInit {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// One thing that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Relative path with `/`, without `.` and `..`.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: KeptKind,
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeptKind {
    /// A regular file.
    File {
        /// Its bytes.
        digest: Digest,
        /// Its length.
        size: u64,
        /// Anybody may execute it.
        #[serde(default)]
        executable: bool,
    },
    /// A symbolic link and what it says.
    Link {
        /// Its target.
        target: String,
    },
    /// A folder that holds nothing.
    Folder,
}

impl Sources {
    /// A list of these files, and the inits of the architectures.
    ///
    /// # Errors
    /// [`PublishError::Sources`] for one that breaks the rules.
    pub fn new(
        inits: &[(Digest, u64)],
        project: String,
        mut files: Vec<Kept>,
    ) -> Result<Self, PublishError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup();
        let Some((init, more)) = inits.split_first() else {
            return Err(PublishError::Sources("it has no init".to_owned()));
        };
        let more = more.iter().map(|&(digest, size)| KeptInit { digest, size });
        let sources = Self {
            schema: SCHEMA,
            slipform: env!("CARGO_PKG_VERSION").to_owned(),
            init: init.0,
            init_size: init.1,
            more_inits: more.collect(),
            project,
            files,
        };
        sources.check()?;
        Ok(sources)
    }

    /// The bytes of the list.
    ///
    /// # Errors
    /// [`PublishError::Sources`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, PublishError> {
        serde_json::to_vec(self).map_err(|error| PublishError::Sources(error.to_string()))
    }

    /// Reads a list from somebody else.
    ///
    /// # Errors
    /// [`PublishError::Sources`]: what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PublishError> {
        let sources: Self = serde_json::from_slice(bytes)
            .map_err(|error| PublishError::Sources(error.to_string()))?;
        sources.check()?;
        Ok(sources)
    }

    /// Nothing may be written outside of the folder that it is checked out into,
    /// neither by its path nor through a link of the list.
    fn check(&self) -> Result<(), PublishError> {
        let wrong = |why: String| Err(PublishError::Sources(why));
        if self.schema != SCHEMA {
            return wrong(format!(
                "its schema is {}, this slipform reads {SCHEMA}; take a newer slipform",
                self.schema
            ));
        }
        if self.files.len() > MOST_FILES {
            return wrong(format!(
                "it lists {} files, and at most {MOST_FILES} can be kept with a release; bring a large tree as a package (`debs`)",
                self.files.len()
            ));
        }
        if !self.project.is_empty() && !is_clean(&self.project) {
            return wrong(format!("the folder '{}' leads out of it", self.project));
        }
        let mut before: Option<&Kept> = None;
        for kept in &self.files {
            if !is_clean(&kept.path) {
                return wrong(format!("the path '{}' leads out of it", kept.path));
            }
            if before.is_some_and(|b| b.path >= kept.path) {
                return wrong(format!("'{}' is there twice or out of order", kept.path));
            }
            before = Some(kept);
        }
        for above in self.files.iter().filter(|kept| kept.is_no_folder()) {
            let below = format!("{}/", above.path);
            let at = self.files.partition_point(|kept| kept.path < below);
            if let Some(kept) = self.files.get(at)
                && kept.path.starts_with(&below)
            {
                return wrong(format!(
                    "'{}' lies below '{}', which is no folder",
                    kept.path, above.path
                ));
            }
        }
        Ok(())
    }

    /// Every blob that must be kept for it, without the list itself.
    #[must_use]
    pub fn blobs(&self) -> Vec<Descriptor> {
        let files = self.files.iter().filter_map(|kept| match &kept.kind {
            KeptKind::File { digest, size, .. } => Some(Descriptor::new(FILE_TYPE, *digest, *size)),
            _ => None,
        });
        let init = Descriptor::new(FILE_TYPE, self.init, self.init_size);
        let more = self.more_inits.iter();
        let more = more.map(|init| Descriptor::new(FILE_TYPE, init.digest, init.size));
        let mut blobs: Vec<Descriptor> = files.chain([init]).chain(more).collect();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        blobs
    }
}

impl Kept {
    /// Nothing can lie below it.
    fn is_no_folder(&self) -> bool {
        !matches!(self.kind, KeptKind::Folder)
    }
}

/// A relative path of ordinary names.
fn is_clean(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.contains('\0')
        && !path.ends_with('/')
        && !path.contains("//")
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        && !path.split('/').any(|part| part == ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Kept {
        Kept {
            path: path.to_owned(),
            kind: KeptKind::File {
                digest: Digest::of(path),
                size: path.len() as u64,
                executable: false,
            },
        }
    }

    fn link(path: &str) -> Kept {
        Kept {
            path: path.to_owned(),
            kind: KeptKind::Link {
                target: "/etc".to_owned(),
            },
        }
    }

    fn list(files: Vec<Kept>) -> Result<Sources, PublishError> {
        Sources::new(&[(Digest::of("init"), 4)], String::new(), files)
    }

    #[test]
    fn a_list_reads_back() {
        let sources = list(vec![file("www/b"), file("slipform.toml"), link("www/a")]).unwrap();
        assert_eq!(
            Sources::parse(&sources.to_bytes().unwrap()).unwrap(),
            sources
        );
        assert_eq!(sources.blobs().len(), 3);
    }

    #[test]
    fn nothing_is_written_outside() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            ".",
            "a\0b",
        ] {
            assert!(list(vec![file(path)]).is_err(), "{path:?}");
        }
        let through = vec![link("www"), file("www/passwd")];
        let error = list(through).unwrap_err().to_string();
        assert!(error.contains("www/passwd"), "{error}");
        // The order of bytes puts `www-x` between `www` and `www/passwd`.
        let through = vec![link("www"), file("www-x"), file("www/passwd")];
        assert!(list(through).is_err());
        assert!(
            list(vec![file("a"), file("a")]).is_ok(),
            "the same twice is once"
        );
        assert!(list(vec![file("a"), link("a")]).is_err());
        assert!(list(vec![file("a"), file("a/b")]).is_err());
        let many = (0..=MOST_FILES).map(|n| file(&format!("f{n}")));
        let error = list(many.collect()).unwrap_err().to_string();
        assert!(error.contains("`debs`"), "{error}");
    }

    #[test]
    fn changed_lists_do_not_panic() {
        let sources = list(vec![file("www/b"), file("slipform.toml"), link("www/a")]).unwrap();
        slipform_fuzz::fuzz(&[&sources.to_bytes().unwrap()], |bytes, _| {
            if let Ok(read) = Sources::parse(bytes) {
                assert!(read.files.iter().all(|kept| is_clean(&kept.path)));
            }
        });
    }
}
