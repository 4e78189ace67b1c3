//! The way back from a remote: pulling, checking out, verifying, rebuilding.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::publishing::trusted;
use super::{Locking, PipelineError, Settings};
use crate::attest::Trust;
use crate::base::Digest;
use crate::channel::{Entry, RecordImage};
use crate::disk::DiskMap;
use crate::output::{self, Artifact, OutputFormat};
use crate::publish::{self, PublishError, Reference, Sources};
use crate::remote::Remote;

/// A release that was brought here.
#[derive(Debug)]
pub struct Pulled {
    /// Its record.
    pub entry: Entry,
    /// The image of the board.
    pub image: RecordImage,
    /// Its disk; all of it is in the store.
    pub disk: DiskMap,
    /// Bytes that moved.
    pub moved: u64,
}

impl Pulled {
    /// What its record says of its way through the gate.
    #[must_use]
    pub fn standing(&self) -> String {
        match &self.entry.record.forced {
            Some(reason) => format!("FORCED past the gate: {reason}"),
            None => "tested, attested".to_owned(),
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// It is as it must be.
    pub good: bool,
    /// What was checked, and what was found.
    pub text: String,
}

/// What `verify` found.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// The release.
    pub release: Digest,
    /// The record.
    pub record: Digest,
    /// In the order of checking.
    pub findings: Vec<Finding>,
}

impl Settings {
    /// Brings a release's image into the store: its record, signatures, attestations
    /// and every byte are checked before anything is called good.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn pull(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        board: Option<&str>,
        trust: &Trust,
    ) -> Result<Pulled, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        // Only that it comes through again counts here.
        let _through = self.again(remote, &entry, trust)?;
        let image = choose(&entry, board, reference)?.clone();
        let moved = publish::pull(&self.store, remote, &image, &*self.progress)?;
        let disk = self.disk_map(&image.image)?;
        if let Some(reason) = &entry.record.forced {
            self.progress.note(&format!(
                "this release never passed the gate, it was forced: {reason}"
            ));
        }
        Ok(Pulled {
            entry,
            image,
            disk,
            moved,
        })
    }

    /// Brings all images of a release into the store, to be looked at; its digest.
    ///
    /// # Errors
    /// [`PipelineError::Publish`].
    pub fn bring(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        trust: &Trust,
    ) -> Result<Digest, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        for image in &entry.record.images {
            publish::pull(&self.store, remote, image, &*self.progress)?;
        }
        let release = publish::document(remote, &entry.record.release, "the release")?;
        Ok(self.store.put(&release.bytes)?)
    }

    /// Writes a disk of the store in a format.
    ///
    /// # Errors
    /// [`PipelineError::Output`].
    pub fn write_disk(
        &self,
        disk: &DiskMap,
        format: OutputFormat,
        path: &Path,
    ) -> Result<Artifact, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let told = (&self.store, &*self.progress);
        Ok(output::write_told(format, disk, told, path)?)
    }

    /// Lays out the sources of a release in `dir`; returns the folder of its specification.
    ///
    /// # Errors
    /// [`PipelineError::Publish`], [`PipelineError::NotEmpty`].
    pub fn checkout(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        trust: &Trust,
        dir: &Path,
    ) -> Result<(Entry, PathBuf), PipelineError> {
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        let dir = self.checkout_entry(remote, &entry, dir)?;
        Ok((entry, dir))
    }

    fn checkout_entry(
        &self,
        remote: &dyn Remote,
        entry: &Entry,
        dir: &Path,
    ) -> Result<PathBuf, PipelineError> {
        let sources = {
            let _guard = self.store.shared(&*self.progress)?;
            Sources::pull(&self.store, remote, entry, &*self.progress)?.ok_or_else(|| {
                PublishError::Sources(format!("record {} names none", entry.digest))
            })?
        };
        self.lay_out(&sources, dir)
    }

    /// Checks a release, and says of each check what came of it. With `rebuild` it is built
    /// again, with `clouds` its images there are read back.
    ///
    /// # Errors
    /// [`PipelineError`] for what keeps it from being checked at all.
    pub fn verify(
        &self,
        remote: &dyn Remote,
        reference: &Reference,
        trust: &Trust,
        (rebuild, clouds): (bool, bool),
    ) -> Result<Checked, PipelineError> {
        let entry = publish::resolve(remote, reference, trusted(trust, "the release")?)?;
        let mut findings = vec![Finding {
            good: true,
            text: format!(
                "record {} (number {} of {}) is signed by {} and in an unbroken history",
                entry.digest.short(),
                entry.record.sequence,
                entry.record.channel,
                entry.key.map_or_else(String::new, |key| key.to_string())
            ),
        }];
        findings.push(match self.again(remote, &entry, trust) {
            Ok(attested) if attested.forced().is_some() => Finding {
                good: false,
                text: format!(
                    "it was forced past the gate: {}",
                    attested.forced().unwrap_or_default()
                ),
            },
            Ok(_) => Finding {
                good: true,
                text: "attestations are signed, complete and of this image and test plan"
                    .to_owned(),
            },
            Err(error) => Finding {
                good: false,
                text: error.to_string(),
            },
        });
        for image in &entry.record.images {
            findings.push(self.verify_bytes(remote, image)?);
        }
        if clouds {
            findings.extend(self.verify_clouds(&entry.record)?);
        }
        if rebuild {
            findings.extend(self.rebuild(remote, &entry)?);
        }
        Ok(Checked {
            release: entry.record.release,
            record: entry.digest,
            findings,
        })
    }

    fn verify_bytes(
        &self,
        remote: &dyn Remote,
        image: &RecordImage,
    ) -> Result<Finding, PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let pulled = publish::pull(&self.store, remote, image, &*self.progress);
        let subject = format!("image {} for {}", image.image.short(), image.board);
        Ok(match pulled {
            Ok(_) => {
                let disk = self.disk_map(&image.image)?;
                Finding {
                    good: true,
                    text: format!(
                        "every blob of {subject} is its digest; disk {}",
                        disk.digest()
                    ),
                }
            }
            Err(error) => Finding {
                good: false,
                text: format!("{subject}: {error}"),
            },
        })
    }

    /// Builds a release again from its own sources and lock, in a folder of its own.
    fn rebuild(&self, remote: &dyn Remote, entry: &Entry) -> Result<Vec<Finding>, PipelineError> {
        let folder = tempfile::Builder::new()
            .prefix("rebuild-")
            .tempdir_in(self.store.tmp())
            .map_err(|error| {
                PipelineError::Internal(format!("no folder to rebuild in: {error}"))
            })?;
        let dir = self.checkout_entry(remote, entry, &folder.path().join("sources"))?;
        let image = super::load(&dir)?;
        // A store of its own: what this host built before must not answer for it.
        let fresh = self.with_fresh_store(folder.path().join("store"))?;
        let lock = self.lock(&image, &Locking::AsItIs)?;
        {
            let _guard = self.store.shared(&*self.progress)?;
            for lock in lock.parts() {
                self.bring_bases(&image, lock)?;
                let inputs = lock.packages().map(|package| package.sha256);
                let bases = self.base_blobs(lock)?.into_iter().map(|blob| blob.digest);
                let inputs = inputs.chain(bases).chain([lock.init.sha256]);
                fresh.store.share(&self.store, inputs)?;
            }
        }
        let mut findings = Vec::new();
        for recorded in &entry.record.images {
            let cast = fresh.cast(&image, &lock, &recorded.board)?;
            let good = cast.manifest == recorded.image;
            let text = if good {
                format!(
                    "{} is rebuilt as {}, bit for bit",
                    recorded.board, cast.manifest
                )
            } else {
                format!(
                    "{} is rebuilt as {}, but {} was released; compare them with `slipform diff`",
                    recorded.board, cast.manifest, recorded.image
                )
            };
            findings.push(Finding { good, text });
        }
        Ok(findings)
    }
}

fn choose<'e>(
    entry: &'e Entry,
    board: Option<&str>,
    reference: &Reference,
) -> Result<&'e RecordImage, PublishError> {
    let images = &entry.record.images;
    let named = |image: &&RecordImage| match (board, reference) {
        (Some(board), _) => image.board == board,
        (None, Reference::Digest(digest)) => image.image == *digest || images.len() == 1,
        (None, _) => images.len() == 1,
    };
    images
        .iter()
        .find(named)
        .ok_or_else(|| PublishError::Board {
            boards: images
                .iter()
                .map(|image| image.board.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
}
