//! Asks AWS's services: signed, again after what may pass, slower when they say so.

use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::HeaderName;

use super::profile::Profile;
use super::roles::Credentials;
use super::sign::UNSIGNED;
use super::{AwsCall, Pace, Scope, Service, now, sign, xml};
use crate::base::Digest;
use crate::remote::http::{Answer, Call, Http, Payload, Refusal, Trouble, header, read_all};
use crate::remote::{RemoteError, RemoteOptions};
use crate::sources::Host;
use crate::sources::uri::Uri;

/// Longest answer that is read, in bytes.
const ANSWER_LIMIT: u64 = 16 << 20;
/// How often being asked to slow down is heeded before a call is given up.
const THROTTLES: u32 = 60;
/// Longest pause, in units of the first.
const LONGEST: u32 = 40;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What a service says when it is asked too often.
const TOO_MUCH: &[&str] = &[
    "ConcurrentLimitExceededException",
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TooManyUpdates",
];
/// What may pass by itself.
const PASSING: &[&str] = &[
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "RequestTimeout",
    "ServiceUnavailable",
    "Unavailable",
];
/// What does not pass, whatever the status: EBS answers 503 to a token that was used for
/// something else.
const LASTING: &[&str] = &["ConflictException", "ServiceQuotaExceededException"];
/// Keys that have ended.
const ENDED: &[&str] = &["ExpiredToken", "ExpiredTokenException", "RequestExpired"];

/// AWS, as the host's keys and variables lead to it.
#[derive(Debug)]
pub struct Aws {
    http: Http,
    credentials: Credentials,
    /// Endpoints that the host names for EBS, EC2 and SSM.
    endpoints: [Option<Uri>; 3],
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) checksum: Option<String>,
    pub(super) body: Vec<u8>,
}

enum Attempt {
    TooMuch(String, Option<Duration>),
    Again(String, Option<Duration>),
    Ended,
    Final(RemoteError),
}

impl Aws {
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// [`RemoteError::Login`] for keys that cannot be had.
    pub fn open(host: &Host, options: RemoteOptions) -> Result<Self, RemoteError> {
        let [ebs, ec2, ssm] = ["EBS", "EC2", "SSM"].map(|service| Profile::load(host, service));
        let (ebs, ec2, ssm) = (ebs?, ec2?, ssm?);
        if let (None, Some(how)) = (&ec2.keys, ec2.by_others) {
            return Err(RemoteError::Login {
                path: "the profile of AWS".into(),
                why: format!(
                    "its {how} names somebody who is not asked here; set the variables that `aws configure export-credentials --format env` prints"
                ),
            });
        }
        Ok(Self {
            http: Http::new(host, options),
            credentials: Credentials::find(host, &ec2.region, ec2.keys)?,
            endpoints: [ebs.endpoint, ec2.endpoint, ssm.endpoint],
        })
    }

