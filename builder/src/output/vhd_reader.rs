//! Reads VHD files, fixed and dynamic; no differencing ones. See `vhd` for the source.

use std::io::{self, Read, Seek, SeekFrom};

use super::reading::{BlockReader, Blocks, be32, be64, fill_at, invalid, read_at, require};
use super::vhd::{
    COOKIE, FOOTER, HEADER, HEADER_COOKIE, TYPE_DYNAMIC, TYPE_FIXED, UNUSED, checksum,
};

/// The format's own limit, rounded up.
const MAX_SIZE: u64 = 2 << 40;

/// The blocks of a VHD file.
#[derive(Debug)]
pub struct VhdBlocks<R> {
    file: R,
    size: u64,
    block: u64,
    /// Bytes of a block's bitmap.
    bitmap: u64,
    /// Sector of each block; `None` for a fixed disk.
    table: Option<Vec<u8>>,
    /// Where the bitmap was read last, and it.
    last: Option<(u64, Vec<u8>)>,
}

/// The disk in a VHD file, as a file of its full size.
pub type VhdReader<R> = BlockReader<VhdBlocks<R>>;

/// Whether a fixed VHD ends here: what is before the footer is not told from any raw disk.
pub(super) fn has_footer<R: Read + Seek>(file: &mut R) -> io::Result<bool> {
    let end = file.seek(SeekFrom::End(0))?;
    if end < FOOTER {
        return Ok(false);
    }
    let footer = read_at(file, end - FOOTER, FOOTER)?;
    Ok(footer.starts_with(COOKIE) && be32(&footer, 64) == checksum(&footer, 64))
}

impl<R: Read + Seek> VhdReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        let footer = read_at(&mut file, end.saturating_sub(FOOTER), FOOTER.min(end))?;
        if !footer.starts_with(COOKIE) {
            return Err(invalid("it does not end with a VHD's footer".to_owned()));
        }
        let sum = be32(&footer, 64);
        require(
            sum == checksum(&footer, 64),
            "Checksum",
            u64::from(sum),
            "that of the footer",
        )?;
        let size = be64(&footer, 48);
        let whole = size <= MAX_SIZE && size.is_multiple_of(512);
        require(whole, "Current Size", size, "whole sectors, 2 TiB at most")?;
        match be32(&footer, 60) {
            TYPE_FIXED => {
                let there = size.checked_add(FOOTER) == Some(end);
                require(
                    there,
                    "Current Size",
                    size,
                    "the file's length without the footer",
                )?;
                Ok(Self::new(VhdBlocks {
                    file,
                    size,
                    block: size.max(1),
                    bitmap: 0,
                    table: None,
                    last: None,
                }))
            }
            TYPE_DYNAMIC => Self::dynamic(file, size, be64(&footer, 16)),
            other => Err(invalid(format!(
                "Disk Type is {other}, but must be 2 (fixed) or 3 (dynamic)"
            ))),
        }
    }

    fn dynamic(mut file: R, size: u64, at: u64) -> io::Result<Self> {
        let header = read_at(&mut file, at, HEADER)?;
        let good = header.starts_with(HEADER_COOKIE) && be32(&header, 36) == checksum(&header, 36);
        if !good {
            return Err(invalid(format!(
                "there is no dynamic disk header at {at:#x}"
            )));
        }
        let block = u64::from(be32(&header, 32));
        let usual = block.is_power_of_two() && (1 << 19..=1 << 28).contains(&block);
        require(
            usual,
            "Block Size",
            block,
            "a power of two from 512 KiB to 256 MiB",
        )?;
        let (entries, needed) = (u64::from(be32(&header, 28)), size.div_ceil(block));
        require(
            entries >= needed,
            "Max Table Entries",
            entries,
            "enough for the disk",
        )?;
        let table = read_at(&mut file, be64(&header, 16), needed * 4)?;
        Ok(Self::new(VhdBlocks {
            file,
            size,
            block,
            bitmap: (block / 512 / 8).next_multiple_of(512),
            table: Some(table),
            last: None,
        }))
    }
}

impl<R: Read + Seek> Blocks for VhdBlocks<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.block
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Some(table) = &self.table else {
            return fill_at(&mut self.file, at, buffer);
        };
        let entry = be32(table, (at / self.block) as usize * 4);
        if entry == UNUSED {
            buffer.fill(0);
            return Ok(());
        }
        let place = u64::from(entry) * 512;
        let bitmap = match self.last.take() {
            Some((current, bitmap)) if current == place => bitmap,
            _ => read_at(&mut self.file, place, self.bitmap)?,
        };
        let mut inside = at % self.block;
        fill_at(&mut self.file, place + self.bitmap + inside, buffer)?;
        // A sector whose bit is not set reads as zeros, whatever lies there.
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = ((512 - inside % 512) as usize).min(rest.len());
            let (sector, tail) = rest.split_at_mut(length);
            let number = (inside / 512) as usize;
            if bitmap[number / 8] & 0x80 >> (number % 8) == 0 {
                sector.fill(0);
            }
            inside += length as u64;
            rest = tail;
        }
        self.last = Some((place, bitmap));
        Ok(())
    }
}
