//! One layer of packages and files.

use super::*;
use crate::layers::testing::{Bench, Item, line};
use crate::spec::{DirRule, FileRule, SymlinkRule};

fn shown(bench: &Bench) -> Vec<String> {
    bench
        .with(collect)
        .unwrap()
        .iter()
        .map(|e| format!("{} ({})", line(e), e.origin))
        .collect()
}

fn refusal(bench: &Bench) -> String {
    bench.with(collect).unwrap_err().to_string()
}

fn file(from: &str, to: &str) -> FileRule {
    FileRule {
        from: from.into(),
        to: to.into(),
        mode: None,
        owner: None,
    }
}

#[test]
fn packages_come_in_order_of_names_and_merge() {
    let mut bench = Bench::new();
    bench.package(
        "b",
        &[
            Item::dir("./usr").mode(0o700),
            Item::file("./usr/b", ""),
            Item::file("./usr/same", "x"),
        ],
    );
    bench.package(
        "a",
        &[
            Item::dir("./usr"),
            Item::file("./usr/a", ""),
            Item::file("./usr/same", "x"),
        ],
    );
    assert_eq!(
        shown(&bench),
        [
            "d 0755 0:0 /usr (package a)",
            "f 0644 0:0 /usr/a (package a)",
            "f 0644 0:0 /usr/b (package b)",
            "f 0644 0:0 /usr/same (package a)"
        ]
    );
    bench.packages.reverse();
    assert_eq!(shown(&bench)[0], "d 0755 0:0 /usr (package a)");
}

#[test]
fn a_package_twice_is_an_error() {
    let mut bench = Bench::new();
    bench.package("a", &[]);
    bench.package("a", &[Item::file("x", "")]);
    assert!(refusal(&bench).contains("keep one"));
}

#[test]
fn different_files_of_two_packages_are_an_error_that_names_both() {
    for (first, second) in [
        (Item::file("./x", "1"), Item::file("./x", "2")),
        (Item::file("./x", "1"), Item::file("./x", "1").mode(0o755)),
        (Item::file("./x", "1"), Item::dir("./x")),
        (Item::dir("./x"), Item::new(b'6', "./x")),
        (Item::symlink("./x", "a"), Item::symlink("./x", "b")),
        (Item::symlink("./x", "a"), Item::file("./x", "")),
    ] {
        let mut bench = Bench::new();
        bench.package("p", &[first]);
        bench.package("q", &[second]);
        let message = refusal(&bench);
        assert!(
            message.contains("package p")
                && message.contains("package q")
                && message.contains("/x"),
            "{message}"
        );
    }
}

#[test]
fn a_link_and_a_folder_of_two_packages_both_stay() {
    let mut bench = Bench::new();
    bench.package("p", &[Item::symlink("./lib", "usr/lib")]);
    bench.package("q", &[Item::dir("./lib"), Item::file("./lib/x", "")]);
    let expected = [
        "l 0777 0:0 /lib -> usr/lib (package p)",
        "d 0755 0:0 /lib (package q)",
        "f 0644 0:0 /lib/x (package q)",
    ];
    assert_eq!(shown(&bench), expected);
}

#[test]
fn the_users_file_wins_over_a_packages() {
    let mut bench = Bench::new();
    bench.package(
        "p",
        &[
            Item::file("./etc/conf", "theirs"),
            Item::hardlink("./etc/other", "./etc/conf"),
            Item::dir("./var/x"),
        ],
    );
    bench.file("conf", "mine", 0o644);
    bench.spec.files = vec![file("conf", "/etc/conf")];
    bench.spec.dirs = vec![DirRule {
        path: "/var/x".into(),
        mode: Some(0o700),
        owner: None,
    }];
    assert_eq!(
        shown(&bench),
        [
            "f 0644 0:0 /etc/conf (files[0] conf)",
            "f 0644 0:0 /etc/other (package p)",
            "d 0700 0:0 /var/x (dirs[0] /var/x)"
        ]
    );
    let all = bench.with(collect).unwrap();
    assert!(
        matches!(&all[1].kind, Kind::File(content) if content.size == 6),
        "{:?}",
        all[1]
    );
}

