//! Debian's docker-registry, 2.8: no referrers API, no compare-and-swap.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use slipform::attest::{PublicKey, Signer};
use slipform::channel::History;
use slipform::remote::Remote;
use slipform::remote::testing::{Fault, FaultProxy, Traits, conformance};
use slipform::store::{Index, Manifest};

use super::parts::Registry;
use super::{figures, is_nightly};
use crate::common::digest;
use crate::common::scene::{Scene, remote};

#[test]
fn it_keeps_every_promise_of_a_remote() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let traits = Traits {
        atomic: false,
        large: 200_000,
    };
    conformance(&|| remote(&registry.uri("team/app")), traits);
}

#[test]
fn a_release_comes_back_bit_for_bit_and_the_next_one_moves_what_is_missing() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.remote = registry.uri("team/app");
    let first = scene.tested();
    let published = scene.publish(&["--why", "the first"]);
    assert_eq!(published["moved"], published["bytes"]);
    assert_eq!(published["atomic"], false);
    let built = digest(&scene.dir.join("out/small-1-small.raw"));
    scene.change("<h1>second</h1>\n");
    scene.tested();
    let before = registry.bytes();
    let second = scene.publish(&["--why", "the second"]);
    let (moved, whole) = (number(&second["moved"]), number(&second["bytes"]));
    assert!(0 < moved && moved < whole, "{moved} of {whole}");
    // All that moved was new to the registry; beside it there are documents only.
    let documents = registry.bytes() - before - moved;
    assert!(documents < 100_000, "{documents} bytes more");
    // Nothing is missing any more; and a person is told that nobody compares and swaps.
    let third = scene.run(&["publish"]).good().stdout;
    assert!(third.contains("moved 0 B of"), "{third}");
    assert!(third.contains("cannot compare and swap"), "{third}");

    let log = scene.run(&["log", "candidate"]).good().stdout;
    let whys: Vec<&str> = log.lines().collect();
    assert_eq!(whys.len(), 3, "{log}");
    assert!(whys[1].ends_with("ann: the second"), "{log}");
    assert!(whys[2].ends_with("ann: the first"), "{log}");
    scene.run(&["promote", "candidate@1", "stable"]).good();

    // Another machine: an empty store, nothing but the public key.
    let key = scene.world.path("home/.config/slipform/key.pub");
    let (store, out) = (scene.world.path("elsewhere"), scene.world.path("pulled"));
    let [key, store, out] = [&key, &store, &out].map(|path| path.to_str().unwrap());
    let pull = [
        "--store", store, "pull", "stable", "--key", key, "--out", out,
    ];
    scene.run(&pull).good();
    assert_eq!(digest(&Path::new(out).join("small-1-small.raw")), built);
    tag_schema(&*remote(&scene.remote), &first);
}

/// Without a referrers API they are listed as the distribution-spec has it fall back.
fn tag_schema(remote: &dyn Remote, image: &slipform::base::Digest) {
    let tag = format!("sha256-{}", image.hex());
    let index = remote.tagged(&tag).unwrap().unwrap();
    let listed = Index::parse(&index.bytes).unwrap().manifests;
    assert_eq!(listed.len(), 3);
    for descriptor in &listed {
        let document = remote.manifest(&descriptor.digest).unwrap().unwrap();
        assert_eq!(document.subject(), Some(*image));
        let manifest = Manifest::parse(&document.bytes).unwrap();
        assert_eq!(manifest.artifact_type, descriptor.artifact_type);
    }
    let mut listed = listed;
    listed.sort_by_key(|descriptor| descriptor.digest);
    assert_eq!(remote.referrers(image).unwrap(), listed);
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap()
}

/// The channel as a reader finds it: whole down to the newest release's last blob, or
/// not there yet. The number of records.
fn records(remote: &dyn Remote, keys: &[PublicKey], round: &str) -> usize {
    match History::read(remote, "candidate", keys) {
        Ok(history) => {
            let newest = &history.entries[0];
            let images = newest.record.images.iter();
            let named = images.flat_map(|image| [Some(image.image), image.attestations]);
            for digest in named.flatten().chain([newest.digest]) {
                let document = remote.manifest(&digest).unwrap();
                let document = document.unwrap_or_else(|| panic!("{round}: no {digest}"));
                let manifest = Manifest::parse(&document.bytes).unwrap();
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    let there = remote.has_blob(&blob.digest).unwrap();
                    assert!(there, "{round}: no {} of {digest}", blob.digest);
                }
            }
            history.entries.len()
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("there is no channel"), "{round}: {error}");
            0
        }
    }
}

