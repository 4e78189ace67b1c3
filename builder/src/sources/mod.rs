//! Fetches what the lock names, checked by digest, into the store; and reads
//! archives' indexes for who resolves.
//!
//! ```text
//! Host (environment, /etc, HOME) ─┬─> Wire        proxies, certificates: one request, one answer
//!                                 ├─> Client      credentials, redirects, retries, resuming
//!                                 └─> Mirrors     which archive is where   (lock::Archive)
//! Fetcher: store? -> shared cache? -> team's stores? -> mirror? -> snapshot mirror? -> one clear line
//! ```
//!
//! Nothing here decides what is trusted: indexes are verified by who reads
//! them, packages by the digest in the lock.

pub mod apt;
pub mod apt_conf;
pub mod apt_list;
pub mod config;
pub mod credentials;
pub mod error;
pub mod fetch;
pub mod host;
pub mod http;
pub mod mirror;
pub mod proxy;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod uri;
pub mod wire;

mod agents;
#[cfg(test)]
mod tls_tests;

pub use apt::*;
pub use config::UserConfig;
pub use error::SourceError;
pub use fetch::*;
pub use host::Host;
pub use http::{Client, ClientOptions};
pub use mirror::{Mirror, Origin};
