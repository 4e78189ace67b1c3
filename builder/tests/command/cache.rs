//! A cache of many machines: the second builds nothing that the first has built; and
//! whoever can write to it can make nobody attest or publish what he put there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::scene::Scene;
use crate::common::{Outcome, World, cut_off, write};
use slipform::attest::testing;
use slipform::base::Digest;
use slipform::base::progress::Quiet;
use slipform::output::{Artifact, OutputFormat};
use slipform::pipeline::{CacheMode, Locking, Settings, load};
use slipform::remote::testing::{RegistryRules, S3Rules, TestRegistry, TestS3};
use slipform::remote::{Document, Expect, Remote, Upload, open};
use slipform::sources::Host;
use slipform::store::{MANIFEST, Manifest};

/// Builds on a machine with an empty store; what it explained, and how long it took.
fn runner(
    world: &World,
    machine: &str,
    dir: &Path,
    more: &[&str],
    variables: &[(String, String)],
    mirror: bool,
) -> (serde_json::Value, Duration) {
    let home = world.path(&format!("{machine}-home"));
    fs::create_dir_all(&home).unwrap();
    let mut args = vec!["build", "--locked", "--json", "--explain"];
    args.extend(more);
    let mut command = world.command(dir, &args);
    command
        .env("HOME", home)
        .env("SLIPFORM_STORE", world.path(&format!("{machine}-store")))
        .envs(variables.iter().cloned());
    if !mirror {
        cut_off(&mut command);
    }
    let start = Instant::now();
    let outcome = crate::common::outcome(&mut command).good();
    (outcome.json(), start.elapsed())
}

/// Steps that take time, by what came of them: made, found, from the cache.
fn counts(built: &serde_json::Value) -> (usize, usize, usize) {
    let (mut made, mut found, mut cached) = (0, 0, 0);
    for step in built["steps"].as_array().unwrap() {
        let name = step["step"].as_str().unwrap();
        if name.starts_with("image") {
            continue;
        }
        match (step["hit"].as_bool().unwrap(), step.get("from").is_some()) {
            (false, _) => made += 1,
            (true, false) => found += 1,
            (true, true) => cached += 1,
        }
    }
    (made, found, cached)
}

/// The first runner gives, the second takes, without the mirror.
fn shared(world: &World, cache: &str, variables: &[(String, String)]) {
    let dir = world.project("app");
    world.run(&dir, &["lock"]).good();
    let give = ["--cache", cache, "--cache-mode", "read-write"];
    let take = ["--cache", cache];
    // Only who may write writes.
    let (nothing, _) = runner(world, "reader", &dir, &take, variables, true);
    assert_eq!(counts(&nothing), (5, 0, 0), "{nothing:#}");
    let (first, slow) = runner(world, "first", &dir, &give, variables, true);
    assert_eq!(counts(&first), (5, 0, 0), "{first:#}");
    let (second, quick) = runner(world, "second", &dir, &take, variables, false);
    assert_eq!(
        counts(&second),
        (0, 0, 5),
        "base, floor, app, generated, boot parts: {second:#}"
    );
    assert_eq!(first["image"], second["image"]);
    let figures = format!("{cache}: built in {slow:.1?}, cast from the cache in {quick:.1?}");
    // A closed stderr is nobody who could be told.
    let _ = writeln!(std::io::stderr(), "{figures}");
    // From then on they are in its own store, and are called what they are.
    let (third, _) = runner(world, "second", &dir, &[], variables, false);
    assert_eq!(counts(&third), (0, 0, 5), "{third:#}");
    let mut command = world.command(&dir, &["build", "--explain"]);
    command.env("SLIPFORM_STORE", world.path("second-store"));
    let told = crate::common::outcome(&mut command).good().stdout;
    assert!(told.contains("hit (cache) layer 1 base of "), "{told}");
    // Another checkout, and one layer changed: only that one is made.
    let other = world.project("elsewhere/app");
    fs::copy(dir.join("slipform.lock"), other.join("slipform.lock")).unwrap();
    write(&other.join("www/index.html"), "<h1>new</h1>\n");
    let (changed, _) = runner(world, "third", &other, &take, variables, false);
    let (made, _, cached) = counts(&changed);
    assert_eq!((made, cached), (2, 3), "app and generated: {changed:#}");
}

#[test]
fn a_folder_serves_many_machines() {
    let world = World::new();
    let cache = format!("file://{}", world.path("cache").display());
    shared(&world, &cache, &[]);
}

