//! Formats, one file each: records to bytes. Pure.

pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod otlp;
pub(crate) mod syslog;

/// `text` cut to at most `limit` bytes at a character's edge.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cut_splits_no_character() {
        assert_eq!(super::cut("aäb", 2), "a");
        assert_eq!(super::cut("aäb", 3), "aä");
        assert_eq!(super::cut("aäb", 99), "aäb");
        assert_eq!(super::cut("€", 2), "");
    }
}
