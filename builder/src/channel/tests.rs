//! Channels on a real folder: what is appended reads back, races have one winner,
//! what is broken is named.

use std::time::Duration;

use super::*;
use crate::attest::{KeyFile, Signer};
use crate::base::Digest;
use crate::remote::{Document, Expect, Folder, Remote, RemoteError, Upload};
use crate::store::Descriptor;

struct Scene {
    folder: tempfile::TempDir,
    key: KeyFile,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            key: KeyFile::generate().unwrap(),
        }
    }

    fn remote(&self) -> Folder {
        Folder::open(self.folder.path().join("remote")).unwrap()
    }

    fn keys(&self) -> Vec<crate::attest::PublicKey> {
        vec![self.key.public().clone()]
    }

    fn append(&self, channel: &str, content: &str) -> Result<Appended, ChannelError> {
        append(
            &self.remote(),
            draft(channel, content),
            Vec::new(),
            None,
            &self.key,
        )
    }

    fn read(&self, channel: &str) -> Result<History, ChannelError> {
        History::read(&self.remote(), channel, &self.keys())
    }
}

fn draft(channel: &str, content: &str) -> Record {
    let image = Digest::of(content);
    Record {
        schema: RECORD_SCHEMA,
        channel: channel.to_owned(),
        sequence: 0,
        predecessor: None,
        kind: Kind::Publish,
        name: "hello".to_owned(),
        version: "0.1.0".to_owned(),
        release: image,
        images: vec![RecordImage {
            board: "qemu-x86_64".to_owned(),
            image,
            plan: Digest::of("plan"),
            checks: vec!["reached ready".to_owned()],
            attestations: Some(Digest::of("att")),
        }],
        sources: None,
        lock: None,
        forced: None,
        origin: None,
        clouds: Vec::new(),
        parameter: None,
        published: 1_790_000_000,
        when: 1_790_000_000,
        who: "ann@build".to_owned(),
        why: content.to_owned(),
    }
}

fn whys(history: &History) -> Vec<&str> {
    history
        .entries
        .iter()
        .map(|e| e.record.why.as_str())
        .collect()
}

#[test]
fn what_is_appended_reads_back_newest_first() {
    let scene = Scene::new();
    for content in ["one", "two", "three"] {
        scene.append("stable", content).unwrap();
    }
    scene.append("candidate", "four").unwrap();
    let history = scene.read("stable").unwrap();
    assert_eq!(whys(&history), ["three", "two", "one"]);
    assert_eq!(history.previous().unwrap().record.why, "two");
    assert_eq!(channels(&scene.remote()).unwrap(), ["candidate", "stable"]);
    let three = Digest::of("three");
    for wanted in ["3", &three.hex()[..8], &three.to_string()] {
        assert_eq!(history.find(wanted).unwrap().record.why, "three");
    }
    assert!(matches!(
        history.find("9"),
        Err(ChannelError::NotThere { .. })
    ));
    assert!(matches!(
        scene.read("nowhere"),
        Err(ChannelError::NoChannel { .. })
    ));
}

#[test]
fn of_two_who_saw_the_same_only_one_appends() {
    let scene = Scene::new();
    let first = scene.append("stable", "one").unwrap().entry.digest;
    let with = |content: &str| {
        append(
            &scene.remote(),
            draft("stable", content),
            Vec::new(),
            Some(first),
            &scene.key,
        )
    };
    with("two").unwrap();
    let error = with("three").unwrap_err();
    assert!(matches!(error, ChannelError::Lost { .. }), "{error}");
    assert_eq!(whys(&scene.read("stable").unwrap()), ["two", "one"]);
}

#[test]
fn two_at_once_a_hundred_times_lose_nothing() {
    let scene = Scene::new();
    let publish = |who: &str| {
        for round in 0..50 {
            let mut record = draft("stable", &format!("{who}{round}"));
            record.who = who.to_owned();
            loop {
                match append(
                    &scene.remote(),
                    record.clone(),
                    Vec::new(),
                    None,
                    &scene.key,
                ) {
                    Ok(_) => break,
                    Err(ChannelError::Lost { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| publish("a"));
        scope.spawn(|| publish("b"));
    });
    let history = scene.read("stable").unwrap();
    let mut all = whys(&history);
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), history.entries.len()), (100, 100));
}

