//! Images of a cloud against a strict AWS of our own: what is sent is what was attested,
//! only what differs from the parent, once, whatever is cut off.

use std::collections::BTreeMap;

use slipform::attest::{self, Attested};
use slipform::base::Digest;
use slipform::base::progress::Quiet;
use slipform::disk::map::MAP_SCHEMA;
use slipform::disk::{DiskMap, DiskReader, Extent, ExtentContent};
use slipform::publish::cloud::{Ami, AwsTarget, Casting, CloudCall, Made, Parent, dry_run, switch};
use slipform::publish::{PublishError, Release};
use slipform::remote::RemoteOptions;
use slipform::remote::aws::Aws;
use slipform::remote::aws::ec2::BootMode;
use slipform::remote::testing::{AwsRules, Fault, FaultProxy, TestAws, quick};
use slipform::sources::Host;
use slipform::store::Store;

const BLOCK: u64 = 512 * 1024;
const BOARD: &str = "aws-x86_64";

/// A store with a disk of a base, which stays, and an app.
pub(crate) struct Scene {
    _folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) disk: DiskMap,
    attested: Attested,
    release: Release,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        Self::on(folder, store, b"first")
    }

    fn on(folder: tempfile::TempDir, store: Store, app: &[u8]) -> Self {
        let base = store.put(&pattern(1, 5 * BLOCK)).unwrap();
        let app = store.put(&pattern(app[0], BLOCK + 100)).unwrap();
        let extent = |offset, length, digest| Extent {
            offset,
            length,
            content: ExtentContent::Blob { digest, offset: 0 },
        };
        let disk = DiskMap {
            schema: MAP_SCHEMA,
            sector_size: 512,
            size: 32 * BLOCK,
            extents: vec![
                extent(2 * BLOCK, 5 * BLOCK, base),
                extent(20 * BLOCK, BLOCK + 100, app),
            ],
        };
        let image = disk.digest();
        let images = vec![(BOARD.to_owned(), image, None)];
        Self {
            attested: attest::force(images, "a test of the way, not of the image").unwrap(),
            release: Release {
                name: "web".to_owned(),
                version: "1.0~rc1".to_owned(),
                digest: image,
                lock: image,
                tests: BTreeMap::new(),
            },
            _folder: folder,
            store,
            disk,
        }
    }

    /// The next release of the same project, in the same store.
    pub(crate) fn next(self) -> (Self, Parent) {
        let disk = self.disk.clone();
        let next = Self::on(self._folder, self.store, b"second");
        let snapshot = String::new();
        (next, Parent { snapshot, disk })
    }

    pub(crate) fn casting<'a>(&'a self, parent: Option<&'a Parent>) -> Casting<'a> {
        Casting {
            image: &self.attested.images()[0],
            release: &self.release,
            arch: "x86_64",
            boot: BootMode::Uefi,
            disk: &self.disk,
            parent,
        }
    }

    fn make(&self, aws: &Aws, to: &str, parent: Option<&Parent>) -> Result<Made, PublishError> {
        let target: AwsTarget = to.parse().unwrap();
        let target = target.shared(&["210987654321".to_owned()]).unwrap();
        self.ami(aws, &target).make(&self.casting(parent))
    }

    fn ami<'a>(&'a self, aws: &'a Aws, target: &'a AwsTarget) -> Ami<'a> {
        Ami {
            store: &self.store,
            aws,
            target,
            progress: &Quiet,
        }
    }

    /// The disk's bytes.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut reader = DiskReader::new(&self.store, &self.disk);
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        bytes
    }

    /// The sums of the disk's blocks that are not zero.
    fn blocks(&self) -> BTreeMap<u32, Digest> {
        let mut reader = DiskReader::new(&self.store, &self.disk);
        let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
        let mut found = BTreeMap::new();
        for index in 0..u32::try_from(self.disk.size / BLOCK).unwrap() {
            std::io::Read::read_exact(&mut reader, &mut block).unwrap();
            if block.iter().any(|b| *b != 0) {
                found.insert(index, Digest::of(&block));
            }
        }
        found
    }
}

fn pattern(seed: u8, length: u64) -> Vec<u8> {
    let seed = u32::from(seed);
    (0..u32::try_from(length / 4).unwrap())
        .flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes())
        .collect()
}

fn client(service: &TestAws, at: std::net::SocketAddr) -> Aws {
    client_with(service, at, quick())
}

