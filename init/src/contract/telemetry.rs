//! Where the machine's logs and metrics go: a part of machine.json.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes of records that wait in memory unless the specification says otherwise.
pub const SPOOL_BYTES: u64 = 256 * 1024;
/// Least spool.
pub const SPOOL_MIN: u64 = 16 * 1024;
/// Largest spool.
pub const SPOOL_MAX: u64 = 64 * 1024 * 1024;
/// Least spool on the state partition.
pub const SPOOL_STATE_MIN: u64 = 1024 * 1024;
/// Most sinks.
pub const SINKS_MAX: usize = 16;
/// The authorities that a peer's certificate must come from: all of the image's, in PEM.
pub const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The name under which init's own records go.
pub const OWN_NAME: &str = "slipform";
/// The name under which the kernel's records go.
pub const KERNEL_NAME: &str = "kernel";

/// Logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The console gets JSON lines instead of text for people.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub console_json: bool,
    /// Bytes of records that wait in memory for the sinks; the oldest go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool_bytes: Option<u64>,
    /// They are kept on the state partition, too, so that they outlast a reboot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spool_on_state: bool,
    /// Where records go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<Sink>,
    /// Metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}

/// How records travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkKind {
    /// RFC 5424 over TCP, octet counting (RFC 6587 section 3.4.1).
    SyslogTcp,
    /// RFC 5424 over UDP (RFC 5426).
    SyslogUdp,
    /// One JSON object a line over TCP.
    JsonTcp,
    /// OTLP/HTTP, JSON encoding.
    OtlpHttp,
}

/// Who is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// A numeric address (IPv6 without brackets) or a domain name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, and a certificate for `host` from one of the [`CERTIFICATES`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// HTTP only: the path, beginning with `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// HTTP only: further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// A receiver of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// Unique name.
    pub name: String,
    /// How.
    pub kind: SinkKind,
    /// To whom.
    pub peer: Peer,
    /// Highest severity number (RFC 5424 section 6.2.1; 7 is debug) that is sent.
    pub level: u8,
}

/// Metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// TCP port on which Prometheus' text is served; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    /// Numeric address to listen on; empty: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Pushed there by OTLP/HTTP, JSON encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Peer>,
    /// Milliseconds between two pushes.
    #[serde(default, skip_serializing_if = "is_zero_64")]
    pub interval_ms: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(value: &u16) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero_64(value: &u64) -> bool {
    *value == 0
}

impl Telemetry {
    /// Everybody who is spoken to.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        let sinks = self.sinks.iter().map(|sink| &sink.peer);
        let push = self
            .metrics
            .as_ref()
            .and_then(|metrics| metrics.push.as_ref());
        sinks.chain(push)
    }

    /// Whether init must speak TLS.
    #[must_use]
    pub fn needs_tls(&self) -> bool {
        self.peers().any(|peer| peer.tls)
    }

    /// The first value that init could not rely on: where, what, and the rule.
    #[must_use]
    pub fn problem(&self) -> Option<(String, String, &'static str)> {
        let spool = self.spool_bytes.unwrap_or(SPOOL_BYTES);
        if !(SPOOL_MIN..=SPOOL_MAX).contains(&spool) {
            return Some((
                "spool_bytes".to_owned(),
                spool.to_string(),
                "16 KiB to 64 MiB",
            ));
        }
        if self.spool_on_state && spool < SPOOL_STATE_MIN {
            return Some((
                "spool_bytes".to_owned(),
                spool.to_string(),
                "1 MiB at least on the state partition",
            ));
        }
        if self.sinks.len() > SINKS_MAX {
            return Some((
                "the number of sinks".to_owned(),
                self.sinks.len().to_string(),
                "at most 16",
            ));
        }
        for sink in &self.sinks {
            if !is_sink_name(&sink.name) {
                return Some((
                    "sinks.name".to_owned(),
                    sink.name.clone(),
                    "1 to 64 letters, digits, '-', '_' or '.'",
                ));
            }
            if sink.level > 7 {
                return Some((
                    format!("{}: level", sink.name),
                    sink.level.to_string(),
                    "0 to 7",
                ));
            }
            if let Some((key, value, rule)) = sink.peer.problem() {
                return Some((format!("{}: {key}", sink.name), value, rule));
            }
        }
        self.metrics.as_ref().and_then(Metrics::problem)
    }
}

