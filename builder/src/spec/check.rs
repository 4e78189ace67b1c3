//! Raw to checked: the image as a whole. The only door to an [`Image`].

use std::collections::BTreeSet;
use std::path::Path;

use slipform_init::contract::service::{Kind, MachineHealth};

use crate::base::{bytes, toml as toml_text};

use crate::board::metadata_sources;

use super::image::{
    AptSource, CONSOLE_SERVICE, GateSpec, Image, KernelSpec, LayerSpec, MetadataSpec, ScratchSpec,
    ServiceSpec,
};
use super::raw::{RawApt, RawGate, RawImage, RawKernel, RawMetadata, RawScalar, RawScratch};
use super::{SpecError, care, layer, network, service, state, telemetry, test, values};

/// More layers than this cannot be stacked (each is a partition and a mount).
const MOST_LAYERS: usize = 60;
/// The board of images that name none.
const DEFAULT_BOARD: &str = "qemu-x86_64";
/// The suite of images that name none.
const DEFAULT_SUITE: &str = "trixie";

/// What the kernel needs for VLANs.
const VLAN_MODULE: &str = "8021q";
/// What it needs for bonds.
const BOND_MODULE: &str = "bonding";

/// A file's text, to turn byte offsets into lines.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a byte offset of the text.
    pub(super) fn at(&self, offset: usize, message: String) -> SpecError {
        SpecError::At {
            file: self.file.to_owned(),
            line: toml_text::line_of(self.text, offset),
            message,
        }
    }

    /// An error at the first place where `needle` stands, for values without a span.
    pub(super) fn near(&self, needle: &str, message: String) -> SpecError {
        self.at(self.text.find(needle).unwrap_or(0), message)
    }
}

/// Checks everything that can be checked without reading the layers' files.
pub(super) fn check(raw: RawImage, source: &Source<'_>, dir: &Path) -> Result<Image, SpecError> {
    values::name(&raw.name).map_err(|m| source.near("name", format!("name: {m}")))?;
    values::version(&raw.version).map_err(|m| source.near("version", m))?;
    if raw.layer.is_empty() {
        return Err(source.at(
            0,
            "there is no [[layer]]; an image needs one, such as `use = \"base\"`".to_owned(),
        ));
    }
    let layers = check_layers(raw.layer, source, dir)?;
    let services = service::check_all(raw.service, source)?;
    check_console(&layers, &services).map_err(|m| source.at(0, m))?;
    let interfaces =
        network::interfaces(raw.interface).map_err(|m| source.near("[[interface]]", m))?;
    let mut kernel = check_kernel(raw.kernel, source)?;
    let tagged = interfaces.iter().any(|interface| interface.vlan.is_some());
    let bonded = interfaces.iter().any(|interface| interface.bond.is_some());
    for (module, needed) in [(VLAN_MODULE, tagged), (BOND_MODULE, bonded)] {
        if needed && !kernel.modules.iter().any(|known| known == module) {
            kernel.modules.push(module.to_owned());
        }
    }
    let scratch: Vec<ScratchSpec> = raw
        .scratch
        .iter()
        .map(|s| check_scratch(s, source))
        .collect::<Result<_, _>>()?;
    let state = raw
        .state
        .map(|raw| state::check(raw, &scratch, source))
        .transpose()?;
    let names = test::Names {
        services: &services,
        state: state.as_ref(),
    };
    Ok(Image {
        boards: boards(raw.boards),
        suite: check_suite(raw.suite, source)?,
        apt: raw
            .apt
            .into_iter()
            .map(|apt| check_apt(apt, source, dir))
            .collect::<Result<_, _>>()?,
        layers,
        tests: test::check_all(raw.test, &names, source)?,
        allowances: test::allowances(raw.allow, source)?,
        kernel,
        sysctl: raw
            .sysctl
            .into_iter()
            .map(|(key, value)| check_sysctl(key, &value, source))
            .collect::<Result<_, _>>()?,
        telemetry: telemetry::check(&raw.logs, raw.log, raw.metrics, state.as_ref(), source)?,
        state,
        scratch,
        gate: check_gate(raw.gate, source, dir)?,
        interfaces,
        time_servers: network::time_servers(&raw.time).map_err(|m| source.near("[time]", m))?,
        metadata: check_metadata(&raw.metadata).map_err(|m| source.near("[metadata]", m))?,
        panic_seconds: care::panic(&raw.health).map_err(|m| source.near("panic", m))?,
        health: care::machine(&raw.health).map_err(|m| source.near("[health]", m))?,
        services,
        name: raw.name,
        version: raw.version,
        dir: dir.to_owned(),
        base: false,
    })
}

/// The boards as written, or the one of who names none.
fn boards(written: Vec<String>) -> Vec<String> {
    if written.is_empty() {
        vec![DEFAULT_BOARD.to_owned()]
    } else {
        written
    }
}

