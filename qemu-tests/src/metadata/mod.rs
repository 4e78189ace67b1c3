//! The cloud that a machine wakes up in, emulated: what its firmware says, the server that
//! answers at 169.254.169.254, a seed disk, credentials of the hypervisor.
//!
//! ```text
//! guest -> QEMU's user network -> guestfwd -> a relay process for each connection
//!       -> Unix socket -> server.rs -> clouds.rs (pure: request -> answer)
//! ```
//! QEMU forwards only addresses of the guest's own network: it is 169.254.0.0/16, and for
//! Azure 168.0.0.0/7, in which its wire server lies too.
//!
//! QEMU forwards a guest's connection to a program of its own; a chardev would serve one
//! connection in all. The relay is whatever [`crate::Emulator::relay`] names: the
//! `slipform` command itself, or this package's `metadata-relay`.

mod clouds;
mod relay;
mod seed;
mod server;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
pub use slipform_init::contract::machine::MetadataSource;

pub use relay::{RELAY_WORD, relay_if_asked};
pub(crate) use server::Server;

use crate::error::HarnessError;

/// What the machine learns of itself, and from whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metadata {
    /// The source that is emulated.
    pub source: MetadataSource,
    /// What the cloud calls the machine.
    pub instance_id: String,
    /// The name that it gives.
    pub hostname: String,
    /// The user's data.
    pub user_data: Option<String>,
    /// Secrets by name; a cloud hands them over in user-data as JSON
    /// (`systemd.credentials`), the hypervisor each by itself.
    pub credentials: BTreeMap<String, String>,
    /// How well the server does.
    pub day: Day,
}

/// How a metadata server behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Day {
    /// As documented.
    #[default]
    Good,
    /// Each answer takes a second.
    Slow,
    /// For the first three seconds connections are closed.
    Late,
    /// EC2 refuses its first token once it is used (401); the others, which have none,
    /// refuse everything.
    Unauthorized,
    /// Every second request is one too many (429).
    Busy,
    /// Every request fails (500).
    Failing,
    /// Answers are noise.
    Malformed,
    /// Answers are 10 MB long.
    Huge,
    /// Nothing is ever answered.
    Silent,
}

impl Metadata {
    /// A machine of this source, with names of its own.
    #[must_use]
    pub fn of(source: MetadataSource) -> Self {
        Self {
            source,
            instance_id: "i-0123456789abcdef0".to_owned(),
            hostname: "emulated.internal".to_owned(),
            user_data: None,
            credentials: BTreeMap::new(),
            day: Day::Good,
        }
    }

    /// It answers over the network.
    pub(crate) fn has_server(&self) -> bool {
        use MetadataSource::{Azure, Ec2, Gce, Openstack};
        matches!(self.source, Ec2 | Gce | Azure | Openstack)
    }

    /// The guest's network, and those addresses of it at which the server answers.
    pub(crate) fn network(&self) -> (&'static str, &'static [&'static str]) {
        match self.source {
            MetadataSource::Azure => ("168.0.0.0/7", &["169.254.169.254", "168.63.129.16"]),
            _ => ("169.254.0.0/16", &["169.254.169.254"]),
        }
    }

    /// Whether this cloud waits for the machine to say that it is ready, and hears it.
    pub(crate) fn awaits_report(&self) -> bool {
        let hears = matches!(self.day, Day::Good | Day::Slow | Day::Late | Day::Busy);
        self.source == MetadataSource::Azure && hears
    }

    /// User-data as the guest gets it.
    pub(crate) fn user_data(&self) -> Option<String> {
        if self.user_data.is_some() || self.credentials.is_empty() {
            return self.user_data.clone();
        }
        let pairs = self.credentials.iter();
        let list: Vec<_> = pairs
            .map(|(name, text)| json!({ "name": name, "text": text }))
            .collect();
        Some(json!({ "systemd.credentials": list }).to_string())
    }

    /// Identifying strings of the firmware: SMBIOS type and its `name=value` words.
    pub(crate) fn firmware(&self) -> Vec<&'static str> {
        match self.source {
            MetadataSource::Ec2 => vec!["type=1,manufacturer=Amazon EC2,product=m7i.large"],
            MetadataSource::Gce => {
                vec!["type=1,manufacturer=Google,product=Google Compute Engine"]
            }
            MetadataSource::Azure => {
                vec![
                    "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine",
                    "type=3,asset=7783-7084-3265-9085-8269-3286-77",
                ]
            }
            MetadataSource::Openstack => {
                vec!["type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova"]
            }
            MetadataSource::Nocloud | MetadataSource::Smbios | MetadataSource::FwCfg => Vec::new(),
        }
    }

