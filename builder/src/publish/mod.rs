//! Publishing: an attested image, all that belongs to it, and the record of it
//! move to a remote; and back.
//!
//! ```text
//! Attested + Sources --shipment.rs--> blobs, documents, tags, in the order of arrival
//!                    --push.rs------> the remote; last of all, channel::append
//! Attested + disk map--cloud/----> images of clouds, which the record names
//! channel | digest   --resolve.rs---> Entry --pull.rs--> gate again --> the local store
//! ```
//!
//! The order is blobs, manifests, attestations, record, channel. Whatever is cut
//! off in between, a reader sees the old release or the new one, and the next run
//! sends what is missing.

pub mod cloud;
mod error;
mod pull;
mod push;
mod resolve;
mod shipment;
mod sources;

pub use error::PublishError;
pub use pull::{attestations, document, fetch_blob, image_manifest, pull};
pub use push::{Ends, Published, Request, publish, repeat, revoke};
pub use resolve::{Reference, resolve};
pub use shipment::{Release, Shipment, Tests, shipment};
pub use sources::{Kept, KeptKind, SOURCES_TYPE, Sources};
