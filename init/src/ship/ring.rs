//! Records that wait in memory: a ring of bounded size. Who is too slow loses the oldest.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use slipform_init::contract::inside::RECENT_BYTES;

use super::disk::Writer;
use super::record::{Record, Severity};
use super::tally::Tally;

/// Until machine.json has said how much may wait.
const EARLY_LIMIT: usize = 64 * 1024;

/// Numbered records; numbers only grow.
#[derive(Debug)]
pub(crate) struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    limit: usize,
    /// Number of the oldest that is here.
    first: u64,
}

impl Ring {
    /// An empty ring for so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            limit,
            first: 0,
        }
    }

    /// Adds one; the oldest go until it fits. One that never fits counts as gone.
    pub(crate) fn push(&mut self, record: Record) {
        let cost = record.cost();
        self.records.push_back(record);
        self.bytes += cost;
        self.shrink();
    }

    /// Puts records of earlier boots in front, before anybody has read any; what fell out
    /// of a full ring already is one record that says so. How many are in front now.
    pub(crate) fn prepend(&mut self, older: Vec<Record>) -> u64 {
        let lost = std::mem::take(&mut self.first);
        if lost > 0 {
            let at = self.records.front().map_or(Duration::ZERO, |next| next.at);
            let text = format!("{lost} records are lost: the spool was full");
            let told = Record::own(at, Severity::Warning, &text);
            self.bytes += told.cost();
            self.records.push_front(told);
        }
        let count = older.len() as u64;
        self.bytes += older.iter().map(Record::cost).sum::<usize>();
        let newer = std::mem::replace(&mut self.records, older.into());
        self.records.extend(newer);
        self.shrink();
        count
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit {
            let Some(oldest) = self.records.pop_front() else {
                self.bytes = 0;
                return;
            };
            self.bytes = self.bytes.saturating_sub(oldest.cost());
            self.first += 1;
        }
    }

    /// How much may wait from now on.
    pub(crate) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
        self.shrink();
        if bytes == 0 {
            self.records = VecDeque::new();
        }
    }

    /// Number of the oldest record that is still here.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Number that the next record will get.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of the first record of those that are the last `count` that fit; all of
    /// them if there are fewer.
    pub(crate) fn last(&self, count: usize, fits: impl Fn(&Record) -> bool) -> u64 {
        let mut numbered = (self.first..).zip(&self.records).collect::<Vec<_>>();
        numbered.retain(|(_, record)| fits(record));
        let start = numbered.len().saturating_sub(count);
        numbered
            .get(start)
            .map_or_else(|| self.end(), |(number, _)| *number)
    }

    /// The first record from `cursor` on that fits, and its number.
    pub(crate) fn find(
        &self,
        cursor: u64,
        fits: impl Fn(&Record) -> bool,
    ) -> Option<(u64, &Record)> {
        let from = usize::try_from(cursor.saturating_sub(self.first)).ok()?;
        let start = from.min(self.records.len());
        (self.first + start as u64..)
            .zip(self.records.range(start..))
            .find(|(_, record)| fits(record))
    }

    /// Whether anything would be kept.
    pub(crate) fn keeps(&self) -> bool {
        self.limit > 0
    }

    /// The first record at or behind `cursor` that is as bad as `level` at least, and its number.
    pub(crate) fn next(&self, cursor: u64, level: Severity) -> Option<(u64, &Record)> {
        let from = usize::try_from(cursor.saturating_sub(self.first)).ok()?;
        let start = from.min(self.records.len());
        self.records
            .range(start..)
            .enumerate()
            .find(|(_, record)| record.severity <= level)
            .map(|(index, record)| (self.first + (start + index) as u64, record))
    }

    /// Everybody has what stands before `number`.
    pub(crate) fn trim(&mut self, number: u64) {
        while self.first < number {
            let Some(oldest) = self.records.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(oldest.cost());
            self.first += 1;
        }
        if self.records.len() < self.records.capacity() / 4 {
            self.records.shrink_to(32);
        }
    }
}

/// What the reporter writes, and shipper and metrics read.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Records.
    pub(crate) ring: Ring,
    /// Counts.
    pub(crate) tally: Tally,
    /// The latest records, sent or not, for whoever asks on the report channel.
    pub(crate) recent: Ring,
    /// Where `ring` is kept over a reboot.
    pub(crate) disk: Option<Writer>,
}

