//! Images of a project.

use serde_json::{Value, json};

use super::Gcp;
use super::call::{GcpCall, Service, global};
use crate::base::Digest;
use crate::remote::RemoteError;

/// What a guest can do: start by UEFI, and drive the newer network and disks.
const FEATURES: [&str; 3] = ["UEFI_COMPATIBLE", "GVNIC", "VIRTIO_SCSI_MULTIQUEUE"];
/// The label that tells what an image is made of.
const LABEL: &str = "slipform-image";

/// An image to be.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// The project.
    pub project: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// For people, with the digest in full.
    pub description: &'a str,
    /// Of a family, the newest image is what machines start from.
    pub family: &'a str,
    /// `X86_64` or `ARM64`.
    pub architecture: &'a str,
    /// What it is made of, as a label can say it.
    pub label: &'a str,
    /// Bucket and object of the disk.
    pub source: (&'a str, &'a str),
}

/// An image as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `PENDING`, `READY`, `FAILED`, `DELETING`.
    pub status: String,
    /// What its label says that it is made of.
    pub label: Option<String>,
    /// `X86_64` or `ARM64`.
    pub architecture: String,
}

/// `images.get`.
#[must_use]
pub fn get_image(project: &str, name: &str) -> GcpCall {
    let path = global(project, "images", name);
    GcpCall::new("images.get", Service::Compute, name, path)
}

/// `globalOperations.get`.
#[must_use]
pub fn get_operation(project: &str, name: &str) -> GcpCall {
    let path = global(project, "operations", name);
    GcpCall::new("globalOperations.get", Service::Compute, name, path)
}

/// `images.insert`, with a request's id that stands for all of it.
#[must_use]
pub fn insert_image(new: &NewImage<'_>) -> GcpCall {
    let (bucket, object) = new.source;
    let body = json!({
        "name": new.name,
        "description": new.description,
        "family": new.family,
        "architecture": new.architecture,
        "labels": { LABEL: new.label },
        "guestOsFeatures": FEATURES.map(|feature| json!({ "type": feature })),
        "rawDisk": {
            "containerType": "TAR",
            "source": format!("https://storage.googleapis.com/{bucket}/{object}"),
        },
    });
    let id = request_id(&Digest::of(body.to_string()));
    let path = format!("{}?requestId={id}", global(new.project, "images", ""));
    GcpCall::new("images.insert", Service::Compute, new.name, path).json(&body)
}

/// A digest's first bits as an UUID of version 8 (RFC 9562).
fn request_id(digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..15],
        &hex[15..18],
        &hex[18..30]
    )
}

impl Gcp {
    /// An image as it is there; nothing when there is none.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn image(&self, project: &str, name: &str) -> Result<Option<Image>, RemoteError> {
        let (status, value) = self.ask(&get_image(project, name), &[200, 404])?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Ok((status == 200).then(|| Image {
            status: text("status"),
            label: value["labels"][LABEL].as_str().map(str::to_owned),
            architecture: text("architecture"),
        }))
    }

    /// Asks for an [`insert_image`]; the operation's name, or nothing when there is an image
    /// of that name.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn insert(&self, call: &GcpCall) -> Result<Option<String>, RemoteError> {
        let (status, value) = self.ask(call, &[200, 409])?;
        if status == 409 {
            return Ok(None);
        }
        let name = value["name"].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| self.malformed(call.action, "its operation has no name"))?;
        Ok(Some(name.to_owned()))
    }

    /// Whether an operation is done; what it failed of is said.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn operation(
        &self,
        project: &str,
        name: &str,
    ) -> Result<Option<Result<(), String>>, RemoteError> {
        let (_, value) = self.ask(&get_operation(project, name), &[200])?;
        if value["status"] != "DONE" {
            return Ok(None);
        }
        let Some(error) = value["error"]["errors"]
            .as_array()
            .and_then(|all| all.first())
        else {
            return Ok(Some(Ok(())));
        };
        let text = |value: &Value| -> String {
            let text = value.as_str().unwrap_or_default().chars();
            text.filter(|c| !c.is_control()).take(300).collect()
        };
        let said = format!("{} {}", text(&error["code"]), text(&error["message"]));
        Ok(Some(Err(said)))
    }
}
