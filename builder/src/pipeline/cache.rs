//! A cache shared by many machines: results of steps by the step's key, and fetched
//! packages by their digests. The second machine builds no layer that the first has built.
//!
//! ```text
//! tag step-<key> -> manifest: config = {key, step, outputs}, layers = the outputs' blobs
//! ```
//!
//! Every blob is verified by its digest on arrival. That a step comes to these blobs nobody
//! can see, though: whoever can write to the cache can say that base's key comes to a layer
//! of his own. So a cache serves speed alone. What it said is marked in the store
//! ([`Store::record_from`](crate::store::Store::record_from)); what is attested or published
//! is made of unmarked steps only ([`Settings::prove`] does the marked ones again, here,
//! and the image must stay the same). Only what was made here is ever put into a cache.
//!
//! Shared are the steps that take time: layers, the topmost layer, boot parts. A cache that
//! does not answer, or answers nonsense, is passed by with a note: it never stops a build.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::elsewhere::Team;
use super::{PipelineError, Settings};
use crate::base::Digest;
use crate::base::progress::Quiet;
use crate::lock::LockedPackage;
use crate::remote::{Document, Expect, Piece, RemoteError, download_all, upload_all};
use crate::sources::Blobs;
use crate::store::{
    CAME_FROM, DOCUMENT_LIMIT, Descriptor, MANIFEST, Manifest, Output, Outputs, Step, StepState,
};

/// Type of the manifest of a step.
const STEP_TYPE: &str = "application/vnd.slipform.step.v1+json";
/// Type of its configuration, [`Entry`].
const ENTRY_TYPE: &str = "application/vnd.slipform.step.outputs.v1+json";
const OUTPUT_TYPE: &str = "application/octet-stream";

/// What a machine may do with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheMode {
    /// Only take from it.
    Read,
    /// Also give to it.
    ReadWrite,
}

/// How a cache is used, and what is known of it so far.
#[derive(Debug)]
pub(super) struct CacheUse {
    mode: CacheMode,
    /// Keys that it has.
    has: Mutex<BTreeSet<Digest>>,
}

impl CacheUse {
    pub(super) fn new(mode: CacheMode) -> Self {
        Self {
            mode,
            has: Mutex::default(),
        }
    }
}

/// What a cache says of a step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Digest,
    step: String,
    outputs: Outputs,
}

impl Settings {
    /// What is known of a step, and the cache that says so, if nobody here did it.
    pub(super) fn ask(&self, step: &Step) -> (StepState, Option<String>) {
        match self.store.known_step(step) {
            (StepState::Hit(_), Some(from)) if self.own_only => {
                let changed = vec![format!("{CAME_FROM}{from}")];
                (StepState::Miss { changed }, None)
            }
            known => known,
        }
    }

    /// Returns what `step` made, now or before, here or on another machine; `sound` says
    /// whether what another says can be a result of it at all.
    pub(super) fn shared_step(
        &self,
        step: &Step,
        sound: &dyn Fn(&Outputs) -> Result<(), PipelineError>,
        make: impl FnOnce() -> Result<Outputs, PipelineError>,
    ) -> Result<Outputs, PipelineError> {
        let changed = match self.ask(step) {
            (StepState::Hit(outputs), from) => {
                if from.is_none() {
                    self.to_cache(step, &outputs);
                }
                self.steps.found(step, from);
                return Ok(outputs);
            }
            (StepState::Miss { changed }, _) => changed,
        };
        if let Some((outputs, from)) = self.take_cached(step, sound) {
            self.steps.found(step, Some(from.clone()));
            self.store.record_from(step, &outputs, Some(from))?;
            return Ok(outputs);
        }
        self.steps.missed(step, changed.clone());
        self.may_make(step, changed)?;
        let outputs = make()?;
        self.store.record(step, &outputs)?;
        self.to_cache(step, &outputs);
        Ok(outputs)
    }

    /// What the cache says that a step comes to, its blobs in the store, and the cache's name.
    pub(super) fn take_cached(
        &self,
        step: &Step,
        sound: &dyn Fn(&Outputs) -> Result<(), PipelineError>,
    ) -> Option<(Outputs, String)> {
        if self.own_only {
            return None;
        }
        let (team, _) = self.usable_cache()?;
        let outputs = match self.take(team, step) {
            Ok(outputs) => outputs?,
            Err(error) => {
                self.cache_failed(team, step.name(), &error);
                return None;
            }
        };
        if let Err(error) = sound(&outputs) {
            self.progress.note(&format!(
                "the cache {} has no usable result of '{}': {error}",
                team.name(),
                step.name()
            ));
            return None;
        }
        Some((outputs, team.name().to_owned()))
    }

