//! Debian's control files (deb822(5)): paragraphs of `Name: value` lines, with
//! continuation lines that start with a blank.
//!
//! [`Paragraphs`] streams them in bounded memory, [`fields`] walks one without
//! copying anything.

use std::io::BufRead;

/// Longest paragraph, in bytes. The longest in Debian's Packages has about 60 KB.
const MAX_PARAGRAPH: usize = 4 * 1024 * 1024;

/// Yields the paragraphs of a stream, one at a time.
#[derive(Debug)]
pub struct Paragraphs<R> {
    input: R,
    buffer: Vec<u8>,
}

/// Why a control file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Deb822Error {
    /// The stream broke off, or its compression is damaged.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A paragraph without end.
    #[error("a paragraph is longer than {MAX_PARAGRAPH} bytes")]
    TooLong,
    /// A field that is needed is not there, or is there and makes no sense.
    #[error("{what} of {paragraph}: {problem}")]
    Field {
        /// The field's name.
        what: &'static str,
        /// The paragraph: a package name where known.
        paragraph: String,
        /// What is wrong.
        problem: String,
    },
}

impl<R: BufRead> Paragraphs<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        let buffer = Vec::new();
        Self { input, buffer }
    }

    /// The next paragraph, or `None` at the end.
    ///
    /// # Errors
    /// [`Deb822Error::Read`] and [`Deb822Error::TooLong`].
    pub fn read(&mut self) -> Result<Option<&[u8]>, Deb822Error> {
        self.buffer.clear();
        loop {
            let start = self.buffer.len();
            let room = (MAX_PARAGRAPH - start) as u64;
            let read = std::io::Read::take(&mut self.input, room + 1)
                .read_until(b'\n', &mut self.buffer)?;
            if self.buffer.len() > MAX_PARAGRAPH {
                return Err(Deb822Error::TooLong);
            }
            let blank = self.buffer[start..].iter().all(u8::is_ascii_whitespace);
            if blank {
                self.buffer.truncate(start);
            }
            if read == 0 || blank && start > 0 {
                break;
            }
        }
        Ok((!self.buffer.is_empty()).then_some(self.buffer.as_slice()))
    }
}

/// The fields of one paragraph: name and value, the value trimmed, its
/// continuation lines as they stand. Lines that are no field are passed over.
pub fn fields(paragraph: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = paragraph;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let mut end = line_end(rest, 0);
            while rest.get(end).is_some_and(|b| matches!(b, b' ' | b'\t')) {
                end = line_end(rest, end);
            }
            let (field, next) = rest.split_at(end);
            rest = next;
            if let Some(colon) = field.iter().position(|b| *b == b':')
                && !field[..colon].contains(&b'\n')
            {
                return Some((&field[..colon], field[colon + 1..].trim_ascii()));
            }
        }
        None
    })
}

/// The value of one field; names compare without case.
#[must_use]
pub fn field<'a>(paragraph: &'a [u8], name: &str) -> Option<&'a str> {
    fields(paragraph)
        .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |at| from + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_paragraphs_and_fields() {
        let text = b"\n\nPackage: a\nDescription: one\n two\n .\n three: x\n\n \nPackage:b\nEmpty:\nno field\nLast: 1";
        let mut paragraphs = Paragraphs::new(&text[..]);
        let first = paragraphs.read().unwrap().unwrap().to_vec();
        assert_eq!(field(&first, "package"), Some("a"));
        assert_eq!(
            field(&first, "Description"),
            Some("one\n two\n .\n three: x")
        );
        let second = paragraphs.read().unwrap().unwrap().to_vec();
        assert_eq!(field(&second, "Package"), Some("b"));
        assert_eq!(field(&second, "Empty"), Some(""));
        assert_eq!(field(&second, "Last"), Some("1"));
        assert_eq!(fields(&second).count(), 3);
        assert!(paragraphs.read().unwrap().is_none());
    }

    #[test]
    fn an_endless_paragraph_is_refused() {
        let mut paragraphs = Paragraphs::new(std::io::BufReader::new(std::io::repeat(b'a')));
        assert!(matches!(paragraphs.read(), Err(Deb822Error::TooLong)));
        let mut lines = Paragraphs::new(std::io::Cursor::new(b"a: b\n".repeat(1_000_000)));
        assert!(matches!(lines.read(), Err(Deb822Error::TooLong)));
    }
}
