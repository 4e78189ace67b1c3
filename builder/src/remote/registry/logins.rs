//! Logins for registries, as docker and podman keep them.
//!
//! Asked in this order: the URI itself, `$REGISTRY_AUTH_FILE`, docker's
//! `config.json` (`$DOCKER_CONFIG`, else `~/.docker`), containers' `auth.json`
//! (`$XDG_RUNTIME_DIR`, `~/.config`). In each: `credHelpers` for the host, then
//! `auths`, then `credsStore`. Helpers are asked only once a registry wants a login.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::base::base64;
use crate::remote::RemoteError;
use crate::sources::Host;
use crate::sources::uri::{Login, Uri};

/// Longest answer of a helper that is read, in bytes.
const HELPER_LIMIT: u64 = 64 * 1024;

/// Longest time that a helper may take: it may ask a person.
const HELPER_TIME: Duration = Duration::from_secs(60);

/// What opens a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User and password.
    Login(Login),
    /// A token to get tokens with.
    Identity(String),
    /// A token to show as it is.
    Token(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Login(_) => "Login",
            Self::Identity(_) => "Identity",
            Self::Token(_) => "Token",
        })
    }
}

/// Where the login of one repository is.
#[derive(Debug)]
pub(super) struct Logins {
    host: Host,
    /// Names under which the files may have it, the longest first.
    names: Vec<String>,
    found: OnceLock<Option<Secret>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Logins {
    pub(super) fn new(host: &Host, base: &Uri, repository: &str, own: Option<Login>) -> Self {
        let authority = base.authority();
        let mut names = Vec::new();
        // containers' auth.json may have a login for a part of the registry.
        let mut path = repository;
        loop {
            names.push(format!("{authority}/{path}"));
            let Some((shorter, _)) = path.rsplit_once('/') else {
                break;
            };
            path = shorter;
        }
        names.push(authority);
        let found = OnceLock::new();
        if let Some(login) = own {
            // A new cell is empty.
            let _set = found.set(Some(Secret::Login(login)));
        }
        Self {
            host: host.clone(),
            names,
            found,
        }
    }

    /// The login, if there is one.
    pub(super) fn find(&self) -> Result<Option<Secret>, RemoteError> {
        if let Some(found) = self.found.get() {
            return Ok(found.clone());
        }
        let mut found = None;
        for path in self.files() {
            found = self.search(&path)?;
            if found.is_some() {
                break;
            }
        }
        Ok(self.found.get_or_init(|| found).clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        let var = |name: &str| self.host.var(name).map(PathBuf::from);
        let docker = var("DOCKER_CONFIG").or_else(|| Some(self.host.home()?.join(".docker")));
        let config = var("XDG_CONFIG_HOME").or_else(|| Some(self.host.home()?.join(".config")));
        [
            var("REGISTRY_AUTH_FILE"),
            docker.map(|folder| folder.join("config.json")),
            var("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            config.map(|folder| folder.join("containers/auth.json")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn search(&self, path: &Path) -> Result<Option<Secret>, RemoteError> {
        if !path.exists() {
            return Ok(None);
        }
        let broken = |why: &str| RemoteError::Login {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        let text = Host::read(path)
            .ok_or_else(|| broken("it cannot be read; check its permissions and size"))?;
        // The parser's own message could quote a password.
        let config: Config = serde_json::from_str(&text).map_err(|e| {
            broken(&format!(
                "line {}: it is no such file as docker login writes",
                e.line()
            ))
        })?;
        let host = self.names.last().map_or("", String::as_str);
        let helper = config
            .cred_helpers
            .iter()
            .find(|(name, _)| bare(name) == host);
        if let Some((name, helper)) = helper {
            return self.ask_helper(helper, name);
        }
        for name in &self.names {
            let entry = config.auths.iter().find(|(key, _)| bare(key) == name);
            if let Some((_, auth)) = entry
                && let Some(secret) = auth
                    .secret()
                    .ok_or_else(|| broken("a login in it is broken; log in again"))?
            {
                return Ok(Some(secret));
            }
        }
        match &config.creds_store {
            Some(helper) => self.ask_helper(helper, host),
            None => Ok(None),
        }
    }

    /// docker-credential-helpers: `get`, the server's name on stdin, JSON on stdout.
    fn ask_helper(&self, helper: &str, server: &str) -> Result<Option<Secret>, RemoteError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Said {
            username: String,
            secret: String,
        }
        let name = format!("docker-credential-{helper}");
        let broken = |why: String| RemoteError::Login {
            path: PathBuf::from(&name),
            why,
        };
        if !helper
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        {
            return Err(broken("that is no helper's name".to_owned()));
        }
        let program = std::env::split_paths(self.host.var("PATH").unwrap_or_default())
            .map(|folder| folder.join(&name))
            .find(|path| path.is_file())
            .ok_or_else(|| broken("it is not in PATH; install it, or log in anew".to_owned()))?;
        let mut child = Command::new(program)
            .arg("get")
            .env_clear()
            .envs(&self.host.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| broken(format!("it cannot be started: {error}")))?;
        let output = talk(&mut child, server);
        let (good, output) = output.map_err(|error| broken(error.to_string()))?;
        if !good {
            let said = String::from_utf8_lossy(&output);
            if said.contains("credentials not found") {
                return Ok(None);
            }
            return Err(broken("it failed; run it by hand to see why".to_owned()));
        }
        let said: Said = serde_json::from_slice(&output)
            .map_err(|_| broken("its answer is not what the protocol says".to_owned()))?;
        let plain = |text: &str| !text.contains(char::is_control);
        if !plain(&said.username) || !plain(&said.secret) {
            return Err(broken("its answer has control characters".to_owned()));
        }
        Ok(Some(if said.username == "<token>" {
            Secret::Identity(said.secret)
        } else {
            Secret::Login(Login {
                user: said.username,
                password: said.secret,
            })
        }))
    }
}

/// Hands a helper the server's name; gives whether it was content, and what it said.
fn talk(child: &mut Child, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not listen will say so by its status.
        let _unheard = stdin.write_all(format!("{server}\n").as_bytes());
    }
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(HELPER_LIMIT).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > HELPER_TIME {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "it did not answer in time",
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let bytes = reader
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("its answer could not be read")))?;
    Ok((status.success(), bytes))
}

/// A key of `auths` without the scheme and the `/v1/` that docker once wrote.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key)
}

impl Auth {
    /// What it holds; `None` when that is broken.
    #[allow(clippy::option_option)] // broken, empty, or a secret
    fn secret(&self) -> Option<Option<Secret>> {
        let plain = |text: &str| !text.contains(char::is_control);
        if !self.registrytoken.is_empty() {
            let good = self.registrytoken.bytes().all(|b| b.is_ascii_graphic());
            return good.then(|| Some(Secret::Token(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return plain(&self.identitytoken)
                .then(|| Some(Secret::Identity(self.identitytoken.clone())));
        }
        let (user, password) = if self.auth.is_empty() {
            if self.username.is_empty() {
                return Some(None);
            }
            (self.username.clone(), self.password.clone())
        } else {
            let text = String::from_utf8(base64::decode(self.auth.trim())?).ok()?;
            let (user, password) = text.split_once(':')?;
            // docker pads old entries with zero bytes.
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        (plain(&user) && plain(&password)).then_some(Some(Secret::Login(Login { user, password })))
    }
}

#[cfg(test)]
#[path = "logins_tests.rs"]
mod tests;
