//! What every remote must be able to do, whatever stands behind it.

use std::io::{self, Read};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::Digest;
use crate::remote::{Document, Expect, Remote, RemoteError, Upload};
use crate::store::{Descriptor, INDEX, Index, MANIFEST, Manifest};

/// What differs between remotes.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Whether setting a tag compares and swaps.
    pub atomic: bool,
    /// Bytes of the large blob: more than one part.
    pub large: usize,
}

/// Sends bytes as a blob.
///
/// # Errors
/// As [`Remote::put_blob`].
pub fn put(remote: &dyn Remote, bytes: &[u8]) -> Result<Digest, RemoteError> {
    let digest = Digest::of(bytes);
    let sent = AtomicU64::new(0);
    remote.put_blob(&Upload {
        digest,
        size: bytes.len() as u64,
        open: &|at| Ok(from(bytes, at)),
        sent: &|count| {
            sent.fetch_add(count, Ordering::Relaxed);
        },
    })?;
    assert!(
        sent.load(Ordering::Relaxed) <= bytes.len() as u64,
        "a byte is counted once"
    );
    Ok(digest)
}

fn from(bytes: &[u8], at: u64) -> Box<dyn Read + Send> {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    Box::new(io::Cursor::new(bytes[at..].to_vec()))
}

/// Bytes that nothing compresses or repeats.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An artifact with one layer, sent; `name` makes it differ.
fn artifact(remote: &dyn Remote, name: &str, subject: Option<&Document>) -> Document {
    put(remote, b"{}").expect("the empty configuration");
    let layer = put(remote, name.as_bytes()).expect("a layer");
    let layer = Descriptor::new("text/plain", layer, name.len() as u64);
    let mut manifest = Manifest::artifact("application/vnd.test", Descriptor::empty(), vec![layer]);
    manifest.subject = subject.map(Document::descriptor);
    manifest
        .annotations
        .insert("name".to_owned(), name.to_owned());
    let document = Document::new(MANIFEST, manifest.to_bytes().expect("a manifest"));
    let digest = remote
        .put_manifest(&document.bytes, MANIFEST)
        .expect("a manifest is taken");
    assert_eq!(digest, document.digest);
    document
}

/// Every promise of [`Remote`]; `open` gives the same place anew, and it must be empty.
///
/// # Panics
/// When a promise is not kept.
pub fn conformance(open: &dyn Fn() -> Box<dyn Remote>, traits: Traits) {
    let remote = open();
    assert_eq!(remote.tags().expect("no tags yet"), Vec::<String>::new());
    assert_eq!(remote.tagged("nothing").expect("no tag is no error"), None);
    blobs(&*remote, traits);
    documents(&*remote);
    tags(&*remote);
    referrers(&*remote);
    let again = open();
    assert_eq!(remote.tags().expect("tags"), again.tags().expect("tags"));
    assert_eq!(remote.atomic(), traits.atomic);
}

fn blobs(remote: &dyn Remote, traits: Traits) {
    let missing = Digest::of("missing");
    assert!(!remote.has_blob(&missing).expect("asking"));
    let error = remote.get_blob(&missing, 7, &mut io::sink());
    assert!(
        matches!(error, Err(RemoteError::Missing { .. })),
        "{error:?}"
    );
    for (seed, length) in [0, 1, 1000, traits.large, traits.large + 1]
        .into_iter()
        .enumerate()
    {
        let bytes = noise(length, seed as u64 + 1);
        let digest = put(remote, &bytes).expect("a blob is taken");
        assert!(remote.has_blob(&digest).expect("asking"), "{length} bytes");
        put(remote, &bytes).expect("and taken again");
        let mut back = Vec::new();
        remote
            .get_blob(&digest, length as u64, &mut back)
            .expect("it comes back");
        assert!(back == bytes, "{length} bytes come back");
        for wrong in [length as u64 + 1, (length as u64).saturating_sub(1)] {
            if wrong != length as u64 {
                let error = remote.get_blob(&digest, wrong, &mut io::sink());
                assert!(
                    matches!(error, Err(RemoteError::Damaged { .. })),
                    "{length} as {wrong}: {error:?}"
                );
            }
        }
    }
    for length in [1000, traits.large] {
        let right = noise(length, 77);
        let mut wrong = right.clone();
        wrong[length / 2] ^= 1;
        let (digest, size) = (Digest::of(&right), length as u64);
        for wrong in [&wrong[..], &wrong[..length - 1]] {
            let error = remote.put_blob(&Upload {
                digest,
                size,
                open: &|at| Ok(from(wrong, at)),
                sent: &|_| (),
            });
            assert!(
                matches!(
                    error,
                    Err(RemoteError::Damaged { .. } | RemoteError::Read { .. })
                ),
                "other bytes than promised: {error:?}"
            );
            assert!(
                !remote.has_blob(&digest).expect("asking"),
                "{length} wrong bytes"
            );
        }
    }
}

