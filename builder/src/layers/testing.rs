//! Archives made by hand, good and hostile, for this room's tests.

use std::collections::BTreeMap;
use std::io::Write;

/// A package container.
pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                100_644,
                content.len()
            )
            .bytes(),
        );
        bytes.extend(*content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// One record of a PAX header.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..=20)
        .map(|digits| rest + digits)
        .find(|length| length.to_string().len() + rest == *length)
        .unwrap();
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

/// One header of an archive to make, with fields that the `tar` crate would refuse to write.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) size: Option<u64>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) mtime: u64,
}

impl Item {
    pub(crate) fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            content: Vec::new(),
            size: None,
            mode: match kind {
                b'5' => 0o755,
                b'2' => 0o777,
                _ => 0o644,
            },
            uid: 0,
            mtime: 1_600_000_000,
        }
    }
    pub(crate) fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path)
    }
    pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..Self::new(b'0', path)
        }
    }
    pub(crate) fn link(kind: u8, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(kind, path)
        }
    }
    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::link(b'2', path, target)
    }
    pub(crate) fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::link(b'1', path, target)
    }
    pub(crate) fn pax(records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
        Self {
            content,
            ..Self::new(b'x', "././@PaxHeader")
        }
    }
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }
}

/// An archive of `items`, ended as it should be.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        let mut header = [0_u8; 512];
        let put = |header: &mut [u8; 512], at: usize, field: &[u8]| {
            header[at..at + field.len()].copy_from_slice(field);
        };
        put(&mut header, 0, &item.path[..item.path.len().min(100)]);
        put(&mut header, 100, format!("{:07o}\0", item.mode).as_bytes());
        put(&mut header, 108, format!("{:07o}\0", item.uid).as_bytes());
        put(&mut header, 116, b"0000000\0");
        let size = item.size.unwrap_or(item.content.len() as u64);
        if size < 0o77_777_777_777 {
            put(&mut header, 124, format!("{size:011o}\0").as_bytes());
        } else {
            put(&mut header, 124, b"\x80\0\0\0");
            put(&mut header, 128, &size.to_be_bytes());
        }
        put(
            &mut header,
            136,
            format!("{:011o}\0", item.mtime).as_bytes(),
        );
        put(&mut header, 156, &[item.kind]);
        put(&mut header, 157, &item.link[..item.link.len().min(100)]);
        put(&mut header, 257, b"ustar  \0");
        put(&mut header, 148, b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(&item.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A package as dpkg-deb would make it.
pub(crate) fn deb(name: &str, items: &[Item]) -> Vec<u8> {
    deb_with(name, &BTreeMap::new(), items)
}

/// A package with further control files.
pub(crate) fn deb_with(name: &str, control: &BTreeMap<&str, &str>, items: &[Item]) -> Vec<u8> {
    let fields = format!(
        "Package: {name}\nVersion: 1.0-1\nArchitecture: amd64\nDescription: made for a test\n"
    );
    let mut files = vec![Item::dir("./"), Item::file("./control", fields)];
    files.extend(
        control
            .iter()
            .map(|(path, text)| Item::file(format!("./{path}"), text)),
    );
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", &gz(&tar(&files))),
        ("data.tar.xz", &xz(&tar(items))),
    ])
}

/// What a package with `items` brings.
pub(crate) fn entries_of(items: &[Item]) -> Vec<super::Entry> {
    let bytes = tar(items);
    let input = super::tar::TarInput {
        blob: crate::base::Digest::of(&bytes),
        size: bytes.len() as u64,
        origin: "package t",
    };
    super::tar::read_tar(std::io::Cursor::new(bytes), input).unwrap()
}

/// An entry as a line: `f 0644 0:0 /path`.
pub(crate) fn line(entry: &super::Entry) -> String {
    use super::Kind;
    let (letter, target) = match &entry.kind {
        Kind::Directory => ('d', String::new()),
        Kind::File(_) => ('f', String::new()),
        Kind::Symlink(target) => ('l', format!(" -> {target}")),
        Kind::Hardlink(target) => ('h', format!(" => {target}")),
        Kind::CharDevice(major, minor) => ('c', format!(" {major}:{minor}")),
        Kind::BlockDevice(major, minor) => ('b', format!(" {major}:{minor}")),
        Kind::Fifo => ('p', String::new()),
        Kind::Socket => ('s', String::new()),
    };
    let meta = &entry.meta;
    format!(
        "{letter} {:04o} {}:{} {}{target}",
        meta.mode, meta.uid, meta.gid, entry.path
    )
}

/// A layer's folder, a store, and a layer in the making.
pub(crate) struct Bench {
    temporary: tempfile::TempDir,
    pub(crate) store: crate::store::Store,
    pub(crate) spec: crate::spec::LayerSpec,
    pub(crate) packages: Vec<super::UnpackedDeb>,
    pub(crate) built: Option<std::path::PathBuf>,
    pub(crate) tar: Option<super::UnpackedTar>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("layer");
        std::fs::create_dir(&dir).unwrap();
        let store = crate::store::Store::open(temporary.path().join("store")).unwrap();
        let spec = crate::spec::LayerSpec {
            name: "app".into(),
            dir,
            ..Default::default()
        };
        Self {
            temporary,
            store,
            spec,
            packages: Vec::new(),
            built: None,
            tar: None,
        }
    }

    pub(crate) fn dir(&self) -> std::path::PathBuf {
        assert!(self.temporary.path().is_dir());
        self.spec.dir.clone()
    }

    pub(crate) fn mkdir(&self, path: &str) {
        std::fs::create_dir_all(self.spec.dir.join(path)).unwrap();
    }

    pub(crate) fn file(&self, path: &str, content: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.spec.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn package(&mut self, name: &str, items: &[Item]) {
        let digest = self.store.put(&deb(name, items)).unwrap();
        self.packages
            .push(super::unpack(&self.store, &digest).unwrap());
    }

    /// Calls `run` with all of it; the only known owner is `web`, 1000.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&super::CollectInput<'_>) -> T) -> T {
        let digest_of = |path: &std::path::Path, _: &std::fs::Metadata| {
            let bytes = std::fs::read(path).unwrap();
            Ok((crate::base::Digest::of(&bytes), bytes.len() as u64))
        };
        let ids = |owner: &crate::spec::Owner| match owner {
            crate::spec::Owner::Ids(uid, gid) => Ok((*uid, *gid)),
            crate::spec::Owner::Names(user, _) if user == "web" => Ok((1000, 1000)),
            crate::spec::Owner::Names(user, _) => Err(format!("user '{user}' is unknown")),
        };
        run(&super::CollectInput {
            spec: &self.spec,
            packages: &self.packages,
            store: &self.store,
            digest_of: &digest_of,
            ids: &ids,
            built: self.built.as_deref(),
            tar: self.tar.as_ref(),
            container: None,
        })
    }
}
