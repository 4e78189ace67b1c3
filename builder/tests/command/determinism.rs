//! The same lock gives the same bytes, wherever and however it is built; and
//! what did not change is not made again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::{Built, Outcome, World, edit, files, host_program, outcome, write};

/// All formats, with flat sums.
const FULL: &[&str] = &["build", "--json", "--sum", "--format", "raw,qcow2"];

/// A world in which the ordinary project is locked and built in all formats.
struct Reference {
    world: World,
    lock: String,
    identity: Vec<String>,
}

impl Reference {
    fn new() -> Self {
        let world = World::new();
        let project = world.project("app");
        let built = Built(world.run(&project, FULL).good().json());
        assert!(built.artifact(1, "sha256").starts_with("sha256:"));
        Self {
            lock: fs::read_to_string(project.join("slipform.lock")).unwrap(),
            identity: built.identity(),
            world,
        }
    }

    /// Another copy of the project at `name`, with the same lock.
    fn copy(&self, name: &str) -> PathBuf {
        let project = self.world.project(name);
        write(&project.join("slipform.lock"), &self.lock);
        project
    }

    /// `command` builds from an empty store of its own what the reference is.
    #[track_caller]
    fn same(&self, name: &str, command: &mut Command) {
        let store = self.world.path(&format!("store of {name}"));
        let built = outcome(command.env("SLIPFORM_STORE", &store)).good();
        assert_eq!(Built(built.json()).identity(), self.identity, "{name}");
    }
}

#[test]
fn another_place_gives_the_same_bytes() {
    let reference = Reference::new();
    let project = reference.copy("some where/else, much deeper/ünder");
    let mut command = reference.world.command(&project, FULL);
    command.env("HOME", reference.world.path("another home"));
    reference.same("another place", &mut command);
    // Named from elsewhere, written elsewhere.
    let args = [
        FULL,
        &["some where/else, much deeper/ünder", "--out", "out"],
    ]
    .concat();
    let mut command = reference.world.command(&reference.world.path("."), &args);
    reference.same("outside", &mut command);
}

#[test]
fn umask_order_and_times_of_files_do_not_count() {
    let reference = Reference::new();
    let project = reference.copy("app 2");
    // Made again, the last one first, with other modes and times.
    let mut found = Vec::new();
    for folder in ["www/css", "www", "floor/data", "floor"] {
        for file in files(&project.join(folder)) {
            if file.is_file() {
                found.push((fs::read(&file).unwrap(), file));
            }
        }
        fs::remove_dir_all(project.join(folder)).unwrap();
    }
    let mut time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (bytes, file) in found.iter().rev() {
        write(file, bytes);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        let open = fs::File::options().write(true).open(file).unwrap();
        open.set_modified(time).unwrap();
        time += Duration::from_secs(86_400);
    }
    let line = "umask 077; exec \"$@\"";
    reference.same(
        "umask 077",
        &mut reference.world.shell(&project, line, FULL),
    );
    let line = "umask 000; exec \"$@\"";
    reference.same(
        "umask 000",
        &mut reference.world.shell(&project, line, FULL),
    );
}

#[test]
fn locale_and_time_zone_do_not_count() {
    let reference = Reference::new();
    let project = reference.copy("app 2");
    let mut command = reference.world.command(&project, FULL);
    command
        .env("LANG", "tr_TR.UTF-8")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "Pacific/Kiritimati")
        .env("COLUMNS", "20")
        .env("USER", "somebody")
        .env("SOURCE_DATE_EPOCH", "1");
    reference.same("another locale", &mut command);
}

#[test]
fn one_processor_gives_the_same_bytes() {
    let reference = Reference::new();
    let Some(taskset) = host_program("taskset", "one_processor_gives_the_same_bytes") else {
        return;
    };
    let project = reference.copy("app 2");
    let line = format!("exec {} -c 0 \"$@\"", taskset.display());
    reference.same(
        "one processor",
        &mut reference.world.shell(&project, &line, FULL),
    );
}