    /// The first pause of whoever waits for something there.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        self.http.options.backoff
    }

    fn endpoint(&self, call: &AwsCall) -> Result<Uri, RemoteError> {
        let [ebs, ec2, ssm] = &self.endpoints;
        let own = match call.service {
            Service::Ebs => ebs,
            Service::Ec2 => ec2,
            Service::Ssm => ssm,
        };
        let mut uri = match own {
            Some(uri) => uri.clone(),
            None => {
                let china = if call.region.starts_with("cn-") {
                    ".cn"
                } else {
                    ""
                };
                let (service, region) = (call.service.name(), &call.region);
                Uri::parse(&format!("https://{service}.{region}.amazonaws.com{china}"))?
            }
        };
        uri.login = None;
        uri.path = format!("{}{}", uri.path.trim_end_matches('/'), call.shape.path);
        Ok(uri)
    }

    /// Asks until there is an answer, or none can be had.
    pub(super) fn ask(&self, call: &AwsCall) -> Result<Reply, RemoteError> {
        self.ask_with(call, &call.shape.body, None)
    }

    /// As [`Aws::ask`], with a body of its own, and keeping to a pace.
    pub(super) fn ask_with(
        &self,
        call: &AwsCall,
        body: &[u8],
        pace: Option<&Pace>,
    ) -> Result<Reply, RemoteError> {
        let (mut slowed, mut failed, mut renewed) = (0, 0, false);
        loop {
            let (why, wait, tried) = match self.attempt(call, body, pace) {
                Ok(reply) => return Ok(reply),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Ended) => {
                    if renewed || !self.credentials.renew() {
                        return Err(self.lasting(call, 403, "ExpiredToken", ""));
                    }
                    renewed = true;
                    continue;
                }
                Err(Attempt::TooMuch(why, wait)) => {
                    slowed += 1;
                    if slowed > THROTTLES {
                        return Err(self.given_up(call, &why, slowed + failed));
                    }
                    (why, wait, slowed)
                }
                Err(Attempt::Again(why, wait)) => {
                    failed += 1;
                    (why, wait, failed)
                }
            };
            if failed > self.http.options.retries {
                return Err(self.given_up(call, &why, slowed + failed));
            }
            let longer = 2u32.saturating_pow(tried.saturating_sub(1)).min(LONGEST);
            let pause = self.http.options.backoff * longer;
            sleep(
                wait.unwrap_or(pause)
                    .max(pause)
                    .min(Duration::from_secs(60)),
            );
        }
    }

    fn attempt(&self, call: &AwsCall, body: &[u8], pace: Option<&Pace>) -> Result<Reply, Attempt> {
        let turn = pace.map(Pace::enter);
        let outcome = self.send(call, body);
        drop(turn);
        if let Some(pace) = pace {
            match &outcome {
                Ok(_) => pace.good(),
                Err(Attempt::TooMuch(..)) => pace.throttled(),
                Err(_) => {}
            }
        }
        outcome
    }

    fn send(&self, call: &AwsCall, body: &[u8]) -> Result<Reply, Attempt> {
        let keys = self.credentials.keys().map_err(Attempt::Final)?;
        let uri = self.endpoint(call).map_err(Attempt::Final)?;
        let mut request = Call::new(call.shape.method.clone(), uri);
        request.headers.clone_from(&call.shape.headers);
        // Also an empty one: some of the services want to be told its length.
        if call.shape.method != Method::GET {
            request = request.body(Payload::Bytes(body));
        }
        let content = if call.shape.unsigned {
            UNSIGNED.to_owned()
        } else {
            Digest::of(body).hex()
        };
        let scope = Scope {
            service: call.service.name(),
            region: &call.region,
            now: now(),
        };
        let login = sign(&request, &keys, &scope, &content);
        let answer = self.http.send(&request, &login).map_err(Attempt::of)?;
        if !answer.status().is_success() {
            return Err(self.refused(call, answer));
        }
        let checksum = header(&answer, &super::ebs::CHECKSUM).map(str::to_owned);
        let body = read_all(answer, ANSWER_LIMIT, call.action).map_err(Attempt::of)?;
        Ok(Reply { checksum, body })
    }

    fn refused(&self, call: &AwsCall, answer: Answer) -> Attempt {
        let told = header(&answer, &ERROR_TYPE).map(str::to_owned);
        let refusal = Refusal::of(answer);
        let (code, message) = said(told.as_deref(), &refusal.text);
        let is = |list: &[&str]| list.contains(&code.as_str());
        let why = format!("the service answers {} {code}", refusal.status);
        if is(LASTING) {
            return Attempt::Final(self.lasting(call, refusal.status, &code, &message));
        }
        if is(ENDED) {
            return Attempt::Ended;
        }
        if is(TOO_MUCH) || refusal.status == 429 || (refusal.status == 503 && code.is_empty()) {
            return Attempt::TooMuch(why, refusal.wait);
        }
        if is(PASSING) || refusal.status == 408 || refusal.status >= 500 {
            return Attempt::Again(why, refusal.wait);
        }
        Attempt::Final(self.lasting(call, refusal.status, &code, &message))
    }

    fn lasting(&self, call: &AwsCall, status: u16, code: &str, message: &str) -> RemoteError {
        let remedy = match code {
            "AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException"
            | "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => {
                "; the keys are wrong or of another account: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and this machine's clock".to_owned()
            }
            "ExpiredToken" => "; AWS_SESSION_TOKEN has ended, get a new one".to_owned(),
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
                format!("; the keys lack the right {}", call.right())
            }
            "OptInRequired" => "; switch the region on for this account".to_owned(),
            "ServiceQuotaExceededException" | "SnapshotLimitExceeded" | "AmiQuotaExceeded" => {
                "; delete what is not needed any more, or ask AWS for a higher quota".to_owned()
            }
            _ => String::new(),
        };
        let message = if message.is_empty() {
            String::new()
        } else {
            format!(": {message}")
        };
        RemoteError::Service {
            operation: call.action,
            place: format!("{} in {}", call.service.name(), call.region),
            status,
            code: code.to_owned(),
            why: format!("{message}{remedy}"),
        }
    }

    fn given_up(&self, call: &AwsCall, why: &str, tried: u32) -> RemoteError {
        RemoteError::Transport {
            operation: format!("ask for {}", call.action),
            uri: format!("{} in {}", call.service.name(), call.region),
            why: format!("{why} (tried {tried} times)"),
        }
    }

    /// What cannot be understood.
    pub(super) fn malformed(&self, call: &AwsCall, why: impl Into<String>) -> RemoteError {
        RemoteError::Malformed {
            what: format!("the answer to {}", call.action),
            uri: format!("{} in {}", call.service.name(), call.region),
            why: why.into(),
        }
    }

    /// The text of an answer.
    pub(super) fn text(&self, call: &AwsCall) -> Result<String, RemoteError> {
        String::from_utf8(self.ask(call)?.body).map_err(|_| self.malformed(call, "it is not UTF-8"))
    }

    /// An answer in JSON.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(
        &self,
        call: &AwsCall,
    ) -> Result<T, RemoteError> {
        serde_json::from_slice(&self.ask(call)?.body)
            .map_err(|error| self.malformed(call, error.to_string()))
    }
}

