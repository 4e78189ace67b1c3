//! The gate, channels and remotes from the outside: only what was tested is published,
//! what is published comes back bit for bit, and nothing that happens on the way
//! leaves a channel broken.

#![allow(missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use common::scene::Scene;
use common::{digest, edit};
use slipform::attest::{Signer, Trust};
use slipform::channel::{History, Kind};
use slipform::pipeline::{Door, Wanted, load};
use slipform::remote::testing::{
    Fault, FaultProxy, RegistryRules, S3Rules, TestRegistry, TestS3, quick,
};
use slipform::remote::{Remote, RemoteOptions, open_with};
use slipform::sources::Host;

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
    let readme = include_str!("../../README.md");
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

/// Publishes in this process, with little patience, to `uri`.
fn publish_to(scene: &Scene, uri: &str, why: &str) -> Result<(), String> {
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
    };
    settings
        .publish(&*remote, &ready, &wanted, &trust, &key)
        .map(drop)
        .map_err(|e| e.to_string())
}

fn remote(uri: &str) -> Box<dyn Remote> {
    let options = RemoteOptions {
        whole: 8 << 20,
        part: 8 << 20,
        ..quick()
    };
    open_with(uri, &Host::real(), options).unwrap()
}

#[test]
fn whatever_the_network_does_the_channel_stays_whole() {
    let scene = Scene::new();
    scene.tested();
    let keys = [scene.key().public().clone()];
    // How many requests one whole publish takes.
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    publish_to(&scene, &format!("oci://{}/hello", proxy.address()), "all").unwrap();
    let requests = proxy.requests().len();
    let mut faults = Fault::all();
    // What is only late disturbs nobody.
    faults.retain(|fault| !matches!(fault, Fault::Delay(_)));
    // Each request in turn takes two minutes: nightly. Seven shares nothing with the
    // number of faults, so that every kind has its turn.
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some();
    let (mut tried, mut failed) = (0, 0);
    for n in (0..requests).step_by(if nightly { 1 } else { 7 }) {
        tried += 1;
        let registry = TestRegistry::new(RegistryRules::default());
        let proxy = FaultProxy::new(registry.address());
        let fault = &faults[n % faults.len()];
        proxy.fault_from(n, fault.clone());
        let round = format!("request {n} of {requests}, {fault:?}");
        let through = format!("oci://{}/hello", proxy.address());
        let outcome = publish_to(&scene, &through, &round);
        failed += usize::from(outcome.is_err());
        let direct = registry.uri("hello");
        // Whatever happened: the old release (here none), or the new one, never a half.
        match History::read(&*remote(&direct), "candidate", &keys) {
            Ok(history) => assert_eq!(history.entries.len(), 1, "{round}"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("there is no channel"), "{round}: {error}");
                assert!(outcome.is_err(), "{round}: it said that it was published");
            }
        }
        publish_to(&scene, &direct, &round).unwrap_or_else(|error| panic!("{round}: {error}"));
        let history = History::read(&*remote(&direct), "candidate", &keys).unwrap();
        assert!(matches!(history.entries.len(), 1 | 2), "{round}");
        // The server itself was never asked for anything that it must not be.
        if *fault != Fault::CorruptRequest {
            assert_eq!(registry.complaints(), Vec::<String>::new(), "{round}");
        }
    }
    assert!(failed > tried / 2, "{failed} of {tried} were disturbed");
}
