//! From the specification to a lock that fits it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use slipform_init::contract::telemetry::Telemetry;

use super::containers::Containers;
use super::parts::{architecture, part, parts};
use super::{PipelineError, Settings, now, packages, tools};
use crate::base::fs::{At, write_atomic};
use crate::base::{Arch, Digest};
use crate::board::Board;
use crate::layers::LayersError;
use crate::lock::{
    Finding, LocalDeb, LockError, LockFile, LockedInit, LockedLayer, LockedTar, Locks,
    PresentPackage, ResolveOptions, Update, WishedBoard, WishedLayer, WishedSource, WishedTool,
    Wishes, resolve,
};
use crate::spec::{Image, SPEC_FILE, TarRule};
use crate::store::StatCache;
use crate::uki::grub;

/// File name of the lock, beside the specification.
pub const LOCK_FILE: &str = "slipform.lock";

/// PID 1 as built into this command, with TLS or without: a static executable. Arm's is
/// there if the compiler had that target's standard library, and without TLS only.
#[must_use]
pub fn init_binary(arch: Arch, tls: bool) -> Option<&'static [u8]> {
    match (arch, tls) {
        (Arch::X86_64, true) => Some(include_bytes!(concat!(
            env!("OUT_DIR"),
            "/slipform-init-tls"
        ))),
        (Arch::X86_64, false) => Some(include_bytes!(concat!(env!("OUT_DIR"), "/slipform-init"))),
        #[cfg(init_aarch64)]
        (Arch::Aarch64, false) => Some(include_bytes!(concat!(
            env!("OUT_DIR"),
            "/slipform-init-aarch64"
        ))),
        (Arch::Aarch64, _) => None,
    }
}

/// What may happen to the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locking {
    /// It is made when there is none, and mended when the specification has changed.
    IfNeeded,
    /// It must fit as it is.
    AsItIs,
    /// These packages move to their newest versions.
    Update(Vec<String>),
    /// All packages move.
    UpdateAll,
}

/// Where an image's lock lies.
pub(super) fn lock_path(image: &Image) -> PathBuf {
    image.dir.join(LOCK_FILE)
}

impl Settings {
    /// Where an image's lock lies.
    #[must_use]
    pub fn lock_path(&self, image: &Image) -> PathBuf {
        lock_path(image)
    }

