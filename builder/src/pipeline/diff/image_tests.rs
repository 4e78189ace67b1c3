use std::path::PathBuf;

use slipform_init::contract::machine::{Ready, Restart, Scratch, Service};

use super::super::change::Mark;
use super::super::facts::{LayerFacts, LayerPlace, Package};
use super::super::side::Place;
use super::*;
use crate::base::Digest;
use crate::disk::{BootInfo, ImageInfo};

fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        exec: vec![format!("/usr/bin/{name}")],
        env: BTreeMap::new(),
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
        workdir: "/".to_owned(),
        restart: Restart::Always,
        ready: Ready::Started,
        ready_timeout_ms: 1000,
        after: Vec::new(),
        capabilities: Vec::new(),
        limits: BTreeMap::new(),
        stop_timeout_ms: 1000,
        ..Service::default()
    }
}

fn layer(name: &str, root_hash: &str, used: u64) -> LayerFacts {
    LayerFacts {
        name: name.to_owned(),
        root_hash: root_hash.to_owned(),
        place: Some(LayerPlace {
            offset: 0,
            partition: used + 4096,
            filesystem: used,
            used,
        }),
    }
}

fn package(name: &str, version: &str) -> Package {
    Package {
        layer: "app".to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: Digest::of(format!("{name} {version}")),
    }
}

fn facts() -> ImageFacts {
    let machine = Machine {
        schema: 1,
        name: "app".to_owned(),
        version: "1".to_owned(),
        board: "qemu".to_owned(),
        layers: Vec::new(),
        sysctl: BTreeMap::from([("vm.a".to_owned(), "1".to_owned())]),
        scratch: vec![Scratch {
            path: "/var/cache".to_owned(),
            size: 1 << 20,
            mode: 0o755,
            uid: 0,
            gid: 0,
        }],
        state: None,
        services: vec![service("web")],
        clock_floor: 5,
        panic_seconds: 10,
        debug: false,
        interfaces: Vec::new(),
        time_servers: Vec::new(),
        metadata: Vec::new(),
        metadata_timeout_ms: None,
        health: Default::default(),
        telemetry: None,
    };
    let boot = BootInfo {
        size: 1000,
        cmdline: "quiet".to_owned(),
        modules: vec!["a.ko".to_owned()],
        ..BootInfo::default()
    };
    ImageFacts {
        what: "an image".to_owned(),
        info: ImageInfo {
            size: 1 << 30,
            sector_size: 512,
            machine: Some(machine),
            boot: Some(boot),
            ..ImageInfo::default()
        },
        packages: Some(vec![package("one", "1.0"), package("two", "2.0")]),
        layers: vec![layer("base", "aa", 4096), layer("app", "bb", 8192)],
        place: Place::File(PathBuf::new()),
    }
}

fn machine(facts: &mut ImageFacts) -> &mut Machine {
    facts.info.machine.as_mut().unwrap()
}

fn told(changes: &[Change]) -> Vec<(Mark, &str, Vec<&str>)> {
    let told = |c: &'_ Change| c.fields.iter().map(|field| field.name).collect();
    changes
        .iter()
        .map(|change| (change.mark, change.name.as_str(), told(change)))
        .collect()
}

#[test]
fn an_image_is_the_same_as_itself_under_another_name() {
    let mut other = facts();
    other.what = "a copy".to_owned();
    let diff = ImageDiff::between(&facts(), &other).with_files(Ok(Vec::new()));
    assert!(diff.same, "{diff:?}");
    assert_eq!(diff.sizes.len(), 5);
    assert_eq!(diff.sizes[4].old, Some(1000 + 8192 + 12288));
}

#[test]
fn packages_move_come_and_go() {
    let mut new = facts();
    new.packages = Some(vec![package("one", "1.1"), package("three", "3")]);
    let diff = ImageDiff::between(&facts(), &new);
    assert!(!diff.same);
    assert_eq!(
        told(diff.packages.as_ref().unwrap()),
        [
            (Mark::Changed, "one", vec!["version", "sha256"]),
            (Mark::Added, "three", vec!["version", "layer", "sha256"]),
            (Mark::Removed, "two", vec!["version", "layer", "sha256"]),
        ]
    );
}

#[test]
fn packages_are_unknown_when_one_side_has_no_lock() {
    let mut new = facts();
    new.packages = None;
    let diff = ImageDiff::between(&facts(), &new);
    assert_eq!(diff.packages, None);
    assert!(diff.same);
}

#[test]
fn every_key_of_a_service_is_compared() {
    let value = serde_json::to_value(service("web")).unwrap();
    for key in value.as_object().unwrap().keys() {
        assert!(key == "name" || SERVICE.contains(&key.as_str()), "{key}");
    }
    let mut new = facts();
    machine(&mut new).services[0].exec.push("--port".to_owned());
    machine(&mut new).services.push(service("more"));
    let diff = ImageDiff::between(&facts(), &new);
    assert_eq!(
        (diff.services[0].mark, diff.services[0].name.as_str()),
        (Mark::Added, "more")
    );
    assert_eq!(
        told(&diff.services[1..]),
        [(Mark::Changed, "web", vec!["exec"])]
    );
}

#[test]
fn settings_boot_and_the_image_itself() {
    let mut new = facts();
    machine(&mut new)
        .sysctl
        .insert("vm.a".to_owned(), "2".to_owned());
    machine(&mut new).scratch[0].mode = 0o700;
    machine(&mut new).version = "2".to_owned();
    machine(&mut new).clock_floor = 6;
    new.info.boot.as_mut().unwrap().cmdline = "debug".to_owned();
    new.info.boot.as_mut().unwrap().size = 2000;
    let diff = ImageDiff::between(&facts(), &new);
    assert_eq!(
        told(&diff.settings),
        [
            (Mark::Changed, "clock floor", vec!["value"]),
            (Mark::Changed, "scratch /var/cache", vec!["mode"]),
            (Mark::Changed, "sysctl vm.a", vec!["value"]),
        ]
    );
    assert_eq!(diff.boot.len(), 1);
    assert_eq!(diff.boot[0].old, "quiet");
    assert_eq!(
        (diff.image[0].name, &diff.image[0].new),
        ("version", &json!("2"))
    );
    assert_eq!(diff.sizes[1].new, Some(2000));
}

#[test]
fn layers_change_by_root_hash_and_by_what_is_below_them() {
    let mut new = facts();
    new.layers[1] = layer("app", "cc", 8192);
    new.layers.push(layer("top", "dd", 4096));
    let diff = ImageDiff::between(&facts(), &new);
    assert_eq!(
        told(&diff.layers),
        [
            (Mark::Changed, "app", vec!["root hash"]),
            (
                Mark::Added,
                "top",
                vec!["root hash", "above", "used", "size"]
            ),
        ]
    );
    let mut turned = facts();
    turned.layers.reverse();
    let diff = ImageDiff::between(&facts(), &turned);
    assert_eq!(diff.layers.len(), 2);
}

#[test]
fn files_that_cannot_be_read_are_a_problem_and_not_a_difference() {
    let diff = ImageDiff::between(&facts(), &facts()).with_files(Err("broken".to_owned()));
    assert_eq!(diff.files, None);
    assert!(diff.same && diff.problems[0].ends_with("broken"));
    let mut lost = facts();
    lost.layers[0].place = None;
    let diff = ImageDiff::between(&facts(), &lost);
    assert!(!diff.same);
    assert!(diff.problems[0].contains("'base' is not on the disk"));
}
