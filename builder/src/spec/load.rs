//! Finds and reads the files of a specification, bounded.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::check::{Source, check, check_base};
use super::{Image, SpecError, raw};
use crate::base::fs::At;
use crate::base::toml as toml_text;
use crate::board::VENDOR_DIR;

/// File name of an image's specification.
pub const SPEC_FILE: &str = "slipform.toml";
/// File name of a layer's specification.
pub const LAYER_FILE: &str = "layer.toml";
/// No specification is longer, in bytes.
const LONGEST: u64 = 1 << 20;

/// Layers that ship with Slipform, by name, found wherever the command runs from.
pub const SHIPPED_LAYERS: &[(&str, &str)] = &[
    ("base", include_str!("../../../layers/base/layer.toml")),
    (
        "busybox",
        include_str!("../../../layers/busybox/layer.toml"),
    ),
    ("debug", include_str!("../../../layers/debug/layer.toml")),
];

/// Loads and checks the image in `dir` (a folder with [`SPEC_FILE`], or that file). A folder
/// with a [`LAYER_FILE`] alone is a base: the smallest image on that layer.
///
/// # Errors
/// [`SpecError`]: file, line, value, rule and remedy.
pub fn load(dir: &Path) -> Result<Image, SpecError> {
    let file = if dir.is_file() {
        dir.to_owned()
    } else {
        dir.join(SPEC_FILE)
    };
    let layer = file.with_file_name(LAYER_FILE);
    if file.file_name().is_some_and(|name| name == LAYER_FILE)
        || (!file.exists() && layer.is_file())
    {
        return load_base(&layer);
    }
    if !file.exists() {
        return Err(SpecError::File {
            file,
            message: "there is no such file; name a folder with a slipform.toml (or, for a base, a layer.toml), or make one with `slipform new`".to_owned(),
        });
    }
    let text = read(&file)?;
    let parsed: raw::RawImage = toml_text::parse(&text, &file).map_err(SpecError::Parse)?;
    let folder = folder_of(&file)?;
    check(
        parsed,
        &Source {
            file: &file,
            text: &text,
        },
        &folder,
    )
}

fn load_base(file: &Path) -> Result<Image, SpecError> {
    let text = read(file)?;
    let parsed: raw::RawLayer = toml_text::parse(&text, file).map_err(SpecError::Parse)?;
    let folder = folder_of(file)?;
    check_base(parsed, &Source { file, text: &text }, &folder)
}

/// The folder of a specification, without links.
fn folder_of(file: &Path) -> Result<PathBuf, SpecError> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(folder.canonicalize().at("find", folder)?)
}

/// Reads a specification as text.
pub(super) fn read(file: &Path) -> Result<String, SpecError> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).at("open", file)?;
    opened
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .at("read", file)?;
    let problem = |message: &str| SpecError::File {
        file: file.to_owned(),
        message: message.to_owned(),
    };
    if bytes.len() as u64 > LONGEST {
        return Err(problem("is longer than 1 MiB; a specification must not be"));
    }
    String::from_utf8(bytes).map_err(|_| problem("is not UTF-8; save it as UTF-8"))
}

/// A layer named by `use`: its text, the name of its file for messages, and its folder.
pub(super) struct Used {
    pub(super) text: String,
    pub(super) file: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) name: String,
}

/// Looks up `use = "…"`: a shipped layer, or a folder relative to `base`.
pub(super) fn used(wanted: &str, base: &Path) -> Result<Used, String> {
    if let Some((name, text)) = SHIPPED_LAYERS.iter().find(|(name, _)| *name == wanted) {
        let vendored = base.join(VENDOR_DIR).join("layers").join(name);
        let vendored = vendored.join(LAYER_FILE);
        let text = if vendored.is_file() {
            read(&vendored).map_err(|error| error.to_string())?
        } else {
            (*text).to_owned()
        };
        return Ok(Used {
            text,
            file: PathBuf::from(format!("layers/{name}/{LAYER_FILE} (shipped)")),
            folder: base.to_owned(),
            name: (*name).to_owned(),
        });
    }
    let shipped: Vec<&str> = SHIPPED_LAYERS.iter().map(|(name, _)| *name).collect();
    let folder = base.join(wanted);
    let file = folder.join(LAYER_FILE);
    if !file.is_file() {
        let hint = toml_text::nearest(wanted, shipped.iter().copied()).map_or_else(
            || {
                format!(
                    "use one of {}, or a folder with a {LAYER_FILE}",
                    shipped.join(", ")
                )
            },
            |near| format!("did you mean '{near}'?"),
        );
        return Err(format!(
            "use = \"{wanted}\" is neither a shipped layer nor a folder with a {LAYER_FILE}; {hint}"
        ));
    }
    let text = read(&file).map_err(|error| error.to_string())?;
    let folder = folder
        .canonicalize()
        .map_err(|error| format!("{wanted}: {error}"))?;
    let name = folder
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or("layer")
        .to_owned();
    Ok(Used {
        text,
        file,
        folder,
        name,
    })
}
