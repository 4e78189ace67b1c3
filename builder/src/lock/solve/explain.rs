//! Reasons, for people.

use super::super::error::{did_you_mean, nearest};
use super::super::index::{NameId, Origin, PackageId};
use super::super::relation::Relation;
use super::super::version;
use super::{Failure, Solver};

impl Solver<'_> {
    pub(super) fn text(&self, failure: &Failure) -> String {
        let names = failure.chain.iter().map(|id| self.index.name_of(*id));
        let chain: Vec<_> = names.map(|name| format!("; needed by {name}")).collect();
        match chain.len() {
            // The ends of a long chain tell enough.
            0..=12 => format!("{}{}", failure.reason, chain.concat()),
            length => format!(
                "{}{}; and so on through {} more{}",
                failure.reason,
                chain[..6].concat(),
                length - 8,
                chain[length - 2..].concat()
            ),
        }
    }

    pub(super) fn is_known(&self, name: NameId) -> bool {
        !self.index.versions(name).is_empty() || !self.index.providers(name).is_empty()
    }

    pub(super) fn unknown(&self, name: &str) -> String {
        let nearest = nearest(name, self.index.known_names());
        format!("there is no package '{name}'{}", did_you_mean(&nearest))
    }

    pub(super) fn describe_group(&self, group: &[Relation<'_>]) -> String {
        let each: Vec<_> = group.iter().map(|r| self.describe(r)).collect();
        each.join(", and ")
    }

    /// Why nothing can be taken for a relation.
    pub(super) fn describe(&self, relation: &Relation<'_>) -> String {
        let Some(name) = self.index.find(relation.name).filter(|n| self.is_known(*n)) else {
            return self.unknown(relation.name);
        };
        if let Some(there) = self.selected.get(&name) {
            return format!("{} and is not {relation}", self.below_text(*there));
        }
        if self.index.versions(name).is_empty() {
            return format!("nothing that can be installed provides {relation}");
        }
        format!("there is no {relation}; {}", self.there(name))
    }

    /// `layer 'base' has libc6 2.41`, or that it is chosen already.
    pub(super) fn below_text(&self, package: PackageId) -> String {
        let (name, version) = (self.index.name_of(package), self.index.version_of(package));
        match self.request.below.iter().find(|(id, _)| *id == package) {
            Some((_, layer)) => format!("layer '{layer}' has {name} {version}"),
            None => format!("{name} {version} is chosen already"),
        }
    }

    /// Which versions of a name there are.
    pub(super) fn there(&self, name: NameId) -> String {
        let mut versions: Vec<_> = self
            .index
            .versions(name)
            .iter()
            .filter(|id| matches!(self.index.package(**id).origin, Origin::Suite(_)))
            .map(|id| self.index.version_of(*id))
            .collect();
        versions.sort_by(|a, b| version::compare(b, a));
        versions.dedup();
        let name = self.index.name(name);
        if versions.is_empty() {
            return format!("no archive has {name}");
        }
        format!("the archives have {name} {}", versions.join(", "))
    }

    pub(super) fn conflict_text(
        &self,
        by: PackageId,
        other: PackageId,
        relation: &Relation<'_>,
    ) -> String {
        format!(
            "{} {} cannot stand beside {} {}: it conflicts with {relation}",
            self.index.name_of(by),
            self.index.version_of(by),
            self.index.name_of(other),
            self.index.version_of(other),
        )
    }
}
