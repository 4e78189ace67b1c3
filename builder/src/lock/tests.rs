//! Resolution from a signed archive to a lock, and all the ways in which it must not work.

use std::fs;

use super::testing::{NOW, SIGNED, TestArchive, TestPackage, VALID, options};
use super::*;

mod trust;
mod update;

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
                "a: Depends d",
                "d: Depends b, c",
                "b: Depends n | c",
                "n: Depends m",
                "m",
                "c: Conflicts n",
            ],
            &["a"],
            "app: a=1, b=1, c=1, d=1",
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
        "firmware-b: Depends kmod",
        "firmware-a",
        "grub: Depends kmod",
    ]);
    let mut wishes = wishes(&[("app", &["kmod"])]);
    wishes.boards = vec![WishedBoard {
        name: "qemu".to_owned(),
        kernel: "linux-image-cloud-amd64".to_owned(),
        stub: "stub".to_owned(),
        bios: Some("grub".to_owned()),
        firmware: vec!["firmware-b".to_owned(), "firmware-a (>= 0)".to_owned()],
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
    assert_eq!(board.bios.as_ref().map(|p| p.name.as_str()), Some("grub"));
    let firmware: Vec<_> = board.firmware.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(firmware, ["firmware-a", "firmware-b"]);
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
    slipform_fuzz::fuzz(&[packages.concat()], |bytes, _| {
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
