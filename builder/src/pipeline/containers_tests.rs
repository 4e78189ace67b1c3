//! Which image of an index a container is, by the architecture of the boards.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::base::progress::Quiet;
use crate::layers::testing::{Item, tar};
use crate::lock::{LockedBoard, LockedPackage};
use crate::pipeline::load;
use crate::store::{INDEX, MANIFEST};

/// A project's folder, and a store of its own, without a network.
struct Scene {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(dir.path().join("store"));
        let settings = Settings::new(store, None, true, Arc::new(Quiet)).unwrap();
        Self { dir, settings }
    }

    /// A project that has the container `oci` on a board.
    fn image(&self, oci: &str, board: &str) -> Image {
        let text = format!(
            "name = \"x\"\nversion = \"1\"\nboards = [\"{board}\"]\n\n[[layer]]\nname = \"app\"\noci = \"{oci}\"\n\n[[service]]\nname = \"x\"\nexec = [\"/x\"]\n"
        );
        fs::write(self.dir.path().join("slipform.toml"), text).unwrap();
        load(self.dir.path()).unwrap()
    }

    fn blob(&self, bytes: &[u8], kind: &str) -> Value {
        let folder = self.dir.path().join("app/blobs/sha256");
        fs::create_dir_all(&folder).unwrap();
        let digest = Digest::of(bytes);
        fs::write(folder.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// An OCI layout with an image for each `(architecture, variant)`.
    fn layout(&self, platforms: &[(&str, Option<&str>)]) {
        let mut manifests = Vec::new();
        for (arch, variant) in platforms {
            let content = format!("{arch} {variant:?}");
            let layer = tar(&[Item::file("who", &content)]);
            let config = json!({
                "os": "linux", "architecture": arch,
                "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
            });
            let config = self.blob(
                config.to_string().as_bytes(),
                "application/vnd.oci.image.config.v1+json",
            );
            let layer = self.blob(&layer, "application/vnd.oci.image.layer.v1.tar");
            let manifest = json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            });
            let mut manifest = self.blob(manifest.to_string().as_bytes(), MANIFEST);
            manifest["platform"] = json!({ "os": "linux", "architecture": arch });
            if let Some(variant) = variant {
                manifest["platform"]["variant"] = json!(variant);
            }
            manifests.push(manifest);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let index = self.blob(index.to_string().as_bytes(), INDEX);
        let top = json!({ "schemaVersion": 2, "manifests": [index] });
        fs::write(self.dir.path().join("app/index.json"), top.to_string()).unwrap();
    }

    /// What the only file of the container on that board says.
    fn says(&self, board: &str) -> Result<String, String> {
        let image = self.image("app", board);
        let arch = architecture(&image).unwrap();
        let pinned = self
            .settings
            .pin_containers(&image, None, &Locking::IfNeeded)
            .map_err(|error| error.to_string())?;
        let rule = image.layers.iter().find_map(|layer| layer.oci.as_ref());
        let rule = rule.unwrap();
        let unpacked = self
            .settings
            .unpack_container(rule, arch, &pinned["app"])
            .unwrap();
        let entries = unpacked.entries(&self.settings.store, "app").unwrap();
        let crate::layers::Kind::File(content) = &entries[0].kind else {
            panic!("{entries:?}")
        };
        let store = &self.settings.store;
        let bytes = crate::layers::content::read_range(content, store, 0, 100).unwrap();
        Ok(String::from_utf8(bytes).unwrap())
    }
}

#[test]
fn an_index_of_several_architectures_chooses_by_the_boards() {
    let scene = Scene::new();
    scene.layout(&[
        ("arm", Some("v7")),
        ("amd64", Some("v3")),
        ("arm64", Some("v9")),
        ("amd64", None),
        ("arm64", Some("v8")),
    ]);
    assert_eq!(scene.says("qemu-x86_64").unwrap(), "amd64 None");
    assert_eq!(scene.says("qemu-aarch64").unwrap(), "arm64 Some(\"v8\")");
    scene.layout(&[("amd64", Some("v1")), ("arm64", None)]);
    assert_eq!(scene.says("qemu-x86_64").unwrap(), "amd64 Some(\"v1\")");
    assert_eq!(scene.says("qemu-aarch64").unwrap(), "arm64 None");
    // One that wants a newer processor than the board's is none for it.
    scene.layout(&[("amd64", Some("v3")), ("arm64", Some("v9"))]);
    let error = scene.says("qemu-aarch64").unwrap_err();
    let has = "linux/arm64 (it has: linux/amd64/v3, linux/arm64/v9)";
    assert!(error.contains(has), "{error}");
}

/// A lock of nothing.
const EMPTY: &str = "version = 1\nwishes = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"\n\n[init]\nsize = 1\nsha256 = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"\n";

/// What the lock has is kept only for the boards that it was chosen for.
#[test]
fn other_boards_make_a_registry_be_asked_again() {
    let scene = Scene::new();
    let written = "oci://127.0.0.1:1/app:1";
    let package = |arch: &str| LockedPackage {
        name: "linux".to_owned(),
        version: "1".to_owned(),
        arch: arch.to_owned(),
        suite: "trixie".to_owned(),
        path: "pool/l.deb".to_owned(),
        size: 1,
        sha256: Digest::of("linux"),
        why: "wished".to_owned(),
    };
    let container = LockedContainer {
        image: written.to_owned(),
        size: 1,
        sha256: Digest::of("manifest"),
        blobs: Vec::new(),
    };
    let lock = LockFile {
        boards: vec![LockedBoard {
            name: "qemu-x86_64".to_owned(),
            kernel: package("amd64"),
            stub: package("amd64"),
            bios: None,
            firmware: Vec::new(),
        }],
        layers: vec![crate::lock::LockedLayer {
            name: "app".to_owned(),
            base: None,
            tar: None,
            oci: Some(container.clone()),
            packages: Vec::new(),
        }],
        ..LockFile::parse(EMPTY, Path::new("slipform.lock")).unwrap()
    };
    let pin = |board: &str| {
        let image = scene.image(written, board);
        scene
            .settings
            .pin_containers(&image, Some(&lock), &Locking::IfNeeded)
    };
    assert_eq!(pin("qemu-x86_64").unwrap()["app"], container);
    assert!(matches!(
        pin("qemu-aarch64"),
        Err(PipelineError::OfflineResolve)
    ));
}
