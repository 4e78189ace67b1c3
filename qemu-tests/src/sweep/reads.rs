//! What a machine read of its disk, as QEMU's trace says: so that "nobody read it"
//! is seen and not assumed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::SweepError;

/// virtio counts in these, whatever the disk's sectors are.
const VIRTIO_SECTOR: u64 = 512;

/// Ranges of bytes that were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Start to end; no two touch.
    ranges: BTreeMap<u64, u64>,
}

impl Reads {
    /// Reads QEMU's trace; `sector` is the disk's logical sector, in which NVMe counts.
    pub(crate) fn load(path: &Path, sector: u64) -> Result<Self, SweepError> {
        let file = File::open(path).map_err(SweepError::file("open", path))?;
        let mut reads = Self::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(SweepError::file("read", path))?;
            if let Some((start, length)) = read(&String::from_utf8_lossy(&line), sector) {
                reads.add(start, length);
            }
        }
        Ok(reads)
    }

    /// Adds a range.
    pub(crate) fn add(&mut self, start: u64, length: u64) {
        let (mut start, mut end) = (start, start.saturating_add(length));
        // What touches it becomes a part of it.
        while let Some((&from, &to)) = self.ranges.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.ranges.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        if start < end {
            self.ranges.insert(start, end);
        }
    }

    /// Whether the byte was read.
    pub(crate) fn covers(&self, offset: u64) -> bool {
        let before = self.ranges.range(..=offset).next_back();
        before.is_some_and(|(_, &end)| offset < end)
    }

    /// Nothing was read, or nothing was traced.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// The range of a trace's line.
fn read(line: &str, sector: u64) -> Option<(u64, u64)> {
    let value = |name: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        let word = words.nth(1)?;
        match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        }
    };
    if line.contains("virtio_blk_handle_read ") {
        let start = value("sector")?.checked_mul(VIRTIO_SECTOR)?;
        return Some((start, value("nsectors")?.checked_mul(VIRTIO_SECTOR)?));
    }
    if line.contains("pci_nvme_read ") {
        let start = value("lba")?.checked_mul(sector)?;
        return Some((start, value("nlb")?.checked_mul(sector)?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_disks_are_read_and_others_are_not() {
        let virtio = "virtio_blk_handle_read vdev 0x55d1 req 0x7f30 sector 2048 nsectors 8";
        assert_eq!(read(virtio, 4096), Some((1 << 20, 4096)));
        let stamped = format!("77@1700000000.123456:{virtio}");
        assert_eq!(read(&stamped, 512), Some((1 << 20, 4096)));
        let nvme = "pci_nvme_read cid 3 nsid 1 nlb 8 count 4096 lba 0x800";
        assert_eq!(read(nvme, 512), Some((1 << 20, 4096)));
        assert_eq!(read(nvme, 4096), Some((8 << 20, 32_768)));
        for other in [
            "",
            "virtio_blk_handle_read ",
            "virtio_blk_handle_read sector x nsectors 1",
            "virtio_blk_handle_read sector 18446744073709551615 nsectors 1",
            "qemu-system-x86_64: warning: sector 1 nsectors 1",
        ] {
            assert_eq!(read(other, 512), None, "{other}");
        }
    }

    #[test]
    fn ranges_grow_together() {
        let mut reads = Reads::default();
        assert!(reads.is_empty() && !reads.covers(0));
        for (start, length) in [(100, 10), (130, 10), (110, 5), (0, 0), (105, 30), (300, 1)] {
            reads.add(start, length);
        }
        let ranges: Vec<_> = reads.ranges.iter().map(|(a, b)| (*a, *b)).collect();
        assert_eq!(ranges, [(100, 140), (300, 301)]);
        assert!(reads.covers(100) && reads.covers(139) && !reads.covers(140) && !reads.covers(99));
    }
}
