//! Sealed layers and boot parts become the image: machine.json, unified kernel
//! image, disk map, manifest; and from the map, files in any format.

use std::path::Path;

use serde::{Deserialize, Serialize};
use slipform_init::contract::machine::MACHINE_PATH;

use super::kernel::{self, BootParts};
use super::layers::{self, Stack};
use super::machine::{Facts, describe};
use super::parts::part;
use super::{PipelineError, Settings, blob, output as record};
use crate::base::Digest;
use crate::board::Board;
use crate::disk::{self, Bios, CastInput, DiskFacts, DiskMap};
use crate::filesystem::cpio::Initrd;
use crate::lock::{LockFile, LockedBoard, LockedInit, LockedLayer, LockedSuite, Locks};
use crate::output::{self, Artifact, OutputFormat};
use crate::spec::{Image, SPEC_FILE};
use crate::store::{Collected, Descriptor, Index, Manifest, Output, Outputs, Root, Step};
use crate::uki::{Source, UkiBlob, UkiInput, assemble};
use crate::verity::Sealed;

/// Type of an image's manifest.
const IMAGE_TYPE: &str = "application/vnd.slipform.image.v1+json";
const CONFIG_TYPE: &str = "application/vnd.slipform.config.v1+json";
pub(super) const MAP_TYPE: &str = "application/vnd.slipform.disk-map.v1+json";
const MACHINE_TYPE: &str = "application/vnd.slipform.machine.v1+json";
pub(super) const LOCK_TYPE: &str = "application/vnd.slipform.lock.v1+json";
const EXTENT_TYPE: &str = "application/vnd.slipform.extent.v1";

/// An image for one board, cast: all of it is in the store.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The board.
    pub board: Board,
    /// Digest of the manifest: the image's identity.
    pub manifest: Digest,
    /// Where every byte of the disk comes from; its digest is the disk's identity.
    pub disk: DiskMap,
    /// Layers, bottom to top, the generated one last.
    pub layers: Vec<(String, Sealed)>,
    /// Blob of machine.json.
    pub machine: Digest,
    /// What the boot entry was made of, beside machine.json.
    pub parts: BootParts,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What a manifest's config says, for people and for `inspect`.
#[derive(Debug, Serialize)]
struct Config<'a> {
    name: &'a str,
    version: &'a str,
    board: &'a str,
    disk: Digest,
    machine: Digest,
    kernel: &'a str,
    layers: Vec<ConfigLayer<'a>>,
}

#[derive(Debug, Serialize)]
struct ConfigLayer<'a> {
    name: &'a str,
    root_hash: String,
    size: u64,
}

/// The part of the lock that an image is made from: neither tools nor other boards.
#[derive(Debug, Serialize)]
struct ImageLock<'a> {
    init: &'a LockedInit,
    suites: &'a [LockedSuite],
    board: &'a LockedBoard,
    layers: &'a [LockedLayer],
}

/// The same, read back.
#[derive(Debug, Deserialize)]
pub(super) struct RecordedLock {
    pub(super) board: LockedBoard,
    pub(super) layers: Vec<LockedLayer>,
}

