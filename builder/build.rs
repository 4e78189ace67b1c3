//! Builds PID 1, without TLS and with it, as static binaries with a profile and a target
//! folder of their own, so that the command can embed them. Paths are remapped: the same
//! source and compiler give the same bytes in every folder.
//!
//! `init/no-unwinding.ld` is named relative to the workspace: cargo starts the linker
//! there, and the flags' text is a part of every symbol's hash.

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
        "init/no-unwinding.ld",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    let target_dir = shared_by_profiles(&out);
    std::fs::create_dir_all(&target_dir)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", target_dir.display()));
    // What was built is copied before another of us builds it with other features.
    let lock = std::fs::File::create(target_dir.join("copying.lock"))
        .and_then(|file| file.lock().map(|()| file))
        .unwrap_or_else(|error| panic!("cannot lock {}: {error}", target_dir.display()));
    let mut inits = vec![
        (X86_64, "", "slipform-init"),
        (X86_64, "tls", "slipform-init-tls"),
    ];
    // Without TLS: that has parts in C and assembler, which want a compiler for the target.
    println!("cargo::rustc-check-cfg=cfg(init_aarch64)");
    if is_installed(AARCH64) {
        println!("cargo::rustc-cfg=init_aarch64");
        inits.push((AARCH64, "", "slipform-init-aarch64"));
    }
    for (target, features, name) in inits {
        build(&workspace, target, &target_dir, features);
        let built = target_dir.join(target.triple).join("init/slipform-init");
        std::fs::copy(&built, out.join(name))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", built.display()));
    }
    drop(lock);
}

/// A target folder for init that checks, tests and releases share: init is the same in all.
fn shared_by_profiles(out: &Path) -> PathBuf {
    // …/target/PROFILE/build/slipform-HASH/out
    let target = out.ancestors().find(|path| path.ends_with("build"));
    let target = target.and_then(|build| build.ancestors().nth(2));
    target.unwrap_or(out).join("init")
}

/// What init is built for.
#[derive(Clone, Copy)]
struct Target {
    triple: &'static str,
    /// The linker, where the host's own is not for it.
    linker: Option<&'static str>,
    /// What has to be there.
    needs: &'static str,
}

const X86_64: Target = Target {
    triple: "x86_64-unknown-linux-gnu",
    linker: None,
    needs: "that target's standard library and a static C library (Debian: libc6-dev)",
};
/// With musl, whose target brings its C library, and Rust's own linker: no package for
/// cross building is needed.
const AARCH64: Target = Target {
    triple: "aarch64-unknown-linux-musl",
    linker: Some("rust-lld"),
    needs: "that target's standard library as the compiler has it, or none at all",
};

/// Whether the compiler has the target's standard library. Cargo asks again when the list
/// of what rustup has installed changes.
fn is_installed(target: Target) -> bool {
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    let printed = rustc.args(["--print", "target-libdir", "--target", target.triple]);
    let Ok(output) = printed.output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let folder = Path::new(text.trim());
    let list = folder
        .ancestors()
        .nth(2)
        .map(|rustlib| rustlib.join("components"));
    if let Some(list) = list.filter(|list| list.is_file()) {
        println!("cargo::rerun-if-changed={}", list.display());
    }
    let is_std = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("libstd-");
    std::fs::read_dir(folder)
        .is_ok_and(|files| files.flatten().any(|file| is_std(&file.file_name())))
}

fn build(workspace: &Path, target: Target, target_dir: &Path, features: &str) {
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
        format!("--remap-path-prefix={}=/slipform", workspace.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ];
    // A linker of its own is called as it is, the host's by its C compiler.
    flags.push(match target.linker {
        Some(_) => "-Clink-arg=-Tinit/no-unwinding.ld".to_owned(),
        None => "-Clink-arg=-Wl,-T,init/no-unwinding.ld".to_owned(),
    });
    flags.extend(target.linker.map(|linker| format!("-Clinker={linker}")));
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
        .args(["--target", target.triple, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status()
        .expect("cannot start cargo to build init");
    assert!(
        status.success(),
        "init did not build for {}; it needs {}",
        target.triple,
        target.needs
    );
}
