//! Mirrors that move on, lie, break off, or are in the middle of an update.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Built, World, edit, files, flip, now, outcome, packages, write};
use slipform::base::Digest;
use slipform::lock::date;
use slipform::lock::testing::TestPackage;
use slipform::sources::testing::Fault;

/// Days in seconds.
const DAY: i64 = 86_400;
const POOL: &str = "/debian/pool/hello-server_1.0-1_amd64.deb";
const IN_RELEASE: &str = "debian/dists/trixie/InRelease";

/// A world with the ordinary project locked, and a mirror that has moved on:
/// the app in a newer version, a library in a newer one from security.
struct MovedOn {
    world: World,
    project: PathBuf,
}

impl MovedOn {
    /// `before` sees the world after locking (nothing is fetched yet) and before the mirror moves.
    fn new(before: impl FnOnce(&World, &Path)) -> Self {
        let mut world = World::new();
        let project = world.project("app");
        world.run(&project, &["lock", "--quiet"]).good();
        before(&world, &project);
        world
            .archive
            .remove("trixie", "hello-server")
            .add("trixie", packages::hello_server("1.1-1"))
            .add(
                "trixie-security",
                TestPackage::new("libhello1", "1.0-1+deb13u1").depends("libc6"),
            );
        world.publish();
        Self { world, project }
    }
}

#[test]
fn what_the_store_holds_is_used() {
    let mut old = None;
    let moved = MovedOn::new(|world, project| old = Some(world.build(project, &[])));
    let MovedOn { world, project } = &moved;
    let old = old.unwrap();
    fs::remove_dir_all(project.join("out")).unwrap();
    assert_eq!(world.build(project, &[]).identity(), old.identity());
    write(&project.join("www/index.html"), "changed");
    edit(&project.join("slipform.toml"), "8080", "8081");
    world.build(project, &["--locked"]);
    // A change of the specification must resolve, and then finds what there is; that is told.
    edit(
        &project.join("slipform.toml"),
        "hello-server\"]",
        "hello-server\", \"ucf\"]",
    );
    let out = world.run(project, &["lock", "--json"]).good().json();
    assert_eq!(
        out["changes"],
        serde_json::json!(["~ hello-server 1.0-1 -> 1.1-1", "+ ucf 3.0 (wished)"])
    );
}

#[test]
fn without_the_store_one_line_names_package_version_and_command() {
    let MovedOn { world, project } = MovedOn::new(|_, _| {});
    let lock = fs::read_to_string(project.join("slipform.lock")).unwrap();
    let mirror = format!("{}/debian", world.server.uri());
    for args in [
        &["build", "--quiet"][..],
        &["fetch", "--quiet"],
        &["build", "--quiet", "--locked"],
    ] {
        world.run(&project, args).refused(
            1,
            &[
                &format!("hello-server 1.0-1 is no longer on {mirror}, which has 1.1-1 now; "),
                "run `slipform lock --update hello-server`",
                "snapshot",
            ],
        );
    }
    assert_eq!(
        fs::read_to_string(project.join("slipform.lock")).unwrap(),
        lock
    );
    assert!(!project.join("out").exists() || files(&project.join("out")).is_empty());
    // What it says helps.
    world
        .run(&project, &["lock", "--quiet", "--update", "hello-server"])
        .good();
    world
        .run(&project, &["build", "--quiet", "--locked"])
        .good();
}

#[test]
fn a_package_that_is_wholly_gone_is_told_too() {
    let mut world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    world.archive.remove("trixie", "hello-server");
    world.publish();
    world.run(&project, &["build", "--quiet"]).refused(
        1,
        &[
            "hello-server 1.0-1 is no longer on",
            "slipform lock --update hello-server",
        ],
    );
    world
        .run(&project, &["lock", "--quiet", "--update", "hello-server"])
        .refused(2, &["layer 'app'", "hello-server"]);
}

