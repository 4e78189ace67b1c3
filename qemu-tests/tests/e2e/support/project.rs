//! Projects to boot: copies of the shipped examples and variants of them, below
//! cargo's target folder. Locks stay there from run to run, so that only the first
//! run resolves, and one whose store has lost the packages. A variant changes nothing
//! that a lock depends on and takes its original's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use slipform::lock::{LockedBoard, Locks};
use slipform::output::{Artifact, OutputFormat};
use slipform::pipeline::{Cast, LOCK_FILE, Locking, load};
use slipform::spec::{Image, LAYER_FILE, SPEC_FILE, container_rule};
use slipform_qemu_tests::Plan;
use tempfile::TempDir;

use super::container::Container;
use super::lab::{folder, settings};

/// A folder with a specification and a lock that fits.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    dir: PathBuf,
}

/// A project that was cast.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) image: Image,
    pub(crate) cast: Cast,
    /// For artifacts; gone with the subject. Evidence lies elsewhere and stays.
    pub(crate) folder: TempDir,
}

impl Project {
    /// A copy of `layers/images/NAME`, locked.
    pub(crate) fn shipped(name: &str) -> Self {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/images");
        Self::copy(name, &images.join(name))
    }

    /// A copy of the shipped layer NAME, as a base to publish, locked.
    pub(crate) fn base(name: &str) -> Self {
        let layers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers");
        Self::copy(name, &layers.join(name))
    }

    /// The shipped layer `base` as a base for other boards, locked.
    pub(crate) fn base_for(name: &str, boards: &[&str]) -> Self {
        let dir = folder().join(name);
        fs::create_dir_all(&dir).expect("the base's folder");
        let layer = include_str!("../../../../layers/base/layer.toml");
        let text = format!("name = \"base\"\nboards = {boards:?}\n{layer}");
        write_new(&dir.join(LAYER_FILE), text.as_bytes());
        let project = Self { dir };
        project.lock();
        project
    }

    /// A copy of the tests' own image NAME, locked.
    pub(crate) fn own(name: &str) -> Self {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/support/images");
        Self::copy(name, &own.join(name))
    }

    /// Copies and locks once for each process; other processes wait for their turn.
    fn copy(name: &str, from: &Path) -> Self {
        static MADE: Mutex<BTreeMap<String, Project>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(project) = made.get(name) {
            return project.clone();
        }
        let dir = folder().join(name);
        fs::create_dir_all(&dir).expect("the project's folder");
        let alone = File::create(folder().join("alone")).expect("a file to lock");
        alone.lock().expect("a turn of our own");
        same(from, &dir);
        // The example may have been built by hand: then its lock saves a resolve.
        let lock = dir.join(LOCK_FILE);
        if !lock.exists() && from.join(LOCK_FILE).exists() {
            fs::copy(from.join(LOCK_FILE), &lock).expect("the example's lock");
        }
        let project = Self { dir };
        project.lock();
        made.insert(name.to_owned(), project.clone());
        project
    }

    /// Resolves if need be: also when the store does not have what an older run
    /// locked, for the mirror may not have it any more either.
    fn lock(&self) {
        let image = self.image();
        let lock = settings()
            .lock(&image, &Locking::IfNeeded)
            .expect("the lock resolves");
        // What the layers and boards need, not the tools.
        let packages = lock.parts().flat_map(|lock| {
            let boards = lock.boards.iter().flat_map(LockedBoard::packages);
            let layers = lock.layers.iter().flat_map(|layer| &layer.packages);
            layers.chain(boards)
        });
        let store = settings().store();
        if !packages
            .map(|package| package.sha256)
            .all(|digest| store.has(&digest))
        {
            settings()
                .lock(&image, &Locking::UpdateAll)
                .expect("the lock resolves anew");
        }
    }

    /// The same project under another name, each `(from, to)` of `edits` replaced in
    /// its specification, and with further files.
    pub(crate) fn variant(
        &self,
        name: &str,
        edits: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Self {
        let dir = folder().join(name);
        fs::create_dir_all(&dir).expect("the variant's folder");
        same(&self.dir, &dir);
        fs::copy(self.dir.join(LOCK_FILE), dir.join(LOCK_FILE)).expect("the original's lock");
        let mut text = fs::read_to_string(dir.join(SPEC_FILE)).expect("the specification");
        let original = format!("name = \"{}\"", self.image().name);
        let renamed = format!("name = \"{name}\"");
        for (from, to) in [(original.as_str(), renamed.as_str())].iter().chain(edits) {
            assert!(text.contains(from), "{name}: nothing to replace: {from}");
            text = text.replacen(from, to, 1);
        }
        write_new(&dir.join(SPEC_FILE), text.as_bytes());
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("the file's folder");
            write_new(&path, text.as_bytes());
        }
        Self { dir }
    }

