//! The user's configuration: `$XDG_CONFIG_HOME/slipform/config.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Host, SourceError};

/// The keys that there are.
const KEYS: [&str; 7] = [
    "mirror",
    "security-mirror",
    "snapshot",
    "cache",
    "sources",
    "trusted-keys",
    "registries",
];

/// Settings of a user on a host, for all projects. None of them enters an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserConfig {
    /// Base URI of Debian's main archive, such as `https://mirror.example/debian`.
    pub mirror: Option<String>,
    /// Base URI of Debian's security archive; the mirror's sibling `…-security` by default.
    pub security_mirror: Option<String>,
    /// Base URI of a snapshot mirror, asked for versions that the mirror has
    /// dropped: below it lie `archive/debian/<timestamp>/` and
    /// `archive/debian-security/<timestamp>/`. With `{archive}` and
    /// `{timestamp}` in it, it is taken as a whole.
    pub snapshot: Option<String>,
    /// An OCI layout (another store) from which blobs are copied before any mirror is asked.
    pub cache: Option<PathBuf>,
    /// Stores of the team's that `slipform fetch --to` filled, asked before any mirror:
    /// `oci://host/repository`, `s3://bucket/prefix` or `file:///folder`.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Files with public keys whose signatures count, relative to this file.
    #[serde(default)]
    pub trusted_keys: Vec<PathBuf>,
    /// Where images of a name lie: `"name" = "host/path"`, the beginning of what is written
    /// behind `oci://`, up to a `/`, and what stands there instead. The longest counts, as
    /// prefix and location of containers' own registries.conf.
    #[serde(default)]
    pub registries: BTreeMap<String, String>,
}

impl UserConfig {
    /// Reads the user's file; without one, nothing is set.
    ///
    /// # Errors
    /// [`SourceError::Config`] with file, line and remedy.
    pub fn load(host: &Host) -> Result<Self, SourceError> {
        let Some(path) = host.config_file() else {
            return Ok(Self::default());
        };
        if !path.exists() {
            return Ok(Self::default());
        }
        match Host::read(&path) {
            Some(text) => Self::parse(&text, &path),
            None => Err(SourceError::Config {
                path,
                line: 1,
                why: "it cannot be read; check its permissions and size".to_owned(),
            }),
        }
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, SourceError> {
        let error = |line, why| SourceError::Config {
            path: path.to_owned(),
            line,
            why,
        };
        let broken = |e: &toml::de::Error| {
            let at = e.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or("");
            error(1 + before.matches('\n').count(), e.message().to_owned())
        };
        let table: toml::Table = toml::from_str(text).map_err(|e| broken(&e))?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let line = text
                .lines()
                .position(|line| {
                    line.trim_start()
                        .trim_start_matches(['[', '"', '\''])
                        .starts_with(key.as_str())
                })
                .map_or(1, |at| at + 1);
            return Err(error(line, unknown(key)));
        }
        let mut config: Self = toml::from_str(text).map_err(|e| broken(&e))?;
        for key in &mut config.trusted_keys {
            if let Some(folder) = path.parent() {
                *key = folder.join(&key);
            }
        }
        if let Some(cache) = config.cache.as_ref().filter(|cache| !cache.is_absolute()) {
            let line = text
                .lines()
                .position(|l| l.trim_start().starts_with("cache"));
            return Err(error(
                line.map_or(1, |at| at + 1),
                format!("cache '{}' must be an absolute path", cache.display()),
            ));
        }
        for (name, place) in &config.registries {
            let bad = |text: &&String| {
                text.is_empty()
                    || text.contains("://")
                    || text.starts_with('/')
                    || text.ends_with('/')
            };
            if let Some(wrong) = [name, place].into_iter().find(bad) {
                let line = text.lines().position(|line| line.contains(name.as_str()));
                return Err(error(
                    line.map_or(1, |at| at + 1),
                    format!(
                        "registries: '{wrong}' must be a host, or a host and a path, such as registry.example/team"
                    ),
                ));
            }
        }
        Ok(config)
    }

    /// The URI of a registry's repository, where `registries` says that it lies elsewhere.
    #[must_use]
    pub fn registry(&self, uri: &str) -> String {
        let Some(name) = uri.strip_prefix("oci://") else {
            return uri.to_owned();
        };
        // A login in it is for whoever is asked in the end.
        let host = name.find('/').unwrap_or(name.len());
        let (login, name) = name.split_at(name[..host].rfind('@').map_or(0, |at| at + 1));
        let found = self.registries.iter().filter_map(|(prefix, place)| {
            let rest = name.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then_some((prefix.len(), place, rest))
        });
        match found.max_by_key(|(length, ..)| *length) {
            Some((_, place, rest)) => format!("oci://{login}{place}{rest}"),
            None => uri.to_owned(),
        }
    }
}

