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
}
