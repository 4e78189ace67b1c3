//! What publishing to a cloud would ask, in order, sent to nobody. The calls are made by the
//! functions that make those which are sent; ids that only an answer can tell are `snap-…`
//! and `ami-…`.

use std::fmt;

use serde::Serialize;

use super::ami::{Casting, Names};
use super::blocks::BlockPlan;
use super::snapshot::{UNIT, unreadable};
use super::switch::parameter_of;
use super::{Ami, AwsTarget};
use crate::base::Digest;
use crate::publish::PublishError;
use crate::remote::aws::{AwsCall, ebs, ec2, ssm};

/// Ids that are not known yet.
const SNAPSHOT: &str = "snap-…";
const IMAGE: &str = "ami-…";

/// A call of a cloud's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CloudCall {
    /// One of AWS's.
    Aws(AwsCall),
    /// One of Azure's or Google's, as a line.
    Line(String),
}

impl fmt::Display for CloudCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws(call) => call.fmt(f),
            Self::Line(line) => f.write_str(line),
        }
    }
}

/// What would be asked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DryRun {
    /// Blocks that the disk has.
    pub blocks: usize,
    /// Bytes of blocks to send.
    pub bytes: u64,
    /// Every call, in order; one that is repeated until something is ready is here once.
    pub calls: Vec<CloudCall>,
}

/// All calls that [`Ami::make`] makes where nothing is there yet, and those of the switch.
///
/// # Errors
/// [`PublishError`] for a disk that cannot be read, or is none for AWS.
pub fn dry_run(
    ami: &Ami<'_>,
    casting: &Casting<'_>,
    parameter: Option<&str>,
) -> Result<DryRun, PublishError> {
    let names = Names::of(casting)?;
    let parent = casting.parent.map(|parent| &parent.disk);
    let plan = BlockPlan::new(ami.store, (casting.disk, UNIT), parent, ami.progress)
        .map_err(|source| unreadable(casting.image.image(), source))?;
    let mut calls = snapshot(ami.target.home(), casting, &names, &plan);
    calls.extend(images(ami.target, casting, &names));
    if let Some(path) = parameter {
        let name = parameter_of(path, names.arch)?;
        for region in &ami.target.regions {
            calls.push(ssm::get_parameter(region, &name));
            calls.push(ssm::put_image(region, &name, IMAGE));
            calls.push(ssm::get_parameter(region, &name));
        }
    }
    Ok(DryRun {
        blocks: plan.data.len(),
        bytes: plan.bytes(),
        calls: calls.into_iter().map(CloudCall::Aws).collect(),
    })
}

fn snapshot(home: &str, casting: &Casting<'_>, names: &Names, plan: &BlockPlan) -> Vec<AwsCall> {
    let disk = casting.disk.digest().to_string();
    let mut calls = vec![
        ec2::describe_images(home, "name", &names.name),
        ec2::describe_snapshots(home, "tag:slipform:disk", &disk),
    ];
    let parent = casting.parent.map(|parent| parent.snapshot.as_str());
    if let Some(parent) = parent {
        calls.push(ec2::describe_snapshots(home, "snapshot-id", parent));
    }
    calls.push(names.start(home, parent, 0).0);
    let put = |(index, sum): &(u32, Digest)| ebs::put_snapshot_block(home, SNAPSHOT, *index, sum);
    calls.extend(plan.changed.iter().map(put));
    let sum = ebs::linear(plan.changed.iter().map(|(_, sum)| sum));
    calls.push(ebs::complete_snapshot(
        home,
        SNAPSHOT,
        plan.changed.len(),
        &sum,
    ));
    calls.push(ec2::describe_snapshots(home, "snapshot-id", SNAPSHOT));
    calls.push(ebs::list_blocks(home, SNAPSHOT, None));
    calls
}

fn images(target: &AwsTarget, casting: &Casting<'_>, names: &Names) -> Vec<AwsCall> {
    let home = target.home();
    let mut calls = vec![
        names.register(home, SNAPSHOT, casting.boot),
        ec2::describe_images(home, "image-id", IMAGE),
    ];
    let copies = &target.regions[1..];
    for region in copies {
        calls.push(ec2::describe_images(region, "name", &names.name));
        calls.push(names.copy(region, (home, IMAGE)));
    }
    let look = |region: &String| ec2::describe_images(region, "image-id", IMAGE);
    calls.extend(copies.iter().map(look));
    if !target.share.is_empty() {
        let share = |region: &String| ec2::share_image(region, IMAGE, &target.share);
        calls.extend(target.regions.iter().map(share));
    }
    calls
}