fn unknown(key: &str) -> String {
    let near = KEYS
        .iter()
        .map(|known| (strsim::osa_distance(key, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match near {
        Some((_, known)) => format!("unknown key '{key}'; did you mean '{known}'?"),
        None => format!("unknown key '{key}'; there are {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UserConfig, String> {
        UserConfig::parse(text, Path::new("c.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn all_keys() {
        let config = parse(
            "mirror = \"http://m/debian\"\nsecurity-mirror = \"http://s\"\n\
             snapshot = \"http://o\"\ncache = \"/srv/cache\"\n",
        )
        .unwrap();
        assert_eq!(config.security_mirror.as_deref(), Some("http://s"));
        assert_eq!(config.cache, Some(PathBuf::from("/srv/cache")));
        assert_eq!(parse("").unwrap(), UserConfig::default());
        let keys = UserConfig::parse(
            "trusted-keys = [\"team.pub\", \"/srv/ci.pub\"]",
            Path::new("/home/ann/.config/slipform/config.toml"),
        );
        assert_eq!(
            keys.unwrap().trusted_keys,
            ["/home/ann/.config/slipform/team.pub", "/srv/ci.pub"].map(PathBuf::from)
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, expected) in [
            (
                "\nmiror = \"x\"",
                "c.toml:2: unknown key 'miror'; did you mean 'mirror'?",
            ),
            (
                "[network]\nx = 1",
                "c.toml:1: unknown key 'network'; there are mirror, security-mirror, snapshot, cache, sources, trusted-keys, registries",
            ),
            (
                "\n\ncache = \"a/b\"",
                "c.toml:3: cache 'a/b' must be an absolute path",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        assert!(parse("mirror = 3").unwrap_err().starts_with("c.toml:1: "));
        assert!(
            parse("# x\nmirror = ")
                .unwrap_err()
                .starts_with("c.toml:2: ")
        );
    }

    #[test]
    fn registries_lie_where_the_user_says() {
        let config = parse(
            "[registries]\n\"images.example\" = \"api.example:5000\"\n\
             \"images.example/team\" = \"127.0.0.1:5000/mirror\"\nshort = \"api.example/library\"\n",
        )
        .unwrap();
        for (written, lies) in [
            ("oci://images.example/a/b", "oci://api.example:5000/a/b"),
            (
                "oci://images.example/team/b",
                "oci://127.0.0.1:5000/mirror/b",
            ),
            (
                "oci://images.example/teams/b",
                "oci://api.example:5000/teams/b",
            ),
            (
                "oci://ann:pw@images.example/a",
                "oci://ann:pw@api.example:5000/a",
            ),
            ("oci://short/nginx", "oci://api.example/library/nginx"),
            ("oci://images.example.org/a", "oci://images.example.org/a"),
            (
                "oci://other/images.example/a",
                "oci://other/images.example/a",
            ),
            ("file:///images.example/a", "file:///images.example/a"),
        ] {
            assert_eq!(config.registry(written), lies);
        }
        for wrong in ["\"\"", "\"https://x\"", "\"x/\"", "\"/x\""] {
            let error = parse(&format!("[registries]\na = {wrong}\n")).unwrap_err();
            assert!(error.starts_with("c.toml:2: registries: "), "{error}");
        }
    }

    #[test]
    fn found_where_the_user_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, mirror: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("mirror = '{mirror}'")).unwrap();
        };
        write("home/.config/slipform/config.toml", "home");
        write("xdg/slipform/config.toml", "xdg");
        let (home, xdg) = (folder.path().join("home"), folder.path().join("xdg"));
        let home = ("HOME", home.to_str().unwrap());
        let xdg = ("XDG_CONFIG_HOME", xdg.to_str().unwrap());
        for (env, expected) in [
            (vec![home], Some("home")),
            (vec![home, xdg], Some("xdg")),
            (vec![home, ("XDG_CONFIG_HOME", "relative")], Some("home")),
            (vec![("HOME", "/nowhere")], None),
            (vec![], None),
        ] {
            let config = UserConfig::load(&Host::fake("/nowhere", &env)).unwrap();
            assert_eq!(config.mirror.as_deref(), expected);
        }
    }
}
