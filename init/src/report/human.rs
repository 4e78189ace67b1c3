//! What people read on the console: short lines, `slipform: …` of init's own and
//! `service: …` of the services.

use slipform_init::contract::event::{Event, LimitKind, ServiceState, StateNews};

/// Before the name of an image with a debug layer; on a console of any width it is seen.
const DEBUG_BANNER: &str = "*** DEBUG IMAGE, not for production *** ";

/// The line for an event; `None` if it is not worth one.
pub(crate) fn line(event: &Event) -> Option<String> {
    let text = match event {
        Event::Boot {
            name,
            version,
            machine,
            debug,
        } => format!(
            "{}{name} {version} (machine {})",
            if *debug { DEBUG_BANNER } else { "" },
            head(machine)
        ),
        Event::Phase { .. } => return None,
        Event::Layer { name, root_hash } => {
            format!("verity: layer {name} ok (root hash {})", head(root_hash))
        }
        Event::LayerRead { name, bytes, error } if error.is_empty() => {
            format!("layer {name} read, {bytes} bytes")
        }
        Event::LayerRead { name, error, .. } => {
            format!("error: layer {name} cannot be read: {error}")
        }
        Event::RootWrite { refused: true, .. } => "root: read-only".to_owned(),
        Event::RootWrite {
            refused: false,
            detail,
        } => format!("error: root: can be written: {detail}"),
        Event::State {
            news,
            bytes,
            detail,
        } => format!("state: {}, {bytes} bytes: {detail}", state_news(*news)),
        Event::StateFile { path, error, .. } if !error.is_empty() => {
            format!("error: {path} cannot be looked at: {error}")
        }
        Event::StateFile { .. } | Event::Inside { .. } => return None,
        Event::Network {
            interface,
            address,
            detail,
            ..
        } => join(&["network:", interface, address, detail]),
        Event::Clock {
            server,
            microseconds,
            step,
        } => {
            let verb = match step {
                true => "set",
                false => "is slewed",
            };
            format!(
                "clock: {verb} by {} ms, told by {server}",
                microseconds / 1000
            )
        }
        Event::Metadata {
            sources,
            instance_id,
            hostname,
            user_data,
            credentials,
            milliseconds,
            detail,
        } => {
            let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
            let from = match names.is_empty() {
                true => "nothing known".to_owned(),
                false => format!("from {}", names.join(", ")),
            };
            let lengths = format!(
                "({user_data} bytes of user-data, {} credentials, {milliseconds} ms)",
                credentials.len()
            );
            join(&["metadata:", &from, instance_id, hostname, &lengths, detail])
        }
        Event::Service {
            name,
            state,
            detail,
            ..
        } => {
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {detail}")
            };
            format!("service {name}: {}{detail}", state_name(*state))
        }
        Event::Limit {
            service,
            kind,
            count,
            limit,
            peak,
        } => format!(
            "service {service}: {}",
            limit_text(*kind, *count, *limit, *peak)
        ),
        Event::Health {
            service,
            healthy,
            detail,
        } => {
            let state = if *healthy { "healthy" } else { "unhealthy" };
            format!("service {service}: {state}: {detail}")
        }
        Event::LastBoot {
            reason,
            detail,
            unhealthy,
            pause_seconds,
        } => {
            let mut count = match unhealthy {
                0 => String::new(),
                _ => format!("; {unhealthy} boots in a row were not healthy"),
            };
            if *pause_seconds > 0 {
                count.push_str(&format!(", services start in {pause_seconds} s"));
            }
            let colon = if detail.is_empty() { "" } else { ": " };
            format!("last boot: {}{colon}{detail}{count}", reason.name())
        }
        Event::Watchdog { device, seconds } => {
            format!("watchdog: {device}, resets after {seconds} s without init")
        }
        Event::Log { service, line, .. } => return Some(printable(&format!("{service}: {line}"))),
        Event::Sink {
            sink,
            up: true,
            detail,
        } => format!("logs: {sink}: {detail} takes them"),
        Event::Sink {
            sink,
            up: false,
            detail,
        } => format!("logs: {sink}: not reached: {detail}"),
        Event::Spool { records, lost } => {
            format!("logs: {records} records of earlier boots go first, {lost} are lost")
        }
        Event::LogLoss { sink, lost, total } => {
            format!("logs: {sink}: {lost} records are lost ({total} since the boot)")
        }
        Event::Ready { rss_kib } => format!("ready (init takes {rss_kib} KiB)"),
        Event::Error { phase, what, why } => {
            format!("error: {}: {what}: {why}", phase.name())
        }
        Event::Shutdown { kind, reason } => format!("{kind} ({reason})"),
        Event::End { clean: true } => "end: clean".to_owned(),
        Event::End { clean: false } => "end: not clean".to_owned(),
    };
    Some(printable(&format!("slipform: {text}")))
}

