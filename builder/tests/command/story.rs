//! The README's way from nothing to a published image, on real packages and with a
//! real boot: what booted is what is published, and what is published comes back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::{Outcome, digest, outcome};
use slipform::base::progress::Quiet;
use slipform::pipeline::{Settings, testing};
use slipform::remote::testing::{RegistryRules, TestRegistry};

/// A person with a home of their own, on this machine's store and mirror.
struct Person {
    home: tempfile::TempDir,
    registry: TestRegistry,
}

impl Person {
    fn run(&self, dir: &Path, args: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipform"));
        command.args(args).current_dir(dir);
        // The store stays where it is: packages and tools need not come once more.
        let ordinary = Settings::new(None, None, false, Arc::new(Quiet)).unwrap();
        command
            .env("SLIPFORM_STORE", ordinary.store().root())
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("SLIPFORM_REMOTE", self.registry.uri("myapp"))
            .env("SLIPFORM_BY", "ann");
        outcome(&mut command)
    }
}

#[test]
fn from_nothing_to_a_published_image_that_booted() {
    if testing::is_offline() {
        return testing::skipped("the story of a first image");
    }
    let person = Person {
        home: tempfile::tempdir().unwrap(),
        registry: TestRegistry::new(RegistryRules::default()),
    };
    let home = person.home.path();
    person.run(home, &["new", "myapp"]).good();
    let dir = home.join("myapp");
    person.run(&dir, &["key", "new", "--no-passphrase"]).good();
    let key = home.join(".config/slipform/key.pem");
    let key = key.to_str().unwrap();
    person
        .run(&dir, &["publish"])
        .refused(2, &["there is no lock", "slipform lock"]);

    let args = [
        "--quiet",
        "test",
        "--json",
        "--key",
        key,
        "--junit",
        "junit.xml",
    ];
    let tested = person.run(&dir, &args).good().json();
    let report = &tested["reports"][0];
    assert_eq!(report["passed"], true, "{tested}");
    let image = report["image"].as_str().unwrap();
    let junit = fs::read_to_string(dir.join("junit.xml")).unwrap();
    assert!(junit.contains("failures=\"0\""), "{junit}");

    let published = person
        .run(&dir, &["--quiet", "publish", "--json"])
        .good()
        .json();
    assert_eq!(published["release"], image, "{published}");
    person.run(&dir, &["promote", "candidate", "stable"]).good();
    let mut args = vec!["pull", "stable", "--out", "pulled", "--format", "raw"];
    args.push("--quiet");
    person.run(&dir, &args).good();
    let pulled = crate::common::files(&dir.join("pulled")).remove(0);
    let built = dir.join("out").join(pulled.file_name().unwrap());
    assert_eq!(digest(&pulled), digest(&built));
    let verified = person.run(&dir, &["verify", "stable", "--rebuild"]).good();
    assert!(
        verified.stdout.contains("bit for bit"),
        "{}",
        verified.stdout
    );

    // Whatever has not booted as it is now stays where it is.
    crate::common::write(&dir.join("www/index.html"), "changed since\n");
    person
        .run(&dir, &["--quiet", "publish"])
        .refused(2, &["is not built as it would be now", "slipform test"]);
}
