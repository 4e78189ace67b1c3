//! Container images of layers: pinned by the digest of their manifest, brought into the
//! store blob by blob, unpacked once for each layer of theirs.
//!
//! ```text
//! oci://host/repository:tag    asked for by `slipform lock` only; then the digest counts
//! a folder or an archive       what is in it now must be what the lock has
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::parts::architecture;
use super::{Locking, PipelineError, Settings, output, value};
use crate::base::fs::At;
use crate::base::{Arch, Digest};
use crate::layers::container::documents::{
    ContainerConfig, ContainerManifest, RunConfig, choose, named_in_layout,
};
use crate::layers::container::{AccountFiles, archive};
use crate::layers::{LayersError, UnpackedContainer, UnpackedTar, rootfs};
use crate::lock::{Finding, LockFile, LockedBlob, LockedContainer};
use crate::publish::{self, PublishError};
use crate::remote::{Document, Folder, Piece, Remote, RemoteError, download_all};
use crate::sources::{Host, UserConfig};
use crate::spec::{ContainerPlace, ContainerRule, Image, LayerSpec};
use crate::store::{
    DOCUMENT_LIMIT, Descriptor, Output, Outputs, StatCache, Step, StepLog, StepState,
};

/// The pinned containers of an image, by the names of their layers.
pub(super) type Containers = BTreeMap<String, LockedContainer>;

fn fault(rule: &ContainerRule, problem: impl Into<String>) -> PipelineError {
    LayersError::Container {
        container: rule.written.clone(),
        problem: problem.into(),
    }
    .into()
}

impl Settings {
    /// The containers of `image`, pinned: as `before` has them, unless they are to move or
    /// the specification names others; those of files are what the files are now.
    pub(super) fn pin_containers(
        &self,
        image: &Image,
        before: Option<&LockFile>,
        locking: &Locking,
    ) -> Result<Containers, PipelineError> {
        let mut pinned = Containers::new();
        let arch = architecture(image)?;
        // What was chosen for other boards is another image of the same index.
        let before = before.filter(|lock| {
            let mut boards = lock.boards.iter();
            boards.all(|board| board.kernel.arch == arch.debian())
        });
        for layer in &image.layers {
            let Some(rule) = &layer.oci else { continue };
            let moves = match locking {
                Locking::UpdateAll => true,
                Locking::Update(names) => names.contains(&layer.name),
                Locking::IfNeeded | Locking::AsItIs => false,
            };
            let kept = before.and_then(|lock| {
                let mut all = lock.containers();
                let found = all.find(|(name, c)| *name == layer.name && c.image == rule.written);
                found.map(|(_, container)| container.clone())
            });
            let found = match (&rule.place, kept) {
                (ContainerPlace::Local { .. }, _) => self.open_container(rule, arch)?,
                (_, Some(kept)) if !moves => {
                    pinned.insert(layer.name.clone(), kept);
                    continue;
                }
                _ if *locking == Locking::AsItIs => continue,
                _ => self.open_container(rule, arch)?,
            };
            pinned.insert(layer.name.clone(), locked(rule, &found));
        }
        Ok(pinned)
    }

    /// What `rule` names now; its documents are in the store afterwards, and fit the boards.
    fn open_container(
        &self,
        rule: &ContainerRule,
        arch: Arch,
    ) -> Result<ContainerManifest, PipelineError> {
        let manifest = match &rule.place {
            ContainerPlace::Registry { remote, reference } => {
                if self.offline {
                    return Err(PipelineError::OfflineResolve);
                }
                let remote = self.registry(remote)?;
                let top = match reference.parse::<Digest>() {
                    Ok(digest) => remote.manifest(&digest),
                    Err(_) => remote.tagged(reference),
                };
                let top = self.there(rule, top)?;
                self.choose(rule, arch, &*remote, top.bytes)?
            }
            ContainerPlace::Local { path, tag } if path.is_dir() => {
                let index = read_limited(&path.join("index.json"))?;
                let top = named_in_layout(&index, tag.as_deref(), &rule.written)?;
                self.choose(rule, arch, &layout(path)?, top)?
            }
            ContainerPlace::Local { path, tag } => {
                let digest = self.import_archive(rule, arch, path, tag.as_deref())?;
                let bytes = self
                    .store
                    .read_at_most(&digest, "manifest", DOCUMENT_LIMIT)?;
                let none = |_: &Descriptor| Err(fault(rule, "its manifest is an index"));
                choose(bytes, arch, &rule.written, &none)?
            }
        };
        self.store.put(&manifest.bytes)?;
        self.container_config(rule, arch, &manifest)?;
        Ok(manifest)
    }

