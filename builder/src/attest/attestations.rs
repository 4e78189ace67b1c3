//! The three statements about an image, and how they are kept: each once as a
//! layer of the manifest that cosign looks for (`sha256-<hex>.att`), and once as
//! a referrer of its own (distribution-spec, "Listing Referrers").

use std::collections::BTreeMap;

use serde_json::json;
use slipform_qemu_tests::{BootKind, BootReport, REPORT_SCHEMA};

use super::dsse::{ENVELOPE_LIMIT, ENVELOPE_TYPE};
use super::error::malformed;
use super::statement::{PAYLOAD_TYPE, Predicate, Statement, predicate_type};
use super::{AttestError, Envelope, Provenance, PublicKey, Sbom, Signer, TestResult};
use crate::base::Digest;
use crate::store::{Descriptor, Manifest, Store};

/// Type of an attestation's referrer manifest.
pub const REFERRER_TYPE: &str = PAYLOAD_TYPE;
/// Note by which referrers of one type are told apart.
pub const PREDICATE_NOTE: &str = "in-toto.io/predicate-type";
/// How the tags of [`att_tag`] end, and no others.
pub const ATT_SUFFIX: &str = ".att";
/// Note by which cosign tells the layers of one manifest apart.
const PREDICATE: &str = "predicateType";
/// The configuration that cosign gives its manifests.
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Most envelopes of a manifest that are read.
const MOST_ENVELOPES: usize = 64;
const WHAT: &str = "the attestation manifest";

/// What is said of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestations {
    /// It booted and passed: [`TestResult`].
    pub test: Envelope,
    /// What it was made from: [`Provenance`].
    pub provenance: Envelope,
    /// What is in it: [`Sbom`].
    pub sbom: Envelope,
}

/// What is to be attested.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The boot's report.
    pub report: &'a BootReport,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// What the image was made from.
    pub provenance: Provenance,
    /// What is in it.
    pub sbom: Sbom,
    /// The policy lets images with a debug layer through.
    pub accept_debug: bool,
}

/// Signs what a good run has shown.
///
/// # Errors
/// [`AttestError::Run`] for a run that is red, direct, of a debug image, a part
/// only, or repeated until it was green; what the signer reports.
pub fn attest(evidence: Evidence<'_>, signer: &dyn Signer) -> Result<Attestations, AttestError> {
    check(&evidence)?;
    let Evidence {
        report,
        image,
        provenance,
        sbom,
        ..
    } = evidence;
    let name = report.name.as_str();
    Ok(Attestations {
        test: Statement::new(name, &image, TestResult::of(report)?).sign(signer)?,
        provenance: Statement::new(name, &image, provenance).sign(signer)?,
        sbom: Statement::new(name, &image, sbom).sign(signer)?,
    })
}

fn check(evidence: &Evidence<'_>) -> Result<(), AttestError> {
    let report = evidence.report;
    let refuse = |why: String, remedy| Err(AttestError::Run { why, remedy });
    let plain = "`slipform test` without other flags";
    if report.schema != REPORT_SCHEMA {
        let why = format!(
            "its report has schema {}, not {REPORT_SCHEMA}",
            report.schema
        );
        return refuse(why, "`slipform test` of this version");
    }
    if report.image != evidence.image.to_string() {
        return refuse(
            format!("it booted {}, and this is {}", report.image, evidence.image),
            "`slipform test`",
        );
    }
    if !report.passed {
        return refuse("it failed".to_owned(), "`slipform test` when it is mended");
    }
    if report.boot == BootKind::Direct {
        let why = "its kernel was started directly, which does not show that the image boots";
        return refuse(why.to_owned(), "`slipform test` without --direct");
    }
    if let Some((part, of)) = report.shard {
        return refuse(
            format!("it is part {part} of {of} only"),
            "`slipform report merge` over all parts",
        );
    }
    if report.attempt != 1 {
        let why = format!("it is attempt {}, after a red one", report.attempt);
        return refuse(why, plain);
    }
    if report.debug && !evidence.accept_debug {
        let why = "the image has a debug layer, and the policy takes none";
        let remedy =
            "`slipform test` without the debug layer, or set `accept-debug = true` under [gate]";
        return refuse(why.to_owned(), remedy);
    }
    if report.disk_before != report.disk_after {
        return refuse("the artifact changed while it ran".to_owned(), plain);
    }
    Ok(())
}

/// Documents ready for a store or a registry: put the blobs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Envelopes and configurations.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
    /// The manifest that cosign looks for, to be named [`att_tag`].
    pub att: Manifest,
    /// For each envelope its last name part (`test`, …) and its referrer manifest.
    pub referrers: Vec<(&'static str, Manifest)>,
}

/// The name of an image's attestations, for cosign and in the store's index.
#[must_use]
pub fn att_tag(image: &Digest) -> String {
    format!("sha256-{}{ATT_SUFFIX}", image.hex())
}

