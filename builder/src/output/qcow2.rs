//! qcow2 version 3 with compressed clusters, written in one pass: zstd, or zlib
//! for what knows no zstd (QEMU before 5.1, many clouds).
//!
//! Source: QEMU, docs/interop/qcow2.rst. The bytes are a pure function of the
//! disk (and of the zstd library): zeros are found by looking, not by asking
//! the host's file system, and clusters are compressed on all cores but placed
//! in order.
//!
//! ```text
//! | header | L1 table | clusters, compressed ones packed | L2 tables | refcount blocks | refcount table |
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::blocks::{Deflate, Job, Zstd, each_packed};
use crate::store::fault;

/// The file starts with this.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Clusters of 64 KiB.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries in an L2 table.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// 16-bit reference counts: so many in a refcount block.
const COUNTS_PER_BLOCK: u64 = CLUSTER / 2;
/// Incompatible feature bit 3: the header names a compression type.
const COMPRESSION_TYPE_BIT: u64 = 1 << 3;
const ZSTD: u8 = 1;
const HEADER_LENGTH: u32 = 112;
/// L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// L1 and L2 entry: the reference count is exactly one.
const COPIED: u64 = 1 << 63;
/// Bits of the offset in the descriptor of a compressed cluster: 62 - (cluster_bits - 8).
const OFFSET_BITS: u32 = 62 - (CLUSTER_BITS - 8);
/// Writes the disk to `file`, clusters compressed with zstd.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let mut writer = Writer::new(file, job.size);
    each_packed(job, CLUSTER, Zstd::new, |index, plain, packed| {
        writer.place(index, plain, packed)
    })?;
    writer.finish(true)
}

/// Writes the disk to `file`, clusters compressed with zlib.
pub(super) fn write_zlib(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let mut writer = Writer::new(file, job.size);
    let deflate = || Ok(Deflate::small_window());
    each_packed(job, CLUSTER, deflate, |index, plain, packed| {
        writer.place(index, plain, packed)
    })?;
    writer.finish(false)
}

struct Writer<'f> {
    file: &'f File,
    size: u64,
    l1: Vec<u64>,
    /// L2 tables that hold anything, by their index in L1, in order.
    l2: Vec<(u64, Vec<u64>)>,
    counts: Vec<u16>,
    /// First byte behind all that is allocated.
    end: u64,
    /// Room for compressed clusters; its end is `None` at the end of the file.
    packed: (u64, Option<u64>),
}

impl<'f> Writer<'f> {
    fn new(file: &'f File, size: u64) -> Self {
        let l1 = vec![0; size.div_ceil(CLUSTER * L2_ENTRIES) as usize];
        let end = CLUSTER + (l1.len() as u64 * 8).next_multiple_of(CLUSTER);
        let mut writer = Self {
            file,
            size,
            l1,
            l2: Vec::new(),
            counts: Vec::new(),
            end,
            packed: (end, None),
        };
        writer.count(0, end);
        writer
    }

    /// Places a cluster, plain if compressing saved nothing.
    fn place(&mut self, index: u64, plain: &[u8], packed: &[u8]) -> io::Result<()> {
        fault::point();
        let length = packed.len() as u64;
        let entry = if length < CLUSTER {
            let at = self.allocate_packed(length);
            self.file.write_all_at(packed, at)?;
            self.count(at, length);
            let sectors = (at + length - 1) / 512 - at / 512;
            COMPRESSED | sectors << OFFSET_BITS | at
        } else {
            let at = self.allocate_plain();
            self.file.write_all_at(plain, at)?;
            self.count(at, CLUSTER);
            at | COPIED
        };
        let table = index / L2_ENTRIES;
        if self.l2.last().is_none_or(|(last, _)| *last != table) {
            self.l2.push((table, vec![0; L2_ENTRIES as usize]));
        }
        if let Some((_, entries)) = self.l2.last_mut() {
            entries[(index % L2_ENTRIES) as usize] = entry;
        }
        Ok(())
    }

    /// A whole cluster at the end of the file.
    fn allocate_plain(&mut self) -> u64 {
        let at = self.end.next_multiple_of(CLUSTER);
        if self.packed.1.is_none() {
            self.packed.1 = Some(at);
        }
        self.end = at + CLUSTER;
        at
    }

    /// Room for a compressed cluster: behind the last one if it fits there
    /// before the next plain cluster, else at the end of the file.
    fn allocate_packed(&mut self, length: u64) -> u64 {
        if self
            .packed
            .1
            .is_some_and(|limit| self.packed.0 + length > limit)
        {
            self.packed = (self.end, None);
        }
        let at = self.packed.0;
        self.packed.0 += length;
        self.end = self.end.max(self.packed.0);
        at
    }

    /// Adds a reference to every host cluster in the range.
    fn count(&mut self, at: u64, length: u64) {
        let (first, last) = (at / CLUSTER, (at + length - 1) / CLUSTER);
        if self.counts.len() as u64 <= last {
            self.counts.resize(last as usize + 1, 0);
        }
        for count in &mut self.counts[first as usize..=last as usize] {
            *count += 1;
        }
    }

    /// Tables and header, when all clusters are placed.
    fn finish(mut self, zstd: bool) -> io::Result<()> {
        for (index, entries) in std::mem::take(&mut self.l2) {
            let at = self.allocate_plain();
            self.write_words(at, &entries)?;
            self.count(at, CLUSTER);
            self.l1[index as usize] = at | COPIED;
        }
        let l1 = std::mem::take(&mut self.l1);
        self.write_words(CLUSTER, &l1)?;

        // The refcount blocks count themselves and their table too.
        let start = self.end.next_multiple_of(CLUSTER);
        let (mut blocks, mut table) = (1, 1);
        loop {
            let clusters = start / CLUSTER + blocks + table;
            let needed = clusters.div_ceil(COUNTS_PER_BLOCK);
            let needed_table = (needed * 8).div_ceil(CLUSTER);
            if (needed, needed_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (needed, needed_table);
        }
        self.count(start, (blocks + table) * CLUSTER);
        for (index, counts) in self.counts.chunks(COUNTS_PER_BLOCK as usize).enumerate() {
            let bytes: Vec<u8> = counts
                .iter()
                .flat_map(|count| count.to_be_bytes())
                .collect();
            self.file
                .write_all_at(&bytes, start + index as u64 * CLUSTER)?;
        }
        let table_offset = start + blocks * CLUSTER;
        let pointers: Vec<u64> = (0..blocks).map(|index| start + index * CLUSTER).collect();
        self.write_words(table_offset, &pointers)?;
        self.file.set_len(table_offset + table * CLUSTER)?;
        fault::point();
        let mut header = header(self.size, l1.len() as u32, table_offset, table as u32);
        if zstd {
            header[72..80].copy_from_slice(&COMPRESSION_TYPE_BIT.to_be_bytes());
            header[104] = ZSTD;
        }
        self.file.write_all_at(&header, 0)
    }

    fn write_words(&self, at: u64, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.file.write_all_at(&bytes, at)
    }
}

fn header(size: u64, l1_entries: u32, refcount_table: u64, refcount_clusters: u32) -> [u8; 120] {
    // Ends with an extension of type 0: no more extensions.
    let mut bytes = [0; 120];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC);
    put(4, &3u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &CLUSTER.to_be_bytes());
    put(48, &refcount_table.to_be_bytes());
    put(56, &refcount_clusters.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &HEADER_LENGTH.to_be_bytes());
    bytes
}
