//! Boot tests become evidence, and evidence goes through the gate.

use std::path::{Path, PathBuf};

use slipform_qemu_tests::{BootReport, Plan, built_in_checks};

use super::parts::part;
use super::{Cast, Locking, PipelineError, Settings, now, output as record, value};
use crate::attest::{
    self, Attestations, Attested, BuildFacts, Candidate, GateInput, Policy, Provenance, Signer,
    Trust,
};
use crate::base::Digest;
use crate::lock::Locks;
use crate::output::{Artifact, OutputFormat};
use crate::publish::{PublishError, Release, Sources, Tests};
use crate::spec::Image;
use crate::store::{Descriptor, MANIFEST, Outputs, Step, StepLog, StepState};

/// Which way an image goes to its publication.
#[derive(Debug, Clone, Copy)]
pub enum Door<'a> {
    /// Through the gate.
    Gate,
    /// Around it, for this reason.
    Forced(&'a str),
}

/// What came through the gate, with all that is published beside it.
#[derive(Debug)]
pub struct ReadyToPublish {
    /// The images.
    pub attested: Attested,
    /// The release that they make.
    pub release: Release,
    /// What it was built from.
    pub sources: Sources,
}

/// An image that asks for publication, before anybody looked at its evidence.
struct Applicant {
    cast: Cast,
    tests: Tests,
}

