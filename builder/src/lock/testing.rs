//! Small signed archives for tests, with real packages in them.
//!
//! A [`TestArchive`] lies in a folder of its own, laid out as a mirror is:
//!
//! ```text
//! debian/dists/trixie/InRelease, …          trixie and trixie-updates
//! debian/pool/<name>_<version>_<arch>.deb
//! debian-security/…                         trixie-security
//! ```
//!
//! so that a test can also serve it over HTTP. It implements [`Archive`] itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use slipform_openpgp::testing::{TestKey, With};

use super::archive::{Archive, Base, SuiteSource};
use super::date;
use super::file::LockedInit;
use super::resolve::{ResolveOptions, Update};
use crate::base::Digest;

/// When test archives are signed, in seconds since 1970 (2026-09-12T07:55:41Z).
pub const SIGNED: i64 = 1_789_199_741;
/// An hour later.
pub const NOW: i64 = SIGNED + 3600;
/// How long a test archive is valid, in seconds.
pub const VALID: i64 = 7 * 86_400;

/// A package for a test archive.
#[derive(Debug, Clone)]
pub struct TestPackage {
    name: String,
    version: String,
    arch: String,
    fields: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>, u32)>,
}

impl TestPackage {
    /// A package of architecture `amd64` with a file of its own below `/usr/share/doc`.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            fields: Vec::new(),
            files: vec![(
                format!("usr/share/doc/{name}/copyright"),
                b"public domain\n".to_vec(),
                0o644,
            )],
        }
    }

    /// Makes it one for architecture `arch`.
    #[must_use]
    pub fn arch(mut self, arch: &str) -> Self {
        arch.clone_into(&mut self.arch);
        self
    }

    /// Adds a control field, such as `Depends`.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Depends`.
    #[must_use]
    pub fn depends(self, value: &str) -> Self {
        self.field("Depends", value)
    }

    /// Adds a file: its path without the leading slash, its content, its mode.
    #[must_use]
    pub fn file(mut self, path: &str, content: &[u8], mode: u32) -> Self {
        self.files.push((path.to_owned(), content.to_vec(), mode));
        self
    }

    /// The control paragraph.
    #[must_use]
    pub fn control(&self) -> String {
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Test <test@example.org>\nDescription: test\n two lines\n",
            self.name, self.version, self.arch
        );
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }

    /// The `.deb` (deb(5)): the same bytes for the same package.
    ///
    /// # Panics
    /// When memory cannot be written to.
    #[must_use]
    pub fn deb(&self) -> Vec<u8> {
        let control = tar(&[("control".to_owned(), self.control().into_bytes(), 0o644)]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&control).expect("gzip into memory");
        let control = gzip.finish().expect("gzip into memory");
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.gz", control),
            ("data.tar.xz", xz(&tar(&self.files))),
        ];
        let mut deb = b"!<arch>\n".to_vec();
        for (name, content) in members {
            let header = format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                100_644,
                content.len()
            );
            deb.extend(header.as_bytes());
            deb.extend(&content);
            deb.extend(std::iter::repeat_n(b'\n', content.len() % 2));
        }
        deb
    }

    fn pool_path(&self) -> String {
        // Epochs do not appear in file names.
        let version = self.version.rsplit(':').next().unwrap_or_default();
        format!("pool/{}_{version}_{}.deb", self.name, self.arch)
    }
}

/// A mirror in a temporary folder.
#[derive(Debug)]
pub struct TestArchive {
    folder: tempfile::TempDir,
    key: TestKey,
    suites: Vec<(SuiteSource, Vec<TestPackage>)>,
}

impl Default for TestArchive {
    fn default() -> Self {
        Self::new()
    }
}

