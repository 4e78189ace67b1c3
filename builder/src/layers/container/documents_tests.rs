//! Documents of container images, good and hostile.

use serde_json::{Value, json};

use super::*;

fn descriptor(kind: &str) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of("x"), "size": 1 })
}

fn manifest(layer: &str) -> Value {
    json!({ "schemaVersion": 2, "config": descriptor(CONFIG), "layers": [descriptor(layer)] })
}

fn index(entries: &[(&str, &str, &str)]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(os, arch, content)| {
            json!({
                "mediaType": MANIFEST, "digest": Digest::of(content), "size": content.len(),
                "platform": { "os": os, "architecture": arch },
            })
        })
        .collect();
    json!({ "schemaVersion": 2, "manifests": entries })
}

fn chosen(top: &Value) -> Result<ContainerManifest, String> {
    let get = |_: &Descriptor| Ok::<_, LayersError>(manifest(LAYER).to_string().into_bytes());
    choose(top.to_string().into_bytes(), Arch::X86_64, "app", &get)
        .map_err(|error| error.to_string())
}

#[test]
fn an_index_chooses_by_the_architecture() {
    let wanted = manifest(LAYER).to_string();
    let top = index(&[
        ("linux", "arm64", "arm"),
        ("unknown", "unknown", "att"),
        ("linux", "amd64", &wanted),
    ]);
    assert_eq!(chosen(&top).unwrap().digest, Digest::of(&wanted));
    // The other one, of the same index.
    let get = |descriptor: &Descriptor| {
        assert_eq!(descriptor.digest, Digest::of("arm"));
        Ok::<_, LayersError>(wanted.clone().into_bytes())
    };
    choose(top.to_string().into_bytes(), Arch::Aarch64, "app", &get).unwrap();
    let error = chosen(&index(&[
        ("linux", "arm64", "a"),
        ("windows", "amd64", "b"),
    ]))
    .unwrap_err();
    for part in [
        "container app",
        "linux/amd64",
        "linux/arm64, windows/amd64",
        "other boards",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_no_container_image_is_refused_by_name() {
    let both = json!({
        "schemaVersion": 2, "config": descriptor(CONFIG), "layers": [], "manifests": [],
    });
    let old = json!({ "schemaVersion": 1, "fsLayers": [] });
    let called = json!({
        "schemaVersion": 2, "mediaType": INDEX, "config": descriptor(CONFIG), "layers": [],
    });
    let many = json!({
        "schemaVersion": 2, "config": descriptor(CONFIG), "layers": vec![descriptor(LAYER); 501],
    });
    for (top, word) in [
        (both, "neither"),
        (old, "schemaVersion"),
        (called, "neither"),
        (many, "500 layers"),
        (
            manifest("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            "encrypted",
        ),
        (manifest("application/vnd.slipform.layer.v1"), "no tar"),
        (json!([]), "malformed"),
    ] {
        let error = chosen(&top).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
    // An index of itself.
    let itself = |_: &Descriptor| {
        Ok::<_, LayersError>(index(&[("linux", "amd64", "x")]).to_string().into_bytes())
    };
    let top = index(&[("linux", "amd64", "x")]).to_string().into_bytes();
    let error = choose(top, Arch::X86_64, "app", &itself)
        .unwrap_err()
        .to_string();
    assert!(error.contains("deeper than 4"), "{error}");
}

#[test]
fn a_configuration_must_fit_the_boards_and_the_layers() {
    let manifest = chosen(&manifest(LAYER)).unwrap();
    let config = |os: &str, arch: &str, ids: usize| {
        let ids = vec![Digest::of("x"); ids];
        let text =
            json!({ "os": os, "architecture": arch, "rootfs": { "diff_ids": ids } }).to_string();
        ContainerConfig::parse(text.as_bytes(), &manifest, Arch::X86_64, "app")
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        config("linux", "amd64", 1).unwrap().run(),
        RunConfig::default()
    );
    for (found, word) in [
        (config("linux", "arm64", 1), "linux/arm64"),
        (config("windows", "amd64", 1), "windows/amd64"),
        (config("linux", "amd64", 2), "2 layers and its manifest 1"),
    ] {
        let error = found.unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn mutated_documents_never_panic() {
    let image = chosen(&manifest(LAYER)).unwrap();
    let seed = json!({
        "os": "linux", "architecture": "amd64", "rootfs": { "diff_ids": [Digest::of("x")] },
        "config": { "User": "1:2", "Env": ["A=b"], "Cmd": ["/x"], "Volumes": { "/v": {} } },
    });
    slipform_fuzz::fuzz(&[seed.to_string().as_bytes()], |bytes, _| {
        if let Ok(config) = ContainerConfig::parse(bytes, &image, Arch::X86_64, "app") {
            assert_eq!(config.diff_ids().len(), 1);
        }
    });
    let wanted = manifest(LAYER).to_string();
    let seeds = [manifest(LAYER), index(&[("linux", "amd64", &wanted)])];
    slipform_fuzz::fuzz(&seeds.map(|seed| seed.to_string()), |bytes, _| {
        let get = |_: &Descriptor| Ok::<_, LayersError>(wanted.clone().into_bytes());
        if let Ok(found) = choose(bytes.to_vec(), Arch::X86_64, "app", &get) {
            assert!(found.layers.len() <= MOST_LAYERS);
        }
        let _layout = named_in_layout(bytes, None, "app");
    });
}
