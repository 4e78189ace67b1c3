//! All archives that the wishes name, read and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};

use lzma_rust2::XzReader;
use slipform_openpgp::Keyring;

use super::archive::{Archive, SuiteSource};
use super::error::LockError;
use super::index::{Index, Origin, PackageId};
use super::release::{Clock, IndexFile, MAX_INRELEASE, Release};
use super::wishes::Wishes;
use super::{file::LockedSuite, keys};
use crate::base::{Digest, Progress};

/// Largest index file fetched, in bytes. Debian's largest has 10 MB.
const MAX_FETCHED: u64 = 256 * 1024 * 1024;
/// Largest index once unpacked, in bytes. Debian's largest has 57 MB.
const MAX_UNPACKED: u64 = 2 * 1024 * 1024 * 1024;
/// Most memory for unpacking, in KiB; `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 128 * 1024;

/// How the archives are read and trusted.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The time.
    pub clock: Clock,
    /// A key file for Debian's own suites instead of Debian's keys: for a mirror
    /// that is signed anew.
    pub debian_keys: Option<&'a [u8]>,
}

/// The archives.
#[derive(Debug)]
pub struct Catalog {
    /// All their packages.
    pub index: Index,
    /// Their suites, by the numbers in [`Origin::Suite`].
    pub suites: Vec<(SuiteSource, Release)>,
}

impl Catalog {
    /// Reads every archive of `wishes`.
    ///
    /// # Errors
    /// [`LockError`]: an archive cannot be read, or not be trusted.
    pub fn load(
        wishes: &Wishes,
        archive: &dyn Archive,
        reading: Reading<'_>,
        progress: &dyn Progress,
    ) -> Result<Self, LockError> {
        let (debian, rings) = keyrings(wishes, reading)?;
        let mut catalog = Self {
            index: Index::new(&wishes.arch),
            suites: Vec::new(),
        };
        for source in wishes.sources() {
            let _task = progress.begin(&format!("index of {}", source.name), None);
            let keyring = rings.get(&source.name).unwrap_or(&debian);
            catalog.add(source, archive, keyring, reading.clock)?;
        }
        Ok(catalog)
    }

    fn add(
        &mut self,
        source: SuiteSource,
        archive: &dyn Archive,
        keyring: &Keyring,
        clock: Clock,
    ) -> Result<(), LockError> {
        let path = format!("dists/{}/InRelease", source.dist);
        let bytes = read(archive, &source, &path, MAX_INRELEASE)?;
        let bytes = bytes.ok_or_else(|| LockError::NoRelease {
            suite: source.name.clone(),
            path,
        })?;
        let release = Release::check(&bytes, &source, keyring, clock)?;
        let number = u16::try_from(self.suites.len()).unwrap_or(u16::MAX);
        for component in &source.components {
            let own = format!("{component}/binary-{}/Packages", self.index.arch());
            self.add_index(archive, (&source, number), &release, &own)?;
            let all = format!("{component}/binary-all/Packages");
            if release.separate_all && find_index(&release, &all).is_some() {
                self.add_index(archive, (&source, number), &release, &all)?;
            }
        }
        self.suites.push((source, release));
        Ok(())
    }

    fn add_index(
        &mut self,
        archive: &dyn Archive,
        (source, number): (&SuiteSource, u16),
        release: &Release,
        path: &str,
    ) -> Result<(), LockError> {
        let suite = || source.name.clone();
        let (name, file) = find_index(release, path).ok_or_else(|| LockError::NoIndex {
            suite: suite(),
            path: path.to_owned(),
        })?;
        if file.size == 0 {
            return Ok(());
        }
        let bytes = fetch(archive, source, release, (&name, file))?;
        let limit = release.files.get(path).map_or(MAX_UNPACKED, |f| f.size);
        let plain: Box<dyn Read> = if name.ends_with(".xz") {
            Box::new(XzReader::new_mem_limit(&bytes[..], true, XZ_MEMORY))
        } else if name.ends_with(".gz") {
            Box::new(flate2::read::MultiGzDecoder::new(&bytes[..]))
        } else {
            Box::new(&bytes[..])
        };
        let input = BufReader::with_capacity(256 * 1024, Bounded::new(plain, limit));
        self.parse(input, number)
            .map_err(|problem| LockError::Index {
                suite: suite(),
                path: name,
                problem,
            })
    }

    fn parse(&mut self, input: impl BufRead, suite: u16) -> Result<(), String> {
        self.index
            .add_packages(input, suite)
            .map_err(|error| error.to_string())
    }