impl TestArchive {
    /// An empty archive of trixie with its updates and security, not yet published.
    ///
    /// # Panics
    /// When no folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let wishes = super::wishes::Wishes {
            suite: "trixie".to_owned(),
            ..Default::default()
        };
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            key: TestKey::new(42, 1_700_000_000),
            suites: wishes
                .sources()
                .into_iter()
                .map(|s| (s, Vec::new()))
                .collect(),
        }
    }

    /// The mirror's folder: `debian` and `debian-security` lie below it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The public key that signs it, armoured.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.public()
    }

    /// Adds a package to a suite.
    ///
    /// # Panics
    /// When there is no such suite.
    pub fn add(&mut self, suite: &str, package: TestPackage) -> &mut Self {
        self.suite(suite).push(package);
        self
    }

    /// Takes all versions of a package out of a suite, as mirrors do that move on.
    ///
    /// # Panics
    /// When there is no such suite.
    pub fn remove(&mut self, suite: &str, name: &str) -> &mut Self {
        self.suite(suite).retain(|package| package.name != name);
        self
    }

    fn suite(&mut self, name: &str) -> &mut Vec<TestPackage> {
        let suite = self.suites.iter_mut().find(|(s, _)| s.name == name);
        &mut suite.expect("a suite of the test archive").1
    }

    /// Writes packages, indexes and signed Releases; what is no longer in it goes.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn publish(&self) -> &Self {
        self.publish_at(SIGNED)
    }

    /// As [`TestArchive::publish`], signed at `at` (seconds since 1970).
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn publish_at(&self, at: i64) -> &Self {
        for base in ["debian", "debian-security"] {
            let _ = fs::remove_dir_all(self.folder().join(base));
        }
        for (source, packages) in &self.suites {
            self.publish_suite(source, packages, at);
        }
        self
    }

    fn publish_suite(&self, source: &SuiteSource, packages: &[TestPackage], at: i64) {
        let base = self.base(source);
        // By component: what is not free stands apart, as in Debian's archives.
        let mut indexes = [
            ("main", String::new()),
            ("non-free-firmware", String::new()),
        ];
        for package in packages {
            let (deb, path) = (package.deb(), package.pool_path());
            write(&base.join(&path), &deb);
            let control = package.control();
            let apart = usize::from(control.starts_with("Package: firmware-"));
            let index = &mut indexes[apart].1;
            index.push_str(&control);
            let (size, digest) = (deb.len(), Digest::of(&deb).hex());
            index.push_str(&format!(
                "Filename: {path}\nSize: {size}\nSHA256: {digest}\n\n"
            ));
        }
        let dist = base.join("dists").join(&source.dist);
        let mut files = String::new();
        let both = |(component, index): &(&'static str, String)| {
            let packed = xz(index.as_bytes());
            let plain = index.clone().into_bytes();
            [("Packages", plain), ("Packages.xz", packed)]
                .map(|(name, bytes)| (*component, name, bytes))
        };
        // The same for each architecture: readers pass over what is not theirs.
        let arm = packages.iter().any(|package| package.arch == "arm64");
        let archs = if arm { "amd64 arm64" } else { "amd64" };
        for (arch, (component, name, bytes)) in archs
            .split(' ')
            .flat_map(|arch| indexes.iter().flat_map(both).map(move |file| (arch, file)))
        {
            let digest = Digest::of(&bytes).hex();
            let path = format!("{component}/binary-{arch}");
            let folder = dist.join(&path);
            write(&folder.join(name), &bytes);
            write(&folder.join("by-hash/SHA256").join(&digest), &bytes);
            files.push_str(&format!(" {digest} {} {path}/{name}\n", bytes.len()));
        }
        let release = format!(
            "Origin: Test\nSuite: stable\nCodename: {}\nDate: {}\nValid-Until: {}\nAcquire-By-Hash: yes\nArchitectures: {archs}\nComponents: main non-free-firmware\nSHA256:\n{files}",
            source.dist,
            date::format(at),
            date::format(at + VALID),
        );
        write(&dist.join("InRelease"), self.sign(&release, at).as_bytes());
    }

    /// `text`, signed with the archive's key at `at` (seconds since 1970).
    #[must_use]
    pub fn sign(&self, text: &str, at: i64) -> String {
        let at = u32::try_from(at).unwrap_or_default();
        self.key.clearsign(text, With::Subkey, at)
    }

    /// A file of the mirror.
    #[must_use]
    pub fn path(&self, suite: &SuiteSource, path: &str) -> PathBuf {
        self.base(suite).join(path)
    }

    fn base(&self, source: &SuiteSource) -> PathBuf {
        self.folder().join(match &source.base {
            Base::Debian => "debian",
            Base::DebianSecurity => "debian-security",
            Base::Uri(uri) => uri.rsplit('/').next().unwrap_or_default(),
        })
    }
}

impl Archive for TestArchive {
    fn read(&self, suite: &SuiteSource, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        match fs::read(self.path(suite, path)) {
            Ok(bytes) if bytes.len() as u64 > limit => Err(format!("more than {limit} bytes")),
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Options to resolve against a test archive whose key is `key`.
#[must_use]
pub fn options(key: &str) -> ResolveOptions<'_> {
    ResolveOptions {
        init: LockedInit {
            size: 4,
            sha256: Digest::of("init"),
        },
        now: NOW,
        allow_expired: false,
        keep: None,
        update: Update::Named(Vec::new()),
        debian_keys: Some(key.as_bytes()),
    }
}

fn tar(files: &[(String, Vec<u8>, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(crate::base::EPOCH).unwrap_or_default());
        builder
            .append_data(&mut header, format!("./{path}"), content.as_slice())
            .expect("tar into memory");
    }
    builder.into_inner().expect("tar into memory")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("xz into memory");
    writer.write_all(bytes).expect("xz into memory");
    writer.finish().expect("xz into memory")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a path with a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file of the test archive");
}
