//! What tests of publishing share: a project that was built and tested, a key, and
//! a place to publish to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipform::attest::{KeyFile, Passphrase, Signer, Trust, testing};
use slipform::base::Digest;
use slipform::base::progress::Quiet;
use slipform::channel::Kind;
use slipform::output::{Artifact, OutputFormat};
use slipform::pipeline::{Door, Locking, Settings, Wanted, load};
use slipform::remote::testing::quick;
use slipform::remote::{Remote, RemoteOptions, open_with};
use slipform::sources::Host;
use slipform_qemu_tests::BootReport;

use super::{Outcome, World, now};

/// A world with a small project that was built, a key, and a place to publish to.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) dir: PathBuf,
    pub(crate) remote: String,
    /// What the command finds in its environment beside that.
    pub(crate) variables: Vec<(String, String)>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let dir = world.small_project("small");
        let remote = format!("file://{}", world.path("published").display());
        let scene = Self {
            world,
            dir,
            remote,
            variables: Vec::new(),
        };
        scene.run(&["key", "new", "--no-passphrase"]).good();
        scene
    }

    /// Runs the command in the project, quietly, with the place to publish to set.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let mut all = vec!["--quiet"];
        all.extend(args);
        let mut command = self.world.command(&self.dir, &all);
        command.env("SLIPFORM_REMOTE", &self.remote);
        command.env("SLIPFORM_BY", "ann");
        command.envs(self.variables.iter().cloned());
        super::outcome(&mut command)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(Some(self.world.store()), None, true, Arc::new(Quiet)).unwrap()
    }

    /// Builds, and keeps reports as a green boot test on each board would.
    pub(crate) fn tested(&self) -> Digest {
        self.tested_in(&self.dir)
    }

    /// As [`Scene::tested`], of a project in another folder.
    pub(crate) fn tested_in(&self, dir: &Path) -> Digest {
        let built = self.world.build(dir, &[]);
        for report in self.reports_in(dir) {
            let image = report.image.parse().unwrap();
            self.settings().keep_report(&image, &report).unwrap();
        }
        built.image().parse().unwrap()
    }

    /// What a green boot test of what is built now says, a report for each board.
    pub(crate) fn reports(&self) -> Vec<BootReport> {
        self.reports_in(&self.dir)
    }

    fn reports_in(&self, dir: &Path) -> Vec<BootReport> {
        let settings = self.settings();
        let image = load(dir).unwrap();
        let lock = settings.lock(&image, &Locking::AsItIs).unwrap();
        let nowhere = Artifact {
            path: PathBuf::new(),
            format: OutputFormat::Raw,
            bytes: 0,
        };
        let report = |board: &String| {
            let cast = settings.cast(&image, &lock, board).unwrap();
            let plan = settings.plan(&image, &cast, &nowhere, Path::new(""));
            let names: Vec<String> = plan.checks.iter().map(|check| check.name.clone()).collect();
            let mut checks: Vec<&str> = slipform_qemu_tests::built_in_checks().collect();
            checks.extend(names.iter().map(String::as_str));
            let plan = plan.digest().parse().unwrap();
            testing::report(&cast.manifest, &plan, now(), &checks)
        };
        image.boards.iter().map(report).collect()
    }

    /// Another version of the page.
    pub(crate) fn change(&self, text: &str) {
        fs::write(self.dir.join("www/index.html"), text).unwrap();
    }

    pub(crate) fn publish(&self, more: &[&str]) -> serde_json::Value {
        let mut all = vec!["publish", "--json"];
        all.extend(more);
        self.run(&all).good().json()
    }

    /// A remote as the scene's variables say, asked in this process.
    pub(crate) fn remote_at(&self, uri: &str) -> Box<dyn Remote> {
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        // Real servers answer 500 while another publisher writes what is read: for longer
        // than a few milliseconds on a busy machine.
        let patient = RemoteOptions {
            retries: 8,
            ..quick()
        };
        remote_on(&Host::fake("/nowhere", &variables), uri, patient)
    }

    pub(crate) fn key(&self) -> KeyFile {
        let path = self.world.path("home/.config/slipform/key.pem");
        KeyFile::load(&path, || Passphrase::new("unused")).unwrap()
    }
}

/// Publishes in this process, with little patience, to `uri`.
pub(crate) fn publish_to(scene: &Scene, uri: &str, why: &str) -> Result<(), String> {
    let settings = scene.settings();
    let image = load(&scene.dir).unwrap();
    let key = scene.key();
    let trust = Trust::new(vec![key.public().clone()]);
    let ready = settings
        .attested(&image, &trust, Door::Gate, &key)
        .map_err(|e| e.to_string())?;
    let remote = remote(uri);
    let wanted = Wanted {
        channel: "candidate",
        kind: Kind::Publish,
        who: "ann",
        why,
        parameter: None,
    };
    settings
        .publish(&*remote, &ready, &wanted, &trust, &key)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// A remote that is asked in this process.
pub(crate) fn remote(uri: &str) -> Box<dyn Remote> {
    remote_on(&Host::real(), uri, quick())
}

fn remote_on(host: &Host, uri: &str, options: RemoteOptions) -> Box<dyn Remote> {
    let options = RemoteOptions {
        whole: 8 << 20,
        part: 8 << 20,
        ..options
    };
    open_with(uri, host, options).unwrap()
}

/// Copies a folder tree of plain files.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let _gone = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
