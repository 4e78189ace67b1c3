//! The README's way from nothing to a published image, on real packages and with a
//! real boot: what booted is what is published, and what is published comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::clients::parts::Registry;
use crate::clients::tools::{at_home, content, skopeo};
use crate::common::{Outcome, digest, outcome, skipped};
use crate::containers::{layer, layout_of};
use slipform::base::Arch;
use slipform::base::progress::Quiet;
use slipform::pipeline::{Settings, init_binary, testing};
use slipform::remote::testing::{RegistryRules, TestRegistry};

/// An image for PCs and Arm, of a package, a program of its own and a container.
const BOTH: &str = r#"name = "both"
version = "1"
boards = ["qemu-x86_64", "qemu-aarch64"]

[[layer]]
use = "base"

[[layer]]
name = "app"
cargo = { path = "app", bin = "app" }

[[layer]]
name = "container"
oci = "CONTAINER"

[[service]]
name = "app"
exec = ["/usr/bin/app"]
ready = { tcp = "127.0.0.1:8080" }

[[service]]
name = "container"
exec = ["/usr/bin/container"]
ready = { tcp = "127.0.0.1:8081" }

[[test]]
name = "says what it runs on"
tcp = { port = 8080, steps = [{ expect = "caught on" }] }

[[test]]
name = "the container's program runs on it, too"
tcp = { port = 8081, steps = [{ expect = "contained on" }] }
"#;
const PACKAGE: &str = r#"[package]
name = "app"
version = "0.1.0"
edition = "2021"

[workspace]
"#;
/// It unwinds, too: what that needs is linked for each architecture.
const PROGRAM: &str = r#"use std::io::Write;

fn main() {
    let caught = std::panic::catch_unwind(|| panic!("thrown")).is_err();
    let listener = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
    for stream in listener.incoming().flatten() {
        let said = if caught { "caught on" } else { "missed on" };
        let _ = writeln!(&stream, "{said} {}", std::env::consts::ARCH);
    }
}
"#;

/// What the container runs: no library is there.
const CONTAINED: &str = r#"use std::io::Write;

fn main() {
    let listener = std::net::TcpListener::bind("0.0.0.0:8081").unwrap();
    for mut stream in listener.incoming().flatten() {
        let _ = writeln!(stream, "contained on {}", std::env::consts::ARCH);
    }
}
"#;

/// The container's program for both architectures, in one index of a registry.
fn push_container(registry: &Registry, mut skopeo: Command) -> String {
    let home = registry.home();
    crate::common::write(&home.join("main.rs"), CONTAINED);
    let images = [
        (
            "amd64",
            "x86_64-unknown-linux-gnu",
            "-Ctarget-feature=+crt-static",
        ),
        ("arm64", "aarch64-unknown-linux-musl", "-Clinker=rust-lld"),
    ]
    .map(|(arch, target, flag)| {
        let program = home.join(arch);
        let mut rustc = Command::new("rustc");
        rustc.args(["--target", target, flag, "-Cstrip=symbols", "-o"]);
        content(rustc.arg(&program).arg(home.join("main.rs")));
        let program = fs::read(program).unwrap();
        let regular = tar::EntryType::Regular;
        (arch, layer(&[(regular, "usr/bin/container", &program)]))
    });
    for (path, bytes) in layout_of(&images) {
        crate::common::write(&home.join("layout").join(path), bytes);
    }
    let from = format!("oci:{}", home.join("layout").display());
    let to = format!("docker://{}:1", registry.name("team/container"));
    skopeo.args(["--insecure-policy", "copy", "--all"]);
    skopeo.args(["--dest-tls-verify=false", &from, &to]);
    content(at_home(&mut skopeo, &home));
    format!("{}:1", registry.uri("team/container"))
}

/// A person with a home of their own, on this machine's store and mirror.
struct Person {
    home: tempfile::TempDir,
    registry: TestRegistry,
}

impl Person {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            registry: TestRegistry::new(RegistryRules::default()),
        }
    }

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
        // Cargo's and its compiler's own folders stay, too.
        let host = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let own = std::env::var_os(name).map_or_else(|| host.join(folder), PathBuf::from);
            command.env(name, own);
        }
        outcome(&mut command)
    }
}

#[test]
fn from_nothing_to_a_published_image_that_booted() {
    if testing::is_offline() {
        return testing::skipped("the story of a first image");
    }
    let person = Person::new();
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

/// The same specification for two architectures, with a program of cargo's and a container in
/// it: each image boots in its own emulator, and all of them are one release.
#[test]
fn one_image_over_two_architectures_boots_and_is_published() {
    if testing::is_offline() {
        return testing::skipped("an image over two architectures");
    }
    if init_binary(Arch::Aarch64, false).is_none() {
        let why = "the compiler has no target aarch64-unknown-linux-musl";
        return skipped("an image over two architectures", why);
    }
    let (Some(skopeo), Some(registry)) = (skopeo(), Registry::new()) else {
        return;
    };
    let person = Person::new();
    let home = person.home.path();
    person.run(home, &["key", "new", "--no-passphrase"]).good();
    let dir = home.join("both");
    let write = |path: &str, text: &str| crate::common::write(&dir.join(path), text);
    let boards = ["qemu-x86_64", "qemu-aarch64"];
    let container = push_container(&registry, skopeo);
    write("slipform.toml", &BOTH.replace("CONTAINER", &container));
    write("app/Cargo.toml", PACKAGE);
    write("app/src/main.rs", PROGRAM);

    person.run(&dir, &["--quiet", "lock"]).good();
    let args = ["--quiet", "test", "--json"];
    let tested = person.run(&dir, &args).good().json();
    for (number, board) in boards.into_iter().enumerate() {
        let report = &tested["reports"][number];
        assert_eq!(report["passed"], true, "{board}: {tested}");
    }
    let args = ["--quiet", "publish", "--json", "--channel", "stable"];
    person.run(&dir, &args).good();
    for (number, board) in boards.into_iter().enumerate() {
        let out = format!("pulled for {board}");
        let args = ["--quiet", "pull", "stable", "--board", board, "--out", &out];
        person.run(&dir, &args).good();
        let pulled = crate::common::files(&dir.join(out)).remove(0);
        let built = dir.join("out").join(pulled.file_name().unwrap());
        assert_eq!(digest(&pulled), digest(&built), "{number}");
    }
    let verified = person.run(&dir, &["verify", "stable", "--rebuild"]).good();
    for board in boards {
        let said = format!("{board} is rebuilt as ");
        assert!(verified.stdout.contains(&said), "{}", verified.stdout);
    }
}
