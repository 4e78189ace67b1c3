//! The command as people and pipelines use it: verbs, what they print, exit codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{World, digest, edit, flip, outcome, write};
use slipform::base::Digest;
use slipform::lock::testing::TestPackage;

const VERBS: &[&str] = &[
    "new",
    "lock",
    "fetch",
    "build",
    "run",
    "ps",
    "logs",
    "test",
    "inspect",
    "diff",
    "export",
    "flash",
    "key",
    "report",
    "publish",
    "log",
    "channels",
    "promote",
    "rollback",
    "revoke",
    "pull",
    "verify",
    "checkout",
    "gc",
    "schema",
    "completions",
];

fn plain(args: &[&str]) -> crate::common::Outcome {
    outcome(Command::new(env!("CARGO_BIN_EXE_slipform")).args(args))
}

#[test]
fn every_verb_has_help_with_an_example() {
    let all = plain(&["--help"]).good().stdout;
    assert!(all.contains("Example: slipform new"), "{all}");
    assert!(all.contains("Exit codes: 0 good, 1"), "{all}");
    for verb in VERBS {
        assert!(all.contains(&format!("\n  {verb} ")), "{verb}: {all}");
        let help = plain(&[verb, "--help"]).good().stdout;
        let example = help.find("Example").map(|at| &help[at..]);
        assert!(
            example.is_some_and(|text| text.contains(&format!("slipform {verb}"))),
            "{verb}: {help}"
        );
    }
    // What the help lists is what is tested here.
    let listed = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed: BTreeSet<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert_eq!(listed, VERBS.iter().copied().collect());
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    for args in [&["bulid"][..], &["build", "--formt", "raw"], &[]] {
        assert_eq!(plain(args).code, Some(2), "{args:?}");
    }
    let message = plain(&["build", "--format", "vdi"]);
    assert_eq!(message.code, Some(2));
    assert!(
        message
            .stderr
            .contains("'vdi' is no image format; use raw, raw.zst, qcow2"),
        "{}",
        message.stderr
    );
    assert!(plain(&["bulid"]).stderr.contains("'build'"));
}

