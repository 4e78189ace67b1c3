//! Keys that are lent: for a token that says who runs this (web identity: EKS, CI), by a
//! container's endpoint (ECS, EKS), or for an instance's role (IMDSv2).

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};

use super::profile::Keys;
use super::{now, xml};
use crate::lock::date;
use crate::remote::RemoteError;
use crate::remote::http::{Answer, strict};
use crate::sources::Host;
use crate::sources::uri::{Scheme, Uri};
use crate::sources::wire::Wire;

/// Where an instance asks for its keys, and a container of ECS.
const INSTANCE: &str = "http://169.254.169.254";
const CONTAINER: &str = "http://169.254.170.2";
/// Hosts that may be asked in clear: this one, and what AWS puts on the link itself.
const ON_LINK: &[&str] = &[
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
];
/// Longest answer with keys, in bytes.
const LIMIT: u64 = 64 * 1024;
/// Seconds before their end at which keys are not used any more.
const SPARE: i64 = 300;
/// How long keys without an end are used, in seconds.
const UNTOLD: i64 = 900;

const WANT_TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");

/// Where keys come from.
#[derive(Debug)]
enum Source {
    /// They stand in the environment or in a file.
    Fixed(Keys),
    /// Security Token Service, for a token in a file.
    Web(Uri, Identity),
    /// A container's endpoint, and what it wants to be told.
    Container(Uri, Option<String>),
    /// The machine's role.
    Instance(Uri),
}

/// Who somebody else says that this is.
#[derive(Debug)]
struct Identity {
    /// The token; whoever gave it renews it there.
    file: PathBuf,
    role: String,
    session: String,
}

