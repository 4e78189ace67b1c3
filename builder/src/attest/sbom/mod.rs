//! The SBOM: SPDX 2.3 as JSON. It is an artifact, not evidence: made of the image
//! and its lock only, so that the same image has the same SBOM, byte for byte.
//!
//! ```text
//! SPDXRef-Image CONTAINS layer, kernel, boot stub, init
//! layer         CONTAINS package, the user's files
//! package       CONTAINS its files, as far as they are in the image
//! ```

mod licence;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::statement::Predicate;
use crate::base::Digest;
use crate::lock::{LockedPackage, date};

/// The document, as the predicate of a statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sbom(pub Value);

impl Predicate for Sbom {
    const TYPE: &'static str = "https://spdx.dev/Document";
}

/// All that the SBOM tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SbomFacts {
    /// The image's name.
    pub name: String,
    /// The user's version.
    pub version: String,
    /// The board.
    pub board: String,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// The date of the newest archive in the lock, seconds since 1970.
    pub created: i64,
    /// Version of Slipform.
    pub builder: String,
    /// Digest of PID 1.
    pub init: Digest,
    /// Names of the layers, bottom to top.
    pub layers: Vec<String>,
    /// Every package.
    pub packages: Vec<PackageFacts>,
    /// Every regular file of every layer.
    pub files: Vec<FileFacts>,
}

/// A package of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFacts {
    /// As locked.
    pub package: LockedPackage,
    /// Its layer; `None` for kernel and boot stub.
    pub layer: Option<String>,
    /// The control file's `Maintainer`.
    pub maintainer: Option<String>,
    /// The control file's `Homepage`.
    pub homepage: Option<String>,
    /// Its copyright file, if there is one.
    pub copyright: Option<String>,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its layer.
    pub layer: String,
    /// Path without the leading slash.
    pub path: String,
    /// Of its content, hexadecimal; SPDX insists on this one.
    pub sha1: String,
    /// Of its content.
    pub sha256: Digest,
    /// The package that brought it; none for the user's and the generated ones.
    pub package: Option<String>,
}

/// The package URL of a Debian package.
/// Source: github.com/package-url/purl-spec, types/deb-definition.json.
#[must_use]
pub fn purl(package: &LockedPackage) -> String {
    let escape = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    };
    let (namespace, distro) = match package.suite.split('-').next() {
        Some(suite @ "trixie") => ("debian/", format!("&distro={suite}")),
        _ => ("", String::new()),
    };
    format!(
        "pkg:deb/{namespace}{}@{}?arch={}{distro}",
        escape(&package.name),
        escape(&package.version),
        escape(&package.arch)
    )
}

impl Sbom {
    /// The document.
    #[must_use]
    pub fn of(facts: &SbomFacts) -> Self {
        let mut writer = Writer::new(facts);
        writer.image();
        writer.layers();
        writer.packages();
        writer.files();
        Self(writer.document())
    }
}

struct Writer<'a> {
    facts: &'a SbomFacts,
    packages: Vec<Value>,
    files: Vec<Value>,
    relationships: Vec<Value>,
    licences: BTreeMap<String, String>,
    /// SPDX ids of packages by layer and name.
    ids: BTreeMap<(&'a str, &'a str), String>,
    layer_ids: BTreeMap<&'a str, String>,
    /// SHA-1s of the files of each package or layer, by its id.
    contents: BTreeMap<String, BTreeSet<(&'a str, usize)>>,
}

const IMAGE: &str = "SPDXRef-Image";

impl<'a> Writer<'a> {
    fn new(facts: &'a SbomFacts) -> Self {
        let layer_ids: BTreeMap<&str, String> = facts
            .layers
            .iter()
            .enumerate()
            .map(|(n, name)| {
                (
                    name.as_str(),
                    format!("SPDXRef-Layer-{n}-{}", idstring(name)),
                )
            })
            .collect();
        let ids: BTreeMap<(&str, &str), String> = facts
            .packages
            .iter()
            .enumerate()
            .map(|(n, p)| {
                let key = (p.layer.as_deref().unwrap_or(""), p.package.name.as_str());
                (key, format!("SPDXRef-Package-{n}-{}", idstring(key.1)))
            })
            .collect();
        let mut contents: BTreeMap<String, BTreeSet<(&str, usize)>> = BTreeMap::new();
        for (n, file) in facts.files.iter().enumerate() {
            let owner = file
                .package
                .as_deref()
                .and_then(|package| ids.get(&(file.layer.as_str(), package)))
                .or_else(|| layer_ids.get(file.layer.as_str()));
            if let Some(owner) = owner {
                let of = contents.entry(owner.clone()).or_default();
                of.insert((file.sha1.as_str(), n));
            }
        }
        Self {
            facts,
            packages: Vec::new(),
            files: Vec::new(),
            relationships: Vec::new(),
            licences: BTreeMap::new(),
            ids,
            layer_ids,
            contents,
        }
    }

    fn relate(&mut self, from: &str, kind: &str, to: &str) {
        self.relationships.push(json!({
            "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to,
        }));
    }

    /// Adds a package, with the verification code of its files (SPDX 2.3, section 7.9).
    fn add(&mut self, id: &str, mut package: Value) {
        let files = self.contents.get(id);
        package["SPDXID"] = json!(id);
        package["filesAnalyzed"] = json!(files.is_some());
        if let Some(files) = files {
            let mut sha1 = Sha1::new();
            for (digest, _) in files {
                sha1.update(digest);
            }
            let code: String = sha1.finalize().iter().map(|b| format!("{b:02x}")).collect();
            package["packageVerificationCode"] = json!({ "packageVerificationCodeValue": code });
        }
        package["copyrightText"] = json!("NOASSERTION");
        package["licenseConcluded"] = json!("NOASSERTION");
        package["downloadLocation"] = json!("NOASSERTION");
        if package["licenseDeclared"].is_null() {
            package["licenseDeclared"] = json!("NOASSERTION");
        }
        self.packages.push(package);
    }