fn documents(remote: &dyn Remote) {
    assert_eq!(
        remote.manifest(&Digest::of("missing")).expect("asking"),
        None
    );
    let one = artifact(remote, "one", None);
    let index = Index {
        manifests: vec![one.descriptor()],
        ..Index::default()
    };
    let index = Document::new(INDEX, index.to_bytes().expect("an index"));
    remote
        .put_manifest(&index.bytes, INDEX)
        .expect("an index is taken");
    for document in [&one, &index] {
        let back = remote.manifest(&document.digest).expect("asking");
        assert_eq!(back.as_ref(), Some(document));
    }
}

fn tags(remote: &dyn Remote) {
    let [one, two, three] = ["tag one", "tag two", "tag three"].map(|n| artifact(remote, n, None));
    let set = |document: &Document, expect| remote.set_tag("channel", document, expect);
    let conflict = |result: Result<(), RemoteError>, found: Option<Digest>| match result {
        Err(RemoteError::Conflict {
            found: there, tag, ..
        }) => {
            assert_eq!((there, tag.as_str()), (found, "channel"));
        }
        other => panic!("not a conflict: {other:?}"),
    };
    conflict(set(&one, Expect::Is(two.digest)), None);
    set(&one, Expect::Absent).expect("nobody has it");
    conflict(set(&one, Expect::Absent), Some(one.digest));
    conflict(set(&two, Expect::Absent), Some(one.digest));
    conflict(set(&three, Expect::Is(two.digest)), Some(one.digest));
    assert_eq!(remote.tagged("channel").expect("asking"), Some(one.clone()));
    set(&two, Expect::Is(one.digest)).expect("it is what was expected");
    conflict(set(&three, Expect::Is(one.digest)), Some(two.digest));
    set(&three, Expect::Any).expect("anything is expected");
    assert_eq!(remote.tagged("channel").expect("asking"), Some(three));
    for n in 0..8 {
        remote
            .set_tag(&format!("channel-{n}"), &one, Expect::Absent)
            .expect("a tag of its own");
    }
    let mut expected: Vec<String> = (0..8).map(|n| format!("channel-{n}")).collect();
    expected.insert(0, "channel".to_owned());
    assert_eq!(remote.tags().expect("all pages"), expected);
    for bad in ["", "a b", "a/b", "a:b", "../a", "-a", &"a".repeat(129)] {
        let error = remote.set_tag(bad, &one, Expect::Any);
        assert!(
            matches!(error, Err(RemoteError::Tag(_))),
            "{bad}: {error:?}"
        );
    }
}

fn referrers(remote: &dyn Remote) {
    let subject = artifact(remote, "subject", None);
    let other = artifact(remote, "other", None);
    assert_eq!(
        remote.referrers(&subject.digest).expect("asking"),
        Vec::new()
    );
    let mut expected: Vec<Descriptor> = (0..5)
        .map(|n| {
            let referrer = artifact(remote, &format!("referrer {n}"), Some(&subject));
            let descriptor = referrer.as_referrer();
            for _twice in 0..2 {
                remote
                    .refer(&subject.digest, &descriptor)
                    .expect("it is listed");
            }
            descriptor
        })
        .collect();
    expected.sort_by_key(|d| d.digest);
    assert_eq!(
        remote.referrers(&subject.digest).expect("all pages"),
        expected
    );
    assert_eq!(remote.referrers(&other.digest).expect("asking"), Vec::new());
}

/// Two writers set one tag at the same time, `rounds` times, each expecting
/// what both have read: exactly one wins each time, and the other is told.
///
/// # Panics
/// When both win, none does, or the loser is told anything but the winner.
pub fn race(open: &(dyn Fn() -> Box<dyn Remote> + Sync), rounds: usize) {
    let remotes = [open(), open()];
    let barrier = Barrier::new(2);
    let mut expect = Expect::Absent;
    for round in 0..rounds {
        let documents = [0, 1].map(|n| {
            let text = format!("{{\"mediaType\":\"{INDEX}\",\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"r\":\"{round} {n}\"}}}}");
            let document = Document::new(INDEX, text);
            remotes[n]
                .put_manifest(&document.bytes, INDEX)
                .expect("a document is taken");
            document
        });
        let results: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = remotes
                .iter()
                .zip(&documents)
                .map(|(remote, document)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        remote.set_tag("race", document, expect)
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer ends"))
                .collect()
        });
        let winner = match (&results[0], &results[1]) {
            (Ok(()), Err(RemoteError::Conflict { found, .. })) => (0, found),
            (Err(RemoteError::Conflict { found, .. }), Ok(())) => (1, found),
            other => panic!("round {round}: {other:?}"),
        };
        let digest = documents[winner.0].digest;
        assert_eq!(*winner.1, Some(digest), "round {round}");
        let there = remotes[0]
            .tagged("race")
            .expect("the tag")
            .expect("a document");
        assert_eq!(there.digest, digest, "round {round}");
        expect = Expect::Is(digest);
    }
}
