//! Images for clouds: what came through the gate becomes an image that machines start from.
//!
//! ```text
//! aws://region,…  target.rs  where to, who may use it, which parameter names it
//! disk map        blocks.rs  which blocks differ from the parent's, their sums; before anything moves
//!                 snapshot.rs sends them; journal.rs knows which the service has taken
//!                 ami.rs     find, register, copy, share: each step is found again after a cut
//!                 dry.rs     every call, sent to nobody
//! azure://…       page_blob.rs  a fixed VHD: create or copy, only the pages that differ, state
//! gcp://…         gce.rs     the disk as a tar in a bucket, and an image made of it
//!                 verify.rs  reads an image back, block by block; page_verify.rs a page blob
//!                 switch.rs  the parameter that names the release; deprecation of older images
//! ```
//!
//! A cloud keeps no history: the release's record, with the ids of its images, lies in the
//! remote. Nothing is staged: blocks are read from the store as the disk map says.

mod ami;
mod blocks;
mod dry;
mod gce;
mod journal;
mod page_blob;
mod page_verify;
mod snapshot;
mod switch;
mod target;
mod verify;

pub use ami::{Ami, Casting, Made, Parent};
pub use blocks::BlockPlan;
pub use dry::{CloudCall, DryRun, dry_run};
pub use gce::GceImage;
pub use page_blob::{FOOTER, PageBlob};
pub use switch::{deprecate, parameter_of, switch};
pub use target::{AwsTarget, AzureTarget, GcpTarget, is_account};
pub use verify::verify;

use std::thread::sleep;
use std::time::Duration;

use super::PublishError;

/// The providers, as records name them.
pub const AWS: &str = "aws";
/// See [`AWS`].
pub const AZURE: &str = "azure";
/// See [`AWS`].
pub const GCP: &str = "gcp";

/// How often something that takes its time is looked at before it is given up: hours.
const LOOKS: u32 = 1_000;
/// Longest time between two looks, in units of the first.
const LONGEST: u32 = 30;

/// Looks at something that takes its time until it is there.
fn wait<T>(
    first: Duration,
    what: &str,
    looks: u32,
    mut look: impl FnMut() -> Result<Option<T>, PublishError>,
) -> Result<T, PublishError> {
    let mut pause = first;
    for _ in 0..looks {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(pause);
        pause = (pause + pause / 2).min(first * LONGEST);
    }
    Err(PublishError::CloudSlow {
        what: what.to_owned(),
        after: waited(first, looks),
    })
}

fn waited(first: Duration, looks: u32) -> u64 {
    (first * LONGEST * looks).as_secs()
}
