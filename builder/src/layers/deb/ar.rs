//! The `ar` container of a package, read as a stream.
//!
//! ```text
//! "!<arch>\n"
//! name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n"   decimal and space-padded; 60 bytes
//! content, and one byte of padding when its length is odd
//! ```
//! Source: deb(5), "FORMAT".

use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";

/// One member's header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) size: u64,
}

/// Reads members one after the other. As a [`Read`] it yields the current
/// member's content and no more.
#[derive(Debug)]
pub(super) struct ArReader<R> {
    inner: R,
    left: u64,
    padding: bool,
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

impl<R: Read> ArReader<R> {
    /// Checks the magic.
    pub(super) fn new(mut inner: R) -> io::Result<Self> {
        let mut magic = [0; 8];
        inner
            .read_exact(&mut magic)
            .map_err(|_| invalid("it is too short for a package"))?;
        if &magic != MAGIC {
            return Err(invalid("it does not begin with '!<arch>'"));
        }
        Ok(Self {
            inner,
            left: 0,
            padding: false,
        })
    }

    /// Skips what is left of the current member and reads the next header;
    /// `None` at the end of the file.
    pub(super) fn next_member(&mut self) -> io::Result<Option<Member>> {
        let rest = self.left + u64::from(self.padding);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        // The last member's padding byte may be missing.
        if skipped < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut header = [0; 60];
        let mut filled = 0;
        while filled < header.len() {
            match self.inner.read(&mut header[filled..])? {
                0 if filled == 0 => {
                    self.left = 0;
                    self.padding = false;
                    return Ok(None);
                }
                0 => return Err(invalid("a member's header is cut short")),
                read => filled += read,
            }
        }
        if &header[58..] != b"`\n" {
            return Err(invalid("a member's header does not end as one"));
        }
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&header[range])
                .map(str::trim_end)
                .map_err(|_| invalid("a member's header is not text"))
        };
        let name = text(0..16)?.trim_end_matches('/').to_owned();
        let size = text(48..58)?;
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid(format!(
                "member '{}' has no size",
                name.escape_default()
            )));
        }
        let size = size
            .parse()
            .map_err(|_| invalid("a member's size is no number"))?;
        self.left = size;
        self.padding = size % 2 == 1;
        Ok(Some(Member { name, size }))
    }
}

impl<R: Read> Read for ArReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::ar;

    #[test]
    fn reads_members_in_order_and_skips_what_is_not_read() {
        let bytes = ar(&[
            ("debian-binary", b"2.0\n"),
            ("odd", b"abc"),
            ("even/", b"wxyz"),
        ]);
        let mut reader = ArReader::new(&bytes[..]).unwrap();
        assert_eq!(reader.next_member().unwrap().unwrap().name, "debian-binary");
        assert_eq!(reader.next_member().unwrap().unwrap().size, 3);
        let mut content = String::new();
        assert_eq!(reader.next_member().unwrap().unwrap().name, "even");
        reader.read_to_string(&mut content).unwrap();
        assert_eq!(content, "wxyz");
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn refuses_what_is_no_archive() {
        let whole = ar(&[("debian-binary", b"2.0\n")]);
        let mut bad_end = whole.clone();
        bad_end[66] = b'x';
        let mut bad_size = whole.clone();
        bad_size[56] = b'-';
        assert!(ArReader::new(&b""[..]).is_err());
        assert!(ArReader::new(&b"!<arch>?"[..]).is_err());
        for bytes in [&whole[..40], &bad_end, &bad_size] {
            assert!(ArReader::new(bytes).unwrap().next_member().is_err());
        }
    }

    #[test]
    fn a_member_longer_than_the_file_is_an_error_and_not_an_end() {
        let mut bytes = ar(&[("data.tar", b"0123")]);
        bytes[8 + 48..8 + 58].copy_from_slice(b"9999999999");
        let mut reader = ArReader::new(&bytes[..]).unwrap();
        reader.next_member().unwrap();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(ArReader::new(&bytes[..]).unwrap().next_member().is_ok());
    }
}
