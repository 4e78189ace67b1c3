//! From wishes to a lock: the only place that asks what is newest.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::archive::Archive;
use super::board::LockedBoard;
use super::catalog::{Catalog, Reading};
use super::error::{LockError, nearest};
use super::file::{LOCK_VERSION, LockFile, LockedInit, LockedLayer, LockedPackage, LockedTool};
use super::index::{NameId, Origin, PackageId};
use super::kernel;
use super::relation::Wish;
use super::release::Clock;
use super::solve::{Chosen, Request, Stop, solve};
use super::wishes::{LocalDeb, PresentPackage, WishedBoard, WishedLayer, WishedTool, Wishes};
use crate::base::{Digest, Progress};

/// Which locked packages move to the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// These, and what cannot stay beside them; none for the smallest change.
    Named(Vec<String>),
    /// All.
    All,
}

/// How to resolve.
#[derive(Debug)]
pub struct ResolveOptions<'a> {
    /// PID 1 as built into the command.
    pub init: LockedInit,
    /// Now, in seconds since 1970.
    pub now: i64,
    /// Takes archives whose Release has expired.
    pub allow_expired: bool,
    /// The lock to start from: what it has stays at its version while the archives have that.
    pub keep: Option<&'a LockFile>,
    /// What moves all the same.
    pub update: Update,
    /// A key file that signs Debian's suites instead of Debian's own keys.
    pub debian_keys: Option<&'a [u8]>,
}

/// Makes a lock of `wishes` from what the archives have now.
///
/// # Errors
/// [`LockError`]: an archive cannot be read or trusted, or the wishes cannot be met.
pub fn resolve(
    wishes: &Wishes,
    archive: &dyn Archive,
    options: &ResolveOptions<'_>,
    progress: &dyn Progress,
) -> Result<LockFile, LockError> {
    check_updates(wishes, options)?;
    let Some(tools) = wishes.foreign_tools() else {
        return resolve_one(wishes, archive, options, progress);
    };
    let image = Wishes {
        tools: Vec::new(),
        ..wishes.clone()
    };
    let lock = resolve_one(&image, archive, options, progress)?;
    Ok(LockFile {
        wishes: wishes.digest(),
        tools: resolve_one(&tools, archive, options, progress)?.tools,
        ..lock
    })
}

/// [`resolve`] for wishes that are all of one architecture.
fn resolve_one(
    wishes: &Wishes,
    archive: &dyn Archive,
    options: &ResolveOptions<'_>,
    progress: &dyn Progress,
) -> Result<LockFile, LockError> {
    let reading = Reading {
        clock: Clock {
            now: options.now,
            allow_expired: options.allow_expired,
        },
        debian_keys: options.debian_keys,
    };
    let mut catalog = Catalog::load(wishes, archive, reading, progress)?;
    let given = Given::add(wishes, &mut catalog)?;
    let resolver = Resolver {
        wishes,
        priorities: catalog.priorities(),
        catalog: &catalog,
        given,
        options,
    };
    let _task = progress.begin("resolve packages", None);
    // Each round lets go of at least one kept version, so this ends.
    let mut unkept = HashSet::new();
    loop {
        match resolver.attempt(&unkept) {
            Ok(lock) => return Ok(lock),
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Unkeep(names)) => unkept.extend(names),
        }
    }
}

/// Names to update that neither the lock nor a board has are slips of the pen.
fn check_updates(wishes: &Wishes, options: &ResolveOptions<'_>) -> Result<(), LockError> {
    let (Some(lock), Update::Named(names)) = (options.keep, &options.update) else {
        return Ok(());
    };
    let mut known: BTreeSet<&str> = lock.packages().map(|p| p.name.as_str()).collect();
    known.extend(wishes.boards.iter().map(|board| board.kernel.as_str()));
    match names.iter().find(|name| !known.contains(name.as_str())) {
        Some(name) => Err(LockError::NotLocked {
            name: name.clone(),
            nearest: nearest(name, known.iter().copied()),
        }),
        None => Ok(()),
    }
}

/// Packages that no archive has, by layer.
struct Given {
    local: Vec<Vec<PackageId>>,
    present: Vec<Vec<PackageId>>,
}

enum Halt {
    Unkeep(Vec<NameId>),
    Failed(LockError),
}

/// A set of packages resolved together.
struct Set<'a> {
    title: String,
    wishes: Vec<Wish>,
    without: &'a [String],
    local: &'a [PackageId],
    below: &'a [(PackageId, String)],
    /// What the lock has for this set.
    locked: &'a [LockedPackage],
}

struct Resolver<'a> {
    wishes: &'a Wishes,
    priorities: Vec<u32>,
    catalog: &'a Catalog,
    given: Given,
    options: &'a ResolveOptions<'a>,
}

