//! One image over boards of two architectures: each has its part of the lock, its packages
//! and its init, and all of them are one release.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::scene::{Scene, copy_tree};
use crate::common::{Built, SMALL, World, edit, packages, skipped, write};
use crate::containers::{layout, page, project};
use slipform::base::{Arch, Digest};
use slipform::lock::testing::TestPackage;
use slipform::pipeline::init_binary;
use slipform::remote::testing::{RegistryRules, TestRegistry};
use slipform::store::Index;

const ONE: &str = "boards = [\"small\"]";
const BOTH: &str = "boards = [\"small\", \"small-arm\"]";
const ARM: &str = "boards = [\"small-arm\"]";

/// Whether this command can build for Arm; said if it cannot.
fn has_arm(test: &str) -> bool {
    let has = init_binary(Arch::Aarch64, false).is_some();
    if !has {
        skipped(
            test,
            "the compiler has no target aarch64-unknown-linux-musl",
        );
    }
    has
}

/// Arm's board for the smallest project, and its packages.
fn with_arm(world: &mut World, dir: &Path) {
    packages::fill_arm(&mut world.archive);
    world.publish();
    let board = slipform::board::shipped("qemu-aarch64").unwrap();
    let board = board
        .replace("name = \"qemu-aarch64\"", "name = \"small-arm\"")
        .replace("128MiB", "33MiB");
    write(&dir.join("boards/small-arm.toml"), board);
}

/// The smallest project, on a mirror that has Arm's packages, too; its boards are for PCs.
fn small(world: &mut World) -> PathBuf {
    let dir = world.small_project("small");
    with_arm(world, &dir);
    dir
}

fn set_boards(dir: &Path, boards: &str) {
    write(&dir.join("slipform.toml"), SMALL.replace(ONE, boards));
}

fn lock_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("slipform.lock")).unwrap()
}

/// The part of a lock for an architecture, from its first line to the next part's.
fn part<'a>(lock: &'a str, arch: &str) -> &'a str {
    let start = lock.find(&format!("\n[{arch}]\n")).unwrap();
    let rest = &lock[start + 1..];
    rest.find("\n[x86_64]\n").map_or(rest, |end| &rest[..end])
}

#[test]
fn it_is_built_published_pulled_and_rebuilt() {
    if !has_arm("one image over two architectures") {
        return;
    }
    let mut scene = Scene::new();
    let dir = scene.dir.clone();
    // Alone, to compare with.
    let pc = scene.world.build(&dir, &["--out", "alone"]);
    with_arm(&mut scene.world, &dir);
    set_boards(&dir, BOTH);
    let registry = TestRegistry::new(RegistryRules::default());
    scene.remote = registry.uri("small");

    let release = scene.tested();
    let built = scene.world.build(&dir, &["--locked", "--format", "raw"]);
    assert_eq!(built.image(), release.to_string());
    assert_eq!(built.artifact(0, "image"), pc.image());
    assert_eq!(built.artifact(1, "board"), "small-arm");

    // A reader of the index learns which image is for which machine.
    let index = Index::parse(&scene.settings().store().read(&release).unwrap()).unwrap();
    let platforms = index.manifests.iter().map(|image| {
        let platform = image.platform.as_ref().unwrap();
        assert_eq!(platform["os"], "linux");
        (image.digest.to_string(), platform["architecture"].clone())
    });
    let expected = [(0, "amd64"), (1, "arm64")]
        .map(|(n, arch)| (built.artifact(n, "image").to_owned(), arch.into()));
    assert_eq!(
        platforms.collect::<Vec<(String, serde_json::Value)>>(),
        expected
    );

    let published = scene.publish(&["--channel", "stable"]);
    assert_eq!(published["release"], release.to_string());
    for (number, board) in ["small", "small-arm"].into_iter().enumerate() {
        let store = scene.world.path(&format!("store of {board}"));
        let key = scene.world.path("home/.config/slipform/key.pub");
        let out = scene.world.path(board);
        let [store, key, out] = [&store, &key, &out].map(|path| path.to_str().unwrap());
        let args = ["--store", store, "pull", "stable", "--board", board];
        let more = ["--key", key, "--out", out, "--format", "raw", "--json"];
        let pulled = scene.run(&[&args[..], &more].concat()).good();
        assert!(
            pulled.stdout.contains(built.artifact(number, "image")),
            "{pulled:?}"
        );
    }
    // Each image again, with the init of its architecture, which came with the sources.
    let store = scene.world.path("another store");
    let store = store.to_str().unwrap();
    let key = scene.world.path("home/.config/slipform/key.pub");
    let key = key.to_str().unwrap();
    let args = [
        "--store",
        store,
        "verify",
        "stable",
        "--rebuild",
        "--key",
        key,
    ];
    let verified = scene.run(&args).good().stdout;
    for board in ["small", "small-arm"] {
        assert!(
            verified.contains(&format!("{board} is rebuilt as")),
            "{verified}"
        );
    }
    let laid_out = scene.world.path("laid out");
    scene
        .run(&["checkout", "stable", laid_out.to_str().unwrap()])
        .good();
    let again = scene.world.build(&laid_out, &["--locked"]);
    assert_eq!(again.image(), release.to_string());
    // What changed from one image to the other is found by their digests.
    let [a, b] = [0, 1].map(|number| built.artifact(number, "image"));
    let differ = scene.run(&["diff", a, b]);
    assert_eq!(differ.code, Some(1), "{differ:?}");
    assert!(differ.stdout.contains("linux-image"), "{differ:?}");
    scene.run(&["inspect", b]).good();
}

