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

use crate::sys::poll;
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

/// The log, from when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Kmsg {
    log: Option<File>,
    told: u32,
    /// The line told last: a block is read again and again by whoever wants it.
    last: String,
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

    /// Reads all records that wait, and tells those that matter.
    pub(crate) fn drain(&mut self, report: &mut dyn Report) {
        let Some(log) = &mut self.log else { return };
        let mut buffer = [0; MAX_RECORD];
        for _ in 0..MAX_RECORDS {
            match log.read(&mut buffer) {
                Ok(length) => {
                    if let Some((phase, why)) = telling(&buffer[..length])
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

/// The phase and the text of a record that matters: `priority,number,time,flags;text`.
fn telling(record: &[u8]) -> Option<(Phase, String)> {
    let record = std::str::from_utf8(record).ok()?;
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    let text = text.lines().next()?;
    let (_, phase) = TOLD.iter().find(|(start, _)| text.starts_with(start))?;
    // Facility and level in one number: of facility 0 only the level is left.
    (priority <= KERN_ERR).then(|| (*phase, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

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
    fn no_record_can_break_the_reader() {
        fuzz::mutate(CORRUPTED.as_bytes(), |bytes, _| {
            let _ = telling(bytes);
        });
    }
}
