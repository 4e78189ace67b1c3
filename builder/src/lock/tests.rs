//! Resolution from a signed archive to a lock, and all the ways in which it must not work.

use std::fs;

use super::testing::{NOW, SIGNED, TestArchive, TestPackage, VALID, fuzz, options};
use super::*;
use crate::base::Digest;
use crate::base::progress::Quiet;

fn wishes(layers: &[(&str, &[&str])]) -> Wishes {
    let layer = |(name, packages): &(&str, &[&str])| WishedLayer {
        name: (*name).to_owned(),
        packages: packages.iter().map(ToString::to_string).collect(),
        ..WishedLayer::default()
    };
    Wishes {
        suite: "trixie".to_owned(),
        arch: "amd64".to_owned(),
        layers: layers.iter().map(layer).collect(),
        ..Wishes::default()
    }
}

/// An archive of `name version: field value; field value` lines, all in trixie.
fn archive(packages: &[&str]) -> TestArchive {
    let mut archive = TestArchive::new();
    for line in packages {
        archive.add("trixie", package(line));
    }
    archive.publish();
    archive
}

fn package(line: &str) -> TestPackage {
    let (head, fields) = line.split_once(": ").unwrap_or((line, ""));
    let (name, version) = head.split_once(' ').unwrap_or((head, "1"));
    fields
        .split("; ")
        .filter_map(|field| field.split_once(' '))
        .fold(TestPackage::new(name, version), |package, (name, value)| {
            package.field(name, value)
        })
}

fn resolve_all(wishes: &Wishes, archive: &TestArchive) -> Result<LockFile, LockError> {
    resolve(wishes, archive, &options(&archive.key()), &Quiet)
}

/// The lock's packages, as `layer: name=version, …`.
fn text(lock: &LockFile) -> String {
    let layers = lock.layers.iter().map(|layer| {
        let packages = layer.packages.iter();
        let packages: Vec<_> = packages
            .map(|p| format!("{}={}", p.name, p.version))
            .collect();
        format!("{}: {}", layer.name, packages.join(", "))
    });
    layers.collect::<Vec<_>>().join("; ")
}

fn closure(packages: &[&str], wished: &[&str]) -> String {
    match resolve_all(&wishes(&[("app", wished)]), &archive(packages)) {
        Ok(lock) => text(&lock),
        Err(error) => error.to_string(),
    }
}

#[test]
fn closures() {
    for (packages, wished, expected) in [
        // Depends and Pre-Depends, followed.
        (
            &["a: Depends b; Pre-Depends c", "b: Depends d", "c", "d", "e"][..],
            &["a"][..],
            "app: a=1, b=1, c=1, d=1",
        ),
        // Recommends are not.
        (
            &["a: Recommends b; Suggests c", "b", "c"],
            &["a"],
            "app: a=1",
        ),
        // The first alternative, unless another is there already.
        (&["a: Depends b | c", "b", "c"], &["a"], "app: a=1, b=1"),
        (
            &["a: Depends b | c", "b", "c"],
            &["a", "c"],
            "app: a=1, c=1",
        ),
        // The first alternative that exists, that has the version, that can be installed.
        (&["a: Depends x | c", "c"], &["a"], "app: a=1, c=1"),
        (
            &["a: Depends b (>= 2) | c", "b", "c"],
            &["a"],
            "app: a=1, c=1",
        ),
        (
            &["a: Depends b | c", "b: Depends d, x", "d", "c"],
            &["a"],
            "app: a=1, c=1",
        ),
        (
            &["a: Depends b | c", "b: Conflicts a", "c"],
            &["a"],
            "app: a=1, c=1",
        ),
        (
            &["a: Depends b | c", "b", "c", "z: Breaks b (<< 2)"],
            &["a", "z"],
            "app: a=1, c=1, z=1",
        ),
        // A real package before those that provide its name.
        (
            &["a: Depends v", "v", "b: Provides v"],
            &["a"],
            "app: a=1, v=1",
        ),
        (
            &[
                "a: Depends v",
                "b: Provides v; Priority required",
                "c: Provides v; Priority optional",
            ],
            &["a"],
            "app: a=1, b=1",
        ),
        (
            &[
                "a: Depends v (>= 2)",
                "b: Provides v",
                "c: Provides v (= 3)",
            ],
            &["a"],
            "app: a=1, c=1",
        ),
        // A loop of dependencies, and a package that needs itself.
        (
            &["a: Depends b", "b: Depends c", "c: Depends a, c"],
            &["a"],
            "app: a=1, b=1, c=1",
        ),
        // The highest version, or the one that is wished.
        (&["a 1", "a 1~rc", "a 1+b1"], &["a"], "app: a=1+b1"),
        (&["a 1", "a 2"], &["a=1"], "app: a=1"),
        (&["a 1", "a 2", "a 3"], &["a (<< 3)"], "app: a=2"),
        // Qualifiers, other architectures, profiles.
        (
            &[
                "a: Depends b:any, c [i386], d <cross>",
                "b: Multi-Arch allowed",
            ],
            &["a"],
            "app: a=1, b=1",
        ),
        // A virtual package with one provider may be wished.
        (&["b: Provides v"], &["v"], "app: b=1"),
        // What was chosen for a dependency goes again when what must be there conflicts with it.
        (
            &[
                "a: Depends b, c",
                "b: Depends n | c",
                "n: Depends m",
                "m",
                "c: Conflicts n",
            ],
            &["a"],
            "app: a=1, b=1, c=1",
        ),
        // A package does not conflict with what it provides itself.
        (&["a: Provides mta; Conflicts mta"], &["a"], "app: a=1"),
    ] {
        assert_eq!(closure(packages, wished), expected, "{packages:?}");
    }
}

