//! `slipform inspect` and `slipform schema`.

use std::path::Path;

use anyhow::Context;

use super::args::{Cli, Inspect, Schema};
use super::{BadInput, Done, print, print_json, settings};
use crate::base::Digest;
use crate::base::bytes::human;
use crate::disk::{DiskReader, ImageInfo, inspect};
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

/// Prints a JSON schema.
pub(crate) fn schema(verb: &Schema) -> anyhow::Result<Done> {
    let schema = match verb.kind.as_str() {
        "image" => schemars::schema_for!(crate::spec::raw::RawImage),
        "layer" => schemars::schema_for!(crate::spec::raw::RawLayer),
        _ => schemars::schema_for!(crate::board::RawBoard),
    };
    print_json(&schema)
}
