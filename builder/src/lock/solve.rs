//! Dependency closures as `apt-get install --no-install-recommends` finds them.
//!
//! apt's way, which this follows step by step so that both choose the same:
//!
//! - A package's *candidate* is its highest version in the archives of the
//!   highest preference; no other version is considered, unless the user asks.
//! - All wished packages are taken first. Then each one's `Pre-Depends` and
//!   `Depends` are gone through in order, and whatever is taken for them at once
//!   has its own gone through, before the next.
//! - A group of alternatives that something chosen (or in a layer below)
//!   satisfies needs nothing.
//! - Otherwise the alternatives are tried in order; for each, the package of that
//!   name first, then those that provide it: essential before important ones,
//!   then by priority, then the one whose name apt met last.
//! - One that cannot be installed, because of its own dependencies or of a
//!   conflict, is undone as a whole and the next is tried.
//!
//! Where what must be there conflicts with something that was only one of several
//! ways to meet a dependency, all is solved again without that one: apt takes it
//! out again and looks for another way, which comes to the same.

mod conflict;
mod explain;
mod wished;

use std::collections::{HashMap, HashSet};

use super::index::{Index, NameId, Origin, PackageId, Provider};
use super::relation::{self, Relation, Wish};
use super::version;

/// Deepest chain of dependencies; apt's own limit is of the same order.
const MAX_DEPTH: usize = 2000;
/// Stack for the search, in bytes: the chain is walked by recursion.
const STACK: usize = 64 * 1024 * 1024;
/// Most groups looked at, against archives made to keep the search busy.
const MAX_STEPS: u64 = 100_000;
/// Most packages avoided because they conflict with others.
const MAX_AVOIDED: usize = 100;

/// What to solve.
#[derive(Debug)]
pub struct Request<'a> {
    /// Packages wished by name.
    pub wishes: &'a [Wish],
    /// Packages to do without: their dependents take them as satisfied.
    pub without: &'a [String],
    /// Local packages, wished as well.
    pub local: &'a [PackageId],
    /// Packages of the layers below, with their layer's name.
    pub below: &'a [(PackageId, String)],
    /// Versions to stay at.
    pub keep: &'a HashMap<NameId, PackageId>,
    /// apt's preference for each suite.
    pub priorities: &'a [u32],
}

/// A package of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The package.
    pub package: PackageId,
    /// Who needs it; `None` when it was wished.
    pub needed_by: Option<PackageId>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// These packages cannot stay at their versions: solve again without keeping them.
    Unkeep(Vec<NameId>),
    /// It cannot be done; a text for people.
    Failed(String),
}

/// A package that cannot be had.
#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    /// Who needs it, and who needs that.
    chain: Vec<PackageId>,
    /// Whether it could never be had, whatever else is chosen.
    forever: bool,
    /// What was there already, conflicts with it, and need not have been there.
    conflict: Option<PackageId>,
}

enum Halt {
    Unkeep(Vec<NameId>),
    Failed(Failure),
}

/// A `Conflicts` or `Breaks` of a chosen package.
#[derive(Debug, Clone, Copy)]
struct Negative<'a> {
    by: PackageId,
    relation: Relation<'a>,
}

struct Solver<'a> {
    index: &'a Index,
    request: &'a Request<'a>,
    /// Versions that the user chose.
    forced: HashMap<NameId, PackageId>,
    /// Names that count as satisfied.
    cut: HashSet<NameId>,
    /// All that is there: chosen or below.
    selected: HashMap<NameId, PackageId>,
    negatives: HashMap<&'a str, Vec<Negative<'a>>>,
    /// In the order in which they were chosen.
    trail: Vec<Chosen>,
    broken: HashMap<PackageId, Failure>,
    /// Packages that are not taken for a dependency.
    avoid: HashSet<PackageId>,
    steps: u64,
}

