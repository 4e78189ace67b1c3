//! `newc` archives for initrds.
//!
//! Format: Linux kernel, Documentation/driver-api/early-userspace/buffer-format.rst.
//! Several archives may follow one another; each starts at a multiple of four.

use std::io::{self, Read, Write};

use super::error::FilesystemError;
use crate::base::EPOCH;

/// Bytes of a header: the magic and 13 fields of 8 hexadecimal digits.
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// `S_IFDIR`, `S_IFREG`, `S_IFLNK`, `S_IFCHR`.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive to `sink`, entry by entry, in the order of the calls.
/// Inode numbers count from one, times are [`EPOCH`], the owner is root.
///
/// Parents must come before children, or the kernel drops the children; a
/// missing parent is made (mode 0755).
#[derive(Debug)]
pub struct Initrd<W> {
    sink: W,
    written: u64,
    inode: u32,
    folders: std::collections::BTreeSet<String>,
}

/// One header's varying fields.
struct Header<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    size: u32,
    device: (u32, u32),
}

impl<W: Write> Initrd<W> {
    /// An empty archive on its way to `sink`.
    pub fn new(sink: W) -> Self {
        Self {
            sink,
            written: 0,
            inode: 0,
            folders: std::collections::BTreeSet::new(),
        }
    }

    /// A folder at `path` (with or without a leading slash).
    ///
    /// # Errors
    /// [`FilesystemError`] for a bad path or a sink that fails.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<(), FilesystemError> {
        let path = self.enter(path)?;
        if self.folders.insert(path.clone()) {
            self.header(&path, DIRECTORY | (mode & 0o7777), 2, 0, (0, 0))?;
        }
        Ok(())
    }

    /// A regular file with `bytes`.
    ///
    /// # Errors
    /// As [`Initrd::file_from`].
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), FilesystemError> {
        self.file_from(path, mode, bytes.len() as u64, &mut &*bytes)
    }

    /// A regular file with the `size` bytes that `reader` yields.
    ///
    /// # Errors
    /// [`FilesystemError`] for a bad path, 4 GiB or more, content of another
    /// length, or a sink that fails.
    pub fn file_from(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<(), FilesystemError> {
        let path = self.enter(path)?;
        let length = u32::try_from(size).map_err(|_| {
            broken(
                &path,
                format!("{size} bytes are more than the 4 GiB that an initrd's file may have"),
            )
        })?;
        self.header(&path, FILE | (mode & 0o7777), 1, length, (0, 0))?;
        let failed = |source| FilesystemError::Content {
            path: path.clone(),
            source,
        };
        let wrong = |found| FilesystemError::Length {
            path: path.clone(),
            expected: size,
            found,
        };
        let copied = io::copy(&mut reader.take(size), &mut self.sink).map_err(failed)?;
        self.written += copied;
        if copied < size {
            return Err(wrong("shorter"));
        }
        if reader.read(&mut [0]).map_err(failed)? != 0 {
            return Err(wrong("longer"));
        }
        self.pad(&path, 4)
    }

    /// A symbolic link that says `target`.
    ///
    /// # Errors
    /// [`FilesystemError`] for a bad path or a sink that fails.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), FilesystemError> {
        let path = self.enter(path)?;
        let length = u32::try_from(target.len())
            .map_err(|_| broken(&path, "its target is too long".to_owned()))?;
        self.header(&path, SYMLINK | 0o777, 1, length, (0, 0))?;
        self.put(&path, target.as_bytes())?;
        self.pad(&path, 4)
    }

    /// A character device.
    ///
    /// # Errors
    /// [`FilesystemError`] for a bad path or a sink that fails.
    pub fn device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), FilesystemError> {
        let path = self.enter(path)?;
        self.header(&path, CHARACTER | (mode & 0o7777), 1, 0, (major, minor))
    }

    /// Ends the archive, padded to a multiple of 512 bytes, and gives back the sink.
    ///
    /// # Errors
    /// [`FilesystemError`] when the sink fails.
    pub fn finish(mut self) -> Result<W, FilesystemError> {
        let header = Header {
            name: TRAILER,
            mode: 0,
            links: 1,
            size: 0,
            device: (0, 0),
        };
        self.put_header(&header, 0)?;
        self.pad(TRAILER, 512)?;
        self.sink
            .flush()
            .map_err(|source| FilesystemError::Content {
                path: TRAILER.to_owned(),
                source,
            })?;
        Ok(self.sink)
    }

    /// Makes the parents of `path` and gives it without its leading slash.
    fn enter(&mut self, path: &str) -> Result<String, FilesystemError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let clean = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean || path == TRAILER || path.contains('\0') || path.len() > 4000 {
            return Err(broken(
                path,
                "the path must be absolute and plain: no empty part, no '.', no '..'".to_owned(),
            ));
        }
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            if self.folders.insert(parent.to_owned()) {
                self.header(parent, DIRECTORY | 0o755, 2, 0, (0, 0))?;
            }
        }
        Ok(path.to_owned())
    }

    fn header(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        size: u32,
        device: (u32, u32),
    ) -> Result<(), FilesystemError> {
        let header = Header {
            name,
            mode,
            links,
            size,
            device,
        };
        self.inode += 1;
        let inode = self.inode;
        self.put_header(&header, inode)
    }

    fn put_header(&mut self, header: &Header<'_>, inode: u32) -> Result<(), FilesystemError> {
        // Bounded: EPOCH is a constant below 2^32.
        let time = if inode == 0 { 0 } else { EPOCH as u32 };
        let fields = [
            inode,
            header.mode,
            0,
            0,
            header.links,
            time,
            header.size,
            0,
            0,
            header.device.0,
            header.device.1,
            header.name.len() as u32 + 1,
            0,
        ];
        let mut text = String::with_capacity(HEADER + header.name.len() + 4);
        text.push_str("070701");
        for field in fields {
            text.push_str(&format!("{field:08X}"));
        }
        text.push_str(header.name);
        text.push('\0');
        self.put(header.name, text.as_bytes())?;
        self.pad(header.name, 4)
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), FilesystemError> {
        self.sink
            .write_all(bytes)
            .map_err(|source| FilesystemError::Content {
                path: path.to_owned(),
                source,
            })?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, path: &str, unit: u64) -> Result<(), FilesystemError> {
        let missing = self.written.next_multiple_of(unit) - self.written;
        self.put(path, &[0; 512][..missing as usize])
    }
}

