//! Compares disks, whatever holds them.

use std::io::{self, Read, SeekFrom};

use super::blocks::Source;

/// Where two disks differ first, if they do.
///
/// # Errors
/// What either of them reports.
pub fn first_difference(ours: &mut dyn Read, theirs: &mut dyn Read) -> io::Result<Option<u64>> {
    const CHUNK: u64 = 1 << 20;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        left.clear();
        right.clear();
        (&mut *ours).take(CHUNK).read_to_end(&mut left)?;
        (&mut *theirs).take(CHUNK).read_to_end(&mut right)?;
        if left != right {
            let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        at += left.len() as u64;
    }
}

/// As [`first_difference`], of two disks that are to have `size` bytes; what is a
/// hole in both is not read.
pub(super) fn first_difference_sparse(
    ours: &mut dyn Source,
    theirs: &mut dyn Source,
    size: u64,
) -> io::Result<Option<u64>> {
    const CHUNK: u64 = 1 << 20;
    let length = theirs.seek(SeekFrom::End(0))?;
    if length != size {
        return Ok(Some(length.min(size)));
    }
    let mut at = 0;
    loop {
        let next = [ours.data(at..size)?, theirs.data(at..size)?];
        let Some(start) = next.iter().flatten().map(|data| data.start).min() else {
            return Ok(None);
        };
        ours.seek(SeekFrom::Start(start))?;
        theirs.seek(SeekFrom::Start(start))?;
        let differs = first_difference(&mut ours.take(CHUNK), &mut theirs.take(CHUNK))?;
        if let Some(offset) = differs {
            return Ok(Some(start + offset));
        }
        at = start.saturating_add(CHUNK).min(size);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::super::OutputFormat;
    use super::super::opening::FileDisk;
    use super::*;

    #[test]
    fn the_first_difference_is_found_across_chunks_and_at_ends() {
        let ours = vec![7; (1 << 20) + 10];
        let differ = |theirs: &[u8]| first_difference(&mut &ours[..], &mut &theirs[..]).unwrap();
        assert_eq!(differ(&ours), None);
        let mut theirs = ours.clone();
        theirs[(1 << 20) + 3] = 8;
        assert_eq!(differ(&theirs), Some((1 << 20) + 3));
        assert_eq!(differ(&ours[..100]), Some(100));
        assert_eq!(differ(&[&ours[..], &[0]].concat()), Some((1 << 20) + 10));
    }

    #[test]
    fn a_difference_is_found_where_only_one_has_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let sparse = |name: &str, at: &[u64], size: u64| {
            let path = folder.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            for at in at {
                file.write_all_at(&[7], *at).unwrap();
            }
            let disk = Box::new(File::open(&path).unwrap());
            FileDisk::new(OutputFormat::Raw, disk, File::open(&path).ok())
        };
        let size = 64 << 20;
        let differ = |name: &str, at: &[u64], theirs: u64| {
            let mut ours = sparse("ours", &[5, 9 << 20], size);
            first_difference_sparse(&mut ours, &mut sparse(name, at, theirs), size).unwrap()
        };
        assert_eq!(differ("same", &[5, 9 << 20], size), None);
        assert_eq!(
            differ("more", &[5, 9 << 20, (40 << 20) + 1], size),
            Some((40 << 20) + 1)
        );
        assert_eq!(differ("less", &[5], size), Some(9 << 20));
        assert_eq!(differ("short", &[5, 9 << 20], size - 512), Some(size - 512));
    }
}