#[test]
fn the_users_file_in_a_folders_place_is_an_error_and_so_are_two_of_the_users() {
    let mut bench = Bench::new();
    bench.package("p", &[Item::dir("./var/x"), Item::file("./f", "")]);
    bench.file("a", "1", 0o644);
    bench.file("b", "2", 0o644);
    bench.spec.files = vec![file("a", "/var/x")];
    assert!(
        refusal(&bench).contains("folder of package p"),
        "{}",
        refusal(&bench)
    );
    bench.spec.files = vec![];
    bench.spec.dirs = vec![DirRule {
        path: "/f".into(),
        mode: None,
        owner: None,
    }];
    assert!(refusal(&bench).contains("file of package p"));
    bench.spec.dirs = vec![];
    bench.spec.symlinks = vec![SymlinkRule {
        path: "/var/x".into(),
        target: "y".into(),
    }];
    assert!(refusal(&bench).contains("symbolic link of symlinks[0]"));
    bench.spec.symlinks = vec![];
    bench.spec.files = vec![file("a", "/x"), file("b", "/x")];
    assert!(refusal(&bench).contains("files[1] b"));
    bench.spec.files = vec![file("a", "/x"), file("a", "/x")];
    assert_eq!(shown(&bench).len(), 3);
}

#[test]
fn excludes_hold_for_packages_and_files() {
    let mut bench = Bench::new();
    bench.package(
        "p",
        &[
            Item::file("./usr/share/doc/p/changelog", ""),
            Item::file("./opt/a", ""),
            Item::file("./opt/b", ""),
        ],
    );
    bench.file("c", "", 0o644);
    bench.spec.files = vec![file("c", "/opt/c")];
    bench.spec.exclude = vec!["/opt/[ac]".into()];
    assert_eq!(shown(&bench), ["f 0644 0:0 /opt/b (package p)"]);
    bench.spec.exclude = vec!["/opt/[".into()];
    assert!(refusal(&bench).contains("glob is malformed"));
}

#[test]
fn a_tar_is_merged_as_a_package_is_and_yields_to_the_users_files() {
    let mut bench = Bench::new();
    let archive = crate::layers::testing::tar(&[
        Item::dir("./etc").mode(0o700),
        Item::file("./etc/app.conf", "theirs"),
        Item::file("./etc/left-out", ""),
        Item::file(
            "./usr/share/doc/app/README",
            "kept: whoever made the tar chose it",
        ),
    ]);
    let blob = bench.store.put(&archive).unwrap();
    bench.tar = Some(crate::layers::rootfs::unpack(&bench.store, &blob, "root.tar").unwrap());
    bench.spec.tar = Some(crate::spec::TarRule {
        written: "root.tar".into(),
        path: "root.tar".into(),
    });
    bench.spec.exclude = vec!["/etc/left-out".into()];
    bench.package("p", &[Item::dir("./etc"), Item::file("./etc/p", "")]);
    bench.file("app.conf", "mine", 0o644);
    bench.spec.files = vec![file("app.conf", "/etc/app.conf")];
    assert_eq!(
        shown(&bench),
        [
            "d 0700 0:0 /etc (tar root.tar)",
            "f 0644 0:0 /etc/app.conf (files[0] app.conf)",
            "f 0644 0:0 /etc/p (package p)",
            "f 0644 0:0 /usr/share/doc/app/README (tar root.tar)",
        ]
    );
    bench.package("q", &[Item::file("./etc/app.conf", "another")]);
    let message = refusal(&bench);
    assert!(
        message.contains("tar root.tar") && message.contains("package q"),
        "{message}"
    );
}