    /// The locks as they lie there; `None` if there are none.
    ///
    /// # Errors
    /// [`PipelineError::Lock`] for a file that cannot be read.
    pub fn read_lock(&self, image: &Image) -> Result<Option<Locks>, PipelineError> {
        let path = lock_path(image);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Locks::parse(&text, &path)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", path)?,
        }
    }

    /// A lock for each architecture that fits the specification, resolved and written if
    /// that is called for. Each stands for itself; one that is new starts from the versions
    /// of another.
    ///
    /// # Errors
    /// [`PipelineError::Stale`] under [`Locking::AsItIs`]; [`PipelineError::Lock`]
    /// and [`PipelineError::Source`] when resolving fails.
    pub fn lock(&self, image: &Image, locking: &Locking) -> Result<Locks, PipelineError> {
        let before = self.read_lock(image)?;
        let parts = parts(image)?;
        let mut made = Vec::new();
        for (arch, part) in &parts {
            let own = before.as_ref().and_then(|locks| locks.of(*arch));
            let any = own.or_else(|| before.as_ref()?.parts().next());
            let known = Known { own, any };
            let locking = locking.for_part(*arch, &parts, before.as_ref());
            let lock = self.lock_part(part, known, &locking);
            made.push((*arch, lock.map_err(|error| told_on(error, *arch, &parts))?));
        }
        let fits = made.iter().all(|(_, (_, written))| *written);
        let gone = before.iter().flat_map(Locks::iter);
        let gone = gone.filter(|(arch, _)| !parts.contains_key(arch)).last();
        let locks: Locks = made.into_iter().map(|(arch, (l, _))| (arch, l)).collect();
        match gone {
            None if fits => return Ok(locks),
            Some((_, lock)) if *locking == Locking::AsItIs => {
                let board = lock.boards.first().map_or("", |board| board.name.as_str());
                return Err(stale(
                    image,
                    format!("the lock is stale: it has a board '{board}' that is no longer there"),
                ));
            }
            _ => {}
        }
        self.write_lock(image, &locks)?;
        Ok(locks)
    }

    /// The lock of one architecture, and whether it is in the file as it is.
    fn lock_part(
        &self,
        image: &Image,
        known: Known<'_>,
        locking: &Locking,
    ) -> Result<(LockFile, bool), PipelineError> {
        let own = known.own.map(|lock| &lock.init);
        let this = own_or_locked(init_of(image, architecture(image)?), own, |locked| {
            !needs_tls(image) && self.holds(locked)
        })?;
        let (bases, containers) = {
            let _guard = self.store.shared(&*self.progress)?;
            (
                self.pin_bases(image, known.own, locking)?,
                self.pin_containers(image, known.own, locking)?,
            )
        };
        let wishes = self.wishes(image, &bases, &containers)?;
        let reason = match known.any {
            None => Some("there is no lock".to_owned()),
            Some(lock) => lock.stale(&wishes),
        };
        let update = match locking {
            // Bases and containers have moved by now, and are no packages.
            Locking::Update(names) => Update::Named(
                names
                    .iter()
                    .filter(|name| {
                        !bases.iter().any(|base| base.name == **name)
                            && !containers.contains_key(*name)
                    })
                    .cloned()
                    .collect(),
            ),
            Locking::UpdateAll => Update::All,
            Locking::IfNeeded | Locking::AsItIs => Update::Named(Vec::new()),
        };
        let asked = matches!(locking, Locking::Update(_) | Locking::UpdateAll);
        match (known.any, reason) {
            (Some(lock), None) if !asked => self.with_this_init(image, lock, locking, this),
            (_, Some(reason)) if *locking == Locking::AsItIs => Err(stale(image, reason)),
            (before, _) => {
                let mut lock = self.resolve(&wishes, before, update)?;
                lock.init = this;
                put_bases(&mut lock, bases);
                // What a base says of itself came from elsewhere: it must make a lock that reads.
                let lock = LockFile::parse(&lock.to_toml(), &lock_path(image))?;
                Ok((lock, false))
            }
        }
    }

    /// A lock for tools alone, such as those that tests judge with; nothing is written.
    ///
    /// # Errors
    /// As [`Settings::lock`].
    pub fn lock_tools(
        &self,
        name: &str,
        packages: &[&str],
        keep: Option<&LockFile>,
    ) -> Result<LockFile, PipelineError> {
        let wishes = tool_wishes(name, packages);
        if let Some(lock) = keep.filter(|lock| lock.stale(&wishes).is_none()) {
            return Ok(lock.clone());
        }
        self.resolve(&wishes, None, Update::Named(Vec::new()))
    }

    fn resolve(
        &self,
        wishes: &Wishes,
        keep: Option<&LockFile>,
        update: Update,
    ) -> Result<LockFile, PipelineError> {
        if self.offline {
            return Err(PipelineError::OfflineResolve);
        }
        let mirrors = self.mirrors()?;
        let keys = self.archive_keys()?;
        let mut options = options(keep, update)?;
        options.debian_keys = keys.as_deref();
        options.allow_expired = wishes
            .sources()
            .iter()
            .any(|suite| mirrors.allow_expired(suite));
        Ok(resolve(wishes, &mirrors, &options, &*self.progress)?)
    }

    /// What the archives have that is newer than the lock.
    ///
    /// # Errors
    /// As [`Settings::lock`]; [`PipelineError::Stale`] without a lock.
    pub fn check_lock(&self, image: &Image) -> Result<Vec<Finding>, PipelineError> {
        if self.offline {
            return Err(PipelineError::OfflineResolve);
        }
        let mut found: Vec<Finding> = Vec::new();
        for (arch, lock) in self.lock(image, &Locking::AsItIs)?.iter() {
            let image = &part(image, arch)?;
            let mut newer = self.newer_bases(image, lock)?;
            newer.extend(self.newer_containers(image, lock)?);
            newer.extend(self.findings(lock, &self.lock_wishes(image, lock)?, &self.mirrors()?)?);
            // What is the same for several architectures is said once.
            newer.retain(|finding| !found.contains(finding));
            found.extend(newer);
        }
        Ok(found)
    }

    /// Keys that sign Debian's suites on a mirror that signs them anew; Debian's own otherwise.
    pub(super) fn archive_keys(&self) -> Result<Option<Vec<u8>>, PipelineError> {
        match std::env::var_os("SLIPFORM_ARCHIVE_KEYS").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Some(
                std::fs::read(&path).at("read SLIPFORM_ARCHIVE_KEYS", PathBuf::from(path))?,
            )),
            None => Ok(None),
        }
    }

    /// A lock names the init that it was made with; the command may have another one by now.
    fn with_this_init(
        &self,
        image: &Image,
        lock: &LockFile,
        locking: &Locking,
        init: LockedInit,
    ) -> Result<(LockFile, bool), PipelineError> {
        if lock.init == init {
            return Ok((lock.clone(), true));
        }
        if *locking == Locking::AsItIs {
            let tls = needs_tls(image);
            let others = Arch::ALL.map(|arch| this_init(arch, !tls));
            let reason = if others.contains(&Some(lock.init.clone())) {
                let (has, wants) = if tls {
                    ("no TLS", "it")
                } else {
                    ("TLS", "none")
                };
                format!("its init has {has}, and the receivers of logs and metrics want {wants}")
            } else if self.holds(&lock.init) {
                return Ok((lock.clone(), true));
            } else {
                format!(
                    "it names init {}, which is neither in this command nor in the store",
                    lock.init.sha256.short()
                )
            };
            return Err(stale(image, reason));
        }
        let lock = LockFile {
            init,
            ..lock.clone()
        };
        self.progress.note(&format!(
            "{}: init is now {}",
            lock_path(image).display(),
            lock.init.sha256.short()
        ));
        Ok((lock, false))
    }

    /// Whether a locked init is in the store, or comes from the team's.
    fn holds(&self, init: &LockedInit) -> bool {
        self.store.has(&init.sha256) || self.blob_from_team(&init.sha256, init.size)
    }

    /// The bytes of the init that a lock names: this command's, or an earlier one's from the store.
    pub(super) fn init(&self, lock: &LockFile) -> Result<Vec<u8>, PipelineError> {
        for arch in Arch::ALL {
            for bytes in [false, true].map(|tls| init_binary(arch, tls)) {
                if let Some(bytes) = bytes.filter(|bytes| locked(bytes) == lock.init) {
                    return Ok(bytes.to_vec());
                }
            }
        }
        Ok(self.store.read(&lock.init.sha256)?)
    }

    fn write_lock(&self, image: &Image, lock: &Locks) -> Result<(), PipelineError> {
        let path = lock_path(image);
        write_atomic(&path, lock.to_toml().as_bytes())?;
        self.progress.note(&format!(
            "wrote {} ({} packages)",
            path.display(),
            lock.packages().count()
        ));
        Ok(())
    }

    /// As [`Settings::wishes`], with the bases and containers that a lock pins.
    pub(super) fn lock_wishes(
        &self,
        image: &Image,
        lock: &LockFile,
    ) -> Result<Wishes, PipelineError> {
        let containers = lock.containers();
        let containers = containers.map(|(name, c)| (name.to_owned(), c.clone()));
        self.wishes(image, &lock.layers, &containers.collect())
    }

    /// What resolution reads from the specification and from the pinned `bases` and `containers`.
    fn wishes(
        &self,
        image: &Image,
        bases: &[LockedLayer],
        containers: &Containers,
    ) -> Result<Wishes, PipelineError> {
        let arch = architecture(image)?;
        let boards = image.boards.iter().map(|name| {
            let board = Board::find(name, &image.dir)?;
            Ok(WishedBoard {
                name: board.name,
                kernel: board.kernel,
                stub: board.stub_package,
                bios: board.firmware.has_bios().then(|| grub::PACKAGE.to_owned()),
                firmware: image.kernel.firmware.clone(),
            })
        });
        let apt = image.apt.iter().map(|apt| {
            let key = std::fs::read(&apt.key).at("read", &apt.key)?;
            let mut wished = WishedSource::new(&apt.name, &apt.uri, &apt.suite, key);
            wished.components.clone_from(&apt.components);
            Ok(wished)
        });
        let layers = image.layers.iter().map(|layer| {
            let local = layer.debs.iter().map(|deb| self.local_deb(&image.dir, deb));
            Ok(WishedLayer {
                name: layer.name.clone(),
                packages: layer.packages.clone(),
                without: layer.without.clone(),
                local: local.collect::<Result<_, PipelineError>>()?,
                present: layer
                    .base
                    .as_ref()
                    .map_or_else(Vec::new, |_| present(bases, &layer.name)),
                tar: layer
                    .tar
                    .as_ref()
                    .map(|tar| self.local_tar(tar))
                    .transpose()?,
                oci: containers.get(&layer.name).cloned(),
                base: layer.base.as_ref().map(|base| base.written.clone()),
            })
        });
        Ok(Wishes {
            suite: image.suite.clone(),
            arch: arch.debian().to_owned(),
            tools_arch: if arch == Arch::TOOLS {
                String::new()
            } else {
                Arch::TOOLS.debian().to_owned()
            },
            apt: apt.collect::<Result<_, PipelineError>>()?,
            boards: boards.collect::<Result<_, PipelineError>>()?,
            layers: layers.collect::<Result<_, PipelineError>>()?,
            tools: vec![WishedTool {
                name: tools::EMULATOR.to_owned(),
                packages: tools::emulator_packages(arch)
                    .iter()
                    .map(|p| (*p).to_owned())
                    .collect(),
            }],
        })
    }

    /// An archive of the user's as it is now; it is read only when it was changed.
    fn local_tar(&self, tar: &TarRule) -> Result<LockedTar, PipelineError> {
        let path = tar.path.canonicalize().at("find", &tar.path)?;
        let stats = StatCache::load(&self.store, &format!("tar {}", path.display()));
        let (sha256, size) = stats.digest(&path).map_err(LayersError::from)?;
        stats.save()?;
        Ok(LockedTar {
            path: tar.written.clone(),
            size,
            sha256,
        })
    }

    /// A `.deb` of the user's: into the store, and what its control file says.
    fn local_deb(&self, dir: &Path, deb: &Path) -> Result<LocalDeb, PipelineError> {
        let mut file = std::fs::File::open(deb).at("open", deb)?;
        let mut writer = self.store.writer()?;
        let size = std::io::copy(&mut file, &mut writer).at("read", deb)?;
        let sha256 = writer.finish()?;
        let control = packages::unpack(self, &sha256)?.control;
        let control: String = control
            .iter()
            .map(|(key, value)| format!("{key}: {value}\n"))
            .collect();
        let path = deb
            .strip_prefix(dir)
            .unwrap_or(deb)
            .to_string_lossy()
            .into_owned();
        Ok(LocalDeb {
            path,
            control,
            size,
            sha256,
        })
    }
}

