//! What earlier boots left: the segments of a generation become records again. Pure but
//! for the reads; memory is bounded whatever lies there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::{Item, MAGIC, Reader};
use crate::ship::record::{Past, Record};

/// Boots of one spool that are told apart; a machine that boots in a loop has many.
const BOOTS_MAX: usize = 256;

/// What has not arrived everywhere.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The records, the oldest first.
    pub(crate) records: Vec<Record>,
    /// By sink: how many of `records` it has.
    pub(crate) had: Vec<(String, u64)>,
    /// Records that are known to be missing.
    pub(crate) lost: u64,
    /// Bytes that make no sense.
    pub(crate) damaged: u64,
    /// There was something that no spool of this version is; where it is now.
    pub(crate) aside: Option<String>,
    /// Segments that the disk does not give back.
    pub(crate) broken: Vec<PathBuf>,
    /// Something cannot be removed; what, and why.
    pub(crate) stays: Option<String>,
}

/// Reads segments one after the other.
#[derive(Debug)]
pub(super) struct Collector {
    limit: usize,
    bytes: usize,
    records: VecDeque<(u64, usize, Record)>,
    boots: Vec<Past>,
    boot: usize,
    arrived: Vec<(String, u64)>,
    /// The number that the next record has if none is missing.
    next: u64,
    damaged: u64,
    broken: Vec<PathBuf>,
}

