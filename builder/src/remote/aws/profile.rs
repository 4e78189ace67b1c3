//! Whose keys, which region, which endpoint: from AWS's environment variables,
//! else its files in `~/.aws`.

use std::path::PathBuf;

use crate::remote::RemoteError;
use crate::sources::Host;
use crate::sources::uri::Uri;

/// Access keys.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::remote) struct Keys {
    pub(in crate::remote) id: String,
    pub(in crate::remote) secret: String,
    pub(in crate::remote) token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// They go into headers.
    pub(super) fn check(&self) -> Result<(), String> {
        let fine = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if fine(&self.id) && fine(&self.secret) && self.token.as_deref().is_none_or(fine) {
            return Ok(());
        }
        Err("the keys have characters that no keys have".to_owned())
    }
}

/// What the host says about a service.
#[derive(Debug)]
pub(in crate::remote) struct Profile {
    /// Nothing: asked without a signature, which does for public buckets.
    pub(in crate::remote) keys: Option<Keys>,
    pub(in crate::remote) region: String,
    /// Nothing: AWS's own.
    pub(in crate::remote) endpoint: Option<Uri>,
    /// The setting by which the profile has its keys from somebody that is not asked here.
    pub(in crate::remote) by_others: Option<&'static str>,
}

/// Settings of profiles that say how to get keys, rather than which.
const BY_OTHERS: &[&str] = &[
    "credential_process",
    "role_arn",
    "sso_session",
    "sso_start_url",
];

impl Profile {
    /// What the host says about `service`, as the variables of endpoints name it: `S3`.
    pub(in crate::remote) fn load(host: &Host, service: &str) -> Result<Self, RemoteError> {
        let file = |variable: &str, name: &str| {
            let path = match host.var(variable) {
                Some(path) => PathBuf::from(path),
                None => host.home()?.join(".aws").join(name),
            };
            Some((Host::read(&path)?, path))
        };
        let name = host.first_var(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = file("AWS_CONFIG_FILE", "config");
        let name = name.unwrap_or("default");
        let get = |key: &str| {
            let secret = credentials
                .as_ref()
                .and_then(|(text, _)| value(text, name, key));
            secret.or_else(|| {
                let section = match name {
                    "default" => name.to_owned(),
                    name => format!("profile {name}"),
                };
                value(&config.as_ref()?.0, &section, key)
            })
        };
        let keys = match (
            host.var("AWS_ACCESS_KEY_ID"),
            host.var("AWS_SECRET_ACCESS_KEY"),
        ) {
            (Some(id), Some(secret)) => Some(Keys {
                id: id.to_owned(),
                secret: secret.to_owned(),
                token: host.var("AWS_SESSION_TOKEN").map(str::to_owned),
            }),
            _ => match (get("aws_access_key_id"), get("aws_secret_access_key")) {
                (Some(id), Some(secret)) => Some(Keys {
                    id,
                    secret,
                    token: get("aws_session_token"),
                }),
                _ => None,
            },
        };
        if let Some(keys) = &keys
            && let Err(why) = keys.check()
        {
            let path = credentials.as_ref().map(|(_, path)| path.clone());
            return Err(RemoteError::Login {
                path: path.unwrap_or_else(|| "AWS_ACCESS_KEY_ID".into()),
                why,
            });
        }
        let region = host
            .first_var(&["AWS_REGION", "AWS_DEFAULT_REGION"])
            .map(str::to_owned)
            .or_else(|| get("region"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        if !region
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(RemoteError::Login {
                path: "AWS_REGION".into(),
                why: format!("'{}' is no region", region.escape_debug()),
            });
        }
        let endpoint = host
            .first_var(&[&format!("AWS_ENDPOINT_URL_{service}"), "AWS_ENDPOINT_URL"])
            .map(str::to_owned)
            .or_else(|| get("endpoint_url"));
        let endpoint = endpoint.map(|text| Uri::parse(&text)).transpose()?;
        let by_others = BY_OTHERS.iter().find(|key| get(key).is_some());
        Ok(Self {
            keys,
            region,
            endpoint,
            by_others: by_others.copied(),
        })
    }
}

/// A key's value in a section of an ini file.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut inside = false;
    let mut found = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            inside = name.trim() == section;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            found = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_before_files() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        std::fs::write(
            folder.path().join(".aws/credentials"),
            "[default]\naws_access_key_id = A\naws_secret_access_key=S\n# aws_session_token = no\n\
             [ci]\naws_access_key_id=CI\naws_secret_access_key=SCI\naws_session_token=T\n",
        )
        .unwrap();
        std::fs::write(
            folder.path().join(".aws/config"),
            "[default]\nregion = eu-1\n[profile ci]\nregion = eu-2\nendpoint_url = http://localhost:9\n\
             [profile sso]\nsso_session = team\n",
        )
        .unwrap();
        let load = |env: &[(&str, &str)]| {
            let mut all = vec![("HOME", home)];
            all.extend(env);
            Profile::load(&Host::fake(home, &all), "S3").unwrap()
        };
        let found = load(&[]);
        let keys = found.keys.unwrap();
        assert_eq!((&*keys.id, &*keys.secret, &keys.token), ("A", "S", &None));
        assert_eq!((&*found.region, found.endpoint), ("eu-1", None));
        assert!(!format!("{:?}", load(&[])).contains("\"S\""));

        let found = load(&[("AWS_PROFILE", "ci")]);
        assert_eq!(found.keys.unwrap().token.as_deref(), Some("T"));
        assert_eq!(found.region, "eu-2");
        assert_eq!(found.endpoint.unwrap().public(), "http://localhost:9/");

        assert_eq!(found.by_others, None);
        let found = load(&[("AWS_PROFILE", "sso")]);
        assert_eq!(found.by_others, Some("sso_session"));

        let found = load(&[
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "SE"),
            ("AWS_REGION", "us-9"),
            ("AWS_ENDPOINT_URL", "https://e"),
            ("AWS_ENDPOINT_URL_S3", "https://s"),
        ]);
        assert_eq!(found.keys.unwrap().id, "E");
        assert_eq!(found.region, "us-9");
        assert_eq!(found.endpoint.unwrap().host, "s");
        let bare = Profile::load(&Host::fake("/nowhere", &[]), "S3").unwrap();
        assert!(bare.keys.is_none());
    }
}
