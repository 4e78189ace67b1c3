//! `slipform export`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::Cli;
use super::{BadInput, Done, print, print_json, settings};
use crate::base::bytes::human;
use crate::output::OutputFormat;
use crate::pipeline::diff::Side;

/// `slipform export`.
#[derive(Debug, Args)]
pub struct Export {
    /// An image file of any format, or `sha256:…` of the store.
    pub image: String,
    /// The format to write: raw, raw.zst, qcow2, qcow2-zlib, vhd, vhd-dynamic, vhdx, vmdk, vmdk-stream, ova, gcp-tar or iso.
    #[arg(long, value_name = "FORMAT")]
    pub format: OutputFormat,
    /// The file to write; NAME-VERSION-BOARD in this folder by default.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Writes one file.
pub(crate) fn run(cli: &Cli, verb: &Export) -> anyhow::Result<Done> {
    let settings = settings(cli)?;
    let image = Side::parse(&verb.image).map_err(BadInput)?;
    let artifact = settings.export(&image, verb.format, verb.output.as_deref())?;
    let sum = settings.flat_sum(&artifact)?;
    if cli.json {
        return print_json(&json!({
            "image": image.to_string(),
            "format": artifact.format,
            "path": artifact.path,
            "bytes": artifact.bytes,
            "sha256": sum,
        }));
    }
    print(&format!(
        "{}  {}\n{sum}\n",
        artifact.path.display(),
        human(artifact.bytes)
    ))
}
