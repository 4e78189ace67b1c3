//! Raw to checked: how a service and the machine are looked after. Kinds, limits,
//! sandbox, sockets, hooks, health.

use std::time::Duration;

use slipform_init::contract::machine::Ready as Probe;
use slipform_init::contract::service::{
    Health, Kind, MAX_SOCKETS, MachineHealth, Resources, Sandbox, Socket, SocketAddress,
    StartLimit, Then,
};

use crate::base::bytes;

use super::image::Ready;
use super::raw::{
    RawHealth, RawKind, RawMachineHealth, RawResources, RawRestart, RawSandbox, RawService,
    RawSocket, RawThen,
};
use super::{service, values};

/// Signals that a service may be stopped by, and their numbers on x86 and ARM (signal(7)).
const SIGNALS: &[(&str, i32)] = &[
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGTERM", 15),
    ("SIGWINCH", 28),
];
/// The least that a process starts in.
const LEAST_MEMORY: u64 = 1 << 20;
/// More processors than a machine has.
const MOST_CPU: u64 = 1024 * 100;
/// What counters of the health policy may be.
const COUNTS: std::ops::RangeInclusive<u32> = 1..=100;

/// What is checked here of a service.
pub(super) struct Care {
    pub(super) kind: Kind,
    pub(super) stop_signal: i32,
    pub(super) start_limit: Option<StartLimit>,
    pub(super) resources: Resources,
    pub(super) sandbox: Sandbox,
    pub(super) sockets: Vec<Socket>,
    pub(super) watchdog: Option<Duration>,
    pub(super) health: Option<Health>,
}

/// Checks it; the text says value, rule and remedy.
pub(super) fn check(raw: &RawService) -> Result<Care, String> {
    for hook in &raw.pre_start {
        let program = hook
            .first()
            .ok_or("pre-start: a program is empty; write its absolute path and its arguments")?;
        values::guest_path(program).map_err(|m| format!("pre-start: {m}"))?;
        if hook.iter().any(|text| text.contains('\0')) {
            return Err("pre-start must not contain a NUL byte".to_owned());
        }
    }
    for path in &raw.env_file {
        values::guest_path(path).map_err(|m| format!("env-file: {m}"))?;
    }
    let limit = raw.start_limit.as_ref().map(|limit| {
        Ok::<_, String>(StartLimit {
            starts: count("start-limit.starts", Some(limit.starts), 1)?,
            then: then(limit.then),
        })
    });
    Ok(Care {
        kind: kind(raw)?,
        stop_signal: raw.stop_signal.as_deref().map_or(Ok(0), signal)?,
        start_limit: limit.transpose()?,
        resources: resources(&raw.resources)?,
        sandbox: sandbox(&raw.sandbox)?,
        sockets: sockets(&raw.sockets)?,
        watchdog: raw.watchdog.as_deref().map(watchdog).transpose()?,
        health: raw.health.as_ref().map(health).transpose()?,
    })
}

/// Checks what depends on the kind of program.
pub(super) fn check_kind(
    care: &Care,
    restart: Option<RawRestart>,
    ready: &Ready,
) -> Result<(), String> {
    let watched = care.health.is_some() || care.watchdog.is_some();
    let never = matches!(restart, Some(RawRestart::Never));
    match care.kind {
        Kind::Daemon if watched && never => {
            Err("health and watchdog restart a service, and restart = \"never\" forbids it; leave one of them out".to_owned())
        }
        Kind::Daemon => Ok(()),
        Kind::Oneshot | Kind::Every(_) if *ready != Ready::Started => {
            Err("a oneshot or timer is ready by what it does; leave out ready's tcp, http, log and notify".to_owned())
        }
        Kind::Oneshot | Kind::Every(_) if watched => {
            Err("health and watchdog are for a service that keeps running; leave them out of a oneshot or timer".to_owned())
        }
        Kind::Oneshot if matches!(restart, Some(RawRestart::Always)) => {
            Err("a oneshot that ended well is done; write restart = \"on-failure\" or \"never\"".to_owned())
        }
        Kind::Every(_) if restart.is_some() || care.start_limit.is_some() => {
            Err("a timer's next run is its restart; leave out restart and start-limit".to_owned())
        }
        Kind::Oneshot | Kind::Every(_) => Ok(()),
    }
}

