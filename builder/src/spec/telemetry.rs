//! Raw to checked: `[logs]`, `[[log]]`, `[metrics]`. What is checked here is what the
//! machine is told, so its own rules ([`Telemetry::problem`]) have the last word.

use std::collections::BTreeMap;

use slipform_init::contract::telemetry::{
    Metrics, Peer, SPOOL_BYTES, SPOOL_MAX, SPOOL_MIN, SPOOL_STATE_MIN, Sink, SinkKind, Telemetry,
};
use toml::Spanned;

use crate::base::{bytes, toml as toml_text};

use super::check::Source;
use super::image::StateSpec;
use super::raw::{RawConsole, RawFormat, RawLogs, RawMetrics, RawSink, RawSpool};
use super::{SpecError, values};

/// RFC 5424 section 6.2.1, by number.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];
const LEVEL: u8 = 6;
const STATE_SPOOL: &str = "4MiB";
const INTERVAL_MS: u64 = 60_000;

/// Checks all three; nothing if the specification has none of them. The spool may lie on
/// the image's state.
pub(super) fn check(
    logs: &RawLogs,
    sinks: Vec<Spanned<RawSink>>,
    metrics: Option<Spanned<RawMetrics>>,
    state: Option<&StateSpec>,
    source: &Source<'_>,
) -> Result<Option<Telemetry>, SpecError> {
    let fail = |m: String| source.near("[logs]", m);
    let mut telemetry = Telemetry {
        console_json: logs.console == Some(RawConsole::Json),
        spool_bytes: match &logs.spool {
            Some(raw) => Some(spool(raw, state).map_err(fail)?),
            None => None,
        },
        spool_on_state: logs.spool.as_ref().is_some_and(|raw| raw.on.is_some()),
        ..Telemetry::default()
    };
    if telemetry.spool_bytes == Some(SPOOL_BYTES) {
        telemetry.spool_bytes = None;
    }
    let mut last = 0;
    for (number, entry) in (1..).zip(sinks) {
        last = entry.span().start;
        let sink = sink(entry.into_inner(), number).map_err(|m| source.at(last, m))?;
        if telemetry.sinks.iter().any(|other| other.name == sink.name) {
            return Err(source.at(
                last,
                format!(
                    "two receivers of logs are named '{}'; rename one",
                    sink.name
                ),
            ));
        }
        telemetry.sinks.push(sink);
    }
    if (telemetry.spool_bytes.is_some() || telemetry.spool_on_state) && telemetry.sinks.is_empty() {
        return Err(fail(
            "logs.spool: there is no [[log]] that anything could wait for; add one, or leave it out"
                .to_owned(),
        ));
    }
    if let Some(entry) = metrics {
        last = entry.span().start;
        let checked = self::metrics(entry.into_inner()).map_err(|m| source.at(last, m))?;
        telemetry.metrics = Some(checked);
    }
    if let Some((key, value, rule)) = telemetry.problem() {
        return Err(source.at(last, format!("{key} is '{value}'; it must be {rule}")));
    }
    Ok((telemetry != Telemetry::default()).then_some(telemetry))
}

fn spool(raw: &RawSpool, state: Option<&StateSpec>) -> Result<u64, String> {
    let text = raw.size.as_deref().unwrap_or(STATE_SPOOL);
    let size = bytes::size(text).map_err(|m| format!("logs.spool: {m}"))?;
    if raw.on.is_some() {
        let Some(state) = state else {
            return Err(
                "logs.spool: there is no [state] that it could lie on; add one, or write the size alone"
                    .to_owned(),
            );
        };
        if !(SPOOL_STATE_MIN..=SPOOL_MAX).contains(&size) {
            return Err(format!(
                "logs.spool: '{text}' of the state is out of bounds; write \"1MiB\" to \"64MiB\""
            ));
        }
        if size > state.size / 2 {
            return Err(format!(
                "logs.spool: '{text}' is more than half of the state; write less, or a larger state.size"
            ));
        }
        return Ok(size);
    }
    if (SPOOL_MIN..=SPOOL_MAX).contains(&size) {
        return Ok(size);
    }
    Err(format!(
        "logs.spool: '{text}' of memory is out of bounds; write \"16KiB\" to \"64MiB\""
    ))
}

