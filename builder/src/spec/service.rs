//! Raw to checked: services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipform_init::contract::machine::IdentityField;
use toml::Spanned;

use crate::base::toml as toml_text;

use super::check::{Source, check_order};
use super::image::{Ready, Restart, ServiceSpec};
use super::raw::{RawReady, RawRestart, RawService};
use super::{SpecError, care, values};

/// Linux capabilities by number (`linux/capability.h`).
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Resource limits by number (`asm-generic/resource.h`).
pub const LIMITS: &[&str] = &[
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Checks all services and their order.
pub(super) fn check_all(
    raw: Vec<Spanned<RawService>>,
    source: &Source<'_>,
) -> Result<Vec<ServiceSpec>, SpecError> {
    let mut names = BTreeSet::new();
    let mut services = Vec::new();
    let mut first = 0;
    for entry in raw {
        let start = entry.span().start;
        first = if services.is_empty() { start } else { first };
        let service = check(entry.into_inner()).map_err(|m| source.at(start, m))?;
        if !names.insert(service.name.clone()) {
            return Err(source.at(
                start,
                format!("two services are named '{}'; rename one", service.name),
            ));
        }
        services.push(service);
    }
    check_order(&services).map_err(|m| source.at(first, m))?;
    Ok(services)
}

fn check(raw: RawService) -> Result<ServiceSpec, String> {
    values::name(&raw.name).map_err(|m| format!("service name: {m}"))?;
    let name = raw.name.clone();
    let tell = |m: String| format!("service '{name}': {m}");
    let program = raw.exec.first().ok_or_else(|| {
        tell("exec is empty; write the program's absolute path and its arguments".to_owned())
    })?;
    values::guest_path(program).map_err(|m| tell(format!("exec: {m}")))?;
    if raw
        .exec
        .iter()
        .chain(raw.env.keys())
        .chain(raw.env.values())
        .any(|text| text.contains('\0'))
    {
        return Err(tell("exec and env must not contain a NUL byte".to_owned()));
    }
    for user in raw.user.iter().chain(&raw.group).chain(&raw.groups) {
        values::name(user).map_err(|m| tell(format!("user or group: {m}")))?;
    }
    for capability in &raw.capabilities {
        known(capability, CAPABILITIES, "capability").map_err(tell)?;
    }
    for limit in raw.limits.keys() {
        known(limit, LIMITS, "limit").map_err(tell)?;
    }
    for name in &raw.credentials {
        credential(name).map_err(tell)?;
    }
    if !raw.credentials.is_empty() && raw.env.contains_key(CREDENTIALS_DIRECTORY) {
        return Err(tell(format!(
            "env: {CREDENTIALS_DIRECTORY} is set by slipform for its credentials; leave it out"
        )));
    }
    let identity_env = identity_env(&raw.identity_env, &raw.env).map_err(tell)?;
    let care = care::check(&raw).map_err(tell)?;
    let (ready, ready_timeout) = ready(raw.ready.unwrap_or_default()).map_err(tell)?;
    care::check_kind(&care, raw.restart, &ready).map_err(tell)?;
    Ok(ServiceSpec {
        user: raw.user.unwrap_or_else(|| "root".to_owned()),
        group: raw.group,
        groups: raw.groups,
        workdir: values::guest_path(raw.workdir.as_deref().unwrap_or("/")).map_err(tell)?,
        restart: match raw.restart {
            Some(RawRestart::Always) => Restart::Always,
            Some(RawRestart::OnFailure) | None => Restart::OnFailure,
            Some(RawRestart::Never) => Restart::Never,
        },
        stop_signal: care.stop_signal,
        kind: care.kind,
        pre_start: raw.pre_start,
        env_files: raw.env_file,
        start_limit: care.start_limit,
        resources: care.resources,
        sandbox: care.sandbox,
        sockets: care.sockets,
        watchdog: care.watchdog,
        health: care.health,
        stop_timeout: values::duration(raw.stop_timeout.as_deref().unwrap_or("10s"))
            .map_err(tell)?,
        ready,
        ready_timeout,
        exec: raw.exec,
        env: raw.env,
        after: raw.after,
        capabilities: raw.capabilities,
        limits: raw.limits,
        credentials: raw.credentials,
        identity_env,
        name,
    })
}

/// What a service finds its credentials by.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A credential's name: a plain file name, as init takes it.
pub(super) fn credential(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=255).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "credential '{name}' is no name; write 1 to 255 letters, digits, '.', '_' or '-', and no '.' first"
    ))
}

fn identity_env(
    raw: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, IdentityField>, String> {
    let mut checked = BTreeMap::new();
    for (name, field) in raw {
        if name.is_empty() || name.contains(['=', '\0']) || env.contains_key(name) {
            return Err(format!(
                "identity-env: '{name}' must be a name that env does not have, without '='"
            ));
        }
        let fields = IdentityField::ALL;
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        known(field, &names, "identity-env field")?;
        let found = fields.into_iter().find(|known| known.name() == field);
        checked.extend(found.map(|found| (name.clone(), found)));
    }
    Ok(checked)
}

pub(super) fn known(name: &str, table: &[&str], what: &str) -> Result<(), String> {
    if table.contains(&name) {
        return Ok(());
    }
    let hint = toml_text::nearest(name, table.iter().copied()).map_or_else(
        || format!("known: {}", table.join(", ")),
        |near| format!("did you mean '{near}'?"),
    );
    Err(format!("unknown {what} '{name}'; {hint}"))
}

/// One of them must be given.
fn ready(raw: RawReady) -> Result<(Ready, Duration), String> {
    let timeout = values::duration(raw.timeout.as_deref().unwrap_or("30s"))?;
    let ready = match (raw.tcp, raw.http, raw.log, raw.notify) {
        (None, None, None, false) => Ready::Started,
        (Some(address), None, None, false) => Ready::Tcp(socket("ready", &address)?),
        (None, Some(url), None, false) => Ready::Http(http("ready", &url)?),
        (None, None, Some(text), false) if !text.is_empty() => Ready::Log(text),
        (None, None, None, true) => Ready::Notify,
        _ => return Err("ready takes exactly one of tcp, http, log and notify".to_owned()),
    };
    Ok((ready, timeout))
}

/// `http://address:port/path` with a numeric address.
pub(super) fn http(what: &str, url: &str) -> Result<String, String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("{what}.http: '{url}' must start with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    Ok(format!("http://{}/{path}", socket(what, &host)?))
}

/// `address:port` with a numeric address: init asks no name server about its own machine.
pub(super) fn socket(what: &str, text: &str) -> Result<String, String> {
    let numeric = text.replace("localhost:", "127.0.0.1:");
    let address: std::net::SocketAddr = numeric.parse().map_err(|_| {
        format!(
            "{what}: '{text}' is no address; write a numeric one and a port, such as 127.0.0.1:8080"
        )
    })?;
    Ok(address.to_string())
}
