//! `machine.json`: the image's services, users and layers in the numbers that init needs.

use std::collections::BTreeMap;
use std::time::Duration;

use slipform_init::contract::machine as contract;
use slipform_init::contract::service::Sandbox;

use crate::spec::{self, CAPABILITIES, Image, LIMITS};
use crate::tree::generated::Accounts;
use crate::verity::Sealed;

/// What services find their programs with unless they say otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What [`describe`] reads.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) image: &'a Image,
    pub(crate) board: &'a str,
    /// Where the board's machines learn who they are.
    pub(crate) metadata: &'a [contract::MetadataSource],
    /// Bottom to top, the generated layer last.
    pub(crate) layers: &'a [(String, Sealed)],
    pub(crate) accounts: &'a Accounts,
    /// Seconds since 1970 of the newest Release in the lock.
    pub(crate) clock_floor: i64,
}

/// Puts the machine together; the text names what is wrong with the specification.
pub(crate) fn describe(facts: &Facts<'_>) -> Result<contract::Machine, String> {
    let image = facts.image;
    needs_sources(facts)?;
    Ok(contract::Machine {
        schema: contract::MACHINE_SCHEMA,
        name: image.name.clone(),
        version: image.version.clone(),
        board: facts.board.to_owned(),
        layers: facts
            .layers
            .iter()
            .map(|(name, sealed)| layer(name, sealed))
            .collect(),
        sysctl: image.sysctl.clone(),
        scratch: image
            .scratch
            .iter()
            .map(|s| scratch(s, facts.accounts))
            .collect::<Result<_, _>>()?,
        state: image
            .state
            .as_ref()
            .map(|s| state(s, facts.accounts))
            .transpose()?,
        services: in_order(&image.services)
            .into_iter()
            .map(|s| service(s, facts.accounts).map_err(|m| format!("service '{}': {m}", s.name)))
            .chain(console(image).map(Ok))
            .collect::<Result<_, _>>()?,
        interfaces: image.interfaces.clone(),
        time_servers: image.time_servers.clone(),
        metadata: match &image.metadata.sources {
            Some(sources) => sources.clone(),
            None => facts.metadata.to_vec(),
        },
        metadata_timeout_ms: image.metadata.timeout.map(millis),
        clock_floor: facts.clock_floor,
        panic_seconds: image.panic_seconds,
        debug: image.is_debug(),
        health: image.health,
        telemetry: image.telemetry.clone(),
    })
}

/// A service that asks for what no source can bring would never start.
fn needs_sources(facts: &Facts<'_>) -> Result<(), String> {
    let own = facts.image.metadata.sources.as_deref();
    let none = own.unwrap_or(facts.metadata).is_empty();
    let asks = |s: &&spec::ServiceSpec| !s.credentials.is_empty() || !s.identity_env.is_empty();
    match facts.image.services.iter().find(asks) {
        Some(service) if none => Err(format!(
            "service '{}' asks for credentials or identity-env, but board '{}' has no source of metadata; write [metadata] sources = [..], such as [\"smbios\"]",
            service.name, facts.board
        )),
        _ => Ok(()),
    }
}

fn layer(name: &str, sealed: &Sealed) -> contract::Layer {
    contract::Layer {
        name: name.to_owned(),
        filesystem: sealed.filesystem.clone(),
        root_hash: sealed.root_hex(),
        salt: sealed.salt_hex(),
        data_blocks: sealed.data_blocks,
        hash_offset: sealed.hash_offset,
    }
}

fn scratch(spec: &spec::ScratchSpec, accounts: &Accounts) -> Result<contract::Scratch, String> {
    let (uid, gid) = spec
        .owner
        .as_ref()
        .map_or(Ok((0, 0)), |owner| accounts.ids(owner))
        .map_err(|m| format!("scratch '{}': {m}", spec.path))?;
    Ok(contract::Scratch {
        path: spec.path.clone(),
        size: spec.size,
        mode: spec.mode,
        uid,
        gid,
    })
}

fn state(spec: &spec::StateSpec, accounts: &Accounts) -> Result<contract::State, String> {
    let path = |path: &spec::StatePathSpec| {
        let owner = path.owner.as_ref().map(|owner| accounts.ids(owner));
        Ok(contract::StatePath {
            path: path.path.clone(),
            owner: owner
                .transpose()
                .map_err(|m| format!("state '{}': {m}", path.path))?,
            mode: path.mode,
            quota: path.quota,
        })
    };
    Ok(contract::State {
        size: spec.size,
        policy: spec.policy,
        version: spec.version,
        disk: spec.disk.clone(),
        paths: spec.paths.iter().map(path).collect::<Result<_, String>>()?,
    })
}

