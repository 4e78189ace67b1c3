//! One request to a registry: with a login where it wants one, along redirects.
//!
//! A login is sent to the registry's own host and to where that sends for
//! tokens; never to where a blob is redirected.

use ureq::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{HeaderMap, Method};

use super::logins::Logins;
use super::token::{Keyring, challenges};
use crate::remote::RemoteError;
use crate::remote::http::{Answer, Call, Http, Trouble, header};
use crate::sources::Host;
use crate::sources::uri::{Login, Scheme, Uri};

/// Most redirects and renewed logins of one request.
const DETOURS: usize = 6;

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

/// The way to one repository.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) http: Http,
    /// `https://host/v2/repository`.
    pub(super) base: Uri,
    keyring: Keyring,
}

impl Session {
    pub(super) fn new(
        http: Http,
        host: &Host,
        base: Uri,
        repository: String,
        login: Option<Login>,
    ) -> Self {
        let logins = Logins::new(host, &base, &repository, login);
        Self {
            keyring: Keyring::new(logins, repository),
            http,
            base,
        }
    }

    /// Asks. Whatever the status, an answer is no error, but for a login that
    /// cannot be had.
    pub(super) fn ask(&self, mut call: Call<'_>, access: Access) -> Result<Answer, Trouble> {
        let mut renewed = false;
        for _ in 0..DETOURS {
            let own = call.uri.same_origin(&self.base);
            let used = own.then(|| self.keyring.header(access)).flatten();
            let login: Vec<_> = used.iter().map(|l| (AUTHORIZATION, l.clone())).collect();
            let answer = self.http.send(&call, &login)?;
            match answer.status().as_u16() {
                401 if own && !renewed => {
                    renewed = true;
                    let asked = challenges(&values(answer.headers()));
                    if !self.keyring.renew(self, access, &asked, used.as_deref())? {
                        return Ok(answer);
                    }
                }
                status @ (301 | 302 | 303 | 307 | 308) => {
                    let reading = [Method::GET, Method::HEAD].contains(&call.method);
                    if !reading && !matches!(status, 307 | 308) {
                        return Ok(answer);
                    }
                    call.uri = self.follow(&call.uri, &answer)?;
                }
                _ => return Ok(answer),
            }
        }
        Err(self.broken("it redirects more often than is followed"))
    }

    /// Where `Location` leads, if one may go there.
    pub(super) fn follow(&self, from: &Uri, answer: &Answer) -> Result<Uri, Trouble> {
        let Some(location) = header(answer, &LOCATION) else {
            return Err(self.broken("an answer lacks its Location"));
        };
        let mut next = from.resolve(location)?;
        next.login = None;
        if !self.may_go_to(&next) {
            return Err(self.broken(&format!(
                "it leads to {}, which is not followed",
                next.public().split('?').next().unwrap_or_default()
            )));
        }
        Ok(next)
    }

    /// TLS is never left; this host is asked only where it was named.
    pub(super) fn may_go_to(&self, next: &Uri) -> bool {
        match next.scheme {
            Scheme::Https => true,
            Scheme::Http => self.base.scheme == Scheme::Http && next.is_loopback(),
            Scheme::File => false,
        }
    }

    pub(super) fn broken(&self, why: &str) -> Trouble {
        Trouble::Final(RemoteError::Transport {
            operation: "talk to the registry".to_owned(),
            uri: self.base.public(),
            why: why.to_owned(),
        })
    }
}

fn values(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect()
}
