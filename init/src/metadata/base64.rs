//! Base64 as SMBIOS strings and user-data carry it (RFC 4648 section 4).

/// Decodes; blanks and line ends are passed over, padding may be missing. `None` for
/// anything else.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    let mut letters = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    for &letter in letters.by_ref() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // What is left over are zeros, and nothing but padding follows.
    (bits == 0 && count < 6 && letters.all(|&letter| letter == b'=')).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    #[test]
    fn the_vectors_of_the_standard() {
        let table: [(&str, &[u8]); 9] = [
            ("", b""),
            ("Zg==", b"f"),
            ("Zg", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9v\nYg==", b"foob"),
            ("Zm9vYmE=", b"fooba"),
            ("Zm9vYmFy", b"foobar"),
            ("/+8=", b"\xff\xef"),
        ];
        for (text, bytes) in table {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
        for bad in ["Z", "Zh", "Zm9v!", "Zg==Zg", "Zg=x", "Z-_="] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn no_text_breaks_it() {
        fuzz(&[b"Zm9vYmFyZm9vYmFyZm9v\nYg=="], |text, _| {
            if let Some(bytes) = decode(text) {
                assert!(bytes.len() <= text.len());
            }
        });
    }
}