#[test]
fn another_user_gives_the_same_bytes() {
    const TEST: &str = "another_user_gives_the_same_bytes";
    const NOBODY: u32 = 65534;
    let reference = Reference::new();
    let Some(setpriv) = host_program("setpriv", TEST) else {
        return;
    };
    let world = &reference.world;
    let line = format!(
        "exec {} --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\"",
        setpriv.display()
    );
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.path("."), open).unwrap();
    // Only root becomes somebody else, and somebody else may not reach the command.
    let may = world.shell(Path::new("/"), &line, &["--version"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        crate::common::skipped(
            TEST,
            &format!("uid {NOBODY} cannot be had here, or cannot start the command"),
        );
        return;
    }
    let project = reference.copy("app 2");
    for folder in [
        &project,
        &world.path("store of another user"),
        &world.path("home"),
    ] {
        fs::create_dir_all(folder).unwrap();
        chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    reference.same("another user", &mut world.shell(&project, &line, FULL));
}

/// Steps of a build, as `--explain --json` has them: subject without its folder, hit, what changed.
fn steps(outcome: &Outcome) -> Vec<(String, bool, String)> {
    let json = outcome.json();
    let steps = json["steps"].as_array().unwrap().iter().map(|step| {
        let subject = step["subject"].as_str().unwrap();
        let changed: Vec<&str> = step["changed"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|why| why.as_str().unwrap())
            .collect();
        (
            subject.split(" of ").next().unwrap().to_owned(),
            step["hit"].as_bool().unwrap(),
            changed.join(", "),
        )
    });
    steps.collect()
}

/// The steps that were done, each with what changed.
fn misses(outcome: &Outcome) -> Vec<String> {
    let misses = steps(outcome).into_iter().filter(|(_, hit, _)| !hit);
    misses
        .map(|(subject, _, why)| format!("{subject}: {why}"))
        .collect()
}

const EXPLAIN: &[&str] = &["build", "--json", "--explain"];

#[test]
fn nothing_changed_means_nothing_is_done() {
    let world = World::new();
    let project = world.project("app");
    let first = world.run(&project, EXPLAIN).good();
    let all: Vec<String> = [
        "base",
        "floor",
        "app",
        "generated",
        "qemu-x86_64",
        "qemu-x86_64",
    ]
    .map(|subject| format!("{subject}: first time"))
    .into();
    assert_eq!(misses(&first), all);
    let raw = PathBuf::from(first.json()["artifacts"][0]["path"].as_str().unwrap());
    let before = fs::metadata(&raw).unwrap();
    let again = world.run(&project, EXPLAIN).good();
    assert_eq!(misses(&again), [""; 0]);
    assert_eq!(steps(&again).len(), all.len());
    assert_eq!(again.json()["image"], first.json()["image"]);
    // Neither is the file touched.
    let after = fs::metadata(&raw).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    let text = world.run(&project, &["build", "--explain"]).good().stdout;
    let hits = text.lines().filter(|line| line.starts_with("hit "));
    assert_eq!(hits.count(), all.len(), "{text}");
}

#[test]
fn a_changed_file_of_the_app_makes_the_app_anew_and_nothing_below() {
    let world = World::new();
    let project = world.project("app");
    let before = world.run(&project, EXPLAIN).good().json();
    write(&project.join("www/index.html"), "<h1>changed</h1>\n");
    let after = world.run(&project, EXPLAIN).good();
    // The topmost layer looks at all layers again, and comes out as it was.
    assert_eq!(
        misses(&after),
        [
            "app: files",
            "generated: layers below",
            "qemu-x86_64: layers, machine.json"
        ]
    );
    assert_ne!(after.json()["image"], before["image"]);
    let hashes = |image: &serde_json::Value| -> Vec<String> {
        let digest = image["image"].as_str().unwrap();
        let info = world.run(&project, &["inspect", "--json", digest]).good();
        let json = info.json();
        let partitions = json["partitions"].as_array().unwrap().iter();
        partitions
            .filter_map(|p| Some(p["layer"]["root_hash"].as_str()?.to_owned()))
            .collect()
    };
    let (old, new) = (hashes(&before), hashes(&after.json()));
    let same: Vec<bool> = old.iter().zip(&new).map(|(a, b)| a == b).collect();
    assert_eq!(same, [true, true, false, true], "{old:?} {new:?}");
    // For people, too.
    edit(&project.join("www/index.html"), "changed", "again");
    let text = world.run(&project, &["build", "--explain"]).good().stdout;
    assert!(
        text.lines()
            .any(|l| l.starts_with("miss layer 1 app of ") && l.ends_with(": files")),
        "{text}"
    );
}

#[test]
fn a_change_below_that_the_app_did_not_read_leaves_it_as_it_is() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, EXPLAIN).good();
    write(&project.join("floor/readme.txt"), "another floor\n");
    write(&project.join("floor/new/file.txt"), "a new one\n");
    let after = world.run(&project, EXPLAIN).good();
    assert_eq!(
        misses(&after),
        [
            "floor: files",
            "generated: layers below",
            "qemu-x86_64: layers, machine.json"
        ]
    );
}

