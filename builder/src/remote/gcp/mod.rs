//! Google Cloud: objects of Cloud Storage (JSON API v1), and images of Compute Engine (REST
//! API v1).
//!
//! ```text
//! login.rs    an access token, or a service account's key that is changed for one
//! call.rs     a call that can be sent, or shown
//! object.rs   an object of a bucket: look, upload in parts that go on after a cut, remove
//! image.rs    an image: look, insert, the operation that makes it
//! ```

mod call;
mod image;
mod login;
mod object;

pub use call::GcpCall;
pub use image::{Image, NewImage, get_image, get_operation, insert_image};
pub use object::{NewObject, Object, begin_upload, get_object};

use serde_json::Value;
use ureq::http::Method;
use ureq::http::header::CONTENT_TYPE;

use self::login::Login;
use super::aws::now;
use super::http::{Answer, Call, Http, Payload, Refusal, Trouble, read_all};
use super::{RemoteError, RemoteOptions};
use crate::sources::Host;
use crate::sources::uri::Uri;

/// Largest answer that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Where the services are, unless the variables of Google's command line say something else.
const STORAGE: (&str, &str) = (
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
    "https://storage.googleapis.com",
);
const COMPUTE: (&str, &str) = (
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE",
    "https://compute.googleapis.com/compute/v1",
);

/// A project, and a login to it.
#[derive(Debug)]
pub struct Gcp {
    http: Http,
    login: Login,
    storage: Uri,
    compute: Uri,
    name: String,
}

impl Gcp {
    /// Nobody is asked yet.
    ///
    /// # Errors
    /// [`RemoteError::Login`] when there is no login, or it cannot be read.
    pub fn open(project: &str, host: &Host, options: RemoteOptions) -> Result<Self, RemoteError> {
        let service = |(variable, usual): (&str, &str)| {
            let text = host.var(variable).filter(|text| !text.is_empty());
            let mut uri = Uri::parse(text.unwrap_or(usual).trim_end_matches('/'))?;
            uri.path = uri.path.trim_end_matches('/').to_owned();
            uri.login = None;
            Ok::<_, RemoteError>(uri)
        };
        Ok(Self {
            http: Http::new(host, options),
            login: Login::load(host)?,
            storage: service(STORAGE)?,
            compute: service(COMPUTE)?,
            name: format!("gcp://{project}"),
        })
    }

    /// The first pause of whoever waits for something there.
    #[must_use]
    pub const fn pause(&self) -> std::time::Duration {
        self.http.options.backoff
    }

    fn uri(&self, call: &GcpCall) -> Uri {
        let mut uri = match call.service {
            call::Service::Storage => self.storage.clone(),
            call::Service::Compute => self.compute.clone(),
        };
        uri.path.push_str(&call.path);
        uri
    }

    /// Asks until there is an answer with one of `good`'s statuses; the status, and what the
    /// answer says.
    fn ask(&self, call: &GcpCall, good: &[u16]) -> Result<(u16, Value), RemoteError> {
        self.ask_for(call, good, |answer| {
            let status = answer.status().as_u16();
            let bytes = read_all(answer, LIMIT, call.action)?;
            if bytes.is_empty() {
                return Ok((status, Value::Null));
            }
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| Trouble::Final(self.malformed(call.action, &error.to_string())))?;
            Ok((status, value))
        })
    }

    fn ask_for<T>(
        &self,
        call: &GcpCall,
        good: &[u16],
        take: impl Fn(Answer) -> Result<T, Trouble>,
    ) -> Result<T, RemoteError> {
        let operation = call.operation();
        self.http.retry(&operation, &self.name, || {
            let login = self.login.header(&self.http, now())?;
            let body = call.body.as_bytes();
            let mut sent = Call::new(call.method.clone(), self.uri(call));
            if call.method == Method::POST {
                sent = sent
                    .with(CONTENT_TYPE, "application/json")
                    .body(Payload::Bytes(body));
            }
            let answer = self.http.send(&sent, &[login])?;
            if good.contains(&answer.status().as_u16()) {
                return take(answer);
            }
            if answer.status() == 401 {
                self.login.forget();
            }
            Err(self.refused(&operation, answer))
        })
    }

    /// A failure in Google's words: `{"error": {"code", "message", "errors": [{"reason"}]}}`.
    fn refused(&self, operation: &str, answer: Answer) -> Trouble {
        let refusal = Refusal::of(answer);
        let said: Value = serde_json::from_slice(&refusal.text).unwrap_or_default();
        let message = said["error"]["message"].as_str().unwrap_or_default();
        let message: String = message
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect();
        let remedy = match refusal.status {
            401 => "the token has ended, or the key was revoked; log in anew",
            403 => "the login lacks the right to do this, or the service is not enabled",
            404 => "check the project and the bucket, and that they exist",
            _ => return refusal.trouble(operation, &self.name),
        };
        Trouble::Final(RemoteError::Refused {
            operation: operation.to_owned(),
            uri: self.name.clone(),
            status: refusal.status,
            why: format!(": {message}; {remedy}"),
        })
    }

    fn malformed(&self, what: &str, why: &str) -> RemoteError {
        RemoteError::Malformed {
            what: what.to_owned(),
            uri: self.name.clone(),
            why: why.to_owned(),
        }
    }
}
