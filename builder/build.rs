//! Builds PID 1, without TLS and with it, as static binaries with a profile and a target
//! folder of their own, so that the command can embed them. Paths are remapped: the same
//! source and compiler give the same bytes in every folder.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let builder =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = builder
        .parent()
        .expect("builder/ lies in the workspace")
        .to_owned();
    for input in [
        "init/src",
        "init/tls/src",
        "init/tls/Cargo.toml",
        "init/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    let target = "x86_64-unknown-linux-gnu";
    let target_dir = out.join("init-target");
    let built = target_dir.join(target).join("init/slipform-init");
    for (features, name) in [("", "slipform-init"), ("tls", "slipform-init-tls")] {
        build(&workspace, target, &target_dir, features);
        std::fs::copy(&built, out.join(name))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", built.display()));
    }
}

fn build(workspace: &Path, target: &str, target_dir: &Path, features: &str) {
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
        format!("--remap-path-prefix={}=/slipform", workspace.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ];
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    // Flags of whoever builds the command (a coverage run, say) are not init's.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_")
            && name != "CARGO_HOME"
            && !name.starts_with("CARGO_HTTP")
            && !name.starts_with("CARGO_NET")
            && !name.starts_with("CARGO_REGISTR")
            || [
                "RUSTFLAGS",
                "RUSTC_WRAPPER",
                "RUSTC_WORKSPACE_WRAPPER",
                "RUSTDOCFLAGS",
            ]
            .contains(&name.as_str())
        {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .current_dir(workspace)
        .args([
            "build",
            "--package",
            "slipform-init",
            "--bin",
            "slipform-init",
            "--profile",
            "init",
            "--features",
            features,
        ])
        .args(["--target", target, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status()
        .expect("cannot start cargo to build init");
    assert!(
        status.success(),
        "init did not build for {target}; it needs that target's standard library and a static C library (Debian: libc6-dev)"
    );
}