#[test]
fn a_change_below_that_the_app_read_makes_it_anew() {
    let world = World::new();
    let spec = crate::common::SPEC.replace(
        "users = [{ name = \"web\"",
        "remove = [\"/opt/floor/data/*\"]\nusers = [{ name = \"web\"",
    );
    let project = world.project_with("app", &spec);
    let first = world.build(&project, &[]);
    write(&project.join("floor/data/more.csv"), "c\n");
    let after = world.run(&project, EXPLAIN).good();
    assert_eq!(
        misses(&after)[..2],
        ["floor: files", "app: layers below"],
        "{after:?}"
    );
    // And back again: all of it was made before.
    fs::remove_file(project.join("floor/data/more.csv")).unwrap();
    let back = world.run(&project, EXPLAIN).good();
    assert_eq!(misses(&back), [""; 0]);
    assert_eq!(back.json()["image"], first.image());
}

#[test]
fn what_is_named_first_and_what_is_asked_does_not_count_for_other_layers() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, EXPLAIN).good();
    let spec = project.join("slipform.toml");
    edit(&spec, "--port\", \"8080", "--port\", \"8081");
    let after = world.run(&project, EXPLAIN).good();
    assert_eq!(misses(&after), ["qemu-x86_64: machine.json"]);
    edit(
        &spec,
        "[[service]]",
        "[kernel]\nargs = [\"quiet\"]\n\n[[service]]",
    );
    let after = world.run(&project, EXPLAIN).good();
    assert_eq!(misses(&after), ["qemu-x86_64: command line"]);
}

#[test]
fn a_patched_image_file_is_a_fresh_one_byte_for_byte() {
    let world = World::new();
    let project = world.project("app");
    let raw = PathBuf::from(world.build(&project, &["--sum"]).artifact(0, "path"));
    let fresh = world.path("fresh");
    for round in 0..3 {
        // Larger, smaller, gone: the layers' places on the disk move.
        let page = "x".repeat([40_000_000, 100, 0][round]);
        write(&project.join("www/index.html"), page);
        if round == 2 {
            fs::remove_dir_all(project.join("floor/data")).unwrap();
        }
        let patched = world.build(&project, &["--sum"]);
        let out = fresh.join(round.to_string());
        let whole = world.build(&project, &["--sum", "--out", out.to_str().unwrap()]);
        assert_eq!(patched.identity(), whole.identity(), "round {round}");
    }
    // One that somebody touched is written anew.
    crate::common::flip(&raw);
    let mended = world.build(&project, &["--sum"]);
    let out = fresh.join("2");
    let whole = world.build(&project, &["--sum", "--out", out.to_str().unwrap()]);
    assert_eq!(mended.identity(), whole.identity());
}
