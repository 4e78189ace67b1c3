//! Locked packages from all places that may have them.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::base::Digest;
use crate::base::progress::Quiet;
use crate::sources::Host;
use crate::sources::http::tests::impatient;
use crate::sources::testing::{Fault, Server};

const POOL: &str = "pool/main/w/webfs/webfs_1.21+ds1-12_amd64.deb";

#[derive(Debug, Default, Clone)]
struct Heard(Arc<Mutex<(Vec<String>, u64, u64)>>);

impl Progress for Heard {
    fn begin(&self, _what: &str, total: Option<u64>) -> Box<dyn Task> {
        self.0.lock().unwrap().1 += total.unwrap_or(0);
        Box::new(self.clone())
    }
    fn note(&self, line: &str) {
        self.0.lock().unwrap().0.push(line.to_owned());
    }
}

impl Task for Heard {
    fn advance(&self, by: u64) {
        self.0.lock().unwrap().2 += by;
    }
}

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    store: Store,
    suites: Vec<SuiteSource>,
    locked: Vec<LockedSuite>,
    heard: Heard,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(folder.path().join("www"));
        server.put(&format!("/debian/{POOL}"), deb());
        let store = Store::open(folder.path().join("store")).unwrap();
        fs::create_dir_all(folder.path().join("project/debs")).unwrap();
        let suite = |name: &str, base| SuiteSource {
            name: name.to_owned(),
            base,
            dist: name.to_owned(),
            components: vec!["main".to_owned()],
        };
        let locked = |name: &str, date| LockedSuite {
            name: name.to_owned(),
            date,
            release: Digest::of(name),
        };
        Self {
            folder,
            server,
            store,
            suites: vec![
                suite("trixie", Base::Debian),
                suite("trixie-security", Base::DebianSecurity),
            ],
            // 2025-05-20T08:30:12Z
            locked: vec![
                locked("trixie", 1_747_729_812),
                locked("trixie-security", 0),
            ],
            heard: Heard::default(),
        }
    }

    fn config(&self, text: &str) {
        let path = self.folder.path().join("config/slipform/config.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let root = self.folder.path().display().to_string();
        let text = text
            .replace("SERVER", &self.server.uri())
            .replace("ROOT", &root);
        fs::write(path, text).unwrap();
    }

    fn mirrors(&self) -> Mirrors {
        let config = self.folder.path().join("config");
        let host = Host::fake(
            self.folder.path(),
            &[("XDG_CONFIG_HOME", config.to_str().unwrap())],
        );
        let argument = Some(format!("{}/debian", self.server.uri()));
        Mirrors::with_options(host, argument, impatient()).unwrap()
    }

    fn with<T>(&self, mirrors: &Mirrors, act: impl FnOnce(&Fetcher<'_>) -> T) -> T {
        let current =
            |package: &LockedPackage| (package.name == "webfs").then(|| "1.21+ds1-13".to_owned());
        act(&Fetcher {
            store: &self.store,
            mirrors,
            suites: &self.suites,
            locked: &self.locked,
            folder: &self.folder.path().join("project"),
            verify: true,
            teams: &[],
            current: Some(&current),
            progress: &self.heard,
        })
    }

    fn fetch(&self, package: &LockedPackage) -> Result<Arrival, SourceError> {
        self.with(&self.mirrors(), |f| f.fetch_package(package, &Quiet))
    }

    fn error(&self, package: &LockedPackage) -> String {
        let text = self.fetch(package).unwrap_err().to_string();
        assert!(!self.store.has(&package.sha256), "{text}");
        assert_eq!(fs::read_dir(self.store.tmp()).unwrap().count(), 0, "{text}");
        text
    }

    fn paths(&self) -> Vec<String> {
        let requests = self.server.requests();
        requests.into_iter().map(|request| request.target).collect()
    }
}

fn deb() -> Vec<u8> {
    b"!<arch>\n".repeat(20_000)
}

fn package() -> LockedPackage {
    LockedPackage {
        name: "webfs".to_owned(),
        version: "1.21+ds1-12".to_owned(),
        arch: "amd64".to_owned(),
        suite: "trixie".to_owned(),
        path: POOL.to_owned(),
        size: deb().len() as u64,
        sha256: Digest::of(deb()),
        why: "wished".to_owned(),
    }
}

#[test]
fn from_the_mirror_and_then_from_the_store() {
    let bench = Bench::new();
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Mirror);
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Present);
    assert_eq!(bench.paths().len(), 1);
    assert_eq!(bench.store.read(&package().sha256).unwrap(), deb());
}

