//! Reader of init's report: JSON lines, one record each, from a guest that may be
//! broken or hostile. Lines, their number and the whole stream are bounded; what
//! is no record is counted and the first of it shown, never dropped in silence.

use slipform_init::contract::event::{MAX_LINE, Record};

/// More bytes than this end the run.
const MAX_BYTES: u64 = 64 << 20;
/// More lines that are no records than this end the run.
const MAX_GARBAGE: u64 = 1000;
/// How much of the first line that is no record is shown.
const GARBAGE_SHOWN: usize = 120;

/// A line of the report.
#[derive(Debug)]
pub(crate) enum Item {
    /// A record, and its text.
    Record(Record, String),
    /// No record: see [`EventReader::garbage`].
    Garbage,
}

/// Lines that are no records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Garbage {
    /// How many.
    pub(crate) lines: u64,
    /// The beginning of the first, escaped.
    pub(crate) first: String,
    /// Why the first is none.
    pub(crate) why: String,
}

/// Cuts the report's bytes into records.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    /// The current line is over its limit: drop up to its end.
    skipping: bool,
    bytes: u64,
    garbage: Garbage,
    /// However long the stream gets.
    endless: bool,
}

impl EventReader {
    /// One for a machine that may run for days: lines stay bounded, the stream is not.
    pub(crate) fn endless() -> Self {
        Self {
            endless: true,
            ..Self::default()
        }
    }

    /// Takes bytes; `each` gets every line, judged.
    pub(crate) fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(Item)) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.is_flooded() {
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.extend(&rest[..end]);
            self.end_line(each);
            rest = &rest[end + 1..];
        }
        self.extend(rest);
    }

    /// Takes one whole line from elsewhere (the console).
    pub(crate) fn line(&mut self, line: &str, each: &mut dyn FnMut(Item)) {
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        if !self.is_flooded() {
            self.judge(line.as_bytes(), each);
        }
    }

    /// What was no record.
    pub(crate) fn garbage(&self) -> &Garbage {
        &self.garbage
    }

    /// The stream is over one of its bounds; nothing more is read from it.
    pub(crate) fn is_flooded(&self) -> bool {
        (self.bytes > MAX_BYTES && !self.endless) || self.garbage.lines > MAX_GARBAGE
    }

    /// For people: what bound was hit.
    pub(crate) fn flood(&self) -> String {
        if self.bytes > MAX_BYTES {
            format!(
                "init's report is endless: more than {} MiB",
                MAX_BYTES >> 20
            )
        } else {
            format!(
                "init's report is garbage: more than {MAX_GARBAGE} lines are no records, the first: {}",
                self.garbage.first
            )
        }
    }

    fn extend(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.line.len() + part.len() > MAX_LINE {
            self.skipping = true;
            return;
        }
        self.line.extend_from_slice(part);
    }

    fn end_line(&mut self, each: &mut dyn FnMut(Item)) {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.skipping) {
            self.reject(&line, &format!("longer than {MAX_LINE} bytes"));
            each(Item::Garbage);
        } else {
            self.judge(&line, each);
        }
        self.line = line;
        self.line.clear();
    }

    fn judge(&mut self, line: &[u8], each: &mut dyn FnMut(Item)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return;
        }
        let read = std::str::from_utf8(line)
            .map_err(|_| "not UTF-8".to_owned())
            .and_then(|text| match serde_json::from_str::<Record>(text) {
                Ok(record) => Ok(Item::Record(record, text.to_owned())),
                Err(error) => Err(error.to_string()),
            });
        each(read.unwrap_or_else(|why| {
            self.reject(line, &why);
            Item::Garbage
        }));
    }

    fn reject(&mut self, line: &[u8], why: &str) {
        self.garbage.lines += 1;
        if self.garbage.lines == 1 {
            let shown = &line[..line.len().min(GARBAGE_SHOWN)];
            self.garbage.first = shown.escape_ascii().to_string();
            self.garbage.why = why.to_owned();
        }
    }
}

