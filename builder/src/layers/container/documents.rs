//! The documents of a container image: manifest.md, image-index.md and config.md of the
//! OCI image-spec 1.1, and Docker's image manifest V2, schema 2, which has the same shape.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fault;
use crate::base::{Arch, Digest};
use crate::layers::LayersError;
use crate::store::{DESCRIPTOR_LIMIT, DOCUMENT_LIMIT, Descriptor, INDEX, MANIFEST, REF_NAME};

/// Docker's names of the two documents.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a configuration.
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer that is not compressed.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// How the media types of layers begin; what follows is a compression, which the bytes tell better.
const LAYERS: [&str; 4] = [
    LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// Most layers of one image; overlay file systems end at 500, Docker at 127.
const MOST_LAYERS: usize = 500;
/// How deep indexes may lie in each other.
const DEPTH: usize = 4;
/// The only system whose containers run here.
const LINUX: &str = "linux";

/// What a manifest says that a layer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerManifest {
    /// Digest of the document.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, bottom to top.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// A document by what it holds. One that could be read as either is refused: tools would
/// disagree about what its digest stands for (CVE-2021-41190).
fn read(
    bytes: &[u8],
    name: &str,
) -> Result<Result<ContainerManifest, Vec<Descriptor>>, LayersError> {
    let malformed = |why: &str| {
        fault(
            name,
            format!("its manifest is malformed: {why}; push or save the image again"),
        )
    };
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(malformed("it is larger than 4 MiB"));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| malformed(&error.to_string()))?;
    if raw.schema_version != 2 {
        return Err(malformed(&format!(
            "its schemaVersion is {}, and 2 is wanted",
            raw.schema_version
        )));
    }
    let is = |known: [&str; 2]| {
        raw.media_type
            .as_deref()
            .is_none_or(|own| known.contains(&own))
    };
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) if is([MANIFEST, DOCKER_MANIFEST]) => {
            if layers.len() > MOST_LAYERS {
                return Err(malformed(&format!("it has more than {MOST_LAYERS} layers")));
            }
            for layer in &layers {
                let kind = &layer.media_type;
                let rest = LAYERS.iter().find_map(|known| kind.strip_prefix(known));
                if !matches!(rest, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
                    let kind: String = kind.chars().filter(|c| !c.is_control()).take(120).collect();
                    return Err(fault(
                        name,
                        format!(
                            "it has a layer of the type '{kind}', which is no tar of files; name a container image that is not encrypted"
                        ),
                    ));
                }
            }
            Ok(Ok(ContainerManifest {
                digest: Digest::of(bytes),
                bytes: bytes.to_vec(),
                config,
                layers,
            }))
        }
        (None, None, Some(manifests)) if is([INDEX, DOCKER_LIST]) => {
            if manifests.len() > DESCRIPTOR_LIMIT {
                return Err(malformed("it lists too many manifests"));
            }
            Ok(Err(manifests))
        }
        _ => Err(malformed("it is neither a container image's nor an index")),
    }
}

/// Follows indexes from a document to the image for `arch`; `get` brings the document that a descriptor names.
///
/// # Errors
/// [`LayersError::Container`] for what is no image, or none for `arch`; what `get` says.
pub fn choose<E: From<LayersError>>(
    mut bytes: Vec<u8>,
    arch: Arch,
    name: &str,
    get: &dyn Fn(&Descriptor) -> Result<Vec<u8>, E>,
) -> Result<ContainerManifest, E> {
    for _ in 0..DEPTH {
        match read(&bytes, name)? {
            Ok(manifest) => return Ok(manifest),
            Err(manifests) => bytes = get(fitting(&manifests, arch, name)?)?,
        }
    }
    Err(fault(
        name,
        format!("its indexes lie in each other deeper than {DEPTH}; name the image by its digest"),
    )
    .into())
}

/// A word of what an entry runs on.
fn platform<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.platform.as_ref()?.get(key)?.as_str()
}

