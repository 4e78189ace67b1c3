//! oras reads documents, and finds what refers to them: by the tag schema where a
//! registry has no referrers API, and in a folder.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use slipform::attest::{PREDICATE_NOTE, Predicate, Provenance, REFERRER_TYPE, Sbom, TestResult};
use slipform::base::Digest;
use slipform::store::Descriptor;

use super::parts::Registry;
use super::tools::{at_home, client, content, json};
use crate::common::scene::{Scene, remote};

/// What the referrers of an image say that they are.
fn kinds(found: &Value) -> BTreeSet<&str> {
    // The first name is oras 1.2's, the second that of those after it.
    let listed = [&found["manifests"], &found["referrers"]];
    let listed = listed.iter().find_map(|list| list.as_array());
    let listed = listed.unwrap_or_else(|| panic!("{found}"));
    let kind = |referrer: &'_ Value| {
        assert_eq!(referrer["artifactType"], REFERRER_TYPE, "{found}");
    };
    listed.iter().for_each(kind);
    listed
        .iter()
        .map(|referrer| referrer["annotations"][PREDICATE_NOTE].as_str().unwrap())
        .collect()
}

fn oras(home: &Path, args: &[&str]) -> std::process::Command {
    let mut command = client("oras").unwrap();
    at_home(command.args(args), home);
    command
}

/// What oras attaches we list; and publishing once more takes nothing away from it.
fn attach(scene: &Scene, home: &Path, (how, name): (&str, &str), image: &Digest) {
    std::fs::write(home.join("review.txt"), "by hand\n").unwrap();
    let kind = "application/vnd.test.review";
    let args = [
        "attach",
        how,
        "--artifact-type",
        kind,
        name,
        "review.txt:text/plain",
    ];
    content(&mut oras(home, &args));
    let listed = || {
        let listed = remote(&scene.remote).referrers(image).unwrap();
        let attached = |d: &&Descriptor| d.artifact_type.as_deref() == Some(kind);
        (listed.len(), listed.iter().find(attached).cloned())
    };
    let before = listed();
    assert!(before.0 == 4 && before.1.is_some(), "{name}: {before:?}");
    scene.publish(&["--why", "once more"]);
    assert_eq!(listed(), before, "{name}");
}

#[test]
fn it_reads_documents_and_discovers_attestations() {
    let (Some(_), Some(registry)) = (client("oras"), Registry::new()) else {
        return;
    };
    let mut scene = Scene::new();
    let image = scene.tested();
    let folder = scene.world.path("published");
    let home = registry.home();
    let all = BTreeSet::from([TestResult::TYPE, Provenance::TYPE, Sbom::TYPE]);
    for (uri, there, how) in [
        (registry.uri("app"), registry.name("app"), "--plain-http"),
        (
            format!("file://{}", folder.display()),
            folder.display().to_string(),
            "--oci-layout",
        ),
    ] {
        scene.remote = uri;
        scene.publish(&[]);
        let ours = remote(&scene.remote).tagged("candidate").unwrap().unwrap();
        let name = format!("{there}:candidate");
        let fetched = content(&mut oras(&home, &["manifest", "fetch", how, &name]));
        assert_eq!(fetched, ours.bytes, "{name}");

        let name = format!("{there}@{image}");
        let mut discover = oras(&home, &["discover", how, "--format", "json", &name]);
        assert_eq!(kinds(&json(&mut discover)), all, "{name}");
        let tags = content(&mut oras(&home, &["repo", "tags", how, &there]));
        let tags = String::from_utf8(tags).unwrap();
        assert!(tags.lines().any(|tag| tag == "candidate"), "{tags}");
        attach(&scene, &home, (how, &name), &image);
    }
    // The local store, with its names as the pipeline gives them.
    let store = scene.world.store();
    let name = format!("{}@{image}", store.display());
    let fetched = content(&mut oras(
        &home,
        &["manifest", "fetch", "--oci-layout", &name],
    ));
    let ours = remote(&scene.remote).manifest(&image).unwrap().unwrap();
    assert_eq!(fetched, ours.bytes);
}
