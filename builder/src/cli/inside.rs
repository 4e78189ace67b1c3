//! `slipform ps` and `slipform logs`: into a machine that runs, without a shell.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use slipform_init::contract::inside::{
    Item, LogSeen, MachineSeen, Query, Section, ServiceSeen, StateSeen,
};
use slipform_qemu_tests::control::{Running, running};

use super::args::Cli;
use super::{BadInput, Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::lock::date;
use crate::pipeline::Settings;

/// How long a piece of an answer may take; an emulated machine that is busy is slow.
const LIMIT: Duration = Duration::from_secs(20);
/// Services that are none: of init's own lines, and of the kernel's.
const NO_SERVICES: [&str; 2] = ["slipform", "kernel"];

/// `slipform ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Which machine: the name of its image, or its id. Not needed if one runs.
    pub machine: Option<String>,
    /// Its memory.
    #[arg(long)]
    pub memory: bool,
    /// Its mounts.
    #[arg(long)]
    pub mounts: bool,
    /// Its interfaces, addresses, routes and name servers.
    #[arg(long)]
    pub network: bool,
    /// Everything.
    #[arg(long, short)]
    pub all: bool,
}

/// `slipform logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Which machine: the name of its image, or its id. Not needed if one runs.
    pub machine: Option<String>,
    /// Only lines of this service.
    #[arg(long, short, value_name = "NAME")]
    pub service: Option<String>,
    /// So many of the latest lines; all that the machine keeps by default.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub lines: Option<u32>,
    /// Go on with what comes, until Ctrl-C or the machine's end.
    #[arg(long, short)]
    pub follow: bool,
}

/// Where the runs of this user have their sockets: the session's folder, or the store's.
pub(crate) fn control_dir(settings: &Settings) -> PathBuf {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let session = session.filter(|dir| dir.is_absolute() && dir.is_dir());
    session.map_or_else(
        || settings.store().root().join("run"),
        |dir| dir.join("slipform"),
    )
}

/// Prints what a machine looks like inside.
pub(crate) fn ps(cli: &Cli, verb: &Ps) -> anyhow::Result<Done> {
    let Some(run) = choose(cli, verb.machine.as_deref())? else {
        return nothing_runs();
    };
    let chosen: Vec<Section> = [
        (verb.memory, Section::Memory),
        (verb.mounts, Section::Mounts),
        (verb.network, Section::Network),
    ]
    .into_iter()
    .filter_map(|(wanted, section)| wanted.then_some(section))
    .collect();
    let sections = match (verb.all || cli.json, chosen.is_empty()) {
        (true, _) => Section::ALL
            .into_iter()
            .filter(|section| *section != Section::Log)
            .collect(),
        (false, true) => vec![Section::Services],
        (false, false) => chosen,
    };
    let query = Query {
        sections,
        ..Query::default()
    };
    let items = run.ask(&query, LIMIT)?.collect::<Result<Vec<Item>, _>>()?;
    if cli.json {
        return print_json(&everything(&run, &items));
    }
    print(&tables(&run, &query.sections, &items))
}

