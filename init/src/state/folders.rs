//! The image's paths on the state's file system.
//!
//! At first use a path's folder is what the image has there, with owner, mode and content;
//! it is put together aside and renamed, so that the next boot finds all of it or nothing.
//! From then on the image's content at that path is not looked at again. An owner or mode
//! that the image names is set at every boot, on the folder itself.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::{Path, PathBuf};

use slipform_init::contract::machine::StatePath;

use super::is_there;
use super::quota::Quotas;
use crate::report::Reporter;
use crate::sys::{block, mount};

const PATHS: &str = "paths";
const NEW: &str = "new";
/// Levels of folders that are copied; the image's builder refuses deeper trees long before.
const MAX_DEPTH: usize = 128;

/// Mounts all paths; fails with the one that it failed on.
pub(crate) fn bind<'a>(
    root: &Path,
    paths: &'a [StatePath],
    quotas: Option<&Quotas>,
    report: &mut Reporter,
) -> Result<(), (&'a str, io::Error)> {
    for path in paths {
        let failed = |error| (path.path.as_str(), error);
        let target = Path::new(&path.path);
        let (kept, skipped) = keep(root, path, target).map_err(failed)?;
        if skipped > 0 {
            report.note(&format!(
                "state: {skipped} devices, pipes or sockets of {} are not kept",
                path.path
            ));
        }
        if let Some(quotas) = quotas {
            quotas.apply(path, &kept, report);
        }
        mount::bind(&kept, target).map_err(failed)?;
    }
    Ok(())
}

/// The folder that is kept for a path, made of the image's folder `seed` if it is not
/// there yet; and how much of that could not be copied.
fn keep(root: &Path, path: &StatePath, seed: &Path) -> io::Result<(PathBuf, usize)> {
    let kept = root.join(PATHS).join(path.path.trim_start_matches('/'));
    let mut skipped = 0;
    if !is_there(&kept) {
        let new = root.join(NEW);
        if is_there(&new) {
            fs::remove_dir_all(&new)?;
        }
        copy_folder(seed, &new, MAX_DEPTH, &mut skipped)?;
        own(&new, path)?;
        if let Some(parent) = kept.parent() {
            make(parent, 0o755)?;
        }
        block::sync_file_system(&File::open(root)?)?;
        fs::rename(&new, &kept)?;
        block::sync_file_system(&File::open(root)?)?;
    } else if !fs::symlink_metadata(&kept)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    own(&kept, path)?;
    Ok((kept, skipped))
}

/// Makes a folder, and those above it for all to pass: who may not look into this one may
/// look beside it.
pub(crate) fn make(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(above)?;
    }
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// What the image says of the folder itself.
fn own(folder: &Path, path: &StatePath) -> io::Result<()> {
    let now = fs::metadata(folder)?;
    if let Some((uid, gid)) = path.owner
        && (now.uid(), now.gid()) != (uid, gid)
    {
        chown(folder, Some(uid), Some(gid))?;
        // Changing the owner may take bits away.
        fs::set_permissions(folder, now.permissions())?;
    }
    match path.mode {
        Some(mode) if now.mode() & 0o7777 != mode => {
            fs::set_permissions(folder, Permissions::from_mode(mode))
        }
        _ => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path, depth: usize, skipped: &mut usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} lies too deep", from.display()),
        ));
    }
    let metadata = fs::metadata(from)?;
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&from)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            copy_folder(&from, &to, depth - 1, skipped)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
            lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if kind.is_file() {
            fs::copy(&from, &to)?;
            same(&to, &metadata)?;
        } else {
            debug_assert!(kind.is_fifo() || kind.is_socket() || metadata.rdev() > 0);
            *skipped += 1;
        }
    }
    same(to, &metadata)
}

