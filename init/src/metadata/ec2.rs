//! Amazon EC2: instance metadata, version 2 only (IMDSv2; "Use the Instance Metadata
//! Service to access instance metadata" of the EC2 user guide).
//!
//! ```text
//! PUT token -> identity document -> local-hostname -> user-data -> done
//!      ^----------- 401 ------------------'
//! ```
//! Version 1 is no fallback: a service that can be tricked into a GET must not be what
//! tells the machine who it is. The hop limit of 1 that EC2 puts on answers is no matter
//! to init, which runs on the machine itself.

use serde::Deserialize;

use super::dmi::Dmi;
use super::found::{self, Found, USER_DATA_MAX};
use super::http::{Answer, Request};
use super::source::{LINK_LOCAL, Question, Source, Step, unexpected};

/// Seconds that a token is good for: longer than all questions take.
const TOKEN_SECONDS: &str = "300";
/// Tokens that are asked for at most: a server that refuses each is of no use.
const TOKENS_MAX: u32 = 3;
/// Longest token.
const TOKEN_MAX: usize = 1024;
/// Longest document.
const DOCUMENT_MAX: usize = 64 * 1024;

const TOKEN: &str = "/latest/api/token";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const HOSTNAME: &str = "/latest/meta-data/local-hostname";
const USER_DATA: &str = "/latest/user-data";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Token,
    Document,
    Hostname,
    UserData,
}

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Ec2 {
    at: At,
    /// Where it goes on once there is a token.
    then: At,
    token: String,
    tokens: u32,
    found: Found,
}

/// The identity document, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    instance_id: String,
    region: Option<String>,
    availability_zone: Option<String>,
    instance_type: Option<String>,
}

impl Ec2 {
    /// At its beginning.
    pub(super) fn new() -> Ec2 {
        Ec2 {
            at: At::Token,
            then: At::Document,
            token: String::new(),
            tokens: 0,
            found: Found::default(),
        }
    }

    fn ask_token(&mut self, then: At) -> Step {
        (self.at, self.then) = (At::Token, then);
        self.tokens += 1;
        let request = Request::new("PUT", TOKEN)
            .header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
        ask(request, TOKEN_MAX)
    }

    fn ask_at(&mut self, at: At) -> Step {
        self.at = at;
        let (path, limit) = match at {
            At::Token => return self.ask_token(self.then),
            At::Document => (DOCUMENT, DOCUMENT_MAX),
            At::Hostname => (HOSTNAME, 1024),
            At::UserData => (USER_DATA, USER_DATA_MAX),
        };
        ask(
            Request::get(path).header("X-aws-ec2-metadata-token", self.token.as_str()),
            limit,
        )
    }

    fn document(&mut self, answer: &Answer) -> Step {
        let document: Document = match serde_json::from_slice(&answer.body) {
            Ok(document) => document,
            Err(error) => return Step::Absent(format!("identity document: {error}")),
        };
        self.found.instance_id = found::text(&document.instance_id);
        if self.found.instance_id.is_none() {
            return Step::Absent("identity document: instanceId is no plain text".into());
        }
        let text = |value: Option<String>| value.as_deref().and_then(found::text);
        self.found.region = text(document.region);
        self.found.zone = text(document.availability_zone);
        self.found.instance_type = text(document.instance_type);
        self.ask_at(At::Hostname)
    }

    fn finish(&mut self) -> Step {
        Step::Done(std::mem::take(&mut self.found))
    }
}

fn ask(request: Request, limit: usize) -> Step {
    Step::Ask(Question {
        to: LINK_LOCAL,
        request,
        limit,
    })
}

impl Source for Ec2 {
    fn fits(&self, dmi: &Dmi) -> bool {
        // Nitro says it in full, Xen by the version of its BIOS and the UUID's beginning.
        dmi.sys_vendor == "Amazon EC2"
            || dmi.bios_version.to_ascii_lowercase().ends_with("amazon")
            || dmi.product_uuid.to_ascii_lowercase().starts_with("ec2")
    }

    fn begin(&mut self) -> Step {
        self.ask_token(At::Document)
    }

    fn answer(&mut self, answer: &Answer) -> Step {
        match (self.at, answer.status) {
            (At::Token, 200) => match answer.text().and_then(token) {
                Some(token) => {
                    self.token = token;
                    self.ask_at(self.then)
                }
                None => Step::Absent("the token is no plain text".into()),
            },
            (At::Token, 403) => Step::Absent("instance metadata is switched off".into()),
            // The token has run out, or was another instance's before a snapshot.
            (at, 401) if at != At::Token && self.tokens < TOKENS_MAX => self.ask_token(at),
            (At::Document, 200) => self.document(answer),
            (At::Hostname, 200) => {
                self.found.hostname = answer.text().and_then(found::hostname);
                self.ask_at(At::UserData)
            }
            (At::Hostname, 404) => self.ask_at(At::UserData),
            (At::UserData, 200) => {
                self.found.take_user_data(answer.body.clone());
                self.finish()
            }
            // An instance without.
            (At::UserData, 404) => self.finish(),
            // What the machine is called it knows by now.
            (At::Hostname | At::UserData, status) => {
                self.found
                    .note(format!("ec2: {:?}: status {status}", self.at));
                self.finish()
            }
            (at, _) => Step::Absent(unexpected(&format!("{at:?}"), answer)),
        }
    }

