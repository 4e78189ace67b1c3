//! Who asks: an access token, or a service account's key, which Google changes for a token
//! that lives an hour (RFC 7523).

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};

use crate::base::base64;
use crate::remote::RemoteError;
use crate::remote::http::{Call, Http, Payload, Trouble, read_all, refused, strict};
use crate::sources::Host;
use crate::sources::uri::Uri;

/// Variables with a token, as Google's command line and others have them.
const TOKENS: [&str; 2] = ["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"];
/// The variable that names a key's file.
const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Seconds that a token is asked for, and before its end that it is not used any more.
const LIFE: i64 = 3600;
const SPARE: i64 = 120;
/// Largest answer with a token.
const LIMIT: u64 = 64 * 1024;

enum Secret {
    Token(String),
    Key(Box<Key>),
}

/// A service account's key.
struct Key {
    email: String,
    id: String,
    pair: RsaKeyPair,
    uri: Uri,
}

/// A key's file, as Google writes it.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    token_uri: String,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    expires_in: i64,
}

/// Who asks. Neither key nor token is ever shown.
pub(super) struct Login {
    secret: Secret,
    /// The token that a key was changed for, and when it ends.
    held: Mutex<Option<(String, i64)>>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl Login {
    /// A token from the environment, else the key whose file it names.
    pub(super) fn load(host: &Host) -> Result<Self, RemoteError> {
        let said = |name: &str| {
            host.var(name)
                .map(str::trim)
                .filter(|text| !text.is_empty())
        };
        let secret = match (TOKENS.into_iter().find_map(said), said(FILE)) {
            (Some(token), _) if token.bytes().all(|b| b.is_ascii_graphic()) => {
                Secret::Token(token.to_owned())
            }
            (Some(_), _) => return Err(wrong(TOKENS[0], "the token has signs that none has")),
            (None, Some(path)) => {
                let text = Host::read(Path::new(path))
                    .ok_or_else(|| wrong(path, "it is not there, or no text"))?;
                Secret::Key(Box::new(Key::parse(path, &text)?))
            }
            (None, None) => return Err(wrong("GOOGLE_…", "there is no login")),
        };
        Ok(Self {
            secret,
            held: Mutex::default(),
        })
    }

    /// The header that a call is sent with.
    pub(super) fn header(&self, http: &Http, now: i64) -> Result<(HeaderName, String), Trouble> {
        let bearer = |token: &str| (AUTHORIZATION, format!("Bearer {token}"));
        let key = match &self.secret {
            Secret::Token(token) => return Ok(bearer(token)),
            Secret::Key(key) => key,
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, end)) = &*held
            && now < *end
        {
            return Ok(bearer(token));
        }
        let token = key.exchange(http, now)?;
        let end = now.saturating_add(token.expires_in.clamp(0, LIFE) - SPARE);
        let header = bearer(&token.access_token);
        *held = Some((token.access_token, end));
        Ok(header)
    }

    /// A token that is refused is not used again.
    pub(super) fn forget(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn wrong(path: &str, why: &str) -> RemoteError {
    RemoteError::Login {
        path: path.into(),
        why: format!(
            "{why}; set {} to a token (`gcloud auth print-access-token`), or {FILE} to a service account's key file",
            TOKENS[0]
        ),
    }
}

impl Key {
    fn parse(path: &str, text: &str) -> Result<Self, RemoteError> {
        let wrong = |why| wrong(path, why);
        let file: KeyFile =
            serde_json::from_str(text).map_err(|_| wrong("it is no key file of Google's"))?;
        if file.kind != "service_account" || file.client_email.is_empty() {
            return Err(wrong("it is no service account's key"));
        }
        let pem = file.private_key.lines();
        let pem: String = pem.filter(|line| !line.starts_with("-----")).collect();
        let der = base64::decode(pem.trim()).ok_or_else(|| wrong("its key is no PEM"))?;
        let der = zeroize::Zeroizing::new(der);
        let pair = RsaKeyPair::from_pkcs8(&der)
            .map_err(|_| wrong("its key is no RSA key of 2048 bits or more"))?;
        Ok(Self {
            email: file.client_email,
            id: file.private_key_id,
            pair,
            uri: Uri::parse(&file.token_uri).map_err(|_| wrong("its token_uri is no address"))?,
        })
    }

    /// What says who asks, signed (RFC 7515, RS256).
    fn assertion(&self, now: i64) -> Option<String> {
        let text = |value: serde_json::Value| {
            Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
        };
        let head = text(serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": self.id}));
        let claims = text(serde_json::json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.uri.public(),
            "iat": now,
            "exp": now + LIFE,
        }));
        let signed = format!("{head}.{claims}");
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let random = SystemRandom::new();
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .ok()?;
        let signature = Base64UrlUnpadded::encode_string(&signature);
        Some(format!("{signed}.{signature}"))
    }

    fn exchange(&self, http: &Http, now: i64) -> Result<Token, Trouble> {
        let uri = self.uri.public();
        let malformed = |why: &str| RemoteError::Malformed {
            what: "a token".to_owned(),
            uri: uri.clone(),
            why: why.to_owned(),
        };
        let assertion = self
            .assertion(now)
            .ok_or_else(|| malformed("the key cannot sign"))?;
        let form = format!("grant_type={}&assertion={assertion}", strict(GRANT));
        let call = Call::new(Method::POST, self.uri.clone())
            .with(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Payload::Bytes(form.as_bytes()));
        let answer = http.send(&call, &[])?;
        if answer.status() != 200 {
            return Err(refused("get a token", &uri, answer));
        }
        let bytes = read_all(answer, LIMIT, "a token")?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|_| malformed("it is no token"))?;
        let graphic = token.access_token.bytes().all(|b| b.is_ascii_graphic());
        if !graphic || token.access_token.is_empty() {
            return Err(malformed("it has signs that no token has").into());
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_and_what_is_wrong_with_one_is_said() {
        let load = |env: &[(&str, &str)]| Login::load(&Host::fake("/nowhere", env));
        let token = load(&[("CLOUDSDK_AUTH_ACCESS_TOKEN", "ya29.secret")]).unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let named = path.to_str().unwrap();
        let key = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&[(FILE, named)]).unwrap_err().to_string()
        };
        let email = r#"{"type": "service_account", "client_email": "a@b""#;
        for (text, said) in [
            ("x".to_owned(), "no key file"),
            (
                r#"{"type": "authorized_user"}"#.to_owned(),
                "no service account's",
            ),
            (format!("{email}, \"private_key\": \"!\"}}"), "no PEM"),
            (
                format!("{email}, \"private_key\": \"AAAA\"}}"),
                "no RSA key",
            ),
        ] {
            let error = key(&text);
            assert!(error.contains(said) && error.contains(FILE), "{error}");
        }
        for env in [
            &[][..],
            &[("GOOGLE_OAUTH_ACCESS_TOKEN", "a b")],
            &[(FILE, "/nowhere/x")],
        ] {
            let error = load(env).unwrap_err().to_string();
            assert!(error.contains("print-access-token"), "{error}");
        }
    }
}
