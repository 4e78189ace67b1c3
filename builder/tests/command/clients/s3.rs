//! moto's object store, 5.1, with its signature checks on. It heeds `If-None-Match`
//! on a PUT and silently ignores `If-Match`: that must be found out, and said.

use std::path::Path;

use slipform::attest::Signer;
use slipform::channel::History;
use slipform::remote::testing::{Traits, conformance};

use super::parts::Moto;
use crate::common::digest;
use crate::common::scene::Scene;

#[test]
fn releases_come_and_go_between_two_publishers() {
    let Some(moto) = Moto::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.remote = "s3://bucket/team/app".to_owned();
    scene.variables = moto.variables(moto.address());
    let traits = Traits {
        // See above.
        atomic: false,
        large: 9 << 20,
    };
    conformance(&|| scene.remote_at("s3://bucket/conformance"), traits);

    scene.tested();
    let first = scene.run(&["publish", "--why", "the first"]).good().stdout;
    assert!(first.contains("cannot compare and swap"), "{first}");
    let built = digest(&scene.dir.join("out/small-1-small.raw"));
    scene.run(&["promote", "candidate", "stable"]).good();
    scene.change("<h1>second</h1>\n");
    scene.tested();
    scene
        .variables
        .push(("SLIPFORM_BY".to_owned(), "bob".to_owned()));
    let second = scene.publish(&["--why", "the second"]);
    let field = |name: &str| second[name].as_u64().unwrap();
    assert!(field("moved") < field("bytes"), "{second}");
    let log = scene.run(&["log", "candidate"]).good().stdout;
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].ends_with("bob: the second"), "{log}");
    assert!(lines[1].ends_with("ann: the first"), "{log}");
    let keys = [scene.key().public().clone()];
    let remote = scene.remote_at(&scene.remote);
    let stable = History::read(&*remote, "stable", &keys).unwrap();
    assert_eq!(stable.entries.len(), 1);

    let key = scene.world.path("home/.config/slipform/key.pub");
    let (store, out) = (scene.world.path("elsewhere"), scene.world.path("pulled"));
    let [key, store, out] = [&key, &store, &out].map(|path| path.to_str().unwrap());
    let pull = [
        "--store", store, "pull", "stable", "--key", key, "--out", out,
    ];
    scene.run(&pull).good();
    assert_eq!(digest(&Path::new(out).join("small-1-small.raw")), built);
    logins(scene);
}

/// Whoever has the wrong keys is told which of them.
fn logins(mut scene: Scene) {
    let good = scene.variables.clone();
    for (name, part) in [
        (
            "AWS_SECRET_ACCESS_KEY",
            "SignatureDoesNotMatch; AWS_SECRET_ACCESS_KEY is not the one",
        ),
        (
            "AWS_ACCESS_KEY_ID",
            "InvalidAccessKeyId; nobody there knows AWS_ACCESS_KEY_ID",
        ),
    ] {
        scene.variables = good.clone();
        scene
            .variables
            .push((name.to_owned(), "AKIAWRONG".to_owned()));
        scene.run(&["publish"]).refused(1, &["403", part]);
        scene.run(&["pull", "stable"]).refused(1, &["403", part]);
    }
}