fn sink(raw: RawSink, number: usize) -> Result<Sink, String> {
    let tell = |m: String| format!("log '{}': {m}", raw.to);
    let url = Url::parse(&raw.to, &["tcp", "tls", "udp", "http", "https"]).map_err(tell)?;
    let kind = match (url.scheme, raw.format) {
        ("tcp" | "tls", None | Some(RawFormat::Syslog)) => SinkKind::SyslogTcp,
        ("tcp" | "tls", Some(RawFormat::Json)) => SinkKind::JsonTcp,
        ("udp", None | Some(RawFormat::Syslog)) => SinkKind::SyslogUdp,
        ("http" | "https", None | Some(RawFormat::Otlp)) => SinkKind::OtlpHttp,
        (scheme, _) => {
            let formats = match scheme {
                "tcp" | "tls" => "\"syslog\" or \"json\"",
                "udp" => "\"syslog\"",
                _ => "\"otlp\"",
            };
            return Err(tell(format!(
                "that format does not go over {scheme}; write {formats}, or leave it out"
            )));
        }
    };
    let level = match raw.level.as_deref() {
        None => LEVEL,
        Some(text) => level(text).map_err(tell)?,
    };
    let peer = url
        .peer(kind == SinkKind::OtlpHttp, "/v1/logs", raw.headers.clone())
        .map_err(tell)?;
    Ok(Sink {
        name: raw.name.unwrap_or_else(|| format!("log-{number}")),
        kind,
        peer,
        level,
    })
}

fn level(text: &str) -> Result<u8, String> {
    let number = LEVELS.iter().position(|level| *level == text);
    if let Some(number) = number.and_then(|number| u8::try_from(number).ok()) {
        return Ok(number);
    }
    let hint = match toml_text::nearest(text, LEVELS) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("write one of {}", LEVELS.join(", ")),
    };
    Err(format!("'{text}' is no level; {hint}"))
}

fn metrics(raw: RawMetrics) -> Result<Metrics, String> {
    if raw.port.is_none() && raw.push.is_none() {
        return Err(
            "metrics: they go nowhere; write 'port' (such as 9100), 'push', or both".to_owned(),
        );
    }
    if raw.port == Some(0) {
        return Err("metrics.port: 0 is no port; write 1 to 65535, such as 9100".to_owned());
    }
    if raw.port.is_none() && raw.address.is_some() {
        return Err("metrics.address: there is no port to listen on; write 'port', too".to_owned());
    }
    if raw.push.is_none() && (raw.interval.is_some() || !raw.headers.is_empty()) {
        return Err(
            "metrics: 'interval' and 'headers' are for a push; write 'push', too".to_owned(),
        );
    }
    let push = match &raw.push {
        None => None,
        Some(to) => {
            let tell = |m: String| format!("metrics.push '{to}': {m}");
            let url = Url::parse(to, &["http", "https"]).map_err(tell)?;
            Some(url.peer(true, "/v1/metrics", raw.headers).map_err(tell)?)
        }
    };
    let interval = raw.interval.as_deref().map(values::duration).transpose();
    let interval = interval.map_err(|m| format!("metrics.interval: {m}"))?;
    let millis = interval.map_or(INTERVAL_MS, |interval| {
        u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
    });
    Ok(Metrics {
        port: raw.port.unwrap_or(0),
        address: raw.address.unwrap_or_default(),
        interval_ms: if push.is_some() { millis } else { 0 },
        push,
    })
}

/// `SCHEME://HOST:PORT/PATH`.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str, schemes: &[&str]) -> Result<Self, String> {
        let example = match schemes {
            ["http", _] => "\"http://collector.example.org:4318\"",
            _ => "\"tcp://logs.example.org:601\"",
        };
        let error = |what: &str| format!("{what}; write {}, such as {example}", join(schemes));
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| error("it has no scheme"))?;
        if !schemes.contains(&scheme) {
            return Err(error(&format!("'{scheme}' is no scheme for this")));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(
                "a user and password have no place here; use 'headers' for http".to_owned(),
            );
        }
        let (host, port) = authority
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty() && (!host.contains(':') || host.starts_with('[')))
            .ok_or_else(|| error("host or port is missing"))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("'{port}' is no port; write 1 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
                .ok_or_else(|| format!("'{host}' is no IPv6 address in brackets"))?,
            None => host,
        };
        Ok(Self {
            scheme,
            host,
            port,
            path,
        })
    }

    fn peer(
        &self,
        http: bool,
        path: &str,
        headers: BTreeMap<String, String>,
    ) -> Result<Peer, String> {
        if !http && !self.path.is_empty() {
            return Err(format!(
                "'{}' has no meaning there; leave it out",
                self.path
            ));
        }
        if !http && !headers.is_empty() {
            return Err("'headers' are for http; leave them out".to_owned());
        }
        let path = match (http, self.path) {
            (false, _) => "",
            (true, "" | "/") => path,
            (true, own) => own,
        };
        let peer = Peer {
            host: self.host.to_owned(),
            port: self.port,
            tls: matches!(self.scheme, "tls" | "https"),
            path: path.to_owned(),
            headers,
        };
        match peer.problem() {
            None => Ok(peer),
            Some((key, value, rule)) => Err(format!("{key} '{value}': it must be {rule}")),
        }
    }
}

