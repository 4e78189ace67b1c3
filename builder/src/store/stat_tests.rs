//! When a remembered digest may be used, and when not.

use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;

thread_local! {
    static WRITE_WHILE_READ: RefCell<Option<(PathBuf, u32)>> = const { RefCell::new(None) };
}

/// Plays the other program that writes while this one reads.
pub(super) fn after_reading(_file: &File) {
    WRITE_WHILE_READ.with_borrow_mut(|plan| {
        if let Some((path, times)) = plan
            && *times > 0
        {
            *times -= 1;
            let file = OpenOptions::new().write(true).open(&*path).unwrap();
            file.write_all_at(b"new", 0).unwrap();
            // The clock of the file system may tick slower than this test runs.
            let old = UNIX_EPOCH + Duration::from_secs(1_000_000 + u64::from(*times));
            file.set_modified(old).unwrap();
        }
    });
}

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

    fn cache(&self) -> StatCache {
        StatCache::load(&self.store, "project")
    }

    /// A file whose times have come to rest, so that it may be remembered.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_500_000_000))
            .unwrap();
        while is_racy(&Stamp::of(&file).unwrap(), now()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        path
    }
}

#[test]
fn a_file_at_rest_is_read_once() {
    let bench = Bench::new();
    let path = bench.file("a", "content");
    let cache = bench.cache();
    let expected = (Digest::of("content"), 7);
    assert_eq!(cache.digest(&path).unwrap(), expected);
    assert_eq!(cache.digest(&path).unwrap(), expected);
    assert_eq!(cache.files_read(), 1);
    cache.save().unwrap();
    let again = bench.cache();
    assert_eq!(again.digest(&path).unwrap(), expected);
    assert_eq!(again.files_read(), 0);
    assert_eq!(
        StatCache::load(&bench.store, "another")
            .entries
            .into_inner()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_change_of_the_same_size_with_the_old_time_put_back_is_seen() {
    let bench = Bench::new();
    let path = bench.file("a", "before");
    let cache = bench.cache();
    cache.digest(&path).unwrap();
    let path = bench.file("a", "behind");
    assert_eq!(cache.digest(&path).unwrap().0, Digest::of("behind"));
}

#[test]
fn a_file_too_young_is_not_remembered() {
    let bench = Bench::new();
    let path = bench.folder.path().join("young");
    let cache = bench.cache();
    // Written and read within one tick of the clock; a slow machine gets more goes.
    for _ in 0..50 {
        fs::write(&path, "young").unwrap();
        let written = now();
        cache.digest(&path).unwrap();
        if now() - written < FINE_TICK / 2 {
            assert!(cache.lock().is_empty());
            return;
        }
    }
    panic!("this machine never read a file within 25 ms of writing it");
}

#[test]
fn racy_by_its_times() {
    const S: i64 = 1_000_000_000;
    let read = i128::from(1_000 * S);
    let stamp = |mtime: (i64, i64), ctime: (i64, i64)| Stamp {
        dev: 1,
        ino: 1,
        size: 1,
        mtime,
        ctime,
    };
    let cases = [
        ("long ago", (900, 5), (900, 5), false),
        (
            "old content, just renamed",
            (900, 5),
            (999, 999_000_000),
            true,
        ),
        ("just written", (999, 999_999_999), (999, 999_999_999), true),
        (
            "a tick ago, fine clock",
            (999, 900_000_000),
            (999, 900_000_000),
            false,
        ),
        ("a second ago, coarse clock", (999, 0), (999, 0), true),
        ("three seconds ago, coarse clock", (997, 0), (997, 0), false),
        ("set to the future", (5_000, 1), (900, 5), false),
        ("changed in the future", (900, 5), (1_001, 5), true),
    ];
    for (name, mtime, ctime, racy) in cases {
        assert_eq!(is_racy(&stamp(mtime, ctime), read), racy, "{name}");
    }
}

#[test]
fn a_file_that_changes_once_is_read_again_and_one_that_keeps_changing_is_named() {
    let bench = Bench::new();
    let path = bench.file("changing", "old content");
    let cache = bench.cache();
    WRITE_WHILE_READ.set(Some((path.clone(), 1)));
    assert_eq!(cache.digest(&path).unwrap().0, Digest::of("new content"));
    WRITE_WHILE_READ.set(Some((path.clone(), 10)));
    fs::write(&path, "old content").unwrap();
    let error = bench.cache().digest(&path).unwrap_err();
    WRITE_WHILE_READ.set(None);
    assert!(
        matches!(&error, StatError::Changing(p) if *p == path),
        "{error}"
    );
}

#[test]
fn what_is_no_regular_file_is_named_and_never_hangs() {
    let bench = Bench::new();
    let fifo = bench.folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let link = bench.folder.path().join("link");
    std::os::unix::fs::symlink(bench.file("a", "x"), &link).unwrap();
    for path in [fifo, link, bench.folder.path().to_owned()] {
        let error = bench.cache().digest(&path).unwrap_err();
        assert!(matches!(error, StatError::NoFile(_)), "{error}");
    }
    let error = bench
        .cache()
        .digest(Path::new("/nowhere/at/all"))
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"));
}

#[test]
fn many_files_keep_their_order() {
    let bench = Bench::new();
    let mut paths = Vec::new();
    for i in 0..300 {
        let path = bench.folder.path().join(format!("f{i}"));
        fs::write(&path, i.to_string()).unwrap();
        paths.push(path);
    }
    paths.push(bench.folder.path().join("missing"));
    let results = bench.cache().digests(&paths);
    for (i, result) in results[..300].iter().enumerate() {
        assert_eq!(result.as_ref().unwrap().0, Digest::of(i.to_string()));
    }
    assert!(results[300].is_err());
}

fn sample(count: u64) -> HashMap<PathBuf, Entry> {
    (0..count)
        .map(|i| {
            let stamp = Stamp {
                dev: 1,
                ino: i,
                size: i * 3,
                mtime: (i.cast_signed(), 5),
                ctime: (i.cast_signed(), 6),
            };
            let entry = Entry {
                stamp,
                digest: Digest::of(i.to_le_bytes()),
                used: true,
            };
            (
                PathBuf::from(format!("/some/longer/project/path/file-{i}")),
                entry,
            )
        })
        .collect()
}

#[test]
fn twelve_thousand_entries_survive_the_file() {
    let entries = sample(12_000);
    let back = parse_cache(&write_cache(&entries)).unwrap();
    assert_eq!(back.len(), 12_000);
    for (path, entry) in &entries {
        assert_eq!(back[path].stamp, entry.stamp);
        assert_eq!(back[path].digest, entry.digest);
    }
}

#[test]
fn a_damaged_cache_is_ignored() {
    let whole = write_cache(&sample(20));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert!(parse_cache(&bytes).is_none(), "byte {at}");
        assert!(parse_cache(&whole[..at]).is_none(), "cut at {at}");
    }
}

#[test]
fn mutated_caches_with_a_right_digest_neither_panic_nor_exhaust_memory() {
    let whole = write_cache(&sample(20));
    let body = &whole[..whole.len() - 32];
    slipform_fuzz::fuzz(&[body], |bytes, _| {
        let sealed = [bytes, Digest::of(bytes).as_bytes().as_slice()].concat();
        let _any = parse_cache(&sealed);
    });
}
