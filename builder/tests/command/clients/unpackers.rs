//! Layers as umoci and GNU tar see them: what we read of a container's layers is what an
//! unpacker of the Open Container Initiative's puts on a disk, entry by entry.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use slipform::base::Digest;
use slipform::layers::{Entry, Kind, UnpackedContainer, content, rootfs};
use slipform::store::Store;
use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
use tar::{Builder, EntryType, Header};

use super::tools::{at_home, content as content_of, unpacker};

/// One entry: kind, mode, path, content or target.
type Item<'a> = (EntryType, u32, &'a str, &'a str);

/// A layer whose entries' times are different ones.
fn layer(items: &[Item<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (number, (kind, mode, path, content)) in items.iter().enumerate() {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000 + number as u64);
        header.set_size(0);
        match kind {
            Link | Symlink => archive.append_link(&mut header, path, content).unwrap(),
            _ => {
                header.set_size(content.len() as u64);
                let bytes = content.as_bytes();
                archive.append_data(&mut header, path, bytes).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

/// Writes an OCI layout that umoci takes: one image, tagged.
fn layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let ids: Vec<Digest> = layers.iter().map(Digest::of).collect();
    let config = json!({
        "created": "2020-01-01T00:00:00Z", "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let kind = "application/vnd.oci.image.config.v1+json";
    let config = blob(config.to_string().as_bytes(), kind);
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = layers.iter().map(|layer| blob(layer, kind)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
    });
    let mut manifest = blob(manifest.to_string().as_bytes(), kind);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "it" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Our entries of the layers as lines, by path; names of one file by the first of them.
fn ours(layers: &[Vec<u8>]) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let unpacked = layers.iter().map(|layer| {
        let blob = store.put(layer).unwrap();
        rootfs::unpack_layer(&store, &blob, "it").unwrap()
    });
    let layers = unpacked.collect();
    let entries = UnpackedContainer { layers }.entries(&store, "it").unwrap();
    let files: BTreeMap<&str, &Entry> = entries.iter().map(|e| (e.path.as_str(), e)).collect();
    let line = |entry: &Entry| {
        let (mode, mtime) = (entry.meta.mode, entry.meta.mtime);
        match &entry.kind {
            Kind::Directory => format!("folder {mode:04o}"),
            Kind::File(file) => {
                let mut bytes = Vec::new();
                let mut reader = content::open(file, &store).unwrap();
                reader.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes.len() as u64, file.size);
                format!("file {mode:04o} {mtime} {}", Digest::of(&bytes))
            }
            Kind::Symlink(target) => format!("link {target}"),
            Kind::Fifo => format!("pipe {mode:04o} {mtime}"),
            other => panic!("{other:?}"),
        }
    };
    let lines = entries.iter().map(|entry| {
        let line = match &entry.kind {
            Kind::Hardlink(target) => format!("{} as {target}", line(files[target.as_str()])),
            Kind::File(_) => format!("{} as {}", line(entry), entry.path),
            _ => line(entry),
        };
        (entry.path.clone(), line)
    });
    lines.collect()
}

/// The same of a folder.
fn theirs(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    let mut all = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                folders.push(path.clone());
            }
            all.push(path);
        }
    }
    // As bytes, like ours: a folder's content is not always behind it.
    all.sort_by_key(|path| path.to_str().unwrap().to_owned());
    for path in all {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let (mode, mtime) = (meta.mode() & 0o7777, meta.mtime());
        let path = format!("/{}", path.to_str().unwrap());
        let line = if meta.is_dir() {
            format!("folder {mode:04o}")
        } else if meta.is_symlink() {
            format!("link {}", fs::read_link(&full).unwrap().to_str().unwrap())
        } else if meta.file_type().is_fifo() {
            format!("pipe {mode:04o} {mtime}")
        } else {
            let bytes = fs::read(&full).unwrap();
            let name = first.entry(meta.ino()).or_insert_with(|| path.clone());
            format!("file {mode:04o} {mtime} {} as {name}", Digest::of(&bytes))
        };
        lines.insert(path, line);
    }
    lines
}

/// Lets umoci unpack the layers, and compares.
#[track_caller]
fn same(what: &str, layers: &[Vec<u8>]) {
    let Some(mut umoci) = unpacker("umoci") else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    layout(&home.path().join("layout"), layers);
    umoci.args(["unpack", "--rootless", "--image", "layout:it", "bundle"]);
    content_of(at_home(&mut umoci, home.path()));
    let (mut found, expected) = (ours(layers), theirs(&home.path().join("bundle/rootfs")));
    // Folders that no layer lists are made with a mode of the unpacker's own.
    for (path, line) in &expected {
        if line.starts_with("folder") && !found.contains_key(path) {
            let below = format!("{path}/");
            let implied = found.keys().any(|path| path.starts_with(&below));
            assert!(implied, "{what}: {path} is in nobody's layer");
            found.insert(path.clone(), line.clone());
        }
    }
    assert_eq!(found, expected, "{what}");
}

