//! Queries and answers as bytes (RFC 1035 section 4). Pure; answers are hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Longest UDP message that a server sends unasked (section 4.2.1).
pub(crate) const MESSAGE_MAX: usize = 512;
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Records that are looked at.
const RECORDS_MAX: u16 = 64;
/// Addresses that are kept.
const ADDRESSES_MAX: usize = 8;
const CLASS_IN: u16 = 1;
const CNAME: u16 = 5;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IPv4.
    A = 1,
    /// IPv6.
    Aaaa = 28,
}

/// Why an answer has no addresses.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub(crate) enum DnsError {
    /// Not an answer to this question: whoever forges must not be believed, so it is passed over.
    #[error("no answer to what was asked")]
    Foreign,
    /// Broken.
    #[error("the answer is malformed")]
    Malformed,
    /// RCODE 3.
    #[error("there is no such name")]
    NoName,
    /// RCODE.
    #[error("the name server answers with code {0}")]
    Refused(u8),
}

/// Addresses and how many seconds they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Empty: the name has none of this kind.
    pub(crate) addresses: Vec<IpAddr>,
    /// Least time to live of all records on the way.
    pub(crate) ttl: u32,
}

/// A query with recursion; `None` if `name` cannot be written.
pub(crate) fn query(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(name.len() + 18);
    bytes.extend(id.to_be_bytes());
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if length == 0 || label.len() > LABEL_MAX {
            return None;
        }
        bytes.push(length);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    Some(bytes)
}

