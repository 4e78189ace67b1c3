//! Which mirror is taken, seen through [`Mirrors`].

use std::path::Path;

use super::*;
use crate::lock::{Archive, Base, SuiteSource};
use crate::sources::Mirrors;
use crate::sources::http::tests::impatient;
use crate::sources::testing::Server;

const DEBIAN: &str = "Origin: Debian\nSuite: stable\n";

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
}

impl Bench {
    /// A server with Debian 13 and its security archive beside it, a vendor's
    /// archive that has a suite of the same name, and one that has not.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(folder.path().join("www"));
        server.put("/debian/dists/trixie/InRelease", DEBIAN);
        server.put("/debian-security/dists/trixie-security/InRelease", DEBIAN);
        server.put("/vendor/dists/trixie/InRelease", "Origin: Vendor\n");
        server.put("/other/dists/stable/InRelease", "Origin: Other\n");
        Self { folder, server }
    }

    fn etc(&self, path: &str, text: &str) {
        let path = self.folder.path().join("etc/apt").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("SERVER", &self.server.uri())).unwrap();
    }

    fn config(&self, text: &str) {
        let path = self.folder.path().join("home/.config/slipform/config.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("SERVER", &self.server.uri())).unwrap();
    }

    fn mirrors(&self, argument: Option<&str>, env: &[(&str, &str)]) -> Mirrors {
        let home = self.folder.path().join("home");
        let mut host = Host::fake(self.folder.path(), env);
        host.env
            .insert("HOME".into(), home.to_str().unwrap().into());
        let argument = argument.map(|text| text.replace("SERVER", &self.server.uri()));
        Mirrors::with_options(host, argument, impatient()).unwrap()
    }

    /// The path of a mirror, and who named it.
    fn found(&self, mirrors: &Mirrors, suite: &SuiteSource) -> (String, String) {
        let mirror = mirrors.mirror(suite).unwrap();
        let path = mirror.base.public().replace(&self.server.uri(), "");
        let root = self.folder.path().display().to_string();
        (path, mirror.origin.to_string().replace(&root, ""))
    }
}

fn suite(base: Base, dist: &str) -> SuiteSource {
    SuiteSource {
        name: dist.to_owned(),
        base,
        dist: dist.to_owned(),
        components: vec!["main".to_owned()],
    }
}

fn trixie() -> SuiteSource {
    suite(Base::Debian, "trixie")
}

fn security() -> SuiteSource {
    suite(Base::DebianSecurity, "trixie-security")
}

fn pair(path: &str, origin: &str) -> (String, String) {
    (path.to_owned(), origin.to_owned())
}

#[test]
fn the_hosts_sources_serve_another_release_too() {
    let bench = Bench::new();
    bench.etc(
        "sources.list",
        "deb SERVER/other stable main\ndeb SERVER/vendor trixie main\n\
         deb [signed-by=/x] SERVER/debian/ bookworm main\n",
    );
    bench.etc(
        "sources.list.d/security.sources",
        "Types: deb\nURIs: SERVER/debian-security\nSuites: bookworm-security\nComponents: main\n",
    );
    let mirrors = bench.mirrors(None, &[]);
    assert_eq!(
        bench.found(&mirrors, &trixie()),
        pair("/debian/", "/etc/apt/sources.list")
    );
    assert_eq!(
        bench.found(&mirrors, &security()),
        pair(
            "/debian-security",
            "/etc/apt/sources.list.d/security.sources"
        )
    );
    assert!(!mirrors.allow_expired(&trixie()));
    let before = bench.server.requests().len();
    bench.found(&mirrors, &trixie());
    assert_eq!(bench.server.requests().len(), before, "asked again");
    let text = mirrors
        .read(&trixie(), "dists/trixie/InRelease", 1000)
        .unwrap();
    assert_eq!(text.as_deref(), Some(DEBIAN.as_bytes()));
    assert_eq!(mirrors.read(&trixie(), "dists/none", 1000), Ok(None));
    assert!(mirrors.read(&trixie(), "../secret", 1000).is_err());
}

#[test]
fn without_security_sources_it_lies_beside() {
    let bench = Bench::new();
    bench.etc("sources.list", "deb SERVER/debian bookworm main\n");
    let mirrors = bench.mirrors(None, &[]);
    assert_eq!(
        bench.found(&mirrors, &security()),
        pair(
            "/debian-security",
            "beside the mirror of /etc/apt/sources.list"
        )
    );
}

#[test]
fn a_mirror_of_one_base_for_all_suites() {
    let bench = Bench::new();
    bench
        .server
        .put("/all/dists/trixie-security/InRelease", DEBIAN);
    let mirrors = bench.mirrors(Some("SERVER/all"), &[]);
    assert_eq!(
        bench.found(&mirrors, &security()),
        pair("/all", "beside the mirror of --mirror")
    );
}

#[test]
fn who_names_a_mirror_wins_in_order() {
    let bench = Bench::new();
    bench.etc("sources.list", "deb SERVER/debian trixie main\n");
    bench.config("mirror = \"SERVER/from-config\"\nsecurity-mirror = \"SERVER/s\"\n");
    let env = format!("{}/from-env", bench.server.uri());
    let env = [("SLIPFORM_MIRROR", env.as_str())];
    for (argument, env, expected) in [
        (
            Some("SERVER/from-arg"),
            &env[..],
            pair("/from-arg", "--mirror"),
        ),
        (None, &env[..], pair("/from-env", "SLIPFORM_MIRROR")),
        (None, &[], pair("/from-config", "the user's configuration")),
    ] {
        let mirrors = bench.mirrors(argument, env);
        assert_eq!(bench.found(&mirrors, &trixie()), expected);
        assert_eq!(
            bench.found(&mirrors, &security()),
            pair("/s", "the user's configuration")
        );
    }
    assert!(
        bench.server.requests().is_empty(),
        "named mirrors are not probed"
    );
}