#[test]
fn what_is_damaged_in_the_store_is_fetched_again() {
    let bench = Bench::new();
    bench.fetch(&package()).unwrap();
    let path = bench.store.path(&package().sha256);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Mirror);
    assert_eq!(bench.store.read(&package().sha256).unwrap(), deb());
    let notes = bench.heard.0.lock().unwrap().0.join("\n");
    assert!(
        notes.contains("webfs 1.21+ds1-12") && notes.contains("damaged"),
        "{notes}"
    );
}

#[test]
fn the_shared_cache_comes_before_the_mirror_and_is_not_trusted() {
    let bench = Bench::new();
    bench.config("cache = \"ROOT/cache\"");
    let cache = Store::open(bench.folder.path().join("cache")).unwrap();
    cache.put(&deb()).unwrap();
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Cache);
    assert!(bench.paths().is_empty());

    let bench = Bench::new();
    bench.config("cache = \"ROOT/cache\"");
    let cache = bench.folder.path().join("cache/blobs/sha256");
    fs::create_dir_all(&cache).unwrap();
    let mut wrong = deb();
    wrong[7] = b'x';
    fs::write(cache.join(package().sha256.hex()), wrong).unwrap();
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Mirror);
    assert!(bench.heard.0.lock().unwrap().0[0].contains("is not used"));
}

#[test]
fn tampered_packages_are_refused_and_named() {
    for fault in [Fault::Corrupt, Fault::Longer] {
        let bench = Bench::new();
        bench.server.always(&format!("/debian/{POOL}"), fault);
        let text = bench.error(&package());
        for part in [
            "webfs 1.21+ds1-12",
            "/debian/pool/",
            "was refused",
            &package().sha256.to_string(),
        ] {
            assert!(text.contains(part), "{text}");
        }
        let asked = bench.server.requests();
        assert_eq!(asked.len(), 2, "asked once more, past caches");
        assert_eq!(asked[1].header("cache-control"), "no-cache");
    }
}

#[test]
fn a_stale_cache_on_the_way_is_passed() {
    let bench = Bench::new();
    bench
        .server
        .fault(&format!("/debian/{POOL}"), [Fault::Corrupt]);
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Mirror);
}

#[test]
fn truncated_downloads_are_resumed_and_at_last_refused() {
    let bench = Bench::new();
    let path = format!("/debian/{POOL}");
    bench.server.fault(&path, [Fault::Truncate(100_000)]);
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Mirror);
    assert_eq!(bench.server.requests()[1].header("range"), "bytes=100000-");

    let bench = Bench::new();
    bench.server.ignore_ranges();
    bench.server.always(&path, Fault::Truncate(100_000));
    let text = bench.error(&package());
    assert!(text.contains("100000") && text.contains("tried"), "{text}");
}

#[test]
fn a_mirror_that_moved_on_says_what_to_do() {
    let bench = Bench::new();
    bench.server.remove(&format!("/debian/{POOL}"));
    let text = bench.error(&package());
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        "webfs 1.21+ds1-12 is no longer on ",
        "which has 1.21+ds1-13 now",
        "slipform lock --update webfs",
        "snapshot",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let mut other = package();
    other.name = "other".to_owned();
    let text = bench.error(&other);
    assert!(!text.contains("now"), "{text}");
}

#[test]
fn a_snapshot_mirror_has_what_the_mirror_dropped() {
    let bench = Bench::new();
    bench.config("snapshot = \"SERVER/snap/\"");
    bench.server.remove(&format!("/debian/{POOL}"));
    let late = "/snap/archive/debian/20250520T143012Z";
    bench.server.put(&format!("{late}/{POOL}"), deb());
    assert_eq!(bench.fetch(&package()).unwrap(), Arrival::Snapshot);
    let paths = bench.paths();
    assert!(
        paths[1].starts_with("/snap/archive/debian/20250520T083012Z/pool/"),
        "{paths:?}"
    );
    assert!(paths[2].starts_with(late), "{paths:?}");

    let bench = Bench::new();
    bench.config("snapshot = \"SERVER/s?a={archive}&t={timestamp}\"");
    bench.server.remove(&format!("/debian/{POOL}"));
    let text = bench.error(&package());
    assert!(!text.contains("or set `snapshot`"), "{text}");
}

#[test]
fn local_packages_lie_beside_the_lock_and_nowhere_else() {
    let bench = Bench::new();
    let local = |path: &str| LockedPackage {
        suite: LOCAL.to_owned(),
        path: path.to_owned(),
        ..package()
    };
    let project = bench.folder.path().join("project");
    let outside = bench.folder.path().join("outside.deb");
    fs::write(&outside, deb()).unwrap();
    std::os::unix::fs::symlink(&outside, project.join("debs/link.deb")).unwrap();
    for (path, part) in [
        ("debs/none.deb", "put it there"),
        ("debs", "put it there"),
        ("../outside.deb", "leaves its folder"),
        ("debs/link.deb", "leaves its folder"),
        ("/etc/passwd", "leaves its folder"),
    ] {
        let text = bench.error(&local(path));
        assert!(text.contains(part), "{path}: {text}");
    }
    fs::write(project.join("debs/bad.deb"), deb().repeat(2)).unwrap();
    let text = bench.error(&local("debs/bad.deb"));
    assert!(
        text.contains("bad.deb") && text.contains("refused"),
        "{text}"
    );
    fs::write(project.join("debs/good.deb"), deb()).unwrap();
    assert_eq!(
        bench.fetch(&local("debs/good.deb")).unwrap(),
        Arrival::Local
    );
    assert!(bench.paths().is_empty());
}