impl Journal {
    /// Keeps a record where records are kept.
    pub(crate) fn keep(&mut self, record: Record) {
        if let Some(disk) = &self.disk {
            disk.push(self.ring.end(), &record);
        }
        if self.ring.keeps() && self.recent.keeps() {
            self.recent.push(record.clone());
            self.ring.push(record);
        } else if self.ring.keeps() {
            self.ring.push(record);
        } else if self.recent.keeps() {
            self.recent.push(record);
        }
    }
}

/// The shared journal. One thread uses it, and nobody holds it over a call: a
/// borrow that fails all the same is a record less, not a panic.
#[derive(Debug, Clone)]
pub(crate) struct Spool(Rc<RefCell<Journal>>);

impl Spool {
    /// One for the early boot.
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Journal {
            ring: Ring::new(EARLY_LIMIT),
            tally: Tally::default(),
            recent: Ring::new(RECENT_BYTES),
            disk: None,
        })))
    }

    /// Runs `work` on the journal.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Journal) -> T) -> Option<T> {
        self.0
            .try_borrow_mut()
            .ok()
            .map(|mut journal| work(&mut journal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record::own(Duration::ZERO, Severity::Info, text)
    }

    #[test]
    fn the_oldest_go_and_numbers_stay() {
        let each = record("0").cost();
        let mut ring = Ring::new(each * 3);
        for text in ["0", "1", "2", "3", "4"] {
            ring.push(record(text));
            assert!(ring.bytes() <= each * 3);
        }
        assert_eq!((ring.first(), ring.end()), (2, 5));
        let (number, next) = ring.next(0, Severity::Debug).unwrap();
        assert_eq!((number, &*next.text), (2, "2"));
        let (number, next) = ring.next(4, Severity::Debug).unwrap();
        assert_eq!((number, &*next.text), (4, "4"));
        assert!(ring.next(5, Severity::Debug).is_none());
        assert!(ring.next(u64::MAX, Severity::Debug).is_none());
        ring.trim(4);
        assert_eq!((ring.first(), ring.end()), (4, 5));
        ring.trim(u64::MAX);
        assert_eq!((ring.first(), ring.end(), ring.bytes()), (5, 5, 0));
    }

    #[test]
    fn older_records_come_first_and_a_loss_stays_known() {
        let mut ring = Ring::new(1 << 20);
        ring.push(record("new"));
        assert_eq!(ring.prepend(vec![record("a"), record("b")]), 2);
        let texts = |ring: &Ring| -> Vec<String> {
            let mut at = ring.first();
            let mut texts = Vec::new();
            while let Some((number, record)) = ring.next(at, Severity::Debug) {
                texts.push(record.text.to_string());
                at = number + 1;
            }
            texts
        };
        assert_eq!((ring.first(), ring.end()), (0, 3));
        assert_eq!(texts(&ring), ["a", "b", "new"]);
        let each = record("0").cost();
        let mut full = Ring::new(each * 2);
        for text in ["0", "1", "2"] {
            full.push(record(text));
        }
        full.set_limit(1 << 20);
        assert_eq!(full.prepend(vec![record("a")]), 1);
        let told = "1 records are lost: the spool was full";
        assert_eq!(texts(&full), ["a", told, "1", "2"]);
        full.trim(u64::MAX);
        assert_eq!(full.bytes(), 0);
    }

    #[test]
    fn what_is_not_bad_enough_is_passed_over() {
        let mut ring = Ring::new(1 << 20);
        ring.push(Record::own(Duration::ZERO, Severity::Info, "a"));
        ring.push(Record::own(Duration::ZERO, Severity::Error, "b"));
        let (number, next) = ring.next(0, Severity::Warning).unwrap();
        assert_eq!((number, &*next.text), (1, "b"));
    }

    #[test]
    fn a_closed_ring_keeps_nothing_and_a_giant_never_fits() {
        let mut ring = Ring::new(1000);
        ring.push(record(&"x".repeat(5000)));
        assert_eq!((ring.first(), ring.end(), ring.bytes()), (1, 1, 0));
        ring.push(record("y"));
        ring.set_limit(0);
        ring.push(record("z"));
        assert_eq!((ring.first(), ring.end(), ring.bytes()), (3, 3, 0));
    }
}
