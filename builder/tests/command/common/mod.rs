//! What the tests of the command share: a world of its own for each test, with a
//! small signed mirror over HTTP, a store, a home and projects; nothing of the
//! host's is read but the programs in `PATH`.
//!
//! ```no_run
//! let world = World::new();
//! let project = world.project("app");
//! let built = world.run(&project, &["build", "--json"]).good().json();
//! ```

// Each test binary uses its own part.
#![allow(dead_code)]

pub(crate) mod packages;
pub(crate) mod scene;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use slipform::base::Digest;
use slipform::lock::testing::TestArchive;
use slipform::sources::testing::Server;

/// The ordinary project's specification: the shipped base, a layer of files,
/// an app with a package, files and a service.
pub(crate) const SPEC: &str = r#"name = "fixture"
version = "1.0.0"

[[layer]]
use = "base"

[[layer]]
name = "floor"
files = [{ from = "floor", to = "/opt/floor" }]

[[layer]]
name = "app"
packages = ["hello-server"]
files = [{ from = "www", to = "/srv/www" }]
users = [{ name = "web", uid = 1000 }]

[[service]]
name = "web"
exec = ["/usr/bin/hello-server", "--port", "8080"]
user = "web"
"#;

/// An image as small as it can be, on a board of its own: for builds by the dozen.
pub(crate) const SMALL: &str = r#"name = "small"
version = "1"
boards = ["small"]

[[layer]]
name = "app"
packages = ["libhello1"]
without = ["libc6"]
files = [{ from = "www", to = "/srv/www" }]
"#;

/// A mirror, a store and a home that nobody else has.
#[derive(Debug)]
pub(crate) struct World {
    folder: tempfile::TempDir,
    /// The archive that the server serves, once published.
    pub(crate) archive: TestArchive,
    /// The mirror.
    pub(crate) server: Server,
}

impl World {
    /// A world whose mirror has all that the ordinary project needs.
    pub(crate) fn new() -> Self {
        let mut archive = TestArchive::new();
        packages::fill(&mut archive);
        archive.publish_at(now());
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::write(folder.path().join("keys.asc"), archive.key()).unwrap();
        let server = Server::new(archive.folder());
        Self {
            folder,
            archive,
            server,
        }
    }

    /// A path in the world's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store that commands use unless told otherwise.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Publishes the archive as it is now; what is no longer in it is gone from the mirror.
    pub(crate) fn publish(&self) {
        self.archive.publish_at(now());
    }

    /// Signs a suite's Release anew after `change`; `path` is that of its InRelease below the mirror.
    pub(crate) fn resign(&self, path: &str, change: impl Fn(&str) -> String) {
        let path = self.archive.folder().join(path);
        let signed = fs::read_to_string(&path).unwrap();
        let (_, text) = signed.split_once("\n\n").unwrap();
        let (text, _) = text.split_once("-----BEGIN PGP SIGNATURE").unwrap();
        let changed = change(text);
        assert_ne!(changed, text);
        fs::write(&path, self.archive.sign(&changed, now())).unwrap();
    }

    /// Writes the user's configuration file.
    pub(crate) fn configure(&self, text: &str) {
        write(&self.path("home/.config/slipform/config.toml"), text);
    }

    /// The ordinary project in a folder of its own.
    pub(crate) fn project(&self, name: &str) -> PathBuf {
        self.project_with(name, SPEC)
    }

    /// The smallest project.
    pub(crate) fn small_project(&self, name: &str) -> PathBuf {
        let dir = self.project_with(name, SMALL);
        let board = slipform::board::shipped("qemu-x86_64").unwrap();
        let board = board
            .replace("name = \"qemu-x86_64\"", "name = \"small\"")
            .replace("64MiB", "33MiB");
        write(&dir.join("boards/small.toml"), board);
        dir
    }

    /// A project with another specification and the ordinary files.
    pub(crate) fn project_with(&self, name: &str, spec: &str) -> PathBuf {
        let dir = self.path(name);
        write(&dir.join("slipform.toml"), spec);
        write(&dir.join("www/index.html"), "<h1>hello</h1>\n");
        write(&dir.join("www/css/page.css"), "h1 { color: green }\n");
        write(&dir.join("floor/readme.txt"), "the floor\n");
        write(&dir.join("floor/data/table.csv"), "a,b\n1,2\n");
        dir
    }

