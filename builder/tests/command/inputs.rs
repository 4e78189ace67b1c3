//! Inputs kept in the team's own store: a build on a machine with nothing goes on there
//! when the mirror has moved on, and takes nothing that is not what the lock says.

use std::fs;
use std::path::Path;

use crate::common::{Outcome, World, cut_off, write};
use slipform::base::Digest;
use slipform::remote::testing::{RegistryRules, S3Rules, TestRegistry, TestS3};

/// Runs on another machine: an empty store, another home, no mirror.
fn elsewhere(
    world: &World,
    machine: &str,
    dir: &Path,
    args: &[&str],
    variables: &[(String, String)],
) -> Outcome {
    let home = world.path(&format!("{machine}-home"));
    fs::create_dir_all(&home).unwrap();
    let mut command = world.command(dir, args);
    command
        .env("HOME", home)
        .env("SLIPFORM_STORE", world.path(&format!("{machine}-store")))
        .envs(variables.iter().cloned());
    crate::common::outcome(cut_off(&mut command))
}

/// From a mirror that is gone to the same image.
fn kept(world: &World, to: &str, variables: &[(String, String)]) {
    let dir = world.project("app");
    let built = world.build(&dir, &[]);
    let fetch = |more: &[&str]| {
        let mut args = vec!["--quiet", "fetch", "--json", "--to", to];
        args.extend(more);
        let mut command = world.command(&dir, &args);
        command.envs(variables.iter().cloned());
        crate::common::outcome(&mut command).good().json()
    };
    let first = fetch(&[]);
    let inputs = first["to"]["inputs"].as_u64().unwrap();
    // Packages of the image and of the emulator, kernel, stub, and init.
    assert_eq!(inputs, first["packages"].as_u64().unwrap() + 1, "{first}");
    assert_eq!(first["to"]["moved"].as_u64().unwrap(), inputs, "{first}");
    // Nothing is sent twice.
    let again = fetch(&[]);
    assert_eq!(again["to"]["moved"], 0, "{again}");
    assert_eq!(again["to"]["bytes"], 0, "{again}");

    let poor = elsewhere(world, "poor", &dir, &["build", "--locked"], variables);
    assert_eq!(poor.code, Some(1), "{poor:?}");
    assert!(poor.stderr.contains("could not be fetched"), "{poor:?}");
    let args = ["build", "--locked", "--json", "--sources", to];
    let other = elsewhere(world, "runner", &dir, &args, variables).good();
    assert_eq!(other.json()["image"], built.image());
}

#[test]
fn a_folder_keeps_what_the_mirror_has_lost() {
    let world = World::new();
    let to = format!("file://{}", world.path("kept").display());
    kept(&world, &to, &[]);
    // As the user's configuration has it; a folder is no network.
    let config = format!("sources = [\"{to}\"]\n");
    write(
        &world.path("cellar-home/.config/slipform/config.toml"),
        config,
    );
    let dir = world.path("app");
    elsewhere(
        &world,
        "cellar",
        &dir,
        &["--offline", "build", "--locked"],
        &[],
    )
    .good();
    // What was changed there is not taken: the mirror has it still, or it is an error.
    let lock = fs::read_to_string(dir.join("slipform.lock")).unwrap();
    let hello = lock.split("name = \"hello-server\"").nth(1).unwrap();
    let hex = hello.split("sha256:").nth(1).unwrap()[..64].to_owned();
    let blob = world.path("kept/blobs/sha256").join(&hex);
    crate::common::flip(&blob);
    let args = ["build", "--locked", "--sources", &to];
    let refused = elsewhere(&world, "victim", &dir, &args, &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("hello-server 1.0-1 is not taken from")
            && refused.stderr.contains("damaged or was changed"),
        "{refused:?}"
    );
    let digest: Digest = format!("sha256:{hex}").parse().unwrap();
    let store = slipform::store::Store::open(world.path("victim-store")).unwrap();
    assert!(!store.has(&digest));
    let mut command = world.command(&dir, &args);
    command.env("SLIPFORM_STORE", world.path("victim-store"));
    crate::common::outcome(&mut command).good();
}

#[test]
fn a_registry_keeps_what_the_mirror_has_lost() {
    let world = World::new();
    let registry = TestRegistry::new(RegistryRules::default());
    kept(&world, &registry.uri("team/inputs"), &[]);
    assert_eq!(registry.complaints(), Vec::<String>::new());
}

#[test]
fn an_object_store_keeps_what_the_mirror_has_lost() {
    let world = World::new();
    let store = TestS3::new(S3Rules::default());
    let variables = store.variables(store.address());
    kept(&world, "s3://bucket/inputs", &variables);
    assert_eq!(store.complaints(), Vec::<String>::new());
}

#[test]
fn a_place_that_is_none_is_told_at_once() {
    let world = World::new();
    let dir = world.project("app");
    world
        .run(&dir, &["--quiet", "fetch", "--to", "ftp://host/x"])
        .refused(2, &["'ftp://host/x' is no place", "oci://"]);
    world
        .run(&dir, &["--quiet", "build", "--sources", "nowhere"])
        .refused(2, &["'nowhere' is no place"]);
    assert!(!dir.join("slipform.lock").exists());
}
