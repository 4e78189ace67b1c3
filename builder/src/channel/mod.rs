//! Channels: which release a name stands for, and every release it ever stood for.
//!
//! A channel is a chain of signed release records on a [`Remote`](crate::remote::Remote).
//! Nothing is ever rewritten: publishing, promoting, rolling back and revoking all
//! append a record that names its predecessor's digest, and then move the channel's
//! tag to it.
//!
//! ```text
//! stable ------------------------+                   tag of the newest record
//! stable.000001.<hex>  ...2.<hex>  ...3.<hex>        a tag for each record, so that no registry sweeps it
//!      |                 |            |
//!      v                 v            v
//!   record 1  <------  record 2 <-- record 3         OCI artifact manifests; layers[0] = DSSE envelope of the record
//! ```
//!
//! record.rs says what a record holds, history.rs reads and proves a chain,
//! append.rs adds to one, revoked.rs keeps the list of what must not be used.

mod append;
mod error;
mod history;
mod record;
mod revoked;

#[cfg(test)]
mod tests;

pub use append::{Appended, append};
pub use error::ChannelError;
pub use history::{Entry, History, channels, head};
pub use record::{CloudImage, Kind, RECORD_SCHEMA, RECORD_TYPE, Record, RecordImage, check_name};
pub use revoked::{REVOKED, Revocations};
