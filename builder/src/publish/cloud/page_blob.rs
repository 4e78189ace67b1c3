//! A disk as a page blob of Azure: a fixed VHD, of which only pages that are not zero are
//! sent; on the last release's blob, copied by the service itself, only those that changed.
//!
//! The blob says of itself what it is to become, and last of all that it is that: a run that
//! was cut off is found by its name and goes on from the pages that are there.

use std::collections::BTreeMap;

use super::ami::{Casting, Made, failed, plain_name};
use super::blocks::{BlockPlan, Blocks};
use super::dry::{CloudCall, DryRun};
use super::snapshot::{PARALLEL, each, unreadable};
use super::target::AzureTarget;
use super::{AZURE, LOOKS, Parent, wait};
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::base::{MIB, Progress};
use crate::channel::CloudImage;
use crate::publish::PublishError;
use crate::remote::aws::Pace;
use crate::remote::azure::pages::{self, MOST};
use crate::remote::azure::{Blob, PageBlobs, PageCall};
use crate::store::Store;

/// Bytes that are compared at a time.
pub(super) const UNIT: u64 = 64 * 1024;
/// Bytes of a VHD's footer.
pub const FOOTER: usize = 512;
/// Largest disk: what Azure and Hyper-V attach.
const LARGEST: u64 = 2040 << 30;
/// How often a blob is begun that was in the way.
const BEGINNINGS: u32 = 3;

/// Names of metadata.
pub(super) const IMAGE: &str = "slipformimage";
const DISK: &str = "slipformdisk";
const PARENT: &str = "slipformparent";
const STATE: &str = "slipformstate";
/// The blob is what it says.
const COMPLETE: &str = "complete";

/// Makes page blobs.
#[derive(Debug)]
pub struct PageBlob<'a> {
    /// Where the disk is.
    pub store: &'a Store,
    /// The container.
    pub blobs: &'a PageBlobs,
    /// Its name.
    pub target: &'a AzureTarget,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// A run of bytes to write, or to make zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    at: u64,
    length: u64,
    zero: bool,
}

/// The names of a blob on its way.
struct Names {
    blob: String,
    size: u64,
    metadata: BTreeMap<&'static str, String>,
}

impl Names {
    fn of(casting: &Casting<'_>, parent: Option<&Parent>) -> Result<Self, PublishError> {
        let image = *casting.image.image();
        let disk = casting.disk;
        let fits = disk.sector_size == 512
            && disk.size.is_multiple_of(MIB)
            && (MIB..=LARGEST).contains(&disk.size);
        if !fits {
            return Err(PublishError::Unfit {
                image,
                why: format!(
                    "its disk has {} bytes in sectors of {}, Azure takes whole MiB up to 2040 GiB in sectors of 512; choose a board with disk-multiple = \"1MiB\" and sector-size = 512",
                    disk.size, disk.sector_size
                ),
            });
        }
        let parent = parent.map_or_else(|| "none".to_owned(), |p| p.disk.digest().to_string());
        Ok(Self {
            blob: format!("{}.vhd", plain_name(casting)),
            size: disk.size + FOOTER as u64,
            metadata: BTreeMap::from([
                (IMAGE, image.to_string()),
                (DISK, disk.digest().to_string()),
                (PARENT, parent),
                (STATE, "open".to_owned()),
            ]),
        })
    }

    fn said(&self) -> Vec<(&'static str, String)> {
        let said = self.metadata.iter();
        said.map(|(name, value)| (*name, value.clone())).collect()
    }

    fn create(&self) -> PageCall {
        pages::create(&self.blob, self.size, &self.said())
    }

    fn finish(&self) -> PageCall {
        let mut said = self.said();
        said.retain(|(name, _)| *name != STATE);
        said.push((STATE, COMPLETE.to_owned()));
        pages::describe(&self.blob, &said)
    }

    /// Whether a blob says that it is this one.
    fn is(&self, blob: &Blob, name: &str) -> bool {
        blob.metadata.get(name) == self.metadata.get(name)
    }
}

