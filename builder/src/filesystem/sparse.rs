//! A sparse file that is written in pieces: blocks of zeros are never written,
//! they stay holes, and small neighbours are joined into one write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Unit in which zeros are looked for, and of the holes that result.
const BLOCK: usize = 4096;
/// Writes are gathered up to this size.
const BUFFER: usize = 256 * 1024;

/// Writes pieces at ascending or scattered offsets of a fresh (all holes) file.
#[derive(Debug)]
pub(super) struct SparseWriter<'a> {
    file: &'a File,
    /// Bytes gathered, and the offset of the first.
    pending: Vec<u8>,
    start: u64,
}

impl<'a> SparseWriter<'a> {
    /// A writer into `file`, whose bytes must all be zero so far.
    pub(super) fn new(file: &'a File) -> Self {
        Self {
            file,
            pending: Vec::with_capacity(BUFFER),
            start: 0,
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// What the file reports.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.start + self.pending.len() as u64;
        // Zero padding between two small files joins them too: a gap below a
        // block is cheaper to write than to seek over.
        let gap = offset.checked_sub(end).filter(|gap| *gap < BLOCK as u64);
        match gap {
            Some(gap) if self.pending.len() + gap as usize + bytes.len() <= BUFFER => {
                self.pending.resize(self.pending.len() + gap as usize, 0);
            }
            _ => {
                self.flush()?;
                self.start = offset;
            }
        }
        if bytes.len() > BUFFER {
            return write_nonzero(self.file, offset, bytes);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// What the file reports.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        write_nonzero(self.file, self.start, &self.pending)?;
        self.start += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// Writes `bytes` at `offset` except for the file's blocks that are all zero.
fn write_nonzero(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut run = 0..0;
    let mut at = 0;
    while at < bytes.len() {
        // The first piece ends at the file's next block boundary.
        let room = BLOCK - ((offset + at as u64) % BLOCK as u64) as usize;
        let next = bytes.len().min(at + room);
        if is_zero(&bytes[at..next]) {
            file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
            run = next..next;
        } else {
            run.end = next;
        }
        at = next;
    }
    file.write_all_at(&bytes[run.clone()], offset + run.start as u64)
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    // Nearly every block that is not zero shows it in its first bytes.
    let (head, tail) = bytes.split_at(bytes.len().min(16));
    head.iter().all(|b| *b == 0)
        && tail
            .chunks(64)
            .all(|chunk| chunk.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn scattered_writes_read_back_and_zeros_stay_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        let mut expected = vec![0u8; 16 << 20];
        let mut sink = SparseWriter::new(&file);
        let pieces: [(u64, Vec<u8>); 6] = [
            (0, vec![1; 5000]),
            (8192, vec![2; 10]),
            (8202, vec![3; 4096]),
            (3 << 20, [vec![0; 2 << 20], vec![9; 4096]].concat()),
            (100_000, vec![0; 8192]),
            (15 << 20, vec![7; (1 << 20) - 1]),
        ];
        for (offset, bytes) in &pieces {
            sink.write(*offset, bytes).unwrap();
            expected[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        sink.flush().unwrap();
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        assert!(file.metadata().unwrap().blocks() * 512 < 2 << 20);
    }
}