    /// The repository of that name, where the user's configuration says that it lies.
    fn registry(&self, uri: &str) -> Result<Box<dyn Remote>, PipelineError> {
        let config = UserConfig::load(&Host::real())?;
        self.remote(&config.registry(uri))
    }

    /// How a container is run, and its files; nothing of it is locked.
    pub(super) fn whole_container(
        &self,
        rule: &ContainerRule,
        arch: Arch,
    ) -> Result<(RunConfig, UnpackedContainer), PipelineError> {
        let manifest = self.open_container(rule, arch)?;
        let unpacked = self.unpack_container(rule, arch, &locked(rule, &manifest))?;
        Ok((
            self.container_config(rule, arch, &manifest)?.run(),
            unpacked,
        ))
    }

    /// Follows the indexes of a remote, and brings the configuration of what is found.
    fn choose(
        &self,
        rule: &ContainerRule,
        arch: Arch,
        remote: &dyn Remote,
        top: Vec<u8>,
    ) -> Result<ContainerManifest, PipelineError> {
        let manifest = choose(top, arch, &rule.written, &|descriptor: &Descriptor| {
            Ok::<_, PipelineError>(self.there(rule, remote.manifest(&descriptor.digest))?.bytes)
        })?;
        let config = &manifest.config;
        if config.size > DOCUMENT_LIMIT {
            return Err(fault(
                rule,
                format!(
                    "its configuration has {} bytes; at most {DOCUMENT_LIMIT} are read",
                    config.size
                ),
            ));
        }
        publish::fetch_blob(&self.store, remote, &config.digest, config.size)?;
        Ok(manifest)
    }

    fn there(
        &self,
        rule: &ContainerRule,
        found: Result<Option<Document>, RemoteError>,
    ) -> Result<Document, PipelineError> {
        found
            .map_err(PublishError::from)?
            .ok_or_else(|| fault(rule, "there is no such image; check its name and tag"))
    }

    fn container_config(
        &self,
        rule: &ContainerRule,
        arch: Arch,
        manifest: &ContainerManifest,
    ) -> Result<ContainerConfig, PipelineError> {
        let digest = &manifest.config.digest;
        let bytes = self
            .store
            .read_at_most(digest, "configuration", DOCUMENT_LIMIT)?;
        Ok(ContainerConfig::parse(
            &bytes,
            manifest,
            arch,
            &rule.written,
        )?)
    }

    /// An archive's image in the store, brought once for each archive.
    fn import_archive(
        &self,
        rule: &ContainerRule,
        arch: Arch,
        path: &Path,
        tag: Option<&str>,
    ) -> Result<Digest, PipelineError> {
        let path = path.canonicalize().at("find", path)?;
        let stats = StatCache::load(&self.store, &format!("container {}", path.display()));
        let (sha256, size) = stats.digest(&path).map_err(LayersError::from)?;
        stats.save()?;
        let step = Step::new("container archive 1", sha256.short())
            .input("archive", sha256)
            .value("tag", tag.unwrap_or_default())
            .value("architecture", arch.debian());
        if let StepState::Hit(outputs) = self.store.step(&step, &StepLog::default()) {
            let Output::Blob(digest) = outputs["manifest"] else {
                return Err(PipelineError::Store(super::damaged("manifest")));
            };
            return Ok(digest);
        }
        let _task = self
            .progress
            .begin(&format!("container {}", rule.written), Some(size));
        let mut file = File::open(&path).at("open", &path)?;
        let mut writer = self.store.writer()?;
        std::io::copy(&mut file, &mut writer).at("read", &path)?;
        writer.finish_as(&sha256, &path.display().to_string())?;
        let unpacked = rootfs::unpack_layer(&self.store, &sha256, &rule.written)?;
        let found = archive::import(&self.store, &unpacked, tag, arch, &rule.written)?;
        let mut outputs = Outputs::from([("manifest".to_owned(), Output::Blob(found.digest))]);
        // Each is asked for, so that one that is swept makes the step a miss.
        for (number, part) in found.layers.iter().chain([&found.config]).enumerate() {
            outputs.insert(format!("part {number:03}"), Output::Blob(part.digest));
        }
        self.store.record(&step, &outputs)?;
        Ok(found.digest)
    }

