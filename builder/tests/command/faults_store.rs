//! The store and the image files under faults: flipped bits, a full disk,
//! SIGKILL, several builds at once, no network.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{
    Built, SPEC, World, cut_off, digest, edit, files, flip, outcome, packages, told, write,
};
use slipform::base::Digest;

const BOTH: &[&str] = &["build", "--json", "--sum", "--format", "raw,qcow2"];

/// Removes the records of steps whose record's text holds none of `but`.
fn forget_steps(world: &World, but: &[&str]) {
    for record in files(&world.store().join("steps")) {
        let text = fs::read_to_string(&record).unwrap();
        if !but.iter().any(|word| text.contains(word)) {
            fs::remove_file(record).unwrap();
        }
    }
}

fn is_package(blob: &Path) -> bool {
    fs::read(blob).unwrap().starts_with(b"!<arch>\n")
}

/// The blobs whose bytes are not what their name says.
fn damaged(world: &World) -> BTreeSet<String> {
    let blobs = world.blobs().into_iter();
    let named = blobs.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (digest(&path).hex() != name, name)
    });
    named
        .filter(|(bad, _)| *bad)
        .map(|(_, name)| name)
        .collect()
}

#[test]
fn flipped_bits_in_results_are_found_named_and_mended_in_the_same_run() {
    let world = World::new();
    let project = world.project("app");
    let built = Built(world.run(&project, BOTH).good().json());
    // Only the files are lost; then the layers and the boot parts too.
    let all: &[&str] = &["\"step\":"];
    for (round, kept) in [all, &["\"step\":\"unpack"]].into_iter().enumerate() {
        for blob in world.blobs().iter().filter(|blob| !is_package(blob)) {
            flip(blob);
        }
        let before = damaged(&world);
        forget_steps(&world, kept);
        fs::remove_dir_all(project.join("out")).unwrap();
        // All of it can be made from what is there.
        let args = [BOTH, &["--offline"]].concat();
        let again = world.run_cut_off(&project, &args).good();
        assert_eq!(Built(again.json()).identity(), built.identity());
        let named = again.damage();
        assert!(named.len() > 2, "round {round}: {}", again.stderr);
        assert!(named.is_subset(&before), "round {round}");
        let after = damaged(&world);
        assert!(named.is_disjoint(&after), "round {round}: {after:?}");
        let aside = files(&world.store().join("quarantine"));
        let aside = aside
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned());
        assert!(named.is_subset(&aside.collect()), "round {round}");
        // What nobody read is as it was; mended for the next round.
        for name in after {
            flip(&world.store().join("blobs/sha256").join(name));
        }
        assert_eq!(damaged(&world), BTreeSet::new());
    }
    // What was set aside goes with the next collection.
    world.run(&project, &["gc"]).good();
    assert_eq!(
        files(&world.store().join("quarantine")),
        [""; 0].map(Path::new)
    );
}

#[test]
fn each_part_of_an_image_that_is_lost_or_damaged_is_made_again() {
    let world = World::new();
    let project = world.small_project("app");
    let built = Built(world.run(&project, BOTH).good().json());
    let manifest = world
        .store()
        .join("blobs/sha256")
        .join(built.image().trim_start_matches("sha256:"));
    let text = fs::read_to_string(&manifest).unwrap();
    let parts: BTreeSet<PathBuf> = text
        .split("sha256:")
        .skip(1)
        .map(|rest| manifest.with_file_name(&rest[..64]))
        .filter(|path| path.is_file())
        .chain([manifest.clone()])
        .collect();
    assert!(parts.len() > 8, "{text}");
    for part in &parts {
        fs::remove_file(part).unwrap();
        fs::remove_dir_all(project.join("out")).unwrap();
        let again = world.run_cut_off(&project, BOTH).good();
        assert_eq!(
            Built(again.json()).identity(),
            built.identity(),
            "{}",
            part.display()
        );
        assert!(part.is_file(), "{} was not made again", part.display());
    }
}

#[test]
fn flipped_bits_in_packages_are_found_named_and_fetched_again() {
    let world = World::new();
    let project = world.project("app");
    let built = Built(world.run(&project, BOTH).good().json());
    for blob in world.blobs() {
        flip(&blob);
    }
    let before = damaged(&world);
    forget_steps(&world, &[]);
    fs::remove_dir_all(project.join("out")).unwrap();
    let again = world.run(&project, BOTH).good();
    assert_eq!(Built(again.json()).identity(), built.identity());
    let packages = [packages::hello_server("1.0-1").deb()].map(|deb| Digest::of(deb).hex());
    let named = again.damage();
    for package in packages {
        assert!(named.contains(&package), "{}", again.stderr);
    }
    assert!(named.is_subset(&before));
    // Everything was made again, so everything is right again.
    assert_eq!(damaged(&world), BTreeSet::new());
}

