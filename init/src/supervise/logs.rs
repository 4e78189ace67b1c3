//! A service's output, line by line. Every bound is here: how long a line may be,
//! how much of one pipe a turn takes, and how many lines a service may say over time.
//!
//! A service that writes faster than its [`Allowance`], or than this machine can pass
//! on, loses lines, not speed: the pipe is still emptied, what is lost is counted, and
//! the count is reported.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Longest line, in bytes; the rest follows as lines of their own.
pub(crate) const LINE_MAX: usize = 8 * 1024;
/// Stands at the end of a line that was too long.
pub(crate) const CUT_MARK: &str = " [cut]";
/// Bytes that one pipe may hand over in one turn of the loop.
const READ_PER_TURN: usize = 16 * 1024;
/// Lines of one pipe that go out in one turn: each costs far more than one that is
/// dropped, and the other services wait for their turn.
const LINES_PER_TURN: u32 = 64;
/// So long a service may be held up by what it says.
const PRESS_LIMIT: Duration = Duration::from_secs(1);
/// Bytes between two looks at that count.
const READ_BLOCK: usize = 512;
/// A pipe's whole capacity (pipe(7)): what can be left in it when the service ends.
const READ_AT_END: usize = 64 * 1024;
/// Lines that a silent service has in store.
const BURST: u32 = 4096;
/// Lines that come back each second.
const LINES_PER_SECOND: u32 = 1024;
/// A line costs one, and one more for each so many bytes.
const BYTES_PER_TOKEN: usize = 512;

/// Bytes to lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    part: Vec<u8>,
}

impl Lines {
    /// Takes bytes as they come; whole lines go to `out`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(String)) {
        while !bytes.is_empty() {
            let room = LINE_MAX - self.part.len();
            // A line of exactly LINE_MAX is whole if its end comes next.
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.part.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.flush(out);
                }
                None if window.len() > room => {
                    self.part.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    self.cut(out);
                }
                None => {
                    self.part.extend_from_slice(window);
                    return;
                }
            }
        }
    }

    /// The end: a line without its line end is one, too.
    pub(crate) fn finish(&mut self, out: &mut dyn FnMut(String)) {
        if !self.part.is_empty() {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut dyn FnMut(String)) {
        let line = self.part.strip_suffix(b"\r").unwrap_or(&self.part);
        out(String::from_utf8_lossy(line).into_owned());
        self.part.clear();
    }

    /// Gives a full buffer out as a line, but keeps a character together that its end splits.
    fn cut(&mut self, out: &mut dyn FnMut(String)) {
        let tail = split_tail(&self.part);
        let rest = self.part.split_off(self.part.len() - tail);
        let mut line = String::from_utf8_lossy(&self.part).into_owned();
        line.push_str(CUT_MARK);
        out(line);
        self.part.clear();
        self.part.extend_from_slice(&rest);
    }
}

