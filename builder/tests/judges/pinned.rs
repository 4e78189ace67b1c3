//! Bytes that must never change without a reason: a change here moves every
//! user's digests and belongs into the changelog.

use slipform::disk::DiskFacts;
use slipform::output::{self, OutputFormat};

use crate::scene::{boot_entry, disk, scene, sealed, small};

#[test]
fn digests_of_a_small_image_are_pinned() {
    let scene = scene();
    let sealed = sealed(&scene, &small());
    let uki = boot_entry(&scene, 3_000_000);
    let disk = disk(&scene, &DiskFacts::default(), b"the app");
    let raw = scene.folder.path().join("disk.raw");
    output::write(OutputFormat::Raw, &disk.map, &scene.store, &raw).unwrap();
    let found = [
        format!("root hash {}", sealed.root_hex()),
        format!("layer {}", sealed.blob),
        format!("boot entry {}", uki.digest),
        format!("disk map {}", disk.map_digest),
        format!("raw disk {}", output::sha256(&raw).unwrap()),
    ];
    let pinned = [
        "root hash d83d7110d6e03e8b04e3cf8a573d3498c31522814f16492b4e3e46cf96f6b0f4",
        "layer sha256:78f1c128e182ba2d3da2c23b8625e7779fe5685672268f91d252bc9e9b1da992",
        "boot entry sha256:547402085b42ba97fc2d2b6f26d120ccef05e0891756c2c4c8136433abd2f73d",
        "disk map sha256:ec5730e3baf10e934326b1e3bb2c2611a2a9dd350d96be23783461618f5e5283",
        "raw disk sha256:4a794956ff2e7f172e31508c231a3427f6ad78657dc101ab9263f6d2e8d5142e",
    ];
    assert_eq!(found, pinned);
}