fn broken(path: &str, rule: String) -> FilesystemError {
    FilesystemError::Path {
        path: path.to_owned(),
        format: "cpio",
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_archive() {
        let mut initrd = Initrd::new(Vec::new());
        initrd.file("/a/b", 0o755, b"hello").unwrap();
        initrd.symlink("/l", "a/b").unwrap();
        let bytes = initrd.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let expected = [
            "070701000000010000",
            "41ED0000000000000000000000025E0BE1000000000000000000000000000000000000000000000000020000",
            "0000a\0",
        ]
        .concat();
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("a/b\0") && text.contains("hello\0\0\0") && text.contains(TRAILER));
    }

    #[test]
    fn refuses_paths_that_the_kernel_would_misread() {
        let mut initrd = Initrd::new(Vec::new());
        for path in ["", "/", "a//b", "../x", "a/./b", "TRAILER!!!", "a\0b"] {
            assert!(initrd.file(path, 0o644, b"").is_err(), "{path:?}");
        }
    }

    #[test]
    fn refuses_content_of_another_length() {
        let mut initrd = Initrd::new(Vec::new());
        let error = initrd
            .file_from("x", 0o644, 3, &mut &b"ab"[..])
            .unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
        let error = initrd
            .file_from("y", 0o644, 1, &mut &b"ab"[..])
            .unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
    }
}
