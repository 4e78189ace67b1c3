//! EC2's query API ("Amazon EC2 API Reference"): snapshots and images, who may use them.

use super::tree::Element;
use super::{Aws, AwsCall, is_id};
use crate::remote::RemoteError;

/// Keys and values.
pub type Tags = Vec<(String, String)>;

/// Where something that takes its time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet usable.
    Pending,
    /// Completed, or available.
    Ready,
    /// It will never be.
    Failed,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// `snap-…`.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// What the service says of its state.
    pub message: String,
    /// Size of its volume, in GiB.
    pub gib: u64,
    /// Its tags.
    pub tags: Tags,
}

/// An image of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `ami-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: State,
    /// What the service says of its state.
    pub message: String,
    /// The snapshot of its root disk.
    pub snapshot: Option<String>,
    /// From when on it is deprecated, as the service writes it.
    pub deprecated: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// How a machine's firmware starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootMode {
    /// UEFI only.
    Uefi,
    /// UEFI where there is one, else BIOS.
    UefiPreferred,
}

/// An image to register.
#[derive(Debug, Clone)]
pub struct Registration<'a> {
    /// Its name; one account has each name once in a region.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// `x86_64` or `arm64`.
    pub architecture: &'a str,
    /// How it starts.
    pub boot: BootMode,
    /// The snapshot of its root disk.
    pub snapshot: &'a str,
    /// Key and value.
    pub tags: &'a [(String, String)],
}

fn pair(name: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (name.into(), value.into())
}

/// `TagSpecification.N…` for one kind of resource.
fn tagged(at: usize, kind: &str, tags: &[(String, String)]) -> Vec<(String, String)> {
    let prefix = format!("TagSpecification.{at}");
    let mut said = vec![pair(format!("{prefix}.ResourceType"), kind)];
    for (n, (key, value)) in tags.iter().enumerate() {
        said.push(pair(format!("{prefix}.Tag.{}.Key", n + 1), key));
        said.push(pair(format!("{prefix}.Tag.{}.Value", n + 1), value));
    }
    said
}

/// Own things for which `filter` has `value`.
fn own(region: &str, action: &'static str, filter: &str, value: &str) -> AwsCall {
    AwsCall::query(
        region,
        action,
        vec![
            pair("Owner.1", "self"),
            pair("Filter.1.Name", filter),
            pair("Filter.1.Value.1", value),
        ],
    )
}

/// `DescribeSnapshots`: own ones for which `filter` (`tag:KEY`, `snapshot-id`) has `value`.
#[must_use]
pub fn describe_snapshots(region: &str, filter: &str, value: &str) -> AwsCall {
    own(region, "DescribeSnapshots", filter, value)
}

/// `DescribeImages`: own ones for which `filter` (`name`, `image-id`) has `value`.
#[must_use]
pub fn describe_images(region: &str, filter: &str, value: &str) -> AwsCall {
    own(region, "DescribeImages", filter, value)
}

