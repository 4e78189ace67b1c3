//! All of `slipform.lock`: a lock for each architecture that the image's boards have.
//!
//! ```text
//! one architecture   version = 1, and the lock itself         file.rs
//! several            version = 2, and a table for each, by the name that boards use:
//!                    [aarch64]  version = 1, and its lock as it would be alone
//! ```
//!
//! A part says nothing about the others, so that one comes or goes and the rest stays.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::LockError;
use super::file::{AnyVersion, HEADER, LOCK_VERSION, LockFile, LockedPackage, MAX_LOCK, told};
use crate::base::Arch;

/// Version of a file with several parts.
pub const LOCKS_VERSION: u32 = 2;

/// The locks of an image, by architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<Arch, LockFile>);

/// A file with several parts; a field for each, so that a fault is told with its line.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aarch64: Option<LockFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x86_64: Option<LockFile>,
}

impl Parts {
    fn part(&mut self, arch: Arch) -> &mut Option<LockFile> {
        match arch {
            Arch::X86_64 => &mut self.x86_64,
            Arch::Aarch64 => &mut self.aarch64,
        }
    }
}

impl Locks {
    /// The lock of one architecture's boards.
    #[must_use]
    pub fn of(&self, arch: Arch) -> Option<&LockFile> {
        self.0.get(&arch)
    }

    /// Each with its architecture, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (Arch, &LockFile)> {
        self.0.iter().map(|(arch, lock)| (*arch, lock))
    }

    /// Each.
    pub fn parts(&self) -> impl Iterator<Item = &LockFile> {
        self.0.values()
    }

    /// Every package of each part: what two parts have is there twice.
    pub fn packages(&self) -> impl Iterator<Item = &LockedPackage> {
        self.parts().flat_map(LockFile::packages)
    }

    /// Reads all of `slipform.lock`; `path` is for messages only.
    ///
    /// # Errors
    /// As [`LockFile::parse`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, LockError> {
        let error = |problem: String| LockError::File {
            path: path.to_owned(),
            problem,
        };
        // What is too long, no TOML or of another version is for who reads one lock to refuse.
        let version = match text.len() {
            ..=MAX_LOCK => toml::from_str::<AnyVersion>(text).ok(),
            _ => None,
        };
        match version.map(|any| any.version) {
            Some(found) if found > u64::from(LOCKS_VERSION) => Err(LockError::Newer {
                path: path.to_owned(),
                found,
                known: LOCKS_VERSION,
            }),
            Some(found) if found == u64::from(LOCKS_VERSION) => {
                let mut file: Parts = toml::from_str(text).map_err(|e| error(told(&e, text)))?;
                let mut parts = BTreeMap::new();
                for arch in Arch::ALL {
                    let Some(lock) = file.part(arch).take() else {
                        continue;
                    };
                    let fault = |problem| error(format!("in [{}]: {problem}", arch.name()));
                    if lock.version != LOCK_VERSION {
                        return Err(fault(format!("there is no version {}", lock.version)));
                    }
                    lock.check().map_err(fault)?;
                    parts.insert(arch, lock);
                }
                if parts.len() < 2 {
                    return Err(error(format!(
                        "version {LOCKS_VERSION} has a part for each of several architectures, and it has {}",
                        parts.len()
                    )));
                }
                Ok(Self(parts))
            }
            _ => Ok(Self::from(LockFile::parse(text, path)?)),
        }
    }

    /// The file's text: marked as generated, sorted, the same for the same locks. Where
    /// there is one architecture it is [`LockFile::to_toml`].
    #[must_use]
    pub fn to_toml(&self) -> String {
        if let [only] = self.0.values().collect::<Vec<_>>().as_slice() {
            return only.to_toml();
        }
        let mut file = Parts {
            version: LOCKS_VERSION,
            ..Parts::default()
        };
        for (arch, lock) in &self.0 {
            let lock = file.part(*arch).insert(lock.clone());
            lock.sort();
        }
        // As with a single lock, TOML can always hold it.
        let body = toml::to_string(&file).unwrap_or_default();
        format!("{HEADER}{body}")
    }
}

