//! What the user's words mean: which packages are wished, and which are cut off.

use super::super::index::{NameId, PackageId};
use super::super::relation::Wish;
use super::{Solver, candidate};

impl Solver<'_> {
    /// Puts the names of `without` where satisfied ones are, and all that they provide.
    pub(super) fn cut_names(&mut self) -> Result<(), String> {
        for name in self.request.without {
            let id = self
                .index
                .find(name)
                .filter(|id| self.is_known(*id))
                .ok_or_else(|| self.unknown(name))?;
            self.cut.insert(id);
            if let Some(package) = self.newest(id) {
                let provides = self.index.package(package).provides;
                for relation in self.relations(provides) {
                    self.cut.extend(self.index.find(relation.name));
                }
            }
        }
        Ok(())
    }

    /// The packages that the wishes mean. Those that a layer below has are left out.
    pub(super) fn wished(&mut self) -> Result<Vec<PackageId>, String> {
        let mut wished = Vec::new();
        for local in self.request.local {
            let name = self.index.package(*local).name;
            self.not_below(name)?;
            self.forced.insert(name, *local);
            wished.push(*local);
        }
        for wish in self.request.wishes {
            let relation = wish.relation();
            let name = self
                .index
                .find(&wish.name)
                .filter(|id| self.is_known(*id))
                .ok_or_else(|| self.unknown(&wish.name))?;
            if self.cut.contains(&name) {
                return Err(format!(
                    "'{}' is wished and in 'without'; decide",
                    wish.name
                ));
            }
            if let Some(below) = self.selected.get(&name) {
                if relation.accepts(self.index.version_of(*below)) {
                    continue;
                }
                return Err(format!(
                    "{wish} is wished, but {}",
                    self.describe(&relation)
                ));
            }
            if self.index.versions(name).is_empty() {
                wished.extend(self.wished_virtual(wish, name)?);
            } else {
                wished.push(self.wished_real(name)?);
            }
        }
        Ok(wished)
    }

    /// The version of a wished package that all wishes for it allow.
    pub(super) fn wished_real(&mut self, name: NameId) -> Result<PackageId, String> {
        let text = self.index.name(name);
        let wishes = self.request.wishes.iter().filter(|w| w.name == text);
        let constraints: Vec<_> = wishes.filter(|w| w.version.is_some()).collect();
        let accept = |id: PackageId| {
            let version = self.index.version_of(id);
            constraints.iter().all(|w| w.relation().accepts(version))
        };
        let found = self
            .candidate(name)
            .filter(|id| accept(*id))
            .or_else(|| candidate(self.index, self.request.priorities, name, accept));
        let Some(found) = found else {
            let wishes: Vec<_> = constraints.iter().map(ToString::to_string).collect();
            let there = self.there(name);
            return Err(format!("{} is wished; {there}", wishes.join(" and ")));
        };
        if !constraints.is_empty() {
            self.forced.insert(name, found);
        }
        Ok(found)
    }

    /// The only provider of a wished name that no package has; `None` if a layer below has one.
    pub(super) fn wished_virtual(
        &self,
        wish: &Wish,
        name: NameId,
    ) -> Result<Option<PackageId>, String> {
        let relation = wish.relation();
        if self.is_satisfied(&relation) {
            return Ok(None);
        }
        let providers = self.choices(&relation);
        match providers.as_slice() {
            [only] => Ok(Some(*only)),
            [] => Err(format!(
                "{wish} is wished, but {}",
                self.describe(&relation)
            )),
            several => {
                let mut names: Vec<_> = several.iter().map(|id| self.index.name_of(*id)).collect();
                names.sort_unstable();
                Err(format!(
                    "'{}' is no package of its own, it is provided by {}; name one of them",
                    self.index.name(name),
                    names.join(", ")
                ))
            }
        }
    }

    pub(super) fn not_below(&self, name: NameId) -> Result<(), String> {
        let Some(below) = self.selected.get(&name) else {
            return Ok(());
        };
        Err(format!(
            "the local package {} would be a second copy: {}",
            self.index.name(name),
            self.below_text(*below)
        ))
    }
}
