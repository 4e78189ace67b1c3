//! What a layer is made of, digested.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{FILES, Inputs};
use crate::base::Digest;
use crate::layers::{self, Kind};
use crate::pipeline::{PipelineError, Settings};
use crate::spec::{Image, LayerSpec, SPEC_FILE};
use crate::tree::generated::Accounts;

/// All users and groups of the image: its containers', Debian's, the user's, the packages'.
pub(super) fn accounts(
    settings: &Settings,
    image: &Image,
    inputs: &[Inputs<'_>],
) -> Result<Accounts, PipelineError> {
    let mut layers = image.layers.clone();
    for (layer, facts) in layers.iter_mut().zip(inputs.iter().map(|i| &i.base)) {
        if let Some(facts) = facts {
            layer.users.clone_from(&facts.users);
            layer.groups.clone_from(&facts.groups);
        }
    }
    let mut containers = Vec::new();
    for inputs in inputs {
        if let Some(container) = &inputs.container {
            let files = settings.container_accounts(inputs.spec, container)?;
            containers.push((inputs.spec.name.clone(), files));
        }
    }
    let packages = inputs.iter().flat_map(|i| &i.packages);
    let accounts = Accounts::with_containers(&layers, packages, &containers)?;
    for facts in inputs.iter().filter_map(|i| i.base.as_ref()) {
        facts
            .check_accounts(&accounts)
            .map_err(|message| PipelineError::Machine {
                file: image.dir.join(SPEC_FILE),
                message,
            })?;
    }
    Ok(accounts)
}

/// Digests of all that a layer reads of its own: rules, packages, files.
pub(super) fn own_inputs(inputs: &Inputs<'_>, user: &[layers::Entry]) -> Vec<(String, Digest)> {
    let packages: Vec<String> = inputs
        .packages
        .iter()
        .map(|package| package.tar.to_string())
        .collect();
    // The folder is not an input, what is in it is.
    let rules = LayerSpec {
        dir: PathBuf::new(),
        // Where its own packages, its tar and its container lie is none either: their bytes are.
        debs: Vec::new(),
        tar: None,
        oci: None,
        ..inputs.spec.clone()
    };
    let mut files = String::new();
    for entry in user {
        add_file(&mut files, entry);
    }
    let mut own = vec![
        ("rules".to_owned(), Digest::of(format!("{rules:?}"))),
        ("packages".to_owned(), Digest::of(packages.join("\n"))),
        (FILES.to_owned(), Digest::of(files)),
    ];
    own.extend(inputs.tar.iter().map(|tar| ("tar".to_owned(), tar.tar)));
    own.extend(inputs.container.iter().map(|container| {
        let tars = container.layers.iter().map(|layer| layer.tar.to_string());
        let tars: Vec<String> = tars.collect();
        ("container".to_owned(), Digest::of(tars.join("\n")))
    }));
    own
}

/// A file of the user's as a line: everything of it that enters the image.
fn add_file(text: &mut String, entry: &layers::Entry) {
    let layers::Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = &entry.meta;
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{}\0{mode:o} {uid} {gid} {mtime} {xattrs:?} ",
        entry.path
    );
    let _ = match &entry.kind {
        Kind::File(content) => match content.digest {
            Some(digest) => writeln!(text, "file {} {digest}", content.size),
            None => writeln!(text, "file {}", content.size),
        },
        other => writeln!(text, "{other:?}"),
    };
}
