//! A throw-away overlay that outlives QEMU's process, for runs that pull the plug:
//! an empty qcow2 (version 3, docs/interop/qcow2.rst of QEMU) as large as the
//! artifact. It names no backing file; the command line does.
//!
//! ```text
//! cluster 0  header        cluster 2  refcounts of clusters 0 to 3
//! cluster 1  refcount table           cluster 3…  L1 table, all zero: nothing written yet
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::HarnessError;
use crate::plan::{DiskFormat, Plan};

/// 64 KiB clusters.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one L1 entry maps: a cluster of L2 entries, 8 bytes each.
const L1_REACH: u64 = CLUSTER / 8 * CLUSTER;
/// Of a version 3 header.
const HEADER_LENGTH: u32 = 104;

/// A folder with what a machine keeps over a power cut: its disk's overlay and its
/// firmware's variables. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: TempDir,
}

impl Kept {
    /// Makes folder and overlay below `evidence`.
    pub(crate) fn create(plan: &Plan, evidence: &Path) -> Result<Self, HarnessError> {
        let remedy = "check that it can be written and the disk is not full";
        let folder = tempfile::Builder::new()
            .prefix(".kept-")
            .tempdir_in(evidence)
            .map_err(HarnessError::io("make a folder in", evidence, remedy))?;
        let kept = Self { folder };
        let path = kept.disk();
        let bytes = empty(virtual_size(plan)?);
        std::fs::write(&path, bytes).map_err(HarnessError::io("write", &path, remedy))?;
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
}

/// The size of the disk in the artifact.
fn virtual_size(plan: &Plan) -> Result<u64, HarnessError> {
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

/// An empty qcow2 of this size.
fn empty(size: u64) -> Vec<u8> {
    let entries = size.div_ceil(L1_REACH).max(1);
    let l1_clusters = (entries * 8).div_ceil(CLUSTER);
    let clusters = 3 + l1_clusters;
    let mut bytes = Vec::new();
    bytes.extend(b"QFI\xfb");
    bytes.extend(3_u32.to_be_bytes());
    // No backing file: its offset (8 bytes) and length.
    bytes.extend([0; 12]);
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    // No encryption.
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend((3 * CLUSTER).to_be_bytes());
    bytes.extend(CLUSTER.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    // No snapshots (12 bytes), no features (3 of 8 bytes).
    bytes.extend([0; 36]);
    // Refcounts of 1 << 4 bits.
    bytes.extend(4_u32.to_be_bytes());
    bytes.extend(HEADER_LENGTH.to_be_bytes());
    let at = |cluster: u64| usize::try_from(cluster * CLUSTER).unwrap_or(usize::MAX);
    bytes.resize(at(1), 0);
    bytes.extend((2 * CLUSTER).to_be_bytes());
    bytes.resize(at(2), 0);
    for _ in 0..clusters {
        bytes.extend(1_u16.to_be_bytes());
    }
    bytes.resize(at(clusters), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_as_the_format_wants_it() {
        let bytes = empty(3 << 30);
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
    }
}
