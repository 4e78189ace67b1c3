//! What is kept and what goes.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::base::progress::Quiet;
use crate::store::{Descriptor, Manifest, Outputs, Step, StepLog, StepState};

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn collect(&self, dry_run: bool) -> Collected {
        let guard = self.store.exclusive(&Quiet).unwrap();
        self.store.collect(&guard, dry_run).unwrap()
    }

    /// A named image of one layer, whose disk map names a further blob.
    fn image(&self, name: &str) -> [Digest; 4] {
        let put = |text: String| self.store.put(text.as_bytes()).unwrap();
        let extent = put(format!("extent of {name}"));
        let map = put(format!(r#"{{"extents":[[0,9,"{extent}"]]}}"#));
        let layer = put(format!("layer of {name}"));
        let manifest = self
            .store
            .put_manifest(&Manifest::artifact(
                "application/x",
                Descriptor::new("application/map", map, 1),
                vec![Descriptor::new("application/layer", layer, 1)],
            ))
            .unwrap();
        self.store.tag(name, &manifest).unwrap();
        [manifest.digest, map, layer, extent]
    }
}

#[test]
fn a_named_image_keeps_all_that_it_reaches_and_the_rest_goes() {
    let bench = Bench::new();
    let (kept, gone) = (bench.image("kept"), bench.image("gone"));
    let loose = bench.store.put(b"loose").unwrap();
    bench.store.untag("gone").unwrap();

    let planned = bench.collect(true);
    assert_eq!((planned.removed, planned.kept), (5, 4));
    assert!(planned.bytes > 0);
    assert!(bench.store.has(&loose), "a dry run removes nothing");

    assert_eq!(bench.collect(false), planned);
    assert!(kept.iter().all(|digest| bench.store.has(digest)));
    assert!(!gone.iter().any(|digest| bench.store.has(digest)));
    assert!(!bench.store.has(&loose));
    assert_eq!(bench.collect(false).removed, 0);
}

#[test]
fn a_project_keeps_its_blobs_as_long_as_its_file_is_there() {
    let bench = Bench::new();
    let lock = bench.folder.path().join("slipform.lock");
    fs::write(&lock, "").unwrap();
    let deb = bench.store.put(b"!<arch>\n").unwrap();
    let tools = Digest::of("tools");
    let unpacked = bench.store.unpacked(&tools);
    fs::create_dir_all(unpacked.join("usr/bin")).unwrap();
    fs::write(unpacked.join("usr/bin/qemu"), "x").unwrap();
    fs::set_permissions(unpacked.join("usr/bin"), fs::Permissions::from_mode(0o555)).unwrap();
    let root = Root {
        path: lock.clone(),
        digests: BTreeSet::from([deb, tools]),
    };
    bench.store.set_root(&root).unwrap();
    bench.store.set_root(&root).unwrap();
    assert_eq!(
        bench
            .store
            .roots()
            .unwrap()
            .into_values()
            .collect::<Vec<_>>(),
        [root]
    );

    assert_eq!(bench.collect(false).removed, 0);
    assert!(bench.store.has(&deb) && unpacked.exists());

    fs::remove_file(&lock).unwrap();
    let done = bench.collect(false);
    assert_eq!((done.removed, done.dropped_roots), (2, vec![lock]));
    assert!(!bench.store.has(&deb) && !unpacked.exists());
}

#[test]
fn a_name_beside_something_goes_when_nothing_keeps_that() {
    let bench = Bench::new();
    let store = &bench.store;
    let lock = bench.folder.path().join("slipform.lock");
    fs::write(&lock, "").unwrap();
    let manifest = |text: &str| {
        let blob = store.put(text.as_bytes()).unwrap();
        let layers = vec![Descriptor::new("application/x", blob, 1)];
        store
            .put_manifest(&Manifest::artifact("x/y", Descriptor::empty(), layers))
            .unwrap()
    };
    let [image, old] = ["image", "old image"].map(manifest);
    for (image, name) in [(&image, "new"), (&old, "old")] {
        let attestation = manifest(&format!("attestation of {name}"));
        store.tag_beside(name, image, &image.digest).unwrap();
        let name = format!("{name}.att");
        store
            .tag_beside(&name, &attestation, &image.digest)
            .unwrap();
    }
    let root = Root {
        path: lock.clone(),
        digests: BTreeSet::from([image.digest]),
    };
    store.set_root(&root).unwrap();

    let names = || -> Vec<String> {
        let index = store.index().unwrap();
        let name = |d: &Descriptor| d.annotations[crate::store::oci::REF_NAME].clone();
        index.manifests.iter().map(name).collect()
    };
    assert_eq!(bench.collect(true).dropped_names, 2);
    assert_eq!(names(), ["new", "new.att", "old", "old.att"]);
    // Manifest and blob, of image and attestation.
    let done = bench.collect(false);
    assert_eq!((done.dropped_names, done.removed), (2, 4));
    assert_eq!(names(), ["new", "new.att"]);
    assert_eq!(bench.collect(false).removed, 0);

    fs::remove_file(&lock).unwrap();
    bench.collect(false);
    assert_eq!(names(), [""; 0]);
    assert!(!store.has(&image.digest));
}

#[test]
fn steps_go_with_their_results_and_damaged_blobs_go() {
    let bench = Bench::new();
    let log = StepLog::default();
    let [manifest, ..] = bench.image("kept");
    let loose = bench.store.put(b"loose").unwrap();
    let steps = [("kept", manifest), ("loose", loose)].map(|(name, digest)| {
        let step = Step::new(name, "subject");
        let outputs = Outputs::from([("it".to_owned(), Output::Blob(digest))]);
        bench.store.record(&step, &outputs).unwrap();
        step
    });
    fs::write(bench.store.root().join("quarantine/x"), "bad").unwrap();
    bench.collect(false);
    assert!(matches!(
        bench.store.step(&steps[0], &log),
        StepState::Hit(_)
    ));
    assert!(matches!(
        bench.store.step(&steps[1], &log),
        StepState::Miss { .. }
    ));
    assert_eq!(
        list(&bench.store.root().join("quarantine")).unwrap().len(),
        0
    );
    assert_eq!(list(&bench.store.root().join("steps")).unwrap().len(), 1);
}

#[test]
fn a_root_that_cannot_be_read_stops_collecting() {
    let bench = Bench::new();
    let loose = bench.store.put(b"loose").unwrap();
    fs::write(bench.store.root().join("roots/broken.json"), "{").unwrap();
    let guard = bench.store.exclusive(&Quiet).unwrap();
    let error = bench.store.collect(&guard, false).unwrap_err().to_string();
    assert!(error.contains("broken.json"), "{error}");
    assert!(bench.store.has(&loose));
}

#[test]
fn finds_digests_in_any_text() {
    let digest = Digest::of("x");
    let text = format!("sha256:sha256:{digest}é,sha256:12 '{digest}'");
    assert_eq!(digests_in(&text).collect::<Vec<_>>(), [digest, digest]);
    assert_eq!(digests_in("sha256:é").count(), 0);
}
