//! The real tool judges: `e2fsck -fn` over every size, and over what interrupted
//! formatting left.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;
const IDENTITY: Identity = Identity {
    uuid: *b"0123456789abcdef",
    hash_seed: *b"fedcba9876543210",
    now: 1_700_000_000,
    quotas: false,
};

/// Formats a file of `bytes` bytes full of ones, at an offset.
fn formatted(bytes: u64) -> tempfile::NamedTempFile {
    formatted_with(bytes, &IDENTITY)
}

fn formatted_with(bytes: u64, identity: &Identity) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut options = File::options();
    let disk = options.read(true).write(true).open(file.path()).unwrap();
    // Rubbish where the tables come, as on a disk that was used.
    disk.write(&vec![0xa5; 9 * MIB as usize], 0).unwrap();
    disk.set_len(bytes).unwrap();
    format(&disk, 0, bytes, identity).unwrap();
    file
}

/// Exit status and output of a tool of e2fsprogs; `None`, visibly, where it is not.
fn tool(name: &str, arguments: &[&str], file: &tempfile::NamedTempFile) -> Option<(i32, String)> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"]
        .map(|folder| format!("{folder}/{name}"))
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let Some(path) = found else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: there is no {name} (Debian: e2fsprogs)"
        );
        return None;
    };
    let output = Command::new(path)
        .args(arguments)
        .arg(file.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn checksums_are_those_of_the_kernel() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
}

#[test]
fn e2fsck_finds_nothing_to_mend_whatever_the_size() {
    for bytes in [16, 17, 64, 127, 128, 300, 1024, 9000].map(|mib| mib * MIB + 4096 * (mib % 3)) {
        let file = formatted(bytes);
        if let Some((status, text)) = tool("e2fsck", &["-fn"], &file) {
            assert_eq!(status, 0, "{bytes}: {text}");
        }
        let Some((_, text)) = tool("dumpe2fs", &[], &file) else {
            continue;
        };
        let blocks = (bytes / 4096).min(32768);
        for line in [
            "Filesystem volume name:   slipform-state".to_owned(),
            "Filesystem state:         clean".to_owned(),
            format!("Block count:              {blocks}"),
            "Journal features:         (none)".to_owned(),
            format!("Total journal blocks:     {}", journal_blocks(bytes)),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}

#[test]
fn what_is_too_small_is_refused_and_left_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(format(file.as_file(), 0, MIN_BYTES - 1, &IDENTITY).is_err());
    assert_eq!(file.as_file().metadata().unwrap().len(), 0);
}

/// One changed byte anywhere in the tables: e2fsck sees it, so the checksums are right
/// where they stand, not only where nobody looks.
#[test]
fn a_changed_byte_of_the_tables_is_noticed() {
    // Superblock, descriptor, both bitmaps, root inode, root folder.
    for at in [
        1024 + 0x78,
        4096 + 1,
        2 * 4096 + 3000,
        3 * 4096 + 200,
        4 * 4096 + 256 + 9,
        516 * 4096 + 1,
    ] {
        let file = formatted(16 * MIB);
        let disk = File::options()
            .read(true)
            .write(true)
            .open(file.path())
            .unwrap();
        let mut byte = [0];
        ReadAt::read_exact_at(&disk, &mut byte, at).unwrap();
        disk.write(&[byte[0] ^ 4], at).unwrap();
        if let Some((status, text)) = tool("e2fsck", &["-fn"], &file) {
            assert_ne!(status, 0, "byte {at}: {text}");
        }
    }
}

/// e2fsck counts itself what belongs to no path, and compares.
#[test]
fn with_quotas_e2fsck_counts_the_same() {
    let identity = Identity {
        quotas: true,
        ..IDENTITY
    };
    for bytes in [16, 64, 128, 300].map(|mib| mib * MIB) {
        let file = formatted_with(bytes, &identity);
        if let Some((status, text)) = tool("e2fsck", &["-fn"], &file) {
            assert_eq!(status, 0, "{bytes}: {text}");
        }
        if let Some((_, text)) = tool("dumpe2fs", &["-h"], &file) {
            assert!(text.contains("Project quota inode:      12"), "{text}");
        }
        // One block more is counted than there is.
        let disk = File::options().read(true).write(true).open(file.path());
        let disk = disk.unwrap();
        let used = (518 + u64::from(journal_blocks(bytes))) * BLOCK + 5 * 1024 + 16 + 48;
        let mut count = [0; 8];
        ReadAt::read_exact_at(&disk, &mut count, used).unwrap();
        assert_eq!(u64::from_le_bytes(count), 2 * BLOCK);
        disk.write(&(3 * BLOCK).to_le_bytes(), used).unwrap();
        if let Some((status, text)) = tool("e2fsck", &["-fn"], &file) {
            assert_ne!(status, 0, "{bytes}: {text}");
        }
    }
}
