//! A container image as a layer: from a layout, from archives of both kinds, and the same
//! image as its files would make.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use slipform::base::{Digest, EPOCH};

use crate::common::{SMALL, World, edit, write};

/// One entry of a layer: kind, path, content or target.
pub(crate) type Item<'a> = (tar::EntryType, &'a str, &'a [u8]);

/// A layer of the image-spec, uncompressed; owners, modes and times as files of the user's have them.
pub(crate) fn layer(items: &[Item<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, content) in items {
        let link = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        let runs = kind.is_dir() || path.contains("bin/");
        header.set_mode(if runs { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(EPOCH).unwrap());
        if link {
            header.set_size(0);
            let target = std::str::from_utf8(content).unwrap();
            archive.append_link(&mut header, path, target).unwrap();
        } else {
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, *content).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// The ordinary project's page in three layers: the upper ones take away what is not of it.
pub(crate) fn page(dir: &Path) -> Vec<Vec<u8>> {
    use tar::EntryType::{Char, Directory, Regular, Symlink};
    let css = fs::read(dir.join("www/css/page.css")).unwrap();
    let html = fs::read(dir.join("www/index.html")).unwrap();
    vec![
        layer(&[
            (Directory, "srv/", b""),
            (Directory, "srv/www/", b""),
            (Directory, "srv/www/css/", b""),
            (Regular, "srv/www/css/page.css", &css),
            (Regular, "srv/www/index.html", b"to be replaced"),
            (Regular, "srv/www/gone.html", b"to be hidden"),
            (Directory, "old/", b""),
            (Regular, "old/file", b"to be hidden, too"),
            (Symlink, "pages", b"srv/www"),
            (Char, "dev-null", b""),
        ]),
        layer(&[
            (Regular, "pages/index.html", &html),
            (Regular, "srv/www/.wh.gone.html", b""),
            (Regular, ".wh.old", b""),
        ]),
        layer(&[(Regular, ".wh.pages", b"")]),
    ]
}

/// Files of an OCI layout by their paths, for `arch` and beside it another architecture's.
pub(crate) fn layout(layers: &[Vec<u8>], arch: &str) -> Vec<(String, Vec<u8>)> {
    let ids: Vec<Digest> = layers.iter().map(Digest::of).collect();
    layout_saying(layers, &ids, arch)
}

/// The same, with a configuration that says what the uncompressed layers are.
fn layout_saying(layers: &[Vec<u8>], ids: &[Digest], arch: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let image = image(&mut files, layers, ids, arch);
    let other = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of("another"), "size": 7,
        "platform": { "os": "linux", "architecture": "s390x" },
    });
    indexed(files, &[other, image])
}

/// Files of an OCI layout with an image for each architecture.
pub(crate) fn layout_of(images: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut manifests = Vec::new();
    for (arch, layer) in images {
        let layers = std::slice::from_ref(layer);
        manifests.push(image(&mut files, layers, &[Digest::of(layer)], arch));
    }
    indexed(files, &manifests)
}

fn blob(files: &mut Vec<(String, Vec<u8>)>, bytes: Vec<u8>, kind: &str) -> Value {
    let digest = Digest::of(&bytes);
    let descriptor = json!({ "mediaType": kind, "digest": digest, "size": bytes.len() });
    files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
    descriptor
}

/// The descriptor of one more image.
fn image(
    files: &mut Vec<(String, Vec<u8>)>,
    layers: &[Vec<u8>],
    ids: &[Digest],
    arch: &str,
) -> Value {
    let config = json!({
        "os": "linux", "architecture": arch,
        "config": { "Cmd": ["/srv/www/index.html"], "User": "33:33", "Env": ["A=b"], "Volumes": { "/data": {} } },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = blob(
        files,
        config.to_string().into_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| blob(files, gzip(layer), kind))
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut manifest = blob(files, manifest.to_string().into_bytes(), kind);
    manifest["platform"] = json!({ "os": "linux", "architecture": arch });
    manifest
}

/// Whole, with an index of these.
fn indexed(mut files: Vec<(String, Vec<u8>)>, manifests: &[Value]) -> Vec<(String, Vec<u8>)> {
    let kind = "application/vnd.oci.image.index.v1+json";
    let all = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
    let all = blob(&mut files, all.to_string().into_bytes(), kind);
    let index = json!({ "schemaVersion": 2, "manifests": [all] });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    files.push(("oci-layout".to_owned(), version));
    files
}

/// What `docker save` writes.
fn docker(layers: &[Vec<u8>]) -> Vec<u8> {
    use tar::EntryType::{Regular, Symlink};
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(Digest::of).collect::<Vec<_>>() },
    })
    .to_string();
    let names: Vec<String> = (0..layers.len())
        .map(|n| format!("{n}/layer.tar"))
        .collect();
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": ["app:1.4"], "Layers": names }]).to_string();
    // The first layer lies under another image's name, as it did before Docker 25.
    layer(&[
        (Regular, "base/layer.tar", &layers[0]),
        (Symlink, "0/layer.tar", b"../base/layer.tar"),
        (Regular, "1/layer.tar", &layers[1]),
        (Regular, "2/layer.tar", &layers[2]),
        (Regular, "config.json", config.as_bytes()),
        (Regular, "manifest.json", manifest.as_bytes()),
    ])
}

