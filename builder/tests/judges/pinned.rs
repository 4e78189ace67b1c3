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

#[test]
fn digests_of_a_small_disk_in_every_format_are_pinned() {
    let scene = scene();
    let found = OutputFormat::ALL.map(|format| {
        // Google takes whole GiB only.
        let size = if format == OutputFormat::GcpTar {
            1 << 30
        } else {
            5 << 20
        };
        let map = if matches!(format, OutputFormat::Iso | OutputFormat::Netboot) {
            // They start a machine, so that only a real disk will do.
            disk(&scene, &DiskFacts::default(), b"the app").map
        } else {
            crate::formats::sparse(&scene, size, 4, 8)
        };
        let name = format!("disk.{}", format.extension());
        let path = scene.folder.path().join(name);
        output::write(format, &map, &scene.store, &path).unwrap();
        format!("{format} {}", output::sha256(&path).unwrap().hex())
    });
    let pinned = [
        "raw 7c6a881e824a91fff6cedf57b5b5a9d6e2321c39b9481d7f44fa862e6ff2965e",
        "raw.zst 2f86aea9787eae61eb12722c9ed050fc7b3ec643fb3685a8b7ea601fd699b1e7",
        "qcow2 2c09cdfa6ea56d93bf24fa28a73410f1cbd7a3003b78a6bc6292e9fa74afae8b",
        "qcow2-zlib a12db3ab833a6d302cf14cb16348efc7d83f280cc071ff0331cda23c11b56075",
        "vhd f42865d3de051020520bee9fb0a894334afc49687b98be83812f8a09b568fcc0",
        "vhd-dynamic 3ba957178e20c352c10ceafa49697068df92fcfcee88a56bd7ababea98f29bc4",
        "vhdx 6c996ede377a36954375d7a4d131c87f6358ad7ebd1c82a1590ae98081726fa1",
        "vmdk e3be63136a03e928db6bdb9481c4b5c8bf3ac53e476d4184ab98075c1b5dc4c6",
        "vmdk-stream ff2486bed12d3b88b75abf0435adabb24aa090bbab49d9e1d8adf431022175ce",
        "ova 94b3d483d8ee64619eb671fe45fc4dc4638ca330668daf1ae84f4ad6cdb48b49",
        "gcp-tar cd495428d45f53723efb2affec16ba1473de74fe7bc64bbafb96205f852935d9",
        "iso dda5b150af1080ebcdfe9663dc1b17478a4328cf4b3f325ee84a568a0580cd1d",
        "netboot fa364f06d551d4451517d4b96780c0be204670864ff4e682ba86defbe352f58c",
    ];
    assert_eq!(found, pinned);
}
