//! The way into a machine that `slipform run` serves: a Unix socket for each run, over
//! which other processes of the same user ask what init answers on the report channel.
//!
//! ```text
//! DIR/ID.sock (0600, in a folder 0700)
//!   <- {"control":1,"id":4711,"name":"hello","image":"sha256:…","started":1764150000}
//!   -> {"id":0,"sections":["services"]}       one Query a connection
//!   <- {"machine":{…}} {"service":{…}} …      one Item a line, up to {"end":""}
//! ```
//! Only queries pass: nothing that changes the machine can be sent this way. The folder
//! may hold sockets of runs that were killed; [`running`] sweeps them.

mod client;
mod server;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::HarnessError;
pub use client::{Answer, Running, running};
pub(crate) use server::Control;

/// Version of what goes over the socket.
const CONTROL: u32 = 1;
/// Longest line from a client.
const MAX_QUERY: usize = 4096;
/// Room for the folder's path: a socket's may have 107 bytes (unix(7), `sun_path`).
const LONGEST_DIR: usize = 80;
const ENDING: &str = "sock";

/// The first line of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    /// [`CONTROL`].
    control: u32,
    /// Process id of the run.
    id: u32,
    /// Image name.
    name: String,
    /// Digest of the image's manifest.
    image: String,
    /// Seconds since 1970.
    started: u64,
}

/// Makes the folder, for this user alone.
fn folder(dir: &Path) -> Result<(), HarnessError> {
    let failed = |source| HarnessError::Io {
        operation: "keep control sockets in",
        path: dir.to_owned(),
        source,
        remedy: "set XDG_RUNTIME_DIR to a folder of yours with a short path",
    };
    if dir.as_os_str().len() > LONGEST_DIR {
        let why = format!("its path is longer than {LONGEST_DIR} bytes");
        return Err(failed(io::Error::other(why)));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed)?;
    let found = fs::symlink_metadata(dir).map_err(failed)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(failed(io::Error::other("it is no folder of this user's")));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