#[test]
fn what_cannot_be_resolved_is_explained() {
    for (packages, wished, words) in [
        (
            &["redis-server"][..],
            &["redis-sever"][..],
            &["no package 'redis-sever'", "did you mean redis-server?"][..],
        ),
        (
            &["a: Depends b", "b: Depends libfoo", "libfood"],
            &["a"],
            &["no package 'libfoo'", "libfood", "needed by b; needed by a"],
        ),
        (
            &["a: Depends b (>= 2)", "b 1"],
            &["a"],
            &[
                "there is no b (>= 2)",
                "the archives have b 1",
                "needed by a",
            ],
        ),
        (
            &["a 1", "a 2"],
            &["a (>= 3)"],
            &["a (>= 3) is wished", "the archives have a 2, 1"],
        ),
        (
            &["a 1", "a 2"],
            &["a=1", "a (>= 2)"],
            &["a (= 1) and a (>= 2) is wished"],
        ),
        (
            &["a", "b: Conflicts a"],
            &["a", "b"],
            &["b 1 cannot stand beside a 1", "conflicts with a"],
        ),
        (
            &["a: Provides mta; Conflicts mta", "b: Provides mta"],
            &["a", "b"],
            &["a 1 cannot stand beside b 1"],
        ),
        (
            &["a: Depends b", "b: Breaks a (<< 2)"],
            &["a"],
            &["b 1 cannot stand beside a 1", "needed by a"],
        ),
        (
            &["b: Provides v", "c: Provides v"],
            &["v"],
            &["'v' is no package of its own", "b, c"],
        ),
        (
            &["a: Depends v (>= 1)", "b: Provides v"],
            &["a"],
            &["nothing that can be installed provides v (>= 1)"],
        ),
        (
            &["a: Depends b ((", "b"],
            &["a"],
            &["no package relation", "needed by a"],
        ),
        (&["a"], &["a | b"], &["layer 'app'", "no package relation"]),
    ] {
        let message = closure(packages, wished);
        for word in words {
            assert!(message.contains(word), "{message}\nshould say: {word}");
        }
        assert!(message.starts_with("layer 'app': "), "{message}");
    }
}

#[test]
fn every_package_says_why() {
    let archive = archive(&["a: Depends b", "b: Depends c", "c"]);
    let lock = resolve_all(&wishes(&[("app", &["a"])]), &archive).unwrap();
    let why: Vec<_> = lock.layers[0]
        .packages
        .iter()
        .map(|p| p.why.as_str())
        .collect();
    assert_eq!(why, ["wished", "needed by a", "needed by b"]);
}

