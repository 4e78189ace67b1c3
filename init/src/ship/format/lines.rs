//! One JSON object a line, for the console and for JSON sinks.
//!
//! | key | |
//! |---|---|
//! | `time` | RFC 3339 in UTC |
//! | `monotonic` | seconds since the kernel started, a number |
//! | `severity` | `emerg` … `debug` |
//! | `service`, `stream` | who, and `out`, `err`, `notify`, `event` or `kernel` |
//! | `message` | the line |
//! | `host`, `image`, `version`, `digest`, `boot` | the machine |

use super::json::Json;
use crate::ship::record::{Context, Record};

/// The object and its line end.
pub(crate) fn line(record: &Record, context: &Context<'_>) -> String {
    let context = context.of(record);
    let identity = context.identity;
    let mut json = Json::default();
    json.open('{')
        .text_at("time", &context.wall(record).to_string())
        .plain_at(
            "monotonic",
            format_args!("{}.{:06}", record.at.as_secs(), record.at.subsec_micros()),
        )
        .text_at("severity", record.severity.name())
        .text_at("service", &record.service)
        .text_at("stream", record.stream.name())
        .text_at("message", &record.text)
        .text_at("host", &identity.host)
        .text_at("image", &identity.image)
        .text_at("version", &identity.version)
        .text_at("digest", &identity.digest)
        .text_at("boot", &identity.boot)
        .close('}');
    let mut text = json.text();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ship::record::testing::{OFFSET, identity};

    #[test]
    fn a_line_byte_for_byte() {
        let record = Record::line(
            Duration::from_micros(2_500_000),
            "web",
            "err",
            "<4>a \"b\"\u{1b}",
        );
        let context = Context {
            identity: &identity(),
            offset: OFFSET,
        };
        let digest = "ab".repeat(32);
        assert_eq!(
            line(&record, &context),
            format!(
                "{{\"time\":\"2026-03-01T00:00:00.500000Z\",\"monotonic\":2.500000,\"severity\":\"warning\",\
                 \"service\":\"web\",\"stream\":\"err\",\"message\":\"a \\\"b\\\"\\u001b\",\"host\":\"shop-1\",\
                 \"image\":\"shop\",\"version\":\"1.2\",\"digest\":\"{digest}\",\
                 \"boot\":\"0b8d7b0c-2f5c-4d6f-9a52-5a1f8d8a7c11\"}}\n"
            )
        );
    }
}
