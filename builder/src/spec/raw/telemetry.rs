//! `[logs]`, `[[log]]` and `[metrics]` as written; the doc comments become the JSON schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Console and spool of the machine's logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawLogs {
    /// What the console shows: `human` (default), or `json`, an object a line.
    pub console: Option<RawConsole>,
    /// Memory for records that wait for a receiver, from `"16KiB"` to `"64MiB"`; when it is full, the oldest are lost, and counted. `{ on = "state", size = "4MiB" }` keeps them on the state partition, too: what has not arrived is sent after a reboot or a power cut. Default: `"256KiB"`.
    pub spool: Option<RawSpool>,
}

/// Room for records that wait: a size, or a table with more.
#[derive(Debug)]
pub struct RawSpool {
    /// Size, such as `"4MiB"`.
    pub size: Option<String>,
    /// Where they are kept beside the memory.
    pub on: Option<RawSpoolPlace>,
}

/// [`RawSpool`] as a table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSpoolTable {
    /// `state`: on the state partition of `[state]`, too.
    on: RawSpoolPlace,
    /// Room there, and as much memory while they wait: `"1MiB"` to `"64MiB"`. Default: `"4MiB"`.
    size: Option<String>,
}

/// Where records are kept beside the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawSpoolPlace {
    /// The state partition.
    State,
}

/// By hand: what serde derives for a choice forgets which key was wrong.
impl<'de> Deserialize<'de> for RawSpool {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawSpool;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size, or a table such as { on = \"state\", size = \"4MiB\" }")
            }

            fn visit_str<E>(self, size: &str) -> Result<RawSpool, E> {
                Ok(RawSpool {
                    size: Some(size.to_owned()),
                    on: None,
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RawSpool, A::Error> {
                let table = serde::de::value::MapAccessDeserializer::new(map);
                let table = RawSpoolTable::deserialize(table)?;
                Ok(RawSpool {
                    size: table.size,
                    on: Some(table.on),
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for RawSpool {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawSpool".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<RawSpoolTable>();
        schemars::json_schema!({
            "description": "Room for records that wait: a size, or a table with more.",
            "anyOf": [{ "type": "string" }, table],
        })
    }
}

/// What the console shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawConsole {
    /// Text for people.
    Human,
    /// JSON lines.
    Json,
}

/// A receiver of logs: every line of the services, the kernel and init.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawSink {
    /// Where: `"tcp://HOST:PORT"`, `"tls://HOST:PORT"`, `"udp://HOST:PORT"`, `"http://HOST:PORT/PATH"` or `"https://HOST:PORT/PATH"`. With `tls` and `https` the receiver shows a certificate for HOST from one of the image's authorities (package `ca-certificates`, `/usr/local/share/ca-certificates`). HOST is a name, an address, or an IPv6 address in brackets. The path's default is `/v1/logs`.
    pub to: String,
    /// `syslog` (RFC 5424; default for tcp, tls and udp), `json` (an object a line; tcp and tls only) or `otlp` (OTLP in JSON; http and https only).
    pub format: Option<RawFormat>,
    /// Name in events and metrics, unique. Default: `log-1` for the first, and so on.
    pub name: Option<String>,
    /// Least severity: `emerg`, `alert`, `crit`, `err`, `warning`, `notice`, `info` or `debug`. Default: `info`.
    pub level: Option<String>,
    /// Further HTTP headers. Whoever has the image can read them.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawFormat {
    /// RFC 5424.
    Syslog,
    /// JSON lines.
    Json,
    /// OTLP, JSON encoding.
    Otlp,
}

/// The machine's metrics.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawMetrics {
    /// Port that serves Prometheus' text at `/metrics`, such as 9100. Default: none.
    pub port: Option<u16>,
    /// Address to listen on, such as `"127.0.0.1"`. Default: all.
    pub address: Option<String>,
    /// Where they are pushed by OTLP in JSON: `"http://HOST:PORT/PATH"`, or `"https://…"`. The path's default is `/v1/metrics`. Default: nowhere.
    pub push: Option<String>,
    /// Time between two pushes. Default: `"60s"`.
    pub interval: Option<String>,
    /// Further HTTP headers of a push. Whoever has the image can read them.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}