#[test]
fn layers_never_carry_a_second_copy() {
    let archive = archive(&[
        "a: Depends libc (>= 2), v",
        "libc 2",
        "b: Provides v; Depends libc",
        "v",
    ]);
    let lock = resolve_all(
        &wishes(&[("base", &["b"]), ("app", &["a", "libc"])]),
        &archive,
    );
    assert_eq!(text(&lock.unwrap()), "base: b=1, libc=2; app: a=1");
}

#[test]
fn a_lower_layer_at_the_wrong_version_is_an_error_that_says_so() {
    let archive = archive(&["a: Depends libc (>= 2)", "libc 1", "libc 2"]);
    let two = |app: &[&str]| {
        let error = resolve_all(&wishes(&[("base", &["libc=1"]), ("app", app)]), &archive);
        error.unwrap_err().to_string()
    };
    let message = two(&["a"]);
    assert!(
        message.contains("layer 'base' has libc 1 and is not libc (>= 2)"),
        "{message}"
    );
    let message = two(&["libc=2"]);
    assert!(message.contains("layer 'base' has libc 1"), "{message}");
}

#[test]
fn packages_of_a_container_layer_count_as_present() {
    let archive = archive(&["a: Depends libc (>= 2), v", "libc 3", "x: Provides v"]);
    let mut wishes = wishes(&[("base", &[]), ("app", &["a"])]);
    wishes.layers[0].present = vec![PresentPackage {
        name: "libc".to_owned(),
        version: "2.5".to_owned(),
        provides: "v, w".to_owned(),
    }];
    assert_eq!(
        text(&resolve_all(&wishes, &archive).unwrap()),
        "base: ; app: a=1"
    );
    wishes.layers[0].present[0].version = "1".to_owned();
    let message = resolve_all(&wishes, &archive).unwrap_err().to_string();
    assert!(message.contains("layer 'base' has libc 1"), "{message}");
}

