//! Two sets of facts become their difference. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use slipform_init::contract::machine::Machine;

use super::change::{Change, Field, Values, changes, fields, named};
use super::facts::ImageFacts;

/// What is different between two images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageDiff {
    /// Whether nothing is.
    pub same: bool,
    /// Board of the second image.
    pub board: String,
    /// The first image: its digest or file.
    pub old: String,
    /// The second image.
    pub new: String,
    /// Name, version, board, sector size.
    pub image: Vec<Field>,
    /// Packages; null when one of the images does not record them.
    pub packages: Option<Vec<Change>>,
    /// Services.
    pub services: Vec<Change>,
    /// Kernel settings, scratch folders, and what else the machine is told.
    pub settings: Vec<Change>,
    /// Kernel, command line, modules, stub, init, and the digest of it all.
    pub boot: Vec<Field>,
    /// Layers by name.
    pub layers: Vec<Change>,
    /// Sizes in bytes, the same ones too.
    pub sizes: Vec<Size>,
    /// Files as the machine sees them; null when they cannot be read (see
    /// `problems`), or were not compared.
    pub files: Option<Vec<Change>>,
    /// What cannot be told.
    pub problems: Vec<String>,
}

/// A size in bytes on both sides; null where the thing is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// `disk`, `boot image`, `layer NAME`, or `total`: the boot image and all layers.
    pub what: String,
    /// On the first side.
    pub old: Option<u64>,
    /// On the second side.
    pub new: Option<u64>,
}

impl ImageDiff {
    /// Compares all but the files in the layers.
    #[must_use]
    pub fn between(old: &ImageFacts, new: &ImageFacts) -> Self {
        let packages = match (packages(old), packages(new)) {
            (Some(old), Some(new)) => Some(changes(&old, &new)),
            _ => None,
        };
        let mut diff = Self {
            same: false,
            board: new.board(),
            old: old.what.clone(),
            new: new.what.clone(),
            image: fields(&image(old), &image(new)),
            packages,
            services: changes(&services(old), &services(new)),
            settings: changes(&settings(old), &settings(new)),
            boot: fields(&boot(old), &boot(new)),
            layers: changes(&layers(old), &layers(new)),
            sizes: sizes(old, new),
            files: None,
            problems: problems(old, new),
        };
        diff.same = diff.is_same();
        diff
    }

    /// With the files that differ, or why they cannot be told.
    #[must_use]
    pub fn with_files(mut self, files: Result<Vec<Change>, String>) -> Self {
        match files {
            Ok(files) => self.files = Some(files),
            Err(why) => self
                .problems
                .push(format!("files cannot be compared: {why}")),
        }
        self.same = self.is_same();
        self
    }

    /// Layers of one root hash have the same files; so what cannot be read is no difference by itself.
    fn is_same(&self) -> bool {
        let none = |changes: &Option<Vec<Change>>| changes.as_ref().is_none_or(Vec::is_empty);
        self.image.is_empty()
            && none(&self.packages)
            && self.services.is_empty()
            && self.settings.is_empty()
            && self.boot.is_empty()
            && self.layers.is_empty()
            && self.sizes.iter().all(|size| size.old == size.new)
            && none(&self.files)
    }
}

fn image(facts: &ImageFacts) -> Values {
    let mut values = vec![("sector size", json!(facts.info.sector_size))];
    if let Some(machine) = &facts.info.machine {
        values.extend([
            ("name", json!(machine.name)),
            ("version", json!(machine.version)),
            ("board", json!(machine.board)),
        ]);
    }
    values
}

fn packages(facts: &ImageFacts) -> Option<BTreeMap<String, Values>> {
    let packages = facts.packages.as_ref()?.iter().map(|package| {
        let values = vec![
            ("version", json!(package.version)),
            ("layer", json!(package.layer)),
            ("sha256", json!(package.sha256)),
        ];
        (package.name.clone(), values)
    });
    Some(named(packages))
}

/// The keys of [`slipform_init::contract::machine::Service`], as people are told them.
const SERVICE: &[&str] = &[
    "exec",
    "env",
    "uid",
    "gid",
    "groups",
    "workdir",
    "restart",
    "ready",
    "ready_timeout_ms",
    "after",
    "capabilities",
    "limits",
    "stop_timeout_ms",
    "credentials",
    "identity_env",
    "kind",
    "env_files",
    "pre_start",
    "stop_signal",
    "start_limit",
    "resources",
    "sandbox",
    "sockets",
    "watchdog_ms",
    "health",
];

fn services(facts: &ImageFacts) -> BTreeMap<String, Values> {
    let services = facts
        .info
        .machine
        .iter()
        .flat_map(|machine| &machine.services);
    named(services.map(|service| {
        let value = serde_json::to_value(service).unwrap_or_default();
        let values = SERVICE.iter().map(|key| (*key, value[*key].clone()));
        (service.name.clone(), values.collect())
    }))
}

fn settings(facts: &ImageFacts) -> BTreeMap<String, Values> {
    let Some(machine) = &facts.info.machine else {
        return BTreeMap::new();
    };
    let sysctl = machine
        .sysctl
        .iter()
        .map(|(key, value)| (format!("sysctl {key}"), vec![("value", json!(value))]));
    let scratch = machine.scratch.iter().map(|scratch| {
        let values = vec![
            ("size", json!(scratch.size)),
            ("mode", json!(format!("{:04o}", scratch.mode))),
            ("owner", json!(format!("{}:{}", scratch.uid, scratch.gid))),
        ];
        (format!("scratch {}", scratch.path), values)
    });
    let state = machine.state.iter().flat_map(|state| {
        let values = vec![
            ("size", json!(state.size)),
            ("policy", json!(state.policy)),
            ("version", json!(state.version)),
            ("disk", json!(state.disk)),
        ];
        let paths = state.paths.iter().map(|path| {
            let values = vec![("owner", json!(path.owner)), ("mode", json!(path.mode))];
            (format!("state {}", path.path), values)
        });
        std::iter::once(("state".to_owned(), values)).chain(paths)
    });
    named(
        sysctl
            .chain(scratch)
            .chain(state)
            .chain(plain_settings(machine)),
    )
}

