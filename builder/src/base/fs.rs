//! Files that are there whole or not at all, and errors that name their path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An operation on a path that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}", path = path.display())]
pub struct FsError {
    /// What was tried, as a verb: `read`, `create`, `rename`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Puts operation and path on an [`io::Result`].
pub trait At<T> {
    /// Names the operation (a verb) and the path that it failed on.
    ///
    /// # Errors
    /// The same failure, named.
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FsError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FsError> {
        self.map_err(|source| FsError {
            operation,
            path: path.as_ref().to_owned(),
            source,
        })
    }
}

/// Writes `bytes` to `path` so that a reader, or a crash, sees the old file or
/// the whole new one: a temporary file beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`FsError`] with the step that failed; `path` is then as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).at("create", folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".slipform-")
        .tempfile_in(folder)
        .at("create a file in", folder)?;
    file.write_all(bytes).at("write", path)?;
    file.as_file().sync_all().at("sync", path)?;
    file.persist(path)
        .map_err(|error| error.error)
        .at("rename to", path)?;
    sync_folder(folder)
}

/// Writes a new file with `mode`, whole or not at all; one that is there stays as it is.
///
/// # Errors
/// [`FsError`] with the step that failed; `AlreadyExists` when `path` is taken.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).at("create", folder)?;
    // Made for its owner only, and opened to others when it is whole.
    let mut file = tempfile::Builder::new()
        .prefix(".slipform-")
        .tempfile_in(folder)
        .at("create a file in", folder)?;
    file.write_all(bytes).at("write", path)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .at("set the mode of", path)?;
    file.as_file().sync_all().at("sync", path)?;
    file.persist_noclobber(path)
        .map_err(|error| error.error)
        .at("create", path)?;
    sync_folder(folder)
}

/// Makes the names in `folder` durable.
///
/// # Errors
/// [`FsError`] when the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), FsError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .at("sync", folder)
}