/// Finds the packages to add for `request`, in the order in which they were chosen.
///
/// # Errors
/// [`Stop`].
pub fn solve(index: &Index, request: &Request<'_>) -> Result<Vec<Chosen>, Stop> {
    let work = || search(index, request);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        match thread.spawn_scoped(scope, work) {
            Ok(handle) => handle
                .join()
                .unwrap_or_else(|_| Err(Stop::Failed("the search broke off".to_owned()))),
            Err(error) => Err(Stop::Failed(format!("cannot start the search: {error}"))),
        }
    })
}

/// Solves, again and again while the only thing in the way is a package that need
/// not be there. If that leads nowhere, the first reason is the one to tell.
fn search(index: &Index, request: &Request<'_>) -> Result<Vec<Chosen>, Stop> {
    let mut avoid = HashSet::new();
    let mut first = None;
    loop {
        let mut solver = Solver::new(index, request);
        solver.avoid.clone_from(&avoid);
        let failure = match solver.run() {
            Ok(()) => return Ok(solver.trail),
            Err(Halt::Unkeep(names)) => return Err(Stop::Unkeep(names)),
            Err(Halt::Failed(failure)) => failure,
        };
        let told = first.get_or_insert_with(|| solver.text(&failure)).clone();
        match failure.conflict {
            Some(id) if avoid.len() < MAX_AVOIDED && avoid.insert(id) => {}
            _ => return Err(Stop::Failed(told)),
        }
    }
}

/// The version that apt would take of a name, of those that `accept` takes.
#[must_use]
pub fn candidate(
    index: &Index,
    priorities: &[u32],
    name: NameId,
    accept: impl Fn(PackageId) -> bool,
) -> Option<PackageId> {
    let rank = |id: PackageId| match index.package(id).origin {
        Origin::Suite(number) => priorities.get(usize::from(number)).copied(),
        Origin::Local | Origin::Present => None,
    };
    let mut best: Option<(u32, PackageId)> = None;
    for id in index
        .versions(name)
        .iter()
        .copied()
        .filter(|id| accept(*id))
    {
        let Some(rank) = rank(id) else { continue };
        // Of equals the first stays: that of the archive named first.
        let better = best.is_none_or(|(best_rank, best)| {
            rank.cmp(&best_rank)
                .then_with(|| version::compare(index.version_of(id), index.version_of(best)))
                .is_gt()
        });
        if better {
            best = Some((rank, id));
        }
    }
    best.map(|(_, id)| id)
}

impl<'a> Solver<'a> {
    fn new(index: &'a Index, request: &'a Request<'a>) -> Self {
        Self {
            index,
            request,
            forced: HashMap::new(),
            cut: HashSet::new(),
            selected: HashMap::new(),
            negatives: HashMap::new(),
            trail: Vec::new(),
            broken: HashMap::new(),
            avoid: HashSet::new(),
            steps: 0,
        }
    }

    fn run(&mut self) -> Result<(), Halt> {
        for (package, _) in self.request.below {
            self.enter(*package);
        }
        self.cut_names().map_err(plain)?;
        let mut wished = self.wished().map_err(plain)?;
        // apt goes through them by number, whatever their order on its command line.
        wished.sort_by_key(|id| self.index.package(*id).name);
        wished.dedup();
        for package in &wished {
            self.take(*package, None)?;
        }
        for package in &wished {
            self.expand(*package, 0)?;
        }
        Ok(())
    }

    /// Whether a package is there only because something needs it, or one like it.
    fn is_needless(&self, package: PackageId) -> bool {
        let chosen = self.trail.iter().find(|c| c.package == package);
        chosen.is_some_and(|chosen| chosen.needed_by.is_some())
    }

    /// Takes a package and all that it needs.
    fn mark(&mut self, package: PackageId, by: PackageId, depth: usize) -> Result<(), Halt> {
        if let Some(failure) = self.broken.get(&package) {
            return Err(Halt::Failed(failure.clone()));
        }
        self.take(package, Some(by))?;
        self.expand(package, depth)
    }

