//! Users and groups of a container. Its files carry their numbers, and its programs ask
//! for their names.

use serde::{Deserialize, Serialize};

use super::{UnpackedContainer, fault};
use crate::layers::exclude::Excludes;
use crate::layers::{Entry, Kind, LayersError, content};
use crate::spec::LayerSpec;
use crate::store::Store;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Most bytes that are read of each.
const LIMIT: u64 = 1 << 20;

/// The two files, as far as the container has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFiles {
    /// `/etc/passwd`.
    #[serde(default)]
    pub passwd: Option<String>,
    /// `/etc/group`.
    #[serde(default)]
    pub group: Option<String>,
}

impl AccountFiles {
    /// Those among `entries`; `name` is the image's for messages.
    ///
    /// # Errors
    /// [`LayersError`] for a file that is larger than any such file is, and what the store says.
    pub fn of(entries: &[Entry], store: &Store, name: &str) -> Result<Self, LayersError> {
        let mut files = Self::default();
        for entry in entries {
            let field = match entry.path.as_str() {
                PASSWD => &mut files.passwd,
                GROUP => &mut files.group,
                _ => continue,
            };
            let Kind::File(file) = &entry.kind else {
                continue;
            };
            if file.size > LIMIT {
                return Err(fault(
                    name,
                    format!(
                        "its {} has {} bytes, and at most {LIMIT} are read; leave it out with `exclude`, and name the accounts in `users` and `groups`",
                        entry.path, file.size
                    ),
                ));
            }
            let length = usize::try_from(file.size).unwrap_or(0);
            let bytes = content::read_range(file, store, 0, length)?;
            *field = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        Ok(files)
    }
}

impl UnpackedContainer {
    /// The accounts that the container brings to its layer; what the layer excludes is none.
    ///
    /// # Errors
    /// As [`UnpackedContainer::entries`] and [`AccountFiles::of`].
    pub fn accounts(&self, store: &Store, spec: &LayerSpec) -> Result<AccountFiles, LayersError> {
        let name = spec.oci.as_ref().map_or("", |rule| rule.written.as_str());
        let mut entries = self.entries(store, name)?;
        entries.retain(|entry| [PASSWD, GROUP].contains(&entry.path.as_str()));
        let excludes = Excludes::new(true, &spec.exclude).map_err(|error| LayersError::Rule {
            layer: spec.name.clone(),
            rule: "exclude".to_owned(),
            problem: error.to_string(),
        })?;
        AccountFiles::of(&excludes.apply(entries), store, name)
    }
}
