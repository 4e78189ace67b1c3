//! The snapshot of a disk: the blocks that the parent has not, sent several at a time,
//! each once, and read back before anything is made of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ami::{Ami, Casting, DISK, GLANCES, Made, Names, Parent, failed};
use super::blocks::{BlockPlan, Blocks};
use super::journal::Journal;
use super::wait;
use crate::base::Digest;
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::publish::PublishError;
use crate::remote::RemoteError;
use crate::remote::aws::ec2::{self, Snapshot, State, tag};
use crate::remote::aws::{Pace, ebs};

/// Bytes of a block.
pub(super) const UNIT: u64 = ebs::BLOCK as u64;
/// Blocks under way at once, however well it goes.
pub(super) const PARALLEL: usize = 32;
/// How often a snapshot is begun that the service has given up, or somebody deleted.
const BEGINNINGS: u32 = 8;

/// What the EBS direct APIs call a snapshot that is not there, and what breaks a rule.
const GONE: &str = "ResourceNotFoundException";
const INVALID: &str = "ValidationException";

impl Ami<'_> {
    /// The finished snapshot of the disk, checked.
    pub(super) fn snapshot(
        &self,
        casting: &Casting<'_>,
        names: &Names,
        made: &mut Made,
    ) -> Result<String, PublishError> {
        let region = self.target.home();
        let (filter, disk) = (format!("tag:{DISK}"), casting.disk.digest().to_string());
        let look = ec2::describe_snapshots(region, &filter, &disk);
        let known = self.aws.snapshots(&look)?;
        if let Some(ready) = known.iter().find(|known| known.state == State::Ready) {
            // Whoever finished it may have been cut off before it was read back.
            let plan = self.plan(casting, None)?;
            self.check(&plan, &ready.id)?;
            return Ok(ready.id.clone());
        }
        let given_up = known.iter().filter(|s| s.state == State::Failed).count();
        let given_up = u32::try_from(given_up).unwrap_or(u32::MAX - BEGINNINGS);
        let parent = match casting.parent {
            Some(parent) => self.usable(parent, names)?.then_some(parent),
            None => None,
        };
        match self.upload(casting, names, parent, given_up, made) {
            // Encrypted by the account's rule since then, or another reason of the service's
            // not to build on it: the whole disk instead.
            Err(PublishError::Remote(error)) if parent.is_some() && is_about_parent(&error) => {
                self.progress
                    .note(&format!("the service refuses the parent: {error}"));
                self.upload(casting, names, None, given_up, made)
            }
            done => done,
        }
    }

    /// Sends what the parent has not, and finishes the snapshot.
    fn upload(
        &self,
        casting: &Casting<'_>,
        names: &Names,
        parent: Option<&Parent>,
        mut attempt: u32,
        made: &mut Made,
    ) -> Result<String, PublishError> {
        let region = self.target.home();
        let plan = self.plan(casting, parent)?;
        made.blocks = (plan.data.len(), plan.changed.len());
        self.progress.note(&format!(
            "{}: {} of {} to send to {region}{}",
            names.name,
            human(plan.bytes()),
            human(plan.data.len() as u64 * ebs::BLOCK as u64),
            parent.map_or_else(String::new, |p| format!(", the rest is in {}", p.snapshot)),
        ));
        let parent = parent.map(|parent| parent.snapshot.as_str());
        for _ in 0..BEGINNINGS {
            let (call, token) = names.start(region, parent, attempt);
            let id = self.aws.start_snapshot(&call)?;
            let journal = Journal::open(self.store, &token, &id)?;
            let gone = match self.fill(casting, &plan, &id, &journal, &mut made.moved) {
                Ok(()) => {
                    journal.forget();
                    self.check(&plan, &id)?;
                    return Ok(id);
                }
                Err(PublishError::CloudFailed { .. }) => true,
                Err(PublishError::Remote(error)) if error.code() == GONE => {
                    let there = self.look(&id)?;
                    if there.is_some_and(|found| found.state == State::Pending) {
                        // Some server did not know it yet; the next round goes on.
                        continue;
                    }
                    true
                }
                // The service has not what the journal says: all of it once more.
                Err(PublishError::Remote(error))
                    if error.code() == INVALID && !journal.done().is_empty() =>
                {
                    false
                }
                Err(error) => return Err(error),
            };
            // Given up by the service after a long cut, or deleted: the next token begins another.
            attempt += u32::from(gone);
            journal.forget();
        }
        let what = format!("the snapshot of {} in {region}", names.name);
        Err(failed(&what, ""))
    }

    /// Whether a parent is there, finished, of the disk that is said, and not larger.
    fn usable(&self, parent: &Parent, names: &Names) -> Result<bool, PublishError> {
        let look = ec2::describe_snapshots(self.target.home(), "snapshot-id", &parent.snapshot);
        let disk = parent.disk.digest().to_string();
        let fits = |found: &Snapshot| {
            found.id == parent.snapshot
                && found.state == State::Ready
                && found.gib <= names.gib
                && tag(&found.tags, DISK) == Some(&disk)
        };
        Ok(self.aws.snapshots(&look)?.iter().any(fits))
    }

    fn plan(
        &self,
        casting: &Casting<'_>,
        parent: Option<&Parent>,
    ) -> Result<BlockPlan, PublishError> {
        let parent = parent.map(|parent| &parent.disk);
        BlockPlan::new(self.store, (casting.disk, UNIT), parent, self.progress)
            .map_err(|source| unreadable(casting.image.image(), source))
    }

    /// Sends what the service does not have yet, and finishes the snapshot.
    fn fill(
        &self,
        casting: &Casting<'_>,
        plan: &BlockPlan,
        id: &str,
        journal: &Journal,
        moved: &mut u64,
    ) -> Result<(), PublishError> {
        let region = self.target.home();
        let todo: Vec<(u32, Digest)> = plan
            .changed
            .iter()
            .filter(|(index, _)| !journal.done().contains(index))
            .copied()
            .collect();
        let sum = ebs::linear(plan.changed.iter().map(|(_, sum)| sum));
        let complete = ebs::complete_snapshot(region, id, plan.changed.len(), &sum);
        let sent = self.send(casting, &todo, id, journal).and_then(|()| {
            *moved += todo.len() as u64 * ebs::BLOCK as u64;
            Ok(self.aws.complete_snapshot(&complete)?)
        });
        match sent {
            Ok(()) => self.finished(id, super::LOOKS),
            // What a lost answer or another publisher finished takes no more blocks.
            Err(PublishError::Remote(error)) if error.code() == INVALID => {
                match self.finished(id, GLANCES) {
                    Err(PublishError::CloudSlow { .. }) => Err(error.into()),
                    other => other,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A snapshot as it is now.
    fn look(&self, id: &str) -> Result<Option<Snapshot>, PublishError> {
        let look = ec2::describe_snapshots(self.target.home(), "snapshot-id", id);
        Ok(self.aws.snapshots(&look)?.into_iter().next())
    }

    /// Waits until a snapshot is finished.
    fn finished(&self, id: &str, looks: u32) -> Result<(), PublishError> {
        let region = self.target.home();
        let what = format!("snapshot {id} in {region}");
        wait(self.aws.pause(), &what, looks, || {
            match self.look(id)?.map(|found| (found.state, found.message)) {
                Some((State::Ready, _)) => Ok(Some(())),
                Some((State::Failed, message)) => Err(failed(&what, &message)),
                Some((State::Pending, _)) | None => Ok(None),
            }
        })
    }

    /// Reads back which blocks the finished snapshot has: none of the disk's may be missing,
    /// also of those that are the parent's.
    fn check(&self, plan: &BlockPlan, id: &str) -> Result<(), PublishError> {
        let region = self.target.home();
        let there = self.aws.blocks(region, id)?;
        let missing = plan
            .data
            .iter()
            .filter(|index| there.binary_search_by_key(index, |(at, _)| at).is_err())
            .count();
        if missing == 0 {
            return Ok(());
        }
        let what = format!("snapshot {id} in {region}");
        Err(failed(
            &what,
            &format!("it lacks {missing} of the disk's blocks"),
        ))
    }

    /// Sends blocks, several at a time. The first failure ends all.
    fn send(
        &self,
        casting: &Casting<'_>,
        todo: &[(u32, Digest)],
        id: &str,
        journal: &Journal,
    ) -> Result<(), PublishError> {
        let what = format!("send to {id}");
        let bytes = todo.len() as u64 * ebs::BLOCK as u64;
        let task = self.progress.begin(&what, Some(bytes));
        let pace = Pace::new(PARALLEL);
        let begin = || Blocks::new(self.store, casting.disk, UNIT);
        let one = |blocks: &mut Blocks<'_>, (index, sum): &(u32, Digest)| {
            let bytes = blocks
                .read(*index)
                .map_err(|source| unreadable(casting.image.image(), source))?;
            self.send_one(id, (*index, sum), bytes, &pace, journal)?;
            Task::advance(&*task, ebs::BLOCK as u64);
            Ok(())
        };
        let Some((first, rest)) = todo.split_first() else {
            return Ok(());
        };
        // Not every server of the service knows at once of a snapshot that was begun.
        let mut blocks = begin();
        let mut last = None;
        let known = wait(self.aws.pause(), id, GLANCES, || {
            match one(&mut blocks, first) {
                Ok(()) => Ok(Some(())),
                Err(PublishError::Remote(error)) if error.code() == GONE => {
                    last = Some(error);
                    let failed = self.look(id)?.is_some_and(|s| s.state == State::Failed);
                    if failed {
                        return Err(failed_as(last.take()));
                    }
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        match known {
            Ok(()) => each(rest, begin, one),
            Err(PublishError::CloudSlow { .. }) => Err(failed_as(last)),
            Err(error) => Err(error),
        }
    }

    fn send_one(
        &self,
        id: &str,
        (index, sum): (u32, &Digest),
        bytes: &[u8],
        pace: &Pace,
        journal: &Journal,
    ) -> Result<(), PublishError> {
        let call = ebs::put_snapshot_block(self.target.home(), id, index, sum);
        self.aws.put_block(&call, bytes, sum, pace)?;
        Ok(journal.add(index)?)
    }
}

/// What the service said, or that the snapshot came to nothing.
fn failed_as(error: Option<RemoteError>) -> PublishError {
    error.map_or_else(|| failed("the snapshot", ""), PublishError::Remote)
}

/// Whether a snapshot could not be begun, and its parent may be why.
fn is_about_parent(error: &RemoteError) -> bool {
    let begun =
        matches!(error, RemoteError::Service { operation, .. } if *operation == "StartSnapshot");
    begun && [INVALID, GONE, "AccessDeniedException"].contains(&error.code())
}

/// Does `work` on everything, several at a time, each thread with what `begin` makes for
/// it. The first failure ends all.
pub(super) fn each<T: Sync, S>(
    all: &[T],
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<(), PublishError> + Sync,
) -> Result<(), PublishError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let error = Mutex::new(None);
    let thread = || {
        let mut own = begin();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(at) else { return };
            if let Err(failure) = work(&mut own, one) {
                stop.store(true, Ordering::Relaxed);
                let mut error = error.lock().unwrap_or_else(PoisonError::into_inner);
                error.get_or_insert(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(all.len()) {
            scope.spawn(thread);
        }
    });
    let error = error.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

/// A disk that cannot be read; what the store says of it in full.
pub(super) fn unreadable(image: &Digest, source: std::io::Error) -> PublishError {
    match crate::store::StoreError::from_writer(source) {
        Ok(store) => PublishError::Store(store),
        Err(source) => PublishError::Disk {
            image: *image,
            source,
        },
    }
}