/// Prints log lines.
pub(crate) fn logs(cli: &Cli, verb: &Logs) -> anyhow::Result<Done> {
    let Some(run) = choose(cli, verb.machine.as_deref())? else {
        return nothing_runs();
    };
    if let Some(name) = &verb.service {
        is_service(&run, name)?;
    }
    let query = Query {
        sections: vec![Section::Log],
        service: verb.service.clone(),
        lines: verb.lines.unwrap_or(0),
        follow: verb.follow,
        ..Query::default()
    };
    let mut out = std::io::stdout().lock();
    for item in run.ask(&query, LIMIT)? {
        let text = match item? {
            Item::Log(line) if cli.json => serde_json::to_string(&line)?,
            Item::Log(line) => line_of(&line),
            Item::Lost(lost) if cli.json => json!({ "lost": lost }).to_string(),
            Item::Lost(lost) => format!("({lost} lines were overwritten before they were read)"),
            _ => continue,
        };
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(Done::Good)
}

/// A name that no service has would only ever give silence.
fn is_service(run: &Running, name: &str) -> anyhow::Result<()> {
    if NO_SERVICES.contains(&name) {
        return Ok(());
    }
    let query = Query {
        sections: vec![Section::Services],
        ..Query::default()
    };
    let mut names = Vec::new();
    for item in run.ask(&query, LIMIT)? {
        if let Item::Service(service) = item? {
            names.push(service.name);
        }
    }
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    names.extend(NO_SERVICES.map(str::to_owned));
    let text = format!(
        "--service '{}': {} has no such service; it has {}",
        plain(name),
        run.name,
        names.join(", ")
    );
    Err(BadInput(text).into())
}

/// The machine that is meant; none if none runs.
fn choose(cli: &Cli, wanted: Option<&str>) -> anyhow::Result<Option<Running>> {
    let settings = settings(cli)?;
    let mut runs = running(&control_dir(&settings))?;
    if runs.is_empty() && wanted.is_none() {
        return Ok(None);
    }
    let all = list(&runs);
    if let Some(wanted) = wanted {
        runs.retain(|run| run.name == wanted || run.id.to_string() == wanted);
    }
    let text = match (wanted, runs.len()) {
        (_, 1) => return Ok(runs.pop()),
        (Some(wanted), 0) if all.is_empty() => {
            format!(
                "'{}' does not run, and no other machine does; start one with `slipform run`",
                plain(wanted)
            )
        }
        (Some(wanted), 0) => format!(
            "'{}' does not run; name one that does: {all}",
            plain(wanted)
        ),
        _ => format!("several machines run; name one by its id: {}", list(&runs)),
    };
    Err(BadInput(text).into())
}

fn list(runs: &[Running]) -> String {
    let names: Vec<String> = runs
        .iter()
        .map(|run| format!("{} ({})", run.id, plain(&run.name)))
        .collect();
    names.join(", ")
}

fn nothing_runs() -> anyhow::Result<Done> {
    anyhow::bail!("no machine runs; start one with `slipform run`")
}

/// All items by their kind.
fn everything(run: &Running, items: &[Item]) -> serde_json::Value {
    let mut all = json!({
        "run": { "id": run.id, "name": run.name, "image": run.image, "started": run.started },
        "machine": null, "services": [], "state": [], "memory": null, "mounts": [],
        "interfaces": [], "routes": [], "dns": null,
    });
    for item in items {
        let (key, value) = match item {
            Item::Machine(seen) => ("machine", json!(seen)),
            Item::Memory(seen) => ("memory", json!(seen)),
            Item::Dns(seen) => ("dns", json!(seen)),
            Item::Service(seen) => ("services", json!(seen)),
            Item::State(seen) => ("state", json!(seen)),
            Item::Mount(seen) => ("mounts", json!(seen)),
            Item::Interface(seen) => ("interfaces", json!(seen)),
            Item::Route(seen) => ("routes", json!(seen)),
            Item::Log(_) | Item::Lost(_) | Item::End(_) => continue,
        };
        match &mut all[key] {
            serde_json::Value::Array(list) => list.push(value),
            slot => *slot = value,
        }
    }
    all
}

fn tables(run: &Running, sections: &[Section], items: &[Item]) -> String {
    let mut text = String::new();
    for item in items {
        if let Item::Machine(machine) = item {
            text.push_str(&head(run, machine));
        }
    }
    for section in sections {
        let rows: Vec<Vec<String>> = match section {
            Section::Services => services(items),
            Section::Memory => memory(items),
            Section::Mounts => mounts(items),
            Section::Network => network(items),
            Section::Log => continue,
        };
        text.push('\n');
        text.push_str(&table(&rows));
        let kept = kept(items);
        if *section == Section::Services && kept.len() > 1 {
            text.push('\n');
            text.push_str(&table(&kept));
        }
    }
    text
}

fn head(run: &Running, machine: &MachineSeen) -> String {
    let load = machine.load.map(|load| format!(", load {load}"));
    format!(
        "{} {} ({}), {} for {}{}{}\n",
        plain(&machine.image),
        plain(&machine.version),
        run.id,
        machine.phase.name(),
        span(machine.uptime_ms),
        load.unwrap_or_default(),
        if machine.debug { ", DEBUG IMAGE" } else { "" },
    )
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn services(items: &[Item]) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "SERVICE", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "CPU", "STATUS",
    ])];
    for item in items {
        let Item::Service(service) = item else {
            continue;
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            plain(&service.name),
            state(service),
            or_dash(service.pid.map(|pid| pid.to_string())),
            or_dash(service.uptime_ms.map(span)),
            service.restarts.to_string(),
            or_dash(service.memory.map(|bytes| match service.memory_limit {
                Some(limit) => format!("{} of {}", human(bytes), human(limit)),
                None => human(bytes),
            })),
            or_dash(service.cpu_ms.map(|ms| format!("{:.2} s", ms as f64 / 1e3))),
            plain(if service.status.is_empty() {
                &service.detail
            } else {
                &service.status
            }),
        ]);
    }
    rows
}

