//! The record of steps done: each is keyed by the digest of all that it read.
//!
//! A record is a file `steps/<key>` of two lines: the digest of the second, and
//! a JSON object. One that is torn, damaged or older than this format is a
//! miss, never an error: a step can always be done again. `subjects/<digest>`
//! remembers, in the same form, the inputs of the last run of each subject, so
//! that a miss can say what changed. Neither is synced to the disk: their own
//! digests tell whether they are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::base::Digest;

/// Version of the format; another one makes every record a miss.
const VERSION: u32 = 1;

/// How the reason of a miss begins whose result nobody here has made.
pub const CAME_FROM: &str = "came from the cache ";

/// Largest record that is read, in bytes.
const RECORD_LIMIT: u64 = 16 * 1024 * 1024;

/// A step of a build and all that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    name: String,
    subject: String,
    inputs: Vec<(String, Digest)>,
}

impl Step {
    /// A step without inputs yet. `name` is what is done and its version
    /// (`layer`, `verity 2`) and enters the key; `subject` is what it is done
    /// to (`base of <folder>`) and is only for people.
    #[must_use]
    pub fn new(name: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subject: subject.into(),
            inputs: Vec::new(),
        }
    }

    /// Adds an input by the digest of its content.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, digest: Digest) -> Self {
        self.inputs.push((name.into(), digest));
        self
    }

    /// Adds a short input by its value.
    #[must_use]
    pub fn value(self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        let digest = Digest::of(value);
        self.input(name, digest)
    }

    /// What is done.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is done to.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The inputs, in the order in which they were added.
    #[must_use]
    pub fn inputs(&self) -> &[(String, Digest)] {
        &self.inputs
    }

    /// The key: the digest of name and inputs, each with its length before it,
    /// so that no two lists run into the same bytes.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut bytes = b"slipform step 1\0".to_vec();
        let mut add = |part: &[u8]| {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        };
        add(self.name.as_bytes());
        for (name, digest) in &self.inputs {
            add(name.as_bytes());
            add(digest.as_bytes());
        }
        Digest::of(bytes)
    }

    fn subject_key(&self) -> Digest {
        Digest::of(format!("{}\0{}", self.name, self.subject))
    }
}

/// One result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// A blob in the store.
    Blob(Digest),
    /// A small value.
    Value(serde_json::Value),
}

/// The named results of a step.
pub type Outputs = BTreeMap<String, Output>;

/// What the store knows of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// It was done with these very inputs, and its outputs are there.
    Hit(Outputs),
    /// It must be done.
    Miss {
        /// Why, for people: names of inputs that differ from the last run of
        /// the subject, or `first time`, or `output missing: <name>`.
        changed: Vec<String>,
    },
}

/// A step as `--explain` and `--json` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepEvent {
    /// What was done.
    pub step: String,
    /// To what.
    pub subject: String,
    /// Whether the result was there.
    pub hit: bool,
    /// The cache that it came from, if it was not made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// For a miss: why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

impl std::fmt::Display for StepEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = match (self.hit, &self.from) {
            (true, None) => "hit ",
            (true, Some(_)) => "hit (cache)",
            (false, _) => "miss",
        };
        write!(f, "{outcome} {} {}", self.step, self.subject)?;
        if !self.changed.is_empty() {
            write!(f, ": {}", self.changed.join(", "))?;
        }
        Ok(())
    }
}

/// Collects the steps of a build, in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct StepLog(Mutex<Vec<StepEvent>>);

impl StepLog {
    /// What was collected so far.
    #[must_use]
    pub fn events(&self) -> Vec<StepEvent> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes down a step that must be done, when who asks knows better why.
    pub fn missed(&self, step: &Step, changed: Vec<String>) {
        self.add(step, &StepState::Miss { changed });
    }

    /// Writes down a step whose result is there, and which cache it came from, if any.
    pub fn found(&self, step: &Step, from: Option<String>) {
        self.push(step, true, Vec::new(), from);
    }

    /// Forgets all: the build begins again.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn add(&self, step: &Step, state: &StepState) {
        let (hit, changed) = match state {
            StepState::Hit(_) => (true, Vec::new()),
            StepState::Miss { changed } => (false, changed.clone()),
        };
        self.push(step, hit, changed, None);
    }

    fn push(&self, step: &Step, hit: bool, changed: Vec<String>, from: Option<String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(StepEvent {
                step: step.name.clone(),
                subject: step.subject.clone(),
                hit,
                from,
                changed,
            });
    }
}

/// A record of a step done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepRecord {
    version: u32,
    key: Digest,
    step: String,
    pub(super) outputs: Outputs,
    /// The record is kept only as long as this blob is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beside: Option<Digest>,
    /// The cache that said so: nobody here did the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

/// The last run of a subject.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectRecord {
    version: u32,
    step: String,
    subject: String,
    inputs: Vec<(String, Digest)>,
}

impl Store {
    /// Asks whether a step was done before, here, and writes the answer into `log`.
    #[must_use]
    pub fn step(&self, step: &Step, log: &StepLog) -> StepState {
        let state = self.own_step(step);
        log.add(step, &state);
        state
    }

    /// Asks whether a step was done here: what a cache said of it does not count.
    #[must_use]
    pub fn own_step(&self, step: &Step) -> StepState {
        match self.known_step(step) {
            (StepState::Hit(_), Some(from)) => StepState::Miss {
                changed: vec![format!("{CAME_FROM}{from}")],
            },
            (state, _) => state,
        }
    }

    /// Asks whether a step was done, by whomever: the second value is the cache that said
    /// so ([`Store::record_from`]).
    #[must_use]
    pub fn known_step(&self, step: &Step) -> (StepState, Option<String>) {
        let (state, from) = self.step_state(step);
        if let StepState::Hit(outputs) = &state {
            self.use_blobs(outputs);
            // Its inputs are now the last ones of the subject. Without this
            // record only --explain is poorer.
            let _ = self.record_subject(step);
        }
        (state, from)
    }