impl Settings {
    /// Keeps the report of a boot test beside the image, unsigned: whoever publishes
    /// from this store signs it then.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub fn keep_report(&self, image: &Digest, report: &BootReport) -> Result<(), PipelineError> {
        let _guard = self.store.shared(&*self.progress)?;
        let outputs = Outputs::from([("report".to_owned(), record(report)?)]);
        Ok(self
            .store
            .record_beside(&report_step(image), &outputs, image)?)
    }

    /// That an image is what the lock's inputs come to: whatever a cache said of its steps
    /// is done again, here, and must give the same. Costs nothing where no cache was asked.
    ///
    /// A cache's entry, a step's key and what it comes to, cannot be checked by digests: it
    /// may name good blobs of something else. So nothing that a cache said is evidence, and
    /// it stays marked in the store until the step is done here.
    ///
    /// # Errors
    /// [`PipelineError::Poisoned`] when it comes to something else.
    pub fn prove(&self, image: &Image, lock: &Locks, cast: &Cast) -> Result<(), PipelineError> {
        let own = self.own_only().cast(image, lock, &cast.board.name)?;
        if own.manifest == cast.manifest {
            return Ok(());
        }
        let layers = cast
            .layers
            .iter()
            .filter(|layer| !own.layers.contains(layer));
        Err(PipelineError::Poisoned {
            tested: cast.manifest,
            own: own.manifest,
            layers: layers.map(|(name, _)| name.clone()).collect(),
        })
    }

    fn kept_report(&self, cast: &Cast) -> Option<BootReport> {
        match self
            .store
            .step(&report_step(&cast.manifest), &StepLog::default())
        {
            StepState::Hit(outputs) => value(&outputs, "report").ok(),
            StepState::Miss { .. } => None,
        }
    }

    /// Keeps the evidence of a green boot test beside the image, signed.
    ///
    /// # Errors
    /// [`PipelineError::Publish`] for a run that proves nothing.
    pub fn attest(
        &self,
        image: &Image,
        lock: &Locks,
        cast: &Cast,
        report: &BootReport,
        signer: &dyn Signer,
    ) -> Result<Digest, PipelineError> {
        self.prove(image, lock, cast)?;
        let _guard = self.store.shared(&*self.progress)?;
        let image = &part(image, cast.board.arch)?;
        let lock = lock.of(cast.board.arch).ok_or_else(|| {
            PipelineError::Internal(format!("the lock has no board '{}'", cast.board.name))
        })?;
        let (sbom, files) = self.bill(image, lock, cast)?;
        let provenance = Provenance::of(
            &BuildFacts {
                name: &image.name,
                version: &image.version,
                board: &cast.board.name,
                debug: image.is_debug(),
                builder: env!("CARGO_PKG_VERSION"),
                sources: &files,
            },
            lock,
        );
        let evidence = attest::Evidence {
            report,
            image: cast.manifest,
            provenance,
            sbom,
            accept_debug: image.gate.accept_debug,
        };
        let attestations = attest::attest(evidence, signer).map_err(PublishError::from)?;
        let size = self.store.size(&cast.manifest).unwrap_or_default();
        let descriptor = Descriptor::new(MANIFEST, cast.manifest, size);
        let (att, _) = attestations
            .save(&self.store, &descriptor)
            .map_err(PublishError::from)?;
        Ok(att.digest)
    }

    /// What `build --locked` would name now, through the gate. Nothing is built. Where
    /// nothing is attested yet, `signer` signs what the last boot test here showed.
    ///
    /// # Errors
    /// [`PipelineError::NotBuilt`] says what differs from what was built;
    /// [`PipelineError::Publish`] what the gate says.
    pub fn attested(
        &self,
        image: &Image,
        trust: &Trust,
        door: Door<'_>,
        signer: &dyn Signer,
    ) -> Result<ReadyToPublish, PipelineError> {
        let known = self.only_known();
        let lock = known.lock(image, &Locking::AsItIs)?;
        let mut applicants = Vec::new();
        for board in &image.boards {
            applicants.push(known.applicant(image, &lock, board)?);
        }
        let casts: Vec<Cast> = applicants.iter().map(|a| a.cast.clone()).collect();
        let release = Release {
            name: image.name.clone(),
            version: image.version.clone(),
            digest: known.release(image, &lock, &casts)?,
            lock: Digest::of(lock.to_toml()),
            tests: applicants
                .iter()
                .map(|a| (a.cast.board.name.clone(), a.tests.clone()))
                .collect(),
        };
        let policy = Policy::from(&image.gate);
        let forced = match door {
            Door::Gate => None,
            Door::Forced(reason) => Some(reason),
        };
        let ask = || {
            through(
                self.candidates(&applicants)?,
                trust,
                &policy,
                now()?,
                forced,
            )
        };
        let attested = match ask() {
            Err(refused) => {
                if !self.sign_kept(image, &lock, &applicants, signer)? {
                    return Err(refused);
                }
                ask()?
            }
            Ok(attested) => attested,
        };
        Ok(ReadyToPublish {
            attested,
            release,
            sources: self.gather(image, &lock)?,
        })
    }

    fn applicant(
        &self,
        image: &Image,
        lock: &Locks,
        board: &str,
    ) -> Result<Applicant, PipelineError> {
        let cast = self.cast(image, lock, board)?;
        let plan = self.test_plan(image, &cast);
        let users = plan.checks.iter().map(|check| check.name.clone());
        let digest = plan.digest().parse();
        let tests = Tests {
            plan: digest
                .map_err(|_| PipelineError::Internal("a plan without a digest".to_owned()))?,
            checks: built_in_checks().map(str::to_owned).chain(users).collect(),
        };
        Ok(Applicant { cast, tests })
    }

    fn candidates(&self, applicants: &[Applicant]) -> Result<Vec<Candidate>, PipelineError> {
        let candidate = |applicant: &Applicant| {
            let kept = Attestations::load(&self.store, &applicant.cast.manifest);
            Ok(Candidate {
                board: applicant.cast.board.name.clone(),
                image: applicant.cast.manifest,
                plan: applicant.tests.plan,
                checks: applicant.tests.checks.clone(),
                attestations: kept.map_err(PublishError::from)?,
            })
        };
        applicants.iter().map(candidate).collect()
    }

    /// Signs reports that fit and say something that is not attested yet; whether
    /// there was any.
    fn sign_kept(
        &self,
        image: &Image,
        lock: &Locks,
        applicants: &[Applicant],
        signer: &dyn Signer,
    ) -> Result<bool, PipelineError> {
        let mut signed = false;
        for applicant in applicants {
            let fits = |report: &BootReport| report.plan == applicant.tests.plan.to_string();
            if let Some(report) = self.kept_report(&applicant.cast).filter(fits) {
                self.attest(image, lock, &applicant.cast, &report, signer)?;
                signed = true;
            }
        }
        Ok(signed)
    }

    /// The plan that an image must have passed; where its file lies does not count.
    fn test_plan(&self, image: &Image, cast: &Cast) -> Plan {
        let nowhere = Artifact {
            path: PathBuf::new(),
            format: OutputFormat::Raw,
            bytes: 0,
        };
        self.plan(image, cast, &nowhere, Path::new(""))
    }
}

/// The gate's two doors.
pub(super) fn through(
    images: Vec<Candidate>,
    trust: &Trust,
    policy: &Policy,
    now: i64,
    forced: Option<&str>,
) -> Result<Attested, PipelineError> {
    let attested = match forced {
        None => attest::gate(GateInput {
            images,
            trust,
            policy,
            now,
        }),
        Some(reason) => {
            let images = images
                .into_iter()
                .map(|image| (image.board, image.image, image.attestations));
            attest::force(images.collect(), reason)
        }
    };
    Ok(attested.map_err(PublishError::from)?)
}

fn report_step(image: &Digest) -> Step {
    Step::new("boot test 1", format!("boot test of {}", image.short())).input("image", *image)
}
