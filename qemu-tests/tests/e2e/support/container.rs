//! Container images in the making: one layer and a configuration, as an OCI layout.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slipform::base::{Digest, EPOCH};
use slipform::pipeline::testing::tools;
use tar::{Builder, EntryType, Header};

/// What of packages nobody needs to run them.
const LEFT_OUT: [&str; 5] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/perl",
];

/// An image.
pub(crate) struct Container {
    layer: Builder<Vec<u8>>,
    /// Files that are in it.
    files: BTreeSet<String>,
    config: Value,
}

impl Container {
    /// One without files, that is run as `config` says.
    pub(crate) fn new(config: Value) -> Self {
        Self {
            layer: Builder::new(Vec::new()),
            files: BTreeSet::new(),
            config,
        }
    }

    fn header(kind: EntryType, mode: u32, owner: (u64, u64)) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(EPOCH.unsigned_abs());
        header.set_size(0);
        header
    }

    /// With a folder more.
    pub(crate) fn folder(mut self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        let mut header = Self::header(EntryType::Directory, mode, owner);
        let added = self.layer.append_data(&mut header, path, &[][..]);
        added.expect("a folder of the layer");
        self
    }

    /// With a file of root's more.
    pub(crate) fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let mut header = Self::header(EntryType::Regular, mode, (0, 0));
        header.set_size(content.len() as u64);
        let added = self.layer.append_data(&mut header, path, content);
        added.expect("a file of the layer");
        self.files.insert(path.to_owned());
        self
    }

    /// With a symbolic link more.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Symlink, 0o777, (0, 0));
        let added = self.layer.append_link(&mut header, path, target);
        added.expect("a link of the layer");
        self.files.insert(path.to_owned());
        self
    }

    /// With all files of Debian's `packages` and of those that they need, but for those that
    /// are in it already, and the links of a merged `/usr`; `None`, said visibly, where they
    /// cannot be had.
    pub(crate) fn packages(self, name: &str, packages: &[&str]) -> Option<Self> {
        let tools = tools(name, packages).expect("packages for a container")?;
        let mut container = self;
        for folder in ["bin", "lib", "lib64", "sbin"] {
            container = container.link(folder, &format!("usr/{folder}"));
        }
        Some(container.tree(tools.root(), Path::new("")))
    }

    /// One file of Debian's package.
    pub(crate) fn of_package(package: &str, path: &str) -> Option<Vec<u8>> {
        let tools = tools(package, &[package]).expect("a package for a container")?;
        Some(fs::read(tools.root().join(path)).expect("the package's file"))
    }

    fn tree(mut self, root: &Path, below: &Path) -> Self {
        let entries = fs::read_dir(root.join(below)).expect("a folder of packages");
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| below.join(entry.expect("an entry").file_name()))
            .collect();
        paths.sort();
        for path in paths {
            let name = path.to_str().expect("a name in UTF-8");
            if LEFT_OUT.contains(&name) || self.files.contains(name) {
                continue;
            }
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).expect("an entry's facts");
            if meta.is_dir() {
                self = self.folder(name, 0o755, (0, 0)).tree(root, &path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&full).expect("a link");
                self = self.link(name, target.to_str().expect("a target in UTF-8"));
            } else {
                let mode = meta.permissions().mode() & 0o7777;
                self = self.file(name, mode, fs::read(&full).expect("a file of a package"));
            }
        }
        self
    }

    /// Writes it as a layout.
    pub(crate) fn write(self, dir: &Path) {
        let layer = self.layer.into_inner().expect("a layer");
        let _old = fs::remove_dir_all(dir);
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a folder for blobs");
        let blob = |bytes: &[u8], kind: &str| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).expect("a blob");
            json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
        };
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = blob(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let layer = blob(&layer, "application/vnd.oci.image.layer.v1.tar");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer],
        });
        let manifest = blob(manifest.to_string().as_bytes(), kind);
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).expect("the index");
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(dir.join("oci-layout"), version).expect("the layout's version");
    }
}
