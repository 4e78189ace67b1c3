//! OCI documents (image-spec v1.1: descriptor.md, manifest.md, image-index.md),
//! with SHA-256 as the only algorithm.
//!
//! Written with keys in the order of the structs and sorted maps, so that equal
//! documents have equal bytes. Unknown keys are let through on reading, as the
//! specification demands.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::base::Digest;

/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of the empty configuration `{}` (manifest.md, "Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Annotation by which an index names its entries (annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of an index entry that is kept only while something else keeps the
/// digest that is its value.
pub const KEPT_WITH: &str = "org.slipform.kept-with";
/// Largest document that is read, in bytes (the limit that registries keep to: manifest.md).
pub const DOCUMENT_LIMIT: u64 = 4 * 1024 * 1024;
/// Most descriptors in one document.
pub const DESCRIPTOR_LIMIT: usize = 10_000;

/// What a piece of content is and how it is named (descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content, in bytes.
    pub size: u64,
    /// Type of the artifact, when the content is a manifest of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it runs on, as written (image-index.md, "platform").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
    /// Notes, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor of `size` bytes with `digest`.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            artifact_type: None,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The descriptor of the empty configuration, whose content is `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(EMPTY, Digest::of("{}"), 2)
    }

    /// The same, with an annotation.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

/// An image or artifact manifest (manifest.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`MANIFEST`].
    #[serde(default = "manifest_type")]
    pub media_type: String,
    /// Type of the artifact, when it is no container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its configuration; [`Descriptor::empty`] when there is none.
    pub config: Descriptor,
    /// Its content, in order.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about (an attestation's image).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn manifest_type() -> String {
    MANIFEST.to_owned()
}

impl Manifest {
    /// A manifest of an artifact that is no container image.
    #[must_use]
    pub fn artifact(
        artifact_type: impl Into<String>,
        config: Descriptor,
        layers: Vec<Descriptor>,
    ) -> Self {
        Self {
            schema_version: 2,
            media_type: manifest_type(),
            artifact_type: Some(artifact_type.into()),
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The document's bytes; equal manifests have equal bytes.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        to_bytes(self, "an image manifest")
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is too long, no JSON, or no manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let what = "an image manifest";
        let manifest: Self = parse(bytes, what)?;
        check(
            what,
            manifest.schema_version,
            &manifest.media_type,
            MANIFEST,
        )?;
        check_count(what, manifest.layers.len())?;
        Ok(manifest)
    }
}

/// A list of manifests (image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// [`INDEX`].
    #[serde(default = "index_type")]
    pub media_type: String,
    /// Type of the artifact, when they are no container images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Notes, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn index_type() -> String {
    INDEX.to_owned()
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: index_type(),
            artifact_type: None,
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }
}

impl Index {
    /// The document's bytes; equal indexes have equal bytes.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        to_bytes(self, "an image index")
    }

    /// Reads an index.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when it is too long, no JSON, or no index.
    pub fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let what = "an image index";
        let index: Self = parse(bytes, what)?;
        check(what, index.schema_version, &index.media_type, INDEX)?;
        check_count(what, index.manifests.len())?;
        Ok(index)
    }
}

fn to_bytes(document: &impl Serialize, what: &str) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(document).map_err(|error| StoreError::Malformed {
        what: what.to_owned(),
        why: error.to_string(),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, StoreError> {
    let malformed = |why: String| StoreError::Malformed {
        what: what.to_owned(),
        why,
    };
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(malformed(format!(
            "it has {} bytes; at most {DOCUMENT_LIMIT} are read",
            bytes.len()
        )));
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))
}

fn check(what: &str, version: u32, found: &str, wanted: &str) -> Result<(), StoreError> {
    if version == 2 && found == wanted {
        return Ok(());
    }
    Err(StoreError::Malformed {
        what: what.to_owned(),
        why: format!(
            "schemaVersion is {version} and mediaType '{found}', but 2 and '{wanted}' are wanted"
        ),
    })
}

fn check_count(what: &str, count: usize) -> Result<(), StoreError> {
    if count <= DESCRIPTOR_LIMIT {
        return Ok(());
    }
    Err(StoreError::Malformed {
        what: what.to_owned(),
        why: format!("it lists {count} things; at most {DESCRIPTOR_LIMIT} are read"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_manifest() {
        let layer = Descriptor::new("application/x", Digest::of("x"), 1).with("b", "2");
        let mut manifest = Manifest::artifact("application/y", Descriptor::empty(), vec![layer]);
        manifest.annotations.insert("a".into(), "1".into());
        let text = String::from_utf8(manifest.to_bytes().unwrap()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""artifactType":"application/y","#,
                r#""config":{"mediaType":"application/vnd.oci.empty.v1+json","#,
                r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"#,
                r#""layers":[{"mediaType":"application/x","#,
                r#""digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","size":1,"#,
                r#""annotations":{"b":"2"}}],"annotations":{"a":"1"}}"#
            )
        );
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
    }

    #[test]
    fn hostile_documents_are_errors() {
        let deep = "[".repeat(100_000);
        let long = format!(
            r#"{{"schemaVersion":2,"manifests":[],"x":"{}"}}"#,
            "y".repeat(5 << 20)
        );
        let many = serde_json::to_string(&Index {
            manifests: vec![Descriptor::empty(); DESCRIPTOR_LIMIT + 1],
            ..Index::default()
        })
        .unwrap();
        for text in [
            "",
            "null",
            "{}",
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"x","manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha512:00","size":1}]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:../../../etc","size":1}]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:00","size":-1}]}"#,
            &deep,
            &long,
            &many,
        ] {
            assert!(Index::parse(text.as_bytes()).is_err(), "{:.60}", text);
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{:.60}", text);
        }
    }

    #[test]
    fn unknown_keys_are_let_through() {
        let text = r#"{"schemaVersion":2,"manifests":[],"future":{"a":[1]}}"#;
        assert_eq!(Index::parse(text.as_bytes()).unwrap(), Index::default());
    }

    #[test]
    fn mutated_documents_do_not_panic() {
        let layer = Descriptor::new("application/x", Digest::of("x"), 1).with("b", "2");
        let manifest = Manifest::artifact("application/y", Descriptor::empty(), vec![layer]);
        slipform_fuzz::fuzz(&[&manifest.to_bytes().unwrap()], |bytes, _| {
            if let Ok(read) = Manifest::parse(bytes) {
                let written = read.to_bytes().unwrap();
                assert_eq!(Manifest::parse(&written).unwrap(), read);
            }
            let _any = Index::parse(bytes);
        });
    }
}
