//! What the lock names comes into the store.

use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;

use super::containers::pieces;
use super::locking::{lock_path, options};
use super::parts::part;
use super::{PipelineError, Settings};
use crate::lock::{Finding, LockFile, LockedBoard, LockedPackage, Locks, Update, Wishes, check};
use crate::sources::{Blobs, FetchSummary, Fetcher, Host, Mirrors};
use crate::spec::Image;
use crate::store::Root;

/// What `fetch` came to.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Fetched {
    /// Packages that the lock names.
    pub packages: usize,
    /// Those that were not in the store before.
    pub fetched: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Settings {
    /// Everything that the lock names, tools included.
    ///
    /// # Errors
    /// [`PipelineError::Source`].
    pub fn fetch_all(&self, image: &Image, locks: &Locks) -> Result<Fetched, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let path = lock_path(image);
        let roots = self.store.roots()?;
        // What the last build keeps stays kept.
        let before = roots.into_values().find(|root| root.path == path);
        let mut digests = before.map(|root| root.digests).unwrap_or_default();
        let mut all = FetchSummary::default();
        for (arch, lock) in locks.iter() {
            let image = &part(image, arch)?;
            let packages: Vec<&LockedPackage> = lock.packages().collect();
            self.bring_bases(image, lock)?;
            self.bring_tars(image, lock)?;
            self.bring_containers(image, lock)?;
            let summary = self.fetch(image, lock, &packages)?;
            all.present += summary.present;
            all.fetched += summary.fetched;
            all.bytes += summary.bytes;
            digests.extend(packages.iter().map(|p| p.sha256));
            digests.extend(lock.tars().map(|(_, tar)| tar.sha256));
            let containers = lock
                .containers()
                .flat_map(|(_, container)| pieces(container));
            digests.extend(containers.map(|piece| piece.digest));
            digests.extend(lock.bases().map(|(_, base)| base.image));
        }
        self.store.set_root(&Root { path, digests })?;
        Ok(Fetched {
            packages: all.fetched + all.present,
            fetched: all.fetched,
            bytes: all.bytes,
        })
    }

    /// Some of the lock's packages, those that the store lacks.
    pub(super) fn fetch(
        &self,
        image: &Image,
        lock: &LockFile,
        packages: &[&LockedPackage],
    ) -> Result<FetchSummary, PipelineError> {
        if packages
            .iter()
            .all(|package| self.store.has(&package.sha256))
        {
            self.inputs_to_cache(packages);
            return Ok(FetchSummary {
                present: packages.len(),
                ..FetchSummary::default()
            });
        }
        let wishes = self.lock_wishes(image, lock)?;
        let summary = self.fetch_from(&wishes, lock, &image.dir, packages)?;
        self.inputs_to_cache(packages);
        Ok(summary)
    }

    /// As [`Settings::fetch`], for a lock without an image.
    pub(super) fn fetch_from(
        &self,
        wishes: &Wishes,
        lock: &LockFile,
        folder: &Path,
        packages: &[&LockedPackage],
    ) -> Result<FetchSummary, PipelineError> {
        let mirrors = self.mirrors()?;
        // Asked only when a package is gone: what the archives have now.
        let found: OnceLock<Vec<Finding>> = OnceLock::new();
        let current = |package: &LockedPackage| {
            let findings =
                found.get_or_init(|| self.findings(lock, wishes, &mirrors).unwrap_or_default());
            findings
                .iter()
                .find(|f| f.package == package.name)
                .and_then(|f| f.newest.clone())
        };
        let teams: Vec<&dyn Blobs> = self.teams().map(|team| team as &dyn Blobs).collect();
        Ok(Fetcher {
            store: &self.store,
            mirrors: &mirrors,
            suites: &wishes.sources(),
            locked: &lock.suites,
            folder,
            verify: false,
            teams: &teams,
            current: Some(&current),
            progress: &*self.progress,
        }
        .fetch_all(packages)?)
    }

    /// The archives, found when first asked.
    pub(super) fn mirrors(&self) -> Result<Mirrors, PipelineError> {
        let mirrors = Mirrors::new(Host::real(), self.mirror.clone())?;
        Ok(if self.offline {
            mirrors.offline()
        } else {
            mirrors
        })
    }

    /// What the archives have that is newer than `lock`.
    pub(super) fn findings(
        &self,
        lock: &LockFile,
        wishes: &Wishes,
        mirrors: &Mirrors,
    ) -> Result<Vec<Finding>, PipelineError> {
        let keys = self.archive_keys()?;
        let mut options = options(Some(lock), Update::Named(Vec::new()))?;
        options.allow_expired = wishes
            .sources()
            .iter()
            .any(|suite| mirrors.allow_expired(suite));
        options.debian_keys = keys.as_deref();
        Ok(check(lock, wishes, mirrors, &options, &*self.progress)?)
    }

    /// What an image for one board is made of.
    pub(super) fn fetch_image(
        &self,
        image: &Image,
        lock: &LockFile,
        board: &LockedBoard,
    ) -> Result<(), PipelineError> {
        let own = lock.layers.iter().filter(|layer| layer.base.is_none());
        let layers = own.flat_map(|layer| &layer.packages);
        let packages: Vec<&LockedPackage> = layers.chain(board.packages()).collect();
        self.bring_bases(image, lock)?;
        self.fetch(image, lock, &packages)?;
        Ok(())
    }
}
