//! The artifact's digest before and after: the promise that a boot test tests the
//! very bytes and leaves them as they are.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use crate::error::HarnessError;
use crate::plan::Emulator;

/// Read size.
const CHUNK: usize = 1 << 20;

/// SHA-256 of a file, hexadecimal.
pub(crate) fn digest(path: &Path) -> Result<String, HarnessError> {
    let remedy = "build the image again, and let nothing else use the file";
    let mut file = File::open(path).map_err(HarnessError::io("open", path, remedy))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => hash.update(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HarnessError::io("read", path, remedy)(error)),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Size and times of the file's content and entry: what any write to it changes.
type Stamp = (u64, i64, i64, i64, i64);

fn stamp(path: &Path) -> Result<Stamp, HarnessError> {
    let meta = std::fs::metadata(path).map_err(HarnessError::io(
        "look at",
        path,
        "check the path of the artifact",
    ))?;
    Ok((
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// The digest before the boot, computed while the firmware runs on another core.
/// It only counts as *before* because the file's stamp, taken before QEMU opened
/// it, is still the same when the last byte has been read.
#[derive(Debug)]
pub(crate) struct Before {
    work: JoinHandle<Result<(String, bool), HarnessError>>,
}

impl Before {
    /// Takes the stamp, then hashes in a thread.
    pub(crate) fn start(path: &Path) -> Result<Self, HarnessError> {
        let first = stamp(path)?;
        let path: PathBuf = path.to_owned();
        let work = std::thread::spawn(move || {
            let digest = digest(&path)?;
            Ok((digest, stamp(&path)? == first))
        });
        Ok(Self { work })
    }

    /// Digest, and whether nobody touched the file meanwhile.
    pub(crate) fn finish(self) -> Result<(String, bool), HarnessError> {
        match self.work.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The tools that a run depends on, digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tools {
    /// `sha256:…` of QEMU's program file.
    pub(crate) emulator: String,
    /// `sha256:…` of the firmware's code file.
    pub(crate) firmware: String,
}

impl Tools {
    /// Reads both files in a thread, while the machine boots.
    pub(crate) fn start(emulator: &Emulator) -> JoinHandle<Result<Self, HarnessError>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = program(&emulator.command, &path);
        let firmware = emulator.firmware_code.clone();
        std::thread::spawn(move || {
            Ok(Self {
                emulator: format!("sha256:{}", digest(&program)?),
                firmware: format!("sha256:{}", digest(&firmware)?),
            })
        })
    }
}

/// The program file among the words of an emulator's command: the word that names
/// QEMU (a loader and its options may stand in front), else the first, looked up
/// in `path` as the system does.
fn program(command: &[OsString], path: &OsStr) -> PathBuf {
    let is_qemu = |word: &&OsString| {
        let name = Path::new(word).file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b"qemu-system-")
    };
    let word = command.iter().find(is_qemu).or_else(|| command.first());
    let word = PathBuf::from(word.cloned().unwrap_or_default());
    if word.components().count() > 1 {
        return word;
    }
    std::env::split_paths(path)
        .map(|folder| folder.join(&word))
        .find(|file| file.is_file())
        .unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_behind_its_loader_and_on_the_path() -> Result<(), HarnessError> {
        let locked = [
            "/q/ld.so",
            "--library-path",
            "/q/lib",
            "/q/qemu-system-x86_64",
            "-L",
            "/q",
        ];
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let none = OsStr::new("");
        assert_eq!(
            program(&words(&locked), none),
            Path::new("/q/qemu-system-x86_64")
        );
        assert_eq!(program(&words(&["/x/fake"]), none), Path::new("/x/fake"));
        let dir = tempfile::tempdir().map_err(HarnessError::io("make", Path::new("tmp"), ""))?;
        let file = dir.path().join("qemu-system-x86_64");
        std::fs::write(&file, b"").map_err(HarnessError::io("write", &file, ""))?;
        let found = program(&words(&["qemu-system-x86_64"]), dir.path().as_os_str());
        assert_eq!(found, file);
        Ok(())
    }

    #[test]
    fn digest_is_sha256() -> Result<(), HarnessError> {
        let dir = tempfile::tempdir().map_err(HarnessError::io("make", Path::new("tmp"), ""))?;
        let path = dir.path().join("disk");
        std::fs::write(&path, b"abc").map_err(HarnessError::io("write", &path, ""))?;
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&path)?, want);
        assert_eq!(Before::start(&path)?.finish()?, (want.to_owned(), true));
        assert!(digest(&dir.path().join("none")).is_err());
        Ok(())
    }
}