impl Attempt {
    fn of(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Again { why, wait } => Self::Again(why, wait),
            Trouble::Final(error) => Self::Final(error),
        }
    }
}

/// Code and message of an error: EC2's XML, or the JSON of the others, harmless for a terminal.
fn said(told: Option<&str>, text: &[u8]) -> (String, String) {
    #[derive(Default, Deserialize)]
    struct Said {
        #[serde(rename = "__type")]
        kind: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let text = String::from_utf8_lossy(text);
    let json: Said = serde_json::from_str(&text).unwrap_or_default();
    let code = told
        .map(str::to_owned)
        .or(json.kind)
        .or_else(|| xml::text(&text, "Code"))
        .unwrap_or_default();
    let message = json
        .message
        .or_else(|| xml::text(&text, "Message"))
        .unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '.';
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    (
        code.chars().filter(plain).take(80).collect(),
        message.chars().map(harmless).take(300).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_every_spelling() {
        let table = [
            (
                None,
                "<Response><Errors><Error><Code>InvalidAMIName.Duplicate</Code><Message>a &amp; b</Message></Error></Errors></Response>",
                "InvalidAMIName.Duplicate",
                "a & b",
            ),
            (
                None,
                r#"{"__type":"com.amazon.coral.service#ThrottlingException","message":"slow"}"#,
                "ThrottlingException",
                "slow",
            ),
            (
                Some("ValidationException:http://x/"),
                r#"{"Message":"bad\u001b[2J"}"#,
                "ValidationException",
                "bad [2J",
            ),
            (None, "\u{0}garbage", "", ""),
        ];
        for (told, text, code, message) in table {
            let found = said(told, text.as_bytes());
            assert_eq!((&*found.0, &*found.1), (code, message), "{text}");
        }
    }
}