#[test]
fn paths_of_a_lock_do_not_leave_the_archive() {
    let bench = Bench::new();
    for path in ["../../etc/passwd", "/etc/passwd", "pool/../../x", ""] {
        let text = bench.error(&LockedPackage {
            path: path.to_owned(),
            ..package()
        });
        assert!(text.contains("leaves its folder"), "{text}");
    }
    let text = bench.error(&LockedPackage {
        suite: "sid".to_owned(),
        ..package()
    });
    assert!(
        text.contains("'sid'") && text.contains("trixie, trixie-security"),
        "{text}"
    );
    assert!(bench.paths().is_empty());
}

fn many(bench: &Bench, count: u32) -> Vec<LockedPackage> {
    (0..count)
        .map(|i| {
            let bytes = i.to_le_bytes().repeat(10_000);
            let path = format!("pool/p{i}.deb");
            bench.server.put(&format!("/debian/{path}"), &bytes);
            LockedPackage {
                name: format!("p{i}"),
                path,
                size: bytes.len() as u64,
                sha256: Digest::of(&bytes),
                ..package()
            }
        })
        .collect()
}

#[test]
fn many_at_a_time_each_once_with_progress() {
    let bench = Bench::new();
    let packages = many(&bench, 20);
    let twice: Vec<_> = packages.iter().chain(&packages).collect();
    let mirrors = bench.mirrors();
    let summary = bench.with(&mirrors, |f| f.fetch_all(&twice)).unwrap();
    assert_eq!(
        (summary.fetched, summary.present, summary.bytes),
        (20, 0, 800_000)
    );
    let heard = bench.heard.0.lock().unwrap().clone();
    assert_eq!((heard.1, heard.2), (800_000, 800_000));
    assert_eq!(bench.paths().len(), 20);
    let summary = bench.with(&mirrors, |f| f.fetch_all(&twice)).unwrap();
    assert_eq!((summary.fetched, summary.present), (0, 20));
}

#[test]
fn all_that_failed_are_named_and_the_rest_came() {
    let bench = Bench::new();
    let packages = many(&bench, 10);
    bench.server.remove("/debian/pool/p3.deb");
    bench.server.always("/debian/pool/p7.deb", Fault::Corrupt);
    let all: Vec<_> = packages.iter().collect();
    let mirrors = bench.mirrors();
    let text = bench
        .with(&mirrors, |f| f.fetch_all(&all))
        .unwrap_err()
        .to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].starts_with("2 packages could not be fetched"),
        "{text}"
    );
    assert!(
        lines[1].contains("p3 ") && lines[2].contains("p7 "),
        "{text}"
    );
    let missing = bench.with(&mirrors, |f| f.missing(&all).len());
    assert_eq!(missing, 2);
}

#[test]
fn offline_lists_what_is_missing_and_asks_nobody() {
    let bench = Bench::new();
    let packages = many(&bench, 3);
    bench.fetch(&packages[1]).unwrap();
    let asked = bench.paths().len();
    let all: Vec<_> = packages.iter().collect();
    let mirrors = bench.mirrors().offline();
    let text = bench
        .with(&mirrors, |f| f.fetch_all(&all))
        .unwrap_err()
        .to_string();
    for i in [0, 2] {
        assert!(text.contains(&format!("p{i} ")), "{text}");
        assert!(text.contains(&packages[i].sha256.to_string()), "{text}");
    }
    assert!(
        !text.contains("p1 ") && text.contains("slipform fetch"),
        "{text}"
    );
    assert_eq!(bench.paths().len(), asked);
}

#[test]
fn timestamps_as_snapshots_have_them() {
    for (seconds, expected) in [
        (0, "19700101T000000Z"),
        (951_782_399, "20000228T235959Z"),
        (951_782_400, "20000229T000000Z"),
        (1_747_729_812, "20250520T083012Z"),
        (4_107_542_400, "21000301T000000Z"),
        (-1, "19691231T235959Z"),
        (i64::MAX, "99991231T235959Z"),
        (i64::MIN, "00010101T000000Z"),
    ] {
        assert_eq!(timestamp(seconds), expected);
    }
}