impl PageBlob<'_> {
    /// Makes the blob, or finds it. `footer` is the VHD's.
    ///
    /// # Errors
    /// [`PublishError`]; doing it again goes on.
    pub fn make(&self, casting: &Casting<'_>, footer: &[u8; FOOTER]) -> Result<Made, PublishError> {
        let parent = match casting.parent {
            Some(parent) => self.usable(casting, parent)?.then_some(parent),
            None => None,
        };
        let names = Names::of(casting, parent)?;
        let mut made = Made {
            images: vec![self.image(casting, &names)],
            moved: 0,
            blocks: (0, 0),
        };
        for _ in 0..BEGINNINGS {
            match self.blobs.look(&names.blob)? {
                Some(there) if !names.is(&there, IMAGE) => return Err(self.taken(casting, &names)),
                Some(there) if complete(&there) && there.size == names.size => return Ok(made),
                Some(there) if names.is(&there, PARENT) && there.size == names.size => {
                    self.copied(&names)?;
                    self.fill(casting, &names, parent, footer, &mut made)?;
                    self.blobs.change(&names.finish())?;
                    return Ok(made);
                }
                // Begun on another parent, or of another size: once more from the beginning.
                Some(_) => self.blobs.remove(&names.blob)?,
                None => {
                    let begin = match parent {
                        Some(parent) => {
                            let from = &parent.snapshot;
                            self.blobs.copy_of(from, &names.blob, &names.said())
                        }
                        None => names.create(),
                    };
                    self.blobs.prepare()?;
                    // Somebody else's is found in the next round.
                    self.blobs.begin(&begin)?;
                }
            }
        }
        Err(failed(
            &format!("blob {} in {}", names.blob, self.target),
            "",
        ))
    }

    fn image(&self, casting: &Casting<'_>, names: &Names) -> CloudImage {
        CloudImage {
            provider: AZURE.to_owned(),
            region: self.target.account.clone(),
            board: casting.image.board().to_owned(),
            arch: if casting.arch == "aarch64" {
                "Arm64"
            } else {
                "x64"
            }
            .to_owned(),
            id: self.blobs.address(&names.blob),
            snapshot: Some(names.blob.clone()),
        }
    }

    fn taken(&self, casting: &Casting<'_>, names: &Names) -> PublishError {
        PublishError::CloudName {
            name: names.blob.clone(),
            region: self.target.to_string(),
            id: "another blob".to_owned(),
            image: *casting.image.image(),
        }
    }

    /// Whether a parent is there, whole, of the disk that is said, and as large.
    fn usable(&self, casting: &Casting<'_>, parent: &Parent) -> Result<bool, PublishError> {
        let disk = parent.disk.digest().to_string();
        let there = self.blobs.look(&parent.snapshot)?;
        Ok(parent.disk.size == casting.disk.size
            && there
                .is_some_and(|there| complete(&there) && there.metadata.get(DISK) == Some(&disk)))
    }

    /// Waits until the service has copied the parent, if the blob is a copy.
    fn copied(&self, names: &Names) -> Result<(), PublishError> {
        let what = format!("the copy {} in {}", names.blob, self.target);
        wait(self.blobs.pause(), &what, LOOKS, || {
            let there = self.blobs.look(&names.blob)?;
            match there.and_then(|there| there.copy).as_deref() {
                None | Some("success") => Ok(Some(())),
                Some("pending") => Ok(None),
                Some(other) => Err(failed(&what, other)),
            }
        })
    }

    /// Sends what is not there yet, the footer last.
    fn fill(
        &self,
        casting: &Casting<'_>,
        names: &Names,
        parent: Option<&Parent>,
        footer: &[u8; FOOTER],
        made: &mut Made,
    ) -> Result<(), PublishError> {
        let disk = casting.disk;
        let below = parent.map(|parent| &parent.disk);
        let plan = BlockPlan::new(self.store, (disk, UNIT), below, self.progress)
            .map_err(|source| unreadable(casting.image.image(), source))?;
        made.blocks = (plan.data.len(), plan.changed.len());
        let mut todo = runs(&plan);
        if parent.is_none() {
            // Pages of a blob that began as zeros are written whole or not at all.
            let there = self.blobs.ranges(&names.blob)?;
            todo.retain(|run| !covers(&there, run.at, run.length));
        }
        let bytes: u64 = todo
            .iter()
            .filter(|run| !run.zero)
            .map(|run| run.length)
            .sum();
        self.progress.note(&format!(
            "{}: {} of {} to send to {}",
            names.blob,
            human(bytes),
            human(plan.data.len() as u64 * UNIT),
            self.target
        ));
        let task = self
            .progress
            .begin(&format!("send {}", names.blob), Some(bytes));
        let pace = Pace::new(PARALLEL);
        let begin = || Blocks::new(self.store, disk, UNIT);
        each(&todo, begin, |blocks, run| {
            if run.zero {
                let clear = pages::clear(&names.blob, run.at, run.length);
                return Ok(self.blobs.send(&clear, &[], &pace)?);
            }
            let bytes =
                read(blocks, run).map_err(|source| unreadable(casting.image.image(), source))?;
            let write = pages::write(&names.blob, run.at, &bytes);
            self.blobs.send(&write, &bytes, &pace)?;
            Task::advance(&*task, run.length);
            Ok(())
        })?;
        made.moved += bytes;
        let last = pages::write(&names.blob, disk.size, footer);
        self.blobs.send(&last, footer, &pace)?;
        self.check(names, &plan)
    }

    /// Reads back which pages there are: none of the disk's may be missing.
    fn check(&self, names: &Names, plan: &BlockPlan) -> Result<(), PublishError> {
        let there = self.blobs.ranges(&names.blob)?;
        let missing = plan
            .data
            .iter()
            .find(|index| !touches(&there, u64::from(**index) * UNIT, UNIT));
        match missing {
            None => Ok(()),
            Some(index) => Err(failed(
                &format!("blob {} in {}", names.blob, self.target),
                &format!("it lacks the pages at {}", u64::from(*index) * UNIT),
            )),
        }
    }

    /// All calls of [`PageBlob::make`] where nothing is there yet: lines for people.
    ///
    /// # Errors
    /// [`PublishError`] for a disk that cannot be read, or is none for Azure.
    pub fn dry_run(
        &self,
        casting: &Casting<'_>,
        footer: &[u8; FOOTER],
    ) -> Result<DryRun, PublishError> {
        let names = Names::of(casting, casting.parent)?;
        let below = casting.parent.map(|parent| &parent.disk);
        let unreadable = |source| unreadable(casting.image.image(), source);
        let plan = BlockPlan::new(self.store, (casting.disk, UNIT), below, self.progress)
            .map_err(unreadable)?;
        let mut calls = vec![pages::look(&names.blob), pages::container()];
        calls.push(match casting.parent {
            Some(parent) => {
                let from = self.blobs.address(&parent.snapshot);
                pages::copy(&from, &names.blob, &names.said())
            }
            None => names.create(),
        });
        let mut blocks = Blocks::new(self.store, casting.disk, UNIT);
        let mut bytes = 0;
        for run in runs(&plan) {
            if run.zero {
                calls.push(pages::clear(&names.blob, run.at, run.length));
                continue;
            }
            bytes += run.length;
            let content = read(&mut blocks, &run).map_err(unreadable)?;
            calls.push(pages::write(&names.blob, run.at, &content));
        }
        calls.push(pages::write(&names.blob, casting.disk.size, footer));
        calls.push(pages::list(&names.blob));
        calls.push(names.finish());
        let calls = calls.iter().map(|call| CloudCall::Line(call.to_string()));
        Ok(DryRun {
            blocks: plan.data.len(),
            bytes,
            calls: calls.collect(),
        })
    }
}