    /// Writes what the emulator reads as files into the run's folder: the seed disk, and
    /// credentials of fw_cfg, so that no secret stands in a command line.
    pub(crate) fn prepare(&self, run: &Path) -> Result<(), HarnessError> {
        let write = |path: &Path, bytes: &[u8]| {
            let remedy = "check that the folder can be written and the disk is not full";
            fs::write(path, bytes).map_err(HarnessError::io("write", path, remedy))
        };
        match self.source {
            MetadataSource::Nocloud => write(&seed_path(run), &seed::image(self)),
            MetadataSource::FwCfg => {
                let mut files = self.credentials.iter().enumerate();
                files
                    .try_for_each(|(n, (_, text))| write(&credential_path(run, n), text.as_bytes()))
            }
            _ => Ok(()),
        }
    }

    /// Strings of SMBIOS type 11.
    pub(crate) fn oem_strings(&self) -> Vec<String> {
        if self.source != MetadataSource::Smbios {
            return Vec::new();
        }
        let pairs = self.credentials.iter();
        pairs
            .map(|(name, text)| format!("io.systemd.credential:{name}={text}"))
            .collect()
    }

    /// Names and files of fw_cfg.
    pub(crate) fn fw_cfg(&self, run: &Path) -> Vec<(String, PathBuf)> {
        if self.source != MetadataSource::FwCfg {
            return Vec::new();
        }
        let names = self.credentials.keys().enumerate();
        names
            .map(|(n, name)| {
                let name = format!("opt/io.systemd.credentials/{name}");
                (name, credential_path(run, n))
            })
            .collect()
    }

    /// The seed disk, if there is one.
    pub(crate) fn seed(&self, run: &Path) -> Option<PathBuf> {
        (self.source == MetadataSource::Nocloud).then(|| seed_path(run))
    }
}

/// Words that QEMU splits like a shell: the relay, and the server's socket.
pub(crate) fn forward_command(relay: &[OsString], run: &Path) -> Option<String> {
    let socket = server::socket(run);
    let words = relay.iter().map(|word| word.to_str());
    let words: Vec<&str> = words.chain([socket.to_str()]).collect::<Option<_>>()?;
    let quoted = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    Some(quoted.collect::<Vec<_>>().join(" "))
}

fn seed_path(run: &Path) -> PathBuf {
    run.join("seed.iso")
}

fn credential_path(run: &Path, number: usize) -> PathBuf {
    run.join(format!("credential-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_travel_in_user_data_unless_there_is_some() {
        let mut metadata = Metadata::of(MetadataSource::Ec2);
        assert_eq!(metadata.user_data(), None);
        metadata.credentials.insert("a".into(), "x\"y".into());
        assert_eq!(
            metadata.user_data().as_deref(),
            Some(r#"{"systemd.credentials":[{"name":"a","text":"x\"y"}]}"#)
        );
        metadata.user_data = Some("mine".into());
        assert_eq!(metadata.user_data().as_deref(), Some("mine"));
    }

    #[test]
    fn the_forwards_words_survive_a_shells_rules() {
        let relay = ["/a b/it's".into(), RELAY_WORD.into()];
        let words = forward_command(&relay, Path::new("/run/x")).unwrap();
        assert_eq!(
            words,
            format!("'/a b/it'\\''s' '{RELAY_WORD}' '/run/x/metadata'")
        );
    }
}