#[test]
fn a_registry_serves_many_machines() {
    let world = World::new();
    let registry = TestRegistry::new(RegistryRules::default());
    shared(&world, &registry.uri("team/cache"), &[]);
    assert_eq!(registry.complaints(), Vec::<String>::new());
}

#[test]
fn an_object_store_serves_many_machines() {
    let world = World::new();
    let store = TestS3::new(S3Rules::default());
    let variables = store.variables(store.address());
    shared(&world, "s3://bucket/cache", &variables);
    assert_eq!(store.complaints(), Vec::<String>::new());
}

#[test]
fn a_cache_that_is_gone_or_damaged_stops_nobody() {
    let world = World::new();
    let dir = world.project("app");
    let cache = format!("file://{}", world.path("cache").display());
    let built = world.build(&dir, &["--cache", &cache, "--cache-mode", "read-write"]);
    let gone = ["--cache", "oci://127.0.0.1:1/cache"];
    let (alone, _) = runner(&world, "alone", &dir, &gone, &[], true);
    assert_eq!(alone["image"], built.image());
    for blob in crate::common::files(&world.path("cache/blobs/sha256")) {
        // Manifests are blobs of the folder, too: all of it is rotten.
        crate::common::flip(&blob);
    }
    let (rotten, _) = runner(&world, "rotten", &dir, &["--cache", &cache], &[], true);
    assert_eq!(rotten["image"], built.image());
    assert_eq!(counts(&rotten).2, 0, "{rotten:#}");
    world
        .run(&dir, &["--quiet", "build", "--cache", "cache"])
        .refused(2, &["'cache' is no place"]);
}

fn remote(uri: &str) -> Box<dyn Remote> {
    open(uri, &Host::real()).unwrap()
}

fn blob(remote: &dyn Remote, digest: &Digest, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    remote.get_blob(digest, size, &mut bytes).unwrap();
    bytes
}

fn put(remote: &dyn Remote, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let open = |at: u64| -> std::io::Result<Box<dyn std::io::Read + Send>> {
        let rest = bytes[usize::try_from(at).unwrap()..].to_vec();
        Ok(Box::new(std::io::Cursor::new(rest)))
    };
    remote
        .put_blob(&Upload {
            digest,
            size: bytes.len() as u64,
            open: &open,
            sent: &|_| (),
        })
        .unwrap();
    digest
}

/// The step of the layer that has `path`, with its manifest.
fn layer_with(remote: &dyn Remote, path: &str) -> (Manifest, serde_json::Value) {
    let steps = remote.tags().unwrap();
    for tag in steps.iter().filter(|tag| tag.starts_with("step-")) {
        let document = remote.tagged(tag).unwrap().unwrap();
        let manifest = Manifest::parse(&document.bytes).unwrap();
        let entry = blob(remote, &manifest.config.digest, manifest.config.size);
        let entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
        let Some(listing) = entry["outputs"]["listing"]["blob"].as_str() else {
            continue;
        };
        let listing: Digest = listing.parse().unwrap();
        let part = manifest.layers.iter().find(|p| p.digest == listing);
        let text = blob(remote, &listing, part.unwrap().size);
        if String::from_utf8(text).unwrap().contains(path) {
            return (manifest, entry);
        }
    }
    panic!("no layer has {path}");
}

/// A cache in which the key of `app`'s layer names the layer of an evil page.
fn poisoned(scene: &Scene, dir: &Path) -> String {
    let world = &scene.world;
    let uri = |name: &str| format!("file://{}", world.path(name).display());
    let (good, evil) = (uri("cache"), uri("evil-cache"));
    world.build(dir, &["--cache", &good, "--cache-mode", "read-write"]);
    let theirs = world.small_project("theirs");
    fs::copy(dir.join("slipform.lock"), theirs.join("slipform.lock")).unwrap();
    write(&theirs.join("www/index.html"), "<h1>evil!</h1>\n");
    let mut command = world.command(
        &theirs,
        &[
            "build",
            "--locked",
            "--cache",
            &evil,
            "--cache-mode",
            "read-write",
        ],
    );
    command.env("SLIPFORM_STORE", world.path("evil-store"));
    crate::common::outcome(&mut command).good();

    let (good, evil) = (remote(&good), remote(&evil));
    let (_, ours) = layer_with(&*good, "/srv/www/index.html");
    let (manifest, mut entry) = layer_with(&*evil, "/srv/www/index.html");
    assert_ne!(ours["outputs"]["sealed"], entry["outputs"]["sealed"]);
    entry["key"] = ours["key"].clone();
    for part in &manifest.layers {
        put(&*good, &blob(&*evil, &part.digest, part.size));
    }
    let entry = serde_json::to_vec(&entry).unwrap();
    let mut manifest = manifest;
    manifest.config.digest = put(&*good, &entry);
    manifest.config.size = entry.len() as u64;
    let document = Document::new(MANIFEST, manifest.to_bytes().unwrap());
    good.put_manifest(&document.bytes, MANIFEST).unwrap();
    let key: Digest = ours["key"].as_str().unwrap().parse().unwrap();
    good.set_tag(&format!("step-{}", key.hex()), &document, Expect::Any)
        .unwrap();
    good.uri().to_owned()
}

