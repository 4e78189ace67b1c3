//! skopeo reads documents byte for byte, and copies whole images: every blob's
//! digest is checked by it.

use std::fs;

use slipform::base::Digest;
use slipform::store::Manifest;

use super::parts::Registry;
use super::tools::{at_home, content, skopeo};
use crate::common::scene::{Scene, remote};

#[test]
fn it_reads_channels_images_and_attestations_and_copies_them() {
    let (Some(_), Some(registry)) = (skopeo(), Registry::new()) else {
        return;
    };
    let mut scene = Scene::new();
    let image = scene.tested();
    let folder = scene.world.path("published");
    let home = registry.home();
    let run = |args: &[&str]| {
        let mut command = skopeo().unwrap();
        content(at_home(command.arg("--insecure-policy").args(args), &home))
    };
    let att = format!("sha256-{}.att", image.hex());
    for (uri, there) in [
        (
            registry.uri("app"),
            format!("docker://{}:", registry.name("app")),
        ),
        (
            format!("file://{}", folder.display()),
            format!("oci:{}:", folder.display()),
        ),
    ] {
        scene.remote = uri;
        scene.publish(&[]);
        let remote = remote(&scene.remote);
        let release = remote.tags().unwrap();
        let release = release.iter().find(|tag| tag.starts_with("1-")).unwrap();
        for tag in ["candidate", &att, release] {
            let name = format!("{there}{tag}");
            let mut args = vec!["inspect", "--raw", &name];
            if there.starts_with("docker") {
                args.push("--tls-verify=false");
            }
            let ours = remote.tagged(tag).unwrap().unwrap();
            assert_eq!(run(&args), ours.bytes, "{name}");
            let copy = home.join(format!("copy {}", Digest::of(&name).short()));
            let target = format!("oci:{}:copied", copy.display());
            run(&[
                "copy",
                "--src-tls-verify=false",
                "--preserve-digests",
                &name,
                &target,
            ]);
            let manifest = Manifest::parse(&ours.bytes).unwrap();
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let copied = fs::read(copy.join("blobs/sha256").join(blob.digest.hex()));
                assert_eq!(Digest::of(copied.unwrap()), blob.digest, "{name}");
            }
        }
        assert_eq!(remote.tagged(release).unwrap().unwrap().digest, image);
    }
    // The local store, with its names as the pipeline gives them.
    let name = format!("oci:{}:small:1-small", scene.world.store().display());
    assert_eq!(Digest::of(run(&["inspect", "--raw", &name])), image);
}
