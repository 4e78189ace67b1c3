//! Many blobs: sizes first, then only what is missing, several at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Remote, RemoteError, Upload};
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::base::{Digest, Progress};
use crate::store::{BlobWriter, Descriptor, Store, StoreError};

/// Blobs moved at a time: the network waits more than the processors do.
const PARALLEL: usize = 4;

/// Blobs asked for at a time: an answer is small.
const ASKED: usize = 8;

/// How often a blob is fetched that arrives damaged.
const FETCHES: u32 = 2;

/// A blob to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl From<&Descriptor> for Piece {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            digest: descriptor.digest,
            size: descriptor.size,
        }
    }
}

/// What there is to move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is missing, the largest first, each once.
    pub missing: Vec<Piece>,
    /// How many are there already.
    pub present: usize,
    /// Bytes of those.
    pub present_bytes: u64,
}

impl Plan {
    /// Bytes to move.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.missing.iter().map(|piece| piece.size).sum()
    }

    /// One line for people: `3 blobs, 12.0 MiB to send; 5 blobs, 80.0 MiB are there`.
    #[must_use]
    pub fn line(&self, verb: &str) -> String {
        format!(
            "{}, {} to {verb}; {}, {} there already",
            blobs(self.missing.len()),
            human(self.bytes()),
            blobs(self.present),
            human(self.present_bytes)
        )
    }
}

fn blobs(count: usize) -> String {
    format!("{count} blob{}", if count == 1 { "" } else { "s" })
}

/// Asks which of the blobs a remote lacks; nothing is moved.
///
/// # Errors
/// [`RemoteError`].
pub fn plan_upload(remote: &dyn Remote, pieces: &[Piece]) -> Result<Plan, RemoteError> {
    plan(pieces, &|piece| remote.has_blob(&piece.digest))
}

/// Which of the blobs a store lacks, or has damaged; nothing is moved.
///
/// # Errors
/// [`RemoteError::Store`].
pub fn plan_download(store: &Store, pieces: &[Piece]) -> Result<Plan, RemoteError> {
    plan(pieces, &|piece| {
        let there = store.size(&piece.digest) == Some(piece.size);
        Ok(there && store.check(&piece.digest)?)
    })
}

fn plan(
    pieces: &[Piece],
    has: &(dyn Fn(&Piece) -> Result<bool, RemoteError> + Sync),
) -> Result<Plan, RemoteError> {
    let unique: BTreeMap<Digest, Piece> = pieces.iter().map(|p| (p.digest, *p)).collect();
    let unique: Vec<Piece> = unique.into_values().collect();
    let present = Mutex::new(Vec::new());
    each(&unique, ASKED, &|piece| {
        if has(piece)? {
            let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
            present.push(*piece);
        }
        Ok(())
    })?;
    let mut present = present.into_inner().unwrap_or_else(PoisonError::into_inner);
    present.sort();
    let mut missing: Vec<Piece> = unique
        .into_iter()
        .filter(|piece| present.binary_search(piece).is_err())
        .collect();
    // The largest first, so that it is not what everybody waits for at the end.
    missing.sort_by_key(|piece| (std::cmp::Reverse(piece.size), piece.digest));
    Ok(Plan {
        missing,
        present: present.len(),
        present_bytes: present.iter().map(|piece| piece.size).sum(),
    })
}

/// Sends what a remote lacks of the blobs, from the store, where each is
/// verified first. Says how much that is before anything moves.
///
/// # Errors
/// [`RemoteError::Several`] when more than one could not be sent; the others were.
pub fn upload_all(
    store: &Store,
    remote: &dyn Remote,
    pieces: &[Piece],
    progress: &dyn Progress,
) -> Result<Plan, RemoteError> {
    let plan = plan_upload(remote, pieces)?;
    progress.note(&format!("{}: {}", remote.uri(), plan.line("send")));
    if plan.missing.is_empty() {
        return Ok(plan);
    }
    let task = progress.begin(&format!("send to {}", remote.uri()), Some(plan.bytes()));
    each(&plan.missing, PARALLEL, &|piece| {
        upload_one(store, remote, piece, &*task)
    })?;
    Ok(plan)
}