    fn image(&mut self) {
        let facts = self.facts;
        self.relate("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE);
        self.add(
            IMAGE,
            json!({
                "name": facts.name,
                "versionInfo": facts.version,
                "packageFileName": format!("{} for {}", facts.name, facts.board),
                "primaryPackagePurpose": "OPERATING-SYSTEM",
                "checksums": [{ "algorithm": "SHA256", "checksumValue": facts.image.hex() }],
            }),
        );
        let init = "SPDXRef-Init";
        self.relate(IMAGE, "CONTAINS", init);
        self.add(
            init,
            json!({
                "name": "slipform-init",
                "primaryPackagePurpose": "APPLICATION",
                "checksums": [{ "algorithm": "SHA256", "checksumValue": facts.init.hex() }],
            }),
        );
    }

    fn layers(&mut self) {
        for name in &self.facts.layers {
            let id = self.layer_ids[name.as_str()].clone();
            self.relate(IMAGE, "CONTAINS", &id);
            self.add(
                &id,
                json!({ "name": format!("layer {name}"), "primaryPackagePurpose": "OTHER" }),
            );
        }
    }

    fn packages(&mut self) {
        for facts in &self.facts.packages {
            let package = &facts.package;
            let layer = facts.layer.as_deref().unwrap_or("");
            let id = self.ids[&(layer, package.name.as_str())].clone();
            let above = self
                .layer_ids
                .get(layer)
                .map_or(IMAGE, |id| id.as_str())
                .to_owned();
            self.relate(&above, "CONTAINS", &id);
            let declared = facts.copyright.as_deref().and_then(licence::declared);
            let mut value = json!({
                "name": package.name,
                "versionInfo": package.version,
                "supplier": supplier(&package.suite),
                "checksums": [{ "algorithm": "SHA256", "checksumValue": package.sha256.hex() }],
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": purl(package),
                }],
            });
            if let Some(name) = package.path.rsplit('/').next() {
                value["packageFileName"] = json!(name);
            }
            if let Some(maintainer) = facts.maintainer.as_deref().and_then(originator) {
                value["originator"] = json!(maintainer);
            }
            if let Some(homepage) = facts.homepage.as_deref().filter(|page| is_url(page)) {
                value["homepage"] = json!(homepage);
            }
            if let Some(declared) = declared {
                value["licenseDeclared"] = json!(declared.expression);
                self.licences.extend(declared.own);
            }
            self.add(&id, value);
        }
    }

    fn files(&mut self) {
        for (n, file) in self.facts.files.iter().enumerate() {
            self.files.push(json!({
                "SPDXID": format!("SPDXRef-File-{n}"),
                "fileName": format!("./{}", file.path),
                "checksums": [
                    { "algorithm": "SHA1", "checksumValue": file.sha1 },
                    { "algorithm": "SHA256", "checksumValue": file.sha256.hex() },
                ],
                "licenseConcluded": "NOASSERTION",
                "licenseInfoInFiles": ["NOASSERTION"],
                "copyrightText": "NOASSERTION",
            }));
        }
        for (owner, files) in std::mem::take(&mut self.contents) {
            let mut numbers: Vec<usize> = files.into_iter().map(|(_, n)| n).collect();
            numbers.sort_unstable();
            for n in numbers {
                self.relate(&owner, "CONTAINS", &format!("SPDXRef-File-{n}"));
            }
        }
    }

    fn document(self) -> Value {
        let facts = self.facts;
        let own: Vec<Value> = self
            .licences
            .into_iter()
            .map(|(id, text)| json!({ "licenseId": id, "extractedText": text }))
            .collect();
        let mut document = json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": format!("{}-{}-{}", facts.name, facts.version, facts.board),
            "documentNamespace": format!(
                "https://spdx.org/spdxdocs/slipform-{}-{}", facts.name, facts.image.hex()
            ),
            "creationInfo": {
                "created": date::rfc3339(facts.created),
                "creators": [format!("Tool: slipform-{}", facts.builder)],
            },
            "packages": self.packages,
            "files": self.files,
            "relationships": self.relationships,
        });
        if !own.is_empty() {
            document["hasExtractedLicensingInfos"] = json!(own);
        }
        document
    }
}

fn supplier(suite: &str) -> String {
    match suite {
        "local" => "NOASSERTION".to_owned(),
        suite if suite.starts_with("trixie") => "Organization: Debian".to_owned(),
        source => format!("Organization: {source}"),
    }
}

/// `Name <mail>` as SPDX writes an actor; teams are not told from people.
fn originator(maintainer: &str) -> Option<String> {
    let line = maintainer.lines().next()?.trim();
    let (name, mail) = line.split_once('<').unwrap_or((line, ""));
    let clean = |text: &str| -> String {
        text.chars()
            .filter(|c| !c.is_control() && !"()<>".contains(*c))
            .take(200)
            .collect::<String>()
            .trim()
            .to_owned()
    };
    let (name, mail) = (clean(name), clean(mail));
    if name.is_empty() {
        return None;
    }
    Some(if mail.is_empty() {
        format!("Organization: {name}")
    } else {
        format!("Organization: {name} ({mail})")
    })
}

fn is_url(text: &str) -> bool {
    ["https://", "http://"].iter().any(|s| text.starts_with(s))
        && text.bytes().all(|b| b.is_ascii_graphic())
        && text.len() < 1024
}

/// Only what SPDX ids may have.
fn idstring(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
