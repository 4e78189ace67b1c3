//! What a boot leaves for the next one: four bytes in a variable of the firmware (UEFI
//! 2.10, 8.2), written when the boot begins and when it ends, and once more if a boot
//! gets healthy after others did not. A machine without such variables knows nothing.
//!
//! ```text
//! byte 0: 1, the format    1: 0 running, or how it ended
//! byte 2: boots in a row, this one included, that were not healthy    3: 255 - sum of the others
//! ```

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use slipform_init::contract::event::{EndReason, Event, Phase};

use crate::report::Reporter;
use crate::sys::efi;
use crate::sys::mount::{self, Mount, NO_DEV, NO_EXEC, NO_SUID};
use crate::turn::Report;

const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// Name and a GUID of our own, as efivarfs writes them.
const VARIABLE: &str = "SlipformBoot-5d1f0c52-9b7e-4c52-8a3e-6f1b0a7d2c94";
/// Non-volatile, for boot and run time.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
const FORMAT: u8 = 1;
const PSTORE: &str = "/sys/fs/pstore";
/// Of the kernel's last words, so much is read.
const WORDS_MAX: usize = 32 * 1024;
/// First pause of a machine that does not get healthy; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_CAP: Duration = Duration::from_secs(600);

/// Reasons and their bytes.
const CODES: [(EndReason, u8); 4] = [
    (EndReason::Clean, 1),
    (EndReason::Reboot, 2),
    (EndReason::Health, 3),
    (EndReason::BootFailed, 4),
];

/// The variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// None: it runs, or ended without a word.
    end: Option<EndReason>,
    unhealthy: u8,
}

impl Mark {
    fn encode(self) -> [u8; 4] {
        let code = |end| CODES.iter().find(|(reason, _)| *reason == end);
        let end = self.end.and_then(code).map_or(0, |(_, code)| *code);
        let sum = FORMAT.wrapping_add(end).wrapping_add(self.unhealthy);
        [FORMAT, end, self.unhealthy, !sum]
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        let &[FORMAT, end, unhealthy, sum] = bytes else {
            return None;
        };
        let found = CODES.iter().find(|(_, code)| *code == end);
        let mark = Mark {
            end: found.map(|(reason, _)| *reason),
            unhealthy,
        };
        let known = end == 0 || mark.end.is_some();
        (known && mark.encode()[3] == sum).then_some(mark)
    }
}

/// How the last boot ended, and how many in a row before this one were not healthy.
fn judge(mark: Option<Mark>, panicked: bool, watchdog: bool) -> (EndReason, u8) {
    let unhealthy = mark.map_or(0, |mark| mark.unhealthy);
    let reason = match mark {
        _ if panicked => EndReason::Panic,
        _ if watchdog => EndReason::Watchdog,
        Some(Mark {
            end: Some(reason), ..
        }) => reason,
        Some(Mark { end: None, .. }) => EndReason::PowerLoss,
        None => EndReason::Unknown,
    };
    (reason, unhealthy)
}

/// How long a machine waits before it starts its services, after so many boots that
/// were not healthy; `bearable` of them cost nothing.
fn pause(unhealthy: u8, bearable: u32) -> Duration {
    let Some(more) = u32::from(unhealthy).checked_sub(bearable) else {
        return Duration::ZERO;
    };
    (PAUSE_FIRST * 2_u32.pow(more.min(8))).min(PAUSE_CAP)
}

static KEPT: AtomicBool = AtomicBool::new(false);
static UNHEALTHY: AtomicU8 = AtomicU8::new(0);

/// What this boot begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// How the last one ended.
    pub(crate) reason: EndReason,
    /// So many in a row before this one were not healthy.
    pub(crate) unhealthy: u8,
    /// So long it waits before services start.
    pub(crate) pause: Duration,
}

/// Reads what the last boot left, reports it, and marks that this one runs.
pub(crate) fn begin(watchdog: bool, bearable: u32, report: &mut Reporter) -> Past {
    let words = last_words();
    let mark = with_variables(|path| Ok(read(path))).ok();
    KEPT.store(mark.is_some(), Ordering::Relaxed);
    let (reason, unhealthy) = judge(mark.flatten(), words.is_some(), watchdog);
    let pause = pause(unhealthy, bearable);
    UNHEALTHY.store(unhealthy, Ordering::Relaxed);
    report.event(Event::LastBoot {
        reason,
        detail: words.unwrap_or_default(),
        unhealthy: unhealthy.into(),
        pause_seconds: pause.as_secs(),
    });
    write(None, unhealthy.saturating_add(1), report);
    Past {
        reason,
        unhealthy,
        pause,
    }
}

/// This boot got healthy: the next one counts anew.
pub(crate) fn healthy(report: &mut Reporter) {
    // One that died in health after others that did, too, is no loop: it costs no write.
    if UNHEALTHY.swap(0, Ordering::Relaxed) > 0 {
        write(None, 0, report);
    }
}

/// This boot ends in order.
pub(crate) fn end(reason: EndReason, report: &mut Reporter) {
    let unhealthy = match reason {
        EndReason::Clean | EndReason::Reboot => 0,
        _ => UNHEALTHY.load(Ordering::Relaxed).saturating_add(1),
    };
    write(Some(reason), unhealthy, report);
}

