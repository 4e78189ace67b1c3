//! Finds files in an initrd: `newc` archives one after the other, some of
//! them perhaps compressed with zstd. Trusts nothing.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Bytes of a `newc` header.
const HEADER: usize = 110;
/// Longest name that Linux takes.
const MAX_NAME: u64 = 4096;
/// Most bytes that a compressed archive is unpacked to, only to find its end.
const MAX_UNPACKED: u64 = 1 << 30;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The contents of the files `names` (without a leading slash) in the
/// uncompressed archives of an initrd, of those that have at most `limit` bytes;
/// the last one wins, as when the kernel unpacks. Compressed archives are skipped.
///
/// # Errors
/// What the reader reports. An initrd that is broken ends where it breaks.
pub fn find_in_initrd<R: Read + Seek, const N: usize>(
    initrd: &mut R,
    names: [&str; N],
    limit: u64,
) -> io::Result<[Option<Vec<u8>>; N]> {
    let end = initrd.seek(SeekFrom::End(0))?;
    let mut reader = BufReader::with_capacity(64 * 1024, initrd);
    let mut found = [None; N];
    let mut at = 0;
    while at + 4 <= end {
        reader.seek(SeekFrom::Start(at))?;
        let mut magic = [0; 4];
        reader.read_exact(&mut magic)?;
        let next = match magic {
            [0, 0, 0, 0] => Some(skip_zeros(&mut reader, at, end)?),
            ZSTD_MAGIC => skip_zstd(&mut reader, at)?,
            _ => entry(&mut reader, at, end)?.map(|entry| {
                let index = names.iter().position(|name| entry.name == *name);
                if let Some(index) = index.filter(|_| entry.size <= limit) {
                    found[index] = Some((entry.data, entry.size));
                }
                entry.next
            }),
        };
        match next {
            Some(next) if next > at => at = next,
            _ => break,
        }
    }
    let mut contents = [const { None }; N];
    for (content, place) in contents.iter_mut().zip(found) {
        let Some((data, size)) = place else { continue };
        let mut bytes = Vec::new();
        reader.seek(SeekFrom::Start(data))?;
        reader.by_ref().take(size).read_to_end(&mut bytes)?;
        *content = Some(bytes);
    }
    Ok(contents)
}

/// One entry of an archive.
struct Entry {
    name: String,
    data: u64,
    size: u64,
    next: u64,
}

/// The entry at `at`; `None` when there is none.
fn entry<R: Read + Seek>(
    reader: &mut BufReader<R>,
    at: u64,
    end: u64,
) -> io::Result<Option<Entry>> {
    let mut header = [0; HEADER];
    reader.seek(SeekFrom::Start(at))?;
    if at + HEADER as u64 > end {
        return Ok(None);
    }
    reader.read_exact(&mut header)?;
    let field = |index: usize| {
        let digits = header.get(6 + 8 * index..14 + 8 * index)?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let known = header.starts_with(b"070701") || header.starts_with(b"070702");
    let (true, Some(size), Some(name_size)) = (known, field(6), field(11)) else {
        return Ok(None);
    };
    if !(1..=MAX_NAME).contains(&name_size) {
        return Ok(None);
    }
    let mut name = Vec::new();
    reader.by_ref().take(name_size).read_to_end(&mut name)?;
    name.pop();
    let data = (at + HEADER as u64 + name_size).next_multiple_of(4);
    if data + size > end {
        return Ok(None);
    }
    Ok(Some(Entry {
        name: String::from_utf8_lossy(&name).into_owned(),
        data,
        size,
        next: (data + size).next_multiple_of(4),
    }))
}

/// The first multiple of four from `at` where a word is not zero.
fn skip_zeros<R: Read + Seek>(reader: &mut BufReader<R>, at: u64, end: u64) -> io::Result<u64> {
    reader.seek(SeekFrom::Start(at))?;
    let mut at = at;
    let mut word = [0; 4];
    while at + 4 <= end {
        reader.read_exact(&mut word)?;
        if word != [0; 4] {
            break;
        }
        at += 4;
    }
    Ok(at)
}

/// The end of the zstd frame at `at`, as a multiple of four; `None` for a broken one.
fn skip_zstd<R: Read + Seek>(reader: &mut BufReader<R>, at: u64) -> io::Result<Option<u64>> {
    reader.seek(SeekFrom::Start(at))?;
    let decoder = zstd::stream::read::Decoder::with_buffer(&mut *reader)?.single_frame();
    let unpacked = io::copy(&mut decoder.take(MAX_UNPACKED), &mut io::sink());
    match unpacked {
        Ok(length) if length < MAX_UNPACKED => {
            Ok(Some(reader.stream_position()?.next_multiple_of(4)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::filesystem::Initrd;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut initrd = Initrd::new(Vec::new());
        for (path, bytes) in files {
            initrd.file(path, 0o644, bytes).unwrap();
        }
        initrd.finish().unwrap()
    }

    fn find(bytes: &[u8], name: &str) -> Option<Vec<u8>> {
        let [found] = find_in_initrd(&mut Cursor::new(bytes), [name], 1 << 20).unwrap();
        found
    }

    #[test]
    fn the_last_of_several_archives_wins() {
        let first = archive(&[("a", b"1"), ("d/b", b"2")]);
        let packed = zstd::bulk::compress(&archive(&[("z", b"in the packed one")]), 3).unwrap();
        let mut initrd = [first, packed].concat();
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(archive(&[("a", b"3")]));
        assert_eq!(find(&initrd, "a").unwrap(), b"3");
        assert_eq!(find(&initrd, "d/b").unwrap(), b"2");
        assert_eq!(find(&initrd, "z"), None);
        let several = find_in_initrd(&mut Cursor::new(&initrd), ["d/b", "z", "a"], 1 << 20);
        assert_eq!(
            several.unwrap(),
            [Some(b"2".to_vec()), None, Some(b"3".to_vec())]
        );
    }

    #[test]
    fn broken_archives_end_where_they_break() {
        let good = archive(&[("a", b"12345")]);
        let mut huge = good.clone();
        huge[54..62].copy_from_slice(b"FFFFFFFF");
        let mut name = good.clone();
        name[94..102].copy_from_slice(b"FFFFFFFF");
        for bytes in [&huge[..], &name, &good[..50], b"0707", b"", &ZSTD_MAGIC] {
            assert_eq!(find(bytes, "a"), None);
        }
    }

    #[test]
    fn limits_hold() {
        let bytes = archive(&[("a", &[1; 100])]);
        assert_eq!(
            find_in_initrd(&mut Cursor::new(&bytes), ["a"], 99).unwrap(),
            [None]
        );
    }
}