/// `[health]`.
pub(super) fn machine(raw: &RawMachineHealth) -> Result<MachineHealth, String> {
    let default = MachineHealth::default();
    let seconds = |what: &str, text: &Option<String>, default: u32, least: u64, most: u64| {
        let Some(text) = text else {
            return Ok(default);
        };
        let value = values::duration(text).map_err(|m| format!("health.{what}: {m}"))?;
        match value.as_secs() {
            seconds if value.subsec_millis() == 0 && (least..=most).contains(&seconds) => {
                Ok(u32::try_from(seconds).unwrap_or(default))
            }
            _ => Err(format!(
                "health.{what}: '{text}' must be whole seconds from {least} to {most}"
            )),
        }
    };
    let off = raw
        .watchdog
        .as_deref()
        .is_some_and(|text| values::duration(text) == Ok(Duration::ZERO));
    let least = if off { 0 } else { 5 };
    Ok(MachineHealth {
        watchdog_seconds: seconds(
            "watchdog",
            &raw.watchdog,
            default.watchdog_seconds,
            least,
            600,
        )?,
        boots: count("health.boots", raw.boots, default.boots)?,
        healthy_seconds: seconds(
            "healthy-after",
            &raw.healthy_after,
            default.healthy_seconds,
            0,
            86_400,
        )?,
    })
}

/// Seconds from a kernel panic to the next start of an image that says nothing of it.
pub(super) const PANIC_SECONDS: u32 = 10;

/// Seconds from a kernel panic to the next start.
pub(super) fn panic(raw: &RawMachineHealth) -> Result<u32, String> {
    let Some(text) = raw.panic.as_deref() else {
        return Ok(PANIC_SECONDS);
    };
    let value = values::duration(text).map_err(|m| format!("health.panic: {m}"))?;
    u32::try_from(value.as_secs())
        .ok()
        .filter(|seconds| (1..=3600).contains(seconds) && value.subsec_millis() == 0)
        .ok_or_else(|| format!("health.panic: '{text}' must be whole seconds from 1 to 3600"))
}

fn kind(raw: &RawService) -> Result<Kind, String> {
    match (raw.kind, raw.every.as_deref()) {
        (None | Some(RawKind::Daemon), None) => Ok(Kind::Daemon),
        (Some(RawKind::Oneshot), None) => Ok(Kind::Oneshot),
        (Some(_), Some(_)) => Err("`every` makes a timer of it; leave out `type`".to_owned()),
        (None, Some(text)) => {
            let period = values::duration(text).map_err(|m| format!("every: {m}"))?;
            match u64::try_from(period.as_millis()) {
                Ok(millis) if millis >= 1000 => Ok(Kind::Every(millis)),
                _ => Err(format!("every: '{text}' must be a second at least")),
            }
        }
    }
}

fn signal(name: &str) -> Result<i32, String> {
    let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
    service::known(name, &names, "stop-signal")?;
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    Ok(found.map_or(0, |(_, number)| *number))
}

fn watchdog(text: &str) -> Result<Duration, String> {
    values::duration(text)
        .map_err(|m| format!("watchdog: {m}"))
        .and_then(|limit| match limit {
            limit if limit < Duration::from_millis(100) => Err(format!(
                "watchdog: '{text}' is too short; write \"100ms\" at least"
            )),
            limit => Ok(limit),
        })
}

fn then(raw: RawThen) -> Then {
    match raw {
        RawThen::GiveUp => Then::GiveUp,
        RawThen::Reboot => Then::Reboot,
    }
}

fn count(what: &str, given: Option<u32>, default: u32) -> Result<u32, String> {
    let value = given.unwrap_or(default);
    if COUNTS.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "{what}: {value} must be from {} to {}",
        COUNTS.start(),
        COUNTS.end()
    ))
}

fn resources(raw: &RawResources) -> Result<Resources, String> {
    let size = |what: &str, text: &Option<String>, least: u64| {
        let Some(text) = text else { return Ok(0) };
        let value = bytes::size(text).map_err(|m| format!("resources.{what}: {m}"))?;
        if value < least {
            return Err(format!(
                "resources.{what}: '{text}' is too little; write \"{}\" at least",
                bytes::human(least)
            ));
        }
        Ok(value)
    };
    let number = |what: &str, given: Option<u64>| match given {
        Some(0) => Err(format!(
            "resources.{what}: 0 would stop it; leave the key out for no limit"
        )),
        given => Ok(given.unwrap_or(0)),
    };
    Ok(Resources {
        memory: size("memory", &raw.memory, LEAST_MEMORY)?,
        cpu_milli: raw.cpu.as_deref().map_or(Ok(0), cpu)?,
        pids: number("pids", raw.pids)?,
        read_bytes: size("read", &raw.read, 4096)?,
        write_bytes: size("write", &raw.write, 4096)?,
        read_ops: number("read-ops", raw.read_ops)?,
        write_ops: number("write-ops", raw.write_ops)?,
    })
}