pub(super) fn complete(blob: &Blob) -> bool {
    blob.metadata
        .get(STATE)
        .is_some_and(|state| state == COMPLETE)
}

/// The changed blocks as runs, as long as one request may be.
fn runs(plan: &BlockPlan) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for (index, _) in &plan.changed {
        let at = u64::from(*index) * UNIT;
        let zero = plan.data.binary_search(index).is_err();
        match all.last_mut() {
            Some(run)
                if run.at + run.length == at && run.zero == zero && run.length + UNIT <= MOST =>
            {
                run.length += UNIT;
            }
            _ => all.push(Run {
                at,
                length: UNIT,
                zero,
            }),
        }
    }
    all
}

fn read(blocks: &mut Blocks<'_>, run: &Run) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for at in (run.at..run.at + run.length).step_by(usize::try_from(UNIT).unwrap_or(1)) {
        let index = u32::try_from(at / UNIT).unwrap_or(u32::MAX);
        bytes.extend_from_slice(blocks.read(index)?);
    }
    Ok(bytes)
}

/// Whether sorted ranges (first and last byte) that meet cover all of a run.
fn covers(ranges: &[(u64, u64)], at: u64, length: u64) -> bool {
    let mut next = at;
    for (start, end) in ranges.iter().filter(|(_, end)| *end >= at) {
        if *start > next {
            return false;
        }
        next = end + 1;
        if next >= at + length {
            return true;
        }
    }
    false
}

/// Whether a range has a byte of a run.
fn touches(ranges: &[(u64, u64)], at: u64, length: u64) -> bool {
    let first = ranges.partition_point(|(_, end)| *end < at);
    ranges
        .get(first)
        .is_some_and(|(start, _)| *start < at + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn runs_are_as_long_as_a_request_and_of_one_kind() {
        let block = |index| (index, Digest::of("x"));
        let plan = BlockPlan {
            unit: UNIT,
            data: (0..70).collect(),
            changed: (0..66).chain([68, 70, 71]).map(block).collect(),
        };
        let found = runs(&plan);
        let run = |at: u64, length: u64, zero| Run {
            at: at * UNIT,
            length: length * UNIT,
            zero,
        };
        assert_eq!(
            found,
            [
                run(0, 64, false),
                run(64, 2, false),
                run(68, 1, false),
                run(70, 2, true)
            ]
        );
    }

    #[test]
    fn ranges_cover_when_they_meet() {
        let ranges = [(0, 511), (512, 1023), (2048, 4095)];
        assert!(covers(&ranges, 0, 1024) && covers(&ranges, 100, 900));
        assert!(!covers(&ranges, 0, 1025) && !covers(&ranges, 1024, 10) && !covers(&[], 0, 1));
        assert!(touches(&ranges, 1000, 100) && touches(&ranges, 2000, 49));
        assert!(!touches(&ranges, 1024, 1024) && !touches(&ranges, 4096, 1));
    }
}