fn archived(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<Item<'_>> = files
        .iter()
        .map(|(path, bytes)| (tar::EntryType::Regular, path.as_str(), bytes.as_slice()))
        .collect();
    layer(&items)
}

/// A project whose page is a container's.
pub(crate) fn project(world: &World, image: &str) -> std::path::PathBuf {
    let dir = world.small_project("small");
    let spec = SMALL.replace(
        r#"files = [{ from = "www", to = "/srv/www" }]"#,
        &format!("oci = \"{image}\""),
    );
    assert_ne!(spec, SMALL);
    write(&dir.join("slipform.toml"), spec);
    dir
}

/// What is different in the files of two images, as they are read back from their disks.
pub(crate) fn changed_files(world: &World, dir: &Path, old: &str, new: &str) -> Vec<String> {
    let said = world.run(dir, &["diff", "--json", old, new]);
    let files = said.json()["images"][0]["files"].clone();
    let paths = files.as_array().unwrap().iter();
    paths
        .map(|file| file["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_container_makes_the_layer_that_its_files_would() {
    let world = World::new();
    let by_files = world.small_project("small");
    let expected = world.build(&by_files, &[]).image().to_owned();
    let layers = page(&by_files);
    let files = layout(&layers, "amd64");
    let none: [&str; 0] = [];
    let mut partitions = std::collections::BTreeSet::new();
    for image in ["app", "app.tar", "app.tar.gz", "saved.tar:app:1.4"] {
        let dir = project(&world, image);
        for (path, bytes) in &files {
            write(&dir.join("app").join(path), bytes);
        }
        write(&dir.join("app.tar"), archived(&files));
        write(&dir.join("app.tar.gz"), gzip(&archived(&files)));
        write(&dir.join("saved.tar"), docker(&layers));
        let built = world.build(&dir, &[]).image().to_owned();
        assert_eq!(
            changed_files(&world, &dir, &expected, &built),
            none,
            "{image}"
        );
        let info = world
            .run(&dir, &["inspect", "--json", &built])
            .good()
            .json();
        partitions.insert(info["partitions"].to_string());
        let again = world
            .run_cut_off(&dir, &["--offline", "build", "--locked"])
            .good();
        assert!(
            again.stderr.contains("left out 1 device nodes"),
            "{again:?}"
        );
    }
    // However it came, the layer's bytes are the same.
    assert_eq!(partitions.len(), 1, "{partitions:?}");

    // Another image in the folder makes the lock stale, by name.
    let dir = project(&world, "app");
    world.build(&dir, &[]);
    let lock = fs::read_to_string(dir.join("slipform.lock")).unwrap();
    assert!(lock.contains("[layer.oci]\nimage = \"app\"\n"), "{lock}");
    assert_eq!(lock.matches("[[layer.oci.blob]]").count(), 4, "{lock}");
    for (path, bytes) in layout(&layers[..1], "amd64") {
        write(&dir.join("app").join(path), bytes);
    }
    world
        .run(&dir, &["--quiet", "build", "--locked"])
        .refused(2, &["layer 'app' has app (", "not app (", "slipform lock"]);
}

#[test]
fn what_is_no_fitting_image_is_refused_in_a_line() {
    let world = World::new();
    let small = world.small_project("small");
    let layers = page(&small);
    let with = |image: &str, files: &[(String, Vec<u8>)]| {
        let dir = project(&world, image);
        for (path, bytes) in files {
            write(&dir.join("app").join(path), bytes);
        }
        dir
    };
    let refuses = |dir: &Path, parts: &[&str]| {
        world.run(dir, &["--quiet", "build"]).refused(2, parts);
    };
    let arm = layout(&layers, "arm64");
    refuses(
        &with("app", &arm),
        &["container app", "linux/amd64", "linux/arm64, linux/s390x"],
    );
    refuses(
        &with("nowhere.tar", &[]),
        &["oci", "'nowhere.tar' cannot be found"],
    );
    refuses(&with("../app", &[]), &["oci", "leaves the folder"]);
    refuses(
        &with("oci://127.0.0.1:1/app", &[]),
        &["oci://127.0.0.1:1/app", "put a tag"],
    );
    refuses(
        &with("app:other", &layout(&layers, "amd64")),
        &["app:other", "no image of that name"],
    );
    let dir = with("plain.tar", &[]);
    write(&dir.join("plain.tar"), &layers[0]);
    refuses(
        &dir,
        &[
            "container plain.tar",
            "neither index.json nor manifest.json",
            "`tar`",
        ],
    );
    // A layer that is not what the configuration says.
    let ids: Vec<Digest> = layers.iter().rev().map(Digest::of).collect();
    refuses(
        &with("app", &layout_saying(&layers, &ids, "amd64")),
        &[
            "container app",
            "its layer sha256:",
            "its configuration says",
        ],
    );
    let dir = with("app", &layout(&layers, "amd64"));
    world.build(&dir, &[]);
    // One blob changed in the folder: what arrives is not what the lock names.
    let blobs = crate::common::files(&dir.join("app/blobs/sha256"));
    for blob in blobs {
        crate::common::flip(&blob);
    }
    fs::remove_dir_all(world.store()).unwrap();
    let said = world.run(&dir, &["--quiet", "build", "--locked"]);
    assert_ne!(said.code, Some(0));
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    assert!(said.stderr.contains("sha256:"), "{said:?}");
}

#[test]
fn a_project_is_made_from_what_a_container_says() {
    let world = World::new();
    let dir = world.small_project("small");
    let files = layout(&page(&dir), "amd64");
    let place = world.path("place");
    for (path, bytes) in &files {
        write(&place.join("app").join(path), bytes);
    }
    write(&place.join("app.tar"), archived(&files));
    for image in ["app", "app.tar"] {
        let made = place.join("web");
        world.run(&place, &["new", "web", "--from", image]).good();
        let spec = fs::read_to_string(made.join("slipform.toml")).unwrap();
        for part in [
            &format!("oci = \"{image}\""),
            "exec = [\"/srv/www/index.html\"]",
            "user = \"www-data\"",
            "env = { \"A\" = \"b\" }",
            "[state]",
        ] {
            assert!(spec.contains(part), "{spec}");
        }
        // It builds as it is, and the image was copied beside it.
        let small = "version = \"1\"\nboards = [\"small\"]";
        edit(&made.join("slipform.toml"), "version = \"0.1.0\"", small);
        let board = fs::read(dir.join("boards/small.toml")).unwrap();
        write(&made.join("boards/small.toml"), board);
        world.build(&made, &[]);
        world
            .run(&place, &["--quiet", "new", "web", "--from", image])
            .refused(2, &["has a slipform.toml already"]);
        fs::remove_dir_all(made).unwrap();
    }
    // One for Arm alone is for Arm's board; one for neither is refused as ever.
    for (arch, said) in [("arm64", "\nboards = [\"qemu-aarch64\"]\n"), ("s390x", "")] {
        for (path, bytes) in layout(&page(&dir), arch) {
            write(&place.join(arch).join(path), bytes);
        }
        let made = world.run(&place, &["--quiet", "new", "other", "--from", arch]);
        if said.is_empty() {
            made.refused(2, &["container s390x", "linux/amd64"]);
            continue;
        }
        made.good();
        let spec = fs::read_to_string(place.join("other/slipform.toml")).unwrap();
        assert!(spec.contains(said), "{spec}");
        fs::remove_dir_all(place.join("other")).unwrap();
    }
    for (image, part) in [
        ("nowhere.tar", "'nowhere.tar' cannot be found"),
        ("oci://127.0.0.1:1/app", "put a tag"),
    ] {
        world
            .run(&place, &["--quiet", "new", "web", "--from", image])
            .refused(2, &["--from", part]);
    }
    assert!(!place.join("web").exists());
}
