//! Which image of a base's release is for an architecture.

use std::collections::BTreeSet;

use super::{BaseFacts, no_base};
use crate::base::{Arch, Digest};
use crate::channel::Entry;
use crate::pipeline::PipelineError;
use crate::publish;
use crate::remote::Remote;
use crate::spec::BaseUse;
use crate::store::{Descriptor, Index};

/// The image of a release that carries the base for `arch`. One that is alone, or named by
/// its own digest, is it without a look: its facts say what it is for ([`runs_on`]).
pub(super) fn image_of(
    remote: &dyn Remote,
    entry: &Entry,
    wanted: &BaseUse,
    arch: Arch,
) -> Result<Digest, PipelineError> {
    let images = &entry.record.images;
    let is_image = |digest: &Digest| images.iter().any(|image| image.image == *digest);
    if let [only] = images.as_slice() {
        return Ok(only.image);
    }
    if let Some(named) = wanted.release.parse().ok().filter(is_image) {
        return Ok(named);
    }
    let document = publish::document(remote, &entry.record.release, "a base's index")?;
    let index = Index::parse(&document.bytes)?;
    let all = || index.manifests.iter().filter(|i| is_image(&i.digest));
    // Boards of one architecture have the same layer: any of their images will do.
    match all().find(|image| platform(image) == Some(arch)) {
        Some(image) => Ok(image.digest),
        None => Err(other(wanted, &all().filter_map(platform).collect(), arch)),
    }
}

/// Whether a base is for an architecture.
pub(super) fn runs_on(
    facts: &BaseFacts,
    wanted: &BaseUse,
    arch: Arch,
) -> Result<(), PipelineError> {
    let own = facts.architecture();
    if own == Some(arch) {
        return Ok(());
    }
    Err(other(wanted, &own.into_iter().collect(), arch))
}

fn platform(image: &Descriptor) -> Option<Arch> {
    let name = image.platform.as_ref()?.get("architecture")?.as_str()?;
    Arch::ALL.into_iter().find(|arch| arch.debian() == name)
}

fn other(wanted: &BaseUse, has: &BTreeSet<Arch>, arch: Arch) -> PipelineError {
    let has: Vec<&str> = has.iter().map(|arch| arch.name()).collect();
    let has = if has.is_empty() {
        "an architecture that this slipform does not know".to_owned()
    } else {
        has.join(" and ")
    };
    no_base(
        &wanted.written,
        format!(
            "it is for {has}, and boards are {}; publish it for such a board, too (`boards` in its layer.toml), or take a shipped base or a folder's",
            arch.name()
        ),
    )
}