    /// Takes a package alone, if nothing speaks against it.
    fn take(&mut self, package: PackageId, needed_by: Option<PackageId>) -> Result<(), Halt> {
        if let Some((other, reason)) = self.conflict(package) {
            let kept: Vec<_> = [package, other]
                .into_iter()
                .filter_map(|id| self.kept_back(id))
                .collect();
            if !kept.is_empty() {
                return Err(Halt::Unkeep(kept));
            }
            return Err(Halt::Failed(Failure {
                reason,
                chain: needed_by.into_iter().collect(),
                forever: false,
                conflict: self.is_needless(other).then_some(other),
            }));
        }
        self.enter(package);
        self.trail.push(Chosen { package, needed_by });
        Ok(())
    }

    fn enter(&mut self, package: PackageId) {
        let record = self.index.package(package);
        self.selected.insert(record.name, package);
        for field in [record.conflicts, record.breaks] {
            for relation in self.relations(field) {
                let negative = Negative {
                    by: package,
                    relation,
                };
                self.negatives
                    .entry(relation.name)
                    .or_default()
                    .push(negative);
            }
        }
    }

    /// Undoes everything after the first `length` packages of the trail.
    fn undo(&mut self, length: usize) {
        for chosen in self.trail.split_off(length) {
            let record = self.index.package(chosen.package);
            self.selected.remove(&record.name);
            for field in [record.conflicts, record.breaks] {
                for relation in self.relations(field) {
                    if let Some(negatives) = self.negatives.get_mut(relation.name) {
                        negatives.retain(|negative| negative.by != chosen.package);
                    }
                }
            }
        }
    }

    /// Goes through the dependencies of a package that was taken.
    fn expand(&mut self, package: PackageId, depth: usize) -> Result<(), Halt> {
        let index = self.index;
        let record = index.package(package);
        for field in [record.pre_depends, record.depends] {
            for group in relation::groups(index.text(field), index.arch()) {
                let result = match group {
                    Ok(group) => self.satisfy(package, &group, depth),
                    Err(error) => Err(Halt::Failed(Failure {
                        reason: error.to_string(),
                        chain: vec![package],
                        forever: true,
                        conflict: None,
                    })),
                };
                if let Err(halt) = result {
                    return Err(self.blame(package, halt));
                }
            }
        }
        Ok(())
    }

    /// A package at a kept version that cannot be installed may be installable at its newest.
    fn blame(&mut self, package: PackageId, halt: Halt) -> Halt {
        match (halt, self.kept_back(package)) {
            (Halt::Failed(_), Some(name)) => Halt::Unkeep(vec![name]),
            (Halt::Failed(failure), None) => {
                if failure.forever {
                    self.broken.insert(package, failure.clone());
                }
                Halt::Failed(failure)
            }
            (halt, _) => halt,
        }
    }

    /// Sees to it that one alternative of `package`'s group is there.
    fn satisfy(
        &mut self,
        package: PackageId,
        group: &[Relation<'_>],
        depth: usize,
    ) -> Result<(), Halt> {
        if group.iter().any(|relation| self.is_satisfied(relation)) {
            return Ok(());
        }
        self.steps += 1;
        if depth >= MAX_DEPTH || self.steps > MAX_STEPS {
            return Err(Halt::Failed(Failure {
                reason: "its dependencies are too deep or too many to follow".to_owned(),
                chain: vec![package],
                forever: false,
                conflict: None,
            }));
        }
        let outdated: Vec<_> = group.iter().filter_map(|r| self.outdated(r)).collect();
        if !outdated.is_empty() {
            return Err(Halt::Unkeep(outdated));
        }
        let mut first = None;
        let mut forever = true;
        for relation in group {
            for choice in self.choices(relation) {
                let length = self.trail.len();
                match self.mark(choice, package, depth + 1) {
                    Ok(()) => return Ok(()),
                    Err(Halt::Failed(failure)) => {
                        self.undo(length);
                        forever &= failure.forever;
                        first.get_or_insert(failure);
                    }
                    Err(unkeep) => return Err(unkeep),
                }
            }
        }
        let mut failure = first.unwrap_or_else(|| Failure {
            reason: self.describe_group(group),
            chain: Vec::new(),
            forever: true,
            conflict: None,
        });
        // What is below or chosen already may be in the way here, and not elsewhere.
        let in_the_way = |r: &Relation<'_>| {
            let id = self.index.find(r.name);
            id.is_some_and(|id| self.selected.contains_key(&id))
        };
        failure.forever = forever && !group.iter().any(in_the_way);
        if failure.chain.last() != Some(&package) {
            failure.chain.push(package);
        }
        Err(Halt::Failed(failure))
    }