#[test]
fn umoci_puts_the_same_entries_on_a_disk() {
    let long = format!("srv/{}/{}", "d".repeat(200), "f".repeat(200));
    let below = layer(&[
        (Directory, 0o750, "etc/", ""),
        (Regular, 0o600, "etc/secret", "one"),
        (Regular, 0o4755, "etc/setuid", "two"),
        (Link, 0o600, "etc/same", "etc/secret"),
        (Link, 0o600, "srv/same", "etc/secret"),
        (Symlink, 0o777, "etc/absolute", "/etc/secret"),
        (Symlink, 0o777, "etc/hanging", "../nowhere"),
        (Directory, 0o1777, "tmp/", ""),
        (Fifo, 0o640, "tmp/pipe", ""),
        (Regular, 0o644, &long, "long"),
        (Regular, 0o644, "gone/file", "hidden by name"),
        (Regular, 0o644, "gone/kept", "kept"),
        (Regular, 0o644, "all/a/b/c", "hidden with all"),
        (Regular, 0o644, "opaque/below", "hidden by its folder"),
        (Regular, 0o644, "becomes-a-folder", "x"),
        (Regular, 0o644, "becomes-a-file/x", "x"),
        (Symlink, 0o777, "becomes-real", "etc"),
        (Directory, 0o755, "again/", ""),
        (Directory, 0o700, "again/", ""),
    ]);
    let upper = layer(&[
        (Regular, 0o644, "gone/.wh.file", ""),
        (Regular, 0o644, ".wh.all", ""),
        (Directory, 0o711, "opaque/", ""),
        (Regular, 0o644, "opaque/.wh..wh..opq", ""),
        (Regular, 0o644, "opaque/above", "seen"),
        (Directory, 0o755, "becomes-a-folder/", ""),
        (Regular, 0o644, "becomes-a-folder/x", "y"),
        (Regular, 0o644, "becomes-a-file", "y"),
        (Regular, 0o644, "becomes-real", "z"),
        // The other names keep the old content.
        (Regular, 0o640, "etc/secret", "three"),
        (Link, 0o640, "etc/new-name", "etc/setuid"),
        (Directory, 0o700, "etc/", ""),
    ]);
    let again = layer(&[
        (Directory, 0o755, "all/", ""),
        (Regular, 0o600, "all/new", "n"),
    ]);
    same("one layer", std::slice::from_ref(&below));
    same("two layers", &[below.clone(), upper.clone()]);
    same("three layers", &[below, upper, again]);
}

/// Formats of sparse files in archives: what GNU tar calls them, and with which options.
const FORMATS: [(&str, &[&str]); 5] = [
    ("oldgnu", &["--format=oldgnu"]),
    ("gnu", &["--format=gnu"]),
    ("PAX 0.0", &["--format=posix", "--sparse-version=0.0"]),
    ("PAX 0.1", &["--format=posix", "--sparse-version=0.1"]),
    ("PAX 1.0", &["--format=posix", "--sparse-version=1.0"]),
];

#[test]
fn sparse_files_are_what_gnu_tar_and_umoci_say() {
    if unpacker("tar").is_none() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let files = home.path().join("files/srv");
    fs::create_dir_all(&files).unwrap();
    let write = |name: &str, size: u64, pieces: &[(u64, usize)]| {
        let mut file = File::create(files.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (number, (at, length)) in pieces.iter().enumerate() {
            file.seek(SeekFrom::Start(*at)).unwrap();
            let byte = u8::try_from(number % 250).unwrap() + 1;
            file.write_all(&vec![byte; *length]).unwrap();
        }
    };
    // GNU tar looks at blocks of 512 bytes; more pieces than a header and a block hold.
    let many: Vec<(u64, usize)> = (0..100).map(|n| (8192 * n + 512, 512)).collect();
    write("many", 1 << 20, &many);
    write("void", 3 << 20, &[]);
    write("end", 1_000_001, &[(999_999, 2)]);
    write("begin", 1 << 20, &[(0, 700)]);
    write("ordinary", 5000, &[(0, 5000)]);
    write(&"long".repeat(50), 1 << 20, &[(4096, 10)]);
    let expected = theirs(&home.path().join("files"));
    let mut sizes = Vec::new();
    for (name, options) in FORMATS {
        let mut tar = unpacker("tar").unwrap();
        tar.args(["--create", "--file=-", "--sparse", "--hole-detection=raw"]);
        tar.args(options).args(["--directory=files", "srv"]);
        let archive = content_of(at_home(&mut tar, home.path()));
        assert_eq!(ours(std::slice::from_ref(&archive)), expected, "{name}");
        // umoci refuses the old formats.
        if name.starts_with("PAX") {
            same(name, std::slice::from_ref(&archive));
        }
        sizes.push(archive.len());
    }
    // They were sparse indeed.
    assert!(sizes.iter().all(|size| *size < 1 << 18), "{sizes:?}");
}
