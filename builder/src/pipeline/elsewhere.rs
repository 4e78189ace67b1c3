//! Stores of the team's further away. `fetch --to` copies all that a lock names to one;
//! a build anywhere asks it before any mirror, so that a mirror that has moved on, or is
//! gone, stops nobody.
//!
//! ```text
//! store -> shared cache -> team's stores -> mirror -> snapshot mirror
//! ```
//!
//! Nothing that comes from there is trusted: every blob is what the lock says, or refused.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::cache::{CacheMode, CacheUse};
use super::{PipelineError, Settings, containers};
use crate::base::Digest;
use crate::base::progress::Quiet;
use crate::lock::Locks;
use crate::publish::PublishError;
use crate::remote::{
    self, Document, Expect, Piece, Remote, RemoteError, RemoteOptions, upload_all,
};
use crate::sources::{Blobs, Host};
use crate::spec::Image;
use crate::store::{Descriptor, MANIFEST, Manifest};

/// Type of the manifest that keeps a lock's inputs from being swept.
const INPUTS_TYPE: &str = "application/vnd.slipform.inputs.v1+json";
/// Type of the lock itself in it.
const LOCK_TYPE: &str = "application/vnd.slipform.lock.v1+toml";
const INPUT_TYPE: &str = "application/octet-stream";
/// Most inputs that one manifest names.
const MOST_INPUTS: usize = 5_000;

/// All stores of the team's.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// The cache, then the stores of inputs: they are asked in this order.
    teams: Vec<Team>,
    /// How the first of them is used, if it is a cache.
    pub(super) cache: Option<CacheUse>,
}

impl Elsewhere {
    /// The cache and how it is used.
    pub(super) fn cache(&self) -> Option<(&Team, &CacheUse)> {
        self.teams.first().zip(self.cache.as_ref())
    }
}

/// One store of the team's.
#[derive(Debug)]
pub struct Team {
    remote: Box<dyn Remote>,
    /// It failed in a way that asking again does not mend: nobody waits for it once more.
    given_up: AtomicBool,
}

impl Team {
    fn open(uri: &str, patience: RemoteOptions) -> Result<Self, PipelineError> {
        let remote = remote::open_with(uri, &Host::real(), patience);
        Ok(Self {
            remote: remote.map_err(PublishError::from)?,
            given_up: AtomicBool::new(false),
        })
    }