impl Collector {
    /// Keeps the last records, as many as fit `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            records: VecDeque::new(),
            boots: vec![Past::default()],
            boot: 0,
            arrived: Vec::new(),
            next: 0,
            damaged: 0,
            broken: Vec::new(),
        }
    }

    /// The disk did not give back all of a segment; so many bytes are missing.
    pub(super) fn miss(&mut self, path: PathBuf, bytes: u64) {
        self.damaged = self.damaged.saturating_add(bytes);
        self.broken.push(path);
    }

    /// One more segment; false if it is none.
    pub(super) fn add(&mut self, segment: &[u8]) -> bool {
        let Some(mut reader) = Reader::new(segment) else {
            // One that was made when the power went: its first bytes are not there yet.
            let head = segment.get(..MAGIC.len()).unwrap_or(segment);
            let torn = head != MAGIC && MAGIC.starts_with(head) || head.iter().all(|b| *b == 0);
            self.damaged = self.damaged.saturating_add(segment.len() as u64);
            return torn;
        };
        let mut rest = reader.rest();
        while let Some(item) = reader.next() {
            if !self.take(item) {
                break;
            }
            rest = reader.rest();
        }
        self.damaged = self.damaged.saturating_add(rest as u64);
        true
    }

    fn take(&mut self, item: Item) -> bool {
        match item {
            Item::Boot(past) => self.enter(past),
            Item::Arrived(arrived) => self.arrived = arrived,
            Item::Record(number, record) => {
                // Numbers only grow, and behind the last one another must fit.
                if number < self.next || number == u64::MAX {
                    return false;
                }
                self.next = number + 1;
                self.bytes += record.cost();
                self.records.push_back((number, self.boot, record));
                while self.bytes > self.limit {
                    let Some((_, _, oldest)) = self.records.pop_front() else {
                        break;
                    };
                    self.bytes = self.bytes.saturating_sub(oldest.cost());
                }
            }
        }
        true
    }

    /// The clock of a boot is put right while it runs: what it said last holds for all.
    fn enter(&mut self, past: Past) {
        let same = |known: &Past| known.identity.boot == past.identity.boot;
        self.boot = match self.boots.iter().position(same) {
            Some(index) => {
                self.boots[index] = past;
                index
            }
            None if self.boots.len() < BOOTS_MAX => {
                self.boots.push(past);
                self.boots.len() - 1
            }
            None => self.boot,
        };
    }

    /// What is left of all segments.
    pub(super) fn finish(self) -> Left {
        let boots: Vec<Arc<Past>> = self.boots.into_iter().map(Arc::new).collect();
        let all_have = self.arrived.iter().map(|(_, number)| *number).min();
        let all_have = all_have.unwrap_or(0);
        let (mut records, mut numbers) = (Vec::new(), Vec::new());
        for (number, boot, mut record) in self.records {
            if number >= all_have {
                record.past = boots.get(boot).cloned();
                records.push(record);
                numbers.push(number);
            }
        }
        let had = self.arrived.into_iter().map(|(name, arrived)| {
            let had = numbers.partition_point(|number| *number < arrived);
            (name, had as u64)
        });
        Left {
            had: had.collect(),
            lost: self.next.saturating_sub(all_have) - records.len() as u64,
            damaged: self.damaged,
            records,
            aside: None,
            broken: self.broken,
            stays: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::frame;
    use super::*;
    use crate::ship::record::testing::{OFFSET, identity};
    use slipform_fuzz::fuzz;

    fn line(text: &str) -> Record {
        Record::line(Duration::from_secs(1), "web", "out", text)
    }

    fn segment(frames: &[Vec<u8>]) -> Vec<u8> {
        [MAGIC.as_slice(), &frames.concat()].concat()
    }

    fn record(number: u64) -> Vec<u8> {
        frame::record(number, &line(&number.to_string())).unwrap()
    }

    fn arrived(a: u64, b: u64) -> Vec<u8> {
        frame::arrived(&["a".to_owned(), "b".to_owned()], &[a, b])
    }

    fn left(limit: usize, segments: &[Vec<u8>]) -> Left {
        let mut all = Collector::new(limit);
        for segment in segments {
            assert!(all.add(segment));
        }
        all.finish()
    }

    fn texts(left: &Left) -> Vec<&str> {
        left.records.iter().map(|record| &*record.text).collect()
    }

    #[test]
    fn what_all_have_is_gone_and_what_one_has_is_known() {
        let boot = frame::boot(&identity(), OFFSET);
        let late = frame::boot(&identity(), OFFSET * 2);
        let first = segment(&[boot, record(3), record(4), record(5)]);
        let second = segment(&[late, arrived(4, 6), record(6), record(9)]);
        let torn = [Vec::new(), MAGIC[..3].to_vec(), vec![0; 9]];
        let [empty, short, zeros] = torn;
        let left = left(1 << 20, &[first, empty, second, short, zeros]);
        assert_eq!(texts(&left), ["4", "5", "6", "9"]);
        assert_eq!(left.had, [("a".to_owned(), 0), ("b".to_owned(), 2)]);
        assert_eq!((left.lost, left.damaged), (2, 12), "7 and 8");
        let past = left.records[0].past.as_deref().unwrap();
        assert_eq!((past.offset, &past.identity), (OFFSET * 2, &identity()));
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_counts_as_lost() {
        let each = line("0").cost();
        let frames: Vec<_> = (0..10).map(record).collect();
        let left = left(each * 3, &[segment(&frames)]);
        assert_eq!(texts(&left), ["7", "8", "9"]);
        assert_eq!(left.lost, 7);
    }

    #[test]
    fn numbers_that_go_back_are_damage() {
        let bytes = segment(&[record(5), record(5)]);
        let left = left(1 << 20, &[bytes, segment(&[record(u64::MAX)])]);
        assert_eq!(texts(&left), ["5"]);
        let more = (record(5).len() + record(u64::MAX).len()) as u64;
        assert_eq!((left.lost, left.damaged), (5, more));
        assert!(!Collector::new(1).add(b"something else"));
    }

    #[test]
    fn no_spool_can_break_the_collector() {
        let boot = frame::boot(&identity(), OFFSET);
        let bytes = segment(&[boot, record(3), arrived(1, 4), record(4), record(6)]);
        let limit = line("0").cost() * 2;
        fuzz(&[&bytes], |bytes, _| {
            let mut all = Collector::new(limit);
            for _ in 0..3 {
                all.add(bytes);
            }
            let left = all.finish();
            let cost: usize = left.records.iter().map(Record::cost).sum();
            assert!(cost <= limit);
            let count = left.records.len() as u64;
            assert!(left.had.iter().all(|(_, had)| *had <= count));
        });
    }
}
