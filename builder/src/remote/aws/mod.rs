//! AWS's services beside S3 that make images of machines: EBS direct, EC2, Systems Manager.
//!
//! ```text
//! ebs.rs  ec2.rs  ssm.rs   one function an action: an AwsCall, and its answer, read with bounds
//!         call.rs          what is sent, as people and as the wire see it
//!         session.rs       signs, sends, tries again; pace.rs slows down when asked to
//! profile.rs roles.rs      keys: environment, files, web identity, container, instance
//! sign.rs xml.rs tree.rs   Signature Version 4; answers
//! ```
//!
//! Nothing here knows of disks or releases. A call is made once and then either sent or
//! shown: what a dry run prints is what would be sent.

mod call;
pub mod ebs;
pub mod ec2;
mod pace;
mod profile;
mod roles;
mod session;
mod sign;
pub mod ssm;
mod tree;
pub(super) mod xml;

use std::time::{SystemTime, UNIX_EPOCH};

pub use call::{AwsCall, Service};
pub use pace::Pace;
pub(super) use profile::Profile;
pub(super) use roles::Credentials;
pub use session::Aws;
pub(super) use sign::{Scope, hmac, sign};

/// Seconds since 1970, for signatures.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

/// Whether a text names a region: `eu-central-1`.
#[must_use]
pub fn is_region(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=32).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.contains('-')
}

/// Whether a text can be the id of something in EC2, such as `snap-0123`: it goes into paths.
pub(super) fn is_id(text: &str, kind: &str) -> bool {
    text.strip_prefix(kind).is_some_and(|rest| {
        (1..=40).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}
