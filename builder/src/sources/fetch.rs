//! Fetches locked packages into the store, each checked by its digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::http::{Fetched, Wanted};
use super::uri::{Uri, check_relative};
use super::{Mirrors, SourceError};
use crate::base::fs::{At, FsError};
use crate::base::progress::Task;
use crate::base::{Digest, Progress};
use crate::lock::{Base, LockedPackage, LockedSuite, SuiteSource};
use crate::store::{BlobWriter, Store, StoreError};

/// The suite of packages that lie beside the lock.
pub const LOCAL: &str = "local";

/// Files fetched at a time.
const PARALLEL: usize = 4;

/// Seconds after a Release's date at which a snapshot mirror is asked: it takes
/// in a new Release only some hours after its date.
const SNAPSHOT_AFTER: [i64; 3] = [0, 6 * 3600, 24 * 3600];

/// Looks up the version of a package that its archive has now.
pub type CurrentVersion<'a> = dyn Fn(&LockedPackage) -> Option<String> + Sync + 'a;

/// A place that has blobs by their digest: a team's own store, asked before any mirror.
pub trait Blobs: Sync {
    /// Its name for people, without logins.
    fn name(&self) -> &str;

    /// Whether the network is needed for it.
    fn is_network(&self) -> bool;

    /// Writes the blob's bytes; `false` when it is not there. What was written is
    /// checked by whoever asked.
    ///
    /// # Errors
    /// One line for people.
    fn get(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<bool, String>;
}

/// Brings locked packages into the store.
pub struct Fetcher<'a> {
    /// Into.
    pub store: &'a Store,
    /// From.
    pub mirrors: &'a Mirrors,
    /// The archives that the lock's packages may name.
    pub suites: &'a [SuiteSource],
    /// The lock's suites: their dates say which snapshot has a package.
    pub locked: &'a [LockedSuite],
    /// The lock's folder, in which local packages lie.
    pub folder: &'a Path,
    /// Whether blobs that the store has are verified, and fetched again when damaged.
    pub verify: bool,
    /// Stores of the team's that are asked before the mirrors, in this order.
    pub teams: &'a [&'a dyn Blobs],
    /// For the message about a package that is gone.
    pub current: Option<&'a CurrentVersion<'a>>,
    /// Who listens.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Fetcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("store", &self.store)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Where a package came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arrival {
    /// The store had it.
    Present,
    /// A file beside the lock.
    Local,
    /// The shared cache.
    Cache,
    /// A store of the team's.
    Team,
    /// The mirror.
    Mirror,
    /// The snapshot mirror.
    Snapshot,
}

/// What fetching did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchSummary {
    /// Packages that came anew.
    pub fetched: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Packages that the store had.
    pub present: usize,
}

/// What one source had to give.
enum Try {
    Done,
    Absent,
    /// Other bytes: what they are.
    Wrong(String),
}

