//! `slipform gc`.

use super::args::{Cli, Gc};
use super::{Done, print, print_json, settings};
use crate::base::bytes::human;

/// Sweeps the store.
pub(crate) fn gc(cli: &Cli, verb: &Gc) -> anyhow::Result<Done> {
    let swept = settings(cli)?.gc(verb.dry_run)?;
    if cli.json {
        return print_json(&swept);
    }
    let word = if verb.dry_run {
        "would remove"
    } else {
        "removed"
    };
    print(&format!(
        "{word} {} objects, {}; {} kept",
        swept.removed,
        human(swept.bytes),
        swept.kept
    ))
}
