//! What the kernel counts of a service's cgroup: processes that it killed for want of
//! memory, forks that it refused (Linux, admin-guide/cgroup-v2: `memory.events`,
//! `pids.events`). The files say by poll(2) that they changed; a fork bomb changes them
//! thousands of times a second, so they are looked at once a second at most.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipform_init::contract::event::LimitKind;

/// Between two looks.
const HOLD: Duration = Duration::from_secs(1);

/// What was found: the fields of `Event::Limit`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) kind: LimitKind,
    pub(crate) count: u64,
    pub(crate) limit: u64,
    pub(crate) peak: u64,
}

/// The counters of one cgroup.
#[derive(Debug)]
pub(crate) struct Meter {
    folder: PathBuf,
    memory: Option<File>,
    pids: Option<File>,
    killed: u64,
    /// Times that the cgroup's own limit was the reason.
    own: u64,
    refused: u64,
    /// Not looked at before.
    hold: Option<Duration>,
}

impl Meter {
    /// Opens the counters below `folder`, as far as there are any. What they say now is no news.
    pub(crate) fn open(folder: &Path) -> Meter {
        let open = |name: &str| File::open(folder.join(name)).ok();
        let mut meter = Meter {
            folder: folder.to_owned(),
            memory: open("memory.events"),
            pids: open("pids.events"),
            killed: 0,
            own: 0,
            refused: 0,
            hold: None,
        };
        meter.look(Duration::ZERO);
        meter.hold = None;
        meter
    }

    /// What to poll, for exceptional conditions (`POLLPRI`).
    pub(crate) fn fds(&self) -> [Option<RawFd>; 2] {
        let fd = |file: &Option<File>| {
            let file = file.as_ref().filter(|_| self.hold.is_none());
            file.map(AsRawFd::as_raw_fd)
        };
        [fd(&self.memory), fd(&self.pids)]
    }

    /// When the pause between two looks ends.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.hold
    }

    /// Whether the pause is over: then it looks, as after a poll.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.hold.is_some_and(|hold| hold <= now)
    }

    /// Reads the counters; what they say more than the last time is a finding.
    pub(crate) fn look(&mut self, now: Duration) -> Vec<Finding> {
        let was_held = self.hold.take();
        let mut findings = Vec::new();
        if let Some(text) = text(&mut self.memory) {
            let (killed, own) = (field(&text, "oom_kill"), field(&text, "oom"));
            let count = killed.saturating_sub(self.killed);
            // The kernel counts the want first and the kills after it: a look may come between.
            let is_own = own > self.own;
            if count > 0 {
                (self.killed, self.own) = (killed, own);
                let limit = if is_own { self.number("memory.max") } else { 0 };
                findings.push(Finding {
                    kind: LimitKind::Memory,
                    count,
                    limit,
                    peak: self.number("memory.peak"),
                });
            }
        }
        if let Some(text) = text(&mut self.pids) {
            let refused = field(&text, "max");
            let count = refused.saturating_sub(self.refused);
            self.refused = refused;
            if count > 0 {
                findings.push(Finding {
                    kind: LimitKind::Pids,
                    count,
                    limit: self.number("pids.max"),
                    peak: self.number("pids.peak"),
                });
            }
        }
        // Quiet again: the next change is told by poll.
        if !findings.is_empty() || was_held.is_none() {
            self.hold = Some(now.saturating_add(HOLD));
        }
        findings
    }

    /// A file with one number; 0 for `max`, and where there is none.
    fn number(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

fn text(file: &mut Option<File>) -> Option<String> {
    let file = file.as_mut()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number behind a key of a flat keyed file.
fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told_with_its_figures() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect(name);
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n",
        );
        write("memory.max", "33554432\n");
        write("memory.peak", "33500000\n");
        write("pids.events", "max 0\n");
        write("pids.max", "max\n");
        let mut meter = Meter::open(folder.path());
        let now = Duration::from_secs(5);
        assert_eq!(meter.fds().iter().flatten().count(), 2);
        assert_eq!(meter.look(now), []);
        write("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 5\n");
        write("pids.events", "max 70\n");
        let expected = [
            Finding {
                kind: LimitKind::Memory,
                count: 3,
                limit: 33_554_432,
                peak: 33_500_000,
            },
            Finding {
                kind: LimitKind::Pids,
                count: 70,
                limit: 0,
                peak: 0,
            },
        ];
        assert_eq!(meter.look(now), expected);
        assert_eq!(meter.fds(), [None, None], "held for a second");
        assert!(!meter.is_due(now) && meter.is_due(now + HOLD));
        // The machine's own memory was short: the limit is not to blame.
        write("memory.events", "oom 2\noom_kill 6\n");
        let findings = meter.look(now + HOLD);
        assert_eq!((findings[0].count, findings[0].limit), (1, 0));
        // A look between the want and its kills: they are told with the limit all the same.
        write("memory.events", "oom 3\noom_kill 6\n");
        assert_eq!(meter.look(now + HOLD), []);
        write("memory.events", "oom 3\noom_kill 7\n");
        let findings = meter.look(now + HOLD);
        assert_eq!((findings[0].count, findings[0].limit), (1, 33_554_432));
        meter.look(now + 2 * HOLD);
        assert_eq!(meter.deadline(), None, "quiet again");
    }

    #[test]
    fn without_counters_there_is_nothing_to_tell() {
        let folder = tempfile::tempdir().expect("folder");
        let mut meter = Meter::open(folder.path());
        assert_eq!(meter.fds(), [None, None]);
        assert_eq!(meter.look(Duration::ZERO), []);
        fs::write(
            folder.path().join("memory.events"),
            b"\xff\xfe oom_kill -1\noom_kill x\n",
        )
        .expect("write");
        assert_eq!(Meter::open(folder.path()).look(Duration::ZERO), []);
    }
}