#[test]
fn an_architecture_comes_and_goes_and_the_rest_of_the_lock_stays() {
    if !has_arm("an architecture that comes and goes") {
        return;
    }
    let mut world = World::new();
    let dir = small(&mut world);
    world.run(&dir, &["lock", "--quiet"]).good();
    let alone = lock_of(&dir);
    assert!(alone.contains("\nversion = 1\n"), "{alone}");
    // The mirror moves on, and keeps for Arm what the lock has: that is taken.
    let newer = TestPackage::new("libhello1", "1.1-1");
    world.archive.add("trixie", newer.clone().depends("libc6"));
    world
        .archive
        .add("trixie", newer.arch("arm64").depends("libc6"));
    world.publish();
    set_boards(&dir, BOTH);
    world.run(&dir, &["build", "--quiet", "--locked"]).refused(
        2,
        &[
            "the lock is stale: it has no board 'small-arm'",
            "slipform lock",
        ],
    );
    let said = world.run(&dir, &["lock", "--json"]).good().json();
    let changes: Vec<&str> = said["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    assert!(
        changes.contains(&"aarch64: + libhello1 1.0-1 (wished)"),
        "{changes:?}"
    );
    assert!(
        changes.iter().all(|line| line.starts_with("aarch64: + ")),
        "{changes:?}"
    );
    let both = lock_of(&dir);
    assert!(both.contains("\nversion = 2\n"), "{both}");
    let init = |arch| Digest::of(init_binary(arch, false).unwrap()).to_string();
    assert!(part(&both, "aarch64").contains(&init(Arch::Aarch64)));
    assert!(part(&both, "x86_64").contains(&init(Arch::X86_64)));
    assert!(part(&both, "aarch64").contains("qemu-system-arm"));

    // Said once, although both have it; then moved for both.
    let newer = world.run(&dir, &["lock", "--check"]);
    let lines = newer
        .stdout
        .lines()
        .filter(|line| line.starts_with("libhello1 "));
    assert_eq!(lines.count(), 1, "{newer:?}");
    let moved = world
        .run(&dir, &["lock", "--json", "--update", "libhello1"])
        .good()
        .json();
    assert_eq!(
        moved["changes"],
        serde_json::json!([
            "x86_64: ~ libhello1 1.0-1 -> 1.1-1",
            "aarch64: ~ libhello1 1.0-1 -> 1.1-1"
        ])
    );
    // What only one has moves there; what none has is a slip of the pen.
    let updated = |package| world.run(&dir, &["lock", "--quiet", "--update", package]);
    updated("qemu-efi-aarch64").good();
    updated("linux-image-cloud-arm64").good();
    updated("libhelo1").refused(2, &["libhelo1", "libhello1"]);
    // All of it is in the store: without a mirror it builds.
    world.run(&dir, &["fetch", "--quiet"]).good();
    let built = world.run_cut_off(&dir, &["--offline", "build", "--locked", "--json"]);
    assert_eq!(Built(built.good().json()).artifact(1, "board"), "small-arm");

    let both = lock_of(&dir);
    set_boards(&dir, ONE);
    world
        .run(&dir, &["build", "--quiet", "--locked"])
        .refused(2, &["it has a board 'small-arm' that is no longer there"]);
    world
        .run_cut_off(&dir, &["--offline", "lock", "--quiet"])
        .good();
    let gone = lock_of(&dir);
    assert!(gone.contains("\nversion = 1\n"), "{gone}");
    let part = part(&both, "x86_64").replace("x86_64.", "");
    let part = part.strip_prefix("[x86_64]\n").unwrap();
    assert!(gone.ends_with(part), "{gone}\n\n{part}");
}

