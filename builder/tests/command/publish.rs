//! The gate, channels and remotes from the outside: only what was tested is published,
//! and what is published comes back bit for bit.

use std::fs;
use std::path::Path;

use crate::common::scene::Scene;
use crate::common::{digest, edit};
use slipform::base::Digest;
use slipform::remote::testing::{RegistryRules, S3Rules, TestRegistry, TestS3};
use slipform_qemu_tests::{BootReport, Outcome};

#[test]
fn what_was_tested_is_published_and_comes_back_bit_for_bit() {
    let scene = Scene::new();
    let first = scene.tested();
    let published = scene.publish(&["--why", "the first"]);
    assert_eq!(published["release"], first.to_string());
    assert_eq!(published["sequence"], 1);
    assert!(published["moved"].as_u64().unwrap() > 0);
    scene.change("<h1>second</h1>\n");
    scene.tested();
    let second = scene.publish(&["--why", "the second"]);
    let (moved, whole) = (
        second["moved"].as_u64().unwrap(),
        second["bytes"].as_u64().unwrap(),
    );
    assert!(moved < whole, "{moved} of {whole}");

    let log = scene.run(&["log", "candidate"]).good().stdout;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].starts_with("* 2 ") && lines[0].contains("ann: the second"),
        "{log}"
    );

    scene.run(&["promote", "candidate@1", "stable"]).good();
    scene.run(&["promote", "candidate", "stable"]).good();
    scene
        .run(&["rollback", "stable", "--why", "second is ugly"])
        .good();
    let stable = scene.run(&["log", "stable", "--json"]).good().json();
    assert_eq!(stable["entries"][0]["says"]["kind"], "rollback");
    assert_eq!(stable["entries"][0]["says"]["release"], first.to_string());
    let channels = scene.run(&["channels"]).good().stdout;
    assert!(
        channels.contains("candidate") && channels.contains("stable"),
        "{channels}"
    );

    // Another machine: an empty store, nothing but the public key.
    let key = scene.world.path("home/.config/slipform/key.pub");
    let key = key.to_str().unwrap();
    let store = scene.world.path("elsewhere");
    let store = store.to_str().unwrap();
    let out = scene.world.path("pulled");
    let out = out.to_str().unwrap();
    scene
        .run(&[
            "--store",
            store,
            "pull",
            "stable",
            "--key",
            key,
            "--out",
            out,
            "--format",
            "raw,qcow2",
        ])
        .good();
    edit(
        &scene.dir.join("slipform.toml"),
        "version = \"1\"",
        "version = \"1\"",
    );
    scene.change("<h1>hello</h1>\n");
    let built = scene.world.build(&scene.dir, &[]);
    assert_eq!(built.image(), first.to_string());
    let pulled = Path::new(out).join("small-1-small.raw");
    assert_eq!(
        digest(&pulled),
        digest(Path::new(built.artifact(0, "path")))
    );
}

/// The README's own lines under 'Test, publish, roll back', as they stand there; the
/// second release of a project that has published one before.
fn readmes_lines(scene: &Scene) {
    scene.tested();
    scene.publish(&[]);
    scene.run(&["promote", "candidate", "stable"]).good();
    scene.change("<h1>new page</h1>\n");
    let readme = include_str!("../../../README.md");
    let (_, section) = readme
        .split_once("\n## Test, publish, roll back\n")
        .unwrap();
    let lines = section.split("```").nth(1).unwrap();
    let mut verbs = Vec::new();
    for line in lines
        .lines()
        .filter_map(|line| line.strip_prefix("slipform "))
    {
        let line = line.split(" #").next().unwrap();
        let words: Vec<&str> = line
            .split('"')
            .enumerate()
            .flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            })
            .collect();
        verbs.push(words[0]);
        match words[0] {
            // The scene has its key, and boots nothing.
            "key" => {}
            "test" => drop(scene.tested()),
            _ => drop(scene.run(&words).good()),
        }
    }
    let all = "key test publish promote rollback log pull verify";
    assert_eq!(verbs, all.split(' ').collect::<Vec<_>>());
    let log = scene.run(&["log", "stable"]).good().stdout;
    assert!(log.lines().next().unwrap().contains("rollback"), "{log}");
    // Only the page and its version are new between the two.
    let diff = scene.run(&["diff", "candidate@1", "candidate@2"]);
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(diff.stdout.contains("srv/www/index.html"), "{diff:?}");
}

#[test]
fn the_readmes_lines_work_on_a_registry() {
    let mut scene = Scene::new();
    let registry = TestRegistry::new(RegistryRules::default());
    scene.remote = registry.uri("myapp");
    readmes_lines(&scene);
    assert_eq!(registry.complaints(), Vec::<String>::new());
}

