//! Reads an image of a cloud back: whether machines that start from it have the disk that
//! was tested, block by block.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::ami::IMAGE;
use super::blocks::BlockPlan;
use super::snapshot::{PARALLEL, UNIT, each, unreadable};
use crate::base::bytes::human;
use crate::base::progress::Task;
use crate::base::{Digest, Progress};
use crate::channel::CloudImage;
use crate::disk::DiskMap;
use crate::publish::PublishError;
use crate::remote::aws::ec2::{self, State, tag};
use crate::remote::aws::{Aws, Pace, ebs};
use crate::store::Store;

/// What is wrong with an image of AWS, if anything is. Every block of its snapshot is read.
///
/// # Errors
/// [`PublishError`] for what keeps it from being read.
pub fn verify(
    store: &Store,
    aws: &Aws,
    made: &CloudImage,
    (image, disk): (&Digest, &DiskMap),
    progress: &dyn Progress,
) -> Result<Option<String>, PublishError> {
    let look = ec2::describe_images(&made.region, "image-id", &made.id);
    let found = aws.images(&look)?.into_iter().next();
    let Some(found) = found.filter(|found| found.state == State::Ready) else {
        return Ok(Some("it is not there any more".to_owned()));
    };
    if tag(&found.tags, IMAGE) != Some(&image.to_string()) {
        return Ok(Some("its tags name another image".to_owned()));
    }
    let Some(snapshot) = found
        .snapshot
        .filter(|id| Some(id) == made.snapshot.as_ref())
    else {
        return Ok(Some("its disk is cloned from another snapshot".to_owned()));
    };
    let plan = BlockPlan::new(store, (disk, UNIT), None, progress)
        .map_err(|source| unreadable(image, source))?;
    let wanted: BTreeMap<u32, Digest> = plan.changed.into_iter().collect();
    let there = aws.blocks(&made.region, &snapshot)?;
    let missing = wanted
        .keys()
        .find(|index| there.binary_search_by_key(*index, |(at, _)| *at).is_err());
    if let Some(index) = missing {
        return Ok(Some(format!("block {index} of {snapshot} is missing")));
    }
    let bytes = there.len() as u64 * ebs::BLOCK as u64;
    progress.note(&format!("{}: {} to read back", made.id, human(bytes)));
    let task = progress.begin(&format!("read {snapshot}"), Some(bytes));
    let pace = Pace::new(PARALLEL);
    let zero = Digest::of(vec![0; ebs::BLOCK]);
    let wrong: Mutex<Option<u32>> = Mutex::default();
    each(
        &there,
        || (),
        |(), (index, token)| {
            let call = ebs::get_snapshot_block(&made.region, &snapshot, *index, token);
            let sum = aws.block_sum(&call, &pace)?;
            if sum != *wanted.get(index).unwrap_or(&zero) {
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                *wrong = Some(wrong.map_or(*index, |first| first.min(*index)));
            }
            Task::advance(&*task, ebs::BLOCK as u64);
            Ok(())
        },
    )?;
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(wrong.map(|index| format!("block {index} of {snapshot} is not the disk's")))
}
