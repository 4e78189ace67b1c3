//! `slipform-state.json`: whose state this is. An older image, or another, refuses it
//! before one of its services has seen a byte.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use slipform_init::contract::machine::{Machine, State};

/// The file's name.
pub(crate) const NAME: &str = "slipform-state.json";
/// Version of this record and of the folders beside it.
const FORMAT: u32 = 1;
/// The next one, until it is whole.
const NEW: &str = ".slipform-state.json.new";
const MAX_BYTES: u64 = 4096;

/// This state is not this image's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The disk.
    #[error("{NAME}: {0}")]
    Io(#[from] io::Error),
    /// Not what init writes.
    #[error("{NAME} is none: {0}; put it right by hand, the state itself is untouched")]
    Json(#[from] serde_json::Error),
    /// Somebody's files are there.
    #[error(
        "there is no {NAME}, but {0:?}: this holds something else; give the state's label to an empty file system, or empty this one"
    )]
    Foreign(std::ffi::OsString),
    /// A later init laid it out.
    #[error("it has format {found}, this image knows {FORMAT}: boot a newer image")]
    Format {
        /// What is there.
        found: u32,
    },
    /// Another image wrote it.
    #[error("it belongs to image {found:?}, this is {own:?}")]
    Image {
        /// The image that it belongs to.
        found: String,
        /// This one.
        own: String,
    },
    /// A later version of the image wrote it.
    #[error(
        "it was written at version {found}, this image knows {own}: boot a newer image ([state] version)"
    )]
    Version {
        /// What is there.
        found: u32,
        /// This image's.
        own: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// [`FORMAT`]. Keys that this init does not know are of a later one with the same format.
    format: u32,
    /// Image's name.
    image: String,
    /// `[state] version` of the newest image that used it.
    version: u32,
    /// SHA-256 of the machine.json that wrote this.
    machine: String,
}

/// Refuses a state that is not for this image, and takes possession of it otherwise.
pub(crate) fn check_and_write(
    root: &Path,
    machine: &Machine,
    state: &State,
    digest: &str,
) -> Result<(), RecordError> {
    let own = Record {
        format: FORMAT,
        image: machine.name.clone(),
        version: state.version,
        machine: digest.to_owned(),
    };
    match super::read_small(&root.join(NAME), MAX_BYTES) {
        Ok(bytes) if parse_and_check(&bytes, &own)? == own => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => take(root)?,
        Err(error) => return Err(error.into()),
    }
    write(root, &serde_json::to_vec(&own)?)?;
    Ok(())
}

fn parse_and_check(bytes: &[u8], own: &Record) -> Result<Record, RecordError> {
    let found: Record = serde_json::from_slice(bytes)?;
    if found.format > FORMAT {
        return Err(RecordError::Format {
            found: found.format,
        });
    }
    if found.image != own.image {
        return Err(RecordError::Image {
            found: found.image,
            own: own.image.clone(),
        });
    }
    if found.version > own.version {
        return Err(RecordError::Version {
            found: found.version,
            own: own.version,
        });
    }
    Ok(found)
}

/// Takes a file system for a new state: nothing may be on it. Only root goes through it,
/// whoever made it: services see what is bound for them.
fn take(root: &Path) -> Result<(), RecordError> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if name != "lost+found" && name != NEW {
            return Err(RecordError::Foreign(name));
        }
    }
    Ok(fs::set_permissions(root, Permissions::from_mode(0o700))?)
}

/// The old or the new one, whenever the power goes.
fn write(root: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = root.join(NEW);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, root.join(NAME))?;
    File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn own() -> Record {
        Record {
            format: FORMAT,
            image: "redis".to_owned(),
            version: 3,
            machine: "ab".repeat(32),
        }
    }

    fn refused(from: &str, to: &str) -> String {
        let text = serde_json::to_string(&own()).unwrap();
        assert!(text.contains(from), "{text}");
        let text = text.replace(from, to);
        parse_and_check(text.as_bytes(), &own())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn only_this_image_of_this_version_or_a_later_one_gets_in() {
        let text = serde_json::to_string(&own()).unwrap();
        assert_eq!(parse_and_check(text.as_bytes(), &own()).unwrap(), own());
        let older = text.replace("\"version\":3", "\"version\":2");
        assert_eq!(
            parse_and_check(older.as_bytes(), &own()).unwrap().version,
            2
        );
        let later = text.replace('}', ",\"more\":[1]}");
        assert!(parse_and_check(later.as_bytes(), &own()).is_ok());
        let table = [
            ("\"format\":1", "\"format\":2", "format 2"),
            ("redis", "postgres", "belongs to image \"postgres\""),
            ("\"version\":3", "\"version\":4", "at version 4"),
            ("{", "[", "is none"),
        ];
        for (from, to, expected) in table {
            let text = refused(from, to);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn no_record_can_break_the_reader() {
        let text = serde_json::to_string(&own()).unwrap();
        fuzz(&[text.as_bytes()], |bytes, _| {
            let _ = parse_and_check(bytes, &own());
        });
    }

    #[test]
    fn only_an_empty_file_system_is_taken_and_closed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("lost+found")).unwrap();
        fs::write(root.path().join(NEW), "half").unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        take(root.path()).unwrap();
        let mode = fs::metadata(root.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(root.path().join("photo.jpg"), "").unwrap();
        let error = take(root.path()).unwrap_err().to_string();
        assert!(error.contains("but \"photo.jpg\""), "{error}");
    }

    #[test]
    fn a_record_is_replaced_whole_and_a_link_in_its_place_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), b"{}").unwrap();
        write(root.path(), b"{\"a\":1}").unwrap();
        let read = || super::super::read_small(&root.path().join(NAME), MAX_BYTES);
        assert_eq!(read().unwrap(), b"{\"a\":1}\n");
        write(root.path(), &[b' '; MAX_BYTES as usize]).unwrap();
        assert!(read().is_err());
        fs::remove_file(root.path().join(NAME)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join(NAME)).unwrap();
        assert!(read().is_err());
    }
}