impl Metrics {
    fn problem(&self) -> Option<(String, String, &'static str)> {
        let address = self.address.parse::<std::net::IpAddr>();
        if !self.address.is_empty() && address.is_err() {
            return Some((
                "metrics.address".to_owned(),
                self.address.clone(),
                "a numeric address",
            ));
        }
        let peer = self.push.as_ref()?;
        if !(1000..=86_400_000).contains(&self.interval_ms) {
            return Some((
                "metrics.interval".to_owned(),
                format!("{} ms", self.interval_ms),
                "1 second to 1 day",
            ));
        }
        let (key, value, rule) = peer.problem()?;
        Some((format!("metrics.push: {key}"), value, rule))
    }
}

impl Peer {
    /// The first value that breaks a rule.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        if !is_host(&self.host) {
            return Some((
                "host",
                self.host.clone(),
                "a numeric address or a domain name",
            ));
        }
        if self.port == 0 {
            return Some(("port", "0".to_owned(), "1 to 65535"));
        }
        let graphic = |byte: u8| byte.is_ascii_graphic();
        if !self.path.is_empty()
            && (!self.path.starts_with('/')
                || self.path.len() > 1024
                || !self.path.bytes().all(graphic))
        {
            return Some((
                "path",
                self.path.clone(),
                "printable ASCII that begins with '/', at most 1024 bytes",
            ));
        }
        if self.headers.len() > 16 {
            return Some(("headers", self.headers.len().to_string(), "at most 16"));
        }
        let bad = self
            .headers
            .iter()
            .find(|(name, value)| !is_header(name, value))?;
        Some((
            "headers",
            bad.0.clone(),
            "a name of letters, digits and '-' that slipform does not set itself, and a value of printable ASCII below 1024 bytes",
        ))
    }
}

fn is_sink_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A numeric address, or a name by RFC 1123 section 2.1 (underscores allowed).
#[must_use]
pub fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // All digits and dots would be an address that is none.
    name.len() <= 253
        && name.split('.').all(label)
        && !name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn is_header(name: &str, value: &str) -> bool {
    const OWN: [&str; 7] = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "user-agent",
        "expect",
    ];
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=128).contains(&name.len())
        && name.bytes().all(letter)
        && !OWN.contains(&name.to_ascii_lowercase().as_str())
        && value.len() < 1024
        && value
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(host: &str) -> Peer {
        Peer {
            host: host.to_owned(),
            port: 1,
            tls: false,
            path: String::new(),
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_not_used_is_not_written() {
        assert_eq!(serde_json::to_string(&Telemetry::default()).unwrap(), "{}");
    }

    #[test]
    fn hosts() {
        for good in [
            "10.0.2.2",
            "::1",
            "a",
            "logs.example.org",
            "logs.example.org.",
        ] {
            assert_eq!(peer(good).problem(), None, "{good}");
        }
        let long = "a.".repeat(130);
        for bad in [
            "", ".", "a..b", "-a", "a b", "[::1]", "1.2.3", "ä", "a:1", &long,
        ] {
            assert!(peer(bad).problem().is_some(), "{bad}");
        }
    }

    #[test]
    fn headers_cannot_smuggle_a_line_nor_replace_ours() {
        for (name, value, good) in [
            ("x-api-key", "abc def", true),
            ("Authorization", "Bearer x", true),
            ("x", "a\r\nb", false),
            ("x y", "a", false),
            ("Content-Length", "3", false),
            ("", "a", false),
        ] {
            let mut peer = peer("a");
            peer.headers.insert(name.to_owned(), value.to_owned());
            assert_eq!(peer.problem().is_none(), good, "{name:?}: {value:?}");
        }
    }
}