    /// Records what a step made.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when an output blob is not in the store,
    /// [`StoreError::Fs`], [`StoreError::Full`].
    pub fn record(&self, step: &Step, outputs: &Outputs) -> Result<(), StoreError> {
        self.record_as(step, outputs, None, None)
    }

    /// As [`Store::record`], of something that only the cache `from` says: [`Store::step`]
    /// does not believe it, and whoever does the step here replaces it.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn record_from(
        &self,
        step: &Step,
        outputs: &Outputs,
        from: Option<String>,
    ) -> Result<(), StoreError> {
        self.record_as(step, outputs, None, from)
    }

    /// As [`Store::record`], of something said of `subject`: collecting drops the record
    /// when nothing keeps that any more.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn record_beside(
        &self,
        step: &Step,
        outputs: &Outputs,
        subject: &Digest,
    ) -> Result<(), StoreError> {
        self.record_as(step, outputs, Some(*subject), None)
    }

    /// The results of all steps that this process found or recorded: with them a
    /// project's next build does only what has changed. Whoever keeps a project puts
    /// them into its root.
    #[must_use]
    pub fn used(&self) -> BTreeSet<Digest> {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn use_blobs(&self, outputs: &Outputs) {
        let blobs = outputs.values().filter_map(|output| match output {
            Output::Blob(digest) => Some(*digest),
            Output::Value(_) => None,
        });
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(blobs);
    }

    fn record_as(
        &self,
        step: &Step,
        outputs: &Outputs,
        beside: Option<Digest>,
        from: Option<String>,
    ) -> Result<(), StoreError> {
        for output in outputs.values() {
            if let Output::Blob(digest) = output
                && !self.has(digest)
            {
                return Err(StoreError::Missing(*digest));
            }
        }
        let key = step.key();
        let record = StepRecord {
            version: VERSION,
            key,
            step: step.name.clone(),
            outputs: outputs.clone(),
            beside,
            from,
        };
        self.write_record(&self.step_path(&key), &record)?;
        self.use_blobs(outputs);
        self.record_subject(step)
    }

    fn step_state(&self, step: &Step) -> (StepState, Option<String>) {
        let key = step.key();
        let record: Option<StepRecord> = read_record(&self.step_path(&key));
        let missing = |record: &StepRecord| {
            record
                .outputs
                .iter()
                .find_map(|(name, output)| match output {
                    Output::Blob(digest) if !self.has(digest) => {
                        Some(format!("output missing: {name}"))
                    }
                    _ => None,
                })
        };
        match record.filter(|r| r.version == VERSION && r.key == key) {
            Some(record) => match missing(&record) {
                None => (StepState::Hit(record.outputs), record.from),
                Some(why) => (StepState::Miss { changed: vec![why] }, None),
            },
            None => {
                let changed = self.changed(step);
                (StepState::Miss { changed }, None)
            }
        }
    }

    fn changed(&self, step: &Step) -> Vec<String> {
        let last: Option<SubjectRecord> = read_record(&self.subject_path(step));
        let Some(last) = last.filter(|r| r.version == VERSION) else {
            return vec!["first time".to_owned()];
        };
        let old: BTreeMap<_, _> = last.inputs.iter().map(|(n, d)| (n, d)).collect();
        let new: BTreeMap<_, _> = step.inputs.iter().map(|(n, d)| (n, d)).collect();
        let mut changed = Vec::new();
        for (name, digest) in &new {
            match old.get(name) {
                Some(before) if before == digest => {}
                Some(_) => changed.push((*name).clone()),
                None => changed.push(format!("{name} (new)")),
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            changed.push(format!("{name} (gone)"));
        }
        if changed.is_empty() {
            let same = last.inputs == step.inputs;
            changed.push(
                if same {
                    "record missing"
                } else {
                    "order of inputs"
                }
                .to_owned(),
            );
        }
        changed
    }

    fn record_subject(&self, step: &Step) -> Result<(), StoreError> {
        let path = self.subject_path(step);
        let record = SubjectRecord {
            version: VERSION,
            step: step.name.clone(),
            subject: step.subject.clone(),
            inputs: step.inputs.clone(),
        };
        if read_record::<SubjectRecord>(&path).as_ref() == Some(&record) {
            return Ok(());
        }
        self.write_record(&path, &record)
    }

    fn write_record(&self, path: &Path, record: &impl Serialize) -> Result<(), StoreError> {
        let json = serde_json::to_string(record).map_err(|error| StoreError::Malformed {
            what: "a step's record".to_owned(),
            why: error.to_string(),
        })?;
        let bytes = format!("{}\n{json}\n", Digest::of(&json));
        self.replace(path, bytes.as_bytes(), false)
    }

    fn step_path(&self, key: &Digest) -> PathBuf {
        self.root().join("steps").join(key.hex())
    }

    fn subject_path(&self, step: &Step) -> PathBuf {
        self.root().join("subjects").join(step.subject_key().hex())
    }
}

/// A record that is whole; `None` for one that is missing, torn or damaged.
pub(super) fn read_record<T: DeserializeOwned>(path: &Path) -> Option<T> {
    if fs::metadata(path).ok()?.len() > RECORD_LIMIT {
        return None;
    }
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(RECORD_LIMIT)
        .read_to_string(&mut text)
        .ok()?;
    let (digest, json) = text.strip_suffix('\n')?.split_once('\n')?;
    (digest.parse::<Digest>().ok()? == Digest::of(json)).then_some(())?;
    serde_json::from_str(json).ok()
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