/// `"50%"` to thousandths.
fn cpu(text: &str) -> Result<u64, String> {
    let percent: Option<u64> = text
        .strip_suffix('%')
        .and_then(|digits| digits.parse().ok());
    percent
        .filter(|percent| (1..=MOST_CPU).contains(percent))
        .map(|percent| percent * 10)
        .ok_or_else(|| {
            format!("resources.cpu: '{text}' is no share of a processor; write such as \"50%\" or \"200%\"")
        })
}

fn sandbox(raw: &RawSandbox) -> Result<Sandbox, String> {
    if !raw.writable.is_empty() && !raw.read_only {
        return Err(
            "sandbox.writable says what stays writable; it needs read-only = true".to_owned(),
        );
    }
    if raw.writable.len() > 64 {
        return Err("sandbox.writable: more than 64 paths; name a folder above them".to_owned());
    }
    let writable = raw.writable.iter().map(|path| {
        values::guest_path(path)
            .map_err(|m| format!("sandbox.writable: {m}"))
            .and_then(|path| match path.as_str() {
                "/" => Err("sandbox.writable: '/' is everything; leave out read-only".to_owned()),
                _ => Ok(path),
            })
    });
    Ok(Sandbox {
        private_tmp: raw.private_tmp,
        read_only: raw.read_only,
        writable: writable.collect::<Result<_, _>>()?,
        unfiltered: raw.seccomp == Some(false),
    })
}

fn sockets(raw: &[RawSocket]) -> Result<Vec<Socket>, String> {
    if raw.len() > MAX_SOCKETS {
        return Err(format!("a service has at most {MAX_SOCKETS} sockets"));
    }
    raw.iter().map(socket).collect()
}

fn socket(raw: &RawSocket) -> Result<Socket, String> {
    values::name(&raw.name).map_err(|m| format!("socket name: {m}"))?;
    let what = format!("socket {}", raw.name);
    let address = match (&raw.tcp, &raw.udp, &raw.unix) {
        (Some(at), None, None) => SocketAddress::Tcp(service::socket(&what, at)?),
        (None, Some(at), None) => SocketAddress::Udp(service::socket(&what, at)?),
        (None, None, Some(path)) => {
            let path = values::guest_path(path).map_err(|m| format!("{what}: {m}"))?;
            // sockaddr_un's sun_path, with its NUL (unix(7)).
            if path.len() > 107 {
                return Err(format!("{what}: '{path}' is longer than 107 bytes"));
            }
            SocketAddress::Unix(path)
        }
        _ => return Err(format!("{what} takes exactly one of tcp, udp and unix")),
    };
    Ok(Socket {
        name: raw.name.clone(),
        address,
    })
}

fn health(raw: &RawHealth) -> Result<Health, String> {
    let probe = match (&raw.tcp, &raw.http) {
        (Some(address), None) => Probe::Tcp(service::socket("health", address)?),
        (None, Some(url)) => Probe::Http(service::http("health", url)?),
        _ => return Err("health takes exactly one of tcp and http".to_owned()),
    };
    let time = |what: &str, text: &Option<String>, default: &str| {
        let text = text.as_deref().unwrap_or(default);
        let value = values::duration(text).map_err(|m| format!("health.{what}: {m}"))?;
        match u64::try_from(value.as_millis()) {
            Ok(millis) if millis >= 100 => Ok(millis),
            _ => Err(format!(
                "health.{what}: '{text}' is too short; write \"100ms\" at least"
            )),
        }
    };
    Ok(Health {
        probe,
        interval_ms: time("interval", &raw.interval, "10s")?,
        timeout_ms: time("timeout", &raw.timeout, "5s")?,
        failures: count("health.failures", raw.failures, 3)?,
        restarts: match raw.restarts {
            Some(0) => 0,
            given => count("health.restarts", given, 3)?,
        },
        within_ms: time("within", &raw.within, "1h")?,
        then: raw.then.map_or(Then::Reboot, then),
    })
}