impl FromIterator<(Arch, LockFile)> for Locks {
    fn from_iter<I: IntoIterator<Item = (Arch, LockFile)>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl From<LockFile> for Locks {
    /// Its boards' kernels say which architecture it is of.
    fn from(lock: LockFile) -> Self {
        let debian = lock.boards.first().map(|board| board.kernel.arch.as_str());
        let arch = Arch::ALL.into_iter().find(|a| debian == Some(a.debian()));
        Self([(arch.unwrap_or(Arch::TOOLS), lock)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::testing::golden;
    use super::*;

    fn parse(text: &str) -> Result<Locks, LockError> {
        Locks::parse(text, Path::new("x/slipform.lock"))
    }

    /// The golden lock, and the same for Arm.
    fn both() -> Locks {
        let pc = LockFile::parse(&golden(), Path::new("x")).unwrap();
        let mut arm = pc.clone();
        arm.boards[0].name = "qemu-aarch64".to_owned();
        arm.boards[0].kernel.arch = "arm64".to_owned();
        [(Arch::X86_64, pc), (Arch::Aarch64, arm)]
            .into_iter()
            .collect()
    }

    #[test]
    fn one_architecture_is_the_lock_as_it_always_was() {
        let one = parse(&golden()).unwrap();
        assert_eq!(one.to_toml(), golden());
        assert!(one.of(Arch::X86_64).is_some());
        assert!(one.of(Arch::Aarch64).is_none());
        let arm = golden().replace("arch = \"amd64\"", "arch = \"arm64\"");
        let arm = parse(&arm).unwrap();
        assert!(arm.of(Arch::Aarch64).is_some());
        assert!(arm.of(Arch::X86_64).is_none());
    }

    #[test]
    fn several_read_back_and_each_part_is_as_it_is_alone() {
        let text = both().to_toml();
        assert!(text.starts_with(HEADER), "{text}");
        assert!(
            text.contains("\nversion = 2\n\n[aarch64]\nversion = 1\n"),
            "{text}"
        );
        assert!(
            text.contains("\n[[x86_64.layer.package]]\nname = \"webfs\"\n"),
            "{text}"
        );
        let read = parse(&text).unwrap();
        assert_eq!(read, both());
        assert_eq!(read.to_toml(), text);
        let pc = Locks::from(read.of(Arch::X86_64).unwrap().clone());
        assert_eq!(pc.to_toml(), golden());
        assert_eq!(read.packages().count(), 2 * pc.packages().count());
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        for (from, to, word) in [
            ("version = 2\n", "version = 3\n", "version 3"),
            ("[aarch64", "[riscv64", "unknown field `riscv64`"),
            (
                "[aarch64]\nversion = 1",
                "[aarch64]\nversion = 9",
                "in [aarch64]: there is no version 9",
            ),
            (
                "[aarch64.init]\n",
                "[aarch64.init]\ncolour = 1\n",
                "line 11: unknown field",
            ),
            (
                "name = \"webfs\"",
                "name = \"../webfs\"",
                "in [x86_64]: package",
            ),
            (
                "version = 2\n",
                "version = 2\ncolour = 1\n",
                "line 5: unknown field",
            ),
        ] {
            let text = both().to_toml();
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{to}");
            let error = parse(&changed).unwrap_err().to_string();
            assert!(error.contains(word), "{to}: {error}");
        }
        let none = format!("{HEADER}version = 2\n");
        let error = parse(&none).unwrap_err().to_string();
        assert!(error.contains("it has 0"), "{error}");
    }

    #[test]
    fn mutated_locks_never_panic() {
        slipform_fuzz::fuzz(&[both().to_toml()], |bytes, _| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(locks) = parse(text)
            {
                assert_eq!(parse(&locks.to_toml()).unwrap().to_toml(), locks.to_toml());
            }
        });
    }
}
