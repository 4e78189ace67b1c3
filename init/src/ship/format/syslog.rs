//! RFC 5424.
//!
//! The structured data carry what syslog has no field for, under the enterprise number
//! that RFC 5612 keeps for everybody: `[slipform@32473 boot="…" image="…" digest="…"
//! monotonic="…"]`.

use std::fmt::Write as _;

use super::cut;
use crate::ship::record::{Context, Record, Stream};

/// Facilities of RFC 5424 section 6.2.1.
const KERN: u8 = 0;
const DAEMON: u8 = 3;
/// Longest datagram: what fits into IPv6's least MTU (RFC 8200 section 5; RFC 5426
/// section 3.2 wants no fragments), so that no receiver has to put one together.
pub(crate) const DATAGRAM_MAX: usize = 1232;
const CUT_MARK: &str = " [cut]";

/// The message, at most `limit` bytes.
pub(crate) fn message(record: &Record, context: &Context<'_>, limit: usize) -> String {
    let context = context.of(record);
    let identity = context.identity;
    let facility = if record.stream == Stream::Kernel {
        KERN
    } else {
        DAEMON
    };
    let mut text = String::with_capacity(256 + record.text.len());
    // Writing to memory cannot fail.
    let _ = write!(
        text,
        "<{}>1 {} {} {} - {} [slipform@32473 boot=\"{}\" image=\"{}\" digest=\"{}\" monotonic=\"{}.{:06}\"] ",
        facility * 8 + record.severity as u8,
        context.wall(record),
        Field(&identity.host, 255),
        Field(&record.service, 48),
        record.stream.name(),
        Value(&identity.boot),
        Value(&format!("{} {}", identity.image, identity.version)),
        Value(&identity.digest),
        record.at.as_secs(),
        record.at.subsec_micros(),
    );
    let body = record.text.chars().map(|letter| {
        if letter.is_control() && letter != '\t' {
            '?'
        } else {
            letter
        }
    });
    text.extend(body);
    if text.len() > limit {
        let head = cut(&text, limit.saturating_sub(CUT_MARK.len())).len();
        text.truncate(head);
        text.push_str(CUT_MARK);
    }
    text
}

/// Octet counting: RFC 6587 section 3.4.1.
pub(crate) fn frame(message: &str) -> String {
    format!("{} {message}", message.len())
}

/// A header field: printable ASCII without spaces, of a greatest length, `-` if empty.
struct Field<'a>(&'a str, usize);

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return out.write_char('-');
        }
        for letter in self.0.chars().take(self.1) {
            out.write_char(if letter.is_ascii_graphic() {
                letter
            } else {
                '?'
            })?;
        }
        Ok(())
    }
}

/// A parameter's value: `"`, `\` and `]` are escaped (section 6.3.3).
struct Value<'a>(&'a str);

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            if matches!(letter, '"' | '\\' | ']') {
                out.write_char('\\')?;
            }
            out.write_char(if letter.is_control() { '?' } else { letter })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ship::record::testing::{OFFSET, identity};
    use crate::ship::record::{Identity, Severity};

    #[test]
    fn messages_byte_for_byte() {
        let identity = identity();
        let context = Context {
            identity: &identity,
            offset: OFFSET,
        };
        let line = Record::line(
            Duration::from_micros(1_000_001),
            "web",
            "out",
            "GET / \u{7}200",
        );
        let digest = "ab".repeat(32);
        let rest = format!(
            "[slipform@32473 boot=\"0b8d7b0c-2f5c-4d6f-9a52-5a1f8d8a7c11\" image=\"shop 1.2\" digest=\"{digest}\" monotonic=\"1.000001\"]"
        );
        assert_eq!(
            message(&line, &context, 8192),
            format!("<30>1 2026-02-28T23:59:59.000001Z shop-1 web - out {rest} GET / ?200")
        );
        let kernel = Record::kernel(Duration::from_micros(1_000_001), Severity::Error, "oops");
        assert_eq!(
            message(&kernel, &context, 8192),
            format!("<3>1 2026-02-28T23:59:59.000001Z shop-1 kernel - kernel {rest} oops")
        );
        assert_eq!(frame("<3>1 - ä"), "9 <3>1 - ä");
    }

    #[test]
    fn no_field_breaks_out_of_its_place() {
        let identity = Identity {
            host: "a b\nc".to_owned(),
            boot: "x\"] y\\".to_owned(),
            ..Identity::default()
        };
        let context = Context {
            identity: &identity,
            offset: Duration::ZERO,
        };
        let record = Record::line(Duration::ZERO, &"ü ".repeat(40), "out", "x\ny");
        let text = message(&record, &context, 8192);
        assert!(
            text.starts_with("<30>1 1970-01-01T00:00:00.000000Z a?b?c ???"),
            "{text}"
        );
        assert!(text.contains("boot=\"x\\\"\\] y\\\\\""), "{text}");
        assert!(text.ends_with("] x?y") && !text.contains('\n'), "{text}");
        let record = Record::line(Duration::ZERO, "", "out", &"€".repeat(5000));
        let text = message(&record, &context, DATAGRAM_MAX);
        assert!(
            text.len() <= DATAGRAM_MAX && text.ends_with("€ [cut]"),
            "{text}"
        );
        assert!(text.contains("Z a?b?c - - out ["), "{text}");
    }
}
