//! What is in an image, for its bill of materials: every package, and every file with
//! the package that brought it.

use std::collections::BTreeMap;
use std::io;

use sha1::{Digest as _, Sha1};

use super::layers::{Anatomy, anatomy};
use super::{Cast, PipelineError, Settings, blob, packages};
use crate::attest::{FileFacts, PackageFacts, Sbom, SbomFacts};
use crate::base::{Digest, DigestWriter, EPOCH};
use crate::layers::{Content, Kind, Source, UnpackedDeb, content};
use crate::lock::{LockFile, LockedPackage};
use crate::spec::Image;
use crate::store::{Output, Outputs, Step};
use crate::tree::Tree;

/// Longest copyright file that is looked at.
const COPYRIGHT_LIMIT: u64 = 1 << 20;

impl Settings {
    /// The bill of materials of `cast`, and digests of the user's own files by layer.
    /// Made once for each image.
    pub(super) fn bill(
        &self,
        image: &Image,
        lock: &LockFile,
        cast: &Cast,
    ) -> Result<(Sbom, Vec<(String, Digest)>), PipelineError> {
        let step = Step::new(
            "bill of materials 1",
            format!("bill of {}", cast.board.name),
        )
        .input("image", cast.manifest)
        .value("slipform", env!("CARGO_PKG_VERSION"));
        let outputs = self.step(&step, || {
            let task = self.progress.begin("bill of materials", None);
            let anatomy = anatomy(self, image, lock)?;
            let facts = self.bill_facts(image, lock, cast, &anatomy)?;
            drop(task);
            let sbom = serde_json::to_vec(&Sbom::of(&facts).0)
                .map_err(|error| PipelineError::Internal(error.to_string()))?;
            Ok(Outputs::from([
                ("sbom".to_owned(), Output::Blob(self.store.put(&sbom)?)),
                ("files".to_owned(), super::output(&anatomy.files)?),
            ]))
        })?;
        let sbom = serde_json::from_slice(&self.store.read(&blob(&outputs, "sbom")?)?)
            .map_err(|error| PipelineError::Internal(error.to_string()))?;
        Ok((Sbom(sbom), super::value(&outputs, "files")?))
    }

    fn bill_facts(
        &self,
        image: &Image,
        lock: &LockFile,
        cast: &Cast,
        anatomy: &Anatomy,
    ) -> Result<SbomFacts, PipelineError> {
        let mut packages = Vec::new();
        for layer in &lock.layers {
            for package in &layer.packages {
                packages.push(self.package(package, Some(&layer.name))?);
            }
        }
        let board = lock.boards.iter().find(|b| b.name == cast.board.name);
        for package in board.iter().flat_map(|board| board.packages()) {
            packages.push(self.package(package, None)?);
        }
        let mut files = Vec::new();
        for (layer, tree) in &anatomy.trees {
            let owners = anatomy.packages.iter().find(|(name, _)| name == layer);
            let owners = owners.map(|(_, packages)| packages.as_slice());
            self.files(layer, tree, owners.unwrap_or_default(), &mut files)?;
        }
        Ok(SbomFacts {
            name: image.name.clone(),
            version: image.version.clone(),
            board: cast.board.name.clone(),
            image: cast.manifest,
            created: lock.suites.iter().map(|s| s.date).max().unwrap_or(EPOCH),
            builder: env!("CARGO_PKG_VERSION").to_owned(),
            init: lock.init.sha256,
            layers: anatomy.trees.iter().map(|(name, _)| name.clone()).collect(),
            packages,
            files,
        })
    }

    fn package(
        &self,
        package: &LockedPackage,
        layer: Option<&str>,
    ) -> Result<PackageFacts, PipelineError> {
        let unpacked = packages::unpack(self, &package.sha256)?;
        let path = format!("/usr/share/doc/{}/copyright", package.name);
        let entries = unpacked.entries(&self.store)?;
        let copyright = entries
            .iter()
            .find(|entry| entry.path == path)
            .and_then(|entry| match &entry.kind {
                Kind::File(content) if content.size <= COPYRIGHT_LIMIT => Some(content),
                _ => None,
            })
            .map(|content| self.text(content))
            .transpose()?;
        let field = |name: &str| unpacked.control.get(name).cloned();
        Ok(PackageFacts {
            package: package.clone(),
            layer: layer.map(str::to_owned),
            maintainer: field("Maintainer"),
            homepage: field("Homepage"),
            copyright,
        })
    }

    fn text(&self, content: &Content) -> Result<String, PipelineError> {
        let mut bytes = Vec::new();
        let mut reader = content::open(content, &self.store)?;
        io::Read::read_to_end(&mut reader, &mut bytes)
            .map_err(|error| PipelineError::Internal(format!("a copyright file: {error}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Every regular file of a layer, digested.
    fn files(
        &self,
        layer: &str,
        tree: &Tree,
        packages: &[UnpackedDeb],
        files: &mut Vec<FileFacts>,
    ) -> Result<(), PipelineError> {
        let owners: BTreeMap<Digest, &str> = packages
            .iter()
            .map(|package| (package.tar, package.name.as_str()))
            .collect();
        for (path, node) in &tree.nodes {
            let Kind::File(content) = &node.kind else {
                continue;
            };
            let package = match &content.source {
                Source::Blob { digest, .. } => owners.get(digest).map(|name| (*name).to_owned()),
                _ => None,
            };
            let mut reader = content::open_unhashed(content, &self.store)?;
            let mut both = DigestWriter::new(Sha1Sink(Sha1::new()));
            io::copy(&mut reader, &mut both)
                .map_err(|error| PipelineError::Internal(format!("{path}: {error}")))?;
            let (sha256, sha1) = both.finish();
            files.push(FileFacts {
                layer: layer.to_owned(),
                path: path.clone(),
                sha1: hex(&sha1.0.finalize()),
                sha256,
                package,
            });
        }
        Ok(())
    }
}

/// SPDX insists on SHA-1 for files (SPDX 2.3, 8.4); nothing is trusted by it.
struct Sha1Sink(Sha1);

impl io::Write for Sha1Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
