//! The compressions of archives, and how much may come out of one.

use std::io::{self, BufRead, Read};

/// From [`RATIO_FLOOR`] bytes on, no more than so many times the compressed size.
const MAX_RATIO: u64 = 1000;
const RATIO_FLOOR: u64 = 256 << 20;
/// Memory that unpacking xz may take, in KiB (`xz -9` needs 65 MiB).
const XZ_MEMORY_KIB: u32 = 160 << 10;
/// Largest window of zstd, as a power of two (`zstd --ultra -22`, 128 MiB).
const ZSTD_WINDOW_LOG: u32 = 27;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// The .xz file format, any number of streams.
    Xz,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// What the first bytes of an archive say; the error names one that is not read.
    pub(super) fn of(start: &[u8]) -> Result<Self, &'static str> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A skippable frame may come first (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => return Err("bzip2"),
            [0x5d, 0, 0, ..] => return Err("lzma"),
            [b'L', b'Z', b'I', b'P', ..] => return Err("lzip"),
            [0x1f, 0x9d, ..] => return Err("compress"),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err("lz4"),
            [b'P', b'K', 3, 4, ..] => return Err("zip"),
            _ => Self::None,
        })
    }

    /// What is compressed in `reader`, as a stream of bounded memory.
    pub(super) fn decoder<'a>(self, reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                reader,
                true,
                XZ_MEMORY_KIB,
            )),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// Most bytes that may come out of `compressed` bytes: what expands more is made to exhaust the machine.
pub(super) fn limit(compressed: u64, most: u64) -> u64 {
    most.min(RATIO_FLOOR.max(compressed.saturating_mul(MAX_RATIO)))
}