/// The n-th request of a publish is seen and done, and the publisher is killed while
/// it waits for the answer.
fn kill_at(scene: &Scene, proxy: &FaultProxy, n: usize) -> bool {
    proxy.fault_at(n, Fault::Delay(Duration::from_secs(5)));
    let args = ["--quiet", "publish"];
    let mut command = scene.world.command(&scene.dir, &args);
    command
        .env("SLIPFORM_REMOTE", format!("oci://{}/app", proxy.address()))
        .env("SLIPFORM_BY", "ann")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut publisher = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while proxy.requests().len() <= n && publisher.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it neither ends nor asks");
        std::thread::sleep(Duration::from_micros(200));
    }
    // Until the registry has done what it was asked for.
    std::thread::sleep(Duration::from_millis(100));
    publisher.kill().unwrap();
    publisher.wait().unwrap().signal() == Some(9)
}

#[test]
fn killed_at_any_request_the_channel_reads_well_and_a_retry_completes() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.tested();
    let keys = [scene.key().public().clone()];
    let proxy = FaultProxy::new(registry.address());
    scene.remote = format!("oci://{}/app", proxy.address());
    scene.publish(&[]);
    // The first one has more to ask than those after it.
    scene.change("<h1>counted</h1>\n");
    scene.tested();
    proxy.reset();
    scene.publish(&[]);
    let asked = proxy.requests();
    let count = asked.len();
    // Nightly each request in turn; otherwise one of each step: a blob, the documents,
    // the list of referrers, the record, the channel, and after it.
    let at = |what: &str| asked.iter().position(|asked| asked.starts_with(what));
    let channel = "PUT /v2/app/manifests/candidate";
    let some = [
        at("PATCH "),
        at("PUT /v2/app/manifests/sha256:"),
        at("PUT /v2/app/manifests/sha256-"),
        at(&format!("{channel}.")),
        asked.iter().position(|asked| asked == channel),
        Some(count - 1),
    ];
    let points: Vec<usize> = if is_nightly() {
        (0..count).collect()
    } else {
        some.map(Option::unwrap).into()
    };
    let mut killed = 0;
    for (round, n) in points.iter().enumerate() {
        scene.change(&format!("<h1>round {round}</h1>\n"));
        scene.tested();
        let direct = remote(&registry.uri("app"));
        let before = records(&*direct, &keys, "before");
        proxy.reset();
        let was_killed = kill_at(&scene, &proxy, *n);
        killed += usize::from(was_killed);
        let name = format!("request {n} of {count}");
        let there = records(&*direct, &keys, &name);
        assert!(there == before || there == before + 1, "{name}");
        proxy.reset();
        let again = scene.publish(&[]);
        let after = records(&*direct, &keys, &name);
        assert_eq!(
            after,
            before + 1,
            "{name}: told once, whether by both or by one"
        );
        assert_eq!(number(&again["sequence"]) as usize, after, "{name}");
    }
    assert!(killed * 2 > points.len(), "{killed} of {}", points.len());
    figures(&format!(
        "{killed} of {} publishers were killed, {count} requests",
        points.len()
    ));
}

#[test]
fn what_the_registry_lost_or_changed_is_refused() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.remote = registry.uri("app");
    let image = scene.tested();
    scene.publish(&[]);
    let key = scene.world.path("home/.config/slipform/key.pub");
    let manifest = remote(&scene.remote).manifest(&image).unwrap().unwrap();
    let manifest = Manifest::parse(&manifest.bytes).unwrap();
    let largest = manifest.layers.iter().max_by_key(|layer| layer.size);
    let path = registry.blob(&largest.unwrap().digest.hex());
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    for (round, bytes) in [Some(bad), Some(good[1..].to_vec()), None]
        .iter()
        .enumerate()
    {
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let store = scene.world.path(&format!("store {round}"));
        let out = scene.world.path(&format!("out {round}"));
        let [key, store, out_] = [&key, &store, &out].map(|path| path.to_str().unwrap());
        let pull = [
            "--store",
            store,
            "pull",
            "candidate",
            "--key",
            key,
            "--out",
            out_,
        ];
        let outcome = scene.run(&pull);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let named = outcome
            .stderr
            .contains(&largest.unwrap().digest.hex()[..12]);
        assert!(named, "{outcome:?}");
        assert!(!out.join("small-1-small.raw").exists());
    }
}
