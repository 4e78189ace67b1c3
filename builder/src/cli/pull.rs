//! `slipform pull`, `verify` and `checkout`.

use serde_json::json;

use super::args::Cli;
use super::release_args::{Checkout, Pull, Verify};
use super::{Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::publish::Reference;

/// Verifies a release and casts its disk here.
pub(crate) fn run(cli: &Cli, verb: &Pull) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let trust = settings.trust(&verb.trusting.key, None, None)?;
    let reference: Reference = verb.image.parse()?;
    let pulled = settings.pull(&*remote, &reference, verb.board.as_deref(), &trust)?;
    std::fs::create_dir_all(&verb.out)?;
    let record = &pulled.entry.record;
    let mut artifacts = Vec::new();
    for format in &verb.format {
        let name = format!(
            "{}-{}-{}.{}",
            record.name,
            record.version,
            pulled.image.board,
            format.extension()
        );
        artifacts.push(settings.write_disk(&pulled.disk, *format, &verb.out.join(name))?);
    }
    if cli.json {
        let artifacts: Vec<_> = artifacts
            .iter()
            .map(|a| json!({ "format": a.format.to_string(), "path": a.path, "bytes": a.bytes }))
            .collect();
        return print_json(&json!({
            "image": pulled.image.image,
            "board": pulled.image.board,
            "release": record.release,
            "record": pulled.entry.digest,
            "forced": record.forced,
            "moved": pulled.moved,
            "artifacts": artifacts,
        }));
    }
    let mut text = format!(
        "{} {} for {}: {}\n{}, signed by {}; {} moved\n",
        record.name,
        record.version,
        pulled.image.board,
        pulled.image.image,
        pulled.standing(),
        pulled
            .entry
            .key
            .map_or_else(|| "nobody".to_owned(), |key| key.to_string()),
        human(pulled.moved)
    );
    for artifact in artifacts {
        text.push_str(&format!(
            "{}  {}\n",
            artifact.path.display(),
            human(artifact.bytes)
        ));
    }
    print(&text)
}

/// Checks everything about a release, and says what was checked.
pub(crate) fn verify(cli: &Cli, verb: &Verify) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let trust = settings.trust(&verb.trusting.key, None, None)?;
    let how = (verb.rebuild, verb.clouds);
    let checked = settings.verify(&*remote, &verb.image.parse()?, &trust, how)?;
    if cli.json {
        print_json(&checked)?;
    } else {
        let mut text = String::new();
        for finding in &checked.findings {
            let word = if finding.good { "good " } else { "WRONG" };
            text.push_str(&format!("  {word}  {}\n", finding.text));
        }
        print(&text)?;
    }
    Ok(if checked.findings.iter().all(|finding| finding.good) {
        Done::Good
    } else {
        Done::Found
    })
}

/// Lays out the sources of a release.
pub(crate) fn checkout(cli: &Cli, verb: &Checkout) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let trust = settings.trust(&verb.trusting.key, None, None)?;
    let (entry, dir) = settings.checkout(&*remote, &verb.image.parse()?, &trust, &verb.dir)?;
    if cli.json {
        return print_json(&json!({ "record": entry.digest, "dir": dir }));
    }
    print(&format!(
        "laid out {} {} (number {} of {}); build it with: slipform build --locked {}",
        entry.record.name,
        entry.record.version,
        entry.record.sequence,
        entry.record.channel,
        dir.display()
    ))
}
