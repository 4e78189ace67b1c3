//! A world with a project that is published, its key, and the place where it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipform::attest::{KeyFile, Passphrase, testing};
use slipform::base::Digest;
use slipform::base::progress::Quiet;
use slipform::output::{Artifact, OutputFormat};
use slipform::pipeline::{Locking, Settings, load};

use super::{Outcome, World, now, outcome};

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
        command.envs(self.variables.iter().cloned());
        command.env("SLIPFORM_BY", "ann");
        outcome(&mut command)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(Some(self.world.store()), None, true, Arc::new(Quiet)).unwrap()
    }

    /// Builds, and keeps a report as a green boot test would.
    pub(crate) fn tested(&self) -> Digest {
        self.tested_in(&self.dir)
    }

    /// As [`Scene::tested`], of a project in another folder.
    pub(crate) fn tested_in(&self, dir: &Path) -> Digest {
        self.world.build(dir, &[]);
        let settings = self.settings();
        let image = load(dir).unwrap();
        let lock = settings.lock(&image, &Locking::AsItIs).unwrap();
        let cast = settings.cast(&image, &lock, &image.boards[0]).unwrap();
        let nowhere = Artifact {
            path: PathBuf::new(),
            format: OutputFormat::Raw,
            bytes: 0,
        };
        let plan = settings.plan(&image, &cast, &nowhere, Path::new(""));
        let names: Vec<String> = plan.checks.iter().map(|check| check.name.clone()).collect();
        let mut checks: Vec<&str> = slipform_qemu_tests::built_in_checks().collect();
        checks.extend(names.iter().map(String::as_str));
        let plan = plan.digest().parse().unwrap();
        let report = testing::report(&cast.manifest, &plan, now(), &checks);
        settings.keep_report(&cast.manifest, &report).unwrap();
        cast.manifest
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

    pub(crate) fn key(&self) -> KeyFile {
        let path = self.world.path("home/.config/slipform/key.pem");
        KeyFile::load(&path, || Passphrase::new("unused")).unwrap()
    }
}