/// The paths of the state: what each holds of its quota, and how much room is left.
fn kept(items: &[Item]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["STATE", "QUOTA", "FREE"])];
    for item in items {
        if let Item::State(seen) = item {
            let free = seen.available.map_or_else(|| "-".to_owned(), human);
            rows.push(vec![plain(&seen.path), quota(seen), free]);
        }
    }
    rows
}

fn quota(seen: &StateSeen) -> String {
    match (seen.quota, seen.used) {
        (Some(quota), Some(used)) => format!("{} of {}", human(used), human(quota)),
        // The state was made without quotas.
        (Some(quota), None) => format!("{}, not held", human(quota)),
        (None, _) => "-".to_owned(),
    }
}

fn state(service: &ServiceSeen) -> String {
    let name = serde_json::to_value(service.state).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

fn memory(items: &[Item]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["MEMORY", ""])];
    for item in items {
        if let Item::Memory(seen) = item {
            let lines = [
                ("total", seen.total),
                ("available", seen.available),
                ("cached", seen.cached),
                ("of it tmpfs", seen.shared),
                ("kernel", seen.slab),
                ("init", seen.init),
            ];
            rows.extend(lines.map(|(name, bytes)| vec![name.to_owned(), human(bytes)]));
        }
    }
    rows
}

fn mounts(items: &[Item]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["MOUNT", "TYPE", "SIZE", "FREE", "OPTIONS"])];
    for item in items {
        if let Item::Mount(mount) = item {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human);
            rows.push(vec![
                plain(&mount.target),
                plain(&mount.filesystem),
                size(mount.size),
                size(mount.available),
                plain(&mount.options),
            ]);
        }
    }
    rows
}

fn network(items: &[Item]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["INTERFACE", "STATE", "ADDRESSES", "RECEIVED", "SENT"])];
    for item in items {
        match item {
            Item::Interface(seen) => rows.push(vec![
                plain(&seen.name),
                plain(&seen.state),
                plain(&seen.addresses.join(" ")),
                human(seen.received),
                human(seen.sent),
            ]),
            Item::Route(seen) => {
                let via = seen.via.as_deref().map(|via| format!(" via {via}"));
                let text = format!(
                    "{}{} dev {}",
                    seen.to,
                    via.unwrap_or_default(),
                    seen.interface
                );
                rows.push(vec!["route".to_owned(), String::new(), plain(&text)]);
            }
            Item::Dns(seen) => {
                for (name, list) in [("dns", &seen.servers), ("search", &seen.search)] {
                    if !list.is_empty() {
                        rows.push(vec![name.to_owned(), String::new(), plain(&list.join(" "))]);
                    }
                }
            }
            _ => {}
        }
    }
    rows
}

/// Columns as wide as their widest cell; the last is left as it is.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len());
        let widths = cells.map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A span of time in its two largest units.
fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `2026-11-26T10:00:00.123Z web: line`; what is bad is marked.
fn line_of(line: &LogSeen) -> String {
    let seconds = i64::try_from(line.time / 1_000_000).unwrap_or(0);
    let stamp = date::rfc3339(seconds);
    let mark = match line.severity.as_str() {
        "emerg" | "alert" | "crit" | "err" => " error:",
        "warning" => " warning:",
        _ => "",
    };
    format!(
        "{}.{:03}Z {}:{mark} {}",
        stamp.trim_end_matches('Z'),
        line.time / 1000 % 1000,
        plain(&line.service),
        plain(&line.line)
    )
}