fn join(schemes: &[&str]) -> String {
    let forms: Vec<String> = schemes
        .iter()
        .map(|scheme| match *scheme {
            "http" | "https" => format!("{scheme}://HOST:PORT/PATH"),
            scheme => format!("{scheme}://HOST:PORT"),
        })
        .collect();
    forms.join(" or ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::spec::{SPEC_FILE, load};

    fn telemetry(rest: &str) -> Result<Option<Telemetry>, String> {
        let dir = tempfile::tempdir().unwrap();
        let head = "name = \"app\"\nversion = \"1\"\n[[layer]]\nname = \"app\"\n";
        fs::write(dir.path().join(SPEC_FILE), format!("{head}{rest}")).unwrap();
        let image = load(dir.path()).map_err(|error| error.to_string())?;
        Ok(image.telemetry)
    }

    #[test]
    fn everything_that_may_be_said() {
        let told = telemetry(
            "[logs]\nconsole = \"json\"\nspool = \"1MiB\"\n\
             [[log]]\nto = \"tcp://logs.example.org:601\"\n\
             [[log]]\nto = \"udp://10.0.2.2:514\"\nlevel = \"err\"\nname = \"old\"\n\
             [[log]]\nto = \"tcp://[fd00::1]:5000\"\nformat = \"json\"\n\
             [[log]]\nto = \"http://otel:4318\"\nheaders = { x-key = \"a b\" }\n\
             [[log]]\nto = \"tls://logs.example.org:6514\"\n\
             [[log]]\nto = \"https://otel:4318\"\n\
             [metrics]\nport = 9100\npush = \"http://otel:4318/push\"\ninterval = \"30s\"\n",
        );
        let told = serde_json::to_value(told.unwrap().unwrap()).unwrap();
        let peer = |host: &str, port: u16| serde_json::json!({ "host": host, "port": port });
        let expected = serde_json::json!({
            "console_json": true,
            "spool_bytes": 1 << 20,
            "sinks": [
                { "name": "log-1", "kind": "syslog-tcp", "peer": peer("logs.example.org", 601), "level": 6 },
                { "name": "old", "kind": "syslog-udp", "peer": peer("10.0.2.2", 514), "level": 3 },
                { "name": "log-3", "kind": "json-tcp", "peer": peer("fd00::1", 5000), "level": 6 },
                { "name": "log-4", "kind": "otlp-http", "level": 6, "peer": {
                    "host": "otel", "port": 4318, "path": "/v1/logs", "headers": { "x-key": "a b" } } },
                { "name": "log-5", "kind": "syslog-tcp", "level": 6, "peer": {
                    "host": "logs.example.org", "port": 6514, "tls": true } },
                { "name": "log-6", "kind": "otlp-http", "level": 6, "peer": {
                    "host": "otel", "port": 4318, "tls": true, "path": "/v1/logs" } },
            ],
            "metrics": { "port": 9100, "interval_ms": 30_000, "push": {
                "host": "otel", "port": 4318, "path": "/push" } },
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn a_spool_on_the_state_needs_one_that_has_room() {
        let image = |spool: &str, state: &str| {
            telemetry(&format!(
                "[logs]\nspool = {spool}\n[[log]]\nto = \"tcp://a:1\"\n{state}"
            ))
        };
        let state = "[state]\npaths = [\"/var/lib/app\"]\nsize = \"16MiB\"\n";
        for (spool, bytes) in [
            ("{ on = \"state\" }", 4 << 20),
            ("{ on = \"state\", size = \"8MiB\" }", 8 << 20),
        ] {
            let told = image(spool, state).unwrap().unwrap();
            assert_eq!((told.spool_bytes, told.spool_on_state), (Some(bytes), true));
        }
        for (spool, state, expected) in [
            ("{ on = \"state\" }", "", "there is no [state]"),
            (
                "{ on = \"state\", size = \"9MiB\" }",
                state,
                "'9MiB' is more than half of the state",
            ),
            (
                "{ on = \"state\", size = \"64KiB\" }",
                state,
                "'64KiB' of the state is out of bounds",
            ),
            (
                "{ on = \"sate\" }",
                state,
                "unknown value 'sate'; did you mean 'state'?",
            ),
            (
                "{ on = \"state\", sise = \"4MiB\" }",
                state,
                "unknown key 'sise'; did you mean 'size'?",
            ),
            ("{ size = \"4MiB\" }", state, "on"),
            ("7", state, "a size, or a table"),
        ] {
            let error = image(spool, state).expect_err(spool);
            assert!(error.contains(expected), "{error}\nhas no {expected}");
        }
        let error = telemetry(&format!("[logs]\nspool = {{ on = \"state\" }}\n{state}"));
        let error = error.unwrap_err();
        assert!(error.contains("there is no [[log]]"), "{error}");
    }

    #[test]
    fn what_is_not_used_does_not_reach_the_machine() {
        assert_eq!(telemetry("").unwrap(), None);
        assert_eq!(telemetry("[logs]\nconsole = \"human\"\n").unwrap(), None);
    }

    #[test]
    fn refusals_name_the_line_the_value_and_the_remedy() {
        let log = |rest: &str| format!("[[log]]\n{rest}\n");
        for (text, expected) in [
            (
                log("to = \"logs:601\""),
                "slipform.toml:5: log 'logs:601': it has no scheme; write tcp://HOST:PORT or ",
            ),
            (
                log("to = \"ftp://a:1\""),
                "'ftp' is no scheme for this; write tcp://HOST:PORT",
            ),
            (log("to = \"tls://a:6514/x\""), "'/x' has no meaning there"),
            (
                log("to = \"https://a:1\"\nformat = \"json\""),
                "that format does not go over https; write \"otlp\"",
            ),
            (log("to = \"tcp://a\""), "host or port is missing"),
            (log("to = \"tcp://::1:5\""), "host or port is missing"),
            (
                log("to = \"tcp://[::x]:5\""),
                "'[::x]' is no IPv6 address in brackets",
            ),
            (log("to = \"tcp://a:0\""), "'0' is no port"),
            (log("to = \"tcp://a_:1/x\""), "'/x' has no meaning there"),
            (
                log("to = \"tcp://a b:1\""),
                "host 'a b': it must be a numeric address or a domain name",
            ),
            (
                log("to = \"http://u:p@a:1\""),
                "a user and password have no place here",
            ),
            (
                log("to = \"udp://a:1\"\nformat = \"json\""),
                "that format does not go over udp; write \"syslog\"",
            ),
            (
                log("to = \"http://a:1\"\nformat = \"syslog\""),
                "write \"otlp\"",
            ),
            (
                log("to = \"tcp://a:1\"\nlevel = \"warn\""),
                "'warn' is no level; did you mean 'warning'?",
            ),
            (
                log("to = \"tcp://a:1\"\nheaders = { x = \"y\" }"),
                "'headers' are for http",
            ),
            (
                log("to = \"http://a:1\"\nheaders = { Host = \"y\" }"),
                "headers 'Host': it must be a name",
            ),
            (
                log("to = \"tcp://a:1\"\nname = \"a b\""),
                "sinks.name is 'a b'; it must be 1 to 64",
            ),
            (
                log("to = \"tcp://a:1\"\nfomat = \"json\""),
                "unknown key 'fomat'; did you mean 'format'?",
            ),
            (
                format!(
                    "{}{}",
                    log("to = \"tcp://a:1\"\nname = \"x\""),
                    log("to = \"tcp://a:1\"\nname = \"x\"")
                ),
                "two receivers of logs are named 'x'",
            ),
            (
                log("to = \"tcp://a:1\"").repeat(17),
                "the number of sinks is '17'; it must be at most 16",
            ),
            (
                "[logs]\nspool = \"1KiB\"\n".to_owned(),
                "'1KiB' of memory is out of bounds",
            ),
            (
                "[logs]\nspool = \"1MiB\"\n".to_owned(),
                "there is no [[log]] that anything could wait for",
            ),
            (
                "[logs]\nconsole = \"jsn\"\n".to_owned(),
                "unknown value 'jsn'; did you mean 'json'?",
            ),
            (
                "[metrics]\n".to_owned(),
                "slipform.toml:5: metrics: they go nowhere",
            ),
            (
                "[metrics]\nport = 0\n".to_owned(),
                "metrics.port: 0 is no port",
            ),
            (
                "[metrics]\npush = \"tcp://a:1\"\n".to_owned(),
                "metrics.push 'tcp://a:1': 'tcp' is no scheme for this; write http://HOST:PORT/PATH",
            ),
            (
                "[metrics]\nport = 1\naddress = \"lo\"\n".to_owned(),
                "metrics.address is 'lo'; it must be a numeric address",
            ),
            (
                "[metrics]\naddress = \"::1\"\npush = \"http://a:1\"\n".to_owned(),
                "there is no port to listen on",
            ),
            (
                "[metrics]\nport = 1\ninterval = \"5s\"\n".to_owned(),
                "are for a push; write 'push', too",
            ),
            (
                "[metrics]\npush = \"http://a:1\"\ninterval = \"5ms\"\n".to_owned(),
                "metrics.interval is '5 ms'; it must be 1 second",
            ),
        ] {
            let error = telemetry(&text).expect_err(&text);
            assert!(error.contains(expected), "{error}\nhas no {expected}");
        }
    }
}