    fn take(&self, team: &Team, step: &Step) -> Result<Option<Outputs>, RemoteError> {
        let remote = team.remote();
        let Some(document) = remote.tagged(&tag(&step.key()))? else {
            return Ok(None);
        };
        let malformed = |why: &str| RemoteError::Malformed {
            what: format!("the result of '{}'", step.name()),
            uri: remote.uri().to_owned(),
            why: why.to_owned(),
        };
        let manifest = Manifest::parse(&document.bytes)?;
        let config = &manifest.config;
        if manifest.artifact_type.as_deref() != Some(STEP_TYPE) || config.size > DOCUMENT_LIMIT {
            return Err(malformed("it is no step's"));
        }
        let mut bytes = Vec::new();
        remote.get_blob(&config.digest, config.size, &mut bytes)?;
        let entry: Entry =
            serde_json::from_slice(&bytes).map_err(|error| malformed(&error.to_string()))?;
        if entry.key != step.key() || entry.step != step.name() {
            return Err(malformed("it is of another step"));
        }
        let mut pieces = Vec::new();
        for output in entry.outputs.values() {
            if let Output::Blob(digest) = output {
                let named = manifest.layers.iter().find(|part| part.digest == *digest);
                pieces.push(Piece::from(
                    named.ok_or_else(|| malformed("it lacks a blob"))?,
                ));
            }
        }
        download_all(remote, &self.store, &pieces, &Quiet)?;
        Ok(Some(entry.outputs))
    }

    /// Gives the result of a step that was done here to the cache.
    pub(super) fn to_cache(&self, step: &Step, outputs: &Outputs) {
        let Some(team) = self.writable_cache(&step.key()) else {
            return;
        };
        if let Err(error) = self.give(team, step, outputs) {
            self.cache_failed(team, step.name(), &error);
        }
    }

    fn give(&self, team: &Team, step: &Step, outputs: &Outputs) -> Result<(), RemoteError> {
        let remote = team.remote();
        let tag = tag(&step.key());
        if remote.tagged(&tag)?.is_some() {
            return Ok(());
        }
        let entry = Entry {
            key: step.key(),
            step: step.name().to_owned(),
            outputs: outputs.clone(),
        };
        let entry = serde_json::to_vec(&entry).map_err(|error| RemoteError::Malformed {
            what: format!("the result of '{}'", step.name()),
            uri: "this store".to_owned(),
            why: error.to_string(),
        })?;
        let part = |media_type: &str, digest: Digest| {
            let size = self.store.size(&digest).unwrap_or_default();
            Descriptor::new(media_type, digest, size)
        };
        let blobs = outputs.values().filter_map(|output| match output {
            Output::Blob(digest) => Some(*digest),
            Output::Value(_) => None,
        });
        let blobs: BTreeSet<Digest> = blobs.collect();
        let manifest = Manifest::artifact(
            STEP_TYPE,
            part(ENTRY_TYPE, self.store.put(&entry)?),
            blobs.iter().map(|blob| part(OUTPUT_TYPE, *blob)).collect(),
        );
        let parts = manifest.layers.iter().chain([&manifest.config]);
        let pieces: Vec<Piece> = parts.map(Piece::from).collect();
        upload_all(&self.store, remote, &pieces, &Quiet)?;
        let document = Document::new(MANIFEST, manifest.to_bytes()?);
        remote.put_manifest(&document.bytes, &document.media_type)?;
        match remote.set_tag(&tag, &document, Expect::Absent) {
            // Another machine was quicker.
            Err(RemoteError::Conflict { .. }) => Ok(()),
            done => done,
        }
    }

    /// Gives packages of the store to the cache: by their digests, so that every machine
    /// can believe them.
    pub(super) fn inputs_to_cache(&self, packages: &[&LockedPackage]) {
        let pieces: BTreeSet<Piece> = packages
            .iter()
            .map(|package| Piece {
                digest: package.sha256,
                size: package.size,
            })
            .collect();
        let names: String = pieces
            .iter()
            .map(|piece| format!("{}\n", piece.digest))
            .collect();
        if pieces.is_empty() {
            return;
        }
        let Some(team) = self.writable_cache(&Digest::of(&names)) else {
            return;
        };
        let pieces: Vec<Piece> = pieces.into_iter().collect();
        if let Err(error) = self.keep_inputs("packages", names.as_bytes(), team.remote(), &pieces) {
            self.cache_failed(team, "fetched packages", &error);
        }
    }

    /// The cache, if there is one that may be asked.
    fn usable_cache(&self) -> Option<(&Team, &CacheUse)> {
        let (team, used) = self.elsewhere.cache()?;
        let cut_off = self.offline && team.is_network();
        (!cut_off && !team.is_given_up()).then_some((team, used))
    }

    /// The cache, if something with that key is to be given to it: once in a process.
    fn writable_cache(&self, key: &Digest) -> Option<&Team> {
        let (team, used) = self.usable_cache()?;
        let fresh = used.mode == CacheMode::ReadWrite && {
            let mut has = used.has.lock().unwrap_or_else(PoisonError::into_inner);
            has.insert(*key)
        };
        fresh.then_some(team)
    }

    /// Says what went wrong. What is wrong with the whole cache is said once.
    fn cache_failed(&self, team: &Team, what: &str, error: &RemoteError) {
        team.heed(error);
        self.progress.note(&format!(
            "the cache {} is not used for '{what}': {error}",
            team.name()
        ));
    }
}

fn tag(key: &Digest) -> String {
    format!("step-{}", key.hex())
}