/// The record's text in a console line `@slipform-<nonce> {…}`, if it bears this
/// run's nonce: a service that prints a record cannot know it.
pub(crate) fn console_record<'a>(line: &'a str, nonce: &str) -> Option<&'a str> {
    line.strip_prefix("@slipform-")?
        .strip_prefix(nonce)?
        .strip_prefix(' ')
}

#[cfg(test)]
mod tests {
    use slipform_init::contract::event::Event;

    use super::*;

    fn read(bytes: &[u8], chunk: usize) -> (Vec<Record>, Garbage) {
        let mut reader = EventReader::default();
        let mut out = Vec::new();
        for part in bytes.chunks(chunk) {
            reader.feed(part, &mut |item| {
                if let Item::Record(record, _) = item {
                    out.push(record);
                }
            });
        }
        (out, reader.garbage().clone())
    }

    #[test]
    fn records_come_out_whatever_the_chunks() {
        let text = b"{\"t\":1,\"event\":\"phase\",\"phase\":\"verity\"}\n\n{\"t\":2,\"event\":\"ready\",\"rss_kib\":900}\r\n";
        for chunk in 1..text.len() {
            let (records, garbage) = read(text, chunk);
            assert_eq!(records.len(), 2);
            assert_eq!(records[1].event, Event::Ready { rss_kib: 900 });
            assert_eq!(garbage.lines, 0);
        }
    }

    #[test]
    fn garbage_is_counted_and_shown() {
        let (records, garbage) = read(
            b"\xff\xfe\n{}\n{\"t\":-1,\"event\":\"ready\",\"rss_kib\":1}\n{\"t\":2,\"event\":\"ready\",\"rss_kib\":1}\n",
            7,
        );
        assert_eq!(records.len(), 1);
        assert_eq!(garbage.lines, 3);
        assert_eq!(garbage.first, "\\xff\\xfe");
        assert_eq!(garbage.why, "not UTF-8");
    }

    #[test]
    fn overlong_line_is_dropped_and_the_next_read() {
        let mut text = vec![b'x'; 3 * MAX_LINE];
        text.extend_from_slice(b"\n{\"t\":2,\"event\":\"ready\",\"rss_kib\":1}\n");
        let (records, garbage) = read(&text, 1000);
        assert_eq!((records.len(), garbage.lines), (1, 1));
    }

    #[test]
    fn endless_reports_are_cut_off() {
        let mut reader = EventReader::default();
        let mut fed = 0;
        while !reader.is_flooded() && fed < 200_000 {
            reader.feed(&[b'x'; 4096], &mut |_| {});
            fed += 1;
        }
        assert!(reader.is_flooded() && reader.flood().contains("64 MiB"));
        let mut reader = EventReader::default();
        reader.feed("x\n".repeat(2000).as_bytes(), &mut |_| {});
        assert!(reader.is_flooded() && reader.flood().contains("no records"));
    }

    #[test]
    fn only_this_runs_nonce_is_taken() {
        assert_eq!(console_record("@slipform-abc {}", "abc"), Some("{}"));
        for forged in [
            "@slipform- {}",
            "@slipform-abd {}",
            "@slipform-abcd {}",
            "web: @slipform-abc {}",
            "{}",
        ] {
            assert_eq!(console_record(forged, "abc"), None, "{forged}");
        }
    }

    #[test]
    fn mutated_records_never_panic() {
        let text = b"{\"t\":12,\"event\":\"service\",\"name\":\"web\",\"state\":\"ready\",\"pid\":7,\"detail\":\"\"}\n".repeat(4);
        slipform_fuzz::fuzz(&[text], |bytes, random| {
            let (records, garbage) = read(bytes, 1 + random.below(97));
            let lines = bytes.split(|byte| *byte == b'\n').count() as u64;
            assert!(records.len() as u64 + garbage.lines <= lines);
        });
    }
}
