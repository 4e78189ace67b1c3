//! The user's files: what is copied, and what is refused.

use std::os::unix::fs::symlink;

use super::*;
use crate::base::Digest;
use crate::layers::testing::Bench;
use crate::spec::{DirRule, SymlinkRule};

fn rule(from: &str, to: &str) -> FileRule {
    FileRule {
        from: from.into(),
        to: to.into(),
        mode: None,
        owner: None,
    }
}

/// Entries as `kind mode uid:gid path` lines.
fn shown(bench: &Bench) -> Vec<String> {
    bench
        .with(user_entries)
        .unwrap()
        .iter()
        .map(crate::layers::testing::line)
        .collect()
}

fn refusal(bench: &Bench) -> String {
    bench.with(user_entries).unwrap_err().to_string()
}

#[test]
fn copies_files_folders_and_globs() {
    let mut bench = Bench::new();
    bench.file("app", "bin", 0o700);
    bench.file("www/index.html", "hi", 0o600);
    bench.file("www/a/b.css", "css", 0o666);
    bench.file("www/a/c.js", "js", 0o644);
    bench.mkdir("www/empty");
    symlink("index.html", bench.dir().join("www/link")).unwrap();
    symlink("/etc/shadow", bench.dir().join("www/out")).unwrap();
    bench.spec.files = vec![rule("app", "/usr/bin/app"), rule("app", "/opt/")];
    assert_eq!(
        shown(&bench),
        ["f 0755 0:0 /usr/bin/app", "f 0755 0:0 /opt/app"]
    );
    bench.spec.files = vec![rule("./www/", "/srv")];
    assert_eq!(
        shown(&bench),
        [
            "f 0644 0:0 /srv/a/b.css",
            "f 0644 0:0 /srv/a/c.js",
            "d 0755 0:0 /srv/empty",
            "f 0644 0:0 /srv/index.html",
            "l 0777 0:0 /srv/link -> index.html",
            "l 0777 0:0 /srv/out -> /etc/shadow"
        ]
    );
    bench.spec.files = vec![rule("www/**/*.css", "/srv"), rule("www/*.html", "/")];
    assert_eq!(
        shown(&bench),
        ["f 0644 0:0 /srv/a/b.css", "f 0644 0:0 /index.html"]
    );
    bench.spec.files = vec![rule("www/*", "/srv/")];
    assert_eq!(shown(&bench).len(), 6);
}

#[test]
fn gives_mode_owner_and_time() {
    let mut bench = Bench::new();
    bench.file("d/x", "1", 0o755);
    bench.file("d/e/y", "2", 0o644);
    let owner = Some(Owner::Names("web".into(), "web".into()));
    bench.spec.files = vec![FileRule {
        mode: Some(0o640),
        owner: owner.clone(),
        ..rule("d", "/srv")
    }];
    bench.spec.dirs = vec![DirRule {
        path: "/var/x".into(),
        mode: Some(0o1777),
        owner,
    }];
    bench.spec.symlinks = vec![SymlinkRule {
        path: "/l".into(),
        target: "t".into(),
    }];
    assert_eq!(
        shown(&bench),
        [
            "d 0755 1000:1000 /srv",
            "d 0755 1000:1000 /srv/e",
            "f 0640 1000:1000 /srv/e/y",
            "f 0640 1000:1000 /srv/x",
            "d 1777 1000:1000 /var/x",
            "l 0777 0:0 /l -> t"
        ]
    );
    assert!(
        bench
            .with(user_entries)
            .unwrap()
            .iter()
            .all(|e| e.meta.mtime == EPOCH)
    );
    bench.spec.dirs[0].owner = Some(Owner::Names("nobody-knows".into(), "x".into()));
    assert!(
        refusal(&bench).contains("dirs[0] /var/x"),
        "{}",
        refusal(&bench)
    );
}

