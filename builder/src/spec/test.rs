//! Raw to checked: tests and allowances.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use slipform_init::contract::event::ServiceState;
use slipform_qemu_tests::{
    Allowance, Check, Day, HttpProbe, Metadata, MetadataSource, Probe, Step, TcpStep,
    allowable_checks, built_in_checks, check_json_path, check_pattern,
};
use toml::Spanned;

use crate::base::toml as toml_text;
use crate::board::metadata_sources;

use super::check::Source;
use super::image::{ServiceSpec, StateSpec};
use super::raw::{
    RawAllow, RawCloud, RawHttp, RawJson, RawLog, RawServiceState, RawStateFile, RawStep, RawTcp,
    RawTest, RawTestMetadata,
};
use super::{SpecError, values};

/// More tries than this are a mistake.
const MOST_RETRIES: u32 = 1000;
/// More steps than this are several tests.
const MOST_STEPS: usize = 100;
/// States by their names.
const STATES: [(&str, ServiceState); 7] = [
    ("waiting", ServiceState::Waiting),
    ("started", ServiceState::Started),
    ("ready", ServiceState::Ready),
    ("exited", ServiceState::Exited),
    ("backoff", ServiceState::Backoff),
    ("failed", ServiceState::Failed),
    ("stopped", ServiceState::Stopped),
];
/// What a step can be.
const KINDS: &str = "http, tcp, console, console-absent, service, log and file";

/// Longest text that is looked for in a file: it travels in one line.
const LONGEST_TEXT: usize = 512;

/// What a test may speak of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) services: &'a [ServiceSpec],
    pub(super) state: Option<&'a StateSpec>,
}

/// All tests of an image.
pub(super) fn check_all(
    raw: Vec<Spanned<RawTest>>,
    names: &Names<'_>,
    source: &Source<'_>,
) -> Result<Vec<Check>, SpecError> {
    let mut taken: BTreeSet<String> = built_in_checks().map(str::to_owned).collect();
    raw.into_iter()
        .map(|entry| {
            let start = entry.span().start;
            let test = entry.into_inner();
            if test.name.is_empty() || !taken.insert(test.name.clone()) {
                return Err(source.at(
                    start,
                    format!(
                        "test name '{}' is empty, used twice, or that of a built-in check; write a sentence of its own",
                        test.name
                    ),
                ));
            }
            let name = test.name.clone();
            check(test, names).map_err(|m| source.at(start, format!("test '{name}'{m}")))
        })
        .collect()
}

/// One test. Errors begin with ` must` or `: `, for the name stands in front.
fn check(raw: RawTest, names: &Names<'_>) -> Result<Check, String> {
    let limit = raw.timeout.as_deref().map(limit).transpose();
    let limit = limit.map_err(|m| format!(": timeout: {m}"))?;
    if raw.retries.is_some_and(|retries| retries > MOST_RETRIES) {
        return Err(format!(
            ": retries must be at most {MOST_RETRIES}; use timeout to wait longer"
        ));
    }
    let single = Probes {
        http: raw.http,
        tcp: raw.tcp,
        console: raw.console,
        console_absent: raw.console_absent,
        service: raw.service,
        log: raw.log,
        file: raw.file,
    };
    let mut probes = single.all(names)?;
    let steps = match (probes.pop(), raw.steps) {
        (Some(probe), steps) if probes.is_empty() && steps.is_empty() => vec![Step::Probe(probe)],
        (None, steps) if !steps.is_empty() => many(steps, names)?,
        _ => {
            return Err(format!(
                " must have exactly one of {KINDS}, or several of them in steps"
            ));
        }
    };
    let metadata = raw.metadata.map(cloud).transpose();
    Ok(Check {
        name: raw.name,
        steps,
        limit,
        retries: raw.retries,
        metadata: metadata.map_err(|m| format!(": metadata: {m}"))?,
    })
}

/// Days by their names.
const DAYS: [(&str, Day); 9] = [
    ("good", Day::Good),
    ("slow", Day::Slow),
    ("late", Day::Late),
    ("unauthorized", Day::Unauthorized),
    ("busy", Day::Busy),
    ("failing", Day::Failing),
    ("malformed", Day::Malformed),
    ("huge", Day::Huge),
    ("silent", Day::Silent),
];