/// Bytes at the end that begin a UTF-8 character without ending it.
fn split_tail(bytes: &[u8]) -> usize {
    for back in 1..=3.min(bytes.len()) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// How much a service may still say.
#[derive(Debug)]
pub(crate) struct Allowance {
    tokens: u32,
    at: Duration,
    dropped: u64,
    /// Since when turns end with more in the pipe.
    pressed: Option<Duration>,
    /// What comes is dropped until that was told.
    shut: bool,
}

impl Allowance {
    /// Full.
    pub(crate) fn new(now: Duration) -> Allowance {
        Allowance {
            tokens: BURST,
            at: now,
            dropped: 0,
            pressed: None,
            shut: false,
        }
    }

    /// Whether a line of `bytes` may pass; if not, it counts as dropped.
    pub(crate) fn take(&mut self, now: Duration, bytes: usize) -> bool {
        self.refill(now);
        // The turn that shut it was the flood's last: this line is another story.
        if self.dropped == 0 && self.tokens >= LINES_PER_SECOND {
            self.shut = false;
        }
        let cost = 1 + u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX - 1);
        // While a loss is not reported yet, nothing passes: the note must stand where the gap is.
        if self.shut || self.dropped > 0 || cost > self.tokens {
            self.dropped = self.dropped.saturating_add(1);
            return false;
        }
        self.tokens -= cost;
        true
    }

    /// A turn has ended, and there was `more` in the pipe. Where that goes on, the machine
    /// is too slow for what comes: better lines are lost than a service held up.
    pub(crate) fn press(&mut self, now: Duration, more: bool) {
        if !more {
            self.pressed = None;
            self.shut &= self.dropped > 0;
        } else if now.saturating_sub(*self.pressed.get_or_insert(now)) >= PRESS_LIMIT {
            self.pressed = None;
            self.refill(now);
            self.tokens = 0;
            self.shut = true;
        }
    }

    /// Lines lost since the last call, once there is room again (or at once with `force`).
    pub(crate) fn lost(&mut self, now: Duration, force: bool) -> Option<u64> {
        self.refill(now);
        if self.dropped == 0 || (!force && self.tokens < LINES_PER_SECOND) {
            return None;
        }
        self.shut = false;
        Some(std::mem::take(&mut self.dropped))
    }

    /// When [`Allowance::lost`] has something to say.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let missing = LINES_PER_SECOND.saturating_sub(self.tokens);
        (self.dropped > 0).then(|| {
            self.at
                .saturating_add(Duration::from_secs(1) * missing / LINES_PER_SECOND)
        })
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_micros();
        let tokens = passed * u128::from(LINES_PER_SECOND) / 1_000_000;
        let Ok(tokens) = u32::try_from(tokens) else {
            (self.tokens, self.at) = (BURST, now);
            return;
        };
        if tokens > 0 {
            self.tokens = self.tokens.saturating_add(tokens).min(BURST);
            // Only the time that made whole tokens is used up.
            self.at +=
                Duration::from_micros(u64::from(tokens) * 1_000_000 / u64::from(LINES_PER_SECOND));
        }
    }
}

/// One output pipe.
#[derive(Debug)]
pub(crate) struct Capture {
    pipe: Option<File>,
    lines: Lines,
}

impl Capture {
    /// Reads `pipe`, which must not block.
    pub(crate) fn new(pipe: File) -> Capture {
        Capture {
            pipe: Some(pipe),
            lines: Lines::default(),
        }
    }

    /// To poll for input; `None` once it is at its end.
    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// One turn's share; `out` counts in `passed` the lines that went out. True if it
    /// ended with these.
    pub(crate) fn read(&mut self, passed: &Cell<u32>, out: &mut dyn FnMut(String)) -> bool {
        self.take(READ_PER_TURN, passed, out);
        passed.get() >= LINES_PER_TURN
    }

    /// The service has ended: what is left in the pipe, and the last line.
    pub(crate) fn finish(mut self, out: &mut dyn FnMut(String)) {
        self.take(READ_AT_END, &Cell::new(0), out);
        self.lines.finish(out);
    }

