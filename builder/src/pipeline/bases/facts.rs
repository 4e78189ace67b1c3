//! What others need to know of a base, and how its manifest carries that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::{Arch, Digest};
use crate::channel::Entry;
use crate::lock::{LockedBase, LockedLayer, LockedPackage};
use crate::remote::Piece;
use crate::spec::{GroupRule, UserRule};
use crate::store::{Descriptor, Manifest};
use crate::tree::generated::Accounts;
use crate::verity::Sealed;

/// Media type of [`BaseFacts`].
pub(super) const BASE_TYPE: &str = "application/vnd.slipform.base.v1+json";
pub(super) const LISTING_TYPE: &str = "application/vnd.slipform.listing.v1";
pub(super) const PACKAGE_TYPE: &str = "application/vnd.debian.binary-package";
pub(super) const FILE_TYPE: &str = "application/octet-stream";
/// Version of the format of [`BaseFacts`].
pub(super) const SCHEMA: u32 = 1;
/// Longest facts that are read, in bytes: a thousand packages have 300 KB.
pub(super) const FACTS_LIMIT: u64 = 16 << 20;
/// Longest listing that is read, in bytes.
pub(super) const LISTING_LIMIT: u64 = 1 << 30;
/// What others need to know of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::pipeline) struct BaseFacts {
    pub(super) schema: u32,
    pub(in crate::pipeline) name: String,
    pub(in crate::pipeline) version: String,
    /// What it runs on, as boards name it. A base for PCs does not say so, as those that
    /// were published before there were others do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) arch: Option<String>,
    /// The partition.
    pub(in crate::pipeline) layer: Sealed,
    /// Its tree.
    pub(in crate::pipeline) listing: Digest,
    /// What an app's packages are resolved against.
    pub(in crate::pipeline) packages: Vec<LockedPackage>,
    /// What they provide.
    pub(in crate::pipeline) provides: BTreeMap<String, String>,
    /// Users and groups that the layer adds.
    pub(in crate::pipeline) users: Vec<UserRule>,
    pub(in crate::pipeline) groups: Vec<GroupRule>,
    /// The numbers that its files' owners have: uid and gid by user, gid by group.
    pub(super) user_ids: BTreeMap<String, (u32, u32)>,
    pub(super) group_ids: BTreeMap<String, u32>,
}

impl BaseFacts {
    /// What facts say of an architecture.
    pub(super) fn told(arch: Arch) -> Option<String> {
        (arch != Arch::X86_64).then(|| arch.name().to_owned())
    }

    /// What the base runs on; `None` for what no board of ours is.
    pub(super) fn architecture(&self) -> Option<Arch> {
        self.arch.as_deref().map_or(Some(Arch::X86_64), Arch::of)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if version.schema != SCHEMA {
            return Err(format!(
                "its schema is {}, this slipform reads {SCHEMA}; take a newer slipform",
                version.schema
            ));
        }
        let facts: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if !facts.layer.is_sound() {
            return Err("the sizes of its layer do not fit together".to_owned());
        }
        Ok(facts)
    }

    /// Numbers in the base's files must mean the same users in an image on it.
    pub(in crate::pipeline) fn check_accounts(&self, accounts: &Accounts) -> Result<(), String> {
        let other = |what: &str, name: &str, number: u32| {
            Err(format!(
                "{what} '{name}' has number {number} in the base '{}', whose files are sealed with it, and another one in this image; give yours another name or number",
                self.name
            ))
        };
        for (name, (uid, gid)) in &self.user_ids {
            if accounts.user(name).map(|user| (user.uid, user.gid)) != Some((*uid, *gid)) {
                return other("user", name, *uid);
            }
        }
        for (name, gid) in &self.group_ids {
            if accounts.group(name).map(|group| group.gid) != Some(*gid) {
                return other("group", name, *gid);
            }
        }
        Ok(())
    }

    /// What a lock says of it.
    pub(super) fn locked(
        self,
        layer: &str,
        written: &str,
        image: Piece,
        entry: &Entry,
    ) -> LockedLayer {
        LockedLayer {
            name: layer.to_owned(),
            base: Some(LockedBase {
                written: written.to_owned(),
                version: self.version,
                image: image.digest,
                size: image.size,
                record: entry.digest,
                forced: entry.record.forced.clone(),
                provides: self.provides,
            }),
            tar: None,
            oci: None,
            packages: self.packages,
        }
    }
}

/// What the manifest of a base's image names.
pub(super) struct Parts {
    pub(super) facts: Descriptor,
    pub(super) all: Vec<Descriptor>,
}

impl Parts {
    pub(super) fn of(manifest: &[u8]) -> Result<Self, String> {
        let manifest = Manifest::parse(manifest).map_err(|error| error.to_string())?;
        let facts = manifest
            .layers
            .iter()
            .find(|part| part.media_type == BASE_TYPE)
            .ok_or("it is an image for itself; publish a folder with a layer.toml as a base")?;
        let listing = |part: &&Descriptor| part.media_type == LISTING_TYPE;
        let listing = manifest.layers.iter().find(listing);
        if facts.size > FACTS_LIMIT || listing.is_some_and(|part| part.size > LISTING_LIMIT) {
            return Err("its facts are longer than any base's".to_owned());
        }
        Ok(Self {
            facts: facts.clone(),
            all: manifest.layers,
        })
    }

    /// What is needed to build on it: not its own boot entry and partition table.
    pub(super) fn pieces(&self, facts: &BaseFacts) -> Vec<Piece> {
        let needed = |part: &&Descriptor| {
            [BASE_TYPE, LISTING_TYPE, PACKAGE_TYPE, FILE_TYPE].contains(&part.media_type.as_str())
                || part.digest == facts.layer.blob
        };
        self.all.iter().filter(needed).map(Piece::from).collect()
    }
}