#[test]
fn without_cuts_a_package_off() {
    let archive = archive(&[
        "a: Depends b, c | d, v",
        "b: Depends x; Provides v",
        "x",
        "c",
        "d",
    ]);
    let mut wishes = wishes(&[("app", &["a"])]);
    wishes.layers[0].without = vec!["b".to_owned(), "d".to_owned()];
    assert_eq!(text(&resolve_all(&wishes, &archive).unwrap()), "app: a=1");
    for (without, word) in [("bb", "no package 'bb'"), ("a", "in 'without'")] {
        wishes.layers[0].without = vec![without.to_owned()];
        let message = resolve_all(&wishes, &archive).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_local_package_wins_over_the_archives() {
    let archive = archive(&["a: Depends b (>= 1)", "b 9", "c"]);
    let deb = package("b 1.5: Depends c");
    let mut wishes = wishes(&[("app", &["a"])]);
    let mut local = LocalDeb {
        path: "debs/b.deb".to_owned(),
        control: deb.control(),
        size: 10,
        sha256: Digest::of(deb.deb()),
    };
    wishes.layers[0].local = vec![local.clone()];
    let lock = resolve_all(&wishes, &archive).unwrap();
    assert_eq!(text(&lock), "app: a=1, b=1.5, c=1");
    let locked = &lock.layers[0].packages[1];
    assert_eq!(
        (locked.suite.as_str(), locked.path.as_str()),
        ("local", "debs/b.deb")
    );
    assert!(LockFile::parse(&lock.to_toml(), "x".as_ref()).is_ok());

    local.control = local.control.replace("amd64", "i386");
    wishes.layers[0].local = vec![local];
    let message = resolve_all(&wishes, &archive).unwrap_err().to_string();
    assert!(
        message.contains("debs/b.deb") && message.contains("'i386'"),
        "{message}"
    );
}

#[test]
fn boards_take_the_real_kernel_alone_and_tools_stand_for_themselves() {
    let archive = archive(&[
        "linux-image-cloud-amd64 6.12.2: Depends linux-image-6.12.2-cloud (= 6.12.2)",
        "linux-image-6.12.2-cloud 6.12.2: Depends kmod",
        "kmod",
        "stub: Depends kmod",
        "qemu: Depends kmod",
    ]);
    let mut wishes = wishes(&[("app", &["kmod"])]);
    wishes.boards = vec![WishedBoard {
        name: "qemu".to_owned(),
        kernel: "linux-image-cloud-amd64".to_owned(),
        stub: "stub".to_owned(),
    }];
    wishes.tools = vec![WishedTool {
        name: "emulator".to_owned(),
        packages: vec!["qemu".to_owned()],
    }];
    let lock = resolve_all(&wishes, &archive).unwrap();
    let board = &lock.boards[0];
    assert_eq!(board.kernel.name, "linux-image-6.12.2-cloud");
    assert_eq!(board.kernel.why, "needed by linux-image-cloud-amd64");
    assert_eq!(
        (board.stub.name.as_str(), board.stub.why.as_str()),
        ("stub", "wished")
    );
    let names: Vec<_> = lock.tools[0]
        .packages
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(names, ["kmod", "qemu"]);
    assert_eq!(lock.stale(&wishes), None);
    let text = lock.to_toml();
    assert_eq!(LockFile::parse(&text, "x".as_ref()).unwrap(), lock);
}

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

#[test]
fn untrusted_archives_are_refused() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let sources = wishes.sources();
    let release = archive.path(&sources[0], "dists/trixie/InRelease");
    let good = fs::read_to_string(&release).unwrap();
    let dist = archive.path(&sources[0], "dists/trixie/main/binary-amd64");
    let key = archive.key();
    let error =
        |options: &ResolveOptions<'_>| resolve(&wishes, &archive, options, &Quiet).unwrap_err();

    let ours = ResolveOptions {
        debian_keys: None,
        ..options(&key)
    };
    assert!(
        matches!(error(&ours), LockError::Signature { .. }),
        "Debian's keys did not sign"
    );

    fs::write(&release, good.replace("Suite: stable", "Suite: stables")).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::Signature { .. }),
        "tampered InRelease"
    );

    let other = archive.path(&sources[1], "dists/trixie-updates/InRelease");
    fs::copy(other, &release).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::WrongSuite { .. }),
        "wrong suite"
    );

    fs::remove_file(&release).unwrap();
    assert!(
        matches!(error(&options(&key)), LockError::NoRelease { .. }),
        "no InRelease"
    );

    fs::write(&release, &good).unwrap();
    let late = ResolveOptions {
        now: NOW + VALID,
        ..options(&key)
    };
    assert!(matches!(error(&late), LockError::Expired { .. }), "expired");
    let told = ResolveOptions {
        allow_expired: true,
        ..late
    };
    assert!(resolve(&wishes, &archive, &told, &Quiet).is_ok());

    for entry in ["Packages.xz", "by-hash"] {
        // A good index under one of its two places is enough.
        assert!(
            resolve(&wishes, &archive, &options(&key), &Quiet).is_ok(),
            "{entry}"
        );
        let path = dist.join(entry);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
    let tampered = error(&options(&key));
    assert!(matches!(tampered, LockError::Mismatch { .. }), "{tampered}");
    let short = fs::File::options()
        .write(true)
        .open(dist.join("Packages.xz"))
        .unwrap();
    short.set_len(10).unwrap();
    let truncated = error(&options(&key)).to_string();
    assert!(truncated.contains("10 came"), "{truncated}");
}

#[test]
fn a_mirror_in_the_middle_of_an_update_is_read_by_hash() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let plain = archive.path(
        &wishes.sources()[0],
        "dists/trixie/main/binary-amd64/Packages.xz",
    );
    fs::write(plain, b"of the next update").unwrap();
    assert!(resolve_all(&wishes, &archive).is_ok());
}