    fn is_satisfied(&self, relation: &Relation<'_>) -> bool {
        let Some(name) = self.index.find(relation.name) else {
            return false;
        };
        self.cut.contains(&name)
            || self
                .selected
                .get(&name)
                .is_some_and(|id| relation.accepts(self.index.version_of(*id)))
            || self.index.providers(name).iter().any(|provider| {
                self.is_selected(provider.package) && self.serves(provider, relation)
            })
    }

    fn is_selected(&self, package: PackageId) -> bool {
        self.selected.get(&self.index.package(package).name) == Some(&package)
    }

    fn serves(&self, provider: &Provider, relation: &Relation<'_>) -> bool {
        relation.accepts_provided(provider.version.map(|version| self.index.text(version)))
    }

    /// The packages that could be taken for one alternative, best first.
    fn choices(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let Some(name) = self.index.find(relation.name) else {
            return Vec::new();
        };
        let own = self
            .candidate(name)
            .filter(|id| relation.accepts(self.index.version_of(*id)));
        let providers = self
            .index
            .providers(name)
            .iter()
            .filter(|provider| self.serves(provider, relation))
            .map(|provider| provider.package)
            .filter(|id| self.candidate(self.index.package(*id).name) == Some(*id));
        let mut choices: Vec<_> = own
            .into_iter()
            .chain(providers)
            .filter(|id| !self.avoid.contains(id))
            .collect();
        choices.sort_by_key(|id| {
            let package = self.index.package(*id);
            (
                package.name != name,
                !package.essential,
                !package.important,
                package.priority,
                std::cmp::Reverse(package.name),
            )
        });
        choices.dedup();
        choices
    }

    /// The version of a name that may be taken; none of what is there already.
    fn candidate(&self, name: NameId) -> Option<PackageId> {
        if self.selected.contains_key(&name) {
            return None;
        }
        self.forced
            .get(&name)
            .or_else(|| self.request.keep.get(&name))
            .copied()
            .or_else(|| self.newest(name))
    }

    fn newest(&self, name: NameId) -> Option<PackageId> {
        candidate(self.index, self.request.priorities, name, |_| true)
    }

    /// The name of a package that is only kept at its version, and has a newer one.
    fn kept_back(&self, package: PackageId) -> Option<NameId> {
        let name = self.index.package(package).name;
        let kept = self.request.keep.get(&name) == Some(&package)
            && !self.forced.contains_key(&name)
            && self.newest(name) != Some(package);
        kept.then_some(name)
    }

    /// The name of an alternative whose kept version will not do, and whose newest will.
    fn outdated(&self, relation: &Relation<'_>) -> Option<NameId> {
        let name = self.index.find(relation.name)?;
        let current = self.selected.get(&name).copied();
        let name = self.kept_back(current.or_else(|| self.candidate(name))?)?;
        let accepts = |id: PackageId| relation.accepts(self.index.version_of(id));
        (relation.version.is_some() && self.newest(name).is_some_and(accepts)).then_some(name)
    }

    /// The relations of a field without alternatives; what cannot be read is passed over.
    fn relations(&self, field: super::index::Span) -> impl Iterator<Item = Relation<'a>> + use<'a> {
        let index = self.index;
        relation::groups(index.text(field), index.arch())
            .flatten()
            .flatten()
    }
}

/// A failure that nobody in particular asked for.
fn plain(reason: String) -> Halt {
    Halt::Failed(Failure {
        reason,
        chain: Vec::new(),
        forever: true,
        conflict: None,
    })
}
