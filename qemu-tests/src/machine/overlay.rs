//! An overlay over the artifact that outlives QEMU's process, for runs that pull the
//! plug, and for sweeps: a qcow2 (version 3, docs/interop/qcow2.rst of QEMU) that is
//! empty, or has one cluster in which a byte is another from the start. It names no
//! backing file; the command line does.
//!
//! ```text
//! cluster 0  header            cluster 3…  L1 table, all zero: nothing written yet
//! cluster 1  refcount table    then, for a changed byte, its L2 table and its cluster
//! cluster 2  refcounts
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::HarnessError;
use crate::plan::{DiskFormat, Plan};

/// 64 KiB clusters.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one L1 entry maps: a cluster of L2 entries, 8 bytes each.
const L1_REACH: u64 = CLUSTER / 8 * CLUSTER;
/// Longest L1 table that QEMU takes, in clusters; one block of refcounts counts more.
const L1_MOST: u64 = (32 << 20) / CLUSTER;
/// Of a version 3 header.
const HEADER_LENGTH: u32 = 104;
/// Offset bits of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is used once, by this table.
const COPIED: u64 = 1 << 63;
const REMEDY: &str = "check that it can be written and the disk is not full";

/// A folder with what a machine keeps over a power cut: its disk's overlay and its
/// firmware's variables. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: TempDir,
}

impl Kept {
    /// Makes folder and overlay below `evidence`, for a disk of `size` bytes.
    pub(crate) fn create(
        evidence: &Path,
        size: u64,
        patch: Option<&Patch>,
    ) -> Result<Self, HarnessError> {
        let folder = tempfile::Builder::new()
            .prefix(".kept-")
            .tempdir_in(evidence)
            .map_err(HarnessError::io("make a folder in", evidence, REMEDY))?;
        let kept = Self { folder };
        let path = kept.disk();
        write(&path, size, patch).map_err(HarnessError::io("write", &path, REMEDY))?;
        Ok(kept)
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The overlay.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2")
    }

    /// The byte of the disk as the overlay has it; none if it never was written to it.
    pub(crate) fn byte_at(&self, offset: u64) -> Result<Option<u8>, HarnessError> {
        let path = self.disk();
        byte_at(&path, offset).map_err(HarnessError::io("read", &path, REMEDY))
    }
}

/// One byte that is another: where, and the cluster that holds it as it shall be.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    /// First byte of the cluster on the disk.
    start: u64,
    /// Its bytes, up to the disk's end.
    bytes: Vec<u8>,
}

impl Patch {
    /// Where the cluster lies that holds a byte, and its length on a disk of `size`.
    pub(crate) fn cluster(offset: u64, size: u64) -> (u64, u64) {
        let start = offset / CLUSTER * CLUSTER;
        (start, CLUSTER.min(size.saturating_sub(start)))
    }

    /// `bytes` are the cluster's as they are; the byte at `offset` is changed by `mask`.
    pub(crate) fn new(offset: u64, mask: u8, mut bytes: Vec<u8>) -> Self {
        let (start, _) = Self::cluster(offset, u64::MAX);
        let at = usize::try_from(offset - start).unwrap_or(0);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= mask;
        }
        Self { start, bytes }
    }
}

/// The size of the disk in the artifact.
pub(crate) fn virtual_size(plan: &Plan) -> Result<u64, HarnessError> {
    let path = &plan.disk;
    let failed = |error| HarnessError::io("read", path, "build the image again")(error);
    let mut file = File::open(path).map_err(failed)?;
    match plan.format {
        DiskFormat::Raw => Ok(file.metadata().map_err(failed)?.len()),
        DiskFormat::Qcow2 => {
            let mut head = [0; 32];
            file.read_exact(&mut head).map_err(failed)?;
            let mut size = [0; 8];
            size.copy_from_slice(&head[24..]);
            Ok(u64::from_be_bytes(size))
        }
    }
}

/// Writes an overlay of this size.
fn write(path: &Path, size: u64, patch: Option<&Patch>) -> io::Result<()> {
    let entries = size.div_ceil(L1_REACH).max(1);
    let l1 = (entries * 8).div_ceil(CLUSTER);
    let Some(tables) = u32::try_from(entries).ok().filter(|_| l1 <= L1_MOST) else {
        let text = format!("a disk of {size} bytes is larger than QEMU's overlays map");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let file = File::create(path)?;
    let put =
        |cluster: u64, at: u64, bytes: &[u8]| file.write_all_at(bytes, cluster * CLUSTER + at);
    let clusters = 3 + l1 + if patch.is_some() { 2 } else { 0 };
    put(0, 0, &header(size, tables))?;
    // What is not written is zero.
    file.set_len(clusters * CLUSTER)?;
    put(1, 0, &(2 * CLUSTER).to_be_bytes())?;
    for cluster in 0..clusters {
        put(2, 2 * cluster, &1_u16.to_be_bytes())?;
    }
    if let Some(patch) = patch {
        let (l2, data) = (3 + l1, 4 + l1);
        let in_l2 = patch.start % L1_REACH / CLUSTER;
        let entry = |cluster: u64| ((cluster * CLUSTER) | COPIED).to_be_bytes();
        put(3, 8 * (patch.start / L1_REACH), &entry(l2))?;
        put(l2, 8 * in_l2, &entry(data))?;
        put(data, 0, &patch.bytes)?;
    }
    Ok(())
}

fn header(size: u64, tables: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"QFI\xfb");
    bytes.extend(3_u32.to_be_bytes());
    // No backing file: its offset (8 bytes) and length.
    bytes.extend([0; 12]);
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    // No encryption.
    bytes.extend([0; 4]);
    bytes.extend(tables.to_be_bytes());
    bytes.extend((3 * CLUSTER).to_be_bytes());
    bytes.extend(CLUSTER.to_be_bytes());
    // Clusters of the refcount table.
    bytes.extend(1_u32.to_be_bytes());
    // No snapshots (12 bytes), no features (3 of 8 bytes).
    bytes.extend([0; 36]);
    // Refcounts of 1 << 4 bits.
    bytes.extend(4_u32.to_be_bytes());
    bytes.extend(HEADER_LENGTH.to_be_bytes());
    bytes
}

