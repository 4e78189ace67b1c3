//! Packages of boards: one alone, without its dependencies, and the real kernel
//! behind a meta package.

use std::collections::HashMap;

use super::catalog::Catalog;
use super::error::{did_you_mean, nearest};
use super::index::{NameId, PackageId};
use super::relation::{self, Wish};
use super::solve::candidate;

/// How many meta packages may stand between a board's kernel and the real one.
const MAX_META: usize = 4;
/// What the names of kernel packages start with.
const KERNEL: &str = "linux-image-";

/// The package that a wish means: the kept version where it will do, else the newest.
///
/// # Errors
/// A text for people: there is no such package or version.
pub(super) fn single(
    catalog: &Catalog,
    wish: &Wish,
    keep: &HashMap<NameId, PackageId>,
) -> Result<PackageId, String> {
    let index = &catalog.index;
    let accepts = |id: PackageId| wish.relation().accepts(index.version_of(id));
    let name = index
        .find(&wish.name)
        .filter(|name| !index.versions(*name).is_empty())
        .ok_or_else(|| {
            let hint = did_you_mean(&nearest(&wish.name, index.known_names()));
            format!("there is no package '{}'{hint}", wish.name)
        })?;
    keep.get(&name)
        .copied()
        .filter(|id| accepts(*id))
        .or_else(|| candidate(index, &catalog.priorities(), name, accepts))
        .ok_or_else(|| {
            let versions = index.versions(name).iter();
            let there: Vec<_> = versions.map(|id| index.version_of(*id)).collect();
            let there = there.join(", ");
            format!("{wish} is wished; the archives have {} {there}", wish.name)
        })
}

/// The real kernel behind a meta package: `linux-image-cloud-amd64` depends on
/// `linux-image-6.12.107+deb13-cloud-amd64`, which depends on no further one.
///
/// # Errors
/// A text for people: a package in between is missing, or there are too many.
pub(super) fn follow(catalog: &Catalog, start: PackageId) -> Result<PackageId, String> {
    let index = &catalog.index;
    let mut package = start;
    for _ in 0..=MAX_META {
        let depends = index.text(index.package(package).depends);
        let next = relation::groups(depends, index.arch())
            .flatten()
            .flatten()
            .find(|relation| relation.name.starts_with(KERNEL));
        let Some(next) = next else { return Ok(package) };
        let accepts = |id: PackageId| next.accepts(index.version_of(id));
        package = index
            .find(next.name)
            .and_then(|name| candidate(index, &catalog.priorities(), name, accepts))
            .ok_or_else(|| format!("there is no {next}; needed by {}", index.name_of(package)))?;
    }
    let name = index.name_of(start);
    Err(format!(
        "{name} leads through more than {MAX_META} meta packages"
    ))
}
