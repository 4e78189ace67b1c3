//! Azure's page blobs ("Blob service REST API"): disks as files of pages, which machines'
//! disks and images are made from.
//!
//! ```text
//! login.rs  account key (SharedKey) or shared access signature, from Azure's variables
//! pages.rs  create, write and clear pages, list ranges, copy, metadata; each checked by MD5
//! ```

mod login;
pub mod pages;

pub(super) use login::Login;
pub use pages::{Blob, PageBlobs, PageCall};
