//! A base is a product: published like an image, and images of others are built on it,
//! on machines that have never seen what it was built from.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::packages::hello_server;
use crate::common::scene::Scene;
use crate::common::{Outcome, cut_off, edit, write};
use slipform::base::Digest;
use slipform::lock::testing::TestPackage;
use slipform::remote::testing::{RegistryRules, TestRegistry};

/// A base with packages, a file and a user of its own.
const LAYER: &str = r#"version = "2026.1"
packages = ["libc6", "ca-certificates", "tzdata"]
without = ["debconf", "openssl"]
files = [{ from = "motd", to = "/etc/motd", owner = "keeper:keeper" }]
users = [{ name = "keeper", uid = 1500 }]
"#;

/// A team's base in a scene's world, published to `remote`.
struct Base {
    scene: Scene,
    registry: TestRegistry,
    dir: PathBuf,
}

impl Base {
    fn new() -> Self {
        let mut scene = Scene::new();
        let registry = TestRegistry::new(RegistryRules::default());
        scene.remote = registry.uri("team/base");
        let dir = scene.world.path("base");
        write(&dir.join("layer.toml"), LAYER);
        write(&dir.join("motd"), "made on a base\n");
        Self {
            scene,
            registry,
            dir,
        }
    }

    /// Tests it and lets `stable` name it; its image.
    fn publish(&self) -> Digest {
        let image = self.scene.tested_in(&self.dir);
        self.publish_with(&["--channel", "stable"]).good();
        image
    }

    fn publish_with(&self, args: &[&str]) -> Outcome {
        let mut all = vec!["publish", self.dir.to_str().unwrap()];
        all.extend(args);
        self.scene.run(&all)
    }

    /// A project on the base.
    fn app(&self, name: &str, release: &str) -> PathBuf {
        let spec = crate::common::SPEC.replace(
            "use = \"base\"",
            &format!("use = \"{}{release}\"", self.scene.remote),
        );
        let spec = spec.replace("name = \"fixture\"", &format!("name = \"{name}\""));
        self.scene.world.project_with(name, &spec)
    }

    fn public(&self) -> String {
        let key = self.scene.world.path("home/.config/slipform/key.pub");
        key.to_str().unwrap().to_owned()
    }

    /// Another machine and another user: an empty store, nothing of the team's but its key.
    fn elsewhere(&self, machine: &str, dir: &Path, args: &[&str], mirror: bool) -> Outcome {
        let world = &self.scene.world;
        let mut all = vec!["--quiet"];
        all.extend(args);
        let mut command = world.command(dir, &all);
        fs::create_dir_all(world.path(&format!("{machine}-home"))).unwrap();
        command
            .env("HOME", world.path(&format!("{machine}-home")))
            .env("SLIPFORM_STORE", world.path(&format!("{machine}-store")))
            .env("SLIPFORM_TRUSTED_KEYS", self.public())
            .env("SLIPFORM_REMOTE", &self.scene.remote);
        if !mirror {
            cut_off(&mut command);
        }
        crate::common::outcome(&mut command)
    }
}

/// Name and root hash of each layer's partition of a disk.
fn layers(built: &serde_json::Value, outcome: &dyn Fn(&[&str]) -> Outcome) -> serde_json::Value {
    let path = built["artifacts"][0]["path"].as_str().unwrap();
    outcome(&["inspect", path, "--json"]).good().json()
}

fn root_of(inspected: &serde_json::Value, layer: &str) -> String {
    let text = inspected.to_string();
    let parts = inspected["partitions"]
        .as_array()
        .unwrap_or_else(|| panic!("{text}"));
    let part = parts
        .iter()
        .find(|part| part["name"] == layer)
        .unwrap_or_else(|| panic!("{layer} in {text}"));
    part["layer"]["root_hash"].to_string()
}