    /// The image's containers that the store lacks come into it, as the lock has them.
    pub(super) fn bring_containers(
        &self,
        image: &Image,
        lock: &LockFile,
    ) -> Result<(), PipelineError> {
        let arch = architecture(image)?;
        for (name, locked) in lock.containers() {
            let layer = image.layers.iter().find(|layer| layer.name == name);
            if let Some(rule) = layer.and_then(|layer| layer.oci.as_ref()) {
                self.bring_container(rule, arch, locked)?;
            }
        }
        Ok(())
    }

    fn bring_container(
        &self,
        rule: &ContainerRule,
        arch: Arch,
        locked: &LockedContainer,
    ) -> Result<(), PipelineError> {
        let pieces = pieces(locked);
        let lacks = |piece: &&Piece| self.store.size(&piece.digest) != Some(piece.size);
        if !pieces.iter().any(|piece| lacks(&piece)) {
            return Ok(());
        }
        for piece in pieces.iter().filter(lacks) {
            self.blob_from_team(&piece.digest, piece.size);
        }
        if !pieces.iter().any(|piece| lacks(&piece)) {
            return Ok(());
        }
        let remote: Box<dyn Remote> = match &rule.place {
            ContainerPlace::Registry { .. } if self.offline => {
                return Err(fault(
                    rule,
                    format!(
                        "{} is not in the store; run `slipform fetch` once without --offline",
                        locked.sha256
                    ),
                ));
            }
            ContainerPlace::Registry { remote, .. } => self.registry(remote)?,
            ContainerPlace::Local { path, .. } if path.is_dir() => Box::new(layout(path)?),
            ContainerPlace::Local { .. } => {
                let found = self.open_container(rule, arch)?.digest;
                return if found == locked.sha256 {
                    Ok(())
                } else {
                    Err(fault(
                        rule,
                        format!(
                            "it is {found} now, and the lock has {}; run: slipform lock",
                            locked.sha256
                        ),
                    ))
                };
            }
        };
        let document = self.there(rule, remote.manifest(&locked.sha256))?;
        self.store.put(&document.bytes)?;
        download_all(&*remote, &self.store, &pieces, &*self.progress)
            .map_err(PublishError::from)?;
        Ok(())
    }

    /// A layer's container as uncompressed tars in the store, made once for each of its layers.
    pub(super) fn unpack_container(
        &self,
        rule: &ContainerRule,
        arch: Arch,
        pinned: &LockedContainer,
    ) -> Result<UnpackedContainer, PipelineError> {
        self.bring_container(rule, arch, pinned)?;
        let bytes = self
            .store
            .read_at_most(&pinned.sha256, "manifest", DOCUMENT_LIMIT)?;
        let none = |_: &Descriptor| Err(fault(rule, "the lock names an index; run: slipform lock"));
        let manifest = choose(bytes, arch, &rule.written, &none)?;
        if locked(rule, &manifest) != *pinned {
            return Err(fault(
                rule,
                "the lock names other blobs than its manifest; run: slipform lock",
            ));
        }
        let config = self.container_config(rule, arch, &manifest)?;
        let mut layers = Vec::new();
        for (layer, id) in manifest.layers.iter().zip(config.diff_ids()) {
            let unpacked = self.unpack_layer(rule, &layer.digest)?;
            if unpacked.tar != *id {
                return Err(fault(
                    rule,
                    format!(
                        "its layer {} unpacks to {}, and its configuration says {id}; push or save the image again",
                        layer.digest, unpacked.tar
                    ),
                ));
            }
            layers.push(unpacked);
        }
        let devices: u32 = layers.iter().map(|layer| layer.devices).sum();
        if devices > 0 {
            self.progress.note(&format!(
                "container {}: left out {devices} device nodes; the machine's /dev has its own",
                rule.written
            ));
        }
        Ok(UnpackedContainer { layers })
    }

