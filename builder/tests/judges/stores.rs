//! The store as others read it: an OCI image layout.

use slipform::base::Digest;
use slipform::disk::DiskFacts;
use slipform::store::{Descriptor, Manifest};

use crate::scene::{Random, disk, scene};
use crate::tools::{content, judge};

/// A manifest of all that a disk is made of, under a name as the pipeline gives it.
#[test]
fn skopeo_reads_and_copies_what_the_store_names() {
    let scene = scene();
    let disk = disk(&scene, &DiskFacts::default(), &Random(7).bytes(400_000));
    let describe = |kind: &str, digest: Digest| {
        let size = scene.store.size(&digest).unwrap();
        Descriptor::new(format!("application/vnd.slipform.{kind}"), digest, size)
    };
    let config = scene.store.put(br#"{"name":"judged"}"#).unwrap();
    let parts: Vec<Descriptor> = std::iter::once(describe("disk-map.v1+json", disk.map_digest))
        .chain(
            disk.map
                .blobs()
                .into_iter()
                .map(|blob| describe("extent.v1", blob)),
        )
        .collect();
    let manifest = Manifest::artifact(
        "application/vnd.slipform.image.v1+json",
        describe("config.v1+json", config),
        parts.clone(),
    );
    let descriptor = scene.store.put_manifest(&manifest).unwrap();
    scene.store.tag("judged:1-board", &descriptor).unwrap();

    let Some(mut inspect) = judge("skopeo") else {
        return;
    };
    let name = format!("oci:{}:judged:1-board", scene.store.root().display());
    let said = content(inspect.args(["inspect", "--raw", &name]));
    assert_eq!(said.as_bytes(), manifest.to_bytes().unwrap());

    // Copying reads every blob and checks its digest.
    let copy = scene.folder.path().join("copy");
    let target = format!("dir:{}", copy.display());
    let mut skopeo = judge("skopeo").unwrap();
    content(skopeo.args([
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        &name,
        &target,
    ]));
    for part in &parts {
        let copied = std::fs::read(copy.join(part.digest.hex())).unwrap();
        assert_eq!(Digest::of(copied), part.digest, "{}", part.media_type);
    }
}