fn client_with(service: &TestAws, at: std::net::SocketAddr, options: RemoteOptions) -> Aws {
    let variables = service.variables(at);
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    Aws::open(&Host::fake("/nowhere", &variables), options).unwrap()
}

fn direct(service: &TestAws) -> Aws {
    client(service, service.address())
}

#[test]
fn the_attested_disk_becomes_one_image_in_every_region() {
    let scene = Scene::new();
    let service = TestAws::new(AwsRules::default());
    let aws = direct(&service);
    let made = scene
        .make(&aws, "aws://eu-central-1,us-east-1", None)
        .unwrap();
    let blocks = scene.blocks();
    assert_eq!(made.blocks, (blocks.len(), blocks.len()));
    assert_eq!(made.moved, blocks.len() as u64 * BLOCK);
    let regions: Vec<&str> = made.images.iter().map(|image| &*image.region).collect();
    assert_eq!(regions, ["eu-central-1", "us-east-1"]);
    for image in &made.images {
        assert_eq!(service.disk(&image.id), blocks, "{image:?}");
        let (_, shared) = service.image(&image.id);
        assert!(shared.contains("210987654321"));
        assert!(image.snapshot.is_some());
    }
    let (said, _) = service.image(&made.images[0].id);
    for (name, value) in [
        ("Architecture", "x86_64"),
        ("BootMode", "uefi"),
        ("TpmSupport", "v2.0"),
        ("ImdsSupport", "v2.0"),
        ("EnaSupport", "true"),
    ] {
        assert_eq!(said[name], value);
    }
    assert!(
        said["Name"].starts_with("web-1.0-rc1-aws-x86_64-"),
        "{said:?}"
    );
    // Once more: nothing is made, nothing is sent.
    service.forget();
    let again = scene
        .make(&aws, "aws://eu-central-1,us-east-1", None)
        .unwrap();
    assert_eq!((again.images, again.moved), (made.images.clone(), 0));
    assert_eq!(
        service.count("PutSnapshotBlock") + service.count("RegisterImage"),
        0
    );
    // The parameter names it, in each region its own.
    assert_eq!(switch(&aws, "/web/stable", &made.images).unwrap(), 2);
    assert_eq!(switch(&aws, "/web/stable", &made.images).unwrap(), 0);
    for image in &made.images {
        let named = service.parameter(&image.region, "/web/stable");
        assert_eq!(named.as_deref(), Some(&*image.id));
    }
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn the_next_release_moves_only_the_blocks_that_changed() {
    let service = TestAws::new(AwsRules::default());
    let aws = direct(&service);
    let scene = Scene::new();
    let first = scene.make(&aws, "aws://eu-central-1", None).unwrap();
    let before = scene.blocks();
    let (scene, mut parent) = scene.next();
    parent.snapshot = first.images[0].snapshot.clone().unwrap();
    let second = scene
        .make(&aws, "aws://eu-central-1", Some(&parent))
        .unwrap();
    let blocks = scene.blocks();
    let changed = blocks
        .iter()
        .filter(|(at, sum)| before.get(at) != Some(sum))
        .count();
    assert_eq!(second.blocks, (blocks.len(), changed));
    assert!(
        second.moved * 10 <= changed as u64 * BLOCK * 11,
        "{} bytes moved for {changed} blocks",
        second.moved
    );
    assert_eq!(service.disk(&second.images[0].id), blocks);
    // A parent that is gone, or of another disk, costs the whole and not the image.
    parent.snapshot = "snap-0".to_owned();
    let other = TestAws::new(AwsRules::default());
    let whole = scene
        .make(&direct(&other), "aws://eu-central-1", Some(&parent))
        .unwrap();
    assert_eq!(whole.moved, blocks.len() as u64 * BLOCK);
    assert_eq!(service.complaints(), Vec::<String>::new());
}

/// Interrupted at every call, by a connection cut before or behind it, from then on as a
/// killed process would be: the next run ends with exactly one image.
#[test]
fn interrupted_at_every_call_the_next_run_ends_with_one_image() {
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some();
    let to = "aws://eu-central-1,us-east-1";
    let scene = Scene::new();
    let service = TestAws::new(AwsRules::default());
    let proxy = FaultProxy::new(service.address());
    scene
        .make(&client(&service, proxy.address()), to, None)
        .unwrap();
    let calls = proxy.requests().len();
    let all = scene.blocks().len();
    let mut faults = vec![Fault::CutBefore, Fault::CutAnswer];
    if nightly {
        faults = Fault::all();
        faults.retain(|fault| !matches!(fault, Fault::Delay(_)));
    }
    let hasty = RemoteOptions {
        retries: 0,
        ..quick()
    };
    let mut failed = 0;
    for at in 0..calls {
        for fault in &faults {
            let case = format!("{fault:?} from call {at} of {calls} on");
            // What an earlier case wrote down is about other snapshots.
            let service = TestAws::new(AwsRules::default());
            let proxy = FaultProxy::new(service.address());
            proxy.fault_from(at, fault.clone());
            let once = scene.make(&client_with(&service, proxy.address(), hasty), to, None);
            failed += usize::from(once.is_err());
            let put = service.count("PutSnapshotBlock");
            let made = scene.make(&direct(&service), to, None);
            let made = made.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(service.images().len(), 2, "{case}");
            assert_eq!(service.disk(&made.images[0].id), scene.blocks(), "{case}");
            // Blocks whose answer came are not sent again.
            let again = service.count("PutSnapshotBlock") - put;
            if *fault == Fault::CutBefore {
                assert!(put + again <= all, "{case}: {put} and {again} of {all}");
            }
            if *fault != Fault::CorruptRequest {
                assert_eq!(service.complaints(), Vec::<String>::new(), "{case}");
            }
        }
    }
    assert!(failed * 2 > calls, "{failed} were disturbed");
}

#[test]
fn a_service_that_throttles_and_fails_now_and_then_gets_all_of_it_slower() {
    let scene = Scene::new();
    let rules = AwsRules {
        trouble: 4,
        burst: 3,
        ..AwsRules::default()
    };
    let service = TestAws::new(rules);
    let options = RemoteOptions {
        retries: 8,
        ..quick()
    };
    let aws = client_with(&service, service.address(), options);
    let made = scene
        .make(&aws, "aws://eu-central-1,us-east-1", None)
        .unwrap();
    assert_eq!(service.images().len(), 2);
    assert_eq!(service.disk(&made.images[1].id), scene.blocks());
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_snapshot_that_was_given_up_or_deleted_is_begun_anew() {
    for (delete, word) in [(false, "given up"), (true, "deleted")] {
        let scene = Scene::new();
        let service = TestAws::new(AwsRules::default());
        let proxy = FaultProxy::new(service.address());
        // Cut in the midst of the blocks.
        proxy.fault_from(6, Fault::CutBefore);
        let cut = scene.make(
            &client(&service, proxy.address()),
            "aws://eu-central-1",
            None,
        );
        assert!(cut.is_err(), "{word}");
        if delete {
            service.delete_snapshots();
        } else {
            service.time_out();
        }
        let made = scene
            .make(&direct(&service), "aws://eu-central-1", None)
            .unwrap();
        assert_eq!(service.disk(&made.images[0].id), scene.blocks(), "{word}");
        assert_eq!(service.images().len(), 1, "{word}");
    }
}

/// What one of the service's servers begins, another does not know at once.
#[test]
fn a_snapshot_that_is_not_known_at_once_is_waited_for_and_not_begun_again() {
    let scene = Scene::new();
    let service = TestAws::new(AwsRules {
        settle: 4,
        ..AwsRules::default()
    });
    let made = scene
        .make(&direct(&service), "aws://eu-central-1", None)
        .unwrap();
    assert_eq!(service.disk(&made.images[0].id), scene.blocks());
    assert_eq!(service.count("StartSnapshot"), 1);
    assert_eq!(service.snapshots().len(), 1);
}

#[test]
fn the_longest_names_fit_the_service() {
    let mut scene = Scene::new();
    scene.release.name = "n".repeat(80);
    scene.release.version = "1~ä".repeat(20);
    let service = TestAws::new(AwsRules::default());
    let made = scene
        .make(&direct(&service), "aws://eu-central-1", None)
        .unwrap();
    let (said, _) = service.image(&made.images[0].id);
    assert!(
        said["Name"].len() <= 128 && said["Name"].is_ascii(),
        "{said:?}"
    );
    assert_eq!(service.complaints(), Vec::<String>::new());
}

/// Encrypted since then, for one: the service does not build on the parent that it has.
#[test]
fn a_parent_that_the_service_refuses_costs_the_whole_disk() {
    let service = TestAws::new(AwsRules::default());
    let aws = direct(&service);
    let scene = Scene::new();
    let first = scene.make(&aws, "aws://eu-central-1", None).unwrap();
    let (scene, mut parent) = scene.next();
    parent.snapshot = first.images[0].snapshot.clone().unwrap();
    service.refuse_parent(&parent.snapshot);
    let second = scene
        .make(&aws, "aws://eu-central-1", Some(&parent))
        .unwrap();
    assert_eq!(second.moved, scene.blocks().len() as u64 * BLOCK);
    assert_eq!(service.disk(&second.images[0].id), scene.blocks());
}

#[test]
fn a_journal_that_is_wrong_costs_the_blocks_and_not_the_image() {
    let scene = Scene::new();
    let service = TestAws::new(AwsRules::default());
    let proxy = FaultProxy::new(service.address());
    proxy.fault_from(6, Fault::CutBefore);
    let cut = scene.make(
        &client(&service, proxy.address()),
        "aws://eu-central-1",
        None,
    );
    assert!(cut.is_err());
    let folder = scene.store.root().join("clouds");
    let journal = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(journal.path()).unwrap();
    let snapshot = text.lines().next().unwrap();
    let all: String = scene.blocks().keys().map(|at| format!("{at}\n")).collect();
    std::fs::write(journal.path(), format!("{snapshot}\n{all}")).unwrap();
    let made = scene
        .make(&direct(&service), "aws://eu-central-1", None)
        .unwrap();
    assert_eq!(service.disk(&made.images[0].id), scene.blocks());
    assert_eq!(service.images().len(), 1);
    assert!(!journal.path().exists());
}

#[test]
fn a_name_that_is_somebody_elses_is_said() {
    let scene = Scene::new();
    let service = TestAws::new(AwsRules::default());
    let aws = direct(&service);
    let made = scene.make(&aws, "aws://eu-central-1", None).unwrap();
    service.retag(&made.images[0].id, "slipform:image", "sha256:other");
    let error = scene.make(&aws, "aws://eu-central-1", None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is taken in eu-central-1 by ami-"), "{text}");
    assert!(text.contains("deregister it"), "{text}");
}

#[test]
fn a_dry_run_shows_the_very_calls_and_sends_none() {
    let scene = Scene::new();
    let service = TestAws::new(AwsRules {
        pending: 0,
        ..AwsRules::default()
    });
    let aws = direct(&service);
    let target: AwsTarget = "aws://eu-central-1,us-east-1".parse().unwrap();
    let target = target.shared(&["210987654321".to_owned()]).unwrap();
    let ami = scene.ami(&aws, &target);
    let dry = dry_run(&ami, &scene.casting(None), Some("/web/stable")).unwrap();
    assert_eq!(service.seen(), []);
    assert_eq!(dry.bytes, scene.blocks().len() as u64 * BLOCK);
    let made = ami.make(&scene.casting(None)).unwrap();
    switch(&aws, "/web/stable", &made.images).unwrap();
    // As they were sent, but for the ids that only answers tell.
    let unnamed = |text: &str| {
        let is_id = |word: &&str| text.starts_with(word);
        let known = ["snap-", "ami-"].into_iter().find(is_id);
        known.map_or_else(|| text.to_owned(), |kind| format!("{kind}…"))
    };
    let mut shown: Vec<String> = Vec::new();
    for call in &dry.calls {
        let CloudCall::Aws(call) = call else {
            panic!("{call}");
        };
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => unnamed(text),
            other => other.to_string(),
        };
        let said: BTreeMap<&String, String> =
            call.parameters.iter().map(|(k, v)| (k, text(v))).collect();
        shown.push(format!("{} {} {said:?}", call.action, call.region));
    }
    let mut sent: Vec<String> = Vec::new();
    for seen in service.seen() {
        let said: BTreeMap<&String, String> = seen
            .parameters
            .iter()
            .map(|(k, v)| (k, unnamed(v)))
            .collect();
        sent.push(format!("{} {} {said:?}", seen.action, seen.region));
    }
    // A token stands for ids, too.
    let tokenless = |text: &String| match text.split_once("\"ClientToken\": ") {
        Some((before, after)) if text.starts_with("CopyImage") => {
            format!("{before}{}", after.split_once(',').unwrap().1)
        }
        _ => text.clone(),
    };
    let order = |list: &[String]| {
        let mut list: Vec<String> = list.iter().map(tokenless).collect();
        // Blocks go several at a time.
        list.sort();
        list
    };
    assert_eq!(order(&shown), order(&sent));
}