#[test]
fn images_on_a_published_base_share_its_bytes_and_need_nothing_else_of_it() {
    let base = Base::new();
    let image = base.publish();
    let one = base.app("one", ":stable");
    let two = base.app("two", &format!("@{image}"));
    let built_one = base
        .elsewhere("runner", &one, &["build", "--json"], true)
        .good()
        .json();
    let built_two = base
        .elsewhere("laptop", &two, &["build", "--json"], true)
        .good()
        .json();
    let inspect = |args: &[&str]| base.elsewhere("runner", &one, args, true);
    let (first, second) = (layers(&built_one, &inspect), layers(&built_two, &inspect));
    assert_eq!(root_of(&first, "base"), root_of(&second, "base"));
    // The very layer that was tested: the base's own image has it, too.
    let own = base.scene.world.build(&base.dir, &[]);
    let own = layers(&own.0, &inspect);
    assert_eq!(root_of(&first, "base"), root_of(&own, "base"));

    // The app's packages were resolved against the base's, which stand in its lock, once.
    let lock = fs::read_to_string(one.join("slipform.lock")).unwrap();
    assert_eq!(lock.matches("name = \"libc6\"").count(), 2, "{lock}"); // base, emulator
    assert!(lock.contains(&format!("image = \"{image}\"")), "{lock}");
    assert!(lock.contains("name = \"libhello1\""), "{lock}");

    // Everything is in the store now: neither mirror nor registry are asked.
    base.elsewhere("runner", &one, &["fetch"], true).good();
    let again = base
        .elsewhere(
            "runner",
            &one,
            &["--offline", "build", "--locked", "--json"],
            false,
        )
        .good()
        .json();
    assert_eq!(again["image"], built_one["image"]);
    base.elsewhere("runner", &one, &["gc"], true).good();
    let again = base
        .elsewhere(
            "runner",
            &one,
            &["--offline", "build", "--locked", "--json"],
            false,
        )
        .good()
        .json();
    assert_eq!(again["image"], built_one["image"]);
    // The team's own store keeps the base, too.
    let kept = format!("file://{}", base.scene.world.path("kept").display());
    base.elsewhere("runner", &one, &["fetch", "--to", &kept], true)
        .good();
    let args = [
        "--offline",
        "--sources",
        &kept,
        "build",
        "--locked",
        "--json",
    ];
    let again = base.elsewhere("cellar", &one, &args, false).good().json();
    assert_eq!(again["image"], built_one["image"]);
    base.elsewhere("nobody", &one, &["--offline", "build", "--locked"], false)
        .refused(
            1,
            &["the base ", "is not in the store", "without --offline"],
        );
    assert_eq!(base.registry.complaints(), Vec::<String>::new());
}

#[test]
fn a_channel_is_pinned_until_the_lock_is_updated() {
    let base = Base::new();
    let first = base.publish();
    let app = base.app("app", ":stable");
    base.elsewhere("runner", &app, &["lock"], true).good();
    let check = base
        .elsewhere("runner", &app, &["lock", "--check"], true)
        .good();
    assert!(check.stdout.contains("newest"), "{check:?}");
    write(&base.dir.join("motd"), "made on a newer base\n");
    edit(&base.dir.join("layer.toml"), "2026.1", "2026.2");
    let second = base.publish();
    assert_ne!(first, second);

    let locked = || fs::read_to_string(app.join("slipform.lock")).unwrap();
    base.elsewhere("runner", &app, &["build"], true).good();
    assert!(
        locked().contains(&first.to_string()),
        "a build moves nothing"
    );
    let check = base.elsewhere("runner", &app, &["lock", "--check"], true);
    assert_eq!(check.code, Some(1), "{check:?}");
    let short = |digest: &Digest| digest.short();
    let told = format!(
        "base 2026.1 ({}): there is 2026.2 ({}) at {}:stable",
        short(&first),
        short(&second),
        base.scene.remote
    );
    assert!(check.stdout.contains(&told), "{check:?}");
    let moved = base
        .elsewhere("runner", &app, &["lock", "--update", "base"], true)
        .good();
    assert!(
        moved
            .stdout
            .contains(&format!("2026.2 ({})", short(&second))),
        "{moved:?}"
    );
    assert!(locked().contains(&second.to_string()));
    // Another `use` makes the lock stale, and says so.
    let text = fs::read_to_string(app.join("slipform.toml")).unwrap();
    write(
        &app.join("slipform.toml"),
        text.replace(":stable", &format!("@{first}")),
    );
    base.elsewhere("runner", &app, &["build", "--locked"], true)
        .refused(2, &["layer 'base' uses", "not", ":stable", "slipform lock"]);
}

#[test]
fn a_base_goes_through_the_gate() {
    let base = Base::new();
    base.scene.world.build(&base.dir, &[]);
    base.publish_with(&[])
        .refused(1, &["is not to be published", "nothing is attested"]);
    base.publish_with(&[
        "--channel",
        "stable",
        "--force",
        "--reason",
        "no machine to test on",
    ])
    .good();
    let app = base.app("app", ":stable");
    let world = &base.scene.world;
    let told = world.run(&app, &["lock"]).good();
    assert!(
        told.stderr.contains("it was forced: no machine to test on"),
        "{told:?}"
    );
    let lock = fs::read_to_string(app.join("slipform.lock")).unwrap();
    assert!(
        lock.contains("forced = \"no machine to test on\""),
        "{lock}"
    );
    // An image is no base.
    base.scene.tested();
    let small = format!("file://{}", world.path("small-releases").display());
    base.scene
        .run(&["publish", "--to", &small, "--channel", "stable"])
        .good();
    let spec = crate::common::SPEC.replace("use = \"base\"", &format!("use = \"{small}:stable\""));
    let other = world.project_with("other", &spec);
    world
        .run(&other, &["--quiet", "lock"])
        .refused(2, &["names no base", "layer.toml"]);
}

