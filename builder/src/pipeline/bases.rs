//! Published bases: a layer folder is published as the smallest image on it, and an
//! app's image takes the sealed layer over as it is.
//!
//! A base does not boot by itself, so what is tested, attested and recorded is a real
//! image on it ([`crate::spec::Image::base`]): its gate is the gate of every image. The
//! manifest of that image, which all evidence is bound to, also names what somebody else
//! needs to build on the layer, so that one digest pins all of it:
//!
//! ```text
//! base.json   the sealed layer, its architecture, its packages with versions, users and groups, who has which number
//! listing     the tree of the layer: what the layers above it ask, and what the topmost one reads
//! *.deb       its packages: file contents, sysusers.d, the bill of materials
//! files       the user's files in it
//! extent      the file system with its hash tree: the partition, byte for byte
//! ```
//!
//! Whoever builds on it asks the channel only to lock, with the same checks as `pull`:
//! history, revocations and, when a key is configured, signatures and the gate. After that
//! the lock pins the manifest, everything is verified by digest on arrival, and a build
//! needs the store alone. A base is an input like a package: nothing of it is built here.
//!
//! A base for boards of several architectures is a release with an image for each; its index
//! says which is for what, and each part of a lock pins its own.

mod choice;
mod facts;

use choice::{image_of, runs_on};
use facts::{BASE_TYPE, FACTS_LIMIT, FILE_TYPE, LISTING_TYPE, PACKAGE_TYPE, Parts, SCHEMA};

pub(super) use facts::BaseFacts;

use super::bundle::stored;
use super::parts::architecture;
use super::publishing::is_network;
use super::{Locking, PipelineError, Settings, packages};
use crate::attest::{TRUSTED_KEYS, Trust, TrustSources};
use crate::base::Digest;
use crate::channel::{Entry, Revocations};
use crate::layers::{Kind, Source, UnpackedDeb};
use crate::lock::{Finding, LockFile, LockedBase, LockedLayer};
use crate::publish::{self, PublishError, Reference};
use crate::remote::{Piece, Remote, download_all};
use crate::sources::{Host, UserConfig};
use crate::spec::{BaseUse, Image};
use crate::store::{DESCRIPTOR_LIMIT, DOCUMENT_LIMIT, Descriptor};
use crate::tree::generated::Accounts;
use crate::tree::listing;
use crate::verity::Sealed;

/// Most files of the user's in a base: each is a part of its manifest.
const MOST_FILES: usize = DESCRIPTOR_LIMIT - 1_000;

/// A base layer of an image that is cast.
#[derive(Debug)]
pub(super) struct BaseLayer<'a> {
    pub(super) packages: &'a [UnpackedDeb],
    pub(super) user: &'a [crate::layers::Entry],
    pub(super) sealed: &'a Sealed,
    pub(super) listing: Digest,
    pub(super) accounts: &'a Accounts,
}

impl Settings {
    /// What the manifest of a base's image carries for others, the facts first. All of it
    /// is in the store afterwards.
    pub(super) fn base_parts(
        &self,
        image: &Image,
        lock: &LockFile,
        base: &BaseLayer<'_>,
    ) -> Result<Vec<Descriptor>, PipelineError> {
        let locked = lock.layers.first().map_or(&[][..], |layer| &layer.packages);
        let provides = base.packages.iter().filter_map(|package| {
            let provides = package.control.get("Provides")?.replace('\n', " ");
            Some((package.name.clone(), provides))
        });
        let layer = image.layers.first();
        let facts = BaseFacts {
            schema: SCHEMA,
            name: image.name.clone(),
            version: image.version.clone(),
            arch: BaseFacts::told(architecture(image)?),
            layer: base.sealed.clone(),
            listing: base.listing,
            packages: locked.to_vec(),
            provides: provides.collect(),
            users: layer.map_or_else(Vec::new, |layer| layer.users.clone()),
            groups: layer.map_or_else(Vec::new, |layer| layer.groups.clone()),
            user_ids: base
                .accounts
                .users()
                .map(|user| (user.name.clone(), (user.uid, user.gid)))
                .collect(),
            group_ids: base
                .accounts
                .groups()
                .map(|group| (group.name.clone(), group.gid))
                .collect(),
        };
        let facts =
            serde_json::to_vec(&facts).map_err(|e| PipelineError::Internal(e.to_string()))?;
        let part = |media_type: &str, digest: Digest| {
            let size = self.store.size(&digest).unwrap_or_default();
            Descriptor::new(media_type, digest, size)
        };
        let mut parts = vec![
            part(BASE_TYPE, self.store.put(&facts)?),
            part(LISTING_TYPE, base.listing),
        ];
        let debs = locked.iter().map(|package| {
            part(PACKAGE_TYPE, package.sha256)
                .with("org.opencontainers.image.title", package.name.as_str())
        });
        parts.extend(debs);
        let mut files: Vec<Descriptor> = Vec::new();
        for entry in base.user {
            if let Kind::File(content) = &entry.kind
                && let Source::Host(path) = &content.source
            {
                files.push(part(FILE_TYPE, stored(&self.store, path)?.0));
            }
        }
        files.sort_by_key(|file| file.digest);
        files.dedup_by_key(|file| file.digest);
        if files.len() > MOST_FILES {
            return Err(PipelineError::Machine {
                file: image.dir.clone(),
                message: format!(
                    "the layer has {} files of yours, and a base can have {MOST_FILES}; bring a large tree as a package (`debs`)",
                    files.len()
                ),
            });
        }
        parts.extend(files);
        Ok(parts)
    }

