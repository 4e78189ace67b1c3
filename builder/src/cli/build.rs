//! `slipform build`.

use anyhow::Context;
use serde::Serialize;

use super::args::{Build, Casting, Cli};
use super::{Done, print, print_json, settings};
use crate::base::Digest;
use crate::base::bytes::human;
use crate::output::{Artifact, OutputFormat};
use crate::pipeline::{Cast, Locking, Settings, changes, load};
use crate::spec::Image;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    artifacts: Vec<ArtifactReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct ArtifactReport {
    image: String,
    board: String,
    format: String,
    path: std::path::PathBuf,
    disk: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// Casts and writes every wanted board and format.
pub(crate) fn run(cli: &Cli, verb: &Build) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = load(&verb.casting.dir)?;
    let (image_digest, artifacts) = settings.healed(|| {
        let (digest, casts) = cast_all(&settings, &image, &verb.casting)?;
        let artifacts = write_all(&settings, &image, &casts, verb)?;
        anyhow::Ok((digest, artifacts))
    })?;
    if cli.json {
        let steps = verb.explain.then(|| settings.steps_json());
        return print_json(&Report {
            image: image_digest.to_string(),
            artifacts,
            steps,
        });
    }
    let mut text = String::new();
    if verb.explain {
        text.push_str(&settings.explain());
    }
    text.push_str(&format!("image {image_digest}\n"));
    for artifact in &artifacts {
        text.push_str(&format!(
            "{}  {}  disk {}\n",
            artifact.path.display(),
            human(artifact.bytes),
            artifact.disk
        ));
        if let Some(sum) = &artifact.sha256 {
            text.push_str(&format!("{sum}\n"));
        }
    }
    print(&text)
}

/// Writes every wanted format of every cast.
fn write_all(
    settings: &Settings,
    image: &Image,
    casts: &[Cast],
    verb: &Build,
) -> anyhow::Result<Vec<ArtifactReport>> {
    let mut artifacts = Vec::new();
    for cast in casts {
        for format in &verb.format {
            let artifact = write(settings, image, cast, *format, &verb.casting)?;
            artifacts.push(ArtifactReport {
                image: cast.manifest.to_string(),
                board: cast.board.name.clone(),
                format: format.to_string(),
                disk: cast.disk.digest().to_string(),
                bytes: artifact.bytes,
                sha256: verb
                    .sum
                    .then(|| settings.flat_sum(&artifact))
                    .transpose()?
                    .map(|d| d.to_string()),
                path: artifact.path,
            });
        }
    }
    Ok(artifacts)
}

/// Locks, fetches and casts for each wanted board; the digest is that of all of them.
pub(super) fn cast_all(
    settings: &Settings,
    image: &Image,
    casting: &Casting,
) -> anyhow::Result<(Digest, Vec<Cast>)> {
    let locking = if casting.locked {
        Locking::AsItIs
    } else {
        Locking::IfNeeded
    };
    let boards = if casting.board.is_empty() {
        image.boards.clone()
    } else {
        casting.board.clone()
    };
    let before = settings.read_lock(image).ok().flatten();
    let lock = settings.lock(image, &locking)?;
    if before.is_some() {
        // A lock that was mended must not surprise.
        for change in changes(before.as_ref(), &lock) {
            settings.progress.note(&change);
        }
    }
    let casts = boards
        .iter()
        .map(|board| settings.cast(image, &lock, board))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((settings.release(image, &lock, &casts)?, casts))
}

/// Writes one artifact into the wanted folder.
pub(super) fn write(
    settings: &Settings,
    image: &Image,
    cast: &Cast,
    format: OutputFormat,
    casting: &Casting,
) -> anyhow::Result<Artifact> {
    let out = casting.out.clone().unwrap_or_else(|| image.dir.join("out"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let name = format!(
        "{}-{}-{}.{}",
        image.name,
        image.version,
        cast.board.name,
        format.extension()
    );
    Ok(settings.write(cast, format, &out.join(name))?)
}