fn upload_one(
    store: &Store,
    remote: &dyn Remote,
    piece: &Piece,
    task: &dyn Task,
) -> Result<(), RemoteError> {
    use std::io::{Seek, SeekFrom};
    // Verified once here; each attempt then reads from where it must.
    drop(store.open_blob(&piece.digest)?);
    remote.put_blob(&Upload {
        digest: piece.digest,
        size: piece.size,
        open: &|at| {
            let mut file = store
                .open_unverified(&piece.digest)
                .map_err(std::io::Error::other)?;
            file.seek(SeekFrom::Start(at))?;
            Ok(Box::new(file))
        },
        sent: &|count| task.advance(count),
    })
}

/// Fetches what the store lacks of the blobs. Says how much that is before
/// anything moves. What arrives is in the store only if it is what its digest says.
///
/// # Errors
/// [`RemoteError::Several`] when more than one could not be had; the others are
/// in the store.
pub fn download_all(
    remote: &dyn Remote,
    store: &Store,
    pieces: &[Piece],
    progress: &dyn Progress,
) -> Result<Plan, RemoteError> {
    let plan = plan_download(store, pieces)?;
    progress.note(&format!("{}: {}", remote.uri(), plan.line("fetch")));
    if plan.missing.is_empty() {
        return Ok(plan);
    }
    let task = progress.begin(&format!("fetch from {}", remote.uri()), Some(plan.bytes()));
    each(&plan.missing, PARALLEL, &|piece| {
        let mut fetches = 1;
        loop {
            match download_one(remote, store, piece, &*task) {
                // Damage on the way is not damage at the other end.
                Err(RemoteError::Damaged { .. }) if fetches < FETCHES => fetches += 1,
                done => return done,
            }
        }
    })?;
    Ok(plan)
}

fn download_one(
    remote: &dyn Remote,
    store: &Store,
    piece: &Piece,
    task: &dyn Task,
) -> Result<(), RemoteError> {
    let mut sink = Counted {
        writer: store.writer()?,
        task,
    };
    remote.get_blob(&piece.digest, piece.size, &mut sink)?;
    let done = sink.writer.finish_as(&piece.digest, "what arrived");
    match done {
        Err(StoreError::Unexpected {
            what,
            expected,
            found,
        }) => Err(RemoteError::Damaged {
            what,
            uri: remote.uri().to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
        done => Ok(done?),
    }
}

/// Tells how much came.
struct Counted<'a> {
    writer: BlobWriter<'a>,
    task: &'a dyn Task,
}

impl std::io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.task.advance(written as u64);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// Does `work` on every piece, `threads` at a time. What one cannot do does not
/// keep the others from it, unless nobody could: a login, a full disk, a server
/// that is gone.
fn each(
    pieces: &[Piece],
    threads: usize,
    work: &(dyn Fn(&Piece) -> Result<(), RemoteError> + Sync),
) -> Result<(), RemoteError> {
    let next = AtomicUsize::new(0);
    let hopeless = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(pieces.len()) {
            scope.spawn(|| {
                while !hopeless.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(at) else { return };
                    if let Err(error) = work(piece) {
                        if !is_of_one(&error) {
                            hopeless.store(true, Ordering::Relaxed);
                        }
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push((at, error));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|(at, _)| *at);
    let mut errors: Vec<_> = failed.into_iter().map(|(_, error)| error).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(RemoteError::Several(errors)),
    }
}

/// Whether a failure says nothing about other blobs.
fn is_of_one(error: &RemoteError) -> bool {
    matches!(
        error,
        RemoteError::Damaged { .. }
            | RemoteError::Missing { .. }
            | RemoteError::Read { .. }
            | RemoteError::Store(StoreError::Missing(_) | StoreError::Damaged { .. })
    )
}