    /// What is known of the base that `locked` pins; all of it is in the store.
    pub(super) fn base_facts(&self, locked: &LockedBase) -> Result<BaseFacts, PipelineError> {
        let bytes = self.store.read(&locked.image)?;
        let parts = Parts::of(&bytes).map_err(|why| no_base(locked.written.as_str(), why))?;
        self.checked_facts(&parts, &locked.written)
    }

    fn checked_facts(&self, parts: &Parts, written: &str) -> Result<BaseFacts, PipelineError> {
        let facts = &parts.facts.digest;
        let bytes = self
            .store
            .read_at_most(facts, "base's facts", FACTS_LIMIT)?;
        let facts = BaseFacts::parse(&bytes).map_err(|why| no_base(written, why))?;
        let fits = |digest: &Digest, size: Option<u64>| {
            let named = |part: &&Descriptor| part.digest == *digest;
            parts
                .all
                .iter()
                .find(named)
                .is_some_and(|part| size.is_none_or(|size| part.size == size))
        };
        let layer = fits(&facts.layer.blob, Some(facts.layer.size));
        let mut packages = facts.packages.iter();
        if !layer
            || !fits(&facts.listing, None)
            || !packages.all(|package| fits(&package.sha256, Some(package.size)))
        {
            return Err(no_base(
                written,
                "its manifest does not carry what its facts name".to_owned(),
            ));
        }
        Ok(facts)
    }

    /// The bases of `image`, pinned: as `before` has them, unless they are to move or the
    /// specification names others; those are looked up where they were published.
    pub(super) fn pin_bases(
        &self,
        image: &Image,
        before: Option<&LockFile>,
        locking: &Locking,
    ) -> Result<Vec<LockedLayer>, PipelineError> {
        let mut pinned = Vec::new();
        for layer in &image.layers {
            let Some(wanted) = &layer.base else { continue };
            let moves = match locking {
                Locking::UpdateAll => true,
                Locking::Update(names) => names.contains(&layer.name),
                Locking::IfNeeded | Locking::AsItIs => false,
            };
            let kept = before.and_then(|lock| {
                lock.layers.iter().find(|locked| {
                    let base = locked.base.as_ref();
                    locked.name == layer.name && base.is_some_and(|b| b.written == wanted.written)
                })
            });
            match kept {
                Some(kept) if !moves => pinned.push(kept.clone()),
                _ if *locking == Locking::AsItIs => {}
                _ => {
                    pinned.push(self.pin(image, &layer.name, wanted)?);
                }
            }
        }
        Ok(pinned)
    }

    fn pin(
        &self,
        image: &Image,
        layer: &str,
        wanted: &BaseUse,
    ) -> Result<LockedLayer, PipelineError> {
        let arch = architecture(image)?;
        let (remote, entry) = self.base_release(image, wanted)?;
        let digest = image_of(&*remote, &entry, wanted, arch)?;
        let document = publish::document(&*remote, &digest, "a base")?;
        let facts = self.bring_base(&*remote, &document.bytes, &wanted.written)?;
        runs_on(&facts, wanted, arch)?;
        if let Some(reason) = &entry.record.forced {
            self.progress.note(&format!(
                "{}: this base never passed the gate, it was forced: {reason}",
                wanted.written
            ));
        }
        let image = Piece {
            digest,
            size: document.bytes.len() as u64,
        };
        Ok(facts.locked(layer, &wanted.written, image, &entry))
    }