/// Keys, asked for again before they end.
#[derive(Debug)]
pub(in crate::remote) struct Credentials {
    source: Source,
    /// To the machine's own link.
    wire: Wire,
    /// Out, as the host goes there.
    network: Wire,
    /// Those at hand, and until when they are used.
    lent: Mutex<Option<(Keys, i64)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl Credentials {
    /// `fixed` if there are such; else what the machine lends.
    pub(in crate::remote) fn find(
        host: &Host,
        region: &str,
        fixed: Option<Keys>,
    ) -> Result<Self, RemoteError> {
        let source = match fixed {
            Some(keys) => Source::Fixed(keys),
            None => match web_identity(host, region)? {
                Some(web) => web,
                None => lender(host)?,
            },
        };
        // No proxy of the host's leads to its own link.
        let nothing = Host::fake("/nonexistent", &[]);
        Ok(Self {
            source,
            wire: Wire::new(&nothing, Duration::from_secs(2), Duration::from_secs(5)),
            network: Wire::new(host, Duration::from_secs(20), Duration::from_secs(60)),
            lent: Mutex::default(),
        })
    }

    /// `fixed`, or what a machine lends that is said to lend some; nothing elsewhere, without
    /// asking anybody.
    pub(in crate::remote) fn find_known(
        host: &Host,
        region: &str,
        fixed: Option<Keys>,
    ) -> Result<Option<Self>, RemoteError> {
        if fixed.is_none() && !is_lender(host) {
            return Ok(None);
        }
        Self::find(host, region, fixed).map(Some)
    }

    /// The keys to sign with now.
    pub(in crate::remote) fn keys(&self) -> Result<Keys, RemoteError> {
        if let Source::Fixed(keys) = &self.source {
            return Ok(keys.clone());
        }
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((keys, until)) = &*lent
            && now() < *until
        {
            return Ok(keys.clone());
        }
        let (keys, until) = self.lend()?;
        *lent = Some((keys.clone(), until));
        Ok(keys)
    }

    /// A service says that the keys have ended: whether others can be had.
    pub(super) fn renew(&self) -> bool {
        *self.lent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        !matches!(self.source, Source::Fixed(_))
    }

    fn lend(&self) -> Result<(Keys, i64), RemoteError> {
        let text = match &self.source {
            Source::Fixed(_) => return Err(nobody("the keys are fixed ones")),
            Source::Web(uri, identity) => return self.for_token(uri, identity),
            Source::Container(uri, token) => {
                let headers: Vec<_> = token.iter().map(|t| (AUTHORIZATION, t.clone())).collect();
                self.ask(Method::GET, uri, &headers)?
            }
            Source::Instance(root) => {
                let at = |path: &str| {
                    let mut uri = root.clone();
                    uri.path = format!("{}{path}", root.path.trim_end_matches('/'));
                    uri
                };
                let want = [(WANT_TOKEN, "21600".to_owned())];
                let token = self.ask(Method::PUT, &at("/latest/api/token"), &want)?;
                let login = [(TOKEN, token.trim().to_owned())];
                let list = "/latest/meta-data/iam/security-credentials/";
                let role = self.ask(Method::GET, &at(list), &login)?;
                let role = role.lines().next().unwrap_or_default().trim();
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
                if role.is_empty() || !role.bytes().all(plain) {
                    return Err(nobody("this machine has no role"));
                }
                self.ask(Method::GET, &at(&format!("{list}{role}")), &login)?
            }
        };
        let lent: Lent = serde_json::from_str(&text)
            .map_err(|error| nobody(&format!("what the machine lends is no keys: {error}")))?;
        checked(lent)
    }

    /// `AssumeRoleWithWebIdentity` ("AWS Security Token Service API Reference").
    fn for_token(&self, uri: &Uri, identity: &Identity) -> Result<(Keys, i64), RemoteError> {
        let token = Host::read(&identity.file)
            .ok_or_else(|| nobody(&format!("{} cannot be read", identity.file.display())))?;
        let mut form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15".to_owned();
        for (name, value) in [
            ("RoleArn", identity.role.as_str()),
            ("RoleSessionName", &identity.session),
            ("WebIdentityToken", token.trim()),
        ] {
            form.push_str(&format!("&{name}={}", strict(value)));
        }
        let kind = "application/x-www-form-urlencoded; charset=utf-8".to_owned();
        let mut body = form.as_bytes();
        let length = body.len() as u64;
        let answer = self.network.send(
            Method::POST,
            uri,
            &[(CONTENT_TYPE, kind)],
            Some((&mut body, length)),
        );
        let text = text_of(answer.map_err(|error| nobody(&error.why))?, uri)?;
        let get = |name: &str| xml::text(&text, name);
        let wrong = || nobody("the Security Token Service answers without keys");
        checked(Lent {
            access_key_id: get("AccessKeyId").ok_or_else(wrong)?,
            secret_access_key: get("SecretAccessKey").ok_or_else(wrong)?,
            token: get("SessionToken"),
            expiration: get("Expiration"),
        })
    }

    fn ask(
        &self,
        method: Method,
        uri: &Uri,
        headers: &[(HeaderName, String)],
    ) -> Result<String, RemoteError> {
        let answer = self
            .wire
            .send(method, uri, headers, None)
            .map_err(|error| nobody(&error.why))?;
        text_of(answer, uri)
    }
}

/// The text of a good answer.
fn text_of(answer: Answer, uri: &Uri) -> Result<String, RemoteError> {
    let status = answer.status().as_u16();
    let mut text = String::new();
    let read = answer
        .into_body()
        .into_reader()
        .take(LIMIT)
        .read_to_string(&mut text);
    match (status, read) {
        (200, Ok(_)) => Ok(text),
        (200, Err(error)) => Err(nobody(&error.to_string())),
        _ => Err(nobody(&format!("{} answers {status}", uri.public()))),
    }
}

/// Keys as they came, and until when they are used.
fn checked(lent: Lent) -> Result<(Keys, i64), RemoteError> {
    let until = lent.expiration.as_deref().and_then(date::parse_rfc3339);
    let keys = Keys {
        id: lent.access_key_id,
        secret: lent.secret_access_key,
        token: lent.token.filter(|token| !token.is_empty()),
    };
    keys.check().map_err(|why| nobody(&why))?;
    let until = until.map_or_else(|| now() + UNTOLD, |until| until - SPARE);
    Ok((keys, until))
}

/// What the host says of a web identity, if it has one.
fn web_identity(host: &Host, region: &str) -> Result<Option<Source>, RemoteError> {
    let (Some(file), Some(role)) = (
        host.var("AWS_WEB_IDENTITY_TOKEN_FILE"),
        host.var("AWS_ROLE_ARN"),
    ) else {
        return Ok(None);
    };
    let uri = match host.first_var(&["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"]) {
        Some(uri) => on_link(uri)?,
        None => {
            let china = if region.starts_with("cn-") { ".cn" } else { "" };
            Uri::parse(&format!("https://sts.{region}.amazonaws.com{china}"))?
        }
    };
    let session = host.var("AWS_ROLE_SESSION_NAME").unwrap_or("slipform");
    let identity = Identity {
        file: PathBuf::from(file),
        role: role.to_owned(),
        session: session.to_owned(),
    };
    Ok(Some(Source::Web(uri, identity)))
}

/// Whether this is known to be a machine that lends keys: a container's variables, or the
/// firmware's word that it runs on EC2.
fn is_lender(host: &Host) -> bool {
    let told = [
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ];
    let off = host.var("AWS_EC2_METADATA_DISABLED");
    let vendor = || Host::read(&host.at("/sys/class/dmi/id/sys_vendor"));
    host.first_var(&told).is_some()
        || (off.is_none() && vendor().is_some_and(|vendor| vendor.trim() == "Amazon EC2"))
}

/// Who lends keys here.
fn lender(host: &Host) -> Result<Source, RemoteError> {
    let told = host.var("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    let file = host.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    let token = match (file, told) {
        (Some(file), _) => Host::read(std::path::Path::new(file)).map(|t| t.trim().to_owned()),
        (None, told) => told.map(str::to_owned),
    };
    if let Some(token) = &token
        && !token.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    {
        return Err(nobody("the container's token has a line break"));
    }
    let full = host.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let container = match host.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        Some(path) => Some(format!("{CONTAINER}/{}", path.trim_start_matches('/'))),
        None => full.map(str::to_owned),
    };
    if let Some(container) = container {
        return Ok(Source::Container(on_link(&container)?, token));
    }
    if host
        .var("AWS_EC2_METADATA_DISABLED")
        .is_some_and(|text| text.eq_ignore_ascii_case("true"))
    {
        return Err(nobody("AWS_EC2_METADATA_DISABLED is set"));
    }
    let instance = host
        .var("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        .unwrap_or(INSTANCE);
    Ok(Source::Instance(on_link(instance)?))
}

/// Keys must not be asked for in clear over a network.
fn on_link(text: &str) -> Result<Uri, RemoteError> {
    let uri = Uri::parse(text)?;
    let near = uri.is_loopback() || ON_LINK.contains(&uri.host.as_str());
    if uri.scheme == Scheme::Https || near {
        return Ok(uri);
    }
    Err(nobody(&format!(
        "{} is neither https nor on this machine's link",
        uri.public()
    )))
}

fn nobody(why: &str) -> RemoteError {
    RemoteError::Login {
        path: "AWS_ACCESS_KEY_ID, ~/.aws and the machine's role".into(),
        why: format!("{why}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::remote::testing::{Reply, Request, Server};

    fn keys(id: &str) -> Reply {
        let until = date::rfc3339(now() + 3600);
        Reply::status(200).body(format!(
            r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"S","Token":"T","Expiration":"{until}"}}"#
        ))
    }

    #[test]
    fn an_instance_lends_the_keys_of_its_role_by_imdsv2() {
        let server = Server::start(Arc::new(|request: &Request| {
            let known = request.header("x-aws-ec2-metadata-token") == "tok";
            match (request.method.as_str(), request.path()) {
                ("PUT", "/latest/api/token") => Reply::status(200).body("tok"),
                ("GET", "/latest/meta-data/iam/security-credentials/") if known => {
                    Reply::status(200).body("builder\n")
                }
                ("GET", "/latest/meta-data/iam/security-credentials/builder") if known => {
                    keys("ROLE")
                }
                _ => Reply::status(401),
            }
        }));
        let at = format!("http://{}", server.address());
        let host = Host::fake("/nowhere", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &at)]);
        let credentials = Credentials::find(&host, "r-1", None).unwrap();
        let found = credentials.keys().unwrap();
        assert_eq!((&*found.id, found.token.as_deref()), ("ROLE", Some("T")));
        assert!(credentials.renew());
    }

    #[test]
    fn a_web_identitys_token_is_given_for_keys() {
        let server = Server::start(Arc::new(|request: &Request| {
            let form = String::from_utf8_lossy(&request.body);
            let good = request.method == "POST"
                && form.contains("Action=AssumeRoleWithWebIdentity&Version=2011-06-15")
                && form.contains("&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fci")
                && form.ends_with("&WebIdentityToken=ey.J%2B");
            if !good {
                return Reply::status(403);
            }
            let until = date::rfc3339(now() + 3600);
            Reply::status(200).body(format!(
                "<R xmlns=\"x\"><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>T</SessionToken><SecretAccessKey>S</SecretAccessKey><Expiration>{until}</Expiration><AccessKeyId>WEB</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></R>"
            ))
        }));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "ey.J+\n").unwrap();
        let at = format!("http://{}", server.address());
        let variables = [
            ("AWS_ENDPOINT_URL_STS", at.as_str()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/ci"),
        ];
        let host = Host::fake("/nowhere", &variables);
        let find = || Credentials::find(&host, "r-1", None).unwrap().keys();
        let keys = find().unwrap();
        assert_eq!((&*keys.id, &*keys.secret), ("WEB", "S"));
        std::fs::write(&file, "another").unwrap();
        assert!(find().unwrap_err().to_string().contains("answers 403"));
    }

    #[test]
    fn a_container_lends_keys_to_who_has_its_token() {
        let server = Server::start(Arc::new(|request: &Request| {
            if request.header("authorization") == "secret" {
                keys("TASK")
            } else {
                Reply::status(403)
            }
        }));
        let at = format!("http://{}/v1", server.address());
        let host = |token: &str| {
            Host::fake(
                "/nowhere",
                &[
                    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &at),
                    ("AWS_CONTAINER_AUTHORIZATION_TOKEN", token),
                ],
            )
        };
        let find = |token: &str| Credentials::find(&host(token), "r-1", None).unwrap().keys();
        assert_eq!(find("secret").unwrap().id, "TASK");
        let error = find("wrong").unwrap_err().to_string();
        assert!(
            error.contains("403") && error.contains("AWS_PROFILE"),
            "{error}"
        );
    }

    #[test]
    fn keys_are_not_asked_for_in_clear_elsewhere() {
        let uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.org/");
        let error = Credentials::find(&Host::fake("/nowhere", &[uri]), "r-1", None).unwrap_err();
        assert!(error.to_string().contains("neither https"), "{error}");
    }
}
