//! Records as bytes of the spool on the state partition: pure.
//!
//! ```text
//! segment   MAGIC, then frames
//! frame     length u32, CRC-32C u32, then so many bytes
//! 'B' boot      offset u64 (ns), then host, image, version, digest, boot, machine
//! 'R' record    number u64, monotonic u64 (ns), severity u8, stream u8, service, line
//! 'A' arrived   as often as there are sinks: name, number u64
//! ```
//!
//! Numbers are little-endian, a text is its length (u32) and its bytes. A record is of the
//! last boot before it. What a power cut left of a frame has the wrong sum, and ends its
//! segment.

use std::time::Duration;

use crate::crc::CASTAGNOLI;
use crate::ship::record::{Identity, Past, Record, Severity, Stream, nanos};

/// What a segment begins with: the format and its version.
pub(super) const MAGIC: &[u8; 8] = b"SLIPLOG1";
/// Longest frame; a line is far below.
const FRAME_MAX: usize = 1 << 20;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// Who says what comes next.
    Boot(Past),
    /// A line, and its number.
    Record(u64, Record),
    /// For each sink: it has what stands before this number.
    Arrived(Vec<(String, u64)>),
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(CASTAGNOLI.update(!0, payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A boot as a frame.
pub(super) fn boot(identity: &Identity, offset: Duration) -> Vec<u8> {
    let mut out = vec![b'B'];
    out.extend(nanos(offset).to_le_bytes());
    for text in [
        &identity.host,
        &identity.image,
        &identity.version,
        &identity.digest,
        &identity.boot,
        &identity.machine,
    ] {
        put(&mut out, text);
    }
    frame(&out)
}

/// A record as a frame; nothing for one that is too long to be read again.
pub(super) fn record(number: u64, record: &Record) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(64 + record.text.len());
    out.push(b'R');
    out.extend(number.to_le_bytes());
    out.extend(nanos(record.at).to_le_bytes());
    out.extend([record.severity as u8, record.stream as u8]);
    put(&mut out, &record.service);
    put(&mut out, &record.text);
    (out.len() <= FRAME_MAX).then(|| frame(&out))
}

/// What has arrived, as a frame.
pub(super) fn arrived(sinks: &[String], numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![b'A'];
    for (name, number) in sinks.iter().zip(numbers) {
        put(&mut out, name);
        out.extend(number.to_le_bytes());
    }
    frame(&out)
}

/// Reads a segment behind its [`MAGIC`]: its items, until it ends or makes no sense.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `None` if it is of another format.
    pub(super) fn new(segment: &'a [u8]) -> Option<Self> {
        segment.strip_prefix(MAGIC).map(Self)
    }

    /// Bytes that are not read: behind the last item, those that make no sense.
    pub(super) fn rest(&self) -> usize {
        self.0.len()
    }

    /// The next item.
    pub(super) fn next(&mut self) -> Option<Item> {
        let mut bytes = Bytes(self.0);
        let length = bytes.number32()? as usize;
        let sum = bytes.number32()?;
        let payload = bytes.take(length).filter(|_| length <= FRAME_MAX)?;
        if CASTAGNOLI.update(!0, payload) != sum {
            return None;
        }
        let item = item(payload)?;
        self.0 = bytes.0;
        Some(item)
    }
}