#[test]
fn without_the_network_a_damaged_or_missing_package_is_named() {
    let world = World::new();
    let project = world.project("app");
    let built = world.build(&project, &[]);
    let deb = packages::hello_server("1.0-1").deb();
    let digest = Digest::of(&deb).to_string();
    let offline = ["build", "--quiet", "--offline"];
    forget_steps(&world, &[]);
    flip(&world.blob(&deb));
    for _damaged_then_missing in 0..2 {
        world.run_cut_off(&project, &offline).refused(
            1,
            &[
                "hello-server 1.0-1",
                &digest,
                "is not in the store",
                "--offline",
                "slipform fetch",
            ],
        );
    }
    world.run(&project, &["fetch", "--quiet"]).good();
    fs::remove_dir_all(project.join("out")).unwrap();
    let args = ["build", "--json", "--offline"];
    let again = world.run_cut_off(&project, &args).good().json();
    assert_eq!(again["image"], built.image());
}

#[test]
fn offline_needs_a_lock_and_says_so() {
    let world = World::new();
    let project = world.project("app");
    world
        .run_cut_off(&project, &["build", "--quiet", "--offline"])
        .refused(1, &["the lock must be resolved", "once without --offline"]);
    world
        .run_cut_off(&project, &["lock", "--quiet", "--offline", "--check"])
        .refused(1, &["without --offline"]);
    // Without --offline, a mirror that does not answer is named.
    world
        .run_cut_off(&project, &["build", "--quiet"])
        .refused(1, &["trixie", "http://127.0.0.1:1/debian"]);
}

/// A limit on the size of files is the full disk that everybody may make; the
/// signal that comes with it must be ignored for the error to be seen.
fn with_room(blocks: u64) -> String {
    format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"")
}

#[test]
fn a_full_disk_under_the_store_is_told_with_its_remedy() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    // 100 blocks of 512 bytes are too few for a package, 10000 for a layer.
    for blocks in [100, 10_000] {
        outcome(&mut world.shell(&project, &with_room(blocks), &["build", "--quiet"])).refused(
            1,
            &[
                "cannot ",
                world.store().to_str().unwrap(),
                "make room",
                "slipform gc",
                "SLIPFORM_STORE",
            ],
        );
        assert_eq!(files(&world.store().join("tmp")), [""; 0].map(Path::new));
        assert_eq!(damaged(&world), BTreeSet::new());
        assert_eq!(files(&project.join("out")), [""; 0].map(Path::new));
    }
    world.run(&project, &["build", "--quiet"]).good();
}

#[test]
fn a_full_disk_under_the_image_is_told_with_its_remedy() {
    let world = World::new();
    let project = world.project("app");
    world
        .run(&project, &["build", "--quiet", "--out", "elsewhere"])
        .good();
    for format in ["raw", "qcow2"] {
        let args = ["build", "--quiet", "--format", format];
        outcome(&mut world.shell(&project, &with_room(200), &args)).refused(
            1,
            &[
                "cannot ",
                &format!("fixture-1.0.0-qemu-x86_64.{format}"),
                "make room",
                "--out",
            ],
        );
        assert_eq!(files(&project.join("out")), [""; 0].map(Path::new));
    }
    // An image that was there is not left torn when it cannot be patched.
    let built = world.build(&project, &["--sum"]);
    write(&project.join("www/index.html"), "changed");
    let again = world.build(&project, &["--out", "elsewhere"]);
    let raw = PathBuf::from(built.artifact(0, "path"));
    outcome(&mut world.shell(&project, &with_room(200), &["build", "--quiet"]))
        .refused(1, &["make room"]);
    if raw.exists() {
        assert_eq!(digest(&raw).to_string(), built.artifact(0, "sha256"));
    }
    assert!(files(&project.join("out")).iter().all(|file| *file == raw));
    assert_eq!(world.build(&project, &[]).identity(), again.identity());
}