    /// The command with a clean environment that leads to this world only.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, dir: &Path, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipform"));
        command.args(args);
        self.lead(&mut command, dir);
        command
    }

    /// As [`World::command`], started through a shell line that ends in `exec "$@"`.
    pub(crate) fn shell<S: AsRef<OsStr>>(&self, dir: &Path, line: &str, args: &[S]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", line, "sh", env!("CARGO_BIN_EXE_slipform")])
            .args(args);
        self.lead(&mut command, dir);
        command
    }

    fn lead(&self, command: &mut Command, dir: &Path) {
        command
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("SLIPFORM_STORE", self.store())
            .env("SLIPFORM_MIRROR", format!("{}/debian", self.server.uri()))
            .env(
                "SLIPFORM_SECURITY_MIRROR",
                format!("{}/debian-security", self.server.uri()),
            )
            .env("SLIPFORM_ARCHIVE_KEYS", self.path("keys.asc"))
            // The host's apt may name a proxy.
            .env("no_proxy", "*");
    }

    /// Runs the command in `dir`.
    pub(crate) fn run(&self, dir: &Path, args: &[&str]) -> Outcome {
        outcome(&mut self.command(dir, args))
    }

    /// As [`World::run`], but nothing can be fetched: the mirror's port is closed.
    pub(crate) fn run_cut_off(&self, dir: &Path, args: &[&str]) -> Outcome {
        outcome(cut_off(&mut self.command(dir, args)))
    }

    /// Builds and returns what `--json` prints.
    pub(crate) fn build(&self, dir: &Path, args: &[&str]) -> Built {
        let mut all = vec!["build", "--json"];
        all.extend(args);
        Built(self.run(dir, &all).good().json())
    }

    /// Every blob of the store by its file.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        files(&self.store().join("blobs/sha256"))
    }

    /// The blob with exactly these bytes.
    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.store()
            .join("blobs/sha256")
            .join(Digest::of(bytes).hex())
    }
}

/// Points a command's mirrors at a port that nobody listens on.
pub(crate) fn cut_off(command: &mut Command) -> &mut Command {
    command
        .env("SLIPFORM_MIRROR", "http://127.0.0.1:1/debian")
        .env(
            "SLIPFORM_SECURITY_MIRROR",
            "http://127.0.0.1:1/debian-security",
        )
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Writes a file with its folders.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Replaces the only occurrence of `from` in a file.
pub(crate) fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Flips one bit in the middle of a file, as a bad disk does: times stay.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let times = fs::metadata(path).unwrap();
    let times = fs::FileTimes::new().set_modified(times.modified().unwrap());
    fs::write(path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(times)
        .unwrap();
}

/// The digest of a file, which is read in pieces: images are large, most of them holes.
pub(crate) fn digest(path: &Path) -> Digest {
    let mut reader = BufReader::with_capacity(1 << 20, fs::File::open(path).unwrap());
    Digest::of_reader(&mut reader).unwrap().0
}

/// Files of a folder, sorted; none if there is no such folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What `build --json` printed.
#[derive(Debug)]
pub(crate) struct Built(pub(crate) serde_json::Value);

impl Built {
    /// Digest of the image.
    pub(crate) fn image(&self) -> &str {
        self.0["image"].as_str().unwrap()
    }

    /// A field of the artifact at `index`.
    pub(crate) fn artifact(&self, index: usize, field: &str) -> &str {
        self.0["artifacts"][index][field].as_str().unwrap()
    }

    /// All that must be the same wherever it was built: the image's digest, and
    /// format, disk, length and (with `--sum`) flat sum of each artifact.
    pub(crate) fn identity(&self) -> Vec<String> {
        let artifacts = self.0["artifacts"].as_array().unwrap();
        let mut identity = vec![self.image().to_owned()];
        for artifact in artifacts {
            for field in ["board", "format", "disk", "bytes", "sha256"] {
                identity.push(artifact[field].to_string());
            }
        }
        identity
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    told(command.output().unwrap())
}

/// What a finished process said.
pub(crate) fn told(output: Output) -> Outcome {
    Outcome {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// It went well.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The one object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The digests of blobs that it said it found damaged, each in a line of its own.
    #[track_caller]
    pub(crate) fn damage(&self) -> BTreeSet<String> {
        let lines = self.stderr.lines().filter(|line| line.contains("damaged"));
        lines
            .map(|line| {
                let hex = line.strip_prefix("blob sha256:").and_then(|rest| {
                    rest.strip_suffix(" in the store was damaged; it is set aside and made anew")
                });
                hex.unwrap_or_else(|| panic!("{line}")).to_owned()
            })
            .collect()
    }

    /// It ended with `code` and said why in exactly one line on stderr (run it
    /// with `--quiet`), in which all of `parts` stand, in this order.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("slipform: "), "{}", self.stderr);
        let mut rest = self.stderr.as_str();
        for part in parts {
            let at = rest
                .find(part)
                .unwrap_or_else(|| panic!("no '{part}' (in order) in: {}", self.stderr));
            rest = &rest[at + part.len()..];
        }
        self
    }
}

/// Says that a test did not run, past what the test runner captures.
pub(crate) fn skipped(test: &str, why: &str) {
    // A closed stderr is nobody who could be told.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// A program of the host in `PATH`; `None`, said visibly, when it is not there.
pub(crate) fn host_program(name: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        skipped(test, &format!("this host has no {name}"));
    }
    found
}
