//! Logins as a registry asks for them (`WWW-Authenticate`): Basic, or Bearer
//! with a token from where it says (distribution's "Token Authentication").

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};

use super::logins::{Logins, Secret};
use super::session::{Access, Session};
use crate::remote::http::{Call, Payload, Trouble, read_all, refused, strict};
use crate::sources::uri::Uri;

/// Largest answer of a token server, and largest token, in bytes.
const TOKEN_LIMIT: u64 = 64 * 1024;

/// Most challenges and parameters that are looked at.
const MOST: usize = 32;

/// One way in which a registry wants a login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case: `basic`, `bearer`.
    pub(super) scheme: String,
    pub(super) realm: Option<String>,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

/// What `Authorization` says now, for reading and for writing.
pub(super) struct Keyring {
    logins: Logins,
    repository: String,
    headers: Mutex<[Option<String>; 2]>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("logins", &self.logins)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    pub(super) fn new(logins: Logins, repository: String) -> Self {
        Self {
            logins,
            repository,
            headers: Mutex::default(),
        }
    }

    /// The header for a request; reading goes with what may write, too.
    pub(super) fn header(&self, access: Access) -> Option<String> {
        let headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        match access {
            Access::Pull => headers[0].clone().or_else(|| headers[1].clone()),
            Access::Push => headers[1].clone(),
        }
    }

    /// Gets a new header after a 401; `used` is the one that did not do. Says
    /// whether there is another one to try.
    pub(super) fn renew(
        &self,
        session: &Session,
        access: Access,
        asked: &[Challenge],
        used: Option<&str>,
    ) -> Result<bool, Trouble> {
        // Held while the token comes: other threads wait for it instead of asking, too.
        let mut headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut headers[usize::from(access == Access::Push)];
        if slot.is_some() && slot.as_deref() != used {
            return Ok(true);
        }
        let secret = self.logins.find()?;
        let new = match asked.iter().find(|c| c.scheme == "bearer") {
            Some(challenge) => Some(self.bearer(session, access, challenge, secret)?),
            None if asked.iter().any(|c| c.scheme == "basic") => match secret {
                Some(Secret::Login(login)) => Some(login.basic()),
                _ => None,
            },
            None => None,
        };
        let useful = new.is_some() && new.as_deref() != used;
        *slot = new;
        Ok(useful)
    }

    fn bearer(
        &self,
        session: &Session,
        access: Access,
        challenge: &Challenge,
        secret: Option<Secret>,
    ) -> Result<String, Trouble> {
        if let Some(Secret::Token(token)) = secret {
            return Ok(format!("Bearer {token}"));
        }
        let realm = challenge.realm.as_deref().unwrap_or_default();
        let mut uri = Uri::parse(realm)?;
        uri.login = None;
        if !session.may_go_to(&uri) {
            return Err(session.broken(
                "it sends for tokens to a place without TLS, or on this host; logins are not sent there",
            ));
        }
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let scope = challenge
            .scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:{actions}", self.repository));
        let mut query = Vec::new();
        if let Some(service) = &challenge.service {
            query.push(("service", service.as_str()));
        }
        query.push(("scope", &scope));
        let body;
        let call = match &secret {
            Some(Secret::Identity(token)) => {
                query.push(("grant_type", "refresh_token"));
                query.push(("client_id", "slipform"));
                query.push(("refresh_token", token));
                body = join(&query);
                Call::new(Method::POST, uri.clone())
                    .with(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Payload::Bytes(body.as_bytes()))
            }
            secret => {
                let mut asked = uri.clone();
                let mark = if asked.path.contains('?') { '&' } else { '?' };
                asked.path = format!("{}{mark}{}", asked.path, join(&query));
                let call = Call::new(Method::GET, asked);
                match secret {
                    Some(Secret::Login(login)) => call.with(AUTHORIZATION, login.basic()),
                    _ => call,
                }
            }
        };
        let answer = session.http.send(&call, &[])?;
        if answer.status() != 200 {
            let place = uri.public();
            let place = place.split('?').next().unwrap_or_default();
            return Err(refused("get a token", place, answer));
        }
        let bytes = read_all(answer, TOKEN_LIMIT, "a token")?;
        let token = parse_token(&bytes).ok_or_else(|| session.broken("its token is broken"))?;
        Ok(format!("Bearer {token}"))
    }
}

fn join(query: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = query
        .iter()
        .map(|(key, value)| format!("{key}={}", strict(value)))
        .collect();
    pairs.join("&")
}

fn parse_token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let found: Token = serde_json::from_slice(bytes).ok()?;
    let token = found.token.or(found.access_token)?;
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then_some(token)
}

/// Reads the values of `WWW-Authenticate` (RFC 9110, 11.6.1).
pub(super) fn challenges(values: &[String]) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    for value in values {
        let mut rest = value.as_str();
        for _ in 0..MOST {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            if word.is_empty() {
                break;
            }
            let Some(tail) = tail.trim_start().strip_prefix('=') else {
                found.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    ..Challenge::default()
                });
                rest = tail;
                continue;
            };
            let (text, tail) = parameter(tail.trim_start());
            rest = tail;
            if let Some(challenge) = found.last_mut() {
                match word.to_ascii_lowercase().as_str() {
                    "realm" => challenge.realm = Some(text),
                    "service" => challenge.service = Some(text),
                    "scope" => challenge.scope = Some(text),
                    _ => {}
                }
            }
        }
    }
    found
}

/// A parameter's value, a word or a quoted string, and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(scheme: &str, [realm, service, scope]: [&str; 3]) -> Challenge {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge {
            scheme: scheme.to_owned(),
            realm: set(realm),
            service: set(service),
            scope: set(scope),
        }
    }

    #[test]
    fn challenges_as_servers_write_them() {
        let read = |values: &[&str]| {
            challenges(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(
            read(&[r#"Bearer realm="https://a/t",service="r",scope="repository:a/b:pull,push""#]),
            [one(
                "bearer",
                ["https://a/t", "r", "repository:a/b:pull,push"]
            )]
        );
        assert_eq!(
            read(&[
                r#"Basic realm="a \"b\", c", Bearer realm=x , scope = "y""#,
                "Negotiate"
            ]),
            [
                one("basic", ["a \"b\", c", "", ""]),
                one("bearer", ["x", "", "y"]),
                one("negotiate", ["", "", ""])
            ]
        );
        assert!(read(&["", ",,", "=x"]).is_empty());
    }

    #[test]
    fn mutated_challenges_and_tokens_do_not_panic() {
        let seed = br#"Basic realm="a \"b\", c", Bearer realm="https://h/t",scope="y""#;
        slipform_fuzz::fuzz(&[seed], |bytes, _| {
            let _read = challenges(&[String::from_utf8_lossy(bytes).into_owned()]);
        });
        slipform_fuzz::fuzz(&[br#"{"token":"abc","expires_in":300}"#], |bytes, _| {
            if let Some(token) = parse_token(bytes) {
                assert!(token.bytes().all(|b| b.is_ascii_graphic()));
            }
        });
    }
}
