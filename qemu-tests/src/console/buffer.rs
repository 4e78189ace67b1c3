//! Console bytes to lines for people and patterns.
//!
//! Firmware and boot stub draw with ANSI sequences (ECMA-48) and move the cursor
//! instead of ending lines; the kernel ends lines with CR LF. Here sequences are
//! dropped, a cursor movement ends the line, blank lines vanish. Every size is bounded.

use std::collections::VecDeque;

use slipform_init::contract::event::MAX_LINE;

/// How many lines a report shows.
pub(crate) const LAST_LINES: usize = 30;
/// A longer line is cut in two: longer than any record of init with its prefix.
const MAX_CONSOLE_LINE: usize = MAX_LINE + 256;
/// A longer sequence is no sequence.
const MAX_SEQUENCE: usize = 64;

/// Where in an escape sequence the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, so many bytes long.
    Control(usize),
    /// In an operating system command, until BEL or ESC `\`.
    Command(usize),
    /// One more byte belongs to the sequence (character sets).
    One,
}

/// Cuts a byte stream into lines and remembers the last [`LAST_LINES`].
#[derive(Debug)]
pub(crate) struct LineBuffer {
    line: Vec<u8>,
    state: State,
    last: VecDeque<String>,
}

impl LineBuffer {
    pub(crate) fn new() -> Self {
        Self {
            line: Vec::new(),
            state: State::Text,
            last: VecDeque::with_capacity(LAST_LINES),
        }
    }

    /// Takes bytes; `each` gets every line that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            self.state = match self.state {
                State::Text => self.text(byte, each),
                State::Escape => match byte {
                    b'[' => State::Control(0),
                    b']' => State::Command(0),
                    b'(' | b')' | b'*' | b'+' | b'#' => State::One,
                    _ => State::Text,
                },
                State::Control(length) => self.control(byte, length, each),
                State::Command(length) => match byte {
                    0x07 => State::Text,
                    0x1b => State::One,
                    b'\n' => self.text(byte, each),
                    _ if length >= MAX_SEQUENCE => State::Text,
                    _ => State::Command(length + 1),
                },
                State::One => State::Text,
            };
        }
    }

    /// The last lines, an unfinished one included.
    pub(crate) fn last(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.last.iter().cloned().collect();
        if let Some(line) = clean(&self.line) {
            lines.push(line);
        }
        let from = lines.len().saturating_sub(LAST_LINES);
        lines.split_off(from)
    }

    fn text(&mut self, byte: u8, each: &mut dyn FnMut(&str)) -> State {
        match byte {
            0x1b => return State::Escape,
            b'\n' | b'\r' => self.end_line(each),
            b'\t' => self.line.push(b' '),
            0x08 => {
                self.line.pop();
            }
            0x00..=0x1f | 0x7f => {}
            _ => self.line.push(byte),
        }
        if self.line.len() >= MAX_CONSOLE_LINE {
            self.end_line(each);
        }
        State::Text
    }

    fn control(&mut self, byte: u8, length: usize, each: &mut dyn FnMut(&str)) -> State {
        match byte {
            b'\n' => self.text(byte, each),
            // Cursor position, erase display: what follows stands elsewhere.
            b'H' | b'f' | b'J' => {
                self.end_line(each);
                State::Text
            }
            0x40..=0x7e => State::Text,
            _ if length >= MAX_SEQUENCE => State::Text,
            _ => State::Control(length + 1),
        }
    }

    fn end_line(&mut self, each: &mut dyn FnMut(&str)) {
        if let Some(line) = clean(&self.line) {
            each(&line);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
        self.line.clear();
    }
}

/// Text without trailing blanks; none if nothing is left.
fn clean(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut buffer = LineBuffer::new();
        let mut out = Vec::new();
        buffer.feed(bytes, &mut |line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn firmware_drawing_becomes_lines() {
        // As OVMF 2025.02 sent it for an empty disk.
        let text = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H\
BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Not Found\r\n\
\x1b[1m\x1b[33m\x1b[40mMapping table\x1b[0m\x1b[37m\x1b[40m\r\n\
\x1b[07;01HPress \x1b[1mESC\x1b[0m in 5 seconds\x1b[07;01HPress \x1b[1mESC\x1b[0m in 4 seconds\r\n";
        assert_eq!(
            lines(text),
            [
                "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0): Not Found",
                "Mapping table",
                "Press ESC in 5 seconds",
                "Press ESC in 4 seconds",
            ]
        );
    }

    #[test]
    fn kernel_lines_survive_as_they_are() {
        assert_eq!(
            lines(b"[    0.000000] Linux version 6.12\r\n\r\n[    0.1] x\ty \n"),
            ["[    0.000000] Linux version 6.12", "[    0.1] x y"]
        );
    }

    #[test]
    fn split_anywhere_gives_the_same_lines() {
        let text = b"a\x1b[31mb\x1b]0;title\x07c\r\n\x1b(Bd\x1b[2Je\n";
        let whole = lines(text);
        assert_eq!(whole, ["abc", "d", "e"]);
        for cut in 0..text.len() {
            let mut buffer = LineBuffer::new();
            let mut out = Vec::new();
            buffer.feed(&text[..cut], &mut |line| out.push(line.to_owned()));
            buffer.feed(&text[cut..], &mut |line| out.push(line.to_owned()));
            assert_eq!(out, whole, "cut at {cut}");
        }
    }

    #[test]
    fn endless_line_and_endless_sequence_are_bounded() {
        let mut buffer = LineBuffer::new();
        let mut longest = 0;
        for _ in 0..200 {
            buffer.feed(&[b'x'; 1000], &mut |line| longest = longest.max(line.len()));
        }
        assert_eq!(longest, MAX_CONSOLE_LINE);
        let mut buffer = LineBuffer::new();
        let mut seen = Vec::new();
        buffer.feed(b"\x1b[", &mut |_| {});
        buffer.feed(&[b'1'; 100], &mut |_| {});
        buffer.feed(b"\nnext\n", &mut |line| seen.push(line.to_owned()));
        assert_eq!(seen.last().map(String::as_str), Some("next"));
    }

    #[test]
    fn last_lines_hold_thirty_and_the_unfinished_one() {
        let mut buffer = LineBuffer::new();
        for n in 0..50 {
            buffer.feed(format!("line {n}\n").as_bytes(), &mut |_| {});
        }
        buffer.feed(b"Shell> ", &mut |_| {});
        let last = buffer.last();
        assert_eq!(last.len(), LAST_LINES);
        assert_eq!(last.first().map(String::as_str), Some("line 21"));
        assert_eq!(last.last().map(String::as_str), Some("Shell>"));
    }

    #[test]
    fn any_bytes_are_taken() {
        let seeds: [&[u8]; 2] = [
            b"BdsDxe: loading\r\n\x1b[2J\x1b[01;01H\x1b[=3h[    0.5] \xff\xc3\xa4\n",
            b"\x1b]0;title\x07Shell> \x08 \t\x00\n",
        ];
        slipform_fuzz::fuzz(&seeds, |bytes, random| {
            let mut buffer = LineBuffer::new();
            for part in bytes.chunks(1 + random.below(9)) {
                buffer.feed(part, &mut |line| {
                    assert!(line.len() <= 3 * MAX_CONSOLE_LINE);
                    assert!(!line.contains('\u{1b}'));
                });
            }
        });
    }
}
