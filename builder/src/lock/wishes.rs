//! What resolution reads from the specification, and nothing else: its digest
//! says whether a lock still fits.

use serde::{Deserialize, Serialize};

use super::archive::{Base, SuiteSource};
use super::file::{LockedContainer, LockedTar};
use crate::base::Digest;

/// Which of Debian's components are read, the second only where firmware is wished for:
/// Debian keeps apart what is not free.
const COMPONENTS: [&str; 2] = ["main", "non-free-firmware"];

/// Everything that is wished for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Debian suite, such as `trixie`; empty for none.
    pub suite: String,
    /// Debian architecture, such as `amd64`.
    pub arch: String,
    /// Debian architecture of the tools, where it is another one; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tools_arch: String,
    /// Further archives.
    pub apt: Vec<WishedSource>,
    /// Boards, by name.
    pub boards: Vec<WishedBoard>,
    /// Layers, bottom to top.
    pub layers: Vec<WishedLayer>,
    /// Sets of tools, each for itself.
    pub tools: Vec<WishedTool>,
}

/// A further archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WishedSource {
    /// Name in the lock.
    pub name: String,
    /// Base URI.
    pub uri: String,
    /// Folder below `dists/`.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// Digest of [`WishedSource::key_bytes`].
    pub key: Digest,
    /// The public key file, armoured or binary.
    #[serde(skip)]
    pub key_bytes: Vec<u8>,
}

/// What a board needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WishedBoard {
    /// Board name.
    pub name: String,
    /// Kernel package, or a meta package that depends on one.
    pub kernel: String,
    /// Package with the EFI stub.
    pub stub: String,
    /// Package with the boot loader for a BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<String>,
    /// Packages with firmware and microcode, each alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
}

/// What a layer needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WishedLayer {
    /// Layer name.
    pub name: String,
    /// Packages in [wish syntax](super::Wish::parse).
    pub packages: Vec<String>,
    /// Packages that this layer's dependencies do without.
    pub without: Vec<String>,
    /// Local packages.
    pub local: Vec<LocalDeb>,
    /// Packages that the layer has by other means (a container layer's own, a published base's).
    pub present: Vec<PresentPackage>,
    /// The layer's archive of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<LockedTar>,
    /// The layer's container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<LockedContainer>,
    /// The published base that the layer is, as the specification names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// A `.deb` from the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalDeb {
    /// Path relative to the lock.
    pub path: String,
    /// Its control paragraph.
    pub control: String,
    /// Bytes.
    pub size: u64,
    /// Of the file.
    pub sha256: Digest,
}

/// A package that is there already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresentPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its `Provides` field, empty for none.
    pub provides: String,
}

/// A set of tools.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WishedTool {
    /// Name in the lock.
    pub name: String,
    /// Packages in [wish syntax](super::Wish::parse).
    pub packages: Vec<String>,
}

impl WishedSource {
    /// A source trusted by the key in `key_bytes`.
    #[must_use]
    pub fn new(name: &str, uri: &str, suite: &str, key_bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            components: vec!["main".to_owned()],
            key: Digest::of(&key_bytes),
            key_bytes,
        }
    }
}