    /// The suite of a package of an archive.
    #[must_use]
    pub fn suite_of(&self, package: PackageId) -> Option<&(SuiteSource, Release)> {
        match self.index.package(package).origin {
            Origin::Suite(number) => self.suites.get(usize::from(number)),
            Origin::Local | Origin::Present => None,
        }
    }

    /// apt's preference for each suite, by number.
    #[must_use]
    pub fn priorities(&self) -> Vec<u32> {
        self.suites.iter().map(|(_, r)| r.priority).collect()
    }

    /// The suites for the lock, sorted by name.
    #[must_use]
    pub fn locked_suites(&self) -> Vec<LockedSuite> {
        let mut locked: Vec<_> = self
            .suites
            .iter()
            .map(|(source, release)| LockedSuite {
                name: source.name.clone(),
                date: release.date,
                release: release.digest,
            })
            .collect();
        locked.sort_by(|a, b| a.name.cmp(&b.name));
        locked
    }
}

/// Debian's keyring, and that of each further source by its name.
fn keyrings(
    wishes: &Wishes,
    reading: Reading<'_>,
) -> Result<(Keyring, BTreeMap<String, Keyring>), LockError> {
    let named = |name: &str, source| LockError::Key {
        name: name.to_owned(),
        source,
    };
    let debian = match reading.debian_keys {
        Some(bytes) => Keyring::from_bytes(bytes),
        None => keys::debian(),
    };
    let debian = debian.map_err(|error| named("Debian's archive", error))?;
    let mut seen = BTreeSet::new();
    for source in wishes.sources() {
        if !seen.insert(source.name.clone()) {
            return Err(LockError::DoubleSource(source.name));
        }
    }
    let mut rings = BTreeMap::new();
    for apt in &wishes.apt {
        let ring = Keyring::from_bytes(&apt.key_bytes).map_err(|error| named(&apt.name, error))?;
        rings.insert(apt.name.clone(), ring);
    }
    Ok((debian, rings))
}

/// The best form in which the Release offers an index.
fn find_index(release: &Release, path: &str) -> Option<(String, IndexFile)> {
    [".xz", ".gz", ""].iter().find_map(|ending| {
        let name = format!("{path}{ending}");
        let file = *release.files.get(&name)?;
        Some((name, file))
    })
}

/// Fetches an index and checks it: by its digest where that is offered, so that a
/// mirror in the middle of an update does no harm, else by its name.
fn fetch(
    archive: &dyn Archive,
    source: &SuiteSource,
    release: &Release,
    (name, file): (&str, IndexFile),
) -> Result<Vec<u8>, LockError> {
    let plain = format!("dists/{}/{name}", source.dist);
    if file.size > MAX_FETCHED {
        return Err(LockError::Index {
            suite: source.name.clone(),
            path: plain,
            problem: format!("it has {} bytes, more than {MAX_FETCHED}", file.size),
        });
    }
    if release.by_hash {
        let folder = plain.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = format!("{folder}/by-hash/SHA256/{}", file.sha256.hex());
        // A mirror that keeps no by-hash folder although the Release promises
        // one has the index under its name still.
        if let Some(bytes) = read(archive, source, &path, file.size)?
            && differs(&bytes, file).is_none()
        {
            return Ok(bytes);
        }
    }
    let bytes = read(archive, source, &plain, MAX_FETCHED)?;
    let problem = match &bytes {
        Some(bytes) => differs(bytes, file),
        None => Some("it is not there".to_owned()),
    };
    match (bytes, problem) {
        (Some(bytes), None) => Ok(bytes),
        (_, problem) => Err(LockError::Mismatch {
            suite: source.name.clone(),
            path: plain,
            problem: problem.unwrap_or_default(),
        }),
    }
}

fn differs(bytes: &[u8], file: IndexFile) -> Option<String> {
    let length = bytes.len() as u64;
    if length != file.size {
        return Some(format!("{} bytes promised, {length} came", file.size));
    }
    let found = Digest::of(bytes);
    (found != file.sha256).then(|| format!("{} promised, {found} came", file.sha256))
}

fn read(
    archive: &dyn Archive,
    source: &SuiteSource,
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, LockError> {
    archive
        .read(source, path, limit)
        .map_err(|problem| LockError::Archive {
            suite: source.name.clone(),
            path: path.to_owned(),
            problem,
        })
}

/// Fails, rather than ends, when there is more than was promised.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            left: limit.min(MAX_UNPACKED),
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| std::io::Error::other("it unpacks to more than its Release promises"))?;
        Ok(read)
    }
}
