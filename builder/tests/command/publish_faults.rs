//! Publishing while the network, or the publisher itself, dies: at every moment the
//! channel names the old release or the new one, and a retry completes.

use std::fs;

use crate::common::digest;
use crate::common::scene::{Scene, copy_tree, publish_to, remote};
use slipform::attest::Signer;
use slipform::channel::History;
use slipform::remote::testing::{Fault, FaultProxy, RegistryRules, TestRegistry};

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
        assert_eq!(history.entries.len(), 1, "{round}");
        // The server itself was never asked for anything that it must not be.
        if *fault != Fault::CorruptRequest {
            assert_eq!(registry.complaints(), Vec::<String>::new(), "{round}");
        }
    }
    assert!(failed > tried / 2, "{failed} of {tried} were disturbed");
}

#[test]
fn killed_at_any_write_of_a_local_publish_the_channel_reads_whole_and_a_retry_ends_well() {
    let mut scene = Scene::new();
    let first = scene.tested();
    scene.publish(&["--why", "the first"]);
    scene.change("<h1>second</h1>\n");
    let second = scene.tested();
    let keys = [scene.key().public().clone()];
    let (store, published) = (scene.world.store(), scene.world.path("published"));
    let (store_before, before) = (scene.world.path("store.0"), scene.world.path("published.0"));
    copy_tree(&store, &store_before);
    copy_tree(&published, &before);
    let again = |scene: &mut Scene, variable: &str, value: &str| {
        copy_tree(&store_before, &store);
        copy_tree(&before, &published);
        scene.variables = vec![(variable.to_owned(), value.to_owned())];
        let outcome = scene.run(&["publish", "--json"]);
        scene.variables.clear();
        outcome
    };
    let counted = scene.world.path("points");
    again(
        &mut scene,
        "SLIPFORM_TEST_COUNT_IN",
        counted.to_str().unwrap(),
    )
    .good();
    let points = fs::metadata(&counted).unwrap().len();
    assert!(points > 50, "only {points} points");
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some();
    let (mut old, mut new) = (0, 0);
    for at in (0..points).rev().step_by(if nightly { 1 } else { 7 }) {
        let case = format!("point {at} of {points}");
        let killed = again(&mut scene, "SLIPFORM_TEST_KILL_AT", &at.to_string());
        assert_eq!(killed.signal, Some(9), "{case}: {killed:?}");
        let history = History::read(&*remote(&scene.remote), "candidate", &keys);
        let history = history.unwrap_or_else(|error| panic!("{case}: {error}"));
        let head = history.entries[0].record.release;
        match history.entries.len() {
            1 => assert_eq!(head, first, "{case}"),
            2 => assert_eq!(head, second, "{case}"),
            n => panic!("{case}: {n} records"),
        }
        old += usize::from(head == first);
        new += usize::from(head == second);
        for blob in crate::common::files(&published.join("blobs/sha256")) {
            let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(digest(&blob).hex(), name, "{case}");
        }
        // Who was told nothing asks again.
        scene.run(&["publish"]).good();
        let history = History::read(&*remote(&scene.remote), "candidate", &keys).unwrap();
        assert_eq!(history.entries[0].record.release, second, "{case}");
        assert_eq!(history.entries.len(), 2, "{case}");
        assert_eq!(
            crate::common::files(&published.join("tmp")).len(),
            0,
            "{case}"
        );
    }
    // Both sides of the switch were seen.
    assert!(old > 0 && new > 0, "{old} old, {new} new");
}
