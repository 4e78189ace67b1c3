//! OTLP 1.x logs in the JSON encoding of `ExportLogsServiceRequest`
//! (opentelemetry-proto, `collector/logs/v1`): keys in lowerCamelCase, 64-bit numbers
//! in quotes, enumerations as numbers.
//!
//! Each service is a resource of its own, so that `service.name` is what receivers
//! group by.

use super::json::Json;
use crate::ship::record::{Context, Identity, Record, Severity, Stream};

/// What names the sender in scopes.
pub(crate) const SCOPE: &str = "slipform-init";

/// A request with these records, all of one boot, in their order within each service.
pub(crate) fn logs(records: &[&Record], context: &Context<'_>) -> String {
    let context = &match records.first() {
        Some(first) => context.of(first),
        None => *context,
    };
    let mut services: Vec<&str> = Vec::new();
    for record in records {
        if !services.contains(&&*record.service) {
            services.push(&record.service);
        }
    }
    let mut json = Json::default();
    json.open('{').open_at("resourceLogs", '[');
    for service in services {
        json.open('{');
        resource(&mut json, context.identity, service);
        json.open_at("scopeLogs", '[').open('{');
        scope(&mut json);
        json.open_at("logRecords", '[');
        for record in records.iter().filter(|record| &*record.service == service) {
            log_record(&mut json, record, context);
        }
        json.close(']').close('}').close(']').close('}');
    }
    json.close(']').close('}');
    json.text()
}

/// `"resource": {…}`, by OpenTelemetry's semantic conventions where there are some.
pub(crate) fn resource(json: &mut Json, identity: &Identity, service: &str) {
    json.open_at("resource", '{').open_at("attributes", '[');
    for (key, value) in [
        ("service.name", service),
        ("host.name", &identity.host),
        ("host.id", &identity.machine),
        ("host.image.name", &identity.image),
        ("host.image.version", &identity.version),
        ("host.image.id", &identity.digest),
        ("os.type", "linux"),
        ("slipform.boot.id", &identity.boot),
    ] {
        attribute(json, key, value);
    }
    json.close(']').close('}');
}

/// `"scope": {…}`.
pub(crate) fn scope(json: &mut Json) {
    json.open_at("scope", '{')
        .text_at("name", SCOPE)
        .text_at("version", env!("CARGO_PKG_VERSION"))
        .close('}');
}

/// A `KeyValue` with a text.
pub(crate) fn attribute(json: &mut Json, key: &str, value: &str) {
    json.open('{')
        .text_at("key", key)
        .open_at("value", '{')
        .text_at("stringValue", value)
        .close('}')
        .close('}');
}

fn log_record(json: &mut Json, record: &Record, context: &Context<'_>) {
    let time = context.wall(record).nanos();
    json.open('{')
        .long_at("timeUnixNano", time)
        .long_at("observedTimeUnixNano", time)
        .plain_at("severityNumber", number(record.severity))
        .text_at("severityText", record.severity.name())
        .open_at("body", '{')
        .text_at("stringValue", &record.text)
        .close('}')
        .open_at("attributes", '[');
    let stream = match record.stream {
        Stream::Out => Some("stdout"),
        Stream::Err => Some("stderr"),
        _ => None,
    };
    match stream {
        Some(stream) => attribute(json, "log.iostream", stream),
        None => attribute(json, "slipform.stream", record.stream.name()),
    }
    let monotonic = u64::try_from(record.at.as_nanos()).unwrap_or(u64::MAX);
    json.open('{')
        .text_at("key", "slipform.monotonic_ns")
        .open_at("value", '{')
        .long_at("intValue", monotonic.min(i64::MAX as u64))
        .close('}')
        .close('}');
    json.close(']').close('}');
}

/// Syslog's severities among OpenTelemetry's (logs data model, appendix B).
fn number(severity: Severity) -> u8 {
    match severity {
        Severity::Emergency => 21,
        Severity::Alert => 19,
        Severity::Critical => 18,
        Severity::Error => 17,
        Severity::Warning => 13,
        Severity::Notice => 10,
        Severity::Info => 9,
        Severity::Debug => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ship::record::testing::{OFFSET, identity};

    #[test]
    fn a_request_byte_for_byte() {
        let identity = identity();
        let context = Context {
            identity: &identity,
            offset: OFFSET,
        };
        let web = Record::line(Duration::from_secs(2), "web", "err", "one\t");
        let kernel = Record::kernel(Duration::from_secs(3), Severity::Error, "two");
        let again = Record::line(Duration::from_secs(4), "web", "out", "three");
        let resource = |service: &str| {
            let digest = "ab".repeat(32);
            let attribute = |key: &str, value: &str| {
                format!("{{\"key\":\"{key}\",\"value\":{{\"stringValue\":\"{value}\"}}}}")
            };
            let attributes = [
                attribute("service.name", service),
                attribute("host.name", "shop-1"),
                attribute("host.id", "4c4c4544004235108051b4c04f4e4d31"),
                attribute("host.image.name", "shop"),
                attribute("host.image.version", "1.2"),
                attribute("host.image.id", &digest),
                attribute("os.type", "linux"),
                attribute("slipform.boot.id", "0b8d7b0c-2f5c-4d6f-9a52-5a1f8d8a7c11"),
            ];
            format!("\"resource\":{{\"attributes\":[{}]}}", attributes.join(","))
        };
        let record = |time: u64, number: u8, name: &str, text: &str, stream: &str, mono: u64| {
            format!(
                "{{\"timeUnixNano\":\"{time}\",\"observedTimeUnixNano\":\"{time}\",\"severityNumber\":{number},\
                 \"severityText\":\"{name}\",\"body\":{{\"stringValue\":\"{text}\"}},\"attributes\":[{stream},\
                 {{\"key\":\"slipform.monotonic_ns\",\"value\":{{\"intValue\":\"{mono}\"}}}}]}}"
            )
        };
        let stream = |key: &str, value: &str| {
            format!("{{\"key\":\"{key}\",\"value\":{{\"stringValue\":\"{value}\"}}}}")
        };
        let scope = format!(
            "\"scope\":{{\"name\":\"slipform-init\",\"version\":\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        let expected = format!(
            "{{\"resourceLogs\":[{{{},\"scopeLogs\":[{{{scope},\"logRecords\":[{},{}]}}]}},{{{},\"scopeLogs\":[{{{scope},\"logRecords\":[{}]}}]}}]}}",
            resource("web"),
            record(
                1_772_323_200_000_000_000,
                10,
                "notice",
                "one\\t",
                &stream("log.iostream", "stderr"),
                2_000_000_000
            ),
            record(
                1_772_323_202_000_000_000,
                9,
                "info",
                "three",
                &stream("log.iostream", "stdout"),
                4_000_000_000
            ),
            resource("kernel"),
            record(
                1_772_323_201_000_000_000,
                17,
                "err",
                "two",
                &stream("slipform.stream", "kernel"),
                3_000_000_000
            ),
        );
        assert_eq!(logs(&[&web, &kernel, &again], &context), expected);
        let _: serde_json::Value = serde_json::from_str(&expected).unwrap();
    }
}
