//! `slipform inspect` and `slipform schema`.

use std::path::Path;

use anyhow::Context;
use slipform_init::contract::machine::{STATE_NAME, State, StateDisk};

use super::args::{Cli, Inspect, Schema};
use super::{BadInput, Done, print, print_json, settings};
use crate::base::Digest;
use crate::base::bytes::human;
use crate::disk::{DiskReader, ImageInfo, gpt, inspect};
use crate::output;

/// Describes a file, or an image of the store by its digest.
pub(crate) fn run(cli: &Cli, verb: &Inspect) -> anyhow::Result<Done> {
    let path = Path::new(&verb.image);
    let (what, info) = if path.exists() {
        let (format, mut disk) = output::open(path).map_err(|error| BadInput(error.to_string()))?;
        (
            format!("{} ({format})", path.display()),
            inspect(&mut disk).with_context(|| format!("cannot read {}", path.display()))?,
        )
    } else {
        let digest: Digest = verb.image.parse().map_err(|_| {
            BadInput(format!("'{}' is neither a file nor a digest; name an image file, or sha256:… as `build` prints it", verb.image))
        })?;
        let settings = settings(cli)?;
        let map = settings.disk_map(&digest)?;
        let mut disk = DiskReader::new(settings.store(), &map);
        (
            digest.to_string(),
            inspect(&mut disk).with_context(|| format!("cannot read {digest}"))?,
        )
    };
    if info.sector_size == 0 {
        return Err(BadInput(format!("{what}: {}", info.problems.join("; "))).into());
    }
    if cli.json {
        return print_json(&info);
    }
    print(&describe(&what, &info))
}

/// The image for people.
fn describe(what: &str, info: &ImageInfo) -> String {
    let mut text = format!(
        "{what}: {}, sectors of {} bytes, disk {}\n",
        human(info.size),
        info.sector_size,
        info.disk_guid
    );
    if let Some(machine) = &info.machine {
        text.push_str(&format!(
            "image {} {} for {}\n",
            machine.name, machine.version, machine.board
        ));
        if machine.debug {
            text.push_str("DEBUG IMAGE: a layer of it is for debugging; the gate refuses it unless [gate] has accept-debug\n");
        }
    }
    text.push_str("\npartitions\n");
    for partition in &info.partitions {
        text.push_str(&format!(
            "  {:<12} {:<6} {:>10} at {:>10}  {}\n",
            partition.name,
            partition.kind,
            human(partition.size),
            human(partition.offset),
            partition.guid
        ));
        if let Some(layer) = &partition.layer {
            text.push_str(&format!(
                "    {} {}, {} used, {} inodes, root hash {}\n",
                layer.filesystem,
                human(layer.size),
                human(layer.used),
                layer.inodes,
                layer.root_hash
            ));
        }
    }
    if let Some(state) = info
        .machine
        .as_ref()
        .and_then(|machine| machine.state.as_ref())
    {
        text.push_str(&describe_state(state));
    }
    if let Some(boot) = &info.boot {
        let sections: Vec<&str> = boot
            .sections
            .iter()
            .map(|section| section.name.as_str())
            .collect();
        text.push_str(&format!(
            "\nboot {} ({}): {}\n  kernel {}\n  command line {}\n",
            boot.path,
            human(boot.size),
            sections.join(" "),
            boot.uname,
            boot.cmdline
        ));
    }
    if let Some(machine) = &info.machine {
        text.push_str("\nservices\n");
        for service in &machine.services {
            text.push_str(&format!(
                "  {:<12} {}:{}  {}\n",
                service.name,
                service.uid,
                service.gid,
                service.exec.join(" ")
            ));
        }
    }
    for problem in &info.problems {
        text.push_str(&format!("\nproblem: {problem}\n"));
    }
    text
}

/// What the machine makes at its first boot, or finds.
fn describe_state(state: &State) -> String {
    let place = match &state.disk {
        Some(StateDisk::Serial(serial)) => format!("the disk with serial number {serial}"),
        Some(StateDisk::Label(label)) => format!("the disk or partition with label {label}"),
        None => "the boot disk, behind all others".to_owned(),
    };
    let mut text = format!(
        "\nstate, made at first boot on {place}\n  partition {STATE_NAME}, type {}, ext4, at least {}, version {} of its content\n",
        gpt::STATE_TYPE.hyphenated(),
        human(state.size),
        state.version
    );
    for path in &state.paths {
        let quota = path
            .quota
            .map(|bytes| format!(", at most {}", human(bytes)));
        text.push_str(&format!("  {}{}\n", path.path, quota.unwrap_or_default()));
    }
    text
}

/// Prints a JSON schema.
pub(crate) fn schema(verb: &Schema) -> anyhow::Result<Done> {
    let schema = match verb.kind.as_str() {
        "image" => schemars::schema_for!(crate::spec::raw::RawImage),
        "layer" => schemars::schema_for!(crate::spec::raw::RawLayer),
        _ => schemars::schema_for!(crate::board::RawBoard),
    };
    print_json(&schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_init::contract::machine::{StatePath, StatePolicy};

    #[test]
    fn the_state_is_named_as_the_machine_makes_it() {
        let path = StatePath {
            path: "/var/lib/app".to_owned(),
            owner: None,
            mode: None,
            quota: Some(1 << 25),
        };
        let mut state = State {
            size: 64 << 20,
            policy: StatePolicy::Fail,
            version: 3,
            paths: vec![path],
            disk: None,
        };
        let want = "\nstate, made at first boot on the boot disk, behind all others\n  partition slipform-state, type 54fce1b4-8ef4-8c5c-954b-c8e4db624db8, ext4, at least 64.0 MiB, version 3 of its content\n  /var/lib/app, at most 32.0 MiB\n";
        assert_eq!(describe_state(&state), want);
        state.disk = Some(StateDisk::Serial("data".to_owned()));
        assert!(describe_state(&state).contains("on the disk with serial number data\n"));
    }
}