/// A remote that compares and swaps nothing, and is slow between looking and setting:
/// a registry at its worst.
#[derive(Debug)]
struct Careless(Folder);

impl Remote for Careless {
    fn uri(&self) -> &str {
        self.0.uri()
    }
    fn atomic(&self) -> bool {
        false
    }
    fn has_blob(&self, digest: &Digest) -> Result<bool, RemoteError> {
        self.0.has_blob(digest)
    }
    fn put_blob(&self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        self.0.put_blob(upload)
    }
    fn get_blob(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mut dyn std::io::Write,
    ) -> Result<(), RemoteError> {
        self.0.get_blob(digest, size, sink)
    }
    fn put_manifest(&self, bytes: &[u8], media_type: &str) -> Result<Digest, RemoteError> {
        self.0.put_manifest(bytes, media_type)
    }
    fn manifest(&self, digest: &Digest) -> Result<Option<Document>, RemoteError> {
        self.0.manifest(digest)
    }
    fn tagged(&self, tag: &str) -> Result<Option<Document>, RemoteError> {
        self.0.tagged(tag)
    }
    fn tags(&self) -> Result<Vec<String>, RemoteError> {
        self.0.tags()
    }
    fn set_tag(&self, tag: &str, to: &Document, expect: Expect) -> Result<(), RemoteError> {
        let found = self.tagged(tag)?.map(|document| document.digest);
        if !expect.fits(found) {
            // As it is where the tag has moved on.
            return self.0.set_tag(tag, to, expect);
        }
        std::thread::sleep(Duration::from_millis(30));
        self.0.set_tag(tag, to, Expect::Any)
    }
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        self.0.referrers(subject)
    }
    fn refer(&self, subject: &Digest, referrer: &Descriptor) -> Result<(), RemoteError> {
        self.0.refer(subject, referrer)
    }
}

