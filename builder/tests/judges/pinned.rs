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
        "disk map sha256:228c704624b07cbb6bdc1e5d28603217073cc120a9fe46356b1677f078f15562",
        "raw disk sha256:0cd2d5d906119dece585d9e9c57dd64008957c722050445b8e69ab14cf5bb6e4",
    ];
    assert_eq!(found, pinned);
}
