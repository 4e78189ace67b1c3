//! What changed from one lock to the next, for people.

use std::collections::BTreeMap;

use crate::lock::{LockFile, LockedBase, LockedPackage, Locks};

/// What changed from one lock to the next, a line a package; where there are several
/// architectures, each line says which.
#[must_use]
pub fn changes(before: Option<&Locks>, after: &Locks) -> Vec<String> {
    let several = |locks: &Locks| locks.iter().count() > 1;
    let named = several(after) || before.is_some_and(several);
    let mut lines = Vec::new();
    for (arch, lock) in after.iter() {
        let before = before.and_then(|locks| locks.of(arch));
        lines.extend(changes_of(before, lock).into_iter().map(|line| {
            let name = arch.name();
            if named {
                format!("{name}: {line}")
            } else {
                line
            }
        }));
    }
    let gone = before.into_iter().flat_map(Locks::iter);
    let gone = gone.filter(|(arch, _)| after.of(*arch).is_none());
    lines.extend(
        gone.map(|(arch, lock)| format!("- {}: {} packages", arch.name(), lock.packages().count())),
    );
    lines
}

/// What changed in the lock of one architecture.
fn changes_of(before: Option<&LockFile>, after: &LockFile) -> Vec<String> {
    let all = |lock: &'_ LockFile| -> BTreeMap<String, LockedPackage> {
        let packages = lock.packages().chain(lock.base_packages());
        packages.map(|p| (p.name.clone(), p.clone())).collect()
    };
    let old = before.map(all).unwrap_or_default();
    let new = all(after);
    let bases = after.bases().filter_map(|(name, base)| {
        let before = before.and_then(|lock| lock.bases().find(|(other, _)| *other == name));
        let told = |base: &LockedBase| format!("{} ({})", base.version, base.image.short());
        match before {
            Some((_, before)) if before.image == base.image => None,
            Some((_, before)) => Some(format!(
                "~ base {}: {} -> {}",
                base.written,
                told(before),
                told(base)
            )),
            None => Some(format!("+ base {}: {}", base.written, told(base))),
        }
    });
    let tars = after.tars().filter_map(|(layer, tar)| {
        let before = before.and_then(|lock| lock.tars().find(|(other, _)| *other == layer));
        match before {
            Some((_, before)) if before.sha256 == tar.sha256 => None,
            Some((_, before)) => Some(format!(
                "~ tar {}: {} -> {}",
                tar.path,
                before.sha256.short(),
                tar.sha256.short()
            )),
            None => Some(format!("+ tar {} ({})", tar.path, tar.sha256.short())),
        }
    });
    let containers = after.containers().filter_map(|(layer, container)| {
        let before = before.and_then(|lock| lock.containers().find(|(other, _)| *other == layer));
        let (image, now) = (&container.image, container.sha256.short());
        match before {
            Some((_, before)) if before.sha256 == container.sha256 => None,
            Some((_, before)) => Some(format!(
                "~ container {image}: {} -> {now}",
                before.sha256.short()
            )),
            None => Some(format!("+ container {image} ({now})")),
        }
    });
    let added = new
        .iter()
        .filter_map(|(name, package)| match old.get(name) {
            None => Some(format!("+ {name} {} ({})", package.version, package.why)),
            Some(before) if before.version != package.version => Some(format!(
                "~ {name} {} -> {}",
                before.version, package.version
            )),
            Some(_) => None,
        });
    let gone = old
        .iter()
        .filter(|(name, _)| !new.contains_key(*name))
        .map(|(name, package)| format!("- {name} {}", package.version));
    bases
        .chain(tars)
        .chain(containers)
        .chain(added)
        .chain(gone)
        .collect()
}