#[test]
fn a_base_that_was_tampered_with_or_revoked_or_signed_by_a_stranger_is_refused() {
    let base = Base::new();
    let image = base.publish();
    let app = base.app("app", ":stable");
    base.elsewhere("runner", &app, &["lock"], true).good();
    // A stranger's key.
    let stranger = base.scene.world.path("stranger.pem");
    let stranger = stranger.to_str().unwrap();
    base.scene
        .run(&["key", "new", "--no-passphrase", "--out", stranger])
        .good();
    let text = fs::read_to_string(app.join("slipform.toml")).unwrap();
    fs::copy(stranger.replace(".pem", ".pub"), app.join("their.pub")).unwrap();
    write(
        &app.join("slipform.toml"),
        text.replace(":stable\"", ":stable\"\nkeys = [\"their.pub\"]"),
    );
    base.elsewhere("other", &app, &["build", "--locked"], true)
        .refused(1, &["channel 'stable' is broken at record"]);
    write(&app.join("slipform.toml"), &text);
    // One byte of the layer.
    let store = slipform::store::Store::open(base.scene.world.store()).unwrap();
    let manifest = store.manifest(&image).unwrap();
    let title = "org.opencontainers.image.title";
    let is_layer = |part: &&slipform::store::Descriptor| {
        part.annotations.get(title).is_some_and(|t| t == "base") && part.size > 1 << 16
    };
    let layer = manifest.layers.iter().find(is_layer).unwrap().digest;
    base.registry.corrupt(&layer);
    base.elsewhere("other", &app, &["build", "--locked"], true)
        .refused(1, &["is damaged or was changed", "it was refused"]);
    base.scene
        .run(&["revoke", "stable", "--reason", "holds a bad certificate"])
        .good();
    base.elsewhere("other", &app, &["build", "--locked"], true)
        .refused(1, &["was revoked on", "holds a bad certificate"]);
}

#[test]
fn an_image_on_a_base_is_published_rebuilt_and_branched_from() {
    let base = Base::new();
    base.publish();
    let app = base.app("app", ":stable");
    let image = base.scene.tested_in(&app);
    let to = format!("file://{}", base.scene.world.path("apps").display());
    let app = app.to_str().unwrap();
    base.scene.run(&["publish", app, "--to", &to]).good();
    let verified = base
        .scene
        .run(&["verify", "candidate", "--rebuild", "--remote", &to])
        .good();
    assert!(
        verified
            .stdout
            .contains(&format!("rebuilt as {image}, bit for bit")),
        "{verified:?}"
    );
    // On a machine that has nothing, with the base from where it was published.
    let verified = base
        .elsewhere(
            "judge",
            Path::new(app),
            &["verify", "candidate", "--rebuild", "--remote", &to],
            true,
        )
        .good();
    assert!(verified.stdout.contains("bit for bit"), "{verified:?}");
    // And the base itself, which is an image like others.
    let verified = base.scene.run(&["verify", "stable", "--rebuild"]).good();
    assert!(verified.stdout.contains("bit for bit"), "{verified:?}");
    let branch = base.scene.world.path("branch");
    base.scene
        .run(&["checkout", "stable", branch.to_str().unwrap()])
        .good();
    assert_eq!(
        fs::read_to_string(branch.join("base/layer.toml")).unwrap(),
        LAYER
    );
}

#[test]
fn what_does_not_fit_the_base_is_told() {
    let mut base = Base::new();
    base.publish();
    let app = base.app("app", ":stable");
    // A user with the number that the base's files belong to.
    edit(&app.join("slipform.toml"), "uid = 1000", "uid = 1500");
    base.elsewhere("runner", &app, &["build"], true)
        .refused(2, &["uid 1500", "keeper"]);
    edit(&app.join("slipform.toml"), "uid = 1500", "uid = 1000");
    // A package that wants a newer libc than the base has: no second copy sneaks in.
    let archive = &mut base.scene.world.archive;
    archive.add("trixie", TestPackage::new("libc6", "2.50-1"));
    archive.add(
        "trixie",
        hello_server("2.0-1").field("Depends", "libc6 (>= 2.50), libhello1"),
    );
    base.scene.world.publish();
    base.elsewhere("runner", &app, &["lock", "--update"], true)
        .refused(2, &["layer 'base' has libc6 2.41-1", "2.50"]);
    for (written, told) in [
        ("oci://host/base", "does not say which release"),
        ("ftp://host/base:stable", "a published base lies at oci://"),
    ] {
        let spec = crate::common::SPEC.replace("use = \"base\"", &format!("use = \"{written}\""));
        let dir = base.scene.world.project_with("wrong", &spec);
        base.elsewhere("runner", &dir, &["lock"], true)
            .refused(2, &["slipform.toml:4: ", told]);
    }
    let spec = crate::common::SPEC.replace(
        "[[service]]",
        &format!(
            "[[layer]]\nuse = \"{}:stable\"\n\n[[service]]",
            base.scene.remote
        ),
    );
    let dir = base.scene.world.project_with(
        "upside-down",
        &spec.replace("use = \"base\"", "use = \"busybox\""),
    );
    base.elsewhere("runner", &dir, &["lock"], true)
        .refused(2, &["must be the first [[layer]]"]);
}
