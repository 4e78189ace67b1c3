//! Makes the stack `/`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::modalias::COLDPLUG_DIR;

use crate::error::BootError;
use crate::report::Reporter;
use crate::sys::{host, mount};
use crate::turn::Report;

/// Mounts that come along; their folders must be in the image.
pub(crate) const MOVED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Moves to the new root, and gives the initramfs's memory back.
pub(crate) fn root(new_root: &Path) -> Result<(), BootError> {
    for path in MOVED {
        let target = new_root.join(path.trim_start_matches('/'));
        mount::move_to(Path::new(path), &target).map_err(|error| {
            BootError::new(
                Phase::Switch,
                format!(
                    "move {path} to the new root (its topmost layer must have the folder {path})"
                ),
                error,
            )
        })?;
    }
    let failed = |error| {
        BootError::new(
            Phase::Switch,
            format!("make {} the root", new_root.display()),
            error,
        )
    };
    let device = fs::metadata("/").map_err(failed)?.dev();
    empty(Path::new("/"), device);
    std::env::set_current_dir(new_root).map_err(failed)?;
    mount::move_to(Path::new("."), Path::new("/")).map_err(failed)?;
    host::change_root(Path::new(".")).map_err(failed)?;
    std::env::set_current_dir("/").map_err(failed)
}

/// Deletes what lies on file system `device`: the initramfs is memory. Other file
/// systems are not entered, and what cannot be deleted (mount points) stays. The modules of
/// devices that may come stay, too: init holds their folder open.
fn empty(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != device || path == Path::new(COLDPLUG_DIR) {
            continue;
        }
        if metadata.is_dir() {
            empty(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Really tries to write, in the places that matter, and reports the answers.
pub(crate) fn try_to_write(report: &mut Reporter) {
    let answers: Vec<_> = ["/", "/usr", "/etc"]
        .into_iter()
        .filter(|folder| Path::new(folder).is_dir())
        .map(|folder| (folder, try_in(Path::new(folder))))
        .collect();
    let refused = answers
        .iter()
        .all(|(_, answer)| answer.as_ref().is_err_and(is_read_only));
    let detail: Vec<_> = answers
        .iter()
        .map(|(folder, answer)| match answer {
            Ok(()) => format!("{folder}: a file could be made"),
            Err(error) => format!("{folder}: {error}"),
        })
        .collect();
    report.event(Event::RootWrite {
        refused,
        detail: detail.join("; "),
    });
}

fn is_read_only(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EROFS)
}

fn try_in(folder: &Path) -> io::Result<()> {
    let path = folder.join(".slipform-write-attempt");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let _ = fs::remove_file(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_emptied_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        fs::write(inside.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a/link")).unwrap();
        empty(&inside, fs::metadata(&inside).unwrap().dev());
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_folder_that_can_be_written_is_noticed_and_left_clean() {
        let root = tempfile::tempdir().unwrap();
        assert!(try_in(root.path()).is_ok());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
