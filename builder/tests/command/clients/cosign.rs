//! cosign, 2.5, believes what we attested, with our public key only; and we read
//! what it attests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipform::attest::{
    ENVELOPE_TYPE, Envelope, PAYLOAD_TYPE, Predicate, Provenance, PublicKey, Sbom, TestResult,
    att_tag, envelope_layers,
};
use slipform::base::Digest;
use slipform::base::base64;
use slipform::remote::testing::put;
use slipform::remote::{Document, Expect, Remote};
use slipform::store::{MANIFEST, Manifest};

use super::parts::Registry;
use super::tools::{at_home, client, content, refuses};
use crate::common::scene::{Scene, remote};

/// A published image, and a registry that cosign asks for it.
struct Judged {
    registry: Registry,
    scene: Scene,
    image: Digest,
}

impl Judged {
    fn new() -> Option<Self> {
        client("cosign")?;
        let registry = Registry::new()?;
        let mut scene = Scene::new();
        scene.remote = registry.uri("app");
        let image = scene.tested();
        scene.publish(&[]);
        Some(Self {
            registry,
            scene,
            image,
        })
    }

    fn remote(&self) -> Box<dyn Remote> {
        remote(&self.scene.remote)
    }

    /// cosign at home, without a passphrase, over plain HTTP.
    fn cosign(&self, args: &[&str]) -> Command {
        let mut command = client("cosign").unwrap();
        at_home(command.args(args), &self.registry.home()).env("COSIGN_PASSWORD", "");
        command
    }

    fn name(&self) -> String {
        format!("{}@{}", self.registry.name("app"), self.image)
    }

    fn verify(&self, key: &Path, kind: &str) -> Command {
        let (key, name) = (key.to_str().unwrap(), self.name());
        self.cosign(&[
            "verify-attestation",
            "--key",
            key,
            "--insecure-ignore-tlog",
            "--allow-http-registry",
            "--type",
            kind,
            &name,
        ])
    }

    fn own_key(&self) -> PathBuf {
        self.scene.world.path("home/.config/slipform/key.pub")
    }

    /// The manifest that cosign reads.
    fn att(&self) -> Manifest {
        let remote = self.remote();
        let document = remote.tagged(&att_tag(&self.image)).unwrap().unwrap();
        Manifest::parse(&document.bytes).unwrap()
    }
}

const KINDS: [&str; 3] = [TestResult::TYPE, Provenance::TYPE, Sbom::TYPE];

#[test]
fn it_believes_what_we_attested_with_our_key_only() {
    let Some(judged) = Judged::new() else {
        return;
    };
    let stranger = judged.scene.world.path("stranger.pem");
    let new = [
        "key",
        "new",
        "--no-passphrase",
        "--out",
        stranger.to_str().unwrap(),
    ];
    judged.scene.run(&new).good();
    for kind in KINDS {
        let said = content(&mut judged.verify(&judged.own_key(), kind));
        let said = String::from_utf8(said).unwrap();
        // What it prints is the envelope, with the statement that we made.
        let envelope = Envelope::parse(said.trim().as_bytes()).unwrap();
        let statement = String::from_utf8(envelope.payload().unwrap()).unwrap();
        assert!(statement.contains(kind), "{statement}");
        assert!(statement.contains(&judged.image.hex()), "{statement}");
        let mut other = judged.verify(&stranger.with_extension("pub"), kind);
        refuses(&mut other, "no matching attestations");
    }
    without_a_registry(&judged);
    let mut other = judged.verify(&judged.own_key(), "https://example.com/other/v1");
    refuses(
        &mut other,
        "none of the attestations matched the predicate type",
    );
}

/// The same with two files: an image's manifest, and an envelope.
fn without_a_registry(judged: &Judged) {
    let (remote, home) = (judged.remote(), judged.registry.home());
    let manifest = remote.manifest(&judged.image).unwrap().unwrap();
    fs::write(home.join("image.json"), &manifest.bytes).unwrap();
    fs::write(home.join("other.json"), "{}").unwrap();
    let key = judged.own_key();
    for (layer, kind) in judged.att().layers.iter().zip(KINDS) {
        let mut envelope = Vec::new();
        remote
            .get_blob(&layer.digest, layer.size, &mut envelope)
            .unwrap();
        fs::write(home.join("envelope.json"), envelope).unwrap();
        let verify = |file: &str| {
            judged.cosign(&[
                "verify-blob-attestation",
                "--key",
                key.to_str().unwrap(),
                "--insecure-ignore-tlog",
                "--signature",
                "envelope.json",
                "--type",
                kind,
                file,
            ])
        };
        content(&mut verify("image.json"));
        refuses(&mut verify("other.json"), "digest");
    }
}

