//! `slipform flash`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::Cli;
use super::{BadInput, Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::output::{Kernel, Target};
use crate::pipeline::diff::Side;

/// `slipform flash`.
#[derive(Debug, Args)]
pub struct Flash {
    /// An image file of any format, or `sha256:…` of the store.
    pub image: String,
    /// The disk to overwrite, such as /dev/sdX.
    pub target: PathBuf,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Let the target be a regular file that is there and large enough.
    #[arg(long)]
    pub file: bool,
}

/// Shows what is there, asks, writes, reads back.
pub(crate) fn run(cli: &Cli, verb: &Flash) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = Side::parse(&verb.image).map_err(BadInput)?;
    let target = Target::look(&Kernel::default(), &verb.target, verb.file)
        .map_err(|error| BadInput(error.to_string()))?;
    settings.may_flash(&image, &target)?;
    if !verb.yes && !std::io::stdin().is_terminal() {
        return Err(BadInput("there is no terminal to ask on; say --yes".to_owned()).into());
    }
    if !cli.quiet || !verb.yes {
        let _ = std::io::stderr().write_all(describe(&target).as_bytes());
    }
    if !verb.yes && !agreed()? {
        return Err(BadInput("nothing was written".to_owned()).into());
    }
    let flashed = settings.flash(&image, &target)?;
    if cli.json {
        return print_json(&json!({
            "image": image.to_string(),
            "target": target,
            "bytes": flashed.size,
            "written": flashed.written,
            "verified": true,
        }));
    }
    print(&format!(
        "{}: {} written, all {} read back and compared",
        target.path.display(),
        human(flashed.written),
        human(flashed.size)
    ))
}

/// The target for people.
fn describe(target: &Target) -> String {
    let mut text = format!("{}: {}", target.path.display(), human(target.size));
    if !target.model.is_empty() {
        text.push_str(&format!(", {}", target.model));
    }
    if target.removable {
        text.push_str(", removable");
    }
    text.push('\n');
    for part in &target.partitions {
        text.push_str(&format!("  {}  {}\n", part.name, human(part.size)));
    }
    if target.partitions.is_empty() && target.sector_size > 0 {
        text.push_str("  no partitions\n");
    }
    text
}

/// Asks on the terminal.
fn agreed() -> anyhow::Result<bool> {
    let mut error = std::io::stderr();
    error.write_all(b"Everything on it will be lost. Go on? Type yes: ")?;
    error.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == "yes")
}