/// The cloud that a test wants.
fn cloud(raw: RawTestMetadata) -> Result<Metadata, String> {
    let raw = match raw {
        RawTestMetadata::Table(raw) => raw,
        RawTestMetadata::Name(source) => RawCloud {
            source,
            instance_id: None,
            hostname: None,
            user_data: None,
            credentials: BTreeMap::new(),
            day: None,
        },
    };
    let source = metadata_sources(std::slice::from_ref(&raw.source))?;
    let [source] = source.as_slice() else {
        return Err("source must name one".to_owned());
    };
    let mut metadata = Metadata::of(*source);
    let line = |what: &str, text: String| match text.is_empty() || text.contains(char::is_control) {
        true => Err(format!("{what} must be one line with something in it")),
        false => Ok(text),
    };
    if let Some(id) = raw.instance_id {
        metadata.instance_id = line("instance-id", id)?;
    }
    if let Some(name) = raw.hostname {
        metadata.hostname = line("hostname", name)?;
    }
    for name in raw.credentials.keys() {
        super::service::credential(name)?;
    }
    let alone = matches!(source, MetadataSource::Smbios | MetadataSource::FwCfg);
    match (&raw.user_data, raw.credentials.is_empty(), alone) {
        (Some(_), _, true) => {
            return Err(format!(
                "{} carries no user-data; leave it out",
                source.name()
            ));
        }
        (Some(_), false, false) => {
            return Err(
                "a cloud carries credentials in its user-data; write one of the two".to_owned(),
            );
        }
        _ => {}
    }
    let day = raw.day.as_deref().unwrap_or("good");
    let known = DAYS.iter().find(|(name, _)| *name == day);
    let (_, day) = known.ok_or_else(|| {
        let names: Vec<&str> = DAYS.iter().map(|(name, _)| *name).collect();
        format!("day '{day}' is none; write {}", names.join(", "))
    })?;
    (metadata.user_data, metadata.credentials) = (raw.user_data, raw.credentials);
    metadata.day = *day;
    Ok(metadata)
}

fn many(raw: Vec<RawStep>, names: &Names<'_>) -> Result<Vec<Step>, String> {
    if raw.len() > MOST_STEPS {
        return Err(format!(
            ": at most {MOST_STEPS} steps make a test; write several tests"
        ));
    }
    let numbered = raw.into_iter().enumerate();
    numbered
        .map(|(n, raw)| step(raw, names).map_err(|m| format!(": step {}{m}", n + 1)))
        .collect()
}

fn step(raw: RawStep, names: &Names<'_>) -> Result<Step, String> {
    let probes = Probes {
        http: raw.http,
        tcp: raw.tcp,
        console: raw.console,
        console_absent: raw.console_absent,
        service: raw.service,
        log: raw.log,
        file: raw.file,
    };
    let mut steps: Vec<Step> = probes.all(names)?.into_iter().map(Step::Probe).collect();
    if let Some(wait) = raw.wait {
        steps.push(Step::Wait(
            limit(&wait).map_err(|m| format!(": wait: {m}"))?,
        ));
    }
    if raw.reboot {
        steps.push(Step::Reboot);
    }
    if raw.power_cut {
        steps.push(Step::PowerCut);
    }
    match (steps.pop(), steps.is_empty()) {
        (Some(step), true) => Ok(step),
        _ => Err(format!(
            " must have exactly one of {KINDS}, wait, reboot = true and power-cut = true"
        )),
    }
}

/// A time that a run can take.
fn limit(text: &str) -> Result<Duration, String> {
    let limit = values::duration(text)?;
    if limit.is_zero() || limit > Duration::from_secs(3600) {
        return Err(format!(
            "'{text}' must be more than nothing and at most an hour"
        ));
    }
    Ok(limit)
}

/// What can be looked at, as written.
struct Probes {
    http: Option<RawHttp>,
    tcp: Option<RawTcp>,
    console: Option<String>,
    console_absent: Option<String>,
    service: Option<RawServiceState>,
    log: Option<RawLog>,
    file: Option<RawStateFile>,
}