/// The packages of a pinned base.
fn present(bases: &[LockedLayer], layer: &str) -> Vec<PresentPackage> {
    let locked = bases.iter().find(|locked| locked.name == layer);
    let Some((locked, base)) = locked.and_then(|l| Some((l, l.base.as_ref()?))) else {
        return Vec::new();
    };
    let packages = locked.packages.iter().map(|package| PresentPackage {
        name: package.name.clone(),
        version: package.version.clone(),
        provides: base
            .provides
            .get(&package.name)
            .cloned()
            .unwrap_or_default(),
    });
    packages.collect()
}

/// What resolution knows as layers with packages of their own, named as the bases they are.
fn put_bases(lock: &mut LockFile, bases: Vec<LockedLayer>) {
    for base in bases {
        if let Some(layer) = lock.layers.iter_mut().find(|l| l.name == base.name) {
            *layer = base;
        }
    }
}

/// What a set of tools alone is resolved from.
pub(super) fn tool_wishes(name: &str, packages: &[&str]) -> Wishes {
    Wishes {
        suite: "trixie".to_owned(),
        arch: Arch::TOOLS.debian().to_owned(),
        tools: vec![WishedTool {
            name: name.to_owned(),
            packages: packages.iter().map(|p| (*p).to_owned()).collect(),
        }],
        ..Wishes::default()
    }
}

