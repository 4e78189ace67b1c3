//! A device in memory that keeps only what is not zero.
//!
//! The crates that write formats want a device to write on. A disk may have
//! terabytes and an ESP a large file, but what is written there, except for
//! that file, is a few tables: so pages come into being with their first byte
//! that is not zero, and writing zeros where there is nothing costs nothing.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A device of a fixed size, all zeros at first.
#[derive(Debug)]
pub(super) struct Sparse {
    size: u64,
    at: u64,
    /// Pages by their number; all others are zero.
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Sparse {
    /// A device of `size` bytes, at its start.
    pub(super) const fn new(size: u64) -> Self {
        Self {
            size,
            at: 0,
            pages: BTreeMap::new(),
        }
    }

    /// First byte behind the last page that is kept.
    pub(super) fn data_end(&self) -> u64 {
        self.pages
            .last_key_value()
            .map_or(0, |(page, _)| (page + 1) * PAGE)
    }

    /// The bytes of `range`, all of them in memory.
    ///
    /// # Errors
    /// A range that leaves the device.
    pub(super) fn read_range(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut bytes = vec![0; length];
        self.seek(SeekFrom::Start(range.start))?;
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// A range that leaves the device.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    /// The page under the position, the place in it, and how many of `wanted`
    /// bytes it and the device still hold.
    fn step(&self, wanted: usize) -> (u64, usize, usize) {
        let place = self.at % PAGE;
        let room = (PAGE - place).min(self.size.saturating_sub(self.at));
        // Both at most a page.
        (self.at / PAGE, place as usize, wanted.min(room as usize))
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (page, place, length) = self.step(buffer.len());
        let buffer = &mut buffer[..length];
        match self.pages.get(&page) {
            Some(bytes) => buffer.copy_from_slice(&bytes[place..place + length]),
            None => buffer.fill(0),
        }
        self.at += length as u64;
        Ok(length)
    }
}

impl Write for Sparse {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (page, place, length) = self.step(buffer.len());
        let buffer = &buffer[..length];
        if self.pages.contains_key(&page) || buffer.iter().any(|byte| *byte != 0) {
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE as usize]));
            bytes[place..place + length].copy_from_slice(buffer);
        }
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_plain_device_holds() {
        const SIZE: usize = 50_000;
        let mut sparse = Sparse::new(SIZE as u64);
        let mut plain = io::Cursor::new(vec![0; SIZE]);
        let mut state = 1_u64;
        let mut random = |limit: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % limit
        };
        for _ in 0..500 {
            let at = random(SIZE);
            let length = random(9000).min(SIZE - at);
            // Every other time zeros, also over what is there.
            let bytes = vec![random(2) as u8 * 7; length];
            sparse.put(at as u64, &bytes).unwrap();
            plain.set_position(at as u64);
            plain.write_all(&bytes).unwrap();
        }
        let mut found = Vec::new();
        sparse.rewind().unwrap();
        sparse.read_to_end(&mut found).unwrap();
        assert!(found == *plain.get_ref());
    }

    #[test]
    fn zeros_cost_nothing_however_many() {
        let mut sparse = Sparse::new(1 << 60);
        io::copy(&mut io::repeat(0).take(50 << 20), &mut sparse).unwrap();
        assert_eq!(sparse.data_end(), 0);
        sparse.put((1 << 50) - 1, &[1, 2]).unwrap();
        assert_eq!(sparse.data_end(), (1 << 50) + PAGE);
        assert_eq!(sparse.pages.len(), 2);
        let around = (1 << 50) - 2..(1 << 50) + 2;
        assert_eq!(sparse.read_range(around).unwrap(), [0, 1, 2, 0]);
    }

    #[test]
    fn it_ends_at_its_size() {
        let mut sparse = Sparse::new(5000);
        assert!(sparse.put(4990, &[1; 11]).is_err());
        assert!(sparse.put(u64::MAX, &[1]).is_err());
        assert!(sparse.read_range(4990..5001).is_err());
        assert!(sparse.seek(SeekFrom::Current(-1)).is_ok());
        assert!(sparse.seek(SeekFrom::End(-5001)).is_err());
        assert_eq!(sparse.seek(SeekFrom::End(-1)).unwrap(), 4999);
        assert_eq!(sparse.read(&mut [0; 10]).unwrap(), 1);
        assert_eq!(sparse.read(&mut [0; 10]).unwrap(), 0);
    }
}