/// `RegisterImage`: virtual hardware of today (HVM, ENA), metadata by IMDSv2 only, and a
/// TPM where the firmware is UEFI alone, as NitroTPM wants it.
#[must_use]
pub fn register_image(region: &str, new: &Registration<'_>) -> AwsCall {
    let mut said = vec![
        pair("Name", new.name),
        pair("Description", new.description),
        pair("Architecture", new.architecture),
        pair("VirtualizationType", "hvm"),
        pair("RootDeviceName", "/dev/xvda"),
        pair("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
        pair("BlockDeviceMapping.1.Ebs.SnapshotId", new.snapshot),
        pair("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
        pair("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
        pair("EnaSupport", "true"),
        pair("ImdsSupport", "v2.0"),
    ];
    match new.boot {
        BootMode::Uefi => {
            said.push(pair("BootMode", "uefi"));
            if new.architecture == "x86_64" {
                said.push(pair("TpmSupport", "v2.0"));
            }
        }
        BootMode::UefiPreferred => said.push(pair("BootMode", "uefi-preferred")),
    }
    said.extend(tagged(1, "image", new.tags));
    AwsCall::query(region, "RegisterImage", said)
}

/// `CopyImage` from another region, with the same name and tags.
#[must_use]
pub fn copy_image(
    region: &str,
    from: (&str, &str),
    new: (&str, &str),
    tags: &[(String, String)],
    token: &str,
) -> AwsCall {
    let mut said = vec![
        pair("SourceRegion", from.0),
        pair("SourceImageId", from.1),
        pair("Name", new.0),
        pair("Description", new.1),
        pair("ClientToken", token),
    ];
    said.extend(tagged(1, "image", tags));
    said.extend(tagged(2, "snapshot", tags));
    AwsCall::query(region, "CopyImage", said)
}

/// `ModifyImageAttribute`: these accounts may start it.
#[must_use]
pub fn share_image(region: &str, image: &str, accounts: &[String]) -> AwsCall {
    let mut said = vec![
        pair("ImageId", image),
        pair("Attribute", "launchPermission"),
    ];
    for (n, account) in accounts.iter().enumerate() {
        said.push(pair(
            format!("LaunchPermission.Add.{}.UserId", n + 1),
            account,
        ));
    }
    AwsCall::query(region, "ModifyImageAttribute", said)
}

/// `EnableImageDeprecation` from `at` (RFC 3339, UTC) on.
#[must_use]
pub fn deprecate_image(region: &str, image: &str, at: &str) -> AwsCall {
    let said = vec![pair("ImageId", image), pair("DeprecateAt", at)];
    AwsCall::query(region, "EnableImageDeprecation", said)
}

/// `DisableImageDeprecation`.
#[must_use]
pub fn keep_image(region: &str, image: &str) -> AwsCall {
    AwsCall::query(
        region,
        "DisableImageDeprecation",
        vec![pair("ImageId", image)],
    )
}

impl Aws {
    fn element(&self, call: &AwsCall) -> Result<Element, RemoteError> {
        let text = self.text(call)?;
        let element = Element::parse(&text).map_err(|why| self.malformed(call, why))?;
        if element.name() != format!("{}Response", call.action) {
            return Err(self.malformed(call, "it answers something else"));
        }
        Ok(element)
    }

    /// Asks a `DescribeSnapshots`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn snapshots(&self, call: &AwsCall) -> Result<Vec<Snapshot>, RemoteError> {
        let answer = self.element(call)?;
        answer
            .items("snapshotSet")
            .map(|item| {
                let state = match item.get("status") {
                    "pending" | "recoverable" | "recovering" => State::Pending,
                    "completed" => State::Ready,
                    _ => State::Failed,
                };
                Ok(Snapshot {
                    id: self.id(call, item.get("snapshotId"), "snap-")?,
                    state,
                    message: harmless(item.get("statusMessage")),
                    gib: item.get("volumeSize").parse().unwrap_or(0),
                    tags: tags(item),
                })
            })
            .collect()
    }

    /// Asks a `DescribeImages`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn images(&self, call: &AwsCall) -> Result<Vec<Image>, RemoteError> {
        let answer = self.element(call)?;
        answer
            .items("imagesSet")
            .map(|item| {
                let root = item.get("rootDeviceName");
                let snapshot = item
                    .items("blockDeviceMapping")
                    .find(|disk| disk.get("deviceName") == root)
                    .and_then(|disk| disk.child("ebs"))
                    .map(|ebs| ebs.get("snapshotId").to_owned())
                    .filter(|id| is_id(id, "snap-"));
                let text = |name: &str| Some(item.get(name).to_owned()).filter(|t| !t.is_empty());
                let state = match item.get("imageState") {
                    "pending" | "transient" => State::Pending,
                    "available" => State::Ready,
                    _ => State::Failed,
                };
                let reason = item.child("stateReason").map_or("", |r| r.get("message"));
                Ok(Image {
                    id: self.id(call, item.get("imageId"), "ami-")?,
                    name: item.get("name").to_owned(),
                    state,
                    message: harmless(reason),
                    snapshot,
                    deprecated: text("deprecationTime"),
                    tags: tags(item),
                })
            })
            .collect()
    }

    /// Asks a `RegisterImage` or `CopyImage`; the new image's id.
    ///
    /// # Errors
    /// [`RemoteError`]; code `InvalidAMIName.Duplicate` for a name that is taken.
    pub fn new_image(&self, call: &AwsCall) -> Result<String, RemoteError> {
        self.id(call, self.element(call)?.get("imageId"), "ami-")
    }

    /// Asks for a change that has no other answer than that it was made.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn change(&self, call: &AwsCall) -> Result<(), RemoteError> {
        match self.element(call)?.get("return") {
            "true" | "" => Ok(()),
            _ => Err(self.malformed(call, "it was not done, and no reason was given")),
        }
    }

    fn id(&self, call: &AwsCall, text: &str, kind: &str) -> Result<String, RemoteError> {
        if is_id(text, kind) {
            return Ok(text.to_owned());
        }
        Err(self.malformed(call, format!("it has no id that begins with {kind}")))
    }
}

fn tags(item: &Element) -> Tags {
    item.items("tagSet")
        .map(|tag| pair(tag.get("key"), tag.get("value")))
        .collect()
}

/// A service's words, for terminals and one line.
fn harmless(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(200).collect()
}

/// The value of a tag.
#[must_use]
pub fn tag<'a>(tags: &'a Tags, key: &str) -> Option<&'a str> {
    let found = tags.iter().find(|(name, _)| name == key);
    found.map(|(_, value)| value.as_str())
}
