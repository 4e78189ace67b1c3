//! What the host says about fetching: environment, home and `/etc`. All of it
//! comes from here, so that a test can say something else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read, in bytes.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Environment, home and root folder.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Environment variables; those that are not UTF-8 are left out.
    pub env: BTreeMap<String, String>,
    /// The folder that is `/` (another one in tests).
    pub root: PathBuf,
}

impl Host {
    /// The host that this process runs on.
    #[must_use]
    pub fn real() -> Self {
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            env,
            root: PathBuf::from("/"),
        }
    }

    /// A host with nothing but the given variables, whose `/` is `root`.
    #[must_use]
    pub fn fake(root: impl Into<PathBuf>, env: &[(&str, &str)]) -> Self {
        Self {
            env: env
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            root: root.into(),
        }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The first of several variables that is set.
    #[must_use]
    pub fn first_var(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.var(name))
    }

    /// The user's home, if there is one.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.var("HOME").map(PathBuf::from)
    }

    /// The user's configuration file, whether it is there or not.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        Some(self.config_folder()?.join("config.toml"))
    }

    /// The folder of the user's configuration and keys, whether it is there or not.
    #[must_use]
    pub fn config_folder(&self) -> Option<PathBuf> {
        let folder = match self.var("XDG_CONFIG_HOME") {
            Some(folder) if Path::new(folder).is_absolute() => PathBuf::from(folder),
            _ => self.home()?.join(".config"),
        };
        Some(folder.join("slipform"))
    }

    /// A path below the host's root.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Reads a small text file; `None` when it is not there, not readable, or
    /// too big. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn read(path: &Path) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(path)
            .ok()?
            .take(FILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .ok()?;
        (bytes.len() as u64 <= FILE_LIMIT).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files of a configuration folder with one of `extensions` (`""` for
    /// none), sorted by name. Names are of the characters that apt allows.
    #[must_use]
    pub fn list(&self, folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.at(folder)) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                extensions.contains(&extension)
                    && !name.is_empty()
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
                    && !name.starts_with('.')
            })
            .collect();
        paths.sort();
        paths
    }
}
