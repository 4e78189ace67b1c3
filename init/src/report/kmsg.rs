//! Watches the kernel's log for what the harness must know: corrupted blocks above all.
//!
//! Only records of the kernel itself count (facility 0): what a program writes to
//! /dev/kmsg never has that facility.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use slipform_init::contract::event::{Event, Phase};

use crate::ship::Spool;
use crate::ship::record::{Record, Severity};
use crate::supervise::Allowance;
use crate::sys::{clock, poll};
use crate::turn::{Report, Turn, Watched};

/// One record with its dictionary; a shorter buffer would get an error.
const MAX_RECORD: usize = 8 * 1024;
/// Records of one turn: a storm must not keep init from its other work.
const MAX_RECORDS: u32 = 1024;
/// The kernel limits the rate; this limits the sum.
const MAX_EVENTS: u32 = 64;

/// Beginnings of the lines that are told, and the phase that they belong to.
const TOLD: [(&str, Phase); 4] = [
    ("device-mapper: verity: ", Phase::Verity),
    ("device-mapper: table: ", Phase::Verity),
    ("EXT4-fs error ", Phase::Stack),
    ("overlayfs: failed ", Phase::Stack),
];
/// linux/kern_levels.h: errors and worse; the same parts also tell what is usual.
const KERN_ERR: u32 = 3;
/// The last level; above it begins the next facility.
const KERN_DEBUG: u32 = 7;

/// The log, from when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Kmsg {
    log: Option<File>,
    told: u32,
    /// The line told last: a block is read again and again by whoever wants it.
    last: String,
    /// Number of the record that was read last.
    seen: Option<u64>,
    /// Where every record goes, and how many may.
    spool: Option<(Spool, Allowance)>,
}

impl Kmsg {
    /// Opens the log behind its last record. Without it, init only sees less.
    pub(crate) fn open(&mut self) {
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        self.log = log
            .and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log))
            .ok();
    }

    /// From now on every record is kept for the sinks, also those from before init.
    pub(crate) fn ship(&mut self, spool: Spool, report: &mut dyn Report) {
        // What waits is told by its number, and not again when it comes anew.
        self.drain(report);
        self.spool = Some((spool, Allowance::new(clock::monotonic())));
        if let Some(log) = &mut self.log {
            // /dev/kmsg knows only its ends as places.
            let _ = log.seek(SeekFrom::Start(0));
        }
        self.drain(report);
    }

    /// From now on every record is kept for whoever asks.
    pub(crate) fn follow(&mut self, spool: Spool) {
        self.spool
            .get_or_insert_with(|| (spool, Allowance::new(clock::monotonic())));
    }

    /// Reads all records that wait, and tells those that matter.
    pub(crate) fn drain(&mut self, report: &mut dyn Report) {
        let Some(log) = &mut self.log else { return };
        let mut buffer = [0; MAX_RECORD];
        for _ in 0..MAX_RECORDS {
            match log.read(&mut buffer) {
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let entry = Entry::parse(bytes);
                    if let (Some(entry), Some((spool, allowance))) = (&entry, &mut self.spool) {
                        keep(entry, spool, allowance);
                    }
                    let number = entry.as_ref().map(|entry| entry.number);
                    let again = number <= self.seen && number.is_some();
                    self.seen = self.seen.max(number);
                    if !again
                        && let Some((phase, why)) = entry.as_ref().and_then(Entry::telling)
                        && self.told < MAX_EVENTS
                        && self.last != why
                    {
                        self.told += 1;
                        self.last.clone_from(&why);
                        report.event(Event::Error {
                            phase,
                            what: "kernel".to_owned(),
                            why,
                        });
                    }
                }
                // Records were overwritten before they were read: the next read goes on behind them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.log = None;
                    return;
                }
            }
        }
    }
}

impl Watched for Kmsg {
    fn fds(&self, out: &mut Vec<libc::pollfd>) {
        out.extend(
            self.log
                .iter()
                .map(|log| poll::entry(log.as_raw_fd(), libc::POLLIN)),
        );
    }