/// Lets cosign find other envelopes: `change` gets each one's JSON.
fn replace(judged: &Judged, change: &dyn Fn(&mut serde_json::Value)) {
    let remote = judged.remote();
    let mut att = judged.att();
    for layer in &mut att.layers {
        let mut bytes = Vec::new();
        remote
            .get_blob(&layer.digest, layer.size, &mut bytes)
            .unwrap();
        let mut envelope = serde_json::from_slice(&bytes).unwrap();
        change(&mut envelope);
        let bytes = serde_json::to_vec(&envelope).unwrap();
        layer.digest = put(&*remote, &bytes).unwrap();
        layer.size = bytes.len() as u64;
    }
    let document = Document::new(MANIFEST, att.to_bytes().unwrap());
    remote.put_manifest(&document.bytes, MANIFEST).unwrap();
    let tag = att_tag(&judged.image);
    remote.set_tag(&tag, &document, Expect::Any).unwrap();
}

#[test]
fn it_refuses_what_was_changed() {
    let Some(judged) = Judged::new() else {
        return;
    };
    let own = judged.own_key();
    // The same envelopes under other names are as good as before.
    replace(&judged, &|_| ());
    content(&mut judged.verify(&own, TestResult::TYPE));
    // One letter of what is said, with all digests made right.
    replace(&judged, &|envelope| {
        let payload = envelope["payload"].as_str().unwrap();
        let mut said = base64::decode(payload).unwrap();
        let at = said.iter().position(|byte| *byte == b'a').unwrap();
        said[at] = b'b';
        envelope["payload"] = base64::encode(&said).into();
    });
    for kind in KINDS {
        refuses(&mut judged.verify(&own, kind), "no matching attestations");
    }
    // Publishing it once more puts that right.
    judged.scene.publish(&[]);
    content(&mut judged.verify(&own, TestResult::TYPE));
    // A byte on the registry's disk.
    for layer in &judged.att().layers {
        let path = judged.registry.blob(&layer.digest.hex());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    for kind in KINDS {
        refuses(&mut judged.verify(&own, kind), "");
    }
}

#[test]
fn what_it_attests_we_read_and_keep() {
    let Some(judged) = Judged::new() else {
        return;
    };
    content(&mut judged.cosign(&["generate-key-pair"]));
    let home = judged.registry.home();
    fs::write(home.join("said.json"), r#"{"reviewed":"by hand"}"#).unwrap();
    let name = judged.name();
    let kind = "https://example.com/review/v1";
    content(&mut judged.cosign(&[
        "attest",
        "--key",
        "cosign.key",
        "--predicate",
        "said.json",
        "--type",
        kind,
        "--tlog-upload=false",
        "--allow-http-registry",
        "--yes",
        &name,
    ]));
    let text = fs::read_to_string(home.join("cosign.pub")).unwrap();
    let key = PublicKey::from_pem(&text, "cosign.pub").unwrap();
    let read = || -> Vec<String> {
        let (remote, att) = (judged.remote(), judged.att());
        let envelopes = envelope_layers(&att).unwrap();
        let payloads = envelopes.iter().filter_map(|layer| {
            assert_eq!(layer.media_type, ENVELOPE_TYPE);
            let mut bytes = Vec::new();
            remote
                .get_blob(&layer.digest, layer.size, &mut bytes)
                .unwrap();
            let envelope = Envelope::parse(&bytes).unwrap();
            envelope
                .verify(PAYLOAD_TYPE, std::slice::from_ref(&key))
                .ok()
        });
        payloads
            .map(|verified| String::from_utf8(verified.payload).unwrap())
            .collect()
    };
    let found = read();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains(kind) && found[0].contains("by hand"),
        "{found:?}"
    );
    assert_eq!(judged.att().layers.len(), 4, "ours are there still");
    for kind in KINDS {
        content(&mut judged.verify(&judged.own_key(), kind));
    }
    // The next publication of the same image takes nothing away from it.
    judged.scene.publish(&[]);
    assert_eq!(read(), found);
    content(&mut judged.verify(&home.join("cosign.pub"), kind));
    let key = judged.own_key();
    let pull = [
        "pull",
        "candidate",
        "--key",
        key.to_str().unwrap(),
        "--out",
        "pulled",
    ];
    judged.scene.run(&pull).good();
}
