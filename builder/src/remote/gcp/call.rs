//! A call that can be sent, or shown.

use std::fmt;

use ureq::http::Method;

use crate::remote::http::strict;

/// Whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Storage,
    Compute,
}

/// A call of one of Google's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpCall {
    /// The method, as the service's reference names it.
    pub action: &'static str,
    /// The object or image.
    pub about: String,
    pub(super) service: Service,
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) path: String,
    /// JSON, or nothing.
    pub(super) body: String,
}

impl GcpCall {
    pub(super) fn new(action: &'static str, service: Service, about: &str, path: String) -> Self {
        Self {
            action,
            about: about.to_owned(),
            service,
            method: Method::GET,
            path,
            body: String::new(),
        }
    }

    pub(super) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(super) fn json(mut self, body: &serde_json::Value) -> Self {
        self.method = Method::POST;
        self.body = body.to_string();
        self
    }

    pub(super) fn operation(&self) -> String {
        format!("{} of {}", self.action, self.about)
    }
}

/// One line: `compute images.insert of web-1: POST /projects/p/global/images {…}`.
impl fmt::Display for GcpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = match self.service {
            Service::Storage => "storage",
            Service::Compute => "compute",
        };
        let (about, method) = (&self.about, &self.method);
        write!(
            f,
            "{service} {} of {about}: {method} {}",
            self.action, self.path
        )?;
        if !self.body.is_empty() {
            write!(f, " {}", self.body)?;
        }
        Ok(())
    }
}

/// The path of a project's images or operations.
pub(super) fn global(project: &str, kind: &str, name: &str) -> String {
    let slash = if name.is_empty() { "" } else { "/" };
    let (project, name) = (strict(project), strict(name));
    format!("/projects/{project}/global/{kind}{slash}{name}")
}