    /// The same on another base and for a board, locked anew.
    pub(crate) fn on_base(&self, name: &str, base: &str, board: &str) -> Self {
        let used = format!("use = \"{base}\"");
        let version = "version = \"0.1.0\"";
        let with_board = format!("{version}\nboards = [\"{board}\"]");
        let edits = [
            ("use = \"base\"", used.as_str()),
            (version, with_board.as_str()),
        ];
        let project = self.variant(name, &edits, &[]);
        project.lock();
        project
    }

    /// The same for another board, shipped or among `files`, locked anew.
    pub(crate) fn on_board(&self, name: &str, board: &str, files: &[(&str, &str)]) -> Self {
        let version = "version = \"0.1.0\"";
        let with_board = format!("{version}\nboards = [\"{board}\"]");
        let project = self.variant(name, &[(version, with_board.as_str())], files);
        project.lock();
        project
    }

    /// The same for a board of its own, whose file lies beside it, locked anew.
    pub(crate) fn on_own_board(&self, name: &str, board: (&str, &str)) -> Self {
        let version = "version = \"0.1.0\"";
        let with_board = format!("{version}\nboards = [\"{}\"]", board.0);
        let file = format!("boards/{}.toml", board.0);
        let edits = [(version, with_board.as_str())];
        let project = self.variant(name, &edits, &[(file.as_str(), board.1)]);
        project.lock();
        project
    }

    /// What `slipform new --from` makes of a container, each `(from, to)` of `edits` replaced
    /// in it and `more` behind it, locked.
    pub(crate) fn of_container(
        name: &str,
        container: Container,
        edits: &[(&str, &str)],
        more: &str,
    ) -> Self {
        let dir = folder().join(name);
        fs::create_dir_all(&dir).expect("the project's folder");
        let dir = dir.canonicalize().expect("the project's folder");
        container.write(&dir.join("app"));
        let rule = container_rule("app".to_owned(), &dir).expect("a container's name");
        let made = settings().container_project(name, &rule);
        let mut text = made.expect("a specification of the container");
        for (from, to) in edits {
            assert!(text.contains(from), "{name}: nothing to replace: {from}");
            text = text.replacen(from, to, 1);
        }
        text.push_str(more);
        write_new(&dir.join(SPEC_FILE), text.as_bytes());
        let project = Self { dir };
        project.lock();
        project
    }

    /// Its lock.
    pub(crate) fn locked(&self) -> Locks {
        settings()
            .lock(&self.image(), &Locking::AsItIs)
            .expect("the lock fits")
    }

    /// Its specification.
    pub(crate) fn image(&self) -> Image {
        load(&self.dir).expect("the specification is good")
    }

    /// Casts it for its first board.
    pub(crate) fn cast(&self) -> Subject {
        self.cast_for(&self.image().boards[0])
    }

    /// Casts it for one of its boards.
    pub(crate) fn cast_for(&self, board: &str) -> Subject {
        let image = self.image();
        let lock = settings()
            .lock(&image, &Locking::AsItIs)
            .expect("the lock fits");
        let cast = settings()
            .cast(&image, &lock, board)
            .expect("the image casts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Subject {
            image,
            cast,
            folder,
        }
    }
}

impl Subject {
    /// The disk as a file.
    pub(crate) fn write(&self, format: OutputFormat) -> Artifact {
        let path = self.folder.path().join(format!("disk.{format}"));
        settings()
            .write(&self.cast, format, &path)
            .expect("the disk is written")
    }

    /// A boot test of `artifact`; `name` is the folder of the evidence.
    pub(crate) fn plan(&self, artifact: &Artifact, name: &str) -> Plan {
        let evidence = folder().join("evidence").join(name);
        settings().plan(&self.image, &self.cast, artifact, &evidence)
    }

    /// A boot test of the raw disk by firmware.
    pub(crate) fn by_firmware(&self, name: &str) -> Plan {
        self.plan(&self.write(OutputFormat::Raw), name)
    }

    /// The same without firmware: kernel and initrd are handed to QEMU.
    pub(crate) fn direct(&self, name: &str) -> Plan {
        let mut plan = self.by_firmware(name);
        plan.boot = settings()
            .direct(&self.cast, self.folder.path())
            .expect("kernel and initrd");
        plan
    }
}

/// Makes `to` hold what `from` holds, but for locks and what building leaves.
fn same(from: &Path, to: &Path) {
    let kept = |name: &str| matches!(name, LOCK_FILE | "out" | "target");
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder to read");
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("a name in UTF-8"))
            .filter(|name| !kept(name))
            .collect()
    };
    let wanted = names(from);
    for name in names(to).iter().filter(|name| !wanted.contains(name)) {
        let path = to.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("an old folder goes");
        } else {
            fs::remove_file(path).expect("an old file goes");
        }
    }
    for name in wanted {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            fs::create_dir_all(&to).expect("a folder");
            same(&from, &to);
        } else {
            write_new(&to, &fs::read(&from).expect("a file to copy"));
        }
    }
}

/// Writes unless the file is so already: times stay, another process is not disturbed.
fn write_new(path: &Path, bytes: &[u8]) {
    if fs::read(path).ok().as_deref() != Some(bytes) {
        fs::write(path, bytes).expect("a file is written");
    }
}