#[test]
fn a_snapshot_mirror_has_the_old_versions() {
    for template in ["", "/{timestamp}/of/{archive}"] {
        let mut old = None;
        let moved = MovedOn::new(|world, project| {
            let elsewhere = world.path("its store");
            let mut command = world.command(project, &["build", "--json", "--out", "elsewhere"]);
            let built = outcome(command.env("SLIPFORM_STORE", elsewhere)).good();
            old = Some(Built(built.json()));
            let text = fs::read_to_string(project.join("slipform.lock")).unwrap();
            let time = timestamp(lock_date(&text));
            let place = match template {
                "" => format!("snapshot/archive/debian/{time}"),
                _ => format!("snapshot/{time}/of/debian"),
            };
            let from = world.archive.folder().join(POOL.trim_start_matches('/'));
            let to = world.archive.folder().join(place).join("pool");
            fs::create_dir_all(&to).unwrap();
            fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
            world.configure(&format!(
                "snapshot = \"{}/snapshot{template}\"\n",
                world.server.uri()
            ));
        });
        let MovedOn { world, project } = moved;
        let built = world.build(&project, &["--locked"]);
        assert_eq!(built.identity(), old.unwrap().identity());
        let asked = world.server.requests();
        assert!(
            asked.iter().any(|r| r.target == POOL),
            "the mirror was not asked first"
        );
    }
}

#[test]
fn a_snapshot_mirror_without_it_changes_nothing_in_the_message() {
    let MovedOn { world, project } = MovedOn::new(|_, _| {});
    world.configure(&format!("snapshot = \"{}/nowhere\"\n", world.server.uri()));
    let refused = world.run(&project, &["build", "--quiet"]).refused(
        1,
        &[
            "hello-server 1.0-1 is no longer on",
            "1.1-1 now",
            "slipform lock --update hello-server",
        ],
    );
    assert!(!refused.stderr.contains("set `snapshot`"), "{refused:?}");
}

#[test]
fn a_shared_cache_has_the_old_versions() {
    let (mut old, mut asked) = (None, 0);
    let moved = MovedOn::new(|world, project| {
        let shared = world.path("shared cache");
        let mut command = world.command(project, &["build", "--json", "--out", "elsewhere"]);
        let built = outcome(command.env("SLIPFORM_STORE", &shared)).good();
        old = Some(Built(built.json()));
        world.configure(&format!("cache = \"{}\"\n", shared.display()));
        asked = world.server.requests().len();
    });
    let MovedOn { world, project } = moved;
    let built = world.build(&project, &["--locked"]);
    assert_eq!(built.identity(), old.unwrap().identity());
    let fetched = world.server.requests().split_off(asked);
    assert!(
        !fetched.iter().any(|r| r.target == POOL),
        "the cache was not asked first"
    );
    // One that is damaged is passed by.
    let deb = Digest::of(packages::hello_server("1.0-1").deb()).hex();
    flip(&world.path("shared cache/blobs/sha256").join(&deb));
    fs::remove_dir_all(world.store()).unwrap();
    world
        .run(&project, &["build", "--quiet"])
        .refused(1, &["hello-server 1.0-1 is no longer on"]);
}

