//! Our side: the release command on a project of two layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipform::base::progress::Quiet;
use slipform::lock::LockFile;
use slipform::pipeline::{LOCK_FILE, Settings};
use slipform::store::Store;

use crate::measure::{Cost, Stopwatch};
use crate::workload::Workload;

/// The release command.
pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_slipform");

const SPEC: &str = r#"name = "bench"
version = "1"
boards = ["qemu-x86_64"]

[[layer]]
name = "base"
files = [{ from = "BASE", to = "/usr" }]

[[layer]]
name = "app"
files = [{ from = "APP", to = "/opt/app" }]
"#;

/// The command with a store of its own.
#[derive(Debug)]
pub(crate) struct Slipform<'a> {
    project: &'a Path,
    /// A store with kernel and boot stub alone, unpacked: genimage gets a ready ESP.
    seed: PathBuf,
    store: PathBuf,
    watch: &'a Stopwatch,
}

impl<'a> Slipform<'a> {
    pub(crate) fn prepare(folder: &Path, workload: &'a Workload, watch: &'a Stopwatch) -> Self {
        let ours = Self {
            project: &workload.folder,
            seed: folder.join("seed"),
            store: folder.join("store"),
            watch,
        };
        let spec = |base: &str, app: &str| SPEC.replace("BASE", base).replace("APP", app);
        fs::write(
            ours.project.join("slipform.toml"),
            spec("root/usr", "root/opt/app"),
        )
        .unwrap();

        // The same wishes with next to nothing in the layers: its lock fits both.
        let small = folder.join("small");
        fs::create_dir_all(small.join("empty")).unwrap();
        fs::write(small.join("slipform.toml"), spec("empty", "empty")).unwrap();
        let text = small.to_str().unwrap();
        watch.run(Path::new(COMMAND), &["-q", "fetch", text], &[]);
        let lock = small.join(LOCK_FILE);
        fs::copy(&lock, ours.project.join(LOCK_FILE)).unwrap();
        let lock = LockFile::parse(&fs::read_to_string(&lock).unwrap(), &lock).unwrap();

        let ordinary = Settings::new(None, None, true, Arc::new(Quiet)).unwrap();
        let seed = Store::open(&ours.seed).unwrap();
        for package in lock
            .boards
            .iter()
            .flat_map(slipform::lock::LockedBoard::packages)
        {
            let mut writer = seed.writer().unwrap();
            ordinary
                .store()
                .copy_verified(&package.sha256, &mut writer)
                .unwrap();
            assert_eq!(writer.finish().unwrap(), package.sha256);
        }
        ours.run(&small, &ours.seed);
        ours
    }

    /// Back to a store that has never seen the project, and no disk.
    pub(crate) fn forget(&self) {
        for folder in [self.store.clone(), self.project.join("out")] {
            let _ = fs::remove_dir_all(folder);
        }
        link_all(&self.seed, &self.store);
    }

    /// One `slipform build`.
    pub(crate) fn build(&self) -> Cost {
        self.run(self.project, &self.store)
    }

    fn run(&self, project: &Path, store: &Path) -> Cost {
        let project = project.to_str().unwrap();
        let arguments = ["-q", "--offline", "build", "--locked", project];
        let environment = [("SLIPFORM_STORE", store)];
        self.watch.run(Path::new(COMMAND), &arguments, &environment)
    }

    /// The disk that was written.
    pub(crate) fn disk(&self) -> PathBuf {
        self.project.join("out/bench-1-qemu-x86_64.raw")
    }
}

/// A copy by hard links: the store never writes into a file that is there.
fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            link_all(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).unwrap();
        }
    }
}
