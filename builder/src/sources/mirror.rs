//! Finds the mirror that serves a suite.
//!
//! In this order: the argument (`--mirror`), the environment
//! (`SLIPFORM_MIRROR`), the user's configuration, the host's apt sources. What
//! was named outright is taken as it is; from apt's sources the first is taken
//! that has the suite: a Debian 12 host's mirror serves 13 too, and a vendor's
//! repository does not. The security archive: `SLIPFORM_SECURITY_MIRROR`, the
//! user's configuration, a sibling of the mirror that was named, the host's
//! security sources, a sibling of the host's mirror.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::apt_conf::AptConf;
use super::uri::{Uri, redact};
use super::{Client, Host, SourceError, UserConfig, apt_list};

/// Most that is read of an InRelease file or a list of mirrors, in bytes.
const PROBE_LIMIT: u64 = 4 * 1024 * 1024;

/// Most mirrors that a list of mirrors is followed to.
const LIST_LIMIT: usize = 20;

/// Who named a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `--mirror`.
    Argument,
    /// An environment variable.
    Environment(&'static str),
    /// The user's configuration.
    Config,
    /// A file of the host's apt.
    Apt(PathBuf),
    /// It lies beside another mirror.
    Beside(Box<Origin>),
    /// The project, by `[[apt]]`.
    Project,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argument => f.write_str("--mirror"),
            Self::Environment(name) => f.write_str(name),
            Self::Config => f.write_str("the user's configuration"),
            Self::Apt(path) => write!(f, "{}", path.display()),
            Self::Beside(origin) => write!(f, "beside the mirror of {origin}"),
            Self::Project => f.write_str("[[apt]]"),
        }
    }
}

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Base URI: `dists/` and `pool/` lie below it.
    pub base: Uri,
    /// Who named it.
    pub origin: Origin,
    /// Whether the host's apt takes an expired Release from it.
    pub allow_expired: bool,
}

/// Finds mirrors.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    pub(super) client: &'a Client,
    pub(super) host: &'a Host,
    pub(super) config: &'a UserConfig,
    pub(super) argument: Option<&'a str>,
}

/// A mirror that may do.
#[derive(Debug, Clone)]
struct Candidate {
    /// As written.
    text: String,
    origin: Origin,
    allow_expired: bool,
}

impl Candidate {
    const fn new(text: String, origin: Origin) -> Self {
        Self {
            text,
            origin,
            allow_expired: false,
        }
    }
}