    fn ready(&mut self, _fd: RawFd, turn: &mut Turn<'_>) {
        self.drain(turn.report);
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn tick(&mut self, _turn: &mut Turn<'_>) {}
}

/// A record: `priority,number,time,flags;text`, then a dictionary (Linux,
/// ABI/testing/dev-kmsg).
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// Facility and level in one number.
    priority: u32,
    number: u64,
    /// On a clock that is CLOCK_MONOTONIC but for its drift.
    at: Duration,
    text: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let record = std::str::from_utf8(record).ok()?;
        let (head, text) = record.split_once(';')?;
        let mut fields = head.split(',');
        let priority = fields.next()?.parse().ok()?;
        let number = fields.next().and_then(|field| field.parse().ok());
        let micros = fields.next().and_then(|field| field.parse().ok());
        Some(Self {
            priority,
            number: number.unwrap_or(0),
            at: Duration::from_micros(micros.unwrap_or(0)),
            text: text.lines().next()?,
        })
    }

    /// The phase and the text of a record that matters.
    fn telling(&self) -> Option<(Phase, String)> {
        let (_, phase) = TOLD
            .iter()
            .find(|(start, _)| self.text.starts_with(start))?;
        // Of facility 0 only the level is left.
        (self.priority <= KERN_ERR).then(|| (*phase, self.text.to_owned()))
    }
}

/// Puts the kernel's own records into the spool; a storm of them is thinned out, and
/// what is left out is counted.
fn keep(entry: &Entry<'_>, spool: &Spool, allowance: &mut Allowance) {
    if entry.priority > KERN_DEBUG {
        return;
    }
    let now = clock::monotonic();
    let lost = allowance.lost(now, false).map(|lost| {
        let text = format!("[slipform: {lost} lines dropped, the kernel writes too fast]");
        Record::kernel(now, Severity::Warning, &text)
    });
    let severity = Severity::of(entry.priority as u8);
    let record = allowance
        .take(now, entry.text.len())
        .then(|| Record::kernel(entry.at, severity, entry.text));
    spool.with(|journal| {
        lost.into_iter()
            .chain(record)
            .for_each(|record| journal.keep(record));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn telling(record: &[u8]) -> Option<(Phase, String)> {
        Entry::parse(record)?.telling()
    }

    const CORRUPTED: &str = "3,700,123456,-;device-mapper: verity: 254:2: data block 5 is corrupted\n SUBSYSTEM=block\n DEVICE=b254:2\n";

    #[test]
    fn only_the_kernels_own_lines_that_matter_are_told() {
        let told = telling(CORRUPTED.as_bytes());
        assert_eq!(
            told,
            Some((
                Phase::Verity,
                "device-mapper: verity: 254:2: data block 5 is corrupted".to_owned()
            ))
        );
        for quiet in [
            CORRUPTED.replacen("3,", "11,", 1),
            CORRUPTED.replacen(";device", ";x device", 1),
            "6,700,1,-;device-mapper: verity: sha256 using implementation \"sha256-generic\""
                .to_owned(),
            "no record".to_owned(),
            "x,1;device-mapper: verity: y".to_owned(),
        ] {
            assert_eq!(telling(quiet.as_bytes()), None, "{quiet}");
        }
    }

    #[test]
    fn the_kernels_own_records_are_kept_with_level_and_time() {
        let spool = Spool::new();
        let mut allowance = Allowance::new(clock::monotonic());
        for text in [
            CORRUPTED,
            "11,701,5,-;a program's",
            "6,702,2500000,-;usb 1-1: new\n A=b\n",
        ] {
            let entry = Entry::parse(text.as_bytes()).unwrap();
            keep(&entry, &spool, &mut allowance);
        }
        spool.with(|journal| {
            let ring = &journal.ring;
            assert_eq!(ring.end(), 2);
            let (_, record) = ring.next(1, Severity::Debug).unwrap();
            let expected =
                Record::kernel(Duration::from_millis(2500), Severity::Info, "usb 1-1: new");
            assert_eq!(*record, expected);
        });
    }

    #[test]
    fn a_storm_of_records_is_thinned_out() {
        let spool = Spool::new();
        let mut allowance = Allowance::new(clock::monotonic());
        for number in 0..100_000 {
            let text = format!("4,{number},1,-;storm");
            keep(
                &Entry::parse(text.as_bytes()).unwrap(),
                &spool,
                &mut allowance,
            );
        }
        let end = spool.with(|journal| journal.ring.end()).unwrap();
        assert!((1000..50_000).contains(&end), "{end}");
    }

    #[test]
    fn no_record_can_break_the_reader() {
        fuzz(&[CORRUPTED.as_bytes()], |bytes, _| {
            let _ = telling(bytes);
        });
    }
}