impl Settings {
    /// Casts `image` for `board` from the lock; what was made before is not made again.
    ///
    /// # Errors
    /// [`PipelineError`] of the room that failed.
    pub fn cast(&self, image: &Image, locks: &Locks, board: &str) -> Result<Cast, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        if !image.boards.iter().any(|known| known == board) {
            let message = format!(
                "'{board}' is not among its boards ({}); add it to `boards`",
                image.boards.join(", ")
            );
            return Err(PipelineError::Machine {
                file: image.dir.join(SPEC_FILE),
                message,
            });
        }
        let board = Board::find(board, &image.dir)?;
        let image = &part(image, board.arch)?;
        let missing = || PipelineError::Internal(format!("the lock has no board '{}'", board.name));
        let lock = locks.of(board.arch).ok_or_else(missing)?;
        let locked = lock.boards.iter().find(|b| b.name == board.name);
        let locked = locked.ok_or_else(missing)?;
        self.fetch_image(image, lock, locked)?;
        let stack = layers::stack(self, image, lock)?;
        let parts = kernel::parts(self, image, &board, lock, locked)?;
        let cast = self.assemble(image, lock, locked, board, stack, parts)?;
        self.keep(image, lock, &cast)?;
        Ok(cast)
    }

    fn assemble(
        &self,
        image: &Image,
        lock: &LockFile,
        locked: &LockedBoard,
        board: Board,
        stack: Stack,
        parts: BootParts,
    ) -> Result<Cast, PipelineError> {
        let facts = Facts {
            image,
            board: &board.name,
            metadata: &board.metadata,
            layers: &stack.layers,
            accounts: &stack.accounts,
            clock_floor: lock
                .suites
                .iter()
                .map(|suite| suite.date)
                .max()
                .unwrap_or(crate::base::EPOCH),
        };
        let machine = describe(&facts).map_err(|message| PipelineError::Machine {
            file: image.dir.join(SPEC_FILE),
            message,
        })?;
        let machine = serde_json::to_vec_pretty(&machine)
            .map_err(|e| PipelineError::Internal(e.to_string()))?;
        let cmdline = board
            .cmdline
            .iter()
            .chain(&image.kernel.args)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ");
        let disk_facts = DiskFacts {
            sector_size: board.sector_size,
            esp_size: board.esp_size,
            reserve: 0,
            state: match &image.state {
                Some(state) if state.disk.is_none() => state.size,
                _ => 0,
            },
            disk_multiple: board.disk_multiple,
            boot_file: board.arch.boot_file().to_owned(),
        };
        let image_lock = ImageLock {
            init: &lock.init,
            suites: &lock.suites,
            board: locked,
            layers: &lock.layers,
        };
        let image_lock =
            serde_json::to_vec(&image_lock).map_err(|e| PipelineError::Internal(e.to_string()))?;
        let layer_list = serde_json::to_vec(&stack.layers)
            .map_err(|e| PipelineError::Internal(e.to_string()))?;
        let step = Step::new(
            "image 1",
            format!("{} of {}", board.name, image.dir.display()),
        )
        .value("machine.json", &machine)
        .value("layers", &layer_list)
        .value("command line", &cmdline)
        .value("disk", format!("{disk_facts:?}"))
        .value("lock", &image_lock)
        .input("kernel", parts.kernel)
        .input("stub", parts.stub)
        .input("initrd", parts.initrd);
        let step = match stack.base_parts.first() {
            Some(facts) => step.input("base", facts.digest),
            None => step,
        };
        let pieces = Pieces {
            image,
            board: &board,
            locked,
            stack: &stack,
            parts: &parts,
            cmdline: &cmdline,
            machine: &machine,
            disk_facts: &disk_facts,
            lock: &image_lock,
        };
        let outputs = self.step(&step, || self.make_image(&pieces))?;
        let map = DiskMap::from_json(&self.store.read(&blob(&outputs, "disk")?)?)?;
        Ok(Cast {
            manifest: blob(&outputs, "manifest")?,
            disk: map,
            machine: blob(&outputs, "machine")?,
            layers: stack.layers,
            board,
            parts,
            cmdline,
        })
    }

    fn make_image(&self, pieces: &Pieces<'_>) -> Result<Outputs, PipelineError> {
        let task = self.progress.begin(
            &format!("cast {} for {}", pieces.image.name, pieces.board.name),
            None,
        );
        let machine = self.store.put(pieces.machine)?;
        let uki = self.uki(pieces)?;
        let grub = kernel::grub(self, pieces.locked)?;
        let disk = disk::cast(
            &self.store,
            &CastInput {
                facts: pieces.disk_facts,
                layers: &pieces.stack.layers,
                uki,
                seed: machine,
                bios: grub.as_ref().map(|grub| Bios {
                    grub,
                    cmdline: pieces.cmdline,
                }),
            },
        )?;
        drop(task);
        let manifest = self.manifest(pieces, &disk.map, machine)?;
        let mut outputs = Outputs::from([
            ("manifest".to_owned(), Output::Blob(manifest)),
            ("disk".to_owned(), Output::Blob(disk.map_digest)),
            ("machine".to_owned(), Output::Blob(machine)),
            ("uki".to_owned(), record(&uki)?),
        ]);
        // All that the image is made of: when one is lost, it is not done.
        let parts = self.store.manifest(&manifest)?;
        for part in parts.layers.iter().chain([&parts.config]) {
            outputs.insert(format!("part {}", part.digest), Output::Blob(part.digest));
        }
        Ok(outputs)
    }

    fn uki(&self, pieces: &Pieces<'_>) -> Result<UkiBlob, PipelineError> {
        let small = machine_initrd(pieces.machine)?;
        let stored = |digest: Digest| -> Result<Source<'_>, PipelineError> {
            Ok(Source::Blob {
                digest,
                offset: 0,
                size: self.store.size(&digest).unwrap_or_default(),
            })
        };
        Ok(assemble(
            &self.store,
            &UkiInput {
                stub: stored(pieces.parts.stub)?,
                kernel: stored(pieces.parts.kernel)?,
                cmdline: pieces.cmdline,
                osrel: &format!(
                    "ID=slipform\nNAME=\"Slipform\"\nPRETTY_NAME=\"{} {}\"\nVERSION_ID=\"{}\"\nIMAGE_ID={}\nIMAGE_VERSION=\"{}\"\n",
                    pieces.image.name,
                    pieces.image.version,
                    pieces.image.version,
                    pieces.image.name,
                    pieces.image.version
                ),
                uname: &pieces.parts.release,
                initrds: &[stored(pieces.parts.initrd)?, Source::Bytes(&small)],
            },
        )?)
    }

    fn manifest(
        &self,
        pieces: &Pieces<'_>,
        map: &DiskMap,
        machine: Digest,
    ) -> Result<Digest, PipelineError> {
        let map_digest = map.digest();
        let config = Config {
            name: &pieces.image.name,
            version: &pieces.image.version,
            board: &pieces.board.name,
            disk: map_digest,
            machine,
            kernel: &pieces.parts.release,
            layers: pieces
                .stack
                .layers
                .iter()
                .map(|(name, s)| ConfigLayer {
                    name,
                    root_hash: s.root_hex(),
                    size: s.size,
                })
                .collect(),
        };
        let config =
            serde_json::to_vec(&config).map_err(|e| PipelineError::Internal(e.to_string()))?;
        let describe = |media_type: &str, digest: Digest| {
            Descriptor::new(
                media_type,
                digest,
                self.store.size(&digest).unwrap_or_default(),
            )
        };
        let mut parts = vec![
            describe(MAP_TYPE, map_digest),
            describe(MACHINE_TYPE, machine),
            describe(LOCK_TYPE, self.store.put(pieces.lock)?),
        ];
        for extent in map.blobs() {
            let layer = pieces
                .stack
                .layers
                .iter()
                .find(|(_, sealed)| sealed.blob == extent);
            let descriptor = describe(EXTENT_TYPE, extent);
            parts.push(match layer {
                Some((name, _)) => descriptor.with("org.opencontainers.image.title", name),
                None => descriptor,
            });
        }
        parts.extend(pieces.stack.base_parts.iter().cloned());
        let mut manifest = Manifest::artifact(
            IMAGE_TYPE,
            describe(CONFIG_TYPE, self.store.put(&config)?),
            parts,
        );
        manifest.annotations.insert(
            "org.opencontainers.image.title".to_owned(),
            pieces.image.name.clone(),
        );
        manifest.annotations.insert(
            "org.opencontainers.image.version".to_owned(),
            pieces.image.version.clone(),
        );
        Ok(self.store.put_manifest(&manifest)?.digest)
    }

    /// Makes the image reachable: by name in the store's index, and for `gc`.
    fn keep(&self, image: &Image, lock: &LockFile, cast: &Cast) -> Result<(), PipelineError> {
        let name = format!("{}:{}-{}", image.name, image.version, cast.board.name);
        if self.store.tagged(&name)?.map(|d| d.digest) != Some(cast.manifest) {
            let size = self.store.size(&cast.manifest).unwrap_or_default();
            let mut descriptor = Descriptor::new(crate::store::MANIFEST, cast.manifest, size);
            descriptor.artifact_type = Some(IMAGE_TYPE.to_owned());
            // As long as a project keeps it: a name alone keeps nothing.
            self.store.tag_beside(&name, &descriptor, &cast.manifest)?;
        }
        // Those of other boards, and of the last build, stay until all are done.
        let path = super::locking::lock_path(image);
        let before = self
            .store
            .roots()?
            .into_values()
            .find(|root| root.path == path);
        let mut digests = before.map(|root| root.digests).unwrap_or_default();
        digests.extend(needed(lock).chain(self.store.used()));
        digests.insert(cast.manifest);
        Ok(self.store.set_root(&Root { path, digests })?)
    }

    /// The identity over all boards: the manifest of the only one, or an index
    /// over several. From now on the project keeps these, and no earlier ones.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub fn release(
        &self,
        image: &Image,
        locks: &Locks,
        casts: &[Cast],
    ) -> Result<Digest, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let digest = match casts {
            [only] => only.manifest,
            several => self.index(several)?,
        };
        let manifests = casts.iter().map(|cast| cast.manifest);
        self.store.set_root(&Root {
            path: super::locking::lock_path(image),
            digests: locks
                .parts()
                .flat_map(needed)
                .chain(self.store.used())
                .chain(manifests)
                .chain([digest])
                .collect(),
        })?;
        Ok(digest)
    }

    fn index(&self, casts: &[Cast]) -> Result<Digest, PipelineError> {
        let manifests = casts.iter().map(|cast| {
            let size = self.store.size(&cast.manifest).unwrap_or_default();
            let image = Descriptor::new(crate::store::MANIFEST, cast.manifest, size);
            Descriptor {
                platform: Some(serde_json::json!({
                    "architecture": cast.board.arch.debian(),
                    "os": "linux",
                })),
                ..image.with("org.slipform.board", &cast.board.name)
            }
        });
        let index = Index {
            manifests: manifests.collect(),
            ..Index::default()
        };
        Ok(self.store.put(&index.to_bytes()?)?)
    }

    /// Writes the disk in `format` to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`PipelineError::Output`].
    pub fn write(
        &self,
        cast: &Cast,
        format: OutputFormat,
        path: &Path,
    ) -> Result<Artifact, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let told = (&self.store, &*self.progress);
        Ok(output::write_told(format, &cast.disk, told, path)?)
    }

    /// The disk map of an image, named by its manifest's or its disk map's digest.
    ///
    /// # Errors
    /// [`PipelineError::Store`] when the store does not have it;
    /// [`PipelineError::SeveralBoards`] for a release.
    pub fn disk_map(&self, digest: &Digest) -> Result<DiskMap, PipelineError> {
        let bytes = self.store.read(digest)?;
        if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            return Err(PipelineError::SeveralBoards {
                digest: *digest,
                images: index
                    .manifests
                    .iter()
                    .map(|m| m.digest.to_string())
                    .collect(),
            });
        }
        let map = match self.store.manifest(digest) {
            Ok(manifest) => manifest
                .layers
                .iter()
                .find(|part| part.media_type == MAP_TYPE)
                .map(|part| part.digest),
            Err(_) => None,
        };
        Ok(DiskMap::from_json(&match map {
            Some(map) => self.store.read(&map)?,
            None => bytes,
        })?)
    }

    /// Sweeps the store: what no name of somebody else's and no project's lock or last build needs.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub fn gc(&self, dry_run: bool) -> Result<Collected, PipelineError> {
        let guard = self.store.exclusive(&*self.progress)?;
        Ok(self.store.collect(&guard, dry_run)?)
    }

    /// The flat SHA-256 of an artifact's file.
    ///
    /// # Errors
    /// [`PipelineError::Output`].
    pub fn flat_sum(&self, artifact: &Artifact) -> Result<Digest, PipelineError> {
        let _task = self.progress.begin("sum", Some(artifact.bytes));
        Ok(output::sha256(&artifact.path)?)
    }
}

/// What a project's next build needs, whatever it is that changes.
fn needed(lock: &LockFile) -> impl Iterator<Item = Digest> {
    let packages = lock.packages().map(|package| package.sha256);
    packages
        .chain(lock.bases().map(|(_, base)| base.image))
        .chain(lock.tars().map(|(_, tar)| tar.sha256))
        .chain(lock.containers().flat_map(|(_, container)| {
            super::containers::pieces(container)
                .into_iter()
                .map(|piece| piece.digest)
        }))
        .chain(lock.tools.iter().map(super::tools::digest))
}

/// What an image is put together from.
struct Pieces<'a> {
    image: &'a Image,
    board: &'a Board,
    locked: &'a LockedBoard,
    stack: &'a Stack,
    parts: &'a BootParts,
    cmdline: &'a str,
    machine: &'a [u8],
    disk_facts: &'a DiskFacts,
    lock: &'a [u8],
}

/// The small, last part of the initrd: machine.json alone.
pub(super) fn machine_initrd(machine: &[u8]) -> Result<Vec<u8>, PipelineError> {
    let mut archive = Initrd::new(Vec::new());
    archive.file(MACHINE_PATH, 0o644, machine)?;
    Ok(archive.finish()?)
}