fn item(payload: &[u8]) -> Option<Item> {
    let (kind, rest) = payload.split_first()?;
    let mut bytes = Bytes(rest);
    let item = match kind {
        b'B' => {
            let offset = Duration::from_nanos(bytes.number64()?);
            let identity = Identity {
                host: bytes.text()?.to_owned(),
                image: bytes.text()?.to_owned(),
                version: bytes.text()?.to_owned(),
                digest: bytes.text()?.to_owned(),
                boot: bytes.text()?.to_owned(),
                machine: bytes.text()?.to_owned(),
            };
            Item::Boot(Past { identity, offset })
        }
        b'R' => {
            let number = bytes.number64()?;
            let record = Record {
                at: Duration::from_nanos(bytes.number64()?),
                severity: Severity::of(bytes.byte()?),
                stream: Stream::of(bytes.byte()?)?,
                service: bytes.text()?.into(),
                text: bytes.text()?.into(),
                past: None,
            };
            Item::Record(number, record)
        }
        b'A' => {
            let mut all = Vec::new();
            while !bytes.0.is_empty() {
                all.push((bytes.text()?.to_owned(), bytes.number64()?));
            }
            Item::Arrived(all)
        }
        _ => return None,
    };
    bytes.0.is_empty().then_some(item)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number32()? as usize;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::record::testing::{OFFSET, identity};
    use slipform_fuzz::fuzz;

    fn line() -> Record {
        Record::line(Duration::from_micros(1_500_001), "web", "err", "<3>ä b")
    }

    fn segment() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(boot(&identity(), OFFSET));
        bytes.extend(record(7, &line()).unwrap());
        bytes.extend(arrived(&["a".to_owned(), "b".to_owned()], &[8, 3]));
        bytes.extend(record(8, &Record::kernel(Duration::ZERO, Severity::Info, "k")).unwrap());
        bytes
    }

    fn items(bytes: &[u8]) -> (Vec<Item>, usize) {
        let mut reader = Reader::new(bytes).unwrap();
        let items = std::iter::from_fn(|| reader.next()).collect();
        (items, reader.rest())
    }

    #[test]
    fn what_is_written_is_read() {
        let past = Past {
            identity: identity(),
            offset: OFFSET,
        };
        let expected = vec![
            Item::Boot(past),
            Item::Record(7, line()),
            Item::Arrived(vec![("a".to_owned(), 8), ("b".to_owned(), 3)]),
            Item::Record(8, Record::kernel(Duration::ZERO, Severity::Info, "k")),
        ];
        assert_eq!(items(&segment()), (expected, 0));
        assert!(Reader::new(b"SLIPLOG2").is_none());
        assert!(Reader::new(b"SLIP").is_none());
        let giant = Record::line(Duration::ZERO, "web", "out", &"x".repeat(FRAME_MAX));
        assert!(record(0, &giant).is_none());
    }

    #[test]
    fn a_torn_tail_ends_the_segment_and_is_counted() {
        let whole = segment();
        let (all, _) = items(&whole);
        let mut last = all.len();
        for end in (MAGIC.len()..whole.len()).rev() {
            let (some, rest) = items(&whole[..end]);
            assert!(some.len() <= last && some[..] == all[..some.len()]);
            let mut reader = Reader::new(&whole[..end]).unwrap();
            while reader.next().is_some() {}
            assert_eq!(reader.rest(), rest);
            last = some.len();
        }
        assert_eq!(last, 0);
        // A block that was never written reads as zeros.
        let zeros = [whole.as_slice(), &[0; 4096]].concat();
        assert_eq!(items(&zeros).1, 4096);
    }

    #[test]
    fn no_spool_can_break_the_reader() {
        let whole = segment();
        let (all, _) = items(&whole);
        let mut damaged = 0;
        fuzz(&[&whole], |bytes, _| {
            if let Some(mut reader) = Reader::new(bytes) {
                while reader.next().is_some() {}
                damaged += usize::from(reader.rest() > 0);
            }
        });
        assert!(damaged > 0);
        // Behind the sum, too.
        let payloads = [
            boot(&identity(), OFFSET),
            record(7, &line()).unwrap(),
            arrived(&["a".to_owned()], &[8]),
        ];
        for (payload, known) in payloads.iter().zip(&all) {
            assert_eq!(
                std::mem::discriminant(&item(&payload[8..]).unwrap()),
                std::mem::discriminant(known)
            );
            fuzz(&[&payload[8..]], |bytes, _| {
                let _ = item(bytes);
            });
        }
    }
}