/// This command's init for the image, and why it has none.
fn init_of(image: &Image, arch: Arch) -> Result<LockedInit, PipelineError> {
    let tls = needs_tls(image);
    if let Some(init) = this_init(arch, tls) {
        return Ok(init);
    }
    let arch = arch.name();
    Err(unfit(
        image,
        if tls && this_init(Arch::Aarch64, false).is_some() {
            format!(
                "a receiver of logs or metrics wants TLS, which init for {arch} does not have; send to one without TLS in the machine's own network"
            )
        } else {
            format!(
                "its boards are {arch}, and this slipform was built without init for {arch}; run `rustup target add {arch}-unknown-linux-musl`, then build slipform again"
            )
        },
    ))
}

/// This command's init; where it was built without one for the architecture, the one that
/// is locked, if it is at hand: a release is rebuilt by whoever has its sources.
fn own_or_locked(
    own: Result<LockedInit, PipelineError>,
    locked: Option<&LockedInit>,
    is_at_hand: impl Fn(&LockedInit) -> bool,
) -> Result<LockedInit, PipelineError> {
    match (own, locked) {
        (Err(_), Some(locked)) if is_at_hand(locked) => Ok(locked.clone()),
        (own, _) => own,
    }
}

/// What a lock starts from.
#[derive(Clone, Copy)]
struct Known<'a> {
    /// The lock of the same architecture.
    own: Option<&'a LockFile>,
    /// That, or another architecture's: its versions are kept where the archives have them.
    any: Option<&'a LockFile>,
}

