//! `slipform new`: a project that boots at once.

use std::fs;

use anyhow::Context;

use super::args::{Cli, New};
use super::{BadInput, Done, print, print_json};
use crate::base::fs::write_atomic;
use crate::spec::SPEC_FILE;

const TEMPLATE: &str = include_str!("template/slipform.toml");
const PAGE: &str = include_str!("template/index.html");

/// Makes the folder with a specification and a page to serve.
pub(crate) fn run(cli: &Cli, verb: &New) -> anyhow::Result<Done> {
    let dir = &verb.dir;
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    crate::spec::check_name(name)
        .map_err(|m| BadInput(format!("cannot make {}: {m}", dir.display())))?;
    if dir.join(SPEC_FILE).exists() {
        return Err(BadInput(format!(
            "{} has a {SPEC_FILE} already; choose another folder",
            dir.display()
        ))
        .into());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    write_atomic(
        &dir.join("www/index.html"),
        PAGE.replace("NAME", name).as_bytes(),
    )?;
    if !dir.join(".gitignore").exists() {
        write_atomic(&dir.join(".gitignore"), b"/out/\n")?;
    }
    write_atomic(
        &dir.join(SPEC_FILE),
        TEMPLATE.replace("NAME", name).as_bytes(),
    )?;
    if cli.json {
        return print_json(&serde_json::json!({ "name": name, "dir": dir }));
    }
    print(&format!(
        "made {}; next: cd {} && slipform test",
        dir.join(SPEC_FILE).display(),
        dir.display()
    ))
}