fn plain_settings(machine: &Machine) -> impl Iterator<Item = (String, Values)> {
    [
        ("schema", json!(machine.schema)),
        ("clock floor", json!(machine.clock_floor)),
        ("panic seconds", json!(machine.panic_seconds)),
        ("debug", json!(machine.debug)),
        ("metadata", json!(machine.metadata)),
        ("metadata timeout", json!(machine.metadata_timeout_ms)),
        ("interfaces", json!(machine.interfaces)),
        ("time servers", json!(machine.time_servers)),
        ("health", json!(machine.health)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), vec![("value", value)]))
    .chain(telemetry_settings(machine))
}

/// Sinks one by one, so that a new one is a change of its own.
fn telemetry_settings(machine: &Machine) -> impl Iterator<Item = (String, Values)> {
    let telemetry = machine.telemetry.as_ref();
    let logs = telemetry.map(|telemetry| {
        let values = vec![
            ("console json", json!(telemetry.console_json)),
            ("spool bytes", json!(telemetry.spool_bytes)),
            ("spool on state", json!(telemetry.spool_on_state)),
        ];
        ("logs".to_owned(), values)
    });
    let sinks = telemetry.into_iter().flat_map(|telemetry| &telemetry.sinks);
    let sinks = sinks.map(|sink| {
        let values = vec![
            ("kind", json!(sink.kind)),
            ("peer", json!(sink.peer)),
            ("level", json!(sink.level)),
        ];
        (format!("log {}", sink.name), values)
    });
    let metrics = telemetry.and_then(|telemetry| telemetry.metrics.as_ref());
    let metrics = metrics.map(|metrics| {
        let values = vec![
            ("port", json!(metrics.port)),
            ("address", json!(metrics.address)),
            ("push", json!(metrics.push)),
            ("interval ms", json!(metrics.interval_ms)),
        ];
        ("metrics".to_owned(), values)
    });
    logs.into_iter().chain(sinks).chain(metrics)
}

fn boot(facts: &ImageFacts) -> Values {
    let Some(boot) = &facts.info.boot else {
        return Values::new();
    };
    vec![
        ("path", json!(boot.path)),
        ("kernel", json!(boot.uname)),
        ("command line", json!(boot.cmdline)),
        ("modules", json!(boot.modules)),
        ("stub", json!(boot.stub)),
        ("os-release", json!(boot.osrel)),
        ("kernel image", json!(boot.kernel)),
        ("stub image", json!(boot.stub_digest)),
        ("init", json!(boot.init)),
        ("boot image", json!(boot.digest)),
    ]
}

fn layers(facts: &ImageFacts) -> BTreeMap<String, Values> {
    let layers = facts.layers.iter().enumerate();
    named(layers.map(|(index, layer)| {
        // The layer below, and not the number: one more at the bottom moves no other.
        let below = index
            .checked_sub(1)
            .and_then(|below| facts.layers.get(below));
        let place = layer.place;
        let values = vec![
            ("root hash", json!(layer.root_hash)),
            ("above", json!(below.map(|below| &below.name))),
            ("used", json!(place.map(|place| place.used))),
            ("size", json!(place.map(|place| place.partition))),
        ];
        (layer.name.clone(), values)
    }))
}

/// Sizes in the order in which people are told: disk, boot image, layers bottom to top, total.
fn sizes(old: &ImageFacts, new: &ImageFacts) -> Vec<Size> {
    let boot = |facts: &ImageFacts| facts.info.boot.as_ref().map(|boot| boot.size);
    let size = |what: &str, old, new| Size {
        what: what.to_owned(),
        old,
        new,
    };
    let mut sizes = vec![
        size("disk", Some(old.info.size), Some(new.info.size)),
        size("boot image", boot(old), boot(new)),
    ];
    let partition = |facts: &ImageFacts, name: &str| {
        let layer = facts.layers.iter().find(|layer| layer.name == name);
        layer
            .and_then(|layer| layer.place)
            .map(|place| place.partition)
    };
    let mut names: Vec<&str> = Vec::new();
    for layer in new.layers.iter().chain(&old.layers) {
        if !names.contains(&layer.name.as_str()) {
            names.push(&layer.name);
        }
    }
    for name in names {
        let what = format!("layer {name}");
        sizes.push(size(&what, partition(old, name), partition(new, name)));
    }
    let total = |facts: &ImageFacts| {
        let layers = facts.layers.iter().filter_map(|layer| layer.place);
        layers
            .map(|place| place.partition)
            .fold(boot(facts).unwrap_or(0), u64::saturating_add)
    };
    sizes.push(size("total", Some(total(old)), Some(total(new))));
    sizes
}

/// What `inspect` complains of, with the side's name.
fn problems(old: &ImageFacts, new: &ImageFacts) -> Vec<String> {
    let of = |facts: &ImageFacts| -> Vec<String> {
        let lost = facts.layers.iter().filter(|layer| layer.place.is_none());
        let lost = lost.map(|layer| format!("layer '{}' is not on the disk", layer.name));
        let all = facts.info.problems.iter().cloned().chain(lost);
        all.map(|problem| format!("{}: {problem}", facts.what))
            .collect()
    };
    [of(old), of(new)].concat()
}

/// A value's text for a [`Change`] of a file.
pub(super) fn octal(mode: u32) -> Value {
    json!(format!("{mode:04o}"))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
