//! JSON, written piece by piece: no tree is built, and no type per message is needed.

use std::fmt::{Display, Write as _};

/// A text that grows.
#[derive(Debug, Default)]
pub(crate) struct Json {
    text: String,
    comma: bool,
}

impl Json {
    /// What was written.
    pub(crate) fn text(self) -> String {
        self.text
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.comma, true) {
            self.text.push(',');
        }
    }

    /// Opens an object or array that stands in an array or at the top.
    pub(crate) fn open(&mut self, bracket: char) -> &mut Self {
        self.separate();
        self.text.push(bracket);
        self.comma = false;
        self
    }

    /// Opens one that is a member's value.
    pub(crate) fn open_at(&mut self, key: &str, bracket: char) -> &mut Self {
        self.key(key);
        self.text.push(bracket);
        self.comma = false;
        self
    }

    /// Closes it.
    pub(crate) fn close(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket);
        self.comma = true;
        self
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.quoted(key);
        self.text.push(':');
    }

    /// A member that is a text.
    pub(crate) fn text_at(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.quoted(value);
        self
    }

    /// A member whose value is written as it is: a number or a truth value.
    pub(crate) fn plain_at(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        // Writing to memory cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    /// A 64-bit number as proto3's JSON mapping has it: in quotes.
    pub(crate) fn long_at(&mut self, key: &str, value: u64) -> &mut Self {
        self.plain_at(key, format_args!("\"{value}\""))
    }

    /// RFC 8259 section 7.
    fn quoted(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\t' => self.text.push_str("\\t"),
                // DEL is allowed, but a terminal may act on it.
                '\0'..='\u{1f}' | '\u{7f}' => {
                    let _ = write!(self.text, "\\u{:04x}", letter as u32);
                }
                _ => self.text.push(letter),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_parser_reads() {
        let nasty: String = (0..0x250_u32).filter_map(char::from_u32).collect();
        let mut json = Json::default();
        json.open('{')
            .text_at("a\"b", &nasty)
            .long_at("n", u64::MAX);
        json.open_at("list", '[');
        json.open('{').plain_at("x", 1.5).close('}');
        json.open('{').close('}').close(']');
        json.plain_at("t", true).close('}');
        let value: serde_json::Value = serde_json::from_str(&json.text()).unwrap();
        assert_eq!(value["a\"b"], nasty);
        assert_eq!(value["n"], u64::MAX.to_string());
        assert_eq!(value["list"], serde_json::json!([{ "x": 1.5 }, {}]));
        assert_eq!(value["t"], true);
    }
}