#[test]
fn what_an_architecture_does_not_have_is_one_line_that_names_it() {
    if !has_arm("an architecture without a package") {
        return;
    }
    let mut world = World::new();
    let dir = small(&mut world);
    world.run(&dir, &["lock", "--quiet"]).good();
    let alone = lock_of(&dir);
    set_boards(&dir, BOTH);
    edit(
        &dir.join("slipform.toml"),
        "libhello1",
        "webfs\", \"libhello1",
    );
    let refused = ["layer 'app' for aarch64: ", "webfs"];
    world.run(&dir, &["lock", "--quiet"]).refused(2, &refused);
    world.run(&dir, &["build", "--quiet"]).refused(2, &refused);
    assert_eq!(lock_of(&dir), alone, "nothing half-written");
    // A container without an image for it.
    let contained = project(&world, "app");
    for (path, bytes) in layout(&page(&contained), "amd64") {
        write(&contained.join("app").join(path), bytes);
    }
    edit(&contained.join("slipform.toml"), ONE, BOTH);
    world.run(&contained, &["lock", "--quiet"]).refused(
        2,
        &["container app: it has no image for linux/arm64 (it has: linux/amd64, linux/s390x); "],
    );
    // A mirror without the architecture at all.
    let world = World::new();
    let bare = world.small_project("bare");
    fs::copy(
        dir.join("boards/small-arm.toml"),
        bare.join("boards/small-arm.toml"),
    )
    .unwrap();
    set_boards(&bare, BOTH);
    world
        .run(&bare, &["lock", "--quiet"])
        .refused(1, &["trixie has no main/binary-arm64/Packages"]);
    assert!(!bare.join("slipform.lock").exists());
    // A lock of a slipform that knows more.
    edit(
        &dir.join("slipform.lock"),
        "\nversion = 1\n",
        "\nversion = 3\n",
    );
    world
        .run(&dir, &["build", "--quiet", "--locked"])
        .refused(2, &["slipform.lock", "version 3"]);
}

/// A base for `boards`, whose files it takes from the scene's project.
fn write_base(scene: &Scene, boards: &str) -> PathBuf {
    let dir = scene.world.path("base");
    copy_tree(&scene.dir.join("boards"), &dir.join("boards"));
    let layer = "packages = [\"libc6\"]\n";
    write(
        &dir.join("layer.toml"),
        format!("version = \"1\"\n{boards}\n{layer}"),
    );
    dir
}

/// Tests a base for `boards` and publishes it; its release.
fn publish_base(scene: &Scene, boards: &str, channel: &str) -> Digest {
    let dir = write_base(scene, boards);
    let release = scene.tested_in(&dir);
    scene
        .run(&["publish", dir.to_str().unwrap(), "--channel", channel])
        .good();
    release
}

/// The smallest project on a base.
fn on_base(scene: &Scene, name: &str, boards: &str, base: &str) -> PathBuf {
    let dir = scene.world.path(name);
    copy_tree(&scene.dir, &dir);
    let spec = SMALL
        .replace(ONE, boards)
        .replace("without = [\"libc6\"]\n", "")
        .replacen(
            "[[layer]]",
            &format!("[[layer]]\nuse = \"{base}\"\n\n[[layer]]"),
            1,
        );
    write(&dir.join("slipform.toml"), spec);
    dir
}