    fn silence(&mut self, why: String) -> Step {
        if self.found.instance_id.is_some() {
            self.found.note(format!("ec2: {:?}: {why}", self.at));
            return self.finish();
        }
        Step::Absent(why)
    }
}

/// It goes into a header.
fn token(text: &str) -> Option<String> {
    let token = text.trim();
    let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    (!token.is_empty() && plain).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_fuzz::fuzz;

    fn path(step: &Step) -> &str {
        match step {
            Step::Ask(question) => question.request.path(),
            _ => "",
        }
    }

    const JSON: &str = r#"{"instanceId":"i-0123","region":"eu-west-1","availabilityZone":"eu-west-1b","instanceType":"m7i.large","x":[{}]}"#;

    #[test]
    fn a_whole_conversation_with_a_token_that_runs_out() {
        let mut ec2 = Ec2::new();
        assert_eq!(path(&ec2.begin()), TOKEN);
        assert_eq!(path(&ec2.answer(&Answer::of(200, &[], "TOK=="))), DOCUMENT);
        assert_eq!(path(&ec2.answer(&Answer::of(401, &[], ""))), TOKEN);
        let asked = ec2.answer(&Answer::of(200, &[], "NEW"));
        assert_eq!(path(&asked), DOCUMENT);
        assert!(format!("{asked:?}").contains("NEW"), "{asked:?}");
        assert_eq!(path(&ec2.answer(&Answer::of(200, &[], JSON))), HOSTNAME);
        let name = Answer::of(200, &[], "ip-10-0-0-1.ec2.internal");
        assert_eq!(path(&ec2.answer(&name)), USER_DATA);
        let Step::Done(found) = ec2.answer(&Answer::of(200, &[], "data")) else {
            panic!("not done")
        };
        assert_eq!(found.instance_id.as_deref(), Some("i-0123"));
        assert_eq!(found.hostname.as_deref(), Some("ip-10-0-0-1.ec2.internal"));
        assert_eq!(found.region.as_deref(), Some("eu-west-1"));
        assert_eq!(found.user_data.as_deref(), Some(&b"data"[..]));
    }

    #[test]
    fn refusals_end_it() {
        let mut ec2 = Ec2::new();
        ec2.begin();
        assert!(matches!(
            ec2.answer(&Answer::of(403, &[], "")),
            Step::Absent(_)
        ));
        let mut ec2 = Ec2::new();
        ec2.begin();
        // Each token refused: after three it is over.
        for _ in 0..TOKENS_MAX - 1 {
            ec2.answer(&Answer::of(200, &[], "T"));
            assert_eq!(path(&ec2.answer(&Answer::of(401, &[], ""))), TOKEN);
        }
        ec2.answer(&Answer::of(200, &[], "T"));
        assert!(matches!(
            ec2.answer(&Answer::of(401, &[], "")),
            Step::Absent(_)
        ));
        for bad in ["", "a b", "a\r\nX: y", "ü"] {
            let mut ec2 = Ec2::new();
            ec2.begin();
            let step = ec2.answer(&Answer::of(200, &[], bad));
            assert!(matches!(step, Step::Absent(_)), "{bad:?}");
        }
        let mut redirected = Ec2::new();
        redirected.begin();
        let elsewhere = Answer::of(302, &[("location", "http://evil/")], "");
        assert!(matches!(redirected.answer(&elsewhere), Step::Absent(_)));
    }

    #[test]
    fn an_identity_without_the_rest_is_still_one() {
        let mut ec2 = Ec2::new();
        ec2.begin();
        ec2.answer(&Answer::of(200, &[], "T"));
        ec2.answer(&Answer::of(200, &[], JSON));
        let Step::Done(found) = ec2.silence("no answer in time".into()) else {
            panic!("not done")
        };
        assert_eq!(found.instance_id.as_deref(), Some("i-0123"));
        assert_eq!(found.odd.len(), 1);
    }

    #[test]
    fn no_document_breaks_it() {
        fuzz(&[JSON.as_bytes()], |bytes, _| {
            let mut ec2 = Ec2::new();
            ec2.begin();
            ec2.answer(&Answer::of(200, &[], "T"));
            ec2.answer(&Answer {
                status: 200,
                body: bytes.to_vec(),
                ..Answer::default()
            });
        });
    }
}