impl Fetcher<'_> {
    /// Brings one package into the store.
    ///
    /// # Errors
    /// [`SourceError`]: one line that names package, version and remedy.
    pub fn fetch_package(
        &self,
        package: &LockedPackage,
        task: &dyn Task,
    ) -> Result<Arrival, SourceError> {
        if self.is_present(package)? {
            return Ok(Arrival::Present);
        }
        if package.suite == LOCAL {
            return self.copy_local(package, task);
        }
        if self.copy_from_cache(package, task)? {
            return Ok(Arrival::Cache);
        }
        if self.copy_from_teams(package, task)? {
            return Ok(Arrival::Team);
        }
        if self.mirrors.is_offline() {
            return Err(SourceError::Offline {
                what: format!("{} {} ({})", package.name, package.version, package.sha256),
            });
        }
        self.download(package, task)
    }

    /// Brings packages into the store, several at a time; each digest once.
    ///
    /// # Errors
    /// The error of the package that failed, or [`SourceError::Several`] with a
    /// line for each. Those that came are in the store.
    pub fn fetch_all(&self, packages: &[&LockedPackage]) -> Result<FetchSummary, SourceError> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        let mut summary = FetchSummary::default();
        for package in packages {
            if !seen.insert(package.sha256) {
                continue;
            }
            if self.is_present(package)? {
                summary.present += 1;
            } else {
                missing.push(*package);
            }
        }
        if missing.is_empty() {
            return Ok(summary);
        }
        let total = missing.iter().map(|p| p.size).fold(0, u64::saturating_add);
        let task = self
            .progress
            .begin(&format!("fetching {} packages", missing.len()), Some(total));
        let next = AtomicUsize::new(0);
        let hopeless = AtomicBool::new(false);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(missing.len()) {
                scope.spawn(|| {
                    while !hopeless.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(package) = missing.get(at) else {
                            return;
                        };
                        let result = self.fetch_package(package, task.as_ref());
                        if result.as_ref().is_err_and(ends_all) {
                            hopeless.store(true, Ordering::Relaxed);
                        }
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((at, result));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(at, _)| *at);
        let mut errors = Vec::new();
        for (at, result) in results {
            match result {
                Ok(_) => {
                    summary.fetched += 1;
                    summary.bytes += missing[at].size;
                }
                Err(error) if ends_all(&error) => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(summary),
            1 => Err(errors.remove(0)),
            _ => Err(SourceError::Several(errors)),
        }
    }

    /// The packages among these that the store does not have.
    #[must_use]
    pub fn missing<'p>(&self, packages: &[&'p LockedPackage]) -> Vec<&'p LockedPackage> {
        packages
            .iter()
            .copied()
            .filter(|package| !self.store.has(&package.sha256))
            .collect()
    }

    fn is_present(&self, package: &LockedPackage) -> Result<bool, SourceError> {
        if !self.store.has(&package.sha256) {
            return Ok(false);
        }
        if !self.verify || self.store.check(&package.sha256)? {
            return Ok(true);
        }
        self.progress.note(&format!(
            "{} {} ({}) was damaged in the store and is fetched again",
            package.name, package.version, package.sha256
        ));
        Ok(false)
    }

    fn copy_local(&self, package: &LockedPackage, task: &dyn Task) -> Result<Arrival, SourceError> {
        check_relative(&package.path)?;
        let path = self.folder.join(&package.path);
        let missing = || SourceError::NoLocal {
            what: package.name.clone(),
            path: path.clone(),
        };
        let folder = self.folder.canonicalize().at("find", self.folder)?;
        let real = path.canonicalize().map_err(|_| missing())?;
        if !real.starts_with(&folder) {
            return Err(SourceError::Escape(package.path.clone()));
        }
        if !real.is_file() {
            return Err(missing());
        }
        match self.copy(package, &real, task)? {
            Try::Done => Ok(Arrival::Local),
            Try::Absent => Err(missing()),
            Try::Wrong(found) => Err(tampered(package, path.display().to_string(), found)),
        }
    }

    /// Whether the shared cache had it. A cache that is wrong or unreadable is
    /// passed by: it must never stop a build.
    fn copy_from_cache(
        &self,
        package: &LockedPackage,
        task: &dyn Task,
    ) -> Result<bool, SourceError> {
        let Some(cache) = &self.mirrors.config().cache else {
            return Ok(false);
        };
        let path = cache.join("blobs/sha256").join(package.sha256.hex());
        match self.copy(package, &path, task) {
            Ok(Try::Done) => Ok(true),
            Ok(Try::Absent) => Ok(false),
            Ok(Try::Wrong(found)) => {
                self.progress.note(&format!(
                    "the cache's {} has {found}; it is not used",
                    path.display()
                ));
                Ok(false)
            }
            Err(SourceError::Fs(error)) => {
                self.progress
                    .note(&format!("the cache is not used: {error}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a store of the team's had it. One that is wrong or does not answer is
    /// passed by, and said so: the mirror may still have what it lacks.
    fn copy_from_teams(
        &self,
        package: &LockedPackage,
        task: &dyn Task,
    ) -> Result<bool, SourceError> {
        for team in self.teams {
            if team.is_network() && self.mirrors.is_offline() {
                continue;
            }
            let mut writer = self.store.writer()?;
            let why = match team.get(&package.sha256, package.size, &mut writer) {
                Ok(false) => continue,
                Ok(true) => match finish(writer, package)? {
                    Try::Done => {
                        task.advance(package.size);
                        return Ok(true);
                    }
                    Try::Wrong(found) => format!("it has {found}"),
                    Try::Absent => continue,
                },
                Err(why) => why,
            };
            self.progress.note(&format!(
                "{} {} is not taken from {}: {why}",
                package.name,
                package.version,
                team.name()
            ));
        }
        Ok(false)
    }

    fn copy(
        &self,
        package: &LockedPackage,
        path: &Path,
        task: &dyn Task,
    ) -> Result<Try, SourceError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Try::Absent),
            Err(error) => Err(error).at("open", path)?,
        };
        let size = file.metadata().at("stat", path)?.len();
        if size != package.size {
            return Ok(Try::Wrong(format!("{size} bytes")));
        }
        let mut writer = self.store.writer()?;
        std::io::copy(&mut file.take(size), &mut writer).map_err(|error| {
            match StoreError::from_writer(error) {
                Ok(store) => SourceError::Store(store),
                Err(source) => SourceError::Fs(FsError {
                    operation: "copy",
                    path: path.to_owned(),
                    source,
                }),
            }
        })?;
        task.advance(size);
        finish(writer, package)
    }

    fn download(&self, package: &LockedPackage, task: &dyn Task) -> Result<Arrival, SourceError> {
        let suite = self.suite(package)?;
        let mirror = self.mirrors.mirror(suite)?;
        let uri = mirror.base.below(&package.path)?;
        let mut failure = None;
        // A cache on the way may hold what a mirror had a moment ago: ask it once more, afresh.
        for fresh in [false, true] {
            match self.try_uri(package, &uri, fresh, task) {
                Ok(Try::Done) => return Ok(Arrival::Mirror),
                Ok(Try::Wrong(found)) => failure = Some(tampered(package, uri.public(), found)),
                Ok(Try::Absent) => break,
                Err(error @ SourceError::Transport { .. }) => {
                    failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let snapshots = self.snapshots(package, suite)?;
        for uri in &snapshots {
            match self.try_uri(package, uri, false, task) {
                Ok(Try::Done) => return Ok(Arrival::Snapshot),
                Ok(Try::Absent) => {}
                Ok(Try::Wrong(found)) => {
                    failure = failure.or_else(|| Some(tampered(package, uri.public(), found)));
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| SourceError::Gone {
            package: package.name.clone(),
            locked: package.version.clone(),
            mirror: mirror.base.public(),
            now: self.current.and_then(|current| current(package)),
            snapshot: !snapshots.is_empty(),
        }))
    }

    fn try_uri(
        &self,
        package: &LockedPackage,
        uri: &Uri,
        fresh: bool,
        task: &dyn Task,
    ) -> Result<Try, SourceError> {
        let wanted = Wanted {
            uri,
            size: Some(package.size),
            limit: package.size,
            fresh,
        };
        let mut open = || self.store.writer().map_err(SourceError::from);
        match self.mirrors.client().fetch(wanted, task, &mut open)? {
            Fetched::Done(writer) => finish(writer, package),
            Fetched::Absent => Ok(Try::Absent),
            Fetched::OtherSize(size) => Ok(Try::Wrong(format!("{size} bytes or more"))),
        }
    }

    fn suite(&self, package: &LockedPackage) -> Result<&SuiteSource, SourceError> {
        self.suites
            .iter()
            .find(|suite| suite.name == package.suite)
            .ok_or_else(|| SourceError::NoSuite {
                package: package.name.clone(),
                suite: package.suite.clone(),
                known: self
                    .suites
                    .iter()
                    .map(|suite| suite.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// Where a snapshot mirror may have the package; empty without one.
    fn snapshots(
        &self,
        package: &LockedPackage,
        suite: &SuiteSource,
    ) -> Result<Vec<Uri>, SourceError> {
        let archive = match &suite.base {
            Base::Debian => "debian",
            Base::DebianSecurity => "debian-security",
            Base::Uri(_) => return Ok(Vec::new()),
        };
        let locked = self.locked.iter().find(|locked| locked.name == suite.name);
        let (Some(snapshot), Some(locked)) = (&self.mirrors.config().snapshot, locked) else {
            return Ok(Vec::new());
        };
        SNAPSHOT_AFTER
            .iter()
            .map(|after| {
                let time = timestamp(locked.date.saturating_add(*after));
                let base = if snapshot.contains("{timestamp}") {
                    snapshot
                        .replace("{archive}", archive)
                        .replace("{timestamp}", &time)
                } else {
                    let base = snapshot.trim_end_matches('/');
                    format!("{base}/archive/{archive}/{time}")
                };
                Uri::parse(&base)?.below(&package.path)
            })
            .collect()
    }
}

fn finish(writer: BlobWriter<'_>, package: &LockedPackage) -> Result<Try, SourceError> {
    match writer.finish_as(&package.sha256, &package.name) {
        Ok(()) => Ok(Try::Done),
        Err(StoreError::Unexpected { found, .. }) => Ok(Try::Wrong(found.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn tampered(package: &LockedPackage, uri: String, found: String) -> SourceError {
    SourceError::Tampered {
        what: format!("{} {}", package.name, package.version),
        uri,
        found,
        expected: format!("{} bytes, {}", package.size, package.sha256),
    }
}

/// Whether every other package would fail in the same way.
const fn ends_all(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::Store(_) | SourceError::NoMirror(_) | SourceError::Config { .. }
    )
}

/// Seconds since 1970 as snapshot mirrors write them: `20250520T083012Z`. The
/// calendar is that of Howard Hinnant's "days from civil", turned round.
fn timestamp(seconds: i64) -> String {
    // From year 1 to 9999, so that there are four digits.
    let seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
