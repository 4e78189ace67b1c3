use super::testing::{golden, wishes};
use super::*;

fn parse(text: &str) -> Result<LockFile, LockError> {
    LockFile::parse(text, Path::new("x/slipform.lock"))
}

#[test]
fn writes_the_golden_text_whatever_the_order() {
    let mut lock = parse(&golden()).unwrap();
    lock.layers[1].packages.reverse();
    assert_eq!(lock.to_toml(), golden());
}

#[test]
fn refuses_a_newer_version_by_name() {
    let text = golden().replace("version = 1\n", "version = 2\n[new]\n");
    let error = parse(&text).unwrap_err();
    assert!(
        matches!(error, LockError::Newer { found: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("x/slipform.lock"), "{error}");
}

#[test]
fn refuses_what_it_did_not_write() {
    for (from, to, word) in [
        ("version = 1\n", "version = 0\n", "no version 0"),
        ("version = 1\n", "", "version"),
        ("size = 7", "size = 7\ncolour = 1", "line 9: unknown field"),
        ("size = 7", "size = -7", "line 8"),
        (
            "path = \"pool/main/w",
            "path = \"../../w",
            "path below an archive",
        ),
        ("name = \"webfs\"", "name = \"../webfs\"", "package name"),
        (
            "name = \"webfs\"",
            "name = \"libc6\"",
            "two of the package 'libc6'",
        ),
        (
            "name = \"base\"",
            "name = \"app\"",
            "two of the layer 'app'",
        ),
        (
            "suite = \"trixie\"",
            "suite = \"sid\"",
            "suite of this lock",
        ),
        ("sha256:0303", "md5:0303", "is no digest"),
        ("[[suite]]", "[[suite", "line"),
    ] {
        let text = golden().replacen(from, to, 1);
        assert_ne!(text, golden(), "{to}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(word), "{to}: {error}");
        assert!(error.contains("slipform lock"), "{error}");
    }
}

#[test]
fn says_why_it_is_stale() {
    let lock = parse(&golden()).unwrap();
    let mut with_suites = wishes();
    assert_eq!(lock.stale(&with_suites), None);
    with_suites.suite = String::new();
    let mut lock = lock;
    lock.suites.clear();
    type Change = fn(&mut Wishes);
    let changes: [(Change, &str); 5] = [
        (
            |w| w.layers[1].packages.push("nginx".to_owned()),
            "layer 'app' wishes nginx",
        ),
        (|w| w.layers[1].name = "web".to_owned(), "no layer 'web'"),
        (
            |w| w.boards.clear(),
            "a board 'qemu-x86_64' that is no longer there",
        ),
        (|w| w.layers[1].without.push("x".to_owned()), "have changed"),
        (|w| w.suite = "sid".to_owned(), "no suite 'sid'"),
    ];
    for (change, word) in changes {
        let mut wishes = with_suites.clone();
        change(&mut wishes);
        let reason = lock.stale(&wishes).unwrap();
        assert!(reason.contains(word), "{reason}");
        assert!(reason.starts_with("the lock is stale: "), "{reason}");
    }
}

#[test]
fn mutated_locks_never_panic() {
    let text = golden();
    slipform_fuzz::fuzz(&[text.as_bytes()], |bytes, _| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(lock) = parse(text)
        {
            assert_eq!(parse(&lock.to_toml()).unwrap().to_toml(), lock.to_toml());
        }
    });
}