impl Probes {
    /// All that is there, checked.
    fn all(self, names: &Names<'_>) -> Result<Vec<Probe>, String> {
        let pattern = |what: &str, matches: String| {
            check_pattern(&matches).map_err(|m| format!(": {what}: {m}"))?;
            Ok::<_, String>(matches)
        };
        let mut probes = Vec::new();
        if let Some(raw) = self.http {
            probes.push(Probe::Http(http(raw).map_err(|m| format!(": http: {m}"))?));
        }
        if let Some(raw) = self.tcp {
            probes.push(tcp(raw).map_err(|m| format!(": tcp: {m}"))?);
        }
        if let Some(text) = self.console {
            let matches = pattern("console", text)?;
            probes.push(Probe::Console { matches });
        }
        if let Some(text) = self.console_absent {
            let matches = pattern("console-absent", text)?;
            probes.push(Probe::ConsoleAbsent { matches });
        }
        if let Some(raw) = self.service {
            let name = known(raw.name, names).map_err(|m| format!(": service: {m}"))?;
            let state = state(raw.state.as_deref().unwrap_or("ready"))
                .map_err(|m| format!(": service: {m}"))?;
            probes.push(Probe::Service { name, state });
        }
        if let Some(raw) = self.log {
            let service = known(raw.service, names).map_err(|m| format!(": log: {m}"))?;
            let matches = pattern("log", raw.matches)?;
            probes.push(Probe::Log { service, matches });
        }
        if let Some(raw) = self.file {
            probes.push(file(raw, names.state).map_err(|m| format!(": file: {m}"))?);
        }
        Ok(probes)
    }
}

fn http(raw: RawHttp) -> Result<HttpProbe, String> {
    port(raw.port)?;
    let path = raw.path.unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "path '{path}' must start with / and have no spaces"
        ));
    }
    let default = if raw.body.is_some() { "POST" } else { "GET" };
    let method = raw.method.unwrap_or_else(|| default.to_owned());
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "method '{method}' is none; write it in capitals, such as \"PUT\""
        ));
    }
    for (name, value) in &raw.headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || value.contains(char::is_control) {
            return Err(format!(
                "header '{name}' is none; write letters, digits and '-', and its value on one line"
            ));
        }
        if ["content-length", "connection", "transfer-encoding"]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
        {
            return Err(format!(
                "header '{name}' is set by slipform itself; leave it out"
            ));
        }
    }
    let status = raw.status.unwrap_or(200);
    if !(100..=599).contains(&status) {
        return Err(format!("status {status} is none; write 100 to 599"));
    }
    for path in raw.json.keys() {
        check_json_path(path).map_err(|m| format!("json: {m}"))?;
    }
    let json = raw
        .json
        .into_iter()
        .map(|(path, value)| (path, json(value)));
    Ok(HttpProbe {
        port: raw.port,
        method,
        path,
        headers: raw.headers,
        body: raw.body,
        status,
        contains: raw.contains,
        json: json.collect(),
    })
}

fn json(raw: RawJson) -> Value {
    match raw {
        RawJson::Truth(truth) => truth.into(),
        RawJson::Number(number) => number.into(),
        RawJson::Float(number) => number.into(),
        RawJson::Text(text) => text.into(),
        RawJson::List(list) => list.into_iter().map(json).collect(),
    }
}

fn tcp(raw: RawTcp) -> Result<Probe, String> {
    port(raw.port)?;
    if raw.steps.is_empty() {
        return Err(
            "it needs steps, such as [{ send = \"PING\\r\\n\", expect = \"PONG\" }]".to_owned(),
        );
    }
    let steps = raw.steps.into_iter().map(|step| TcpStep {
        send: step.send,
        expect: step.expect,
    });
    Ok(Probe::Tcp {
        port: raw.port,
        steps: steps.collect(),
    })
}

fn port(port: u16) -> Result<(), String> {
    if port == 0 {
        return Err("port 0 is none; write 1 to 65535".to_owned());
    }
    Ok(())
}

