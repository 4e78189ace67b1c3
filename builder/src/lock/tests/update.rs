//! What happens to a lock when the archives change.

use super::*;

/// trixie has `a` and `b`, security a newer `b`.
fn moved_on() -> (TestArchive, Wishes, LockFile) {
    let mut archive = archive(&["a 1: Depends b", "b 1", "c 1"]);
    let wishes = wishes(&[("app", &["a"])]);
    let lock = resolve_all(&wishes, &archive).unwrap();
    archive.add("trixie-security", package("b 1+deb13u1"));
    archive.add("trixie-updates", package("a 2: Depends b"));
    archive.publish();
    (archive, wishes, lock)
}

fn again(
    archive: &TestArchive,
    wishes: &Wishes,
    lock: &LockFile,
    update: Update,
) -> Result<LockFile, LockError> {
    let key = archive.key();
    let mut options = options(&key);
    (options.keep, options.update) = (Some(lock), update);
    resolve(wishes, archive, &options, &Quiet)
}

#[test]
fn a_lock_changes_only_as_much_as_asked() {
    let (archive, wishes, lock) = moved_on();
    let named = |names: &[&str]| Update::Named(names.iter().map(ToString::to_string).collect());
    for (update, expected) in [
        (named(&[]), "app: a=1, b=1"),
        (named(&["b"]), "app: a=1, b=1+deb13u1"),
        (Update::All, "app: a=2, b=1+deb13u1"),
    ] {
        assert_eq!(
            text(&again(&archive, &wishes, &lock, update).unwrap()),
            expected
        );
    }
    let fresh = resolve_all(&wishes, &archive).unwrap();
    assert_eq!(text(&fresh), "app: a=2, b=1+deb13u1");
    assert_eq!(fresh.layers[0].packages[1].suite, "trixie-security");
    let error = again(&archive, &wishes, &lock, named(&["aa"])).unwrap_err();
    assert!(error.to_string().contains("cannot update 'aa'"), "{error}");
}

#[test]
fn what_cannot_stay_beside_an_update_moves_too() {
    let mut archive = archive(&["a 1: Depends b (= 1)", "b 1", "c 1"]);
    let wishes = wishes(&[("base", &["b", "c"]), ("app", &["a"])]);
    let lock = resolve_all(&wishes, &archive).unwrap();
    for line in ["a 2: Depends b (= 2)", "b 2", "c 2"] {
        archive.add("trixie-security", package(line));
    }
    archive.publish();
    for name in ["a", "b"] {
        let update = Update::Named(vec![name.to_owned()]);
        let lock = again(&archive, &wishes, &lock, update).unwrap();
        assert_eq!(text(&lock), "base: b=2, c=1; app: a=2", "{name}");
    }
}

#[test]
fn the_mirror_moves_on() {
    let (mut archive, wishes, lock) = moved_on();
    archive
        .remove("trixie", "b")
        .remove("trixie", "c")
        .publish();
    let key = archive.key();
    let findings = check(&lock, &wishes, &archive, &options(&key), &Quiet).unwrap();
    assert_eq!(
        findings,
        [
            Finding {
                package: "a".to_owned(),
                locked: "1".to_owned(),
                newest: Some("2".to_owned()),
                security: false,
                gone: false,
            },
            Finding {
                package: "b".to_owned(),
                locked: "1".to_owned(),
                newest: Some("1+deb13u1".to_owned()),
                security: true,
                gone: true,
            },
        ]
    );
    assert_eq!(findings[0].to_string(), "a 1: there is 2");
    assert_eq!(
        findings[1].to_string(),
        "b 1 is no longer in the archives, which have 1+deb13u1, a security update; run `slipform lock --update b`"
    );
    // What the archives no longer have cannot be kept.
    let lock = again(&archive, &wishes, &lock, Update::Named(Vec::new())).unwrap();
    assert_eq!(text(&lock), "app: a=1, b=1+deb13u1");
    archive.remove("trixie-security", "b").publish();
    let findings = check(&lock, &wishes, &archive, &options(&key), &Quiet).unwrap();
    assert_eq!((&findings[1].newest, findings[1].gone), (&None, true));
}

#[test]
fn a_kept_kernel_stays_until_it_is_asked_to_move() {
    let mut archive = archive(&[
        "linux-image-cloud 1: Depends linux-image-1 (= 1)",
        "linux-image-1 1",
        "stub",
    ]);
    let mut wishes = wishes(&[]);
    wishes.boards = vec![WishedBoard {
        name: "q".to_owned(),
        kernel: "linux-image-cloud".to_owned(),
        stub: "stub".to_owned(),
        bios: None,
        firmware: Vec::new(),
    }];
    let lock = resolve_all(&wishes, &archive).unwrap();
    archive.add(
        "trixie-security",
        package("linux-image-cloud 2: Depends linux-image-2 (= 2)"),
    );
    archive.add("trixie-security", package("linux-image-2 2"));
    archive.publish();
    for (update, expected) in [
        (&[][..], "linux-image-1"),
        (&["linux-image-1"], "linux-image-2"),
        (&["linux-image-cloud"], "linux-image-2"),
    ] {
        let update = Update::Named(update.iter().map(ToString::to_string).collect());
        let lock = again(&archive, &wishes, &lock, update).unwrap();
        assert_eq!(lock.boards[0].kernel.name, expected);
    }
    let key = archive.key();
    let findings = check(&lock, &wishes, &archive, &options(&key), &Quiet).unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].newest.as_deref(), Some("linux-image-2 2"));
    assert!(findings[0].security && !findings[0].gone);
}