/// The smallest image on a layer that is published as a base: the layer, on its boards,
/// without services. That it boots, stacks the layer and stays verified is what its
/// boot test can show.
pub(super) fn check_base(
    mut raw: super::raw::RawLayer,
    source: &Source<'_>,
    dir: &Path,
) -> Result<Image, SpecError> {
    let boards = boards(std::mem::take(&mut raw.boards));
    let (layer, version) = layer::alone(raw, source, dir)?;
    Ok(Image {
        name: layer.name.clone(),
        version,
        dir: dir.to_owned(),
        boards,
        suite: DEFAULT_SUITE.to_owned(),
        apt: Vec::new(),
        layers: vec![layer],
        services: Vec::new(),
        tests: Vec::new(),
        allowances: Vec::new(),
        kernel: KernelSpec::default(),
        sysctl: std::collections::BTreeMap::new(),
        scratch: Vec::new(),
        state: None,
        gate: GateSpec::default(),
        panic_seconds: care::PANIC_SECONDS,
        telemetry: None,
        health: MachineHealth::default(),
        metadata: MetadataSpec::default(),
        interfaces: Vec::new(),
        time_servers: Vec::new(),
        base: true,
    })
}

fn check_layers(
    raw: Vec<toml::Spanned<super::raw::RawLayer>>,
    source: &Source<'_>,
    dir: &Path,
) -> Result<Vec<LayerSpec>, SpecError> {
    if raw.len() > MOST_LAYERS {
        return Err(source.at(
            raw[MOST_LAYERS].span().start,
            format!("an image has at most {MOST_LAYERS} layers; merge some"),
        ));
    }
    let mut names = BTreeSet::new();
    let mut layers = Vec::new();
    for entry in raw {
        let start = entry.span().start;
        let checked = layer::check(entry.into_inner(), start, source, dir)?;
        if checked.name == "generated" {
            return Err(source.at(start, "the name 'generated' is taken by the topmost layer that slipform makes; choose another".to_owned()));
        }
        if checked.base.is_some() && !layers.is_empty() {
            return Err(source.at(
                start,
                format!(
                    "'{}' is a published base, which must be the first [[layer]]; move it to the bottom",
                    checked.name
                ),
            ));
        }
        if !names.insert(checked.name.clone()) {
            return Err(source.at(
                start,
                format!("two layers are named '{}'; rename one", checked.name),
            ));
        }
        layers.push(checked);
    }
    Ok(layers)
}

/// One console, one program; and its service's name is free.
fn check_console(layers: &[LayerSpec], services: &[ServiceSpec]) -> Result<(), String> {
    let mut with = layers.iter().filter(|layer| !layer.console.is_empty());
    let (Some(first), second) = (with.next(), with.next()) else {
        return Ok(());
    };
    if let Some(second) = second {
        return Err(format!(
            "layers '{}' and '{}' both give the console to a program; leave one out",
            first.name, second.name
        ));
    }
    if services
        .iter()
        .any(|service| service.name == CONSOLE_SERVICE)
    {
        return Err(format!(
            "the service name '{CONSOLE_SERVICE}' is taken by the console of layer '{}'; choose another",
            first.name
        ));
    }
    Ok(())
}

fn check_metadata(raw: &RawMetadata) -> Result<MetadataSpec, String> {
    let sources = raw.sources.as_deref().map(metadata_sources).transpose()?;
    let timeout = raw.timeout.as_deref().map(values::duration).transpose();
    let timeout = timeout.map_err(|m| format!("metadata.timeout: {m}"))?;
    if timeout.is_some_and(|t| t.is_zero() || t.as_secs() > 600) {
        return Err("metadata.timeout must be above nothing and at most 10m".to_owned());
    }
    Ok(MetadataSpec { sources, timeout })
}

fn check_suite(suite: Option<String>, source: &Source<'_>) -> Result<String, SpecError> {
    let suite = suite.unwrap_or_else(|| DEFAULT_SUITE.to_owned());
    if suite != DEFAULT_SUITE {
        return Err(source.near(
            "suite",
            format!(
                "suite: '{suite}' is not supported; write \"trixie\" (Debian 13) or leave it out"
            ),
        ));
    }
    Ok(suite)
}

fn check_apt(raw: RawApt, source: &Source<'_>, dir: &Path) -> Result<AptSource, SpecError> {
    let fail = |m: String| source.near("[[apt]]", m);
    values::name(&raw.name).map_err(|m| fail(format!("apt.name: {m}")))?;
    if raw.name.starts_with("trixie") || raw.name == "local" {
        return Err(fail(format!(
            "apt.name: '{}' is taken; choose another",
            raw.name
        )));
    }
    if !["http://", "https://", "file:/"]
        .iter()
        .any(|scheme| raw.uri.starts_with(scheme))
    {
        return Err(fail(format!(
            "apt.uri: '{}' is no archive; write an http://, https:// or file:/ URI",
            raw.uri
        )));
    }
    let key = layer::inside(dir, &raw.key).map_err(|m| fail(format!("apt.key: {m}")))?;
    let plain = |text: &str| {
        !text.is_empty()
            && text.split('/').all(|part| {
                !part.is_empty()
                    && part != ".."
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._+~".contains(&b))
            })
    };
    let components = if raw.components.is_empty() {
        vec!["main".to_owned()]
    } else {
        raw.components
    };
    if let Some(bad) = components
        .iter()
        .chain([&raw.suite])
        .find(|text| !plain(text))
    {
        return Err(fail(format!(
            "apt: '{bad}' is no suite or component; write letters, digits, '-', '.', '_' and '/'"
        )));
    }
    Ok(AptSource {
        name: raw.name,
        uri: raw.uri.trim_end_matches('/').to_owned(),
        suite: raw.suite,
        components,
        key,
    })
}