impl Given {
    /// Puts local and present packages into the index.
    fn add(wishes: &Wishes, catalog: &mut Catalog) -> Result<Self, LockError> {
        let mut given = Self {
            local: Vec::new(),
            present: Vec::new(),
        };
        for layer in &wishes.layers {
            let local = layer.local.iter().map(|deb| add_local(catalog, deb));
            given.local.push(local.collect::<Result<_, _>>()?);
            let present = layer.present.iter().map(|p| add_present(catalog, p));
            given.present.push(present.collect::<Result<_, _>>()?);
        }
        Ok(given)
    }
}

fn add_local(catalog: &mut Catalog, deb: &LocalDeb) -> Result<PackageId, LockError> {
    let control = deb.control.as_bytes();
    catalog
        .index
        .add_control(control, Origin::Local, &deb.path, deb.size, &deb.sha256)
        .map_err(|error| LockError::Local {
            path: deb.path.clone(),
            problem: error.to_string(),
        })
}

fn add_present(catalog: &mut Catalog, present: &PresentPackage) -> Result<PackageId, LockError> {
    let PresentPackage {
        name,
        version,
        provides,
    } = present;
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nProvides: {}\n",
        provides.replace('\n', " ")
    );
    let none = Digest::from_bytes([0; 32]);
    catalog
        .index
        .add_control(control.as_bytes(), Origin::Present, "present", 0, &none)
        .map_err(|error| LockError::Local {
            path: format!("the package {name} of a layer"),
            problem: error.to_string(),
        })
}

impl<'a> Resolver<'a> {
    fn attempt(&self, unkept: &HashSet<NameId>) -> Result<LockFile, Halt> {
        let mut lock = LockFile {
            version: LOCK_VERSION,
            wishes: self.wishes.digest(),
            init: self.options.init.clone(),
            suites: self.catalog.locked_suites(),
            boards: Vec::new(),
            layers: Vec::new(),
            tools: Vec::new(),
        };
        for board in &self.wishes.boards {
            lock.boards.push(self.board(board, unkept)?);
        }
        let mut below = Vec::new();
        for (number, layer) in self.wishes.layers.iter().enumerate() {
            lock.layers
                .push(self.layer(number, layer, &mut below, unkept)?);
        }
        for tool in &self.wishes.tools {
            lock.tools.push(self.tool(tool, unkept)?);
        }
        lock.sort();
        Ok(lock)
    }

    fn layer(
        &self,
        number: usize,
        layer: &'a WishedLayer,
        below: &mut Vec<(PackageId, String)>,
        unkept: &HashSet<NameId>,
    ) -> Result<LockedLayer, Halt> {
        let present = self.given.present[number].iter();
        below.extend(present.map(|id| (*id, layer.name.clone())));
        let title = format!("layer '{}'", layer.name);
        let kept = self.options.keep.map_or(&[][..], |lock| {
            let layer = lock.layers.iter().find(|l| l.name == layer.name);
            layer.map_or(&[], |layer| &layer.packages)
        });
        let chosen = self.solve(
            &Set {
                wishes: parse_wishes(&title, &layer.packages)?,
                title,
                without: &layer.without,
                local: &self.given.local[number],
                below,
                locked: kept,
            },
            unkept,
        )?;
        below.extend(chosen.iter().map(|c| (c.package, layer.name.clone())));
        Ok(LockedLayer {
            name: layer.name.clone(),
            base: None,
            tar: layer.tar.clone(),
            oci: layer.oci.clone(),
            packages: chosen.iter().map(|c| self.locked(c)).collect(),
        })
    }

    fn tool(&self, tool: &WishedTool, unkept: &HashSet<NameId>) -> Result<LockedTool, Halt> {
        let title = format!("tool '{}'", tool.name);
        let kept = self.options.keep.map_or(&[][..], |lock| {
            let tool = lock.tools.iter().find(|t| t.name == tool.name);
            tool.map_or(&[], |tool| &tool.packages)
        });
        let chosen = self.solve(
            &Set {
                wishes: parse_wishes(&title, &tool.packages)?,
                title,
                without: &[],
                local: &[],
                below: &[],
                locked: kept,
            },
            unkept,
        )?;
        Ok(LockedTool {
            name: tool.name.clone(),
            packages: chosen.iter().map(|c| self.locked(c)).collect(),
        })
    }

    fn solve(&self, set: &Set<'_>, unkept: &HashSet<NameId>) -> Result<Vec<Chosen>, Halt> {
        let keep = self.keep(set.locked, unkept);
        let request = Request {
            wishes: &set.wishes,
            without: set.without,
            local: set.local,
            below: set.below,
            keep: &keep,
            priorities: &self.priorities,
        };
        solve(&self.catalog.index, &request).map_err(|stop| match stop {
            Stop::Unkeep(names) => Halt::Unkeep(names),
            Stop::Failed(problem) => Halt::Failed(LockError::Unsolvable {
                set: set.title.clone(),
                problem,
            }),
        })
    }

