//! Compares disks, whatever holds them.

use std::io::{self, Read};

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

#[cfg(test)]
mod tests {
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
}