fn byte_at(path: &Path, offset: u64) -> io::Result<Option<u8>> {
    let file = File::open(path)?;
    let number = |at: u64| -> io::Result<u64> {
        let mut field = [0; 8];
        file.read_exact_at(&mut field, at)?;
        Ok(u64::from_be_bytes(field))
    };
    // QEMU may move the L1 table when it grows.
    let l1 = number(40)?;
    let l2 = number(l1 + 8 * (offset / L1_REACH))? & OFFSET;
    if l2 == 0 {
        return Ok(None);
    }
    let entry = number(l2 + 8 * (offset % L1_REACH / CLUSTER))?;
    if entry & 1 != 0 {
        return Ok(Some(0));
    }
    let cluster = entry & OFFSET;
    if cluster == 0 {
        return Ok(None);
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, cluster + offset % CLUSTER)?;
    Ok(Some(byte[0]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kept(size: u64, patch: Option<&Patch>) -> (TempDir, Kept) {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Kept::create(folder.path(), size, patch).expect("an overlay");
        (folder, kept)
    }

    /// The tool's own opinion, where it is.
    fn check(path: &Path) {
        let judge = std::process::Command::new("qemu-img")
            .args(["check", "-q", "-f", "qcow2"])
            .arg(path)
            .status();
        match judge {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(error) => {
                let told = writeln!(io::stderr(), "SKIPPED: qemu-img: {error}");
                assert!(told.is_ok());
            }
        }
    }

    #[test]
    fn the_header_is_as_the_format_wants_it() {
        let (_folder, kept) = kept(3 << 30, None);
        let bytes = std::fs::read(kept.disk()).expect("the overlay");
        assert_eq!(bytes.len() as u64, 4 * CLUSTER);
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        assert_eq!(
            (&bytes[..4], word(4), long(8), word(16)),
            (&b"QFI\xfb"[..], 3, 0, 0)
        );
        assert_eq!((word(20), long(24), word(32)), (16, 3 << 30, 0));
        assert_eq!((word(36), long(40)), (6, 3 * CLUSTER));
        assert_eq!((long(48), word(56)), (CLUSTER, 1));
        assert_eq!((word(96), word(100)), (4, 104));
        let at = usize::try_from(CLUSTER).unwrap_or(0);
        assert_eq!(long(at), 2 * CLUSTER);
        assert_eq!(bytes[2 * at..2 * at + 10], [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
        assert_eq!(kept.byte_at(2 << 30).expect("a byte"), None);
        check(&kept.disk());
    }

    #[test]
    fn the_overlay_has_the_changed_byte_and_nothing_else() {
        let size = 3 * CLUSTER + 4096;
        let offset = 3 * CLUSTER + 77;
        let (start, length) = Patch::cluster(offset, size);
        assert_eq!((start, length), (3 * CLUSTER, 4096));
        let content: Vec<u8> = (start..size).map(|at| (at % 251) as u8).collect();
        let patch = Patch::new(offset, 0x41, content.clone());
        let (_folder, kept) = kept(size, Some(&patch));
        let at = |offset| kept.byte_at(offset).expect("a byte");
        assert_eq!(at(offset), Some(content[77] ^ 0x41));
        assert_eq!(at(offset + 1), Some(content[78]));
        assert_eq!(at(0), None);
        check(&kept.disk());
    }

    #[test]
    fn a_size_without_reason_is_an_error_and_no_file_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let large = Kept::create(folder.path(), 1 << 50, None).expect("an overlay");
        let length = std::fs::metadata(large.disk()).expect("it is there").len();
        assert!(length <= (4 + L1_MOST) * CLUSTER, "{length}");
        for size in [1 << 52, u64::MAX] {
            let error = Kept::create(folder.path(), size, None).expect_err("no overlay");
            assert!(error.to_string().contains("larger than"), "{error}");
        }
        assert!(Kept::create(Path::new("/nonexistent"), 1, None).is_err());
    }
}
