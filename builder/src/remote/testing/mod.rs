//! Other ends for tests, all of our own: a strict registry, a strict object
//! store, a proxy that does to requests what networks do, and what every remote
//! must be able to do. They trust their clients with nothing but memory.
//!
//! ```text
//! Remote ──> FaultProxy ──> TestRegistry | TestS3 | TestAws | TestAzure | TestGcp (or a real one)
//! conformance(&|| open(…))   every promise of the trait, in one go
//! ```

mod aws;
mod aws_ebs;
mod aws_ec2;
mod azure;
mod conformance;
mod faults;
mod gcp;
mod registry;
mod registry_uploads;
mod s3;
mod s3_requests;
mod server;

use std::time::Duration;

pub use aws::{AwsRules, Seen, TestAws};
pub use azure::{AzureRules, TestAzure};
pub use conformance::{Traits, conformance, put, race};
pub use faults::{Fault, FaultProxy};
pub use gcp::{GcpRules, TestGcp};
pub use registry::{Auth, RegistryRules, TestRegistry};
pub use s3::{S3Rules, TestS3};
pub use server::{Reply, Request, Server};

use super::RemoteOptions;

/// Options for tests: small parts, little patience.
#[must_use]
pub fn quick() -> RemoteOptions {
    RemoteOptions {
        connect: Duration::from_secs(5),
        read: Duration::from_secs(5),
        retries: 3,
        backoff: Duration::from_millis(2),
        whole: 64 * 1024,
        part: 64 * 1024,
    }
}
