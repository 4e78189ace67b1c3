//! What cannot stand beside what: `Conflicts` and `Breaks`, in both directions,
//! by real and by provided names (policy 7.3, 7.4, 7.5).

use super::super::index::PackageId;
use super::super::relation::{Op, Relation};
use super::Solver;

impl Solver<'_> {
    /// What is there that cannot stand beside `package`.
    pub(super) fn conflict(&self, package: PackageId) -> Option<(PackageId, String)> {
        let record = self.index.package(package);
        for field in [record.conflicts, record.breaks] {
            for relation in self.relations(field) {
                if let Some(other) = self.hit(&relation).find(|other| *other != package) {
                    return Some((other, self.conflict_text(package, other, &relation)));
                }
            }
        }
        let version = self.index.version_of(package);
        let own = Relation {
            name: self.index.name_of(package),
            qualifier: None,
            version: Some((Op::Equal, version)),
        };
        for (at, provided) in std::iter::once(own)
            .chain(self.relations(record.provides))
            .enumerate()
        {
            for negative in self.negatives.get(provided.name).into_iter().flatten() {
                let version = provided.version.map(|(_, version)| version);
                let hit = if at == 0 {
                    negative.relation.accepts(version.unwrap_or_default())
                } else {
                    negative.relation.accepts_provided(version)
                };
                if hit && negative.by != package {
                    let text = self.conflict_text(negative.by, package, &negative.relation);
                    return Some((negative.by, text));
                }
            }
        }
        None
    }

    /// What is there of a name, real or provided.
    pub(super) fn hit<'b>(
        &'b self,
        relation: &'b Relation<'_>,
    ) -> impl Iterator<Item = PackageId> + 'b {
        let name = self.index.find(relation.name);
        let own = name
            .and_then(|name| self.selected.get(&name).copied())
            .filter(|id| relation.accepts(self.index.version_of(*id)));
        let providers = name.map_or(&[][..], |name| self.index.providers(name));
        own.into_iter().chain(
            providers
                .iter()
                .filter(|p| self.is_selected(p.package) && self.serves(p, relation))
                .map(|p| p.package),
        )
    }
}