fn check_kernel(raw: RawKernel, source: &Source<'_>) -> Result<KernelSpec, SpecError> {
    for word in &raw.args {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(source.near(
                "args",
                format!(
                    "kernel.args: '{word}' is not one word; write each argument as its own string"
                ),
            ));
        }
    }
    for module in &raw.modules {
        if module.is_empty()
            || !module
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            return Err(source.near(
                "modules",
                format!(
                    "kernel.modules: '{module}' is no module name; write it without path and .ko"
                ),
            ));
        }
    }
    Ok(KernelSpec {
        args: raw.args,
        modules: raw.modules,
        firmware: raw.firmware,
    })
}

fn check_sysctl(
    key: String,
    value: &RawScalar,
    source: &Source<'_>,
) -> Result<(String, String), SpecError> {
    let good = key.contains('.')
        && key
            .split('.')
            .all(|part| !part.is_empty() && !part.contains('/'));
    if !good {
        return Err(source.near(
            &key,
            format!("sysctl: '{key}' is no key; write it dotted, such as \"vm.overcommit_memory\""),
        ));
    }
    let value = match value {
        RawScalar::Number(number) => number.to_string(),
        RawScalar::Truth(truth) => i32::from(*truth).to_string(),
        RawScalar::Text(text) => text.clone(),
    };
    Ok((key, value))
}

fn check_scratch(raw: &RawScratch, source: &Source<'_>) -> Result<ScratchSpec, SpecError> {
    let fail = |m: String| source.near(&raw.path, format!("scratch: {m}"));
    let path = values::guest_path(&raw.path).map_err(fail)?;
    let taken = ["/", "/proc", "/sys", "/dev", "/run", "/tmp", "/usr", "/etc"];
    if taken.contains(&path.as_str()) {
        return Err(fail(format!(
            "'{path}' cannot be a tmpfs of yours; name a folder below it"
        )));
    }
    Ok(ScratchSpec {
        size: bytes::size(raw.size.as_deref().unwrap_or("16MiB")).map_err(fail)?,
        mode: values::mode(raw.mode.as_deref().unwrap_or("0755")).map_err(fail)?,
        owner: raw
            .owner
            .as_deref()
            .map(values::owner)
            .transpose()
            .map_err(fail)?,
        path,
    })
}

fn check_gate(raw: RawGate, source: &Source<'_>, dir: &Path) -> Result<GateSpec, SpecError> {
    let fail = |m: String| source.near("[gate]", m);
    let keys = raw.keys.into_iter().map(|key| {
        if key.is_empty() || key.contains(char::is_control) {
            return Err(fail(
                "gate.keys: name files, such as [\"release.pub\"]".to_owned(),
            ));
        }
        Ok(dir.join(key))
    });
    Ok(GateSpec {
        keys: keys.collect::<Result<_, _>>()?,
        max_age: match raw.max_age {
            Some(text) => values::age(&text).map_err(|m| fail(format!("gate.max-age: {m}")))?,
            None => GateSpec::default().max_age,
        },
        accept_debug: raw.accept_debug,
    })
}

/// Every name in `after` must be a service, and there must be no circle.
pub(super) fn check_order(services: &[ServiceSpec]) -> Result<(), String> {
    for service in services {
        if let Some(unknown) = service
            .after
            .iter()
            .find(|name| !services.iter().any(|s| s.name == **name))
        {
            let near = toml_text::nearest(unknown, services.iter().map(|s| s.name.as_str()));
            let hint = near.map_or_else(
                || "name a [[service]] of this image".to_owned(),
                |n| format!("did you mean '{n}'?"),
            );
            return Err(format!(
                "service '{}' is after '{unknown}', which is no service; {hint}",
                service.name
            ));
        }
    }
    for service in services {
        let timer = services.iter().find(|other| {
            matches!(other.kind, Kind::Every(_)) && service.after.contains(&other.name)
        });
        if let Some(timer) = timer {
            return Err(format!(
                "service '{}' is after '{}', which is a timer and never done; make it a oneshot, or leave it out of `after`",
                service.name, timer.name
            ));
        }
    }
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while done.len() < services.len() {
        let ready: Vec<&str> = services
            .iter()
            .filter(|s| {
                !done.contains(s.name.as_str()) && s.after.iter().all(|a| done.contains(a.as_str()))
            })
            .map(|s| s.name.as_str())
            .collect();
        if ready.is_empty() {
            let stuck: Vec<&str> = services
                .iter()
                .map(|s| s.name.as_str())
                .filter(|n| !done.contains(n))
                .collect();
            return Err(format!(
                "services {} wait for each other in a circle; remove one `after`",
                stuck.join(", ")
            ));
        }
        done.extend(ready);
    }
    Ok(())
}