    /// The release that `wanted` names now, with all that is checked of one: its history,
    /// that it was not revoked, and with a key configured its signatures and the gate.
    fn base_release(
        &self,
        image: &Image,
        wanted: &BaseUse,
    ) -> Result<(Box<dyn Remote>, Entry), PipelineError> {
        if self.offline && is_network(&wanted.remote) {
            return Err(PipelineError::OfflineResolve);
        }
        let reference: Reference = wanted.release.parse()?;
        let remote = self.remote(&wanted.remote)?;
        let trust = base_trust(image, wanted)?;
        let entry = publish::resolve(&*remote, &reference, trust.keys())?;
        self.vet_base(&*remote, &entry, &trust, wanted)?;
        Ok((remote, entry))
    }

    fn vet_base(
        &self,
        remote: &dyn Remote,
        entry: &Entry,
        trust: &Trust,
        wanted: &BaseUse,
    ) -> Result<(), PipelineError> {
        if trust.keys().is_empty() {
            self.progress.note(&format!(
                "{}: no key is configured, so its signature is not checked; name one with `keys` beside `use`",
                wanted.written
            ));
            Revocations::read(remote, &[])
                .and_then(|revoked| revoked.check(entry.record.names()))
                .map_err(PublishError::from)?;
        } else {
            // Only that it comes through again counts here.
            let _through = self.again(remote, entry, trust)?;
        }
        Ok(())
    }

    /// The parts of a base into the store, each verified by its digest.
    fn bring_base(
        &self,
        remote: &dyn Remote,
        manifest: &[u8],
        written: &str,
    ) -> Result<BaseFacts, PipelineError> {
        let parts = Parts::of(manifest).map_err(|why| no_base(written, why))?;
        let facts = &parts.facts;
        publish::fetch_blob(&self.store, remote, &facts.digest, facts.size)?;
        let facts = self.checked_facts(&parts, written)?;
        let pieces = parts.pieces(&facts);
        download_all(remote, &self.store, &pieces, &*self.progress).map_err(PublishError::from)?;
        // Last, so that a manifest that is here has all its parts here.
        self.store.put(manifest)?;
        Ok(facts)
    }

    /// Every base of the lock into the store. Where one comes anew from the remote that it
    /// was published to, it must not have been revoked meanwhile.
    pub(super) fn bring_bases(&self, image: &Image, lock: &LockFile) -> Result<(), PipelineError> {
        for (name, locked) in lock.bases() {
            if self.has_base(locked) {
                continue;
            }
            let layer = image.layers.iter().find(|layer| layer.name == name);
            let wanted = layer.and_then(|layer| layer.base.as_ref());
            let wanted = wanted.ok_or_else(|| {
                PipelineError::Internal(format!("the lock has a base '{name}' that nobody uses"))
            })?;
            if self.base_from_team(locked) {
                continue;
            }
            if self.offline && is_network(&wanted.remote) {
                return Err(PipelineError::BaseOffline {
                    written: locked.written.clone(),
                    image: locked.image,
                });
            }
            let remote = self.remote(&wanted.remote)?;
            let trust = base_trust(image, wanted)?;
            let named = Reference::Digest(locked.image);
            let entry = publish::resolve(&*remote, &named, trust.keys())?;
            self.vet_base(&*remote, &entry, &trust, wanted)?;
            let document = publish::document(&*remote, &locked.image, "a base")?;
            self.bring_base(&*remote, &document.bytes, &locked.written)?;
        }
        Ok(())
    }

    /// Whether one of the team's own stores had all of a base. One that does not is
    /// passed by: where it was published it may still be.
    fn base_from_team(&self, locked: &LockedBase) -> bool {
        for team in self.teams() {
            let brought = publish::fetch_blob(
                &self.store,
                team.remote(),
                &locked.image,
                locked.size.min(DOCUMENT_LIMIT),
            )
            .map_err(PipelineError::from)
            .and_then(|()| Ok(self.store.read(&locked.image)?))
            .and_then(|manifest| self.bring_base(team.remote(), &manifest, &locked.written));
            match brought {
                Ok(_) => return true,
                Err(error) => self.progress.note(&format!(
                    "the base {} is not taken from {}: {error}",
                    locked.written,
                    team.remote().uri()
                )),
            }
        }
        false
    }