    /// What a container's own passwd and group say, looked for once.
    pub(super) fn container_accounts(
        &self,
        layer: &LayerSpec,
        container: &UnpackedContainer,
    ) -> Result<AccountFiles, PipelineError> {
        let mut step = Step::new("container accounts 1", layer.name.as_str())
            .value("exclude", format!("{:?}", layer.exclude));
        for (number, part) in container.layers.iter().enumerate() {
            step = step.input(format!("layer {number:03}"), part.tar);
        }
        if let StepState::Hit(outputs) = self.store.step(&step, &StepLog::default()) {
            return value(&outputs, "accounts");
        }
        let accounts = container.accounts(&self.store, layer)?;
        let outputs = Outputs::from([("accounts".to_owned(), output(&accounts)?)]);
        self.store.record(&step, &outputs)?;
        Ok(accounts)
    }

    fn unpack_layer(
        &self,
        rule: &ContainerRule,
        blob: &Digest,
    ) -> Result<UnpackedTar, PipelineError> {
        let step = Step::new("unpack container layer 1", blob.short()).input("layer", *blob);
        if let StepState::Hit(outputs) = self.store.step(&step, &StepLog::default()) {
            return value(&outputs, "unpacked");
        }
        let what = format!("unpack {} of {}", blob.short(), rule.written);
        let _task = self.progress.begin(&what, None);
        let unpacked = rootfs::unpack_layer(&self.store, blob, &rule.written)?;
        let outputs = Outputs::from([
            ("tar".to_owned(), Output::Blob(unpacked.tar)),
            ("unpacked".to_owned(), output(&unpacked)?),
        ]);
        self.store.record(&step, &outputs)?;
        Ok(unpacked)
    }

    /// Tags that name another image by now than the lock has.
    pub(super) fn newer_containers(
        &self,
        image: &Image,
        lock: &LockFile,
    ) -> Result<Vec<Finding>, PipelineError> {
        let mut found = Vec::new();
        let arch = architecture(image)?;
        for layer in &image.layers {
            let locked = lock.containers().find(|(name, _)| *name == layer.name);
            let (Some(rule), Some((_, locked))) = (&layer.oci, locked) else {
                continue;
            };
            let now = self.open_container(rule, arch)?.digest;
            if now != locked.sha256 {
                found.push(Finding {
                    package: layer.name.clone(),
                    locked: locked.sha256.short(),
                    newest: Some(format!("{} at {}", now.short(), rule.written)),
                    security: false,
                    gone: false,
                });
            }
        }
        Ok(found)
    }
}

fn layout(path: &Path) -> Result<Folder, PipelineError> {
    Ok(Folder::open(path).map_err(PublishError::from)?)
}

fn read_limited(path: &Path) -> Result<Vec<u8>, PipelineError> {
    let mut bytes = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(DOCUMENT_LIMIT + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    Ok(bytes)
}

/// What the lock says of an image.
fn locked(rule: &ContainerRule, manifest: &ContainerManifest) -> LockedContainer {
    let blobs = [&manifest.config].into_iter().chain(&manifest.layers);
    LockedContainer {
        image: rule.written.clone(),
        size: manifest.bytes.len() as u64,
        sha256: manifest.digest,
        blobs: blobs
            .map(|blob| LockedBlob {
                size: blob.size,
                sha256: blob.digest,
            })
            .collect(),
    }
}

/// Every blob of a container, its manifest among them.
pub(super) fn pieces(locked: &LockedContainer) -> Vec<Piece> {
    let manifest = Piece {
        digest: locked.sha256,
        size: locked.size,
    };
    let blobs = locked.blobs.iter().map(|blob| Piece {
        digest: blob.sha256,
        size: blob.size,
    });
    [manifest].into_iter().chain(blobs).collect()
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
