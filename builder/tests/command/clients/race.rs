//! Two publishers at once, where nothing compares and swaps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use slipform::attest::{Signer, Trust};
use slipform::channel::{ChannelError, History, Kind};
use slipform::pipeline::{PipelineError, Wanted};
use slipform::publish::PublishError;

use super::parts::{Moto, Registry};
use super::{figures, is_nightly};
use crate::common::scene::Scene;

/// What was told to be done, and how often one of both gave way.
fn promote(scene: &Scene, uri: &str, who: &str, rounds: usize) -> (BTreeSet<String>, usize) {
    let (settings, key) = (scene.settings(), scene.key());
    let trust = Trust::new(vec![key.public().clone()]);
    let remote = scene.remote_at(uri);
    let (mut told, mut lost) = (BTreeSet::new(), 0);
    for round in 0..rounds {
        let why = format!("{who} {round}");
        let wanted = Wanted {
            channel: "stable",
            kind: Kind::Promote,
            who,
            why: &why,
            parameter: None,
        };
        let reference = "candidate".parse().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match settings.promote(&*remote, &reference, &wanted, &trust, &key) {
                Ok(_) => break,
                Err(PipelineError::Publish(PublishError::Channel(ChannelError::Lost {
                    ..
                }))) => lost += 1,
                Err(error) => panic!("{why}: {error}"),
            }
            assert!(Instant::now() < end, "{why}: it always loses");
            std::thread::sleep(Duration::from_millis(20));
        }
        told.insert(why);
    }
    (told, lost)
}

/// Two publishers, `rounds` each: what they were told is what the channel says.
fn race(scene: &Scene, rounds: usize) {
    let uri = scene.remote.as_str();
    let begun = Instant::now();
    let ((ann, ann_lost), (bob, bob_lost)) = std::thread::scope(|scope| {
        let ann = scope.spawn(|| promote(scene, uri, "ann", rounds));
        let bob = scope.spawn(|| promote(scene, uri, "bob", rounds));
        (ann.join().unwrap(), bob.join().unwrap())
    });
    let keys = [scene.key().public().clone()];
    let history = History::read(&*scene.remote_at(uri), "stable", &keys).unwrap();
    let whys: Vec<String> = history
        .entries
        .iter()
        .map(|e| e.record.why.clone())
        .collect();
    let all: BTreeSet<String> = whys.iter().cloned().collect();
    assert_eq!(all, ann.union(&bob).cloned().collect(), "no record is lost");
    assert_eq!(whys.len(), all.len(), "and none is there twice: {whys:?}");
    figures(&format!(
        "{} records in {:.1} s; ann lost {ann_lost} times, bob {bob_lost}",
        whys.len(),
        begun.elapsed().as_secs_f64()
    ));
}

fn rounds() -> usize {
    if is_nightly() { 30 } else { 3 }
}

#[test]
fn two_publishers_at_a_registry_lose_nothing() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.remote = registry.uri("app");
    scene.tested();
    scene.publish(&[]);
    race(&scene, rounds());
}

#[test]
fn two_publishers_at_an_object_store_lose_nothing() {
    let Some(moto) = Moto::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.remote = "s3://bucket/app".to_owned();
    scene.variables = moto.variables(moto.address());
    scene.tested();
    scene.publish(&[]);
    race(&scene, rounds());
}