impl Attestations {
    fn named(&self) -> [(&'static str, &'static str, &Envelope); 3] {
        [
            ("test", TestResult::TYPE, &self.test),
            ("provenance", Provenance::TYPE, &self.provenance),
            ("sbom", Sbom::TYPE, &self.sbom),
        ]
    }

    /// Adds another's signature to all three.
    ///
    /// # Errors
    /// As [`Envelope::countersign`].
    pub fn countersign(&mut self, signer: &dyn Signer) -> Result<(), AttestError> {
        for envelope in [&mut self.test, &mut self.provenance, &mut self.sbom] {
            envelope.countersign(signer)?;
        }
        Ok(())
    }

    /// As OCI documents about `image`.
    ///
    /// # Errors
    /// [`AttestError::Malformed`].
    pub fn pack(&self, image: &Descriptor) -> Result<Packed, AttestError> {
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        let mut referrers = Vec::new();
        for (name, predicate, envelope) in self.named() {
            let bytes = envelope.to_bytes()?;
            let plain = Descriptor::new(ENVELOPE_TYPE, Digest::of(&bytes), bytes.len() as u64)
                .with(PREDICATE, predicate);
            // cosign's reader wants the key, and envelopes carry their signatures inside.
            layers.push(plain.clone().with("dev.cosignproject.cosign/signature", ""));
            let mut referrer =
                Manifest::artifact(REFERRER_TYPE, Descriptor::empty(), vec![plain.clone()]);
            referrer.subject = Some(Descriptor::new(&image.media_type, image.digest, image.size));
            referrer
                .annotations
                .insert(PREDICATE_NOTE.to_owned(), predicate.to_owned());
            referrers.push((name, referrer));
            blobs.push((plain, bytes));
        }
        let (att, config) = cosign_manifest(layers);
        blobs.push((att.config.clone(), config));
        blobs.push((Descriptor::empty(), b"{}".to_vec()));
        Ok(Packed {
            blobs,
            att,
            referrers,
        })
    }

    /// Keeps them in the store, by the name of the image; earlier ones are forgotten.
    /// Returns the descriptor of the `.att` manifest and those of the referrers.
    ///
    /// # Errors
    /// [`AttestError::Store`], [`AttestError::Malformed`].
    pub fn save(
        &self,
        store: &Store,
        image: &Descriptor,
    ) -> Result<(Descriptor, Vec<Descriptor>), AttestError> {
        let packed = self.pack(image)?;
        for (_, bytes) in &packed.blobs {
            store.put(bytes)?;
        }
        let mut referrers = Vec::new();
        for (name, manifest) in &packed.referrers {
            let descriptor = store.put_manifest(manifest)?;
            let name = format!("sha256-{}.{name}", image.digest.hex());
            store.tag_beside(&name, &descriptor, &image.digest)?;
            referrers.push(descriptor);
        }
        let att = store.put_manifest(&packed.att)?;
        // Last: who finds this one finds all.
        store.tag_beside(&att_tag(&image.digest), &att, &image.digest)?;
        Ok((att, referrers))
    }

    /// Those that the store keeps of an image; verifies nothing yet.
    ///
    /// # Errors
    /// [`AttestError::Store`], [`AttestError::Malformed`].
    pub fn load(store: &Store, image: &Digest) -> Result<Option<Self>, AttestError> {
        let Some(found) = store.tagged(&att_tag(image))? else {
            return Ok(None);
        };
        let manifest = store.manifest(&found.digest)?;
        let mut envelopes = Vec::new();
        for layer in envelope_layers(&manifest)? {
            let bytes = store.read_at_most(&layer.digest, "attestation", ENVELOPE_LIMIT)?;
            envelopes.push(Envelope::parse(&bytes)?);
        }
        Self::choose(envelopes, &[]).map(Some)
    }

    /// Of each kind the last one that one of `keys` signed; if there is none, the
    /// last one at all, so that the gate can say what is wrong with it.
    ///
    /// # Errors
    /// [`AttestError::Malformed`] when one kind is missing.
    pub fn choose(envelopes: Vec<Envelope>, keys: &[PublicKey]) -> Result<Self, AttestError> {
        let mut chosen: BTreeMap<String, (bool, Envelope)> = BTreeMap::new();
        for envelope in envelopes {
            let Some(kind) = envelope.payload().ok().and_then(|p| predicate_type(&p)) else {
                continue;
            };
            let good = envelope.verify(PAYLOAD_TYPE, keys).is_ok();
            if good || !chosen.get(&kind).is_some_and(|(good, _)| *good) {
                chosen.insert(kind, (good, envelope));
            }
        }
        let mut take = |kind: &str| {
            let found = chosen.remove(kind).map(|(_, envelope)| envelope);
            found.ok_or_else(|| malformed(WHAT, format!("it has no '{kind}'")))
        };
        Ok(Self {
            test: take(TestResult::TYPE)?,
            provenance: take(Provenance::TYPE)?,
            sbom: take(Sbom::TYPE)?,
        })
    }
}