impl Wishes {
    /// The digest of all of it. The order of layers counts, that of everything else does not.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut sorted = self.clone();
        sorted.apt.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.boards.sort();
        sorted.tools.sort();
        for board in &mut sorted.boards {
            tidy(&mut board.firmware);
        }
        for tool in &mut sorted.tools {
            tidy(&mut tool.packages);
        }
        for layer in &mut sorted.layers {
            tidy(&mut layer.packages);
            tidy(&mut layer.without);
            layer.local.sort();
            layer.present.sort();
        }
        // A struct of texts and numbers always has a JSON form.
        let json = serde_json::to_string(&sorted).unwrap_or_default();
        Digest::of(format!("slipform wishes 1\n{json}"))
    }

    /// The tools alone, where they are of another architecture than all the rest. They
    /// come from Debian: a further archive need not have their architecture.
    #[must_use]
    pub(super) fn foreign_tools(&self) -> Option<Self> {
        let foreign = !self.tools_arch.is_empty() && self.tools_arch != self.arch;
        foreign.then(|| Self {
            suite: self.suite.clone(),
            arch: self.tools_arch.clone(),
            tools: self.tools.clone(),
            ..Self::default()
        })
    }

    /// The archives to read, in the order in which apt would: the suite, its
    /// updates, security, then the further ones.
    #[must_use]
    pub fn sources(&self) -> Vec<SuiteSource> {
        let firmware = self.boards.iter().any(|board| !board.firmware.is_empty());
        let components = &COMPONENTS[..if firmware { 2 } else { 1 }];
        let debian = |name: String, base| SuiteSource {
            dist: name.clone(),
            name,
            base,
            components: components.iter().map(|&c| c.to_owned()).collect(),
        };
        let mut sources = Vec::new();
        if !self.suite.is_empty() {
            sources.push(debian(self.suite.clone(), Base::Debian));
            // Unstable and experimental have neither.
            if !matches!(
                self.suite.as_str(),
                "sid" | "unstable" | "experimental" | "rc-buggy"
            ) {
                let suite = &self.suite;
                sources.push(debian(format!("{suite}-updates"), Base::Debian));
                sources.push(debian(format!("{suite}-security"), Base::DebianSecurity));
            }
        }
        sources.extend(self.apt.iter().map(|apt| SuiteSource {
            name: apt.name.clone(),
            base: Base::Uri(apt.uri.clone()),
            dist: apt.suite.clone(),
            components: apt.components.clone(),
        }));
        sources
    }
}

fn tidy(names: &mut Vec<String>) {
    for name in names.iter_mut() {
        *name = name.trim().to_owned();
    }
    names.sort();
    names.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            suite: "trixie".to_owned(),
            arch: "amd64".to_owned(),
            layers: vec![WishedLayer {
                name: "app".to_owned(),
                packages: vec!["b".to_owned(), "a".to_owned()],
                ..WishedLayer::default()
            }],
            ..Wishes::default()
        }
    }

    #[test]
    fn the_digest_binds_what_is_wished_and_not_its_order() {
        let one = wishes();
        let mut two = wishes();
        two.layers[0].packages = vec!["a ".to_owned(), "b".to_owned(), "b".to_owned()];
        assert_eq!(one.digest(), two.digest());
        let mut changed = Vec::new();
        let changes: [fn(&mut Wishes); 6] = [
            |w| w.suite = "sid".to_owned(),
            |w| w.layers[0].name = "x".to_owned(),
            |w| w.layers[0].without.push("a".to_owned()),
            |w| w.layers.push(WishedLayer::default()),
            |w| {
                w.apt
                    .push(WishedSource::new("x", "http://x", "y", b"key".to_vec()));
            },
            |w| {
                w.apt
                    .push(WishedSource::new("x", "http://x", "y", b"yek".to_vec()));
            },
        ];
        for change in changes {
            let mut other = wishes();
            change(&mut other);
            changed.push(other.digest());
        }
        changed.push(one.digest());
        changed.sort();
        changed.dedup();
        assert_eq!(changed.len(), changes.len() + 1);
    }

    #[test]
    fn what_is_not_free_is_read_only_where_firmware_is_wished_for() {
        let mut wishes = wishes();
        let components = |wishes: &Wishes| wishes.sources()[0].components.join(" ");
        assert_eq!(components(&wishes), "main");
        let without = wishes.digest();
        wishes.boards.push(WishedBoard {
            name: "rack".to_owned(),
            kernel: "k".to_owned(),
            stub: "s".to_owned(),
            bios: None,
            firmware: vec!["firmware-bnx2x".to_owned()],
        });
        assert_eq!(components(&wishes), "main non-free-firmware");
        assert_ne!(wishes.digest(), without);
    }

    #[test]
    fn names_the_archives_of_a_suite() {
        let names = |suite: &str| {
            let wishes = Wishes {
                suite: suite.to_owned(),
                ..wishes()
            };
            let names: Vec<_> = wishes.sources().into_iter().map(|s| s.name).collect();
            names.join(" ")
        };
        assert_eq!(names("trixie"), "trixie trixie-updates trixie-security");
        assert_eq!(names("sid"), "sid");
        assert_eq!(names(""), "");
    }
}
