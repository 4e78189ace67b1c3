//! What the archives have that is newer than a lock, and what they no longer have.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::archive::Archive;
use super::board::LockedBoard;
use super::catalog::{Catalog, Reading};
use super::error::LockError;
use super::file::{LockFile, LockedPackage};
use super::index::PackageId;
use super::kernel;
use super::relation::Wish;
use super::resolve::ResolveOptions;
use super::solve::candidate;
use super::version;
use super::wishes::Wishes;
use crate::base::Progress;

/// A locked package that the archives have moved on from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Package name.
    pub package: String,
    /// The version in the lock.
    pub locked: String,
    /// The newest version there is; `None` if the archives no longer have the package.
    pub newest: Option<String>,
    /// Whether a newer version stands in a security suite.
    pub security: bool,
    /// Whether the archives no longer have the locked version: a fresh store could
    /// not fetch it from them.
    pub gone: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package, locked, ..
        } = self;
        let security = if self.security {
            ", a security update"
        } else {
            ""
        };
        match (&self.newest, self.gone) {
            (Some(newest), false) => write!(f, "{package} {locked}: there is {newest}{security}"),
            (Some(newest), true) => write!(
                f,
                "{package} {locked} is no longer in the archives, which have {newest}{security}; run `slipform lock --update {package}`"
            ),
            (None, _) => write!(
                f,
                "{package} {locked} is no longer in the archives, and no other version of it is; run `slipform lock`"
            ),
        }
    }
}

/// Compares a lock with what the archives have now; sorted by package, nothing for
/// those that are up to date. Of `options`, only how archives are read counts.
///
/// # Errors
/// [`LockError`]: an archive cannot be read or trusted.
pub fn check(
    lock: &LockFile,
    wishes: &Wishes,
    archive: &dyn Archive,
    options: &ResolveOptions<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Finding>, LockError> {
    let reading = Reading {
        clock: super::release::Clock {
            now: options.now,
            allow_expired: options.allow_expired,
        },
        debian_keys: options.debian_keys,
    };
    let catalog = Catalog::load(wishes, archive, reading, progress)?;
    let mut findings = BTreeMap::new();
    let foreign = wishes.foreign_tools();
    let foreign = foreign.map(|tools| Catalog::load(&tools, archive, reading, progress));
    let foreign = foreign.transpose()?;
    // A package of all architectures is in the indexes of each.
    let catalog_of = |locked: &LockedPackage| {
        let foreign = foreign.as_ref();
        let own = foreign.filter(|foreign| foreign.index.arch() == locked.arch);
        own.unwrap_or(&catalog)
    };
    for locked in lock.packages().filter(|p| p.suite != "local") {
        let key = (locked.name.clone(), locked.version.clone());
        if let Some(finding) = compare(locked, catalog_of(locked)) {
            findings.insert(key, finding);
        }
    }
    for finding in kernels(lock, wishes, &catalog) {
        findings.insert((finding.package.clone(), finding.locked.clone()), finding);
    }
    Ok(findings.into_values().collect())
}

fn compare(locked: &LockedPackage, catalog: &Catalog) -> Option<Finding> {
    let index = &catalog.index;
    let finding = |newest: Option<&str>, security, gone| Finding {
        package: locked.name.clone(),
        locked: locked.version.clone(),
        newest: newest.map(str::to_owned),
        security,
        gone,
    };
    let Some(name) = index
        .find(&locked.name)
        .filter(|n| !index.versions(*n).is_empty())
    else {
        return Some(finding(None, false, true));
    };
    let is_newer =
        |id: &PackageId| version::compare(index.version_of(*id), &locked.version).is_gt();
    let newest = candidate(index, &catalog.priorities(), name, |_| true);
    let there = has(catalog, locked);
    let security = index
        .versions(name)
        .iter()
        .filter(|id| is_newer(id))
        .any(|id| is_security(catalog, *id));
    let newer = newest.filter(is_newer).is_some();
    (newer || !there).then(|| finding(newest.map(|id| index.version_of(id)), security, !there))
}

fn is_security(catalog: &Catalog, package: PackageId) -> bool {
    catalog
        .suite_of(package)
        .is_some_and(|(source, _)| source.dist.ends_with("-security"))
}

/// A newer kernel is another package, so each board's is looked up anew.
fn kernels(lock: &LockFile, wishes: &Wishes, catalog: &Catalog) -> Vec<Finding> {
    let index = &catalog.index;
    let newer = |locked: &LockedBoard| {
        let board = wishes.boards.iter().find(|b| b.name == locked.name)?;
        let wish = Wish::parse(&board.kernel).ok()?;
        let meta = kernel::single(catalog, &wish, &HashMap::new()).ok()?;
        let newest = kernel::follow(catalog, meta).ok()?;
        let (name, version) = (index.name_of(newest), index.version_of(newest));
        (name != locked.kernel.name).then(|| Finding {
            package: locked.kernel.name.clone(),
            locked: locked.kernel.version.clone(),
            newest: Some(format!("{name} {version}")),
            security: is_security(catalog, newest),
            gone: !has(catalog, &locked.kernel),
        })
    };
    lock.boards.iter().filter_map(newer).collect()
}

fn has(catalog: &Catalog, locked: &LockedPackage) -> bool {
    let index = &catalog.index;
    let versions = index
        .find(&locked.name)
        .map_or(&[][..], |name| index.versions(name));
    versions
        .iter()
        .any(|id| index.version_of(*id) == locked.version)
}