#[test]
fn completions_for_the_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = plain(&["completions", shell]).good().stdout;
        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
        assert!(script.contains("explain"), "{shell}");
    }
    assert_eq!(plain(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn schemas_describe_every_key() {
    for (kind, keys) in [
        ("image", &["name", "layer", "service", "scratch", "apt"][..]),
        ("layer", &["packages", "files", "remove", "cargo"]),
        (
            "board",
            &["kernel", "stub", "modules", "esp-size", "sector-size"],
        ),
    ] {
        let schema = plain(&["schema", kind]).good().json();
        let properties = schema["properties"].as_object().unwrap();
        for key in keys {
            assert!(properties.contains_key(*key), "{kind}: {key}");
        }
        for (key, property) in properties {
            let text = property["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{kind}: {key} says not what it means");
        }
        assert_eq!(schema["additionalProperties"], false, "{kind}");
    }
    assert_eq!(plain(&["schema", "lock"]).code, Some(2));
}

#[test]
fn build_prints_one_object_that_names_image_and_artifacts() {
    let world = World::new();
    let project = world.project("app");
    let args = ["build", "--json", "--sum", "--format", "raw,qcow2"];
    let json = world.run(&project, &args).good().json();
    let digest = |value: &serde_json::Value| value.as_str().unwrap().parse::<Digest>().unwrap();
    let image = digest(&json["image"]);
    let artifacts = json["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 2);
    for (artifact, format) in artifacts.iter().zip(["raw", "qcow2"]) {
        assert_eq!(artifact["board"], "qemu-x86_64");
        assert_eq!(artifact["format"], format);
        assert_eq!(digest(&artifact["image"]), image);
        assert_eq!(artifact["disk"], artifacts[0]["disk"]);
        let path = PathBuf::from(artifact["path"].as_str().unwrap());
        assert_eq!(
            path.file_name().unwrap().to_str().unwrap(),
            format!("fixture-1.0.0-qemu-x86_64.{format}")
        );
        let bytes = fs::read(&path).unwrap();
        assert_eq!(artifact["bytes"], bytes.len());
        assert_eq!(digest(&artifact["sha256"]), Digest::of(&bytes));
    }
    // Without --sum and --explain there is neither.
    let json = world.run(&project, &["build", "--json"]).good().json();
    assert!(json["artifacts"][0].get("sha256").is_none());
    assert!(json.get("steps").is_none());
    // And for people.
    let text = world.run(&project, &["build", "--quiet"]).good();
    assert!(text.stdout.starts_with(&format!("image {image}\n")));
    assert_eq!(text.stderr, "");
}

#[test]
fn file_folder_and_current_folder_name_the_same_project() {
    let world = World::new();
    let project = world.project("app");
    let image = world.build(&project, &[]).image().to_owned();
    let around = world.path(".");
    for name in ["app", "./app/", "app/slipform.toml"] {
        let built = world.build(&around, &[name]);
        assert_eq!(built.image(), image, "{name}");
    }
    world
        .run(&around, &["build", "--quiet", "nowhere"])
        .refused(
            2,
            &["nowhere/slipform.toml", "no such file", "slipform new"],
        );
    world
        .run(&project, &["build", "--quiet", "--board", "aws"])
        .refused(2, &["'aws'", "qemu-x86_64", "`boards`"]);
}

#[test]
fn inspect_says_the_same_of_raw_qcow2_and_store() {
    let world = World::new();
    let project = world.project("app");
    let built = world.build(&project, &["--format", "raw,qcow2"]);
    let inspect = |what: &str| {
        world
            .run(&project, &["inspect", "--json", what])
            .good()
            .json()
    };
    let of_raw = inspect(built.artifact(0, "path"));
    assert_eq!(of_raw["machine"]["name"], "fixture");
    assert_eq!(of_raw["partitions"].as_array().unwrap().len(), 5);
    assert_eq!(of_raw["problems"].as_array().map(Vec::len), Some(0));
    for other in [
        built.artifact(1, "path"),
        built.image(),
        built.artifact(0, "disk"),
    ] {
        assert_eq!(inspect(other), of_raw, "{other}");
    }
    let text = world
        .run(&project, &["inspect", built.image()])
        .good()
        .stdout;
    for part in [
        "image fixture 1.0.0 for qemu-x86_64",
        "root hash",
        "/usr/bin/hello-server --port 8080",
        crate::common::packages::KERNEL,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn export_gives_the_same_file_from_the_store_and_from_any_other_format() {
    let world = World::new();
    let project = world.project("app");
    let built = world.build(&project, &["--format", "raw,vmdk-stream"]);
    let export = |what: &str, args: &[&str]| {
        let all = [&["export", "--json", what, "--format"], args].concat();
        world.run(&project, &all)
    };
    let path = built.artifact(1, "path");
    assert!(
        path.ends_with("fixture-1.0.0-qemu-x86_64.stream.vmdk"),
        "{path}"
    );
    let named = export(built.image(), &["vhd"]).good().json();
    assert_eq!(named["path"], "fixture-1.0.0-qemu-x86_64.vhd");
    let sum = named["sha256"].as_str().unwrap();
    assert_eq!(
        digest(&project.join("fixture-1.0.0-qemu-x86_64.vhd")).to_string(),
        sum
    );
    let iso = export(built.image(), &["iso"]).good().json();
    assert_eq!(iso["path"], "fixture-1.0.0-qemu-x86_64.iso");
    let iso = iso["path"].as_str().unwrap();
    for from in [path, built.artifact(0, "path"), iso] {
        let other = export(from, &["vhd", "--output", "other.vhd"])
            .good()
            .json();
        assert_eq!(
            (&other["sha256"], &other["format"]),
            (&named["sha256"], &"vhd".into())
        );
    }
    export("other.vhd", &["raw", "-o", "other.vhd"]).refused(2, &["over itself", "--output"]);
    export(built.image(), &["gcp-tar", "-o", "x"]).refused(2, &["whole GiB", "disk-multiple"]);
    assert!(!project.join("x").exists());
    let info = world
        .run(&project, &["inspect", "--json", "other.vhd"])
        .good()
        .json();
    assert_eq!(info["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn flash_writes_onto_a_file_that_is_meant_and_onto_nothing_else() {
    let world = World::new();
    let project = world.project("app");
    let built = world.build(&project, &["--format", "raw,vhdx"]);
    let raw = fs::read(built.artifact(0, "path")).unwrap();
    let target = world.path("stick");
    write(&target, vec![0xee; raw.len() + 4096]);
    let stick = target.to_str().unwrap();
    let flash = |args: &[&str]| world.run(&project, &[&["flash", "--json"], args].concat());
    flash(&[built.image(), stick, "--yes"]).refused(2, &["regular file", "--file"]);
    flash(&[built.image(), stick, "--file"]).refused(2, &["no terminal", "--yes"]);
    let small = world.path("small");
    write(&small, [0xee; 4096]);
    let small = small.to_str().unwrap();
    flash(&[built.image(), small, "--file", "--yes"]).refused(2, &["take a larger disk"]);
    assert!(fs::read(&target).unwrap().iter().all(|byte| *byte == 0xee));
    for image in [built.image(), built.artifact(1, "path")] {
        write(&target, vec![0xee; raw.len() + 4096]);
        let told = flash(&[image, stick, "--file", "--yes"]).good().json();
        assert_eq!(told["bytes"], raw.len());
        assert_eq!(told["verified"], true);
        let found = fs::read(&target).unwrap();
        assert!(found[..raw.len()] == raw, "{image}");
        assert!(found[raw.len()..].iter().all(|byte| *byte == 0xee));
    }
}

#[test]
fn report_merge_refuses_what_is_no_report() {
    let world = World::new();
    let here = world.path(".");
    let run = |what: &str| world.run(&here, &["report", "merge", what, "--out", "whole"]);
    run("nothing").refused(2, &["nothing"]);
    write(&world.path("empty/other"), "");
    run("empty").refused(2, &["empty", "no report.json", "--report"]);
    write(&world.path("old/report.json"), "{\"schema\":1}");
    run("old").refused(2, &["old/report.json", "no report of this slipform"]);
    assert!(!world.path("whole").exists());
    let shard = world.run(&here, &["test", "--shard", "3/2"]);
    assert_eq!(shard.code, Some(2));
    let stderr = &shard.stderr;
    assert!(stderr.contains("'3/2' is no part; write K/N"), "{stderr}");
}

#[test]
fn a_sweep_refuses_what_makes_another_boot_of_it() {
    let world = World::new();
    let here = world.path(".");
    let (sweep, direct) = (["--tamper"], ["--direct"]);
    let run =
        |sweep: &[&str], other: &[&str]| world.run(&here, &[&["test"], sweep, other].concat());
    run(&sweep, &direct).refused(2, &["a sweep boots by firmware", "leave --direct out"]);
    for other in [["--repeat", "2"], ["--shard", "1/2"], ["--image", "x.raw"]] {
        run(&["--power-cut", "1"], &other)
            .refused(2, &["a sweep", &format!("leave {} out", other[0])]);
    }
    run(&["--condition", "dry-sea"], &[]).refused(2, &["dry-sea", "low-memory"]);
}

#[test]
fn inspect_refuses_what_is_no_image() {
    let world = World::new();
    let here = world.path(".");
    let run = |what: &str| world.run(&here, &["inspect", "--quiet", what]);
    run("nothing").refused(2, &["'nothing'", "neither a file nor a digest", "sha256:"]);
    let unknown = Digest::of("nothing").to_string();
    run(&unknown).refused(1, &[&unknown, "is not in the store"]);
    write(&world.path("text.raw"), "no disk");
    run("text.raw").refused(2, &["text.raw", "no GUID partition table"]);
    write(&world.path("bad.qcow2"), b"QFI\xfb and no more");
    run("bad.qcow2").refused(2, &["bad.qcow2"]);
}

#[test]
fn two_boards_make_two_manifests_and_an_index_over_them() {
    let world = World::new();
    let project = world.project("app");
    edit(
        &project.join("slipform.toml"),
        "version = \"1.0.0\"\n",
        "version = \"1.0.0\"\nboards = [\"qemu-x86_64\", \"big\"]\n",
    );
    let board = slipform::board::shipped("qemu-x86_64").unwrap();
    let board = board
        .replace("name = \"qemu-x86_64\"", "name = \"big\"")
        .replace("disk-multiple = \"1MiB\"", "disk-multiple = \"256MiB\"");
    write(&project.join("boards/big.toml"), board);
    let built = world.build(&project, &[]);
    let artifacts = built.0["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 2);
    assert_eq!(artifacts[1]["board"], "big");
    assert_eq!(artifacts[1]["bytes"].as_u64().unwrap() % (256 << 20), 0);
    assert_ne!(artifacts[0]["disk"], artifacts[1]["disk"]);
    let index = fs::read_to_string(
        world
            .store()
            .join("blobs/sha256")
            .join(built.image().trim_start_matches("sha256:")),
    )
    .unwrap();
    for artifact in artifacts {
        assert!(index.contains(artifact["image"].as_str().unwrap()));
    }
    // The index is kept as its images are, and names them.
    world.run(&project, &["gc"]).good();
    world
        .run(&project, &["inspect", "--quiet", built.image()])
        .refused(
            2,
            &[
                "2 boards",
                artifacts[0]["image"].as_str().unwrap(),
                artifacts[1]["image"].as_str().unwrap(),
            ],
        );
    // One of them alone is its own image.
    let alone = world.build(&project, &["--board", "big"]);
    assert_eq!(alone.image(), artifacts[1]["image"]);
}

#[test]
fn new_makes_a_project_that_builds() {
    let world = World::new();
    let here = world.path(".");
    let made = world.run(&here, &["new", "my-app"]).good();
    assert!(
        made.stdout.contains("cd my-app && slipform test"),
        "{made:?}"
    );
    let project = world.path("my-app");
    let built = world.build(&project, &[]);
    let info = world
        .run(&project, &["inspect", "--json", built.image()])
        .good();
    assert_eq!(info.json()["machine"]["name"], "my-app");
    let page = fs::read_to_string(project.join("www/index.html")).unwrap();
    assert!(page.contains("my-app") && !page.contains("NAME"), "{page}");
    // What is there stays.
    world
        .run(&here, &["new", "--quiet", "my-app"])
        .refused(2, &["my-app", "slipform.toml already", "another folder"]);
    world
        .run(&here, &["new", "--quiet", "My App"])
        .refused(2, &["My App", "lower-case"]);
    assert!(!world.path("My App").exists());
}

#[test]
fn fetch_brings_all_that_is_locked_and_then_no_network_is_needed() {
    let world = World::new();
    let project = world.project("app");
    let fetched = world.run(&project, &["fetch", "--json"]).good().json();
    let packages = fetched["packages"].as_u64().unwrap();
    assert_eq!(fetched["fetched"], packages);
    assert!(fetched["bytes"].as_u64().unwrap() > 300_000);
    let again = world.run(&project, &["fetch", "--json"]).good().json();
    assert_eq!(again["fetched"], 0);
    world.run_cut_off(&project, &["build", "--offline"]).good();
    world.run_cut_off(&project, &["fetch", "--offline"]).good();
}

#[test]
fn gc_keeps_what_roots_need_and_removes_the_rest() {
    let world = World::new();
    let project = world.project("app");
    let old = world.build(&project, &[]);
    let old_app = app_layer(&world, &project, old.image());
    write(&project.join("www/index.html"), "newer");
    let new = world.build(&project, &[]);
    let new_app = app_layer(&world, &project, new.image());
    // A second project of the same name takes the name, not the other's roots.
    let other = world.project("other");
    let others = world.build(&other, &[]);
    assert_eq!(others.image(), old.image());
    write(&other.join("www/index.html"), "yet another");
    let others = world.build(&other, &[]);

    let before = world.blobs();
    let dry = world
        .run(&project, &["gc", "--dry-run", "--json"])
        .good()
        .json();
    assert_eq!(world.blobs(), before);
    let swept = world.run(&project, &["gc", "--json"]).good().json();
    assert_eq!(swept, dry);
    let removed = before.len() - world.blobs().len();
    assert_eq!(swept["removed"], removed, "{swept}");
    assert!(removed > 0 && swept["bytes"].as_u64().unwrap() > 0);
    assert!(!old_app.exists() && new_app.exists());

    // All that is kept is enough: nothing is fetched.
    for (dir, image) in [(&project, new.image()), (&other, others.image())] {
        fs::remove_dir_all(dir.join("out")).unwrap();
        let args = ["build", "--json", "--offline"];
        let built = world.run_cut_off(dir, &args).good().json();
        assert_eq!(built["image"], image);
        write(&dir.join("www/index.html"), "changed after collecting");
        world.run_cut_off(dir, &args).good();
    }
    // A project that is gone keeps nothing.
    fs::remove_dir_all(&other).unwrap();
    let swept = world.run(&project, &["gc", "--json"]).good().json();
    assert_eq!(swept["dropped_roots"].as_array().unwrap().len(), 1);
    fs::remove_dir_all(project.join("out")).unwrap();
    world.run_cut_off(&project, &["build", "--offline"]).good();
}

/// The blob of an image's layer `app`.
fn app_layer(world: &World, project: &Path, image: &str) -> PathBuf {
    let _ = project;
    let blobs = world.store().join("blobs/sha256");
    let manifest = fs::read(blobs.join(image.trim_start_matches("sha256:"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let app = layers
        .iter()
        .find(|l| l["annotations"]["org.opencontainers.image.title"] == "app");
    let digest = app.unwrap()["digest"].as_str().unwrap();
    blobs.join(digest.trim_start_matches("sha256:"))
}

#[test]
fn gc_after_fetch_keeps_the_last_build() {
    let world = World::new();
    let project = world.project("app");
    let built = world.build(&project, &[]);
    world.run(&project, &["fetch"]).good();
    // Another project takes the image's name.
    let other = world.project("other");
    write(&other.join("www/index.html"), "other");
    world.build(&other, &[]);
    world.run(&project, &["gc"]).good();
    let info = world.run(&project, &["inspect", built.image()]);
    info.good();
}

#[test]
fn the_mirror_may_be_an_argument_and_the_store_too() {
    let world = World::new();
    let project = world.project("app");
    let mut command = world.command(&project, &["build", "--quiet"]);
    command
        .env("SLIPFORM_MIRROR", "http://127.0.0.1:1/debian")
        .env_remove("SLIPFORM_STORE");
    command.args(["--mirror", &format!("{}/debian", world.server.uri())]);
    command.arg("--store").arg(world.path("elsewhere"));
    outcome(&mut command).good();
    assert!(world.path("elsewhere/oci-layout").is_file());
    assert!(!world.store().exists());
    // Without either, the store is where caches are.
    let mut command = world.command(&project, &["build", "--quiet", "--offline"]);
    command
        .env_remove("SLIPFORM_STORE")
        .env("XDG_CACHE_HOME", world.path("cache"));
    let refused = outcome(&mut command);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(world.path("cache/slipform/oci-layout").is_file());
}

#[test]
fn local_packages_and_further_sources_are_used() {
    let world = World::new();
    let project = world.project("app");
    let deb = TestPackage::new("mine", "3")
        .depends("libc6, hello-server")
        .file("usr/bin/mine", b"mine", 0o755);
    write(&project.join("debs/mine.deb"), deb.deb());
    edit(
        &project.join("slipform.toml"),
        "packages = [\"hello-server\"]",
        "debs = [\"debs/mine.deb\"]",
    );
    let first = world.build(&project, &[]);
    let lock = fs::read_to_string(project.join("slipform.lock")).unwrap();
    assert!(
        lock.contains("debs/mine.deb") && lock.contains("hello-server"),
        "{lock}"
    );
    // Another file in its place: the lock does not fit, and says so.
    let newer = TestPackage::new("mine", "4").depends("hello-server");
    write(&project.join("debs/mine.deb"), newer.deb());
    world
        .run(&project, &["build", "--quiet", "--locked"])
        .refused(2, &["slipform.lock", "slipform lock"]);
    let second = world.build(&project, &[]);
    assert_ne!(first.image(), second.image());
    flip(&project.join("debs/mine.deb"));
    let refused = world.run(&project, &["build", "--quiet"]);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(refused.code == Some(1) || refused.code == Some(2));
}
