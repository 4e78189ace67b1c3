//! `slipform log` and `slipform channels`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::args::Cli;
use super::release_args::{Channels, Log};
use super::{Done, print, print_json, settings};
use crate::channel::{Entry, REVOKED};
use crate::lock::date;

/// A channel's history, newest first.
pub(crate) fn log(cli: &Cli, verb: &Log) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let trust = settings.trust(&verb.trusting.key, None, None)?;
    let history = settings.history(&*remote, &verb.channel, &trust)?;
    if cli.json {
        let entries: Vec<Value> = history.entries.iter().map(entry_json).collect();
        return print_json(&json!({ "channel": history.channel, "entries": entries }));
    }
    let mut text = String::new();
    for (index, entry) in history.entries.iter().enumerate() {
        let mark = if index == 0 { '*' } else { ' ' };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} {}", line(entry));
    }
    if history.entries.iter().any(|entry| entry.key.is_none()) {
        text.push_str(
            "(signatures were not checked: no key is trusted here; name one with --key)\n",
        );
    }
    print(&text)
}

/// All channels and what they name.
pub(crate) fn list(cli: &Cli, verb: &Channels) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let remote = settings.remote(&verb.remoting.remote)?;
    let trust = settings.trust(&verb.trusting.key, None, None)?;
    let heads = settings.channels(&*remote, &trust)?;
    if cli.json {
        let heads: Vec<Value> = heads.iter().map(entry_json).collect();
        return print_json(&json!({ "remote": remote.uri(), "channels": heads }));
    }
    let mut text = String::new();
    for head in heads.iter().filter(|head| head.record.channel != REVOKED) {
        let _ = writeln!(text, "{:<16} {}", head.record.channel, line(head));
    }
    if text.is_empty() {
        text = format!("{} has no channels yet", remote.uri());
    }
    print(&text)
}

/// One record as one line, as `git log --oneline` has them.
fn line(entry: &Entry) -> String {
    let record = &entry.record;
    let mut text = format!(
        "{} {} {:<8} {} {} {}",
        record.sequence,
        entry.digest.short(),
        record.kind.name(),
        date::rfc3339(record.when),
        record.name,
        record.version
    );
    let _ = write!(text, " [{}] {}", record.release.short(), record.who);
    if !record.why.is_empty() {
        let _ = write!(text, ": {}", record.why);
    }
    if !record.clouds.is_empty() {
        let first = &record.clouds[0];
        let more = record.clouds.len() - 1;
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let _ = write!(text, " {{{} in {}{more}}}", first.id, first.region);
    }
    if let Some(reason) = &record.forced {
        let _ = write!(text, " (FORCED: {reason})");
    }
    text
}

fn entry_json(entry: &Entry) -> Value {
    json!({ "record": entry.digest, "signed-by": entry.key, "says": entry.record })
}