#[test]
fn the_readmes_lines_work_on_an_object_store() {
    let mut scene = Scene::new();
    let store = TestS3::new(S3Rules::default());
    scene.remote = "s3://bucket/myapp".to_owned();
    scene.variables = store.variables(store.address());
    readmes_lines(&scene);
    assert_eq!(store.complaints(), Vec::<String>::new());
}

#[test]
fn what_was_not_tested_as_it_is_now_is_refused() {
    let scene = Scene::new();
    scene
        .run(&["publish"])
        .refused(2, &["there is no lock", "slipform lock"]);
    scene.world.build(&scene.dir, &[]);
    scene.run(&["publish"]).refused(
        1,
        &[
            "is not to be published",
            "nothing is attested",
            "slipform test",
        ],
    );
    scene.tested();
    scene.change("<h1>changed since</h1>\n");
    scene.run(&["publish"]).refused(
        2,
        &[
            "is not built as it would be now",
            "changed since",
            "slipform test",
        ],
    );
    assert!(!scene.world.path("published").exists());
    assert_eq!(scene.run(&["publish", "--force"]).code, Some(2));
    scene.world.build(&scene.dir, &[]);
    let forced = scene.publish(&["--force", "--reason", "the tester burns"]);
    assert_eq!(forced["sequence"], 1);
    let log = scene.run(&["log", "candidate"]).good().stdout;
    assert!(log.contains("FORCED: the tester burns"), "{log}");
    scene.run(&["promote", "candidate", "stable"]).good();
    let log = scene.run(&["log", "stable"]).good().stdout;
    assert!(log.contains("FORCED: the tester burns"), "{log}");
    let pulled = scene.run(&["pull", "stable", "--out", "pulled"]).good();
    assert!(pulled.stdout.contains("FORCED"), "{}", pulled.stdout);
    let verified = scene.run(&["verify", "stable"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(
        verified.stdout.contains("WRONG  it was forced"),
        "{verified:?}"
    );
}

#[test]
fn strangers_and_what_was_revoked_are_refused() {
    let scene = Scene::new();
    let image = scene.tested();
    scene.publish(&[]);
    scene
        .run(&["publish", "--channel", "revoked"])
        .refused(2, &["'revoked' is no channel"]);
    let stranger = scene.world.path("stranger.pem");
    let stranger = stranger.to_str().unwrap();
    scene
        .run(&["key", "new", "--no-passphrase", "--out", stranger])
        .good();
    let public = stranger.replace(".pem", ".pub");
    scene
        .run(&["pull", "candidate", "--key", &public])
        .refused(1, &["channel 'candidate' is broken at record"]);
    scene
        .world
        .configure("trusted-keys = [\"../../../stranger.pub\"]\n");
    scene
        .run(&["pull", "candidate"])
        .refused(1, &["channel 'candidate' is broken at record"]);
    scene.world.configure("");
    // A record by a stranger's key is no record to those who trust the team's.
    let own = scene.world.path("home/.config/slipform/key.pub");
    scene
        .run(&[
            "publish",
            "--key",
            stranger,
            "--trusted-key",
            own.to_str().unwrap(),
        ])
        .refused(2, &["is not among the trusted ones"]);
    scene
        .run(&["revoke", "candidate", "--reason", "leaks its key"])
        .good();
    for verb in [
        vec!["pull", "candidate"],
        vec!["promote", "candidate", "stable"],
        vec!["publish"],
    ] {
        scene
            .run(&verb)
            .refused(1, &["was revoked on", "leaks its key"]);
    }
    let by_digest = image.to_string();
    let key = own.to_str().unwrap();
    scene
        .run(&["pull", &by_digest, "--key", key])
        .refused(1, &["leaks its key"]);
}

#[test]
fn a_release_can_be_rebuilt_and_branched_from() {
    let scene = Scene::new();
    scene.tested();
    scene.publish(&[]);
    let verified = scene.run(&["verify", "candidate", "--rebuild"]).good();
    assert!(
        verified.stdout.contains("bit for bit"),
        "{}",
        verified.stdout
    );
    // What the lock names is there, but nothing that was built.
    scene.change("<h1>the project goes on</h1>\n");
    let dir = scene.world.path("hotfix");
    scene
        .run(&["checkout", "candidate", dir.to_str().unwrap()])
        .good();
    assert_eq!(
        fs::read_to_string(dir.join("www/index.html")).unwrap(),
        "<h1>hello</h1>\n"
    );
    let built = scene.world.build(&dir, &["--locked"]);
    let log = scene.run(&["log", "candidate", "--json"]).good().json();
    assert_eq!(log["entries"][0]["says"]["release"], built.image());
    scene
        .run(&["checkout", "candidate", dir.to_str().unwrap()])
        .refused(2, &["is not empty"]);
}

#[test]
fn parts_from_several_machines_are_merged_and_published_as_one() {
    let scene = Scene::new();
    scene.world.build(&scene.dir, &[]);
    let part = |folder: &str, number: u32, change: &dyn Fn(&mut BootReport)| {
        let mut report = scene.reports().remove(0);
        report.shard = Some((number, 2));
        change(&mut report);
        let text = serde_json::to_string(&report).unwrap();
        crate::common::write(&scene.dir.join(folder).join("report.json"), text);
    };
    part("one", 1, &|_| ());
    part("two", 2, &|_| ());
    part("foreign", 2, &|report| {
        report.image = Digest::of("another").to_string();
    });
    part("red", 2, &|report| {
        report.passed = false;
        report.verdicts[0].outcome = Outcome::Failed("no".to_owned());
    });
    let merge = |second: &[&str]| {
        let mut args = vec!["report", "merge", "--out", "whole", "one"];
        args.extend(second);
        scene.run(&args)
    };
    merge(&[]).refused(2, &["part 2 of 2 is missing"]);
    merge(&["foreign"]).refused(2, &["its image is"]);
    // One part alone proves nothing, merged or not; nor does a red one.
    assert_eq!(merge(&["red"]).code, Some(3));
    scene.run(&["publish"]).refused(1, &["nothing is attested"]);
    merge(&["two"]).good();
    assert_eq!(scene.publish(&[])["sequence"], 1);
    scene.run(&["verify", "candidate"]).good();
}

#[test]
fn a_release_over_two_boards_is_published_when_both_are_tested() {
    let scene = Scene::new();
    let spec = scene.dir.join("slipform.toml");
    edit(
        &spec,
        "boards = [\"small\"]",
        "boards = [\"small\", \"other\"]",
    );
    let board = fs::read_to_string(scene.dir.join("boards/small.toml")).unwrap();
    let board = board.replace("name = \"small\"", "name = \"other\"");
    crate::common::write(
        &scene.dir.join("boards/other.toml"),
        board.replace("33MiB", "35MiB"),
    );
    let built = scene.world.build(&scene.dir, &[]);
    let [one, other] = <[BootReport; 2]>::try_from(scene.reports()).unwrap();
    let keep = |report: &BootReport| {
        let image = report.image.parse().unwrap();
        scene.settings().keep_report(&image, report).unwrap();
    };
    keep(&one);
    scene
        .run(&["publish"])
        .refused(1, &["other", "nothing is attested"]);
    keep(&other);
    assert_eq!(scene.publish(&[])["release"], built.image());

    let store = scene.world.path("elsewhere");
    let key = scene.world.path("home/.config/slipform/key.pub");
    let (store, key) = (store.to_str().unwrap(), key.to_str().unwrap());
    let args = ["--store", store, "pull", "candidate", "--key", key];
    scene.run(&args).refused(2, &["choose one with --board"]);
    for (n, board) in ["small", "other"].iter().enumerate() {
        let more = ["--out", "pulled", "--board", board, "--format", "raw"];
        scene.run(&[&args[..], &more[..]].concat()).good();
        let pulled = scene.dir.join(format!("pulled/small-1-{board}.raw"));
        let artifact = built.artifact(n, "path");
        assert_eq!(digest(&pulled), digest(Path::new(artifact)), "{board}");
    }
    scene.run(&["verify", "candidate", "--rebuild"]).good();
}

#[test]
fn what_a_project_no_longer_has_is_collected_with_its_attestations() {
    let scene = Scene::new();
    scene.tested();
    scene.publish(&[]);
    scene.change("<h1>second</h1>\n");
    scene.tested();
    scene.publish(&[]);
    let swept = scene.run(&["gc", "--json"]).good().json();
    // Three referrers and the manifest that cosign reads, of the first image.
    assert_eq!(swept["dropped_names"], 4, "{swept}");
    // The second is still whole: built, attested, published; the next build does nothing.
    let again = scene.run(&["build", "--json", "--explain"]).good().json();
    let miss = |step: &&serde_json::Value| step["hit"] == false;
    let steps = again["steps"].as_array().unwrap();
    assert_eq!(steps.iter().filter(miss).count(), 0, "{again}");
    assert!(steps.len() > 3, "{again}");
    assert_eq!(scene.publish(&[])["unchanged"], true);
    fs::remove_file(scene.dir.join("slipform.lock")).unwrap();
    scene.run(&["gc"]).good();
    let index = fs::read_to_string(scene.world.store().join("index.json")).unwrap();
    assert!(!index.contains("sha256:"), "{index}");
    assert_eq!(scene.world.blobs(), Vec::<std::path::PathBuf>::new());
}