/// Where nothing compares and swaps, those who publish at once must see each other.
#[test]
fn two_at_once_where_nothing_compares_lose_nothing() {
    const EACH: usize = 5;
    let scene = Scene::new();
    let publish = |who: &str| {
        let remote = Careless(scene.remote());
        for round in 0..EACH {
            let mut record = draft("stable", &format!("{who}{round}"));
            record.who = who.to_owned();
            loop {
                match append(&remote, record.clone(), Vec::new(), None, &scene.key) {
                    Ok(_) => break,
                    Err(ChannelError::Lost { .. }) => std::thread::sleep(Duration::from_millis(5)),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| publish("a"));
        scope.spawn(|| publish("b"));
    });
    let history = scene.read("stable").unwrap();
    let mut all = whys(&history);
    all.sort_unstable();
    all.dedup();
    // What was told to be published is in the history, once.
    assert_eq!((all.len(), history.entries.len()), (2 * EACH, 2 * EACH));
}

#[test]
fn the_same_thing_again_adds_nothing_and_by_another_key_it_does() {
    let mut scene = Scene::new();
    let first = scene.append("stable", "one").unwrap();
    assert!(!first.unchanged);
    let again = scene.append("stable", "one").unwrap();
    assert!(again.unchanged);
    assert_eq!(again.entry.digest, first.entry.digest);
    scene.append("stable", "two").unwrap();
    // Going back to what was there before is something else.
    assert!(!scene.append("stable", "one").unwrap().unchanged);
    scene.key = KeyFile::generate().unwrap();
    let other = scene.append("stable", "one").unwrap();
    assert!(!other.unchanged);
    assert_eq!(other.entry.record.sequence, 4);
}

#[test]
fn an_interrupted_record_is_taken_up_by_the_next_run() {
    let scene = Scene::new();
    let one = scene.append("stable", "one").unwrap().entry;
    let two = scene.append("stable", "two").unwrap().entry;
    // As if the run had been killed before its last step.
    let remote = scene.remote();
    remote
        .set_tag("stable", &one.document, Expect::Is(two.digest))
        .unwrap();
    assert_eq!(whys(&scene.read("stable").unwrap()), ["one"]);
    let again = scene.append("stable", "two").unwrap();
    assert!(again.taken_up);
    assert_eq!(again.entry.digest, two.digest);
    assert_eq!(whys(&scene.read("stable").unwrap()), ["two", "one"]);
}

#[test]
fn a_broken_chain_names_the_record() {
    let scene = Scene::new();
    let one = scene.append("stable", "one").unwrap().entry;
    scene.append("stable", "two").unwrap();
    let path = scene
        .folder
        .path()
        .join("remote/blobs/sha256")
        .join(one.digest.hex());
    std::fs::remove_file(path).unwrap();
    let error = scene.read("stable").unwrap_err();
    assert!(
        matches!(&error, ChannelError::Broken { record, .. } if *record == one.digest),
        "{error}"
    );
}

#[test]
fn a_record_of_another_channel_or_key_is_refused() {
    let scene = Scene::new();
    let stable = scene.append("stable", "one").unwrap().entry;
    let remote = scene.remote();
    remote
        .set_tag("candidate", &stable.document, Expect::Absent)
        .unwrap();
    let error = scene.read("candidate").unwrap_err().to_string();
    assert!(error.contains("belongs to channel 'stable'"), "{error}");
    let stranger = [KeyFile::generate().unwrap().public().clone()];
    let error = History::read(&remote, "stable", &stranger).unwrap_err();
    assert!(matches!(error, ChannelError::Broken { .. }), "{error}");
    // Without keys it reads, and says that nobody vouches for it.
    let read = History::read(&remote, "stable", &[]).unwrap();
    assert_eq!(read.entries[0].key, None);
}

#[test]
fn what_was_revoked_is_refused_by_every_name() {
    let scene = Scene::new();
    let remote = scene.remote();
    assert!(
        Revocations::read(&remote, &scene.keys())
            .unwrap()
            .check([Digest::of("one")].into_iter())
            .is_ok()
    );
    let mut record = draft(REVOKED, "one");
    record.kind = Kind::Revoke;
    record.why = "leaks its key".to_owned();
    append(&remote, record, Vec::new(), None, &scene.key).unwrap();
    let revoked = Revocations::read(&remote, &scene.keys()).unwrap();
    let error = revoked.check([Digest::of("one")].into_iter()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("leaks its key") && text.contains("2026-"),
        "{text}"
    );
    revoked.check([Digest::of("two")].into_iter()).unwrap();
}

#[test]
fn records_that_break_a_rule_are_refused() {
    let good = Record {
        sequence: 1,
        ..draft("stable", "one")
    };
    let bytes = good.to_bytes().unwrap();
    assert_eq!(Record::parse(&bytes).unwrap(), good);
    let change = |change: &dyn Fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        record.to_bytes().is_err()
    };
    assert!(change(&|r| r.sequence = 0));
    assert!(change(&|r| r.sequence = 2));
    assert!(change(&|r| r.predecessor = Some(Digest::of("x"))));
    assert!(change(&|r| r.images.clear()));
    assert!(change(&|r| r.images[0].attestations = None));
    assert!(change(&|r| r.kind = Kind::Forced));
    assert!(change(&|r| r.channel = "sha256-x".to_owned()));
    assert!(change(&|r| r.why = "x".repeat(5000)));
    assert!(change(&|r| r.who = "ann\u{1b}[2J".to_owned()));
    assert!(change(&|r| r.kind = Kind::Revoke));
    assert!(change(&|r| r.channel = REVOKED.to_owned()));
    for name in ["", "../../etc/x", ".hidden", "a/b", "a\nb"] {
        assert!(change(&|r| r.name = name.to_owned()), "{name:?}");
        assert!(change(&|r| r.version = name.to_owned()), "{name:?}");
        assert!(change(&|r| r.images[0].board = name.to_owned()), "{name:?}");
    }
    let newer = String::from_utf8(bytes).unwrap();
    let newer = newer.replace("\"schema\":1", "\"schema\":2");
    let error = Record::parse(newer.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("take a newer slipform"), "{error}");
    slipform_fuzz::fuzz(&[&good.to_bytes().unwrap()], |bytes, _| {
        drop(Record::parse(bytes));
    });
}

#[test]
fn record_tags_read_back() {
    let record = Record {
        sequence: 12,
        ..draft("stable", "one")
    };
    let tag = append::record_tag(&record, &Digest::of("one"));
    assert_eq!(append::parse_tag(&tag), Some(("stable", 12)));
    crate::remote::check_tag(&tag).unwrap();
    for tag in [
        "stable",
        "stable.12",
        "0-1-0-abc",
        "a.b.c.d",
        "stable.000001.zzzzzzzzzzzz",
    ] {
        assert_eq!(append::parse_tag(tag), None, "{tag}");
    }
}
