//! Debian's own tools for tests and benches: locked packages, unpacked into the
//! store and run with their own loader, so that whatever judges our bytes needs
//! nothing on the host.
//!
//! Their lock lies in the store (`tools-<name>.lock`), not in the repository:
//! Debian's mirrors drop superseded versions, and a fresh machine must find its
//! judges in a year, too. What is locked is used as long as the store or a
//! mirror has it; after that it is resolved anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::tools::{self, Tools};
use super::{PipelineError, Settings};
use crate::base::fs::{At, write_atomic};
use crate::base::progress::Quiet;
use crate::lock::{LockFile, LockedPackage};
use crate::sources::SourceError;
use crate::store::Root;

/// Set to `1`: nobody is asked over the network, and what cannot be had without
/// it is a visible `SKIPPED` line. Otherwise it is a failure.
pub const OFFLINE: &str = "SLIPFORM_TESTS_OFFLINE";

/// The set that judges and measures: one for all tests and the bench, so that it
/// is resolved and unpacked once.
pub const JUDGES: &[&str] = &[
    "apt",
    "cryptsetup-bin",
    "dosfstools",
    "e2fsprogs",
    "gdisk",
    "genimage",
    "mtools",
    "qemu-utils",
    "skopeo",
    "systemd-container",
    "time",
];

/// Other people's registry, and their clients for what lies in one.
pub const CLIENTS: &[&str] = &["cosign", "docker-registry", "oras"];

/// Who unpacks layers of containers, and who makes archives with sparse files.
pub const UNPACKING: &[&str] = &["tar", "umoci"];

/// Other people's object store; its server needs what Debian has it suggest only.
pub const OBJECT_STORE: &[&str] = &["python3-flask-cors", "python3-moto"];

/// The tools named [`JUDGES`].
///
/// # Errors
/// As [`tools()`].
pub fn judges() -> Result<Option<Tools>, PipelineError> {
    tools("judges", JUDGES)
}

/// Debian's `packages` with all that they need, from the ordinary store (see
/// [`Settings::new`]) or the ordinary mirror. `None`, and one line on stderr,
/// only where [`OFFLINE`] is set and something is missing.
///
/// # Errors
/// [`PipelineError`]: the packages can be neither found nor fetched.
pub fn tools(name: &str, packages: &[&str]) -> Result<Option<Tools>, PipelineError> {
    let offline = is_offline();
    let settings = Settings::new(None, None, offline, Arc::new(Quiet))?;
    match settings.test_tools(name, packages) {
        Ok(tools) => Ok(Some(tools)),
        Err(error) if offline => {
            skipped(&format!("what needs the tools '{name}': {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether [`OFFLINE`] is set.
#[must_use]
pub fn is_offline() -> bool {
    std::env::var_os(OFFLINE).is_some_and(|value| value == "1")
}

/// Says that a check did not run, past what the test runner captures.
pub fn skipped(what: &str) {
    // A closed stderr is nobody who could be told.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what} ({OFFLINE} is set)");
}

impl Settings {
    fn test_tools(&self, name: &str, packages: &[&str]) -> Result<Tools, PipelineError> {
        let path = self.store.root().join(format!("tools-{name}.lock"));
        // Several test programs start at once: the first resolves, the others wait.
        let _turn = turn(&path.with_extension("turn"))?;
        let _guard = self.store.shared(&*self.progress)?;
        let kept = fs::read_to_string(&path)
            .ok()
            .and_then(|text| LockFile::parse(&text, &path).ok());
        let lock = self.lock_tools(name, packages, kept.as_ref())?;
        let lock = match self.fetch_tools(name, packages, &lock) {
            Err(PipelineError::Source(error)) if kept.is_some() && is_gone(&error) => {
                let lock = self.lock_tools(name, packages, None)?;
                self.fetch_tools(name, packages, &lock)?;
                lock
            }
            fetched => fetched.map(|()| lock)?,
        };
        let tool = lock.tools.first().ok_or_else(|| {
            PipelineError::Internal(format!("the lock of the tools '{name}' has none"))
        })?;
        let tools = tools::unpack(self, tool)?;
        write_atomic(&path, lock.to_toml().as_bytes())?;
        let digests = lock.packages().map(|package| package.sha256);
        let digests: BTreeSet<_> = digests.chain([tools::digest(tool)]).collect();
        self.store.set_root(&Root { path, digests })?;
        Ok(tools)
    }

    fn fetch_tools(
        &self,
        name: &str,
        packages: &[&str],
        lock: &LockFile,
    ) -> Result<(), PipelineError> {
        let locked: Vec<&LockedPackage> = lock.packages().collect();
        if locked.iter().all(|package| self.store.has(&package.sha256)) {
            return Ok(());
        }
        let wishes = super::locking::tool_wishes(name, packages);
        self.fetch_from(&wishes, lock, self.store.root(), &locked)?;
        Ok(())
    }
}

/// Whether a newer version is the remedy.
fn is_gone(error: &SourceError) -> bool {
    match error {
        SourceError::Gone { .. } => true,
        SourceError::Several(errors) => errors.iter().any(is_gone),
        _ => false,
    }
}

/// Waits until no other process holds the file.
fn turn(path: &PathBuf) -> Result<File, PipelineError> {
    let file = File::create(path).at("create", path)?;
    match file.lock() {
        // Without locks on this file system each does the work for itself.
        Ok(()) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(error) => Err(error).at("lock", path)?,
    }
}