#[test]
fn check_says_what_is_newer_and_what_of_it_is_security() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    let lock = fs::read_to_string(project.join("slipform.lock")).unwrap();
    let check = world.run(&project, &["lock", "--check"]).good();
    assert!(
        check.stdout.contains("everything is at its newest"),
        "{check:?}"
    );

    let MovedOn { world, project } = MovedOn::new(|_, _| {});
    let check = world.run(&project, &["lock", "--check", "--json"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert_eq!(
        check.json()["newer"],
        serde_json::json!([
            { "package": "hello-server", "locked": "1.0-1", "newest": "1.1-1", "security": false, "gone": true },
            { "package": "libhello1", "locked": "1.0-1", "newest": "1.0-1+deb13u1", "security": true, "gone": false },
        ])
    );
    let text = world.run(&project, &["lock", "--check"]);
    assert_eq!(text.code, Some(1));
    assert!(
        text.stdout
            .contains("libhello1 1.0-1: there is 1.0-1+deb13u1, a security update\n"),
        "{text:?}"
    );
    assert!(text.stdout.contains("slipform lock --update"), "{text:?}");
    let _ = lock;
}

#[test]
fn update_moves_what_is_named_and_nothing_else() {
    let MovedOn { world, project } = MovedOn::new(|world, project| {
        world.run(project, &["build", "--quiet"]).good();
    });
    let lock = || fs::read_to_string(project.join("slipform.lock")).unwrap();
    let before = lock();
    // Asked for nothing, nothing moves.
    let out = world.run(&project, &["lock", "--json"]).good().json();
    assert_eq!(out["changes"], serde_json::json!([]));
    assert_eq!(lock(), before);
    let args = ["lock", "--json", "--update", "hello-server"];
    let out = world.run(&project, &args).good().json();
    assert_eq!(
        out["changes"],
        serde_json::json!(["~ hello-server 1.0-1 -> 1.1-1"])
    );
    let out = world
        .run(&project, &["lock", "--json", "--update"])
        .good()
        .json();
    assert_eq!(
        out["changes"],
        serde_json::json!(["~ libhello1 1.0-1 -> 1.0-1+deb13u1"])
    );
    world.run(&project, &["lock", "--check"]).good();
    world
        .run(&project, &["lock", "--quiet", "--update", "helo-server"])
        .refused(2, &["'helo-server'", "did you mean hello-server"]);
}

#[test]
fn examples_have_no_lock_and_resolve_anew() {
    let MovedOn { world, .. } = MovedOn::new(|_, _| {});
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/images");
    let ignored = fs::read_to_string(examples.join("../../.gitignore")).unwrap();
    assert!(
        ignored.contains("layers/images/*/slipform.lock"),
        "{ignored}"
    );
    let project = world.path("hello");
    for file in ["slipform.toml", "www/index.html"] {
        write(
            &project.join(file),
            fs::read(examples.join("hello").join(file)).unwrap(),
        );
    }
    world.run(&project, &["build", "--quiet"]).good();
    assert!(project.join("slipform.lock").is_file());
}

#[test]
fn a_mirror_in_the_middle_of_an_update_is_no_error() {
    let world = World::new();
    let project = world.project("app");
    // The plain names have what the next Release will promise; by their digests the old ones are there.
    let dist = world
        .archive
        .folder()
        .join("debian/dists/trixie/main/binary-amd64");
    for name in ["Packages", "Packages.xz"] {
        fs::write(dist.join(name), "what comes next").unwrap();
    }
    world.run(&project, &["build", "--quiet"]).good();
    let asked = world.server.requests();
    assert!(asked.iter().any(|r| r.target.contains("/by-hash/SHA256/")));
    // Where even those are gone, the line says that it will pass.
    fs::remove_dir_all(dist.join("by-hash")).unwrap();
    let other = world.project("other");
    world.run(&other, &["build", "--quiet"]).refused(
        1,
        &[
            "Packages",
            "trixie",
            "in the middle of an update",
            "try again",
        ],
    );
}

#[test]
fn an_expired_release_is_refused_for_resolving_and_not_for_building() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    world.archive.publish_at(now() - 8 * DAY);
    world.run(&project, &["build", "--quiet"]).good();
    for args in [
        &["lock", "--quiet", "--update"][..],
        &["lock", "--quiet", "--check"],
    ] {
        world.run(&project, args).refused(
            1,
            &["the Release of trixie was valid until", "now is", "another"],
        );
    }
    let other = world.project("other");
    world
        .run(&other, &["build", "--quiet"])
        .refused(1, &["valid until"]);
    assert!(!other.join("slipform.lock").exists());
}

#[test]
fn a_release_from_the_future_says_to_set_the_clock() {
    let world = World::new();
    let project = world.project("app");
    world.resign(IN_RELEASE, |text| {
        let line = text.lines().find(|l| l.starts_with("Date: ")).unwrap();
        text.replace(line, &format!("Date: {}", date::format(now() + 3 * DAY)))
    });
    world
        .run(&project, &["build", "--quiet"])
        .refused(1, &["the Release of trixie is of", "now is", "clock"]);
}

#[test]
fn a_release_of_another_suite_is_refused() {
    let world = World::new();
    let project = world.project("app");
    world.resign(IN_RELEASE, |text| {
        text.replace("Codename: trixie", "Codename: bookworm")
    });
    world.run(&project, &["build", "--quiet"]).refused(
        1,
        &[
            "the Release of trixie is that of another suite",
            "'trixie' was asked for",
            "bookworm",
            "check the suite and the mirror",
        ],
    );
    assert!(!project.join("slipform.lock").exists());
}

