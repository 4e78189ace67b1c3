//! Temporary files: locked by their owner while it lives, so that those of a
//! killed process can be told from those of a live one and cleared.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{Store, StoreError, fault};
use crate::base::fs::{At, sync_folder};

/// Prefix of names whose owner holds a lock on the file or folder.
const OWNED: &str = "put-";

/// What nobody owns is cleared after this time without a change.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder below the store's `tmp`, removed when dropped unless
/// [`TempFolder::publish`] gave it a lasting name.
#[derive(Debug)]
pub struct TempFolder {
    folder: tempfile::TempDir,
    _owner: File,
}

impl TempFolder {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Renames the folder to `target`. When somebody else published that name
    /// first, theirs stays and this one is dropped. The folder's files are not
    /// synced: what is published so must be able to be made again.
    ///
    /// # Errors
    /// [`StoreError::Fs`] with the step that failed.
    pub fn publish(self, target: &Path) -> Result<(), StoreError> {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fault::point();
        match fs::rename(self.path(), target) {
            Ok(()) => {
                let _moved = self.folder.keep();
                Ok(())
            }
            Err(_) if target.is_dir() => Ok(()),
            Err(error) => Err(error).at("rename to", target)?,
        }
    }
}

impl Store {
    /// A temporary file on the store's own file system, to be filled (at any
    /// offset, with holes) and then given to [`Store::adopt`]. Dropped, it is gone.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn temp(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let folder = self.tmp();
        let _gate = self.temp_gate(FlockOperation::LockShared)?;
        let file = tempfile::Builder::new()
            .prefix(OWNED)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&folder)
            .at("create a file in", &folder)?;
        own(file.as_file());
        fault::point();
        Ok(file)
    }

    /// A temporary folder on the store's own file system.
    ///
    /// # Errors
    /// [`StoreError::Fs`].
    pub fn temp_folder(&self) -> Result<TempFolder, StoreError> {
        let parent = self.tmp();
        let _gate = self.temp_gate(FlockOperation::LockShared)?;
        let folder = tempfile::Builder::new()
            .prefix(OWNED)
            .tempdir_in(&parent)
            .at("create a folder in", &parent)?;
        let owner = File::open(folder.path()).at("open", folder.path())?;
        own(&owner);
        Ok(TempFolder {
            folder,
            _owner: owner,
        })
    }

    /// Writes `bytes` to `path` in the store, whole or not at all. `durable`
    /// says whether that must hold over a loss of power: what carries its own
    /// digest and can be made again need not wait for the disk.
    pub(super) fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        durable: bool,
    ) -> Result<(), StoreError> {
        use std::io::Write as _;
        let mut file = self.temp()?;
        file.as_file_mut().write_all(bytes).at("write", path)?;
        fault::point();
        if durable {
            file.as_file().sync_all().at("sync", path)?;
        }
        fault::point();
        file.persist(path)
            .map_err(|e| e.error)
            .at("rename to", path)?;
        fault::point();
        if durable && let Some(folder) = path.parent() {
            sync_folder(folder)?;
        }
        Ok(())
    }

    /// Clears what killed processes left in `tmp`. Nothing of a live process
    /// is touched. Failing to clear is no error: it is tried again next time.
    pub(super) fn clear_temp(&self) {
        let Ok(_gate) = self.temp_gate(FlockOperation::NonBlockingLockExclusive) else {
            return;
        };
        let Ok(entries) = fs::read_dir(self.tmp()) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let owned = entry.file_name().to_string_lossy().starts_with(OWNED);
            if (owned && is_ownerless(&path)) || is_forgotten(&path) {
                let _tried_again_next_time = remove_any(&path);
            }
        }
    }

    /// Held while a temporary file is made and locked, so that clearing never
    /// sees one that is not locked yet.
    fn temp_gate(&self, operation: FlockOperation) -> Result<File, StoreError> {
        let path = self.root().join("tmp.lock");
        let file = open_lock(&path).at("open", &path)?;
        match flock(&file, operation) {
            // Without locks on this file system nothing is cleared early either.
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => Ok(file),
            Err(error) => Err(io::Error::from(error)).at("lock", &path)?,
        }
    }
}

/// Opens a lock file, making it if need be.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn own(file: &File) {
    // A file system without locks: the file then counts as forgotten after a day.
    let _ = flock(file, FlockOperation::NonBlockingLockExclusive);
}

fn is_ownerless(path: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

fn is_forgotten(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|changed| SystemTime::now().duration_since(changed).ok())
        .is_some_and(|age| age > FORGOTTEN)
        // A long-lived owner may write below a folder without touching it.
        && is_ownerless(path)
}

/// Removes a file or a whole folder, also one whose folders are read-only.
pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    let mut folders: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(store: &Store) -> Vec<String> {
        fs::read_dir(store.tmp())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn what_a_live_owner_writes_stays_and_the_rest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let live = store.temp().unwrap();
        let live_folder = store.temp_folder().unwrap();
        fs::write(store.tmp().join("put-dead"), "x").unwrap();
        fs::create_dir_all(store.tmp().join("put-deadfolder/inner")).unwrap();
        fs::write(store.tmp().join("put-deadfolder/inner/file"), "x").unwrap();
        fs::set_permissions(
            store.tmp().join("put-deadfolder/inner"),
            Permissions::from_mode(0o555),
        )
        .unwrap();
        fs::write(store.tmp().join("somebody-elses"), "x").unwrap();
        let again = Store::open(folder.path()).unwrap();
        let names = names(&again);
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(live.path().exists() && live_folder.path().exists());
        assert!(store.tmp().join("somebody-elses").exists());
    }

    #[test]
    fn a_forgotten_file_of_nobody_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = store.tmp().join("from-elsewhere");
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - 2 * FORGOTTEN)
            .unwrap();
        drop(file);
        store.clear_temp();
        assert!(!path.exists());
    }

    #[test]
    fn a_published_folder_keeps_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let target = folder.path().join("unpacked/x");
        for text in ["first", "second"] {
            let temp = store.temp_folder().unwrap();
            fs::write(temp.path().join("file"), text).unwrap();
            temp.publish(&target).unwrap();
        }
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "first");
        assert!(names(&store).is_empty());
    }
}