/// The layers of an `.att` or referrer manifest that are envelopes, bounded.
///
/// # Errors
/// [`AttestError::Malformed`] when they are too many or too large.
pub fn envelope_layers(manifest: &Manifest) -> Result<Vec<&Descriptor>, AttestError> {
    let layers: Vec<&Descriptor> = manifest
        .layers
        .iter()
        .filter(|layer| layer.media_type == ENVELOPE_TYPE)
        .collect();
    if layers.len() > MOST_ENVELOPES {
        return Err(malformed(WHAT, "it has more than 64 attestations"));
    }
    if layers.iter().any(|layer| layer.size > ENVELOPE_LIMIT) {
        return Err(malformed(WHAT, "it has an attestation longer than 64 MiB"));
    }
    Ok(layers)
}

/// What cosign shall find from now on: `ours`, and of `there`, which is where it looks
/// now, what was said of other kinds by others (a review, a scan). Two that say the
/// same kind of thing are the older and the newer one. Gives the bytes of the
/// configuration, too; `None` if `ours` says it all.
///
/// # Errors
/// [`AttestError::Malformed`] when they are too many or too large.
pub fn beside_others(
    ours: &Manifest,
    there: &Manifest,
) -> Result<Option<(Manifest, Vec<u8>)>, AttestError> {
    let kind = |layer: &Descriptor| layer.annotations.get(PREDICATE).cloned();
    let kinds: Vec<Option<String>> = ours.layers.iter().map(kind).collect();
    let mut others: Vec<Descriptor> = envelope_layers(there)?
        .into_iter()
        .filter(|layer| !kinds.contains(&kind(layer)))
        .cloned()
        .collect();
    if others.is_empty() {
        return Ok(None);
    }
    others.extend(ours.layers.iter().cloned());
    let (manifest, config) = cosign_manifest(others);
    envelope_layers(&manifest)?;
    Ok(Some((manifest, config)))
}

/// The manifest that cosign reads, and the bytes of its configuration.
fn cosign_manifest(layers: Vec<Descriptor>) -> (Manifest, Vec<u8>) {
    let config = cosign_config(&layers);
    let descriptor = Descriptor::new(CONFIG_TYPE, Digest::of(&config), config.len() as u64);
    let manifest = Manifest {
        artifact_type: None,
        ..Manifest::artifact("", descriptor, layers)
    };
    (manifest, config)
}

/// The image configuration that cosign writes beside attestations: empty but for the layers.
fn cosign_config(layers: &[Descriptor]) -> Vec<u8> {
    let never = "0001-01-01T00:00:00Z";
    let digests: Vec<String> = layers
        .iter()
        .map(|layer| layer.digest.to_string())
        .collect();
    json!({
        "architecture": "",
        "config": {},
        "created": never,
        "history": vec![json!({ "created": never }); layers.len()],
        "os": "",
        "rootfs": { "type": "layers", "diff_ids": digests },
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: &[(&str, &str)]) -> Manifest {
        let layers = layers.iter().map(|(kind, text)| {
            Descriptor::new(ENVELOPE_TYPE, Digest::of(text), 9).with(PREDICATE, *kind)
        });
        cosign_manifest(layers.collect()).0
    }

    fn kinds(manifest: &Manifest) -> Vec<(&str, Digest)> {
        let layers = manifest.layers.iter();
        layers
            .map(|layer| (layer.annotations[PREDICATE].as_str(), layer.digest))
            .collect()
    }

    #[test]
    fn what_others_attest_stays_and_what_we_attest_is_renewed() {
        let ours = manifest(&[("test", "new test"), ("sbom", "new sbom")]);
        let old = manifest(&[("test", "old test"), ("sbom", "new sbom")]);
        for nothing_else in [&ours, &old, &manifest(&[])] {
            assert_eq!(beside_others(&ours, nothing_else).unwrap(), None);
        }
        let there = manifest(&[("test", "old test"), ("review", "good"), ("scan", "clean")]);
        let (both, config) = beside_others(&ours, &there).unwrap().unwrap();
        let [good, clean, test, sbom] = ["good", "clean", "new test", "new sbom"].map(Digest::of);
        let expected = [
            ("review", good),
            ("scan", clean),
            ("test", test),
            ("sbom", sbom),
        ];
        assert_eq!(kinds(&both), expected);
        assert_eq!(both.config.digest, Digest::of(&config));
        // Doing it again changes nothing.
        let (again, _) = beside_others(&ours, &both).unwrap().unwrap();
        assert_eq!(again, both);
    }

    #[test]
    fn too_many_of_others_are_an_error() {
        let names: Vec<String> = (0..=MOST_ENVELOPES).map(|n| n.to_string()).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), n.as_str())).collect();
        let ours = manifest(&[("test", "test")]);
        assert!(beside_others(&ours, &manifest(&all)).is_err());
        assert!(
            beside_others(&ours, &manifest(&all[1..])).is_err(),
            "with ours"
        );
        assert!(beside_others(&ours, &manifest(&all[2..])).is_ok());
    }
}