#[test]
fn lists_of_mirrors_and_options_are_understood() {
    let bench = Bench::new();
    let list = bench.folder.path().join("mirrors.txt");
    let lines = "# mirrors\nSERVER/gone priority:1\nbroken\nSERVER/debian\tpriority:2\n";
    std::fs::write(&list, lines.replace("SERVER", &bench.server.uri())).unwrap();
    let list = format!("[arch=amd64] mirror+file:{}", list.display());
    let mirrors = bench.mirrors(Some(&list), &[]);
    assert_eq!(
        bench.found(&mirrors, &trixie()),
        pair("/debian", "--mirror")
    );
    bench.etc(
        "sources.list",
        &format!("deb {} trixie main\n", &list[13..]),
    );
    let mirrors = bench.mirrors(None, &[]);
    assert_eq!(bench.found(&mirrors, &trixie()).0, "/debian");
    for bad in ["ftp://x/", "relative", "mirror+file:/nowhere/list", "[x"] {
        assert!(
            bench.mirrors(Some(bad), &[]).mirror(&trixie()).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn expired_releases_as_the_hosts_apt_takes_them() {
    for (conf, list, expected) in [
        ("", "deb SERVER/debian trixie main", false),
        (
            "",
            "deb [check-valid-until=no] SERVER/debian trixie main",
            true,
        ),
        (
            "Acquire::Check-Valid-Until \"false\";",
            "deb SERVER/debian trixie main",
            true,
        ),
        (
            "Acquire { Check-Valid-Until \"0\"; };",
            "deb SERVER/debian trixie main",
            true,
        ),
        (
            "Acquire::Check-Valid-Until \"true\";",
            "deb SERVER/debian trixie main",
            false,
        ),
    ] {
        let bench = Bench::new();
        bench.etc("apt.conf.d/99x", conf);
        bench.etc("sources.list", list);
        let mirrors = bench.mirrors(None, &[]);
        assert_eq!(mirrors.allow_expired(&trixie()), expected, "{conf} {list}");
        let named = bench.mirrors(Some("SERVER/debian"), &[]);
        assert!(!named.allow_expired(&trixie()), "apt did not name this one");
    }
}

#[test]
fn without_any_mirror_the_remedies_are_named() {
    let bench = Bench::new();
    let error = bench.mirrors(None, &[]).mirror(&trixie()).unwrap_err();
    let text = error.to_string();
    for part in [
        "no mirror is known that has trixie",
        "--mirror",
        "SLIPFORM_MIRROR",
        "mirror = ",
        "home/.config/slipform/config.toml",
    ] {
        assert!(text.contains(part), "{text}");
    }
    bench.etc("sources.list", "deb SERVER/other stable main\n");
    let text = bench
        .mirrors(None, &[])
        .mirror(&security())
        .unwrap_err()
        .to_string();
    for part in [
        "SLIPFORM_SECURITY_MIRROR",
        "security-mirror",
        "/other has no trixie-security",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_mirror_that_is_down_is_passed_by() {
    let bench = Bench::new();
    bench.etc(
        "sources.list",
        "deb http://127.0.0.1:1/debian trixie main\ndeb SERVER/debian trixie main\n",
    );
    let mirrors = bench.mirrors(None, &[]);
    assert_eq!(bench.found(&mirrors, &trixie()).0, "/debian");
}

#[test]
fn offline_nobody_is_asked() {
    let bench = Bench::new();
    let mirrors = bench.mirrors(Some("SERVER/debian"), &[]).offline();
    let error = mirrors
        .read(&trixie(), "dists/trixie/InRelease", 10)
        .unwrap_err();
    assert!(error.contains("--offline"), "{error}");
    assert!(bench.server.requests().is_empty());
}

#[test]
fn archives_of_the_project_and_logins_in_uris() {
    let bench = Bench::new();
    bench.server.require_login("me", "p@ss/word");
    let uri = format!("http://me:p%40ss%2Fword@{}/debian", bench.server.address());
    let project = suite(Base::Uri(uri.clone()), "trixie");
    let mirrors = bench.mirrors(None, &[]);
    let read = mirrors.read(&project, "dists/trixie/InRelease", 1000);
    assert!(read.unwrap().is_some());
    // The login goes along to the sibling on the same server.
    let mirrors = bench.mirrors(Some(&uri), &[]);
    assert_eq!(bench.found(&mirrors, &security()).0, "/debian-security");
    assert!(
        mirrors
            .read(&security(), "dists/trixie-security/InRelease", 1000)
            .is_ok()
    );
    let files = Path::new("www/debian");
    let uri = format!("file:{}", bench.folder.path().join(files).display());
    let local = suite(Base::Uri(uri), "trixie");
    assert!(
        mirrors
            .read(&local, "dists/trixie/InRelease", 1000)
            .unwrap()
            .is_some()
    );
}

#[test]
fn siblings() {
    for (main, expected) in [
        ("/debian", "/debian-security"),
        ("/debian/", "/debian-security"),
        (
            "/archive/debian/20250101T000000Z/",
            "/archive/debian-security/20250101T000000Z",
        ),
        ("/mirrors/x", "/mirrors/x-security"),
        ("", "-security"),
    ] {
        assert_eq!(sibling(main), expected);
    }
}
