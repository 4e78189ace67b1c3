//! Credentials that QEMU hands over as fw_cfg files, `opt/io.systemd.credentials/NAME`
//! (systemd.system-credentials(7); QEMU docs/specs/fw_cfg).

use std::fs;
use std::path::Path;

use super::found::{CREDENTIALS_MAX, Found};
use super::read_some;

/// Where the kernel's driver shows them.
pub(super) const FOLDER: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
/// Entries that are looked at.
const ENTRIES_MAX: usize = 256;

/// All credentials in `folder`; none if it is not there.
pub(super) fn credentials(folder: &Path) -> Found {
    let mut found = Found::default();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .take(ENTRIES_MAX)
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let text = name.to_string_lossy();
        match read_some(&folder.join(&name).join("raw"), CREDENTIALS_MAX) {
            Ok(value) => found.credential(&text, value),
            Err(error) => found.note(format!("fw-cfg: {text:?}: {error}")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let add = |name: &str, value: &[u8]| {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("raw"), value).unwrap();
        };
        add("db-password", b"s3cret\0");
        add("bad name", b"x");
        add("huge", &vec![0; CREDENTIALS_MAX + 1]);
        fs::create_dir(folder.path().join("empty")).unwrap();
        let found = credentials(folder.path());
        assert_eq!(found.credentials["db-password"], b"s3cret\0");
        assert_eq!((found.credentials.len(), found.odd.len()), (1, 3));
        assert!(credentials(Path::new("/nonexistent")).is_empty());
    }

    /// Names and contents in turn.
    #[test]
    fn no_files_break_it() {
        use super::super::found::is_name;
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        let seeds: [&[&str]; 3] = [
            &["db-password", "s3cret\0", "tls.key", "x"],
            &["bad name", "x", "a", ""],
            &[".hidden", "x", &"n".repeat(255), "y"],
        ];
        slipform_fuzz::fuzz(&seeds.map(slipform_fuzz::framed), |bytes, _| {
            let pieces: Vec<&[u8]> = slipform_fuzz::frames(bytes).take(16).collect();
            let mut made = Vec::new();
            for pair in pieces.chunks(2) {
                let entry = folder
                    .path()
                    .join("x")
                    .with_file_name(OsStr::from_bytes(pair[0]));
                // Not every name is one of a file.
                let is_own = entry.parent() == Some(folder.path());
                if is_own && fs::create_dir(&entry).is_ok() {
                    fs::write(entry.join("raw"), pair.get(1).copied().unwrap_or_default()).unwrap();
                    made.push(entry);
                }
            }
            let found = credentials(folder.path());
            assert!(found.credentials.keys().all(|name| is_name(name)));
            assert_eq!(found.credentials.len() + found.odd.len(), made.len());
            for entry in made {
                fs::remove_dir_all(entry).unwrap();
            }
        });
    }
}