#[test]
fn an_index_that_unpacks_to_more_than_promised_is_refused() {
    let archive = archive(&["a"]);
    let wishes = wishes(&[("app", &["a"])]);
    let source = &wishes.sources()[0];
    let mut bomb =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    std::io::Write::write_all(&mut bomb, &vec![b'\n'; 1 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let release = format!(
        "Codename: trixie\nDate: {}\nSHA256:\n {} {} main/binary-amd64/Packages.xz\n {} 1000 main/binary-amd64/Packages\n",
        date::format(SIGNED),
        Digest::of(&bomb).hex(),
        bomb.len(),
        "0".repeat(64),
    );
    let dist = archive.path(source, "dists/trixie");
    fs::write(dist.join("main/binary-amd64/Packages.xz"), &bomb).unwrap();
    fs::write(dist.join("InRelease"), archive.sign(&release, SIGNED)).unwrap();
    let message = resolve_all(&wishes, &archive).unwrap_err().to_string();
    assert!(
        message.contains("more than its Release promises"),
        "{message}"
    );
}

#[test]
fn further_sources_are_trusted_by_their_own_key_only() {
    let archive = archive(&["a"]);
    let mut wishes = wishes(&[("app", &["a"])]);
    let source = WishedSource::new(
        "extra",
        "http://x/debian",
        "trixie",
        archive.key().into_bytes(),
    );
    wishes.apt = vec![source.clone()];
    let lock = resolve_all(&wishes, &archive).unwrap();
    assert_eq!(lock.suites.len(), 4);
    // Of equal versions, that of the archive named first.
    assert_eq!(lock.layers[0].packages[0].suite, "trixie");

    let stranger = slipform_openpgp::testing::TestKey::new(9, 1_700_000_000).public();
    wishes.apt[0] = WishedSource::new("extra", "http://x/debian", "trixie", stranger.into_bytes());
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::Signature { .. })
    ));
    wishes.apt[0].key_bytes = b"no key".to_vec();
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::Key { .. })
    ));
    wishes.apt = vec![WishedSource {
        name: "trixie".to_owned(),
        ..source
    }];
    assert!(matches!(
        resolve_all(&wishes, &archive),
        Err(LockError::DoubleSource(_))
    ));
}

#[test]
fn a_chain_without_end_is_refused_and_a_long_one_is_not() {
    let line = |at: usize| format!("p{at}: Depends p{}", at + 1);
    let mut archive = TestArchive::new();
    for at in 0..3000 {
        archive.add("trixie", package(&line(at)));
    }
    archive.add("trixie", package("p3000")).publish();
    let message = resolve_all(&wishes(&[("app", &["p0"])]), &archive)
        .unwrap_err()
        .to_string();
    assert!(message.contains("too deep"), "{message}");
    let lock = resolve_all(&wishes(&[("app", &["p1500"])]), &archive).unwrap();
    assert_eq!(lock.layers[0].packages.len(), 1501);
}

#[test]
fn many_ways_to_fail_do_not_keep_the_search_busy() {
    // 2^60 combinations: each level can be met in two ways that both end in nothing.
    let mut archive = TestArchive::new();
    for at in 0..60 {
        for side in ["l", "r"] {
            let line = format!("{side}{at}: Depends l{0} | r{0}; Conflicts x", at + 1);
            archive.add("trixie", package(&line));
        }
    }
    archive
        .add("trixie", package("l60: Conflicts a"))
        .add("trixie", package("r60: Depends none"));
    archive
        .add("trixie", package("a: Depends l0 | r0 | c"))
        .add("trixie", package("c"))
        .publish();
    let result = resolve_all(&wishes(&[("app", &["a"])]), &archive);
    match result {
        Ok(lock) => assert_eq!(text(&lock), "app: a=1, c=1"),
        Err(error) => assert!(
            error.to_string().contains("too deep or too many"),
            "{error}"
        ),
    }
}

#[test]
fn mutated_indexes_never_panic() {
    let packages: Vec<String> = [
        "a: Depends b (>= 1) | c, d:any",
        "b 2~: Provides v (= 3), w; Conflicts v",
        "d: Breaks a",
    ]
    .iter()
    .map(|line| {
        package(line).control()
            + "Filename: pool/x.deb\nSize: 1\nSHA256: "
            + &"0".repeat(64)
            + "\n\n"
    })
    .collect();
    fuzz(packages.concat().as_bytes(), |bytes| {
        let mut index = index::Index::new("amd64");
        let _ = index.add_packages(bytes, 0);
        let wishes: Vec<_> = ["a", "b", "v", "d"]
            .iter()
            .map(|name| Wish::parse(name).unwrap())
            .collect();
        let keep = std::collections::HashMap::new();
        let request = solve::Request {
            wishes: &wishes,
            without: &[],
            local: &[],
            below: &[],
            keep: &keep,
            priorities: &[500],
        };
        let _ = solve::solve(&index, &request);
    });
}
