//! OTLP's messages in their JSON encoding, checked strictly: every name, every type,
//! what must be there, and nothing else. From opentelemetry-proto 1.x
//! (`logs/v1`, `metrics/v1`, `common/v1`, `resource/v1`) and the JSON rules of the
//! protocol's specification: names in lowerCamelCase, 64-bit numbers as text,
//! enumerations as numbers.

use serde_json::Value;

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    /// `fixed64` and `uint64`.
    Unsigned,
    /// `int64`.
    Signed,
    /// `uint32`.
    Small,
    /// An enumeration with so many as its greatest number.
    Enum(u64),
    Double,
    Truth,
    /// trace_id and span_id: so many bytes in hexadecimal.
    Hex(usize),
    One(&'static str),
    Many(&'static str),
}

/// Fields of a message: name, type, and whether a receiver needs it.
fn fields(message: &str) -> &'static [(&'static str, Type, bool)] {
    use Type::{Double, Enum, Hex, Many, One, Signed, Small, Text, Truth, Unsigned};
    match message {
        "ExportLogsServiceRequest" => &[("resourceLogs", Many("ResourceLogs"), true)],
        "ResourceLogs" => &[
            ("resource", One("Resource"), true),
            ("scopeLogs", Many("ScopeLogs"), true),
            ("schemaUrl", Text, false),
        ],
        "ScopeLogs" => &[
            ("scope", One("InstrumentationScope"), true),
            ("logRecords", Many("LogRecord"), true),
            ("schemaUrl", Text, false),
        ],
        "LogRecord" => &[
            ("timeUnixNano", Unsigned, true),
            ("observedTimeUnixNano", Unsigned, true),
            ("severityNumber", Enum(24), true),
            ("severityText", Text, false),
            ("body", One("AnyValue"), true),
            ("attributes", Many("KeyValue"), false),
            ("droppedAttributesCount", Small, false),
            ("flags", Small, false),
            ("traceId", Hex(16), false),
            ("spanId", Hex(8), false),
            ("eventName", Text, false),
        ],
        "ExportMetricsServiceRequest" => &[("resourceMetrics", Many("ResourceMetrics"), true)],
        "ResourceMetrics" => &[
            ("resource", One("Resource"), true),
            ("scopeMetrics", Many("ScopeMetrics"), true),
            ("schemaUrl", Text, false),
        ],
        "ScopeMetrics" => &[
            ("scope", One("InstrumentationScope"), true),
            ("metrics", Many("Metric"), true),
            ("schemaUrl", Text, false),
        ],
        "Metric" => &[
            ("name", Text, true),
            ("description", Text, false),
            ("unit", Text, false),
            ("gauge", One("Gauge"), false),
            ("sum", One("Sum"), false),
        ],
        "Gauge" => &[("dataPoints", Many("NumberDataPoint"), true)],
        "Sum" => &[
            ("dataPoints", Many("NumberDataPoint"), true),
            ("aggregationTemporality", Enum(2), true),
            ("isMonotonic", Truth, true),
        ],
        "NumberDataPoint" => &[
            ("attributes", Many("KeyValue"), false),
            ("startTimeUnixNano", Unsigned, false),
            ("timeUnixNano", Unsigned, true),
            ("asDouble", Double, false),
            ("asInt", Signed, false),
            ("flags", Small, false),
        ],
        "Resource" => &[
            ("attributes", Many("KeyValue"), true),
            ("droppedAttributesCount", Small, false),
        ],
        "InstrumentationScope" => &[
            ("name", Text, true),
            ("version", Text, false),
            ("attributes", Many("KeyValue"), false),
            ("droppedAttributesCount", Small, false),
        ],
        "KeyValue" => &[("key", Text, true), ("value", One("AnyValue"), true)],
        "AnyValue" => &[
            ("stringValue", Text, false),
            ("boolValue", Truth, false),
            ("intValue", Signed, false),
            ("doubleValue", Double, false),
        ],
        other => panic!("no message {other}"),
    }
}

/// Messages of which exactly one of these fields must be there.
const ONE_OF: [(&str, &[&str]); 3] = [
    ("Metric", &["gauge", "sum"]),
    ("NumberDataPoint", &["asDouble", "asInt"]),
    (
        "AnyValue",
        &["stringValue", "boolValue", "intValue", "doubleValue"],
    ),
];

/// Panics, with the place, at the first thing that the protocol does not have.
#[track_caller]
pub(crate) fn check(value: &Value, message: &str) {
    check_at(value, message, message);
}

#[track_caller]
fn check_at(value: &Value, message: &str, place: &str) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{place} is no object: {value}"));
    let known = fields(message);
    for (key, value) in object {
        let (_, kind, _) = known
            .iter()
            .find(|(name, ..)| name == key)
            .unwrap_or_else(|| panic!("{place} has no field {key}"));
        check_field(value, *kind, &format!("{place}.{key}"));
    }
    for (key, _, needed) in known {
        assert!(
            !needed || object.contains_key(*key),
            "{place}.{key} is missing"
        );
    }
    for (name, choice) in ONE_OF.iter().filter(|(name, _)| *name == message) {
        let count = choice
            .iter()
            .filter(|key| object.contains_key(**key))
            .count();
        assert_eq!(count, 1, "{place}: {name} needs one of {choice:?}: {value}");
    }
}

#[track_caller]
fn check_field(value: &Value, kind: Type, place: &str) {
    let digits = |text: &str| text.parse::<u64>().is_ok_and(|n| n.to_string() == text);
    let good = match kind {
        Type::Text => value.is_string(),
        Type::Unsigned => value.as_str().is_some_and(digits),
        Type::Signed => value
            .as_str()
            .is_some_and(|text| text.parse::<i64>().is_ok()),
        Type::Small => value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
        Type::Enum(most) => value.as_u64().is_some_and(|n| (1..=most).contains(&n)),
        Type::Double => value.is_number(),
        Type::Truth => value.is_boolean(),
        Type::Hex(bytes) => value.as_str().is_some_and(|text| {
            text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        }),
        Type::One(message) => {
            check_at(value, message, place);
            true
        }
        Type::Many(message) => {
            let items = value
                .as_array()
                .unwrap_or_else(|| panic!("{place} is no array"));
            for (index, item) in items.iter().enumerate() {
                check_at(item, message, &format!("{place}[{index}]"));
            }
            true
        }
    };
    assert!(good, "{place} is no {kind:?}: {value}");
}

/// An attribute's text.
pub(crate) fn attribute<'a>(owner: &'a Value, key: &str) -> Option<&'a str> {
    let attributes = owner["attributes"].as_array()?;
    let found = attributes.iter().find(|entry| entry["key"] == key)?;
    found["value"]["stringValue"].as_str()
}
