//! The disk as zstd frames of 1 MiB each, with a table to find them by.
//!
//! Source: zstd, contrib/seekable_format/zstd_seekable_compression_format.md.
//! Any zstd decompresses it as a whole (`zstd -d`); who knows the table reads any
//! part. Each frame carries a checksum of its content, so the table needs none.
//!
//! ```text
//! | frame | frame | ... | skippable frame: (compressed, decompressed length) of each, count, magic |
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use super::blocks::{Job, Packer, Zstd, each_packed, unfit};
use super::reading::{BlockReader, Blocks, MAX_SIZE, invalid, le32, read_at, require, unpack};

/// A zstd frame starts with this.
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes of the disk in a frame.
const FRAME: u64 = 1 << 20;
/// Start of the skippable frame that holds the table.
const TABLE_MAGIC: u32 = 0x184d_2a5e;
/// End of the file.
const SEEKABLE_MAGIC: u32 = 0x8f92_eab1;
/// Bytes behind the table's entries: their number, a descriptor, the magic.
const FOOTER: u64 = 9;
/// Most frames that a table may have.
const MAX_FRAMES: u64 = 0x800_0000;
/// Largest frame that is read, decompressed.
const MAX_FRAME: u64 = 64 << 20;
/// Descriptor: the entries carry checksums.
const WITH_CHECKSUMS: u8 = 0x80;

/// Writes the disk to `file`.
pub(super) fn write(job: &mut Job<'_>, file: &File) -> io::Result<()> {
    let frames = job.size.div_ceil(FRAME);
    if frames > MAX_FRAMES {
        return Err(unfit(format!(
            "raw.zst has {MAX_FRAMES} frames at most, and this disk would need {frames}; use raw"
        )));
    }
    let size = job.size;
    let length = |index: u64| FRAME.min(size - index * FRAME) as usize;
    let zeros = vec![0; FRAME as usize];
    let mut plain = Zstd::checked()?;
    let zero_frame = plain.pack(&zeros)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut entries: Vec<(u32, u32)> = Vec::new();
    let mut add = |packed: &[u8], length: usize| {
        entries.push((packed.len() as u32, length as u32));
        out.write_all(packed)
    };
    let mut next = 0;
    each_packed(job, FRAME, Zstd::checked, |index, bytes, packed| {
        for _ in next..index {
            add(&zero_frame, FRAME as usize)?;
        }
        next = index + 1;
        if length(index) == bytes.len() {
            return add(packed, bytes.len());
        }
        add(&plain.pack(&bytes[..length(index)])?, length(index))
    })?;
    for index in next..frames {
        if length(index) == zeros.len() {
            add(&zero_frame, zeros.len())?;
        } else {
            add(&plain.pack(&zeros[..length(index)])?, length(index))?;
        }
    }
    let bytes = entries.len() as u32 * 8 + FOOTER as u32;
    out.write_all(&TABLE_MAGIC.to_le_bytes())?;
    out.write_all(&bytes.to_le_bytes())?;
    for (packed, plain) in &entries {
        out.write_all(&packed.to_le_bytes())?;
        out.write_all(&plain.to_le_bytes())?;
    }
    out.write_all(&(entries.len() as u32).to_le_bytes())?;
    out.write_all(&[0])?;
    out.write_all(&SEEKABLE_MAGIC.to_le_bytes())?;
    out.flush()
}

/// The frames of a file.
#[derive(Debug)]
pub struct Frames<R> {
    file: R,
    size: u64,
    block: u64,
    /// Offset and length of each frame in the file.
    frames: Vec<(u64, u32)>,
    /// The frame that was read last.
    last: Option<(u64, Vec<u8>)>,
}

/// The disk in a seekable zstd file, as a file of its full size.
pub type RawZstReader<R> = BlockReader<Frames<R>>;

impl<R: Read + Seek> RawZstReader<R> {
    /// Opens the disk in `file`.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or of kind `InvalidData` with what is wrong.
    pub fn open(mut file: R) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        let footer = read_at(&mut file, end.saturating_sub(FOOTER), FOOTER.min(end))?;
        if le32(&footer, 5) != SEEKABLE_MAGIC {
            return Err(invalid(
                "it has no table to seek by; decompress it with zstd -d".to_owned(),
            ));
        }
        let count = u64::from(le32(&footer, 0));
        require(
            count <= MAX_FRAMES,
            "Number_Of_Frames",
            count,
            "0x8000000 at most",
        )?;
        let entry = if footer[4] & WITH_CHECKSUMS == 0 {
            8
        } else {
            12
        };
        let bytes = count * entry;
        let Some(start) = end.checked_sub(bytes + FOOTER) else {
            return Err(invalid(format!(
                "a table of {count} frames leaves the file"
            )));
        };
        let table = read_at(&mut file, start, bytes)?;
        let (mut at, mut size, mut block) = (0_u64, 0_u64, 0_u64);
        let mut frames = Vec::new();
        for (index, words) in table.chunks_exact(entry as usize).enumerate() {
            let (packed, plain) = (le32(words, 0), u64::from(le32(words, 4)));
            if index == 0 {
                block = plain;
                require(
                    (1..=MAX_FRAME).contains(&block),
                    "Decompressed_Size",
                    block,
                    "64 MiB at most",
                )?;
            }
            // All frames but the last are alike, so that a division finds them.
            let alike = plain == block || (index as u64 + 1 == count && plain > 0 && plain < block);
            require(
                alike,
                "Decompressed_Size",
                plain,
                "the same in all frames but the last",
            )?;
            frames.push((at, packed));
            at += u64::from(packed);
            size += plain;
        }
        require(at <= start, "Compressed_Size", at, "within the file")?;
        require(
            size <= MAX_SIZE,
            "Decompressed_Size",
            size,
            "an exbibyte in all at most",
        )?;
        Ok(Self::new(Frames {
            file,
            size,
            block: block.max(1),
            frames,
            last: None,
        }))
    }
}

impl<R: Read + Seek> Blocks for Frames<R> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.block
    }

    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let index = at / self.block;
        let bytes = match self.last.take() {
            Some((current, bytes)) if current == index => bytes,
            _ => {
                let (offset, length) = self.frames[index as usize];
                let packed = read_at(&mut self.file, offset, u64::from(length))?;
                let decoder = zstd::stream::read::Decoder::with_buffer(&packed[..])?.single_frame();
                let plain = self.block.min(self.size - index * self.block);
                unpack(decoder, plain, offset)?
            }
        };
        let inside = (at % self.block) as usize;
        buffer.copy_from_slice(&bytes[inside..inside + buffer.len()]);
        self.last = Some((index, bytes));
        Ok(())
    }
}