    fn take(&mut self, limit: usize, passed: &Cell<u32>, out: &mut dyn FnMut(String)) {
        let mut buffer = [0; READ_BLOCK];
        let mut taken = 0;
        while taken < limit && passed.get() < LINES_PER_TURN {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    self.lines.finish(out);
                }
                Ok(count) => {
                    taken += count;
                    self.lines.push(&buffer[..count], out);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.pipe = None;
                    self.lines.finish(out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for chunk in chunks {
            lines.push(chunk, &mut |line| got.push(line));
            assert!(lines.part.len() <= LINE_MAX);
        }
        lines.finish(&mut |line| got.push(line));
        got
    }

    #[test]
    fn lines_are_whole_whatever_the_chunks() {
        let text = b"one\r\ntwo\n\nthree";
        for size in 1..=text.len() {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(
                lines(&chunks),
                ["one", "two", "", "three"],
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(lines(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn a_long_line_is_cut_and_goes_on() {
        let exact = [b'x'; LINE_MAX];
        assert_eq!(lines(&[&exact, b"\n"]), ["x".repeat(LINE_MAX)]);
        let got = lines(&[&exact, b"yz\nnext\n"]);
        assert_eq!(
            got,
            [
                format!("{}{CUT_MARK}", "x".repeat(LINE_MAX)),
                "yz".into(),
                "next".into()
            ]
        );
    }

    #[test]
    fn a_cut_splits_no_character() {
        for (character, at) in [
            ("ä", 1),
            ("€", 1),
            ("€", 2),
            ("😀", 1),
            ("😀", 2),
            ("😀", 3),
        ] {
            let mut text = "x".repeat(LINE_MAX - at);
            text.push_str(character);
            text.push_str("end\n");
            let got = lines(&[text.as_bytes()]);
            let expected = [
                format!("{}{CUT_MARK}", "x".repeat(LINE_MAX - at)),
                format!("{character}end"),
            ];
            assert_eq!(got, expected, "{character} split after {at}");
        }
    }

    #[test]
    fn bytes_that_never_end_a_line_stay_bounded() {
        for byte in [b'x', 0x80, 0xff, 0xc3, 0xf0, 0] {
            let block = vec![byte; 100_000];
            assert!(
                lines(&[&block, &block])
                    .iter()
                    .all(|line| line.len() <= 3 * LINE_MAX + CUT_MARK.len())
            );
        }
    }

    #[test]
    fn a_flood_loses_lines_and_says_how_many() {
        let mut allowance = Allowance::new(Duration::ZERO);
        let passed = (0..10_000)
            .filter(|_| allowance.take(Duration::ZERO, 10))
            .count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(allowance.lost(Duration::ZERO, false), None);
        let deadline = allowance.deadline().expect("a loss waits to be told");
        assert_eq!(deadline, Duration::from_secs(1));
        assert_eq!(
            allowance.lost(deadline, false),
            Some(10_000 - u64::from(BURST))
        );
        assert_eq!(allowance.deadline(), None);
        assert!(allowance.take(deadline, 10));
    }

    #[test]
    fn a_talker_below_the_rate_loses_nothing_in_an_hour() {
        let mut allowance = Allowance::new(Duration::ZERO);
        let step = Duration::from_millis(1);
        assert!((0..3_600_000).all(|n| allowance.take(step * n, 100)));
    }

    #[test]
    fn clocks_that_jump_do_no_harm() {
        let mut allowance = Allowance::new(Duration::from_secs(100));
        assert!(
            allowance.take(Duration::MAX, usize::MAX / 2)
                || allowance.lost(Duration::MAX, true).is_some()
        );
        assert!(allowance.take(Duration::ZERO, 1));
    }

    #[test]
    fn who_holds_up_a_slow_machine_loses_lines_and_is_told() {
        let mut allowance = Allowance::new(Duration::ZERO);
        let at = Duration::from_millis;
        // Slower than the allowance: without pressure nothing would ever be lost.
        for turn in 0..20 {
            assert!(allowance.take(at(turn * 100), 1), "{turn}");
            allowance.press(at(turn * 100), turn % 8 != 7);
        }
        for turn in 20..27 {
            allowance.take(at(turn * 100), 1);
            allowance.press(at(turn * 100), true);
        }
        assert!(!allowance.take(at(2650), 1), "held up for a second");
        assert!((0..1000).all(|_| !allowance.take(at(2700), 1)));
        assert_eq!(allowance.lost(at(3600), false), Some(1001));
        assert!(allowance.take(at(3600), 1));
        allowance.press(at(3600), true);
        assert!(allowance.take(at(3700), 1), "it begins anew");
    }

    /// The flood's last turn shuts the door, and nothing comes that could open it.
    #[test]
    fn a_line_long_after_a_flood_is_heard() {
        let at = Duration::from_millis;
        for (line, heard) in [(1001, false), (4900, true)] {
            let mut allowance = Allowance::new(Duration::ZERO);
            allowance.press(at(0), true);
            allowance.press(at(1000), true);
            assert_eq!(allowance.take(at(line), 1), heard, "after {line} ms");
        }
    }

    #[test]
    fn a_turn_ends_with_its_lines_and_goes_on_with_those_that_are_dropped() {
        let file = || {
            let file = tempfile::NamedTempFile::new().expect("file");
            std::fs::write(file.path(), "y\n".repeat(20_000)).expect("write");
            file.reopen().expect("open")
        };
        let passed = Cell::new(0);
        let mut lines = 0;
        Capture::new(file()).read(&passed, &mut |_| {
            lines += 1;
            passed.set(passed.get() + 1);
        });
        assert!((64..=64 + 256).contains(&lines), "{lines}");
        let mut dropped = 0;
        Capture::new(file()).read(&Cell::new(0), &mut |_| dropped += 1);
        assert_eq!(dropped, READ_PER_TURN / 2);
    }
}