#[test]
fn plans_sizes_and_digests() {
    let mut bench = Bench::new();
    bench.file("x", "content", 0o644);
    bench.spec.files = vec![rule("x", "/x")];
    let all = bench.with(user_entries).unwrap();
    let Kind::File(content) = &all[0].kind else {
        panic!("{all:?}")
    };
    assert_eq!(
        (content.size, content.digest),
        (7, Some(Digest::of("content")))
    );
    assert_eq!(all[0].origin, "files[0] x");
}

#[test]
fn a_path_that_leads_out_of_the_folder_is_refused() {
    let mut bench = Bench::new();
    bench.file("inner/ok", "", 0o644);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), bench.dir().join("exit")).unwrap();
    symlink(outside.path().join("secret"), bench.dir().join("peek")).unwrap();
    symlink("inner", bench.dir().join("alias")).unwrap();
    for from in ["../x", "inner/../../x", "/etc/passwd", "inner/.."] {
        bench.spec.files = vec![rule(from, "/x")];
        let message = refusal(&bench);
        assert!(
            message.contains("folder") && message.contains("files[0]"),
            "{from}: {message}"
        );
    }
    for from in ["exit/secret", "exit", "peek", "exit/*"] {
        bench.spec.files = vec![rule(from, "/x")];
        assert!(
            refusal(&bench).contains("outside the layer's folder"),
            "{from}"
        );
    }
    bench.spec.files = vec![rule("alias/ok", "/x")];
    assert_eq!(shown(&bench), ["f 0644 0:0 /x"]);
    // A glob does not look through links either.
    bench.spec.files = vec![rule("**/secret", "/x")];
    assert!(refusal(&bench).contains("no file"));
}

#[test]
fn what_is_not_there_is_named() {
    let mut bench = Bench::new();
    bench.file("a", "", 0o644);
    for from in ["missing", "a/b", "*.txt", "none/*.x", "[ab"] {
        bench.spec.files = vec![rule("a", "/a"), rule(from, "/x")];
        let message = refusal(&bench);
        assert!(
            message.contains("files[1]") && message.contains(from),
            "{from}: {message}"
        );
    }
    symlink("nowhere", bench.dir().join("dangling")).unwrap();
    bench.spec.files = vec![rule("dangling", "/x")];
    assert!(refusal(&bench).contains("dangling"));
}

#[test]
fn a_name_that_is_not_utf8_is_refused_and_named() {
    use std::os::unix::ffi::OsStrExt;
    let mut bench = Bench::new();
    bench.mkdir("d");
    fs::write(
        bench
            .dir()
            .join("d")
            .join(std::ffi::OsStr::from_bytes(b"x\xff")),
        "",
    )
    .unwrap();
    bench.spec.files = vec![rule("d", "/x")];
    let message = refusal(&bench);
    assert!(
        message.contains("x\\xff") && message.contains("files[0] d"),
        "{message}"
    );
}

#[test]
fn sockets_and_pipes_are_refused() {
    let mut bench = Bench::new();
    bench.mkdir("d");
    let socket = std::os::unix::net::UnixListener::bind(bench.dir().join("d/s")).unwrap();
    for from in ["d", "d/s", "d/*"] {
        bench.spec.files = vec![rule(from, "/x")];
        assert!(refusal(&bench).contains("a socket"), "{from}");
    }
    drop(socket);
    bench.spec.files = vec![rule("p", "/x")];
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.dir().join("p"),
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .unwrap();
    assert!(refusal(&bench).contains("a pipe"));
}

#[test]
fn the_cargo_binary_goes_to_usr_bin() {
    let mut bench = Bench::new();
    bench.file("target/app", "elf", 0o600);
    bench.spec.cargo = Some(crate::spec::CargoRule {
        path: ".".into(),
        bin: "app".into(),
    });
    bench.built = Some(bench.dir().join("target/app"));
    assert_eq!(shown(&bench), ["f 0755 0:0 /usr/bin/app"]);
    bench.built = None;
    assert!(refusal(&bench).contains("cargo app: it was not built"));
}
