//! Metrics as families of samples, and their two ways out. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use crate::ship::format::json::Json;
use crate::ship::format::otlp;
use crate::ship::record::{Identity, Wall};

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, from the boot on.
    Counter,
}

/// A label's name and value.
pub(crate) type Label = (&'static str, String);

/// A number with its labels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Labels.
    pub(crate) labels: Vec<Label>,
    /// The number.
    pub(crate) value: f64,
}

/// All samples of one name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    /// Name by Prometheus' rules: a counter's ends in `_total`.
    pub(crate) name: &'static str,
    /// One sentence.
    pub(crate) help: &'static str,
    /// What it is.
    pub(crate) kind: Kind,
    /// Never two with the same labels.
    pub(crate) samples: Vec<Sample>,
}

impl Family {
    /// An empty one.
    pub(crate) fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        Self {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// One with a single number.
    pub(crate) fn single(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Self {
        let mut family = Self::new(name, help, kind);
        family.add(Vec::new(), value);
        family
    }

    /// Adds a number.
    pub(crate) fn add(&mut self, labels: Vec<Label>, value: f64) {
        self.samples.push(Sample { labels, value });
    }
}

/// Prometheus' text, exposition format 0.0.4.
pub(crate) fn text(families: &[Family]) -> String {
    let mut out = String::with_capacity(8 * 1024);
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let kind = match family.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let name = family.name;
        // Writing to memory cannot fail.
        let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
        for sample in &family.samples {
            out.push_str(name);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                let bracket = if index == 0 { '{' } else { ',' };
                let _ = write!(out, "{bracket}{label}=\"");
                for letter in value.chars() {
                    match letter {
                        '\\' => out.push_str("\\\\"),
                        '"' => out.push_str("\\\""),
                        '\n' => out.push_str("\\n"),
                        _ => out.push(letter),
                    }
                }
                out.push('"');
            }
            if !sample.labels.is_empty() {
                out.push('}');
            }
            let _ = writeln!(out, " {}", sample.value);
        }
    }
    out
}

/// `ExportMetricsServiceRequest` (opentelemetry-proto, `collector/metrics/v1`) in JSON:
/// counters are cumulative sums since `start`, the rest are gauges.
pub(crate) fn otlp(
    families: &[Family],
    identity: &Identity,
    start: Duration,
    now: Duration,
) -> String {
    let (start, now) = (Wall(start).nanos(), Wall(now).nanos());
    let mut json = Json::default();
    json.open('{').open_at("resourceMetrics", '[').open('{');
    otlp::resource(&mut json, identity, "slipform");
    json.open_at("scopeMetrics", '[').open('{');
    otlp::scope(&mut json);
    json.open_at("metrics", '[');
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        json.open('{')
            .text_at("name", family.name)
            .text_at("description", family.help);
        match family.kind {
            Kind::Gauge => json.open_at("gauge", '{'),
            Kind::Counter => json
                .open_at("sum", '{')
                .plain_at("aggregationTemporality", 2)
                .plain_at("isMonotonic", true),
        };
        json.open_at("dataPoints", '[');
        for sample in &family.samples {
            json.open('{');
            if family.kind == Kind::Counter {
                json.long_at("startTimeUnixNano", start);
            }
            json.long_at("timeUnixNano", now);
            // JSON has no NaN; none is ever made.
            if sample.value.is_finite() {
                json.plain_at("asDouble", sample.value);
            }
            json.open_at("attributes", '[');
            for (label, value) in &sample.labels {
                otlp::attribute(&mut json, label, value);
            }
            json.close(']').close('}');
        }
        json.close(']').close('}').close('}');
    }
    json.close(']')
        .close('}')
        .close(']')
        .close('}')
        .close(']')
        .close('}');
    json.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::record::testing::identity;

    fn families() -> Vec<Family> {
        let mut services = Family::new("slipform_service_starts_total", "Starts.", Kind::Counter);
        services.add(
            vec![("service", "we\"b\\\n".to_owned()), ("x", "y".to_owned())],
            3.0,
        );
        vec![
            Family::single(
                "slipform_uptime_seconds",
                "Since the kernel started.",
                Kind::Gauge,
                12.5,
            ),
            Family::new(
                "slipform_nothing",
                "Without samples it is not there.",
                Kind::Gauge,
            ),
            services,
        ]
    }

    #[test]
    fn the_text_byte_for_byte() {
        assert_eq!(
            text(&families()),
            "# HELP slipform_uptime_seconds Since the kernel started.\n\
             # TYPE slipform_uptime_seconds gauge\n\
             slipform_uptime_seconds 12.5\n\
             # HELP slipform_service_starts_total Starts.\n\
             # TYPE slipform_service_starts_total counter\n\
             slipform_service_starts_total{service=\"we\\\"b\\\\\\n\",x=\"y\"} 3\n"
        );
    }

    #[test]
    fn the_request_has_the_protocols_shape() {
        let (start, now) = (Duration::from_secs(100), Duration::from_secs(160));
        let text = otlp(&families(), &identity(), start, now);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let metrics = &value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        assert_eq!(
            metrics[0],
            serde_json::json!({
                "name": "slipform_uptime_seconds",
                "description": "Since the kernel started.",
                "gauge": { "dataPoints": [
                    { "timeUnixNano": "160000000000", "asDouble": 12.5, "attributes": [] }
                ] }
            })
        );
        assert_eq!(
            metrics[1]["sum"],
            serde_json::json!({
                "aggregationTemporality": 2,
                "isMonotonic": true,
                "dataPoints": [{
                    "startTimeUnixNano": "100000000000",
                    "timeUnixNano": "160000000000",
                    "asDouble": 3,
                    "attributes": [
                        { "key": "service", "value": { "stringValue": "we\"b\\\n" } },
                        { "key": "x", "value": { "stringValue": "y" } }
                    ]
                }]
            })
        );
    }
}