    /// The versions to stay at: those of the set itself, else those that the lock
    /// has for the same name elsewhere.
    fn keep(&self, own: &[LockedPackage], unkept: &HashSet<NameId>) -> HashMap<NameId, PackageId> {
        let (Some(lock), Update::Named(update)) = (self.options.keep, &self.options.update) else {
            return HashMap::new();
        };
        lock.packages()
            .chain(own)
            .filter(|locked| !update.contains(&locked.name))
            .filter_map(|locked| self.find(locked))
            .map(|id| (self.catalog.index.package(id).name, id))
            .filter(|(name, _)| !unkept.contains(name))
            .collect()
    }

    /// A locked package in the archives, if they still have that version.
    fn find(&self, locked: &LockedPackage) -> Option<PackageId> {
        let index = &self.catalog.index;
        let same = |id: &&PackageId| {
            self.catalog.suite_of(**id).is_some() && index.version_of(**id) == locked.version
        };
        let versions = index.versions(index.find(&locked.name)?).iter();
        let mut found = versions.filter(same);
        let first = found.next()?;
        let in_suite = |id: &PackageId| {
            let suite = self.catalog.suite_of(*id);
            suite.is_some_and(|(source, _)| source.name == locked.suite)
        };
        if in_suite(first) {
            return Some(*first);
        }
        Some(*found.find(|id| in_suite(id)).unwrap_or(first))
    }

    fn board(&self, board: &WishedBoard, unkept: &HashSet<NameId>) -> Result<LockedBoard, Halt> {
        let title = format!("board '{}'", board.name);
        let locked = self
            .options
            .keep
            .and_then(|lock| lock.boards.iter().find(|locked| locked.name == board.name));
        let kept = locked.into_iter().flat_map(LockedBoard::packages);
        let keep = self.keep(&kept.cloned().collect::<Vec<_>>(), unkept);
        let failed = |problem: String| {
            Halt::Failed(LockError::Unsolvable {
                set: title.clone(),
                problem,
            })
        };
        let single = |text: &String| {
            let wish = parse_wishes(&title, std::slice::from_ref(text))?.remove(0);
            Ok::<_, Halt>((
                kernel::single(self.catalog, &wish, &keep).map_err(failed)?,
                wish,
            ))
        };
        let (stub, _) = single(&board.stub)?;
        let alone = |text: &String| {
            let (package, _) = single(text)?;
            Ok::<_, Halt>(self.locked(&Chosen {
                package,
                needed_by: None,
            }))
        };
        let bios = board.bios.as_ref().map(alone).transpose()?;
        let firmware = board.firmware.iter().map(alone);
        let firmware = firmware.collect::<Result<_, _>>()?;
        let (meta, wish) = single(&board.kernel)?;
        let kernel = locked
            .filter(|locked| self.may_keep(&locked.kernel, &wish))
            .and_then(|locked| self.find(&locked.kernel))
            .map_or_else(|| kernel::follow(self.catalog, meta).map_err(failed), Ok)?;
        Ok(LockedBoard {
            name: board.name.clone(),
            kernel: self.locked(&Chosen {
                package: kernel,
                needed_by: (kernel != meta).then_some(meta),
            }),
            stub: self.locked(&Chosen {
                package: stub,
                needed_by: None,
            }),
            bios,
            firmware,
        })
    }

    /// Whether a locked kernel may stay: it is not to be updated, by its own name or
    /// by the wished one's, and some version of the wished package leads to it.
    fn may_keep(&self, locked: &LockedPackage, wish: &Wish) -> bool {
        let index = &self.catalog.index;
        let update = match &self.options.update {
            Update::All => true,
            Update::Named(names) => names.contains(&locked.name) || names.contains(&wish.name),
        };
        let versions = index
            .find(&wish.name)
            .map_or(&[][..], |name| index.versions(name));
        !update
            && versions
                .iter()
                .filter(|id| wish.relation().accepts(index.version_of(**id)))
                .filter_map(|id| kernel::follow(self.catalog, *id).ok())
                .any(|id| {
                    index.name_of(id) == locked.name && index.version_of(id) == locked.version
                })
    }

    fn locked(&self, chosen: &Chosen) -> LockedPackage {
        let index = &self.catalog.index;
        let package = index.package(chosen.package);
        let suite = self.catalog.suite_of(chosen.package);
        LockedPackage {
            name: index.name_of(chosen.package).to_owned(),
            version: index.version_of(chosen.package).to_owned(),
            arch: if package.all { "all" } else { index.arch() }.to_owned(),
            suite: suite.map_or("local", |(source, _)| &source.name).to_owned(),
            path: index.text(package.path).to_owned(),
            size: package.size,
            sha256: package.sha256,
            why: match chosen.needed_by {
                Some(by) => format!("needed by {}", index.name_of(by)),
                None => "wished".to_owned(),
            },
        }
    }
}

fn parse_wishes(set: &str, texts: &[String]) -> Result<Vec<Wish>, Halt> {
    texts
        .iter()
        .map(|text| {
            Wish::parse(text).map_err(|source| {
                Halt::Failed(LockError::Wish {
                    set: set.to_owned(),
                    source,
                })
            })
        })
        .collect()
}