/// The first entry for the architecture, as image-index.md has it. Where some are told apart
/// by variants, it is one that all boards run: Docker's and containerd's choice without a
/// better machine.
fn fitting<'a>(
    manifests: &'a [Descriptor],
    arch: Arch,
    name: &str,
) -> Result<&'a Descriptor, LayersError> {
    let fits = |entry: &&Descriptor| {
        platform(entry, "os") == Some(LINUX)
            && platform(entry, "architecture") == Some(arch.debian())
            && platform(entry, "variant")
                .is_none_or(|variant| variant.is_empty() || variant == arch.variant())
    };
    if let Some(found) = manifests.iter().find(fits) {
        return Ok(found);
    }
    // An index of one image often does not say what it is for; its configuration does.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let known: std::collections::BTreeSet<String> = manifests
        .iter()
        .filter_map(|entry| {
            let words = [platform(entry, "os")?, platform(entry, "architecture")?];
            let variant = platform(entry, "variant").filter(|variant| !variant.is_empty());
            Some(
                words
                    .into_iter()
                    .chain(variant)
                    .collect::<Vec<_>>()
                    .join("/"),
            )
        })
        .take(20)
        .collect();
    let known: Vec<String> = known
        .into_iter()
        .map(|text| text.escape_default().to_string())
        .collect();
    Err(fault(
        name,
        format!(
            "it has no image for {LINUX}/{} (it has: {}); name one that has, or other boards",
            arch.debian(),
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ),
    ))
}

/// The index of a layout (image-layout.md), narrowed to the image that `tag` names; one
/// that is alone needs no name.
///
/// # Errors
/// [`LayersError::Container`] for a name that is not there, or several images and no name.
pub fn named_in_layout(
    bytes: &[u8],
    tag: Option<&str>,
    name: &str,
) -> Result<Vec<u8>, LayersError> {
    let Err(manifests) = read(bytes, name)? else {
        return Err(fault(
            name,
            "its index.json is no index; save the image again",
        ));
    };
    let title = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    let entries: Vec<Descriptor> = match tag {
        Some(tag) => manifests
            .iter()
            .filter(|entry| title(entry).as_deref() == Some(tag))
            .cloned()
            .collect(),
        None => {
            let mut titles: Vec<Option<String>> = manifests.iter().map(title).collect();
            titles.sort();
            titles.dedup();
            if titles.len() > 1 {
                return Err(several(name, titles.into_iter().flatten()));
            }
            manifests.clone()
        }
    };
    if entries.is_empty() {
        return Err(match tag {
            Some(_) => several(name, manifests.iter().filter_map(title)),
            None => fault(name, "there is no image in it; save one"),
        });
    }
    serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": entries }))
        .map_err(|error| fault(name, error.to_string()))
}

pub(super) fn several(name: &str, titles: impl Iterator<Item = String>) -> LayersError {
    let titles: Vec<String> = titles
        .take(20)
        .map(|title| title.escape_debug().to_string())
        .collect();
    fault(
        name,
        format!(
            "it holds {}; put the name of one behind a colon",
            if titles.is_empty() {
                "no image of that name".to_owned()
            } else {
                titles.join(", ")
            }
        ),
    )
}

/// What an image says of itself (config.md).
#[derive(Debug, Clone, Deserialize)]
pub struct ContainerConfig {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// How the container is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // named as config.md has them
pub struct RunConfig {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub stop_signal: Option<String>,
}

impl ContainerConfig {
    /// Reads a configuration that fits the manifest's number of layers and `arch`.
    ///
    /// # Errors
    /// [`LayersError::Container`].
    pub fn parse(
        bytes: &[u8],
        manifest: &ContainerManifest,
        arch: Arch,
        name: &str,
    ) -> Result<Self, LayersError> {
        let config: Self = serde_json::from_slice(bytes).map_err(|error| {
            fault(
                name,
                format!(
                    "its configuration is no container image's: {error}; name one that can be run"
                ),
            )
        })?;
        if config.os != LINUX || config.architecture != arch.debian() {
            return Err(fault(
                name,
                format!(
                    "it is for {}/{}, and the boards are {LINUX}/{}; name another, or other boards",
                    config.os.escape_debug(),
                    config.architecture.escape_debug(),
                    arch.debian()
                ),
            ));
        }
        let (ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if ids != layers {
            return Err(fault(
                name,
                format!(
                    "its configuration has {ids} layers and its manifest {layers}; push or save the image again"
                ),
            ));
        }
        Ok(config)
    }

    /// Digests of the uncompressed layers, bottom to top.
    #[must_use]
    pub fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }

    /// How the container is run.
    #[must_use]
    pub fn run(&self) -> RunConfig {
        self.config.clone().unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
