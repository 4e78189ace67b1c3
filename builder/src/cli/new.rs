//! `slipform new`: a project that boots at once.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::args::{Cli, New};
use super::{BadInput, Done, print, print_json, settings};
use crate::base::fs::write_atomic;
use crate::spec::{self, SPEC_FILE};

const TEMPLATE: &str = include_str!("template/slipform.toml");
const PAGE: &str = include_str!("template/index.html");

/// Makes the folder with a specification: of a page to serve, or of a container.
pub(crate) fn run(cli: &Cli, verb: &New) -> anyhow::Result<Done> {
    let dir = &verb.dir;
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    spec::check_name(name).map_err(|m| BadInput(format!("cannot make {}: {m}", dir.display())))?;
    if dir.join(SPEC_FILE).exists() {
        return Err(BadInput(format!(
            "{} has a {SPEC_FILE} already; choose another folder",
            dir.display()
        ))
        .into());
    }
    let text = match &verb.from {
        Some(image) => from_container(cli, dir, name, image)?,
        None => {
            create(dir)?;
            let page = PAGE.replace("NAME", name);
            write_atomic(&dir.join("www/index.html"), page.as_bytes())?;
            TEMPLATE.replace("NAME", name)
        }
    };
    if !dir.join(".gitignore").exists() {
        write_atomic(&dir.join(".gitignore"), b"/out/\n")?;
    }
    write_atomic(&dir.join(SPEC_FILE), text.as_bytes())?;
    if verb.from.is_some()
        && let Err(error) = spec::load(dir)
    {
        // What an image says of itself need not be what a specification can say.
        fs::remove_file(dir.join(SPEC_FILE)).context("cannot take the specification back")?;
        return Err(BadInput(format!("its configuration makes no specification: {error}")).into());
    }
    if cli.json {
        return print_json(&serde_json::json!({ "name": name, "dir": dir }));
    }
    print(&format!(
        "made {}; next: cd {} && slipform test",
        dir.join(SPEC_FILE).display(),
        dir.display()
    ))
}

fn create(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// The specification of a container; an archive or a layout is copied beside it once it is
/// known to be one that runs.
fn from_container(cli: &Cli, dir: &Path, name: &str, image: &str) -> anyhow::Result<String> {
    let settings = settings(cli)?;
    let bad = |message: String| anyhow::Error::from(BadInput(format!("--from {message}")));
    if image.contains("://") {
        let rule = spec::container_rule(image.to_owned(), dir).map_err(bad)?;
        let text = settings.container_project(name, &rule)?;
        create(dir)?;
        return Ok(text);
    }
    let colons = image.match_indices(':').map(|(colon, _)| colon);
    let ends = [image.len()].into_iter().chain(colons);
    let found = ends
        .map(|end| image.split_at(end))
        .find(|(path, _)| !path.is_empty() && Path::new(path).exists());
    let Some((path, tag)) = found else {
        return Err(bad(format!("'{image}' cannot be found; check the name")));
    };
    let path = Path::new(path);
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))?;
    let file = path.file_name().and_then(|name| name.to_str());
    let (Some(file), Some(folder)) = (file, path.parent()) else {
        return Err(bad(format!(
            "'{image}' has a name that is not UTF-8; give it another"
        )));
    };
    let rule = spec::container_rule(format!("{file}{tag}"), folder).map_err(bad)?;
    let text = settings.container_project(name, &rule)?;
    create(dir)?;
    copy(&path, &dir.join(file))?;
    Ok(text)
}

/// Copies an archive, or the parts of an OCI layout.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to)
            .map(drop)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    };
    if !from.is_dir() {
        return if to.exists() && from == to.canonicalize()? {
            Ok(())
        } else {
            copy(from, to)
        };
    }
    create(&to.join("blobs/sha256"))?;
    for file in ["oci-layout", "index.json"] {
        copy(&from.join(file), &to.join(file))?;
    }
    let blobs = from.join("blobs/sha256");
    for blob in fs::read_dir(&blobs).with_context(|| format!("cannot list {}", blobs.display()))? {
        let blob = blob?;
        copy(
            &blob.path(),
            &to.join("blobs/sha256").join(blob.file_name()),
        )?;
    }
    Ok(())
}