#[test]
fn a_base_for_both_gives_each_its_own_and_one_for_another_is_refused() {
    if !has_arm("published bases over two architectures") {
        return;
    }
    let mut scene = Scene::new();
    let dir = scene.dir.clone();
    with_arm(&mut scene.world, &dir);
    let second = fs::read_to_string(dir.join("boards/small.toml")).unwrap();
    let second = second.replace("name = \"small\"", "name = \"small-two\"");
    write(&dir.join("boards/small-two.toml"), second);
    let registry = TestRegistry::new(RegistryRules::default());
    scene.remote = registry.uri("team/base");
    let both = publish_base(&scene, BOTH, "both");
    let pc = publish_base(&scene, ONE, "pc").to_string();
    let arm = publish_base(&scene, ARM, "arm").to_string();
    publish_base(&scene, "boards = [\"small\", \"small-two\"]", "pcs");
    let written = |release: &str| format!("{}{release}", scene.remote);
    let root = |image: &str| {
        let info = scene.run(&["inspect", image, "--json"]).good().json();
        let parts = info["partitions"].as_array().unwrap().iter();
        let base = parts.filter(|part| part["name"] == "base");
        let roots = base.map(|part| part["layer"]["root_hash"].to_string());
        roots.collect::<Vec<_>>()
    };

    // Each part of the lock has its own image of the release, by channel and by digest.
    for (name, release) in [("one", ":both".to_owned()), ("two", format!("@{both}"))] {
        let app = on_base(&scene, name, BOTH, &written(&release));
        let built = scene.world.build(&app, &[]);
        let lock = lock_of(&app);
        let own = |arch, image: &str| part(&lock, arch).contains(&format!("image = \"{image}\""));
        assert!(own("x86_64", &pc) && !own("x86_64", &arm), "{lock}");
        assert!(own("aarch64", &arm) && !own("aarch64", &pc), "{lock}");
        for (number, base) in [&pc, &arm].into_iter().enumerate() {
            assert_eq!(root(built.artifact(number, "image")), root(base));
        }
        assert_ne!(root(&pc), root(&arm));
        let check = scene.world.run(&app, &["lock", "--check"]).good();
        assert!(check.stdout.contains("newest"), "{check:?}");
        let again = ["--offline", "build", "--locked"];
        scene.world.run_cut_off(&app, &again).good();
    }
    for (name, boards, release) in [
        ("pc", ONE, ":pc".to_owned()),
        ("pc-of-two", ONE, ":pcs".to_owned()),
        ("pc-of-both", ONE, ":both".to_owned()),
        ("arm", ARM, ":arm".to_owned()),
        ("arm-by-digest", ARM, format!("@{arm}")),
    ] {
        let app = on_base(&scene, name, boards, &written(&release));
        scene.world.run(&app, &["lock", "--quiet"]).good();
        assert!(lock_of(&app).contains("\nversion = 1\n"));
    }

    let by_digest = format!("@{pc}");
    for (boards, release, has, wants) in [
        (BOTH, ":pc", "x86_64", "aarch64"),
        (ARM, ":pcs", "x86_64", "aarch64"),
        (ARM, &by_digest, "x86_64", "aarch64"),
        (ONE, ":arm", "aarch64", "x86_64"),
    ] {
        let app = on_base(&scene, "other", boards, &written(release));
        let told = format!("names no base: it is for {has}, and boards are {wants}; ");
        scene
            .world
            .run(&app, &["lock", "--quiet"])
            .refused(2, &[&written(release), &told, "`boards`"]);
        assert!(!app.join("slipform.lock").exists());
    }

    // In an image the folder is a layer as any other; boards stand at the image's top.
    let app = on_base(&scene, "by-folder", ONE, "mine");
    copy_tree(&write_base(&scene, ARM), &app.join("mine"));
    scene.world.run(&app, &["lock", "--quiet"]).good();
    edit(
        &app.join("slipform.toml"),
        "name = \"app\"",
        "name = \"app\"\nboards = [\"small\"]",
    );
    scene
        .world
        .run(&app, &["lock", "--quiet"])
        .refused(2, &["slipform.toml:", "'boards' is for a layer.toml"]);
}
