//! Whose signatures count.

use std::path::{Path, PathBuf};

use super::{AttestError, PublicKey};

/// The environment's list of files with trusted public keys, with `:` between them.
pub const TRUSTED_KEYS: &str = "SLIPFORM_TRUSTED_KEYS";
/// Most keys that are tried.
const MOST_KEYS: usize = 256;

/// Trusted public keys. Without any, nothing is trusted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
}

/// Files that name trusted keys. All of them count; the user's own counts only
/// where none of the others says anything.
#[derive(Debug, Clone, Default)]
pub struct TrustSources<'a> {
    /// `[gate] keys` of the specification.
    pub spec: &'a [PathBuf],
    /// `--key`.
    pub given: &'a [PathBuf],
    /// [`TRUSTED_KEYS`].
    pub environment: Option<&'a str>,
    /// `trusted-keys` of the user's configuration.
    pub configured: &'a [PathBuf],
    /// The user's own `key.pub`, whether it is there or not.
    pub own: Option<&'a Path>,
}

impl Trust {
    /// Trusts exactly these.
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self { keys }
    }

    /// Reads all files.
    ///
    /// # Errors
    /// [`AttestError`] for a file that is missing or has no key; the user's own may be missing.
    pub fn load(sources: &TrustSources<'_>) -> Result<Self, AttestError> {
        let environment: Vec<PathBuf> = sources
            .environment
            .map(|list| std::env::split_paths(list).collect())
            .unwrap_or_default();
        let mut files: Vec<&Path> = sources
            .spec
            .iter()
            .chain(sources.given)
            .chain(&environment)
            .chain(sources.configured)
            .map(PathBuf::as_path)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        if files.is_empty() {
            files.extend(sources.own.filter(|path| path.exists()));
        }
        let mut keys: Vec<PublicKey> = Vec::new();
        for file in files {
            for key in PublicKey::load(file)? {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            if keys.len() > MOST_KEYS {
                return Err(AttestError::Key {
                    path: file.to_owned(),
                    why: "with it there are more than 256 trusted keys; name fewer".to_owned(),
                });
            }
        }
        Ok(Self { keys })
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}
