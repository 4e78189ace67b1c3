//! What services see of the identity.
//!
//! | file | content |
//! |---|---|
//! | `/run/slipform/identity.json` | instance id, host name, region, zone, type, sources |
//! | `/run/slipform/user-data` | as it came; for root, never executed |
//! | `/run/slipform/hostname` | the name, when a source has one |
//! | `/run/credentials/SERVICE/NAME` | what the service asks for: its own, mode 0400, on a tmpfs |

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use slipform_init::contract::event::{Event, Phase};
use slipform_init::contract::machine::Service;

use super::{Found, Outcome};
use crate::sys::host;
use crate::sys::mount::{Mount, NO_DEV, NO_EXEC, NO_SUID};
use crate::turn::Turn;

/// Where it all goes.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// Of init.
    pub(crate) run: PathBuf,
    /// Of the credentials.
    pub(crate) credentials: PathBuf,
}

impl Default for Files {
    fn default() -> Files {
        Files {
            run: "/run/slipform".into(),
            credentials: "/run/credentials".into(),
        }
    }
}

impl Files {
    /// Writes what is known, and names the machine. What fails is reported.
    pub(crate) fn write(&self, outcome: &Outcome, turn: &mut Turn<'_>) {
        let found = &outcome.found;
        let identity = serde_json::json!({
            "instance-id": found.instance_id,
            "hostname": found.hostname,
            "region": found.region,
            "zone": found.zone,
            "instance-type": found.instance_type,
            "sources": outcome.sources,
        });
        let path = self.run.join("identity.json");
        let text = format!("{identity}\n");
        tell(told(&path), put(&path, text.as_bytes(), 0o444), turn);
        if let Some(data) = &found.user_data {
            let path = self.run.join("user-data");
            tell(told(&path), put(&path, data, 0o400), turn);
        }
        if let Some(name) = &found.hostname {
            self.name(name, turn);
        }
    }

    /// Names the machine.
    pub(crate) fn name(&self, name: &str, turn: &mut Turn<'_>) {
        let path = self.run.join("hostname");
        let line = format!("{name}\n");
        tell(told(&path), put(&path, line.as_bytes(), 0o644), turn);
        tell(
            "set the host name".to_owned(),
            host::set_hostname(name),
            turn,
        );
    }

    /// A tmpfs of its own for credentials: they reach no disk, and have a limit.
    ///
    /// # Errors
    /// What mkdir(2) or mount(2) says.
    pub(crate) fn mount_credentials(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.credentials)?;
        let target = self.credentials.to_string_lossy();
        Mount {
            source: "credentials",
            target: &target,
            kind: "tmpfs",
            flags: NO_SUID | NO_DEV | NO_EXEC,
            options: "mode=0755,size=16m,nr_inodes=8k",
        }
        .mount()
    }
}

fn tell(what: String, result: io::Result<()>, turn: &mut Turn<'_>) {
    if let Err(error) = result {
        turn.report.event(Event::Error {
            phase: Phase::Network,
            what,
            why: error.to_string(),
        });
    }
}

fn told(path: &Path) -> String {
    format!("write {}", path.display())
}

/// In one step, with its mode from the beginning.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// Puts the credentials that `service` asks for below `root`, as files that only it reads.
///
/// # Errors
/// The credential that nobody gave, or the file that could not be written.
pub(crate) fn hand_over(service: &Service, found: &Found, root: &Path) -> Result<(), String> {
    if service.credentials.is_empty() {
        return Ok(());
    }
    let folder = root.join(&service.name);
    let owner = (service.uid, service.gid);
    let written = |path: &Path, result: io::Result<()>| {
        result.map_err(|error| format!("write {}: {error}", path.display()))
    };
    // Values first: a service starts with all that it asks for or not at all.
    let mut values = Vec::new();
    for name in &service.credentials {
        let value = found.credentials.get(name).ok_or_else(|| {
            format!("credential `{name}` was given by no source of metadata; hand it in by the cloud's user-data, SMBIOS or fw_cfg")
        })?;
        values.push((name, value));
    }
    written(&folder, DirBuilder::new().mode(0o700).create(&folder))?;
    for (name, value) in values {
        let path = folder.join(name);
        let result = put(&path, value, 0o400).and_then(|()| own(&path, owner));
        written(&path, result)?;
    }
    let closed = own(&folder, owner).and_then(|()| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500))
    });
    written(&folder, closed)
}

fn own(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}
