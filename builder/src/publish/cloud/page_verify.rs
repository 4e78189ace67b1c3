//! Reads a page blob back: whether it is the disk that was tested, and its footer.

use std::sync::{Mutex, PoisonError};

use super::PageBlob;
use super::blocks::{BlockPlan, Blocks};
use super::page_blob::{FOOTER, IMAGE, UNIT, complete};
use super::snapshot::{PARALLEL, each, unreadable};
use crate::base::Digest;
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::channel::CloudImage;
use crate::disk::DiskMap;
use crate::publish::PublishError;
use crate::remote::aws::Pace;
use crate::remote::azure::pages::MOST;

/// A range of bytes: where it begins, and its length.
type Span = (u64, u64);

impl PageBlob<'_> {
    /// What is wrong with a blob, if anything is. All that was written of it is read, and all
    /// that the disk has; the service reads what was never written as zeros.
    ///
    /// # Errors
    /// [`PublishError`] for what keeps it from being read.
    pub fn verify(
        &self,
        made: &CloudImage,
        (image, disk): (&Digest, &DiskMap),
        footer: &[u8; FOOTER],
    ) -> Result<Option<String>, PublishError> {
        let wrong = |why: &str| Ok(Some(why.to_owned()));
        let Some(name) = made.snapshot.as_deref().filter(|name| !name.is_empty()) else {
            return wrong("the record does not name its blob");
        };
        let address = self.blobs.address(name);
        if address != made.id {
            return Ok(Some(format!(
                "the login leads to {address}; log in to the account where it lies"
            )));
        }
        let Some(there) = self.blobs.look(name)? else {
            return wrong("it is not there any more");
        };
        if there.metadata.get(IMAGE) != Some(&image.to_string()) {
            return wrong("its metadata names another image");
        }
        if !complete(&there) {
            return wrong("its metadata says that it is not complete");
        }
        let size = disk.size + FOOTER as u64;
        if there.size != size || !disk.size.is_multiple_of(UNIT) {
            return Ok(Some(format!(
                "it has {} bytes, the disk and its footer have {size}",
                there.size
            )));
        }
        let plan = BlockPlan::new(self.store, (disk, UNIT), None, self.progress)
            .map_err(|source| unreadable(image, source))?;
        let spans = spans(&self.blobs.ranges(name)?, &plan.data, size);
        let first = self.compare(name, &spans, (image, disk), footer)?;
        Ok(first.map(|at| format!("byte {at} is not the disk's")))
    }

    /// The first byte that is not the disk's or the footer's.
    fn compare(
        &self,
        name: &str,
        spans: &[Span],
        (image, disk): (&Digest, &DiskMap),
        footer: &[u8; FOOTER],
    ) -> Result<Option<u64>, PublishError> {
        let bytes = spans.iter().map(|(_, length)| length).sum();
        self.progress
            .note(&format!("{name}: {} to read back", human(bytes)));
        let task = self.progress.begin(&format!("read {name}"), Some(bytes));
        let pace = Pace::new(PARALLEL);
        let wrong: Mutex<Option<u64>> = Mutex::default();
        let begin = || Blocks::new(self.store, disk, UNIT);
        each(spans, begin, |blocks, span| {
            let (at, length) = *span;
            let there = self.blobs.read(name, *span, &pace)?;
            let wanted = wanted(blocks, *span, (disk.size, footer))
                .map_err(|source| unreadable(image, source))?;
            if let Some(differs) = there.iter().zip(&wanted).position(|(a, b)| a != b) {
                let differs = at + differs as u64;
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                *wrong = Some(wrong.map_or(differs, |first| first.min(differs)));
            }
            Task::advance(&*task, length);
            Ok(())
        })?;
        Ok(wrong.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a span is to be: the disk's blocks, and behind the disk its footer.
fn wanted(
    blocks: &mut Blocks<'_>,
    (at, length): Span,
    (size, footer): (u64, &[u8; FOOTER]),
) -> std::io::Result<Vec<u8>> {
    let end = at + length;
    let mut bytes = Vec::new();
    for index in at / UNIT..end.min(size).div_ceil(UNIT) {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        bytes.extend_from_slice(blocks.read(index)?);
    }
    if end > size {
        bytes.extend_from_slice(footer);
    }
    Ok(bytes)
}

/// What is read of a blob of `size` bytes: whole units with a byte that was written (ranges of
/// first and last byte) or that the disk has, and the footer; as long as one request may be.
fn spans(written: &[(u64, u64)], data: &[u32], size: u64) -> Vec<Span> {
    // A service that says too much is not followed behind the end.
    let written = written.iter().filter(|(first, _)| *first < size);
    let written = written.map(|(first, last)| (first / UNIT, (*last).min(size - 1) / UNIT + 1));
    let data = data.iter().map(|index| u64::from(*index));
    let data = data.chain([(size - 1) / UNIT]);
    let mut units: Vec<(u64, u64)> = written.chain(data.map(|unit| (unit, unit + 1))).collect();
    units.sort_unstable();
    let mut all: Vec<Span> = Vec::new();
    let mut next = 0;
    for (first, end) in units {
        for unit in first.max(next)..end {
            let at = unit * UNIT;
            let length = UNIT.min(size - at);
            match all.last_mut() {
                Some((start, joined)) if *start + *joined == at && *joined + length <= MOST => {
                    *joined += length;
                }
                _ => all.push((at, length)),
            }
        }
        next = next.max(end);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_written_or_is_the_disks_is_read_once() {
        let size = 200 * UNIT + 512;
        let unit = |at: u64, count: u64| (at * UNIT, count * UNIT);
        let footer = (200 * UNIT, 512);
        assert_eq!(spans(&[], &[], size), [footer]);
        // A page in the middle of a unit, one over an edge, and the disk's own among them.
        let written = [(512, 1023), (3 * UNIT - 512, 3 * UNIT + 511)];
        assert_eq!(
            spans(&written, &[3, 9], size),
            [unit(0, 1), unit(2, 2), unit(9, 1), footer]
        );
        let all = spans(&[(0, u64::MAX), (size, u64::MAX)], &[7], size);
        assert_eq!(all.iter().map(|(_, length)| length).sum::<u64>(), size);
        assert!(all.iter().all(|(_, length)| *length <= MOST));
        assert_eq!(all[0], unit(0, 64));
    }
}