/// Reads the answer to [`query`].
///
/// # Errors
/// [`DnsError`]; of these only [`DnsError::Foreign`] says nothing about the name.
pub(crate) fn answer(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Result<Answer, DnsError> {
    let mut reader = Reader { bytes, at: 0 };
    let foreign = |_| DnsError::Foreign;
    let header = reader.words::<6>().map_err(foreign)?;
    let [got, flags, questions, answers, ..] = header;
    let is_answer = flags & 0x8000 != 0 && flags & 0x7800 == 0;
    if got != id || !is_answer || questions != 1 {
        return Err(DnsError::Foreign);
    }
    let asked = reader.name().map_err(foreign)?;
    let [asked_kind, class] = reader.words::<2>().map_err(foreign)?;
    if !asked.eq_ignore_ascii_case(name.as_bytes())
        || asked_kind != kind as u16
        || class != CLASS_IN
    {
        return Err(DnsError::Foreign);
    }
    match flags & 0xf {
        0 => {}
        3 => return Err(DnsError::NoName),
        code => return Err(DnsError::Refused(code as u8)),
    }
    let truncated = flags & 0x0200 != 0;
    let mut found = Answer {
        addresses: Vec::new(),
        ttl: u32::MAX,
    };
    match records(&mut reader, answers, asked, kind, &mut found) {
        // What was cut off in the middle may still have told enough.
        Err(_) if truncated && !found.addresses.is_empty() => Ok(found),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Follows aliases, which stand before what they lead to.
fn records(
    reader: &mut Reader<'_>,
    count: u16,
    mut name: Vec<u8>,
    kind: Kind,
    found: &mut Answer,
) -> Result<(), DnsError> {
    for _ in 0..count.min(RECORDS_MAX) {
        let owner = reader.name()?;
        let [record, class, high, low, length] = reader.words::<5>()?;
        let ttl = u32::from(high) << 16 | u32::from(low);
        let start = reader.at;
        let data = reader.take(usize::from(length))?;
        if class != CLASS_IN || !owner.eq_ignore_ascii_case(&name) {
            continue;
        }
        if record == CNAME {
            let mut alias = Reader {
                bytes: reader.bytes,
                at: start,
            };
            name = alias.name()?;
            if alias.at != reader.at {
                return Err(DnsError::Malformed);
            }
            found.ttl = found.ttl.min(ttl);
        } else if record == kind as u16 {
            let address = address(kind, data).ok_or(DnsError::Malformed)?;
            found.ttl = found.ttl.min(ttl);
            if found.addresses.len() < ADDRESSES_MAX {
                found.addresses.push(address);
            }
        }
    }
    Ok(())
}

fn address(kind: Kind, data: &[u8]) -> Option<IpAddr> {
    Some(match kind {
        Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into(),
        Kind::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into(),
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DnsError> {
        let end = self.at.checked_add(count).ok_or(DnsError::Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(DnsError::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DnsError> {
        self.take(1)?.first().copied().ok_or(DnsError::Malformed)
    }

    fn words<const N: usize>(&mut self) -> Result<[u16; N], DnsError> {
        let mut words = [0; N];
        for word in &mut words {
            let high = self.byte()?;
            *word = u16::from_be_bytes([high, self.byte()?]);
        }
        Ok(words)
    }

    /// A name with dots. Pointers (section 4.1.4) must lead backwards, each further
    /// than the one before: so it ends.
    fn name(&mut self) -> Result<Vec<u8>, DnsError> {
        let mut name = Vec::new();
        let mut least = self.at;
        let mut after = None;
        loop {
            let length = self.byte()?;
            match length {
                0 => break,
                1..=63 => {
                    if !name.is_empty() {
                        name.push(b'.');
                    }
                    name.extend(self.take(usize::from(length))?);
                    if name.len() > NAME_MAX {
                        return Err(DnsError::Malformed);
                    }
                }
                0xc0.. => {
                    let to = usize::from(length & 0x3f) << 8 | usize::from(self.byte()?);
                    after.get_or_insert(self.at);
                    if to >= least {
                        return Err(DnsError::Malformed);
                    }
                    least = to;
                    self.at = to;
                }
                _ => return Err(DnsError::Malformed),
            }
        }
        self.at = after.unwrap_or(self.at);
        Ok(name)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An answer to `query` with these records: `(owner or empty for a pointer to the
    /// question, type, ttl, data)`.
    pub(crate) fn reply(query: &[u8], code: u8, records: &[(&[u8], u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2] |= 0x80;
        bytes[3] = 0x80 | code;
        bytes[7] = records.len() as u8;
        for (owner, kind, ttl, data) in records {
            bytes.extend(if owner.is_empty() {
                &[0xc0, 12][..]
            } else {
                owner
            });
            bytes.extend(kind.to_be_bytes());
            bytes.extend(CLASS_IN.to_be_bytes());
            bytes.extend(ttl.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::reply;
    use super::*;
    use slipform_fuzz::fuzz;

    fn asked() -> Vec<u8> {
        query(0x1234, "logs.example.org", Kind::A).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Answer, DnsError> {
        answer(bytes, 0x1234, "logs.example.org", Kind::A)
    }

    /// `www`, then a pointer to `example.org` of the question.
    const WWW: &[u8] = &[3, b'w', b'w', b'w', 0xc0, 17];

    #[test]
    fn a_query_byte_for_byte() {
        let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04logs\x07example\x03org\0\0\x01\0\x01";
        assert_eq!(asked(), expected);
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", &long, &"a.".repeat(130)] {
            assert_eq!(query(1, bad, Kind::A), None, "{bad}");
        }
    }

    #[test]
    fn aliases_are_followed_and_the_shortest_time_counts() {
        let bytes = reply(
            &asked(),
            0,
            &[
                (b"", CNAME, 60, WWW),
                (b"", 1, 1, &[6, 6, 6, 6]),
                (WWW, 1, 300, &[10, 0, 2, 2]),
                (WWW, 28, 1, &[0; 16]),
            ],
        );
        let expected = Answer {
            addresses: vec![Ipv4Addr::new(10, 0, 2, 2).into()],
            ttl: 60,
        };
        assert_eq!(read(&bytes), Ok(expected));
    }

    #[test]
    fn what_was_not_asked_is_not_believed() {
        let good = reply(&asked(), 0, &[(b"", 1, 9, &[1, 2, 3, 4])]);
        assert!(read(&good).is_ok());
        for (at, value) in [
            (0, 0x13),
            (2, 0x01),
            (2, 0xf9),
            (5, 2),
            (13, b'x'),
            (31, 28),
            (33, 3),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(read(&bytes), Err(DnsError::Foreign), "byte {at}");
        }
        assert_eq!(read(&[]), Err(DnsError::Foreign));
        // Case does not matter, as RFC 4343 has it.
        let mut bytes = good;
        bytes[13] = b'L';
        assert!(read(&bytes).is_ok());
    }

    #[test]
    fn refusals_and_emptiness() {
        assert_eq!(read(&reply(&asked(), 3, &[])), Err(DnsError::NoName));
        assert_eq!(read(&reply(&asked(), 2, &[])), Err(DnsError::Refused(2)));
        assert!(read(&reply(&asked(), 0, &[])).unwrap().addresses.is_empty());
        let short = reply(&asked(), 0, &[(b"", 1, 9, &[1, 2, 3])]);
        assert_eq!(read(&short), Err(DnsError::Malformed));
    }

    #[test]
    fn pointers_in_circles_and_forwards_end() {
        let owner_at = asked().len() as u8;
        for owner in [
            &[0xc0, owner_at][..],
            &[1, b'a', 0xc0, owner_at],
            &[0xc0, owner_at + 2],
            &[0xff, 0xff],
            &[0x80, 1],
        ] {
            let bytes = reply(&asked(), 0, &[(owner, 1, 9, &[1, 2, 3, 4])]);
            assert_eq!(read(&bytes), Err(DnsError::Malformed), "{owner:?}");
        }
    }

    #[test]
    fn a_cut_answer_gives_what_it_has() {
        let mut bytes = reply(
            &asked(),
            0,
            &[(b"", 1, 9, &[1, 2, 3, 4]), (b"", 1, 9, &[5, 6, 7, 8])],
        );
        bytes.truncate(bytes.len() - 3);
        assert_eq!(read(&bytes), Err(DnsError::Malformed));
        bytes[2] |= 2;
        assert_eq!(read(&bytes).unwrap().addresses.len(), 1);
    }

    #[test]
    fn no_answer_can_break_the_reader() {
        let bytes = reply(
            &asked(),
            0,
            &[(b"", CNAME, 60, WWW), (WWW, 1, 300, &[10, 0, 2, 2])],
        );
        fuzz(&[&bytes], |bytes, random| {
            let end = random.below(bytes.len() + 1);
            for bytes in [bytes, &bytes[..end]] {
                if let Ok(found) = read(bytes) {
                    assert!(found.addresses.len() <= ADDRESSES_MAX);
                }
            }
        });
    }
}