#[test]
fn a_disk_that_is_really_full_is_told_with_its_remedy() {
    const TEST: &str = "a_disk_that_is_really_full_is_told_with_its_remedy";
    let world = World::new();
    let project = world.small_project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    let room = world.path("room");
    fs::create_dir(&room).unwrap();
    // A mount that only the command sees: for root, or in a user namespace.
    let mount = "mount -t tmpfs -o size=$KIB\\k none \"$ROOM\"";
    let may = |flags: &&str| {
        let mut command = world.shell(&room, &format!("unshare {flags} {mount}"), &[""; 0]);
        let output = command.env("KIB", "64").env("ROOM", &room).output();
        output.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(may) else {
        crate::common::skipped(TEST, "nothing can be mounted here, not even in a namespace");
        return;
    };
    let inner = format!(
        "{mount} && \"$@\"; code=$?; find \"$ROOM/out\" \"$ROOM/store/tmp\" -type f 2>/dev/null; exit $code"
    );
    let line = format!("exec unshare {flags} sh -c '{inner}' sh \"$@\"");
    let mut failures = 0;
    for kib in [
        16, 100, 200, 300, 500, 800, 1300, 1800, 2300, 2800, 3400, 4000, 4600, 5200, 5800, 6400,
        7000, 20_000,
    ] {
        let args = [
            "build",
            "--quiet",
            "--format",
            "raw,qcow2",
            "--out",
            room.join("out").to_str().unwrap(),
        ]
        .map(str::to_owned);
        let mut command = world.shell(&project, &line, &args);
        command
            .env("SLIPFORM_STORE", room.join("store"))
            .env("KIB", kib.to_string())
            .env("ROOM", &room);
        let outcome = outcome(&mut command);
        if outcome.code == Some(0) {
            continue;
        }
        failures += 1;
        let outcome = outcome.refused(
            1,
            &[
                "cannot ",
                room.to_str().unwrap(),
                "No space left",
                "make room",
            ],
        );
        let whole = outcome
            .stdout
            .lines()
            .all(|file| file.ends_with("/small-1-small.raw"));
        assert!(whole, "{kib} KiB: {}", outcome.stdout);
        assert!(kib < 20_000, "{outcome:?}");
    }
    assert!(failures > 8, "only {failures} disks were full");
}

#[test]
fn an_image_cannot_be_written_where_a_folder_is() {
    let world = World::new();
    let project = world.project("app");
    let raw = project.join("out/fixture-1.0.0-qemu-x86_64.raw");
    fs::create_dir_all(raw.join("inside")).unwrap();
    world
        .run(&project, &["build", "--quiet"])
        .refused(1, &["cannot ", "fixture-1.0.0-qemu-x86_64.raw"]);
    assert!(raw.join("inside").is_dir());
}

#[test]
fn builds_at_once_on_one_store_do_not_disturb_each_other() {
    let world = World::new();
    let shared = world.project("shared");
    world.run(&shared, &["lock", "--quiet"]).good();
    let lock = fs::read_to_string(shared.join("slipform.lock")).unwrap();
    let mut projects = vec![shared.clone(), shared];
    for name in ["second", "third"] {
        let project = world.project(name);
        write(&project.join("slipform.lock"), &lock);
        projects.push(project);
    }
    let spawn = |project: &Path, args: &[&str]| {
        let mut command = world.command(project, args);
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let mut children: Vec<_> = projects.iter().map(|p| spawn(p, BOTH)).collect();
    let collector = spawn(&projects[0], &["gc", "--json"]);
    children.push(spawn(&projects[1], BOTH));
    let identities: BTreeSet<Vec<String>> = children
        .into_iter()
        .map(|child| Built(told(child.wait_with_output().unwrap()).good().json()).identity())
        .collect();
    assert_eq!(identities.len(), 1, "{identities:?}");
    told(collector.wait_with_output().unwrap()).good();
    for project in &projects {
        assert_eq!(files(&project.join("out")).len(), 2);
        let args = [BOTH, &["--locked", "--offline"]].concat();
        let again = outcome(cut_off(&mut world.command(project, &args))).good();
        assert!(identities.contains(&Built(again.json()).identity()));
    }
}

#[test]
fn layers_that_are_the_same_are_refused_by_name() {
    let world = World::new();
    let twin = SPEC.replace(
        "[[service]]",
        "[[layer]]\nname = \"twin\"\nfiles = [{ from = \"floor\", to = \"/opt/floor\" }]\n\n[[service]]",
    );
    let project = world.project_with("app", &twin);
    let built = world.run(&project, &["build", "--quiet"]);
    if built.code != Some(0) {
        built.refused(2, &["'floor' and 'twin'", "same content", "remove one"]);
    }
    edit(
        &project.join("slipform.toml"),
        "name = \"twin\"",
        "name = \"floor\"",
    );
    world
        .run(&project, &["build", "--quiet"])
        .refused(2, &["slipform.toml:", "two layers are named 'floor'"]);
}
