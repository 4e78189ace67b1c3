//! A build that dies by SIGKILL at any of the store's and the image's writes
//! leaves nothing torn, and the next one ends well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Built, Outcome, World, digest, files, outcome, write};

const BOTH: &[&str] = &["build", "--json", "--sum", "--format", "raw,qcow2"];

/// Where a build may be killed: the number of points, and files to look at.
struct Killing {
    world: World,
    lock: String,
    identity: Vec<String>,
}

impl Killing {
    fn new() -> Self {
        let world = World::new();
        let project = world.small_project("reference");
        let built = Built(world.run(&project, BOTH).good().json());
        Self {
            identity: built.identity(),
            lock: fs::read_to_string(project.join("slipform.lock")).unwrap(),
            world,
        }
    }

    /// A project and a store of their own, both new.
    fn scene(&self, name: &str) -> (PathBuf, PathBuf) {
        let project = self.world.small_project(name);
        write(&project.join("slipform.lock"), &self.lock);
        (project, self.world.path(&format!("store of {name}")))
    }

    fn run(
        &self,
        (project, store): &(PathBuf, PathBuf),
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Outcome {
        let mut command = self.world.command(project, args);
        outcome(
            command
                .env("SLIPFORM_STORE", store)
                .envs(env.iter().copied()),
        )
    }

    /// How many points a build passes.
    fn count(&self, scene: &(PathBuf, PathBuf)) -> u64 {
        let file = scene.0.join("points");
        let env = [("SLIPFORM_TEST_COUNT_IN", file.to_str().unwrap())];
        self.run(scene, BOTH, &env).good();
        fs::metadata(file).unwrap().len()
    }

    /// Killed at a point, nothing is torn, and the next run ends well.
    fn kill(&self, scene: &(PathBuf, PathBuf), at: u64, case: &str) {
        let text = at.to_string();
        let killed = self.run(scene, BOTH, &[("SLIPFORM_TEST_KILL_AT", &text)]);
        assert_eq!(killed.signal, Some(9), "{case}: {killed:?}");
        let known: Vec<&String> = self
            .identity
            .iter()
            .filter(|v| v.contains("sha256:"))
            .collect();
        for file in files(&scene.0.join("out")) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if !name.starts_with('.') {
                let found = digest(&file).to_string();
                assert!(
                    known.iter().any(|v| v.contains(&found)),
                    "{case}: {name} is torn"
                );
            }
        }
        for blob in files(&scene.1.join("blobs/sha256")) {
            let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(digest(&blob).hex(), name, "{case}");
        }
        let again = self.run(scene, BOTH, &[]).good();
        assert_eq!(Built(again.json()).identity(), self.identity, "{case}");
        assert_eq!(again.damage(), BTreeSet::new(), "{case}");
        let left: Vec<PathBuf> = files(&scene.0.join("out"));
        assert_eq!(left.len(), 2, "{case}: {left:?}");
        assert_eq!(
            files(&scene.1.join("tmp")),
            [""; 0].map(Path::new),
            "{case}"
        );
    }
}

#[test]
fn killed_at_twenty_points_of_a_first_build_the_next_one_ends_well() {
    let killing = Killing::new();
    let fetched = |name: &str| {
        let scene = killing.scene(name);
        // How a download comes in pieces differs from run to run; what follows does not.
        killing.run(&scene, &["fetch", "--quiet"], &[]).good();
        scene
    };
    let points = killing.count(&fetched("count"));
    assert!(points > 100, "only {points} points");
    for seed in 0..20 {
        // Spread over all, the first and the last among them.
        let at = seed * (points - 1) / 19;
        let name = format!("point {at} of {points}");
        killing.kill(&fetched(&name), at, &name);
    }
    for at in [0, 4, 11] {
        let name = format!("fetching, point {at}");
        killing.kill(&killing.scene(&name), at, &name);
    }
}

#[test]
fn killed_while_an_image_is_patched_the_next_one_ends_well() {
    let mut killing = Killing::new();
    let before = |killing: &Killing, name: &str| {
        let scene = killing.scene(name);
        write(&scene.0.join("www/index.html"), "x".repeat(3_000_000));
        killing.run(&scene, BOTH, &[]).good();
        killing.world.small_project(name);
        scene
    };
    // What lay there before is whole, too.
    let first = before(&killing, "before");
    let points = killing.count(&first);
    assert!(points > 40, "only {points} points");
    write(&first.0.join("www/index.html"), "x".repeat(3_000_000));
    let old = Built(killing.run(&first, BOTH, &[]).good().json()).identity();
    let wanted = killing.identity.clone();
    for seed in 0..5 {
        let at = seed * (points - 1) / 4;
        let name = format!("patching, point {at} of {points}");
        let scene = before(&killing, &name);
        // Either of both may be there.
        killing.identity = wanted.clone();
        let text = at.to_string();
        let killed = killing.run(&scene, BOTH, &[("SLIPFORM_TEST_KILL_AT", &text)]);
        assert_eq!(killed.signal, Some(9), "{name}: {killed:?}");
        for file in files(&scene.0.join("out")) {
            let hidden = file.file_name().unwrap().to_str().unwrap().starts_with('.');
            let found = digest(&file).to_string();
            let whole = old.iter().chain(&wanted).any(|v| v.contains(&found));
            assert!(hidden || whole, "{name}: {} is torn", file.display());
        }
        let again = killing.run(&scene, BOTH, &[]).good();
        assert_eq!(Built(again.json()).identity(), wanted, "{name}");
        assert_eq!(files(&scene.0.join("out")).len(), 2, "{name}");
    }
}
