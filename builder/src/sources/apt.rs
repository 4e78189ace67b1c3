//! Archives, found and read: what resolution sees of the network.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::mirror::Finder;
use super::{Client, ClientOptions, Host, Mirror, SourceError, UserConfig};
use crate::lock::{Archive, Base, SuiteSource};

/// The archives of a host and a project. Which mirror serves which archive is
/// found at the first use, and kept.
#[derive(Debug)]
pub struct Mirrors {
    client: Client,
    host: Host,
    config: UserConfig,
    argument: Option<String>,
    offline: bool,
    found: Mutex<BTreeMap<Base, Result<Mirror, String>>>,
}

impl Mirrors {
    /// Reads the host's and the user's configuration; asks nobody yet.
    /// `argument` is what `--mirror` says.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(host: Host, argument: Option<String>) -> Result<Self, SourceError> {
        Self::with_options(host, argument, ClientOptions::default())
    }

    /// As [`Mirrors::new`], with another patience.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn with_options(
        host: Host,
        argument: Option<String>,
        options: ClientOptions,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            client: Client::new(&host, options),
            config: UserConfig::load(&host)?,
            host,
            argument,
            offline: false,
            found: Mutex::default(),
        })
    }

    /// The same, but asking nobody: every read is an error that says so.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Whether nobody may be asked.
    #[must_use]
    pub const fn is_offline(&self) -> bool {
        self.offline
    }

    /// The client, with the host's proxies, certificates and logins.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The user's configuration.
    #[must_use]
    pub const fn config(&self) -> &UserConfig {
        &self.config
    }

    /// Where an archive is.
    ///
    /// # Errors
    /// [`SourceError::NoMirror`], and what the network says.
    pub fn mirror(&self, suite: &SuiteSource) -> Result<Mirror, SourceError> {
        if self.offline {
            return Err(SourceError::Offline {
                what: format!("the archive of {}", suite.name),
            });
        }
        // Held while looking: four threads must not look four times.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let result = found.entry(suite.base.clone()).or_insert_with(|| {
            let finder = Finder {
                client: &self.client,
                host: &self.host,
                config: &self.config,
                argument: self.argument.as_deref(),
            };
            match &suite.base {
                Base::Debian => finder.main(&suite.dist),
                Base::DebianSecurity => finder.security(&suite.dist),
                Base::Uri(uri) => finder.project(uri, &suite.dist),
            }
            .map_err(|error| error.to_string())
        });
        result.clone().map_err(SourceError::NoMirror)
    }

    /// Whether an expired Release of this archive is to be taken, as the host's
    /// apt would (`Acquire::Check-Valid-Until`, `check-valid-until=no`).
    /// `false` when the archive cannot be found.
    #[must_use]
    pub fn allow_expired(&self, suite: &SuiteSource) -> bool {
        self.mirror(suite).is_ok_and(|mirror| mirror.allow_expired)
    }

    /// As [`Archive::read`], with its own error.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read_file(
        &self,
        suite: &SuiteSource,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, SourceError> {
        let uri = self.mirror(suite)?.base.below(path)?;
        self.client.read(&uri, limit)
    }
}

impl Archive for Mirrors {
    fn read(&self, suite: &SuiteSource, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        self.read_file(suite, path, limit)
            .map_err(|error| error.to_string())
    }
}