#[test]
fn a_tampered_release_is_refused() {
    let world = World::new();
    let project = world.project("app");
    edit(
        &world.archive.folder().join(IN_RELEASE),
        "Origin: Test",
        "Origin: Tast",
    );
    world
        .run(&project, &["build", "--quiet"])
        .refused(1, &["cannot trust the InRelease of trixie"]);
    assert!(!project.join("slipform.lock").exists());
    // Signed, but by nobody who may.
    let mut command = world.command(&project, &["build", "--quiet"]);
    world.publish();
    outcome(command.env_remove("SLIPFORM_ARCHIVE_KEYS"))
        .refused(1, &["cannot trust the InRelease of trixie", "accepted"]);
}

#[test]
fn a_tampered_index_is_refused() {
    let world = World::new();
    let project = world.project("app");
    let by_hash = world
        .archive
        .folder()
        .join("debian/dists/trixie/main/binary-amd64/by-hash/SHA256");
    for file in files(&by_hash) {
        flip(&file);
    }
    for name in ["Packages", "Packages.xz"] {
        flip(&by_hash.join("../..").join(name));
    }
    world.run(&project, &["build", "--quiet"]).refused(
        1,
        &[
            "trixie",
            "not what its Release promises",
            "tampered with",
            "another mirror",
        ],
    );
    assert!(!project.join("slipform.lock").exists());
}

#[test]
fn a_tampered_package_is_refused_and_not_kept() {
    let world = World::new();
    let project = world.project("app");
    flip(&world.archive.folder().join(POOL.trim_start_matches('/')));
    let digest = Digest::of(packages::hello_server("1.0-1").deb());
    world.run(&project, &["build", "--quiet"]).refused(
        1,
        &[
            "hello-server 1.0-1: ",
            POOL,
            "but the lock says",
            &digest.to_string(),
            "refused",
            "--mirror",
        ],
    );
    assert!(
        !world
            .store()
            .join("blobs/sha256")
            .join(digest.hex())
            .exists()
    );
    assert!(files(&project.join("out")).is_empty());
    assert!(files(&world.store().join("tmp")).is_empty());
    world.publish();
    world.run(&project, &["build", "--quiet"]).good();
}

#[test]
fn a_download_that_breaks_off_is_taken_up_again_and_at_last_told() {
    let world = World::new();
    let project = world.project("app");
    // Twice in different places: the rest is asked for.
    world
        .server
        .fault(POOL, [Fault::Truncate(1000), Fault::Truncate(5000)]);
    world.run(&project, &["build", "--quiet"]).good();
    let asked = world
        .server
        .requests()
        .into_iter()
        .filter(|r| r.target == POOL);
    let ranges: Vec<String> = asked.map(|r| r.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=1000-", "bytes=6000-"]);
    // Always in the same place.
    let world = World::new();
    let project = world.project("app");
    world.server.ignore_ranges();
    world.server.always(POOL, Fault::Truncate(1000));
    world
        .run(&project, &["build", "--quiet"])
        .refused(1, &["cannot fetch", POOL]);
    assert!(files(&project.join("out")).is_empty());
    assert!(files(&world.store().join("tmp")).is_empty());
}

#[test]
fn several_packages_that_fail_are_all_named() {
    let mut world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    world
        .archive
        .remove("trixie", "hello-server")
        .remove("trixie", "libhello1");
    world.publish();
    let failed = world.run(&project, &["build", "--quiet"]);
    assert_eq!(failed.code, Some(1));
    let lines: Vec<&str> = failed.stderr.lines().collect();
    assert_eq!(lines[0], "slipform: 2 packages could not be fetched:");
    assert_eq!(lines.len(), 3, "{failed:?}");
    for (line, name) in lines[1..].iter().zip(["hello-server", "libhello1"]) {
        assert!(
            line.starts_with(&format!("  {name} 1.0-1 is no longer on")),
            "{line}"
        );
    }
}

/// The date of the suite `trixie` in a lock, in seconds since 1970.
fn lock_date(lock: &str) -> i64 {
    let lock = slipform::lock::LockFile::parse(lock, Path::new("slipform.lock")).unwrap();
    lock.suites
        .iter()
        .find(|s| s.name == "trixie")
        .unwrap()
        .date
}

/// `20250520T083012Z`, as snapshot mirrors name their states.
fn timestamp(seconds: i64) -> String {
    let text = date::format(seconds);
    let words: Vec<&str> = text.split(' ').collect();
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = months.find(words[2]).unwrap() / 3 + 1;
    format!(
        "{}{month:02}{}T{}Z",
        words[3],
        words[1],
        words[4].replace(':', "")
    )
}