/// What a machine says must not drive the terminal of who reads it.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_init::contract::event::{Phase, ServiceState};

    fn service(name: &str) -> ServiceSeen {
        ServiceSeen {
            name: name.to_owned(),
            state: ServiceState::Ready,
            pid: Some(77),
            uptime_ms: Some(61_500),
            restarts: 2,
            memory: Some(3 << 20),
            memory_limit: Some(64 << 20),
            cpu_ms: Some(1234),
            processes: Some(1),
            status: "serving\u{1b}[31m".to_owned(),
            detail: String::new(),
        }
    }

    #[test]
    fn services_are_a_table_that_no_status_can_break() {
        let waiting = ServiceSeen {
            state: ServiceState::Waiting,
            pid: None,
            uptime_ms: None,
            memory: None,
            memory_limit: None,
            cpu_ms: None,
            status: String::new(),
            detail: "for web".to_owned(),
            restarts: 0,
            ..service("a-long-name")
        };
        let items = [Item::Service(service("web")), Item::Service(waiting)];
        let text = table(&services(&items));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVICE      STATE    PID  UPTIME     RESTARTS  MEMORY               CPU     STATUS",
                "web          ready    77   1 min 1 s  2         3.0 MiB of 64.0 MiB  1.23 s  serving\\u{1b}[31m",
                "a-long-name  waiting  -    -          0         -                    -       for web",
            ]
        );
    }

    #[test]
    fn what_is_kept_stands_below_the_services_with_its_quota() {
        let kept = |path: &str, quota, used| {
            Item::State(StateSeen {
                path: path.to_owned(),
                quota,
                used,
                available: Some(1 << 20),
            })
        };
        let items = [
            Item::Service(service("web")),
            kept("/var/lib/app", Some(4 << 20), Some(3 << 20)),
            kept("/var/lib/other", None, None),
            kept("/srv", Some(4 << 20), None),
        ];
        let run = Running::default();
        let text = tables(&run, &[Section::Services], &items);
        let lines: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "",
                "STATE           QUOTA               FREE",
                "/var/lib/app    3.0 MiB of 4.0 MiB  1.0 MiB",
                "/var/lib/other  -                   1.0 MiB",
                "/srv            4.0 MiB, not held   1.0 MiB",
            ]
        );
        assert!(!tables(&run, &[Section::Memory], &items).contains("STATE "));
        assert!(!tables(&run, &[Section::Services], &items[..1]).contains("QUOTA"));
        let all = everything(&run, &items);
        assert_eq!(
            (&all["state"][0]["used"], &all["state"][1]["quota"]),
            (&json!(3 << 20), &json!(null))
        );
    }

    #[test]
    fn json_has_all_of_a_kind_together() {
        let machine = MachineSeen {
            image: "hello".to_owned(),
            version: "1".to_owned(),
            machine: "00".to_owned(),
            host: "hello".to_owned(),
            debug: true,
            phase: Phase::Running,
            uptime_ms: 90_000,
            load: None,
        };
        let items = [
            Item::Machine(machine),
            Item::Service(service("a")),
            Item::Service(service("b")),
        ];
        let mut run = Running::default();
        run.id = 4711;
        run.name = "hello".to_owned();
        let all = everything(&run, &items);
        assert_eq!(all["services"].as_array().unwrap().len(), 2);
        assert_eq!(all["run"]["id"], 4711);
        assert_eq!(all["machine"]["phase"], "running");
        let text = tables(&run, &[Section::Services], &items);
        let head = text.lines().next().unwrap();
        assert_eq!(head, "hello 1 (4711), running for 1 min 30 s, DEBUG IMAGE");
    }

    #[test]
    fn a_log_line_has_its_time_and_how_bad_it_is() {
        let line = LogSeen {
            time: 1_764_150_000_123_456,
            service: "web".to_owned(),
            stream: "err".to_owned(),
            severity: "err".to_owned(),
            line: "a\rb".to_owned(),
        };
        assert_eq!(line_of(&line), "2025-11-26T09:40:00.123Z web: error: a\\rb");
    }
}
