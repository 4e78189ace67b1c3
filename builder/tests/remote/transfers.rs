//! Many blobs at a time, there and back.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use slipform::base::Progress;
use slipform::base::progress::Task;
use slipform::remote::testing::{Fault, FaultProxy, RegistryRules, TestRegistry};
use slipform::remote::{Piece, RemoteError, download_all, plan_upload, upload_all};
use slipform::store::Store;

use crate::open;

#[derive(Debug, Default)]
struct Heard {
    notes: Mutex<Vec<String>>,
    moved: Arc<AtomicU64>,
}

struct Counter(Arc<AtomicU64>);

impl Task for Counter {
    fn advance(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Progress for Heard {
    fn begin(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(Counter(self.moved.clone()))
    }
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
}

fn store_with(count: u32) -> (tempfile::TempDir, Store, Vec<Piece>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let pieces = (0..count)
        .map(|n| {
            let bytes = n.to_le_bytes().repeat(1 + 5_000 * (n as usize % 7));
            let digest = store.put(&bytes).unwrap();
            Piece {
                digest,
                size: bytes.len() as u64,
            }
        })
        .collect();
    (folder, store, pieces)
}

#[test]
fn only_what_is_missing_moves_and_it_is_said_first() {
    let (_folder, store, mut pieces) = store_with(30);
    pieces.push(pieces[3]);
    let registry = TestRegistry::new(RegistryRules::default());
    let remote = open(&registry.uri("a"), &[]);
    upload_all(&store, &*remote, &pieces[..10], &Heard::default()).unwrap();

    let heard = Heard::default();
    let plan = upload_all(&store, &*remote, &pieces, &heard).unwrap();
    assert_eq!((plan.missing.len(), plan.present), (20, 10));
    assert_eq!(heard.moved.load(Ordering::Relaxed), plan.bytes());
    let note = heard.notes.lock().unwrap()[0].clone();
    assert!(
        note.contains("20 blobs") && note.contains("to send; 10 blobs"),
        "{note}"
    );
    assert!(plan_upload(&*remote, &pieces).unwrap().missing.is_empty());

    let (_other, empty, _) = store_with(5);
    let heard = Heard::default();
    let plan = download_all(&*remote, &empty, &pieces, &heard).unwrap();
    assert_eq!((plan.missing.len(), plan.present), (25, 5));
    assert_eq!(heard.moved.load(Ordering::Relaxed), plan.bytes());
    for piece in &pieces {
        assert_eq!(
            empty.read(&piece.digest).unwrap(),
            store.read(&piece.digest).unwrap()
        );
    }
}

#[test]
fn what_arrives_damaged_is_fetched_again_and_refused_the_second_time() {
    let (_folder, store, pieces) = store_with(1);
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    let remote = open(&format!("oci://{}/a", proxy.address()), &[]);
    upload_all(&store, &*remote, &pieces, &Heard::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = Store::open(folder.path()).unwrap();
    proxy.reset();
    proxy.fault_from(0, Fault::Corrupt);
    let error = download_all(&*remote, &other, &pieces, &Heard::default()).unwrap_err();
    assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
    assert!(!other.has(&pieces[0].digest));
    proxy.reset();
    proxy.fault_at(0, Fault::Corrupt);
    download_all(&*remote, &other, &pieces, &Heard::default()).unwrap();
    assert!(other.has(&pieces[0].digest));
}

#[test]
fn a_blob_that_is_missing_does_not_keep_the_others() {
    let (_folder, store, mut pieces) = store_with(6);
    for lost in &pieces[2..4] {
        std::fs::remove_file(store.path(&lost.digest)).unwrap();
    }
    let registry = TestRegistry::new(RegistryRules::default());
    let remote = open(&registry.uri("a"), &[]);
    let error = upload_all(&store, &*remote, &pieces, &Heard::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("2 blobs could not be moved"),
        "{error}"
    );
    pieces.drain(2..4);
    assert!(plan_upload(&*remote, &pieces).unwrap().missing.is_empty());
}