impl Locking {
    /// The same for one of several architectures: names that only others know are not its own.
    fn for_part(&self, arch: Arch, parts: &BTreeMap<Arch, Image>, before: Option<&Locks>) -> Self {
        let (Self::Update(names), Some(before)) = (self, before) else {
            return self.clone();
        };
        let knows = |arch: &Arch, name: &String| {
            let lock = before.of(*arch);
            let layers = parts.get(arch).map_or(&[][..], |part| &part.layers);
            // A kernel may be named as its board names it, which no lock does.
            let mut boards = parts.get(arch).into_iter().flat_map(|part| {
                let boards = part.boards.iter();
                boards.filter_map(|board| Board::find(board, &part.dir).ok())
            });
            lock.is_some_and(|lock| lock.packages().any(|p| p.name == *name))
                || layers.iter().any(|layer| layer.name == *name)
                || boards.any(|board| board.kernel == *name)
        };
        let others = |name: &String| {
            parts
                .keys()
                .any(|other| *other != arch && knows(other, name))
        };
        let own = names
            .iter()
            .filter(|name| knows(&arch, name) || !others(name));
        Self::Update(own.cloned().collect())
    }
}

/// A fault of one of several architectures says of which.
fn told_on(error: PipelineError, arch: Arch, parts: &BTreeMap<Arch, Image>) -> PipelineError {
    match error {
        PipelineError::Lock(LockError::Unsolvable { set, problem }) if parts.len() > 1 => {
            let set = format!("{set} for {}", arch.name());
            LockError::Unsolvable { set, problem }.into()
        }
        error => error,
    }
}

fn stale(image: &Image, reason: String) -> PipelineError {
    PipelineError::Stale {
        lock: lock_path(image),
        dir: image.dir.clone(),
        reason,
    }
}

fn unfit(image: &Image, message: String) -> PipelineError {
    PipelineError::Machine {
        file: image.dir.join(SPEC_FILE),
        message,
    }
}

fn this_init(arch: Arch, tls: bool) -> Option<LockedInit> {
    init_binary(arch, tls).map(locked)
}

fn locked(init: &[u8]) -> LockedInit {
    LockedInit {
        size: init.len() as u64,
        sha256: Digest::of(init),
    }
}

/// Whether the image's init must speak TLS.
pub(super) fn needs_tls(image: &Image) -> bool {
    image.telemetry.as_ref().is_some_and(Telemetry::needs_tls)
}

pub(super) fn options(
    keep: Option<&LockFile>,
    update: Update,
) -> Result<ResolveOptions<'_>, PipelineError> {
    Ok(ResolveOptions {
        // Whoever resolves for an image puts that image's in.
        init: locked(&[]),
        now: now()?,
        allow_expired: false,
        keep,
        update,
        debian_keys: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_init_of_its_own_it_takes_the_locked_one_that_is_at_hand() {
        let none = || Err(PipelineError::Internal("built without".to_owned()));
        let (own, locked) = (locked(b"own"), locked(b"locked"));
        let choose = |own, locked, at_hand| own_or_locked(own, locked, |_| at_hand).ok();
        assert_eq!(choose(none(), Some(&locked), true), Some(locked.clone()));
        assert_eq!(choose(none(), Some(&locked), false), None);
        assert_eq!(choose(none(), None, true), None);
        assert_eq!(choose(Ok(own.clone()), Some(&locked), true), Some(own));
    }
}