fn write(end: Option<EndReason>, unhealthy: u8, report: &mut Reporter) {
    if !KEPT.load(Ordering::Relaxed) {
        return;
    }
    let bytes = [ATTRIBUTES, Mark { end, unhealthy }.encode()].concat();
    let written = with_variables(|path| {
        if let Ok(file) = File::open(path) {
            efi::make_mutable(&file)?;
        }
        fs::write(path, &bytes)
    });
    if let Err(error) = written {
        report.note(&format!(
            "{}: the firmware does not keep {VARIABLE}: {error}",
            Phase::Start.name()
        ));
        // Asking again and again makes no flash better.
        KEPT.store(false, Ordering::Relaxed);
    }
}

fn read(path: &Path) -> Option<Mark> {
    let bytes = fs::read(path).ok()?;
    Mark::decode(bytes.get(ATTRIBUTES.len()..)?)
}

/// With efivarfs mounted, for as long as it takes: no service finds it.
fn with_variables<T>(act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    with_mounted("efivarfs", EFIVARS, |folder| act(&folder.join(VARIABLE)))
}

fn with_mounted<T>(
    kind: &str,
    target: &str,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    Mount {
        source: kind,
        target,
        kind,
        flags: NO_SUID | NO_DEV | NO_EXEC,
        options: "",
    }
    .mount()?;
    let done = act(Path::new(target));
    mount::unmount(Path::new(target))?;
    done
}

/// What the kernel said when it panicked, one line of it; the store is emptied.
fn last_words() -> Option<String> {
    let read = with_mounted("pstore", PSTORE, |folder| {
        let mut all = String::new();
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            let is_dump = entry.file_name().to_string_lossy().starts_with("dmesg-");
            if is_dump && all.len() < WORDS_MAX {
                let bytes = fs::read(&path).unwrap_or_default();
                all.push_str(&String::from_utf8_lossy(
                    &bytes[..bytes.len().min(WORDS_MAX)],
                ));
                all.push('\n');
            }
            // It takes the firmware's room.
            let _ = fs::remove_file(path);
        }
        Ok(all)
    });
    gist(&read.ok()?)
}

/// The line that says what it was: the panic's own, else the first of a bug or an oops.
fn gist(words: &str) -> Option<String> {
    let find = |what: &str| {
        words
            .lines()
            .find_map(|line| line.find(what).map(|at| line[at..].trim().to_owned()))
    };
    find("Kernel panic - not syncing")
        .or_else(|| find("BUG: "))
        .or_else(|| find("Oops"))
        .or_else(|| find("Panic#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_and_damage_is_none() {
        for end in [None]
            .into_iter()
            .chain(CODES.map(|(reason, _)| Some(reason)))
        {
            for unhealthy in [0, 3, 255] {
                let mark = Mark { end, unhealthy };
                let bytes = mark.encode();
                assert_eq!(Mark::decode(&bytes), Some(mark));
                for place in 0..4 {
                    let mut damaged = bytes;
                    damaged[place] ^= 0x10;
                    assert_eq!(Mark::decode(&damaged), None, "{bytes:?} at {place}");
                }
            }
        }
        assert_eq!(Mark::decode(&[]), None);
        assert_eq!(Mark::decode(&[1, 0, 0]), None);
    }

    #[test]
    fn the_reason_is_the_strongest_sign() {
        let mark = |end| Some(Mark { end, unhealthy: 2 });
        for (mark, panicked, watchdog, expected) in [
            (None, false, false, (EndReason::Unknown, 0)),
            (None, false, true, (EndReason::Watchdog, 0)),
            (mark(None), false, false, (EndReason::PowerLoss, 2)),
            (mark(None), true, true, (EndReason::Panic, 2)),
            (mark(None), false, true, (EndReason::Watchdog, 2)),
            (
                mark(Some(EndReason::Clean)),
                false,
                false,
                (EndReason::Clean, 2),
            ),
            (
                mark(Some(EndReason::Health)),
                false,
                false,
                (EndReason::Health, 2),
            ),
            // It hung after it had said that it would go.
            (
                mark(Some(EndReason::Reboot)),
                false,
                true,
                (EndReason::Watchdog, 2),
            ),
        ] {
            assert_eq!(judge(mark, panicked, watchdog), expected);
        }
    }

    #[test]
    fn a_loop_gets_slower_and_slower_up_to_a_limit() {
        let seconds: Vec<u64> = (0..12).map(|count| pause(count, 3).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 0, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(pause(255, 1), PAUSE_CAP);
    }

    #[test]
    fn the_panic_is_found_in_the_last_words() {
        let words = "Panic#1 Part1\n<6>[    9.1] something\n<0>[   10.2] Kernel panic - not syncing: sysrq triggered crash\n<4>[ 10.3] CPU: 0\n";
        assert_eq!(
            gist(words).as_deref(),
            Some("Kernel panic - not syncing: sysrq triggered crash")
        );
        assert_eq!(
            gist("Oops#1 Part1\n<1>[ 1.0] BUG: unable to handle\n").as_deref(),
            Some("BUG: unable to handle")
        );
        assert_eq!(
            gist("Panic#2 Part1\nno more").as_deref(),
            Some("Panic#2 Part1")
        );
        assert_eq!(gist(""), None);
    }
}