    pub(super) fn remote(&self) -> &dyn Remote {
        &*self.remote
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Gives it up for this run, unless only one thing in it is wrong.
    pub(super) fn heed(&self, error: &RemoteError) {
        let of_one = matches!(
            error,
            RemoteError::Damaged { .. }
                | RemoteError::Missing { .. }
                | RemoteError::Malformed { .. }
                | RemoteError::Several(_)
        );
        if !of_one {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }
}

/// A cache is there to save time: nobody waits long for it.
fn impatient() -> RemoteOptions {
    RemoteOptions {
        connect: Duration::from_secs(5),
        read: Duration::from_secs(20),
        retries: 1,
        backoff: Duration::from_millis(200),
        ..RemoteOptions::default()
    }
}

impl Blobs for Team {
    fn name(&self) -> &str {
        self.remote.uri()
    }

    fn is_network(&self) -> bool {
        super::publishing::is_network(self.remote.uri())
    }

    fn get(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<bool, String> {
        if self.is_given_up() {
            return Ok(false);
        }
        match self.remote.get_blob(digest, size, sink) {
            Ok(()) => Ok(true),
            Err(RemoteError::Missing { .. }) => Ok(false),
            Err(error) => {
                self.heed(&error);
                Err(error.to_string())
            }
        }
    }
}

/// What copying a lock's inputs came to.
#[derive(Debug, Clone, Serialize)]
pub struct Copied {
    /// Where to.
    pub remote: String,
    /// Inputs that are there now.
    pub inputs: usize,
    /// Those that moved.
    pub moved: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Settings {
    /// Asks these stores of the team's before any mirror, in this order; before them a
    /// cache, which also has results of steps.
    ///
    /// # Errors
    /// [`PipelineError::Publish`] for a URI that names no remote.
    pub fn with_elsewhere(
        mut self,
        sources: &[String],
        cache: Option<(&str, CacheMode)>,
    ) -> Result<Self, PipelineError> {
        let caches = cache.iter().map(|(uri, _)| Team::open(uri, impatient()));
        let sources = sources
            .iter()
            .map(|uri| Team::open(uri, RemoteOptions::default()));
        self.elsewhere = Elsewhere {
            teams: caches
                .chain(sources)
                .collect::<Result<_, PipelineError>>()?,
            cache: cache.map(|(_, mode)| CacheUse::new(mode)),
        }
        .into();
        Ok(self)
    }

    /// The team's stores that may be asked now.
    pub(super) fn teams(&self) -> impl Iterator<Item = &Team> {
        let teams = self.elsewhere.teams.iter();
        teams.filter(|team| !self.offline || !team.is_network())
    }

    /// Everything that the lock names, and init, from the store to a remote; only what is
    /// missing there moves. All of it is in the store before.
    ///
    /// # Errors
    /// [`PipelineError::Publish`]; running it again goes on.
    pub fn copy_inputs(
        &self,
        image: &Image,
        locks: &Locks,
        remote: &dyn Remote,
    ) -> Result<Copied, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let mut pieces = Vec::new();
        for lock in locks.parts() {
            self.store.put(&self.init(lock)?)?;
            let packages = lock.packages().map(|package| Piece {
                digest: package.sha256,
                size: package.size,
            });
            let tars = lock.tars().map(|(_, tar)| Piece {
                digest: tar.sha256,
                size: tar.size,
            });
            let init = Piece {
                digest: lock.init.sha256,
                size: lock.init.size,
            };
            pieces.extend(packages.chain(tars).chain([init]));
            pieces.extend(lock.containers().flat_map(|(_, c)| containers::pieces(c)));
            pieces.extend(self.base_blobs(lock)?);
        }
        pieces.sort();
        pieces.dedup();
        let plan = upload_all(&self.store, remote, &pieces, &*self.progress)
            .map_err(PublishError::from)?;
        let text = locks.to_toml();
        self.keep_inputs(&image.name, text.as_bytes(), remote, &pieces)
            .map_err(PublishError::from)?;
        Ok(Copied {
            remote: remote.uri().to_owned(),
            inputs: pieces.len(),
            moved: plan.missing.len(),
            bytes: plan.bytes(),
        })
    }

    /// A registry sweeps blobs that no manifest names: here are some, by tags.
    /// Each is named by its own digest: what one runner kept, no other takes away.
    pub(super) fn keep_inputs(
        &self,
        title: &str,
        what: &[u8],
        remote: &dyn Remote,
        pieces: &[Piece],
    ) -> Result<(), RemoteError> {
        let config = Descriptor::new(LOCK_TYPE, self.store.put(what)?, what.len() as u64);
        for part in pieces.chunks(MOST_INPUTS) {
            let parts = part
                .iter()
                .map(|piece| Descriptor::new(INPUT_TYPE, piece.digest, piece.size));
            let mut manifest = Manifest::artifact(INPUTS_TYPE, config.clone(), parts.collect());
            let key = "org.opencontainers.image.title".to_owned();
            manifest.annotations.insert(key, title.to_owned());
            let document = Document::new(MANIFEST, manifest.to_bytes()?);
            let tag = format!("inputs-{}", document.digest.short());
            if remote.tagged(&tag)?.map(|there| there.digest) == Some(document.digest) {
                continue;
            }
            let all: Vec<Piece> = part.iter().copied().chain([Piece::from(&config)]).collect();
            upload_all(&self.store, remote, &all, &Quiet)?;
            remote.put_manifest(&document.bytes, &document.media_type)?;
            remote.set_tag(&tag, &document, Expect::Any)?;
        }
        Ok(())
    }

    /// Brings a blob from one of the team's stores; whether one had it.
    pub(super) fn blob_from_team(&self, digest: &Digest, size: u64) -> bool {
        self.teams().any(|team| {
            let brought = crate::publish::fetch_blob(&self.store, team.remote(), digest, size);
            brought.is_ok()
        })
    }
}