fn head(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn join(parts: &[&str]) -> String {
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(" ")
}

fn limit_text(kind: LimitKind, count: u64, limit: u64, peak: u64) -> String {
    match (kind, limit) {
        (LimitKind::Memory, 0) => {
            format!(
                "the machine ran out of memory, {count} processes killed (it used {peak} bytes)"
            )
        }
        (LimitKind::Memory, _) => {
            format!("out of memory, {count} processes killed (limit {limit} bytes, it used {peak})")
        }
        (LimitKind::Pids, _) => format!("{count} forks refused (limit {limit} processes)"),
    }
}

fn state_news(news: StateNews) -> &'static str {
    match news {
        StateNews::Made => "made",
        StateNews::Grown => "grown",
        StateNews::Recreated => "made anew",
        StateNews::Mounted => "mounted",
    }
}

fn state_name(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Started => "started",
        ServiceState::Ready => "ready",
        ServiceState::Exited => "exited",
        ServiceState::Backoff => "backoff",
        ServiceState::Failed => "failed",
        ServiceState::Stopped => "stopped",
    }
}

/// Control characters could move the cursor or begin a line of their own: each becomes
/// a `?`, a tab stays.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if letter.is_control() && letter != '\t' {
                '?'
            } else {
                letter
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_init::contract::event::{EndReason, Phase};

    #[test]
    fn events_become_short_lines() {
        let log = |line: &str| Event::Log {
            service: "web".to_owned(),
            stream: "out".to_owned(),
            line: line.to_owned(),
        };
        let cases = [
            (log("hello\tworld"), Some("web: hello\tworld")),
            (
                log("a\r\u{1b}[2J\nslipform: end: clean\u{9b}"),
                Some("web: a??[2J?slipform: end: clean?"),
            ),
            (Event::Phase { phase: Phase::Disk }, None),
            (
                Event::Layer {
                    name: "base".to_owned(),
                    root_hash: "0123456789abcdef".to_owned(),
                },
                Some("slipform: verity: layer base ok (root hash 0123456789ab)"),
            ),
            (
                Event::Error {
                    phase: Phase::Disk,
                    what: "find".to_owned(),
                    why: "none".to_owned(),
                },
                Some("slipform: error: disk: find: none"),
            ),
            (
                Event::Service {
                    name: "web".to_owned(),
                    state: ServiceState::Failed,
                    pid: 0,
                    detail: "why".to_owned(),
                },
                Some("slipform: service web: failed: why"),
            ),
            (
                Event::Limit {
                    service: "hog".to_owned(),
                    kind: LimitKind::Memory,
                    count: 1,
                    limit: 4096,
                    peak: 4096,
                },
                Some(
                    "slipform: service hog: out of memory, 1 processes killed (limit 4096 bytes, it used 4096)",
                ),
            ),
            (
                Event::LastBoot {
                    reason: EndReason::Panic,
                    detail: "sysrq".to_owned(),
                    unhealthy: 3,
                    pause_seconds: 10,
                },
                Some(
                    "slipform: last boot: panic: sysrq; 3 boots in a row were not healthy, services start in 10 s",
                ),
            ),
            (
                Event::Ready { rss_kib: 900 },
                Some("slipform: ready (init takes 900 KiB)"),
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(line(&event).as_deref(), expected);
        }
    }
}