impl Finder<'_> {
    /// The mirror of Debian's main archive that has `dist`.
    pub(super) fn main(&self, dist: &str) -> Result<Mirror, SourceError> {
        if let Some(named) = self.named_main() {
            return self.take(&named, dist);
        }
        let mut tried = Tried::default();
        match self.first_that_serves(self.apts_sources(false), dist, &mut tried) {
            Some(mirror) => Ok(mirror),
            None => Err(tried.error(dist, "--mirror URI", "SLIPFORM_MIRROR", "mirror", self.host)),
        }
    }

    /// The mirror of Debian's security archive that has `dist`.
    pub(super) fn security(&self, dist: &str) -> Result<Mirror, SourceError> {
        const VARIABLE: &str = "SLIPFORM_SECURITY_MIRROR";
        let named = match self.host.var(VARIABLE) {
            Some(text) => Some(Candidate::new(
                text.to_owned(),
                Origin::Environment(VARIABLE),
            )),
            None => self
                .config
                .security_mirror
                .clone()
                .map(|text| Candidate::new(text, Origin::Config)),
        };
        if let Some(named) = named {
            return self.take(&named, dist);
        }
        let mut candidates = Vec::new();
        let main = self.named_main();
        candidates.extend(main.iter().flat_map(|named| self.beside(named)));
        candidates.extend(self.apts_sources(true));
        if main.is_none() {
            let mains = self.apts_sources(false);
            candidates.extend(mains.iter().flat_map(|main| self.beside(main)));
        }
        let mut tried = Tried::default();
        match self.first_that_serves(candidates, dist, &mut tried) {
            Some(mirror) => Ok(mirror),
            None => Err(tried.error(dist, "", VARIABLE, "security-mirror", self.host)),
        }
    }

    /// The archive that the project names.
    pub(super) fn project(&self, uri: &str, dist: &str) -> Result<Mirror, SourceError> {
        self.take(&Candidate::new(uri.to_owned(), Origin::Project), dist)
    }

    fn named_main(&self) -> Option<Candidate> {
        const VARIABLE: &str = "SLIPFORM_MIRROR";
        let new = |text: &str, origin| Candidate::new(text.to_owned(), origin);
        self.argument
            .map(|text| new(text, Origin::Argument))
            .or_else(|| {
                let text = self.host.var(VARIABLE)?;
                Some(new(text, Origin::Environment(VARIABLE)))
            })
            .or_else(|| Some(new(self.config.mirror.as_deref()?, Origin::Config)))
    }

    /// The host's sources, security ones or others, each base once.
    fn apts_sources(&self, security: bool) -> Vec<Candidate> {
        let conf = AptConf::load(self.host);
        let all_expired = conf.is_off("Acquire::Check-Valid-Until");
        let mut seen = BTreeSet::new();
        let mut candidates = Vec::new();
        for entry in apt_list::load(self.host) {
            let is_security =
                |suite: &String| suite.contains("security") || suite.ends_with("/updates");
            if entry.suites.iter().any(is_security) != security {
                continue;
            }
            for uri in &entry.uris {
                if seen.insert(uri.trim_end_matches('/').to_owned()) {
                    candidates.push(Candidate {
                        text: uri.clone(),
                        origin: Origin::Apt(entry.file.clone()),
                        allow_expired: all_expired || entry.allow_expired,
                    });
                }
            }
        }
        candidates
    }

    /// Where the security archive usually lies, seen from a main one.
    fn beside(&self, main: &Candidate) -> Vec<Candidate> {
        let bases = self.expand(&main.text).unwrap_or_default();
        bases
            .into_iter()
            .flat_map(|base| {
                let sibling = Uri {
                    path: sibling(&base.path),
                    ..base.clone()
                };
                // Some mirrors keep all suites under one base.
                [sibling, base]
            })
            .map(|base| Candidate {
                text: with_login(&base),
                origin: Origin::Beside(Box::new(main.origin.clone())),
                allow_expired: main.allow_expired,
            })
            .collect()
    }

    /// A mirror that was named outright: no probing, unless it is a list.
    fn take(&self, named: &Candidate, dist: &str) -> Result<Mirror, SourceError> {
        let mut bases = self.expand(&named.text)?;
        if bases.len() > 1 {
            let mut tried = Tried::default();
            let good = bases
                .iter()
                .position(|base| self.probe(base, dist, &mut tried) != Serves::No);
            bases.swap(0, good.unwrap_or(0));
        }
        match bases.into_iter().next() {
            Some(base) => Ok(Mirror {
                base,
                origin: named.origin.clone(),
                allow_expired: named.allow_expired,
            }),
            None => Err(SourceError::NoMirror(format!(
                "the list of mirrors {} ({}) names none",
                redact(&named.text),
                named.origin
            ))),
        }
    }

    fn first_that_serves(
        &self,
        candidates: Vec<Candidate>,
        dist: &str,
        tried: &mut Tried,
    ) -> Option<Mirror> {
        let mut second_best = None;
        for candidate in candidates {
            let bases = match self.expand(&candidate.text) {
                Ok(bases) => bases,
                Err(error) => {
                    tried.add(error.to_string());
                    continue;
                }
            };
            for base in bases {
                let mirror = |base: &Uri| Mirror {
                    base: base.clone(),
                    origin: candidate.origin.clone(),
                    allow_expired: candidate.allow_expired,
                };
                match self.probe(&base, dist, tried) {
                    Serves::Debian => return Some(mirror(&base)),
                    Serves::Other => second_best = second_best.or_else(|| Some(mirror(&base))),
                    Serves::No => {}
                }
            }
        }
        // Somebody else's archive under the suite's name; its signature will tell.
        second_best
    }

    fn probe(&self, base: &Uri, dist: &str, tried: &mut Tried) -> Serves {
        let read = base
            .below(&format!("dists/{dist}/InRelease"))
            .and_then(|uri| self.client.read(&uri, PROBE_LIMIT));
        match read {
            Ok(Some(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                if text.lines().any(|line| line.trim_end() == "Origin: Debian") {
                    Serves::Debian
                } else {
                    Serves::Other
                }
            }
            Ok(None) => {
                tried.add(format!("{} has no {dist}", base.public()));
                Serves::No
            }
            Err(error) => {
                tried.add(error.to_string());
                Serves::No
            }
        }
    }

    /// The bases that a text names: one, or those of a list of mirrors
    /// (apt-transport-mirror(1)). `[options]` before it are left out.
    fn expand(&self, text: &str) -> Result<Vec<Uri>, SourceError> {
        let text = match text
            .trim()
            .strip_prefix('[')
            .and_then(|t| t.split_once(']'))
        {
            Some((_options, rest)) => rest.trim(),
            None => text.trim(),
        };
        let list = text.strip_prefix("mirror+").map(str::to_owned).or_else(|| {
            text.strip_prefix("mirror://")
                .map(|rest| format!("http://{rest}"))
        });
        let Some(list) = list else {
            return Ok(vec![Uri::parse(text)?]);
        };
        let list = Uri::parse(&list)?;
        let Some(bytes) = self.client.read(&list, PROBE_LIMIT)? else {
            return Err(SourceError::NoMirror(format!(
                "the list of mirrors {} does not exist",
                list.public()
            )));
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split('#').next()?.split_whitespace().next())
            .filter_map(|word| Uri::parse(word).ok())
            .take(LIST_LIMIT)
            .collect())
    }
}