    /// Whether all of a base is in the store.
    fn has_base(&self, locked: &LockedBase) -> bool {
        self.store.has(&locked.image)
            && self.base_facts(locked).is_ok_and(|facts| {
                self.base_pieces(locked, &facts)
                    .iter()
                    .all(|piece| self.store.size(&piece.digest) == Some(piece.size))
            })
    }

    fn base_pieces(&self, locked: &LockedBase, facts: &BaseFacts) -> Vec<Piece> {
        let bytes = self.store.read(&locked.image).unwrap_or_default();
        Parts::of(&bytes).map_or_else(|_| Vec::new(), |parts| parts.pieces(facts))
    }

    /// Every blob of the lock's bases, their manifests among them, with sizes.
    pub(super) fn base_blobs(&self, lock: &LockFile) -> Result<Vec<Piece>, PipelineError> {
        let mut blobs = Vec::new();
        for (_, locked) in lock.bases() {
            let facts = self.base_facts(locked)?;
            blobs.extend(self.base_pieces(locked, &facts));
            blobs.push(Piece {
                digest: locked.image,
                size: locked.size,
            });
        }
        Ok(blobs)
    }

    /// Channels that name another release by now than the lock has.
    pub(super) fn newer_bases(
        &self,
        image: &Image,
        lock: &LockFile,
    ) -> Result<Vec<Finding>, PipelineError> {
        let mut found = Vec::new();
        for layer in &image.layers {
            let locked = lock.bases().find(|(name, _)| *name == layer.name);
            let (Some(wanted), Some((_, locked))) = (&layer.base, locked) else {
                continue;
            };
            let (remote, entry) = self.base_release(image, wanted)?;
            let digest = image_of(&*remote, &entry, wanted, architecture(image)?)?;
            if digest != locked.image {
                let told = |version: &str, image: &Digest| format!("{version} ({})", image.short());
                found.push(Finding {
                    package: layer.name.clone(),
                    locked: told(&locked.version, &locked.image),
                    newest: Some(format!(
                        "{} at {}",
                        told(&entry.record.version, &digest),
                        wanted.written
                    )),
                    security: false,
                    gone: false,
                });
            }
        }
        Ok(found)
    }
}

/// Whose signatures count for a base: its own `keys`, else those of `[gate]`, of the
/// environment and of the user's configuration. The user's own key says nothing about other people's bases.
fn base_trust(image: &Image, wanted: &BaseUse) -> Result<Trust, PipelineError> {
    let environment = std::env::var(TRUSTED_KEYS).ok();
    let configured = UserConfig::load(&Host::real())?.trusted_keys;
    let sources = if wanted.keys.is_empty() {
        TrustSources {
            spec: &image.gate.keys,
            environment: environment.as_deref(),
            configured: &configured,
            ..TrustSources::default()
        }
    } else {
        TrustSources {
            spec: &wanted.keys,
            ..TrustSources::default()
        }
    };
    Ok(Trust::load(&sources).map_err(PublishError::from)?)
}

/// The tree of a base, from its listing.
pub(super) fn tree(
    settings: &Settings,
    facts: &BaseFacts,
) -> Result<crate::tree::Tree, PipelineError> {
    let bytes = settings.store.read(&facts.listing)?;
    Ok(listing::read(&String::from_utf8_lossy(&bytes))?)
}

/// The packages of a base, unpacked.
pub(super) fn unpack(
    settings: &Settings,
    facts: &BaseFacts,
) -> Result<Vec<UnpackedDeb>, PipelineError> {
    let packages = facts.packages.iter();
    packages
        .map(|package| packages::unpack(settings, &package.sha256))
        .collect()
}

/// A lock that somebody edited must not say other things of a base than the base itself.
pub(super) fn check_lock(
    image: &Image,
    locked: &LockedLayer,
    facts: &BaseFacts,
) -> Result<(), PipelineError> {
    let provides = locked.base.as_ref().map(|base| &base.provides);
    let mut packages = facts.packages.clone();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    if packages == locked.packages && provides == Some(&facts.provides) {
        return Ok(());
    }
    Err(PipelineError::Stale {
        lock: image.dir.join(super::LOCK_FILE),
        dir: image.dir.clone(),
        reason: format!(
            "it says other things of the packages of layer '{}' than the base itself",
            locked.name
        ),
    })
}

fn no_base(what: &str, why: impl Into<String>) -> PipelineError {
    PipelineError::NoBase {
        what: what.to_owned(),
        why: why.into(),
    }
}