/// Owner, mode and time of a file or folder.
fn same(path: &Path, metadata: &Metadata) -> io::Result<()> {
    chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(path, metadata.permissions())?;
    File::open(path)?.set_modified(metadata.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(mode: Option<u32>) -> StatePath {
        StatePath {
            path: "/var/lib/app".to_owned(),
            owner: None,
            mode,
            quota: None,
        }
    }

    fn image() -> tempfile::TempDir {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir(image.path().join("sub")).unwrap();
        fs::write(image.path().join("sub/file"), "of the image").unwrap();
        symlink("sub/file", image.path().join("link")).unwrap();
        fs::set_permissions(image.path().join("sub/file"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(image.path(), Permissions::from_mode(0o750)).unwrap();
        image
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn only_the_folder_itself_is_closed() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("run/slipform");
        make(&open.join("state"), 0o700).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&open), mode(&open.join("state"))), (0o755, 0o700));
    }

    #[test]
    fn the_images_folder_is_copied_once_and_then_left_alone() {
        let (root, image) = (tempfile::tempdir().unwrap(), image());
        let (kept, skipped) = keep(root.path(), &path(None), image.path()).unwrap();
        assert_eq!(
            (kept.clone(), skipped),
            (root.path().join("paths/var/lib/app"), 0)
        );
        let read = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
        assert_eq!(read("sub/file"), "of the image");
        assert_eq!(read("link"), "of the image");
        assert_eq!((mode(&kept), mode(&kept.join("sub/file"))), (0o750, 0o640));
        let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(
            time(&kept.join("sub/file")),
            time(&image.path().join("sub/file"))
        );

        fs::write(kept.join("sub/file"), "of the app").unwrap();
        fs::remove_file(kept.join("link")).unwrap();
        keep(root.path(), &path(None), image.path()).unwrap();
        assert_eq!(read("sub/file"), "of the app");
        assert!(!is_there(&kept.join("link")));
        assert!(!is_there(&root.path().join(NEW)));
    }

    #[test]
    fn what_a_power_cut_left_half_copied_is_begun_anew() {
        let (root, image) = (tempfile::tempdir().unwrap(), image());
        fs::create_dir_all(root.path().join("new/sub")).unwrap();
        fs::write(root.path().join("new/sub/file"), "of th").unwrap();
        fs::write(root.path().join("new/other"), "").unwrap();
        let (kept, _) = keep(root.path(), &path(None), image.path()).unwrap();
        assert_eq!(
            fs::read_to_string(kept.join("sub/file")).unwrap(),
            "of the image"
        );
        assert!(!is_there(&kept.join("other")));
    }

    #[test]
    fn a_mode_that_the_image_names_is_set_at_every_boot() {
        let (root, image) = (tempfile::tempdir().unwrap(), image());
        let (kept, _) = keep(root.path(), &path(Some(0o711)), image.path()).unwrap();
        assert_eq!(mode(&kept), 0o711);
        keep(root.path(), &path(Some(0o700)), image.path()).unwrap();
        assert_eq!(mode(&kept), 0o700);
        keep(root.path(), &path(None), image.path()).unwrap();
        assert_eq!(mode(&kept), 0o700);
    }

    #[test]
    fn a_file_or_link_in_the_folders_place_is_no_folder() {
        let (root, image) = (tempfile::tempdir().unwrap(), image());
        fs::create_dir_all(root.path().join("paths/var/lib")).unwrap();
        symlink("/etc", root.path().join("paths/var/lib/app")).unwrap();
        assert!(keep(root.path(), &path(None), image.path()).is_err());
    }

    #[test]
    fn what_is_no_file_is_counted_and_left_out() {
        let (root, image) = (tempfile::tempdir().unwrap(), image());
        let _socket = std::os::unix::net::UnixListener::bind(image.path().join("s")).unwrap();
        let (kept, skipped) = keep(root.path(), &path(None), image.path()).unwrap();
        assert_eq!(skipped, 1);
        assert!(!is_there(&kept.join("s")));
    }
}
