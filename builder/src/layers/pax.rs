//! PAX extended headers: records `<length> <key>=<value>\n`.
//! Source: POSIX.1-2024, pax, "pax Extended Header". The values may hold any
//! byte (`SCHILY.xattr.security.capability` is binary), so that only the
//! length says where a record ends.

use std::collections::BTreeMap;

/// What a header said about the entry that follows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) sparse: Option<PaxSparse>,
}

/// What it said of the holes of the file, in whichever of GNU's three formats.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: u64,
    pub(super) minor: u64,
    /// The file's own name; the header has another.
    pub(super) name: Option<Vec<u8>>,
    /// Its length, holes included.
    pub(super) real: Option<u64>,
    /// Place and length of each piece (0.0 and 0.1).
    pub(super) pieces: Vec<(u64, u64)>,
}

impl PaxSparse {
    /// Takes one record in; those that only repeat what others say are passed over.
    fn take(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        match key {
            "major" => self.major = number(key, value)?,
            "minor" => self.minor = number(key, value)?,
            "name" => self.name = Some(value.to_vec()),
            "size" | "realsize" => self.real = Some(number(key, value)?),
            "offset" => self.pieces.push((number(key, value)?, 0)),
            // Behind its offset.
            "numbytes" => match self.pieces.last_mut() {
                Some(last) => last.1 = number(key, value)?,
                None => {
                    return Err("a PAX header has a piece of a sparse file without offset".into());
                }
            },
            "map" if value.is_empty() => {}
            "map" => {
                let mut numbers = value.split(|b| *b == b',').map(|text| number(key, text));
                while let Some(at) = numbers.next() {
                    let odd = || "a PAX header has half a piece of a sparse file".to_owned();
                    self.pieces.push((at?, numbers.next().ok_or_else(odd)??));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Pax {
    /// Reads a header's records; keys that mean nothing for an image are passed over.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        for record in records(bytes)? {
            let (key, value) = record;
            match key {
                "path" => pax.path = Some(value.to_vec()),
                "linkpath" => pax.linkpath = Some(value.to_vec()),
                "size" => pax.size = Some(number(key, value)?),
                "uid" => pax.uid = Some(number(key, value)?),
                "gid" => pax.gid = Some(number(key, value)?),
                "mtime" => pax.mtime = Some(seconds(value)?),
                _ => {
                    if let Some(key) = key.strip_prefix("GNU.sparse.") {
                        pax.sparse.get_or_insert_default().take(key, value)?;
                    } else if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        pax.xattrs.insert(name.to_owned(), value.to_vec());
                    }
                }
            }
        }
        Ok(pax)
    }

    /// Whether a header says anything but comments.
    pub(super) fn says_something(bytes: &[u8]) -> Result<bool, String> {
        Ok(records(bytes)?.iter().any(|(key, _)| *key != "comment"))
    }
}

/// Splits a header into its records.
fn records(mut bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, String> {
    let bad = |what: &str| format!("a PAX header {what}");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(11)
            .position(|b| *b == b' ')
            .ok_or_else(|| bad("has a record without a length"))?;
        let length = usize::try_from(number("length", &bytes[..space])?)
            .map_err(|_| bad("has a record that is too long"))?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad("has a record of a wrong length"));
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or_else(|| bad("has a record without '='"))?;
        let key = std::str::from_utf8(&record[..equals])
            .map_err(|_| bad("has a key that is not UTF-8"))?;
        records.push((key, &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Ok(records)
}

fn number(key: &str, value: &[u8]) -> Result<u64, String> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            format!(
                "a PAX header's {key} '{}' is no number",
                value.escape_ascii()
            )
        })
}

/// Whole seconds, rounded down, of a decimal time such as `-1.5`.
fn seconds(value: &[u8]) -> Result<i64, String> {
    let error = || format!("a PAX header's mtime '{}' is no time", value.escape_ascii());
    let text = std::str::from_utf8(value).map_err(|_| error())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    let whole: i64 = whole.parse().map_err(|_| error())?;
    let below = text.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    whole.checked_sub(i64::from(below)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::pax_record as record;

    #[test]
    fn reads_binary_values_by_their_length() {
        let mut bytes = record("path", "a/b".as_bytes());
        bytes.extend(record("SCHILY.xattr.security.capability", b"\x01\n=\x00\n"));
        bytes.extend(record("mtime", b"-1.5"));
        bytes.extend(record("size", b"12"));
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.xattrs["security.capability"], b"\x01\n=\x00\n");
        assert_eq!((pax.mtime, pax.size), (Some(-2), Some(12)));
    }

    #[test]
    fn reads_maps_of_sparse_files() {
        let parse = |records: &[(&str, &[u8])]| {
            let bytes: Vec<u8> = records
                .iter()
                .flat_map(|(key, value)| record(&format!("GNU.sparse.{key}"), value))
                .collect();
            Pax::parse(&bytes).unwrap().sparse.unwrap()
        };
        let first = parse(&[
            ("size", b"9"),
            ("numblocks", b"2"),
            ("offset", b"1"),
            ("numbytes", b"2"),
            ("offset", b"5"),
            ("numbytes", b"4"),
        ]);
        let second = parse(&[("size", b"9"), ("map", b"1,2,5,4"), ("name", b"x")]);
        assert_eq!(first.pieces, [(1, 2), (5, 4)]);
        assert_eq!(second.pieces, first.pieces);
        assert_eq!(
            (second.real, second.name.as_deref()),
            (Some(9), Some(&b"x"[..]))
        );
        let third = parse(&[
            ("major", b"1"),
            ("minor", b"0"),
            ("realsize", b"9"),
            ("map", b""),
        ]);
        assert_eq!((third.major, third.minor, third.real), (1, 0, Some(9)));
    }

    #[test]
    fn refuses_malformed_records() {
        for bytes in [
            &b"x"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"2 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 abc\n",
            b"11 size=-1\n",
            b"10 mtime=\n",
            b"13 mtime=1.x\n",
            b"6 \xff=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        for (key, value) in [
            ("map", &b"0"[..]),
            ("map", b"0,1,"),
            ("map", b"0,x"),
            ("numbytes", b"1"),
            ("realsize", b""),
            ("major", b"-1"),
        ] {
            let bytes = record(&format!("GNU.sparse.{key}"), value);
            assert!(Pax::parse(&bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn tells_comments_from_orders() {
        assert!(!Pax::says_something(&record("comment", b"git")).unwrap());
        assert!(Pax::says_something(&record("path", b"x")).unwrap());
    }

    #[test]
    fn fuzz_mutated_headers() {
        let mut seed = record("path", b"a/b");
        seed.extend(record("SCHILY.xattr.user.x", b"1\n2"));
        seed.extend(record("mtime", b"12.5"));
        seed.extend(record("GNU.sparse.map", b"0,1,2,3"));
        slipform_fuzz::fuzz(&[&seed], |bytes, _| {
            if let Ok(pax) = Pax::parse(bytes) {
                let held = pax.path.map_or(0, |p| p.len())
                    + pax.sparse.map_or(0, |sparse| sparse.pieces.len())
                    + pax.xattrs.values().map(Vec::len).sum::<usize>();
                assert!(held <= bytes.len());
            }
        });
    }
}