/// The settings of a machine with an empty store that reads that cache.
fn victim(scene: &Scene, cache: &str) -> (PathBuf, Settings) {
    let store = scene.world.path("victim-store");
    let settings = Settings::new(Some(store.clone()), None, true, Arc::new(Quiet)).unwrap();
    let cache = Some((cache, CacheMode::Read));
    (store, settings.with_elsewhere(&[], cache).unwrap())
}

#[test]
fn a_poisoned_cache_poisons_no_evidence() {
    let scene = Scene::new();
    let dir = scene.dir.clone();
    let honest = scene.world.build(&dir, &[]).image().to_owned();
    let cache = poisoned(&scene, &dir);
    let (store, settings) = victim(&scene, &cache);
    let run = |args: &[&str]| -> Outcome {
        let mut all = vec!["--store", store.to_str().unwrap()];
        all.extend(args);
        scene.run(&all)
    };
    // Every blob is its digest: nothing to be seen. The boot test would be of this image.
    let built = run(&["build", "--locked", "--json", "--cache", &cache])
        .good()
        .json();
    assert_ne!(built["image"], honest, "the poison works");

    let image = load(&dir).unwrap();
    let lock = settings.lock(&image, &Locking::AsItIs).unwrap();
    let cast = settings.cast(&image, &lock, "small").unwrap();
    assert_eq!(built["image"], cast.manifest.to_string());
    let nowhere = Artifact {
        path: PathBuf::new(),
        format: OutputFormat::Raw,
        bytes: 0,
    };
    let plan = settings.plan(&image, &cast, &nowhere, Path::new(""));
    let plan = plan.digest().parse().unwrap();
    let checks: Vec<&str> = slipform_qemu_tests::built_in_checks().collect();
    let report = testing::report(&cast.manifest, &plan, crate::common::now(), &checks);
    // Even if somebody kept a report of it, with or without force.
    settings.keep_report(&cast.manifest, &report).unwrap();
    for more in [&[][..], &["--force", "--reason", "I want it"]] {
        let mut args = vec!["publish"];
        args.extend(more);
        run(&args).refused(2, &["came from the cache", "slipform test"]);
    }
    // What `test` does before it keeps a report, and `attest` before it signs.
    let refused = settings.attest(&image, &lock, &cast, &report, &scene.key());
    let told = refused.unwrap_err().to_string();
    for part in [
        &cast.manifest.to_string(),
        &honest,
        "layers app differ",
        "not attested",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    // The mark is gone with what was marked: the store is healed.
    let built = run(&["build", "--locked", "--json", "--cache", &cache])
        .good()
        .json();
    assert_eq!(built["image"], honest);
}

#[test]
fn what_an_honest_cache_said_is_proven_and_published() {
    let scene = Scene::new();
    let dir = scene.dir.clone();
    let cache = format!("file://{}", scene.world.path("cache").display());
    let built = scene
        .world
        .build(&dir, &["--cache", &cache, "--cache-mode", "read-write"]);
    let (store, settings) = victim(&scene, &cache);
    let image = load(&dir).unwrap();
    let lock = settings.lock(&image, &Locking::AsItIs).unwrap();
    let cast = settings.cast(&image, &lock, "small").unwrap();
    assert_eq!(cast.manifest.to_string(), built.image());
    assert!(settings.explain().contains("hit (cache) layer 1"));
    let run = |args: &[&str]| {
        let mut all = vec!["--store", store.to_str().unwrap()];
        all.extend(args);
        scene.run(&all)
    };
    run(&["publish"]).refused(2, &["came from the cache"]);
    settings.prove(&image, &lock, &cast).unwrap();
    // Proven, but not tested.
    run(&["publish"]).refused(1, &["nothing is attested"]);
    let report = scene.world.build(&dir, &[]);
    assert_eq!(report.image(), built.image());
}