/// Services in an order that respects `after`; the order of the file otherwise.
/// The specification has been checked: there is no circle.
fn in_order(services: &[spec::ServiceSpec]) -> Vec<&spec::ServiceSpec> {
    let mut ordered: Vec<&spec::ServiceSpec> = Vec::new();
    while ordered.len() < services.len() {
        let done = |name: &str| ordered.iter().any(|s| s.name == name);
        let next = services
            .iter()
            .find(|s| !done(&s.name) && s.after.iter().all(|a| done(a)));
        match next {
            Some(service) => ordered.push(service),
            None => break,
        }
    }
    ordered
}

fn service(spec: &spec::ServiceSpec, accounts: &Accounts) -> Result<contract::Service, String> {
    let user = accounts
        .user(&spec.user)
        .ok_or_else(|| unknown("user", &spec.user))?;
    let group = |name: &str| {
        accounts
            .group(name)
            .map(|group| group.gid)
            .ok_or_else(|| unknown("group", name))
    };
    let gid = spec.group.as_deref().map_or(Ok(user.gid), group)?;
    let mut groups = accounts.groups_of(&spec.user);
    for name in &spec.groups {
        groups.push(group(name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), spec.user.clone()),
    ]);
    env.extend(spec.env.clone());
    if !spec.credentials.is_empty() {
        let folder = format!("{}/{}", contract::CREDENTIALS_DIR, spec.name);
        env.insert(spec::CREDENTIALS_DIRECTORY.to_owned(), folder);
    }
    Ok(contract::Service {
        name: spec.name.clone(),
        exec: spec.exec.clone(),
        env,
        uid: user.uid,
        gid,
        groups,
        workdir: spec.workdir.clone(),
        restart: match spec.restart {
            spec::Restart::Always => contract::Restart::Always,
            spec::Restart::OnFailure => contract::Restart::OnFailure,
            spec::Restart::Never => contract::Restart::Never,
        },
        ready: match &spec.ready {
            spec::Ready::Started => contract::Ready::Started,
            spec::Ready::Tcp(address) => contract::Ready::Tcp(address.clone()),
            spec::Ready::Http(url) => contract::Ready::Http(url.clone()),
            spec::Ready::Log(text) => contract::Ready::Log(text.clone()),
            spec::Ready::Notify => contract::Ready::Notify,
        },
        ready_timeout_ms: millis(spec.ready_timeout),
        after: spec.after.clone(),
        capabilities: numbers(&spec.capabilities, CAPABILITIES)
            .map(|(_, n)| n)
            .collect(),
        limits: numbers(spec.limits.keys(), LIMITS)
            .map(|(name, n)| (u32::from(n), spec.limits[name]))
            .collect(),
        stop_timeout_ms: millis(spec.stop_timeout),
        credentials: spec.credentials.clone(),
        identity_env: spec.identity_env.clone(),
        kind: spec.kind,
        env_files: spec.env_files.clone(),
        pre_start: spec.pre_start.clone(),
        stop_signal: spec.stop_signal,
        start_limit: spec.start_limit,
        resources: spec.resources,
        sandbox: spec.sandbox.clone(),
        sockets: spec.sockets.clone(),
        watchdog_ms: spec.watchdog.map_or(0, millis),
        health: spec.health.clone(),
        console: false,
    })
}

/// The program that a debug layer gives the console to: root in full, unfiltered (it is
/// there to look at everything), and back whenever somebody leaves it. An interactive shell
/// does not hear SIGTERM; the hang-up of its terminal it does.
fn console(image: &Image) -> Option<contract::Service> {
    const SIGHUP: i32 = 1;
    let layer = image
        .layers
        .iter()
        .find(|layer| !layer.console.is_empty())?;
    let env = [
        ("PATH", PATH),
        ("HOME", "/"),
        ("USER", "root"),
        ("TERM", "vt220"),
        ("PS1", "debug:\\w# "),
    ];
    Some(contract::Service {
        name: spec::CONSOLE_SERVICE.to_owned(),
        exec: layer.console.clone(),
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        restart: contract::Restart::Always,
        stop_signal: SIGHUP,
        sandbox: Sandbox {
            unfiltered: true,
            ..Sandbox::default()
        },
        console: true,
        ..contract::Service::default()
    })
}

fn unknown(what: &str, name: &str) -> String {
    format!(
        "there is no {what} '{name}' in the image; add it to a layer's {what}s, such as {what}s = [{{ name = \"{name}\", … }}]"
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Names (checked to be in the table) with their places in it.
fn numbers<'a>(
    names: impl IntoIterator<Item = &'a String> + 'a,
    table: &'a [&str],
) -> impl Iterator<Item = (&'a String, u8)> + 'a {
    names.into_iter().filter_map(|name| {
        let index = table.iter().position(|known| *known == name.as_str())?;
        Some((name, u8::try_from(index).ok()?))
    })
}
