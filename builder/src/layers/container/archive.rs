//! An archive of a container image: an OCI layout in a tar (`skopeo copy … oci-archive:`,
//! Docker from 25 on), or what `docker save` wrote before.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use super::documents::{CONFIG, ContainerManifest, LAYER, choose, named_in_layout, several};
use super::{fault, origin};
use crate::base::fs::At;
use crate::base::{Arch, Digest};
use crate::layers::{Content, Kind, LayersError, UnpackedTar, content};
use crate::store::{DOCUMENT_LIMIT, Descriptor, MANIFEST, Manifest, Store, StoreError};

/// Brings the image for `arch` out of an archive into the store: manifest, configuration
/// and layers. `tag` chooses among several; `name` is the archive's for messages.
///
/// # Errors
/// [`LayersError`] when it is no archive of a container image, or not a whole one.
pub fn import(
    store: &Store,
    archive: &UnpackedTar,
    tag: Option<&str>,
    arch: Arch,
    name: &str,
) -> Result<ContainerManifest, LayersError> {
    let mut files = BTreeMap::new();
    let mut links = Vec::new();
    for entry in archive.layer_entries(store, &origin(name))? {
        match entry.kind {
            Kind::File(content) => {
                files.insert(entry.path, content);
            }
            Kind::Hardlink(target) => links.push((entry.path, target)),
            // Old archives name a layer that is there already by `../<id>/layer.tar`.
            Kind::Symlink(target) => {
                let target = target.trim_start_matches("../");
                links.push((entry.path, format!("/{target}")));
            }
            _ => {}
        }
    }
    for (path, target) in links {
        if let Some(content) = files.get(&target).cloned() {
            files.insert(path, content);
        }
    }
    let archive = Archive { store, files, name };
    let manifest = if archive.files.contains_key("/index.json") {
        archive.layout(tag, arch)?
    } else if archive.files.contains_key("/manifest.json") {
        archive.docker(tag, arch)?
    } else {
        return Err(fault(
            name,
            "it has neither index.json nor manifest.json; name an archive of a container image, or bring its files by `tar`",
        ));
    };
    store.put(&manifest.bytes)?;
    Ok(manifest)
}

struct Archive<'a> {
    store: &'a Store,
    files: BTreeMap<String, Content>,
    name: &'a str,
}

/// An image in `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive<'_> {
    fn file(&self, path: &str) -> Result<&Content, LayersError> {
        self.files.get(path).ok_or_else(|| {
            let path: String = path.escape_debug().take(200).collect();
            fault(self.name, format!("it lacks {path}; save the image again"))
        })
    }

    fn document(&self, path: &str) -> Result<Vec<u8>, LayersError> {
        let content = self.file(path)?;
        if content.size > DOCUMENT_LIMIT {
            return Err(fault(
                self.name,
                format!(
                    "{path} has {} bytes; at most {DOCUMENT_LIMIT} are read",
                    content.size
                ),
            ));
        }
        content::read_range(
            content,
            self.store,
            0,
            usize::try_from(content.size).unwrap_or(0),
        )
    }

    fn blob(digest: &Digest) -> String {
        format!("/blobs/sha256/{}", digest.hex())
    }

    fn layout(&self, tag: Option<&str>, arch: Arch) -> Result<ContainerManifest, LayersError> {
        let top = named_in_layout(&self.document("/index.json")?, tag, self.name)?;
        let manifest = choose(top, arch, self.name, &|descriptor| {
            let bytes = self.document(&Self::blob(&descriptor.digest))?;
            if Digest::of(&bytes) == descriptor.digest {
                Ok(bytes)
            } else {
                Err(self.damaged(&descriptor.digest))
            }
        })?;
        for part in manifest.layers.iter().chain([&manifest.config]) {
            if self.store.size(&part.digest) == Some(part.size) {
                continue;
            }
            let content = self.file(&Self::blob(&part.digest))?;
            if content.size != part.size {
                return Err(self.damaged(&part.digest));
            }
            if self.copy(content)? != part.digest {
                return Err(self.damaged(&part.digest));
            }
        }
        Ok(manifest)
    }

    fn damaged(&self, digest: &Digest) -> LayersError {
        fault(
            self.name,
            format!("the bytes under {digest} in it are others; save the image again"),
        )
    }

    fn copy(&self, content: &Content) -> Result<Digest, LayersError> {
        let mut reader = content::open_unhashed(content, self.store)?;
        let mut writer = self.store.writer()?;
        io::copy(&mut reader, &mut writer)
            .at("write", self.store.tmp())
            .map_err(StoreError::from)?;
        Ok(writer.finish()?)
    }

    fn docker(&self, tag: Option<&str>, arch: Arch) -> Result<ContainerManifest, LayersError> {
        let saved: Vec<Saved> =
            serde_json::from_slice(&self.document("/manifest.json")?).map_err(|error| {
                fault(
                    self.name,
                    format!("its manifest.json is malformed: {error}; save the image again"),
                )
            })?;
        let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
        let mut found = saved
            .iter()
            .filter(|saved| tag.is_none_or(|tag| tags(saved).iter().any(|own| own == tag)));
        let (Some(saved), None) = (found.next(), found.next()) else {
            return Err(several(self.name, saved.iter().flat_map(tags)));
        };
        let config = self.document(&format!("/{}", saved.config))?;
        let mut layers = Vec::new();
        for layer in &saved.layers {
            let content = self.file(&format!("/{layer}"))?;
            layers.push(Descriptor::new(LAYER, self.copy(content)?, content.size));
        }
        let config = Descriptor::new(CONFIG, self.store.put(&config)?, config.len() as u64);
        // Such an archive has no manifest: its parts make one, the same each time.
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        choose(manifest.to_bytes()?, arch, self.name, &|_| {
            Err(fault(self.name, "its manifest is an index"))
        })
    }
}
