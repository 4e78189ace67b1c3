//! The remotes against strict other ends of our own: what they promise, and
//! what they do when the network, the server or the bytes go wrong.

mod azure;
mod clouds;
mod emulators;
mod faults;
mod gcp;
mod logins;
mod promises;
mod transfers;

use slipform::remote::testing::quick;
use slipform::remote::{Remote, open_with};
use slipform::sources::Host;

/// A remote on a host with nothing but these variables.
pub(crate) fn open(uri: &str, env: &[(String, String)]) -> Box<dyn Remote> {
    let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    open_with(uri, &Host::fake("/nowhere", &env), quick()).unwrap()
}