fn file(raw: RawStateFile, state: Option<&StateSpec>) -> Result<Probe, String> {
    let path = values::guest_path(&raw.path)?;
    let kept = state
        .map(|state| state.paths.as_slice())
        .unwrap_or_default();
    if !kept
        .iter()
        .any(|kept| Path::new(&path).starts_with(&kept.path))
    {
        let paths: Vec<&str> = kept.iter().map(|kept| kept.path.as_str()).collect();
        return Err(match paths.as_slice() {
            [] => format!(
                "'{path}' can only be looked at on a state partition; add [state] with its folder to paths"
            ),
            paths => format!(
                "'{path}' is not on the state partition; name a file below {}",
                paths.join(" or ")
            ),
        });
    }
    let exists = raw.exists.unwrap_or(true);
    if !exists && raw.contains.is_some() {
        return Err(
            "a file that must not be there contains nothing; leave contains out".to_owned(),
        );
    }
    if raw
        .contains
        .as_ref()
        .is_some_and(|text| text.is_empty() || text.len() > LONGEST_TEXT)
    {
        return Err(format!("contains must have 1 to {LONGEST_TEXT} bytes"));
    }
    Ok(Probe::File {
        path,
        exists,
        contains: raw.contains,
    })
}

/// A service of this image.
fn known(name: String, names: &Names<'_>) -> Result<String, String> {
    let services = names.services;
    if services.iter().any(|service| service.name == name) {
        return Ok(name);
    }
    let near = toml_text::nearest(&name, services.iter().map(|s| s.name.as_str()));
    let hint = near.map_or_else(
        || "name a [[service]] of this image".to_owned(),
        |near| format!("did you mean '{near}'?"),
    );
    Err(format!("'{name}' is no service; {hint}"))
}

fn state(text: &str) -> Result<ServiceState, String> {
    let found = STATES.iter().find(|(name, _)| *name == text);
    found.map(|(_, state)| *state).ok_or_else(|| {
        let names: Vec<&str> = STATES.iter().map(|(name, _)| *name).collect();
        format!("'{text}' is no state; write {}", names.join(", "))
    })
}

/// All allowances of an image.
pub(super) fn allowances(
    raw: Vec<Spanned<RawAllow>>,
    source: &Source<'_>,
) -> Result<Vec<Allowance>, SpecError> {
    let mut checks = BTreeSet::new();
    raw.into_iter()
        .map(|entry| {
            let start = entry.span().start;
            let allow = entry.into_inner();
            if !checks.insert(allow.check.clone()) {
                let message = format!("'{}' is allowed twice; keep one [[allow]]", allow.check);
                return Err(source.at(start, message));
            }
            allowance(allow).map_err(|m| source.at(start, format!("allow: {m}")))
        })
        .collect()
}

fn allowance(raw: RawAllow) -> Result<Allowance, String> {
    if !allowable_checks().any(|name| name == raw.check) {
        let names: Vec<&str> = allowable_checks().collect();
        if built_in_checks().any(|name| name == raw.check) {
            return Err(format!(
                "'{}' cannot be allowed to fail: the image would not be what was cast, or not run; only these can: {}",
                raw.check,
                names.join(", ")
            ));
        }
        let hint = toml_text::nearest(&raw.check, names.iter().copied()).map_or_else(
            || format!("write one of: {}", names.join(", ")),
            |near| format!("did you mean '{near}'?"),
        );
        return Err(format!("'{}' is no built-in check; {hint}", raw.check));
    }
    if raw.reason.trim().is_empty() {
        return Err("reason is empty; say why, for those who come after you".to_owned());
    }
    if !is_day(&raw.expires) {
        return Err(format!(
            "expires: '{}' is no day; write it as \"2027-01-31\"",
            raw.expires
        ));
    }
    Ok(Allowance {
        check: raw.check,
        reason: raw.reason,
        expires: raw.expires,
    })
}

/// `YYYY-MM-DD`, a day of the calendar.
fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else {
        return false;
    };
    let number = |text: &str, length: usize| {
        let digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2))
    else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_of_the_calendar() {
        for good in ["2027-01-31", "2024-02-29", "2000-02-29", "9999-12-31"] {
            assert!(is_day(good), "{good}");
        }
        let bad = [
            "",
            "2027-1-31",
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-04-31",
            "2027-01-00",
            "2027-01-01-",
            "+027-01-01",
        ];
        for bad in bad {
            assert!(!is_day(bad), "{bad}");
        }
    }
}