/// What a base has of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    Debian,
    Other,
    No,
}

/// What was looked at in vain.
#[derive(Debug, Default)]
struct Tried(Vec<String>);

impl Tried {
    fn add(&mut self, why: String) {
        self.0.push(why);
    }

    fn error(
        &self,
        dist: &str,
        option: &str,
        variable: &str,
        key: &str,
        host: &Host,
    ) -> SourceError {
        let file = host
            .config_file()
            .unwrap_or_else(|| PathBuf::from("slipform/config.toml"));
        let option = match option {
            "" => String::new(),
            option => format!("pass {option}, "),
        };
        let mut text = format!(
            "no mirror is known that has {dist}: {option}set {variable}, or write {key} = \"https://…\" into {}",
            file.display()
        );
        for why in self.0.iter().take(8) {
            let _infallible = write!(text, "\n  {why}");
        }
        SourceError::NoMirror(text)
    }
}

/// `…/debian` becomes `…/debian-security`, also in the middle of a path.
fn sibling(path: &str) -> String {
    let path = path.trim_end_matches('/');
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    match parts.iter().rposition(|part| part == "debian") {
        Some(at) => parts[at].push_str("-security"),
        None => return format!("{path}-security"),
    }
    parts.join("/")
}

/// A base as text that reads back with its login.
fn with_login(base: &Uri) -> String {
    let public = base.public();
    match (&base.login, public.split_once("://")) {
        (Some(login), Some((scheme, rest))) => {
            let quote = |text: &str| {
                text.bytes().fold(String::new(), |mut quoted, byte| {
                    if byte.is_ascii_alphanumeric() {
                        quoted.push(char::from(byte));
                    } else {
                        let _infallible = write!(quoted, "%{byte:02x}");
                    }
                    quoted
                })
            };
            let (user, password) = (quote(&login.user), quote(&login.password));
            format!("{scheme}://{user}:{password}@{rest}")
        }
        _ => public.replace(' ', "%20"),
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
