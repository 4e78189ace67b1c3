//! A base tree of realistic sizes and an app of one binary, the same on every machine.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of the app's only file.
const APP_BYTES: u64 = 20 * 1000 * 1000;
/// Files in one folder.
const FOLDER_FILES: u64 = 40;

/// The project's folder: `root/` is the machine's tree, `root/opt/app` the app.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) folder: PathBuf,
    files: u64,
    bytes: u64,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workload: base of {} files with {:.0} MB, app of one file with {:.0} MB",
            self.files,
            self.bytes as f64 / 1e6,
            APP_BYTES as f64 / 1e6
        )
    }
}

impl Workload {
    /// Makes the tree and the app.
    pub(crate) fn create(folder: &Path, quick: bool) -> Self {
        let (files, bytes) = if quick {
            (2_900, 120_000_000)
        } else {
            (11_500, 468_000_000)
        };
        let workload = Self {
            folder: folder.to_owned(),
            files,
            bytes,
        };
        let mut random = Random(0x5eed);
        let sizes = sizes(&mut random, files, bytes);
        for (number, size) in sizes.iter().enumerate() {
            let number = number as u64;
            let parent = format!("usr/lib/part{}", number / FOLDER_FILES);
            let parent = workload.root().join(parent);
            if number.is_multiple_of(FOLDER_FILES) {
                fs::create_dir_all(&parent).unwrap();
            }
            fs::write(parent.join(format!("file{number}")), random.bytes(*size)).unwrap();
        }
        fs::create_dir_all(workload.root().join("opt/app")).unwrap();
        workload.change_app(0);
        workload
    }

    /// The machine's tree.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Another app of the same size.
    pub(crate) fn change_app(&self, seed: u64) {
        let bytes = Random(0xa99 + seed).bytes(APP_BYTES);
        fs::write(self.root().join("opt/app/server"), bytes).unwrap();
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + APP_BYTES
    }
}

/// Many small files and few large ones, as in a Debian tree: together `total` bytes.
fn sizes(random: &mut Random, files: u64, total: u64) -> Vec<u64> {
    let raw: Vec<u64> = (0..files)
        .map(|_| match random.below(1000) {
            0..600 => random.below(8 << 10),
            600..905 => (8 << 10) + random.below(56 << 10),
            905..995 => (64 << 10) + random.below(270 << 10),
            _ => (334 << 10) + random.below(4 << 20),
        })
        .collect();
    let sum: u64 = raw.iter().sum();
    raw.iter().map(|size| size * total / sum).collect()
}

/// xorshift64*: the same numbers everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let words = length.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length as usize);
        bytes
    }
}
