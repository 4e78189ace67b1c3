//! A call of a service: what people see of it, and what goes over the wire.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use ureq::http::Method;
use ureq::http::header::{CONTENT_TYPE, HeaderName};

use crate::base::Digest;
use crate::remote::http::strict;

/// Version of EC2's query API.
const EC2_VERSION: &str = "2016-11-15";

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// EBS direct APIs: the blocks of snapshots.
    Ebs,
    /// Images, snapshots, who may use them.
    Ec2,
    /// Parameters of Systems Manager.
    Ssm,
}

impl Service {
    /// As in signatures, endpoints and rights.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebs => "ebs",
            Self::Ec2 => "ec2",
            Self::Ssm => "ssm",
        }
    }
}

/// What goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shape {
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Vec<u8>,
    /// Sent instead of the SHA-256 of the body, for one that is handed in apart.
    pub(super) unsigned: bool,
}

/// A call that can be sent, or shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AwsCall {
    /// The service.
    pub service: Service,
    /// The action, as the service's reference names it; with the service in front it is
    /// also the name of the right.
    pub action: &'static str,
    /// Where.
    pub region: String,
    /// What is said, by the reference's names.
    pub parameters: Map<String, Value>,
    #[serde(skip)]
    pub(super) shape: Shape,
}

impl AwsCall {
    /// A call of EC2's query API.
    pub(super) fn query(
        region: &str,
        action: &'static str,
        parameters: Vec<(String, String)>,
    ) -> Self {
        let mut form = format!("Action={action}&Version={EC2_VERSION}");
        for (name, value) in &parameters {
            form.push_str(&format!("&{}={}", strict(name), strict(value)));
        }
        let kind = "application/x-www-form-urlencoded; charset=utf-8".to_owned();
        Self {
            service: Service::Ec2,
            action,
            region: region.to_owned(),
            parameters: parameters
                .into_iter()
                .map(|(name, value)| (name, Value::String(value)))
                .collect(),
            shape: Shape {
                method: Method::POST,
                path: "/".to_owned(),
                headers: vec![(CONTENT_TYPE, kind)],
                body: form.into_bytes(),
                unsigned: false,
            },
        }
    }

    /// A call whose parameters are the JSON of its body.
    pub(super) fn json(
        service: Service,
        region: &str,
        action: &'static str,
        path: &str,
        parameters: Map<String, Value>,
    ) -> Self {
        let kind = match service {
            Service::Ssm => "application/x-amz-json-1.1",
            _ => "application/json",
        };
        Self {
            service,
            action,
            region: region.to_owned(),
            shape: Shape {
                method: Method::POST,
                path: path.to_owned(),
                headers: vec![(CONTENT_TYPE, kind.to_owned())],
                // A map of texts and numbers: serialising it cannot fail.
                body: serde_json::to_vec(&parameters).unwrap_or_default(),
                unsigned: false,
            },
            parameters,
        }
    }

    /// The right that the keys need for it.
    #[must_use]
    pub fn right(&self) -> String {
        format!("{}:{}", self.service.name(), self.action)
    }

    /// Digest of all that is sent, for tokens that stand for it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(format!("{self}"))
    }
}

/// One line: `ec2 RegisterImage in eu-central-1: Name=web-1, Architecture=x86_64`.
impl fmt::Display for AwsCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service.name();
        write!(f, "{service} {} in {}:", self.action, self.region)?;
        for (at, (name, value)) in self.parameters.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match value {
                Value::String(text) => write!(f, "{comma} {name}={text}")?,
                other => write!(f, "{comma} {name}={other}")?,
            }
        }
        Ok(())
    }
}
