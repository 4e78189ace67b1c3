//! A layer's `cargo` rule: the one build that Slipform asks another tool for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PipelineError;
use crate::base::{Arch, Digest};
use crate::spec::{CargoRule, LayerSpec};
use crate::store::Store;

/// Builds the rule's binary for an architecture (release profile, paths remapped) and
/// returns where it is.
///
/// Cargo decides what is to be done; its target folder lies in the store, apart
/// for each package, so that nothing is written beside the user's sources.
pub(super) fn build(
    store: &Store,
    layer: &LayerSpec,
    rule: &CargoRule,
    (arch, offline): (Arch, bool),
) -> Result<PathBuf, PipelineError> {
    let package = layer.dir.join(&rule.path);
    let package = package.canonicalize().unwrap_or(package);
    let target = store
        .root()
        .join("cargo")
        .join(Digest::of(package.as_os_str().as_encoded_bytes()).short());
    let triple = triple(arch);
    let fail = |why: String| PipelineError::Cargo {
        layer: layer.name.clone(),
        package: package.clone(),
        why,
    };
    let mut cargo = Command::new("cargo");
    clean(&mut cargo);
    cargo
        .args([
            "build",
            "--release",
            "--quiet",
            "--bin",
            &rule.bin,
            "--target",
            triple,
        ])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(arch, &package, &target))
        .stdin(Stdio::null());
    if package.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    if offline {
        cargo.arg("--offline");
    }
    let output = cargo
        .output()
        .map_err(|error| fail(format!("cargo cannot be started ({error}); install Rust")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // E0463: the standard library of the target, which every crate starts from.
        let lacks = said.contains("can't find crate for `core`")
            || said.contains("can't find crate for `std`");
        return Err(fail(if lacks {
            format!("the compiler has no {triple}; run `rustup target add {triple}`")
        } else {
            said.trim_end().to_owned()
        }));
    }
    let binary = target.join(triple).join("release").join(&rule.bin);
    if !binary.is_file() {
        return Err(fail(format!(
            "cargo made no binary '{}'; check `bin`",
            rule.bin
        )));
    }
    Ok(binary)
}

/// Neither flags of whoever started us nor their target folder are the user's.
fn clean(cargo: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("CARGO_PKG")
            || text.starts_with("CARGO_MANIFEST")
            || text.starts_with("CARGO_CFG");
        let flags = [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTC_WRAPPER",
            "CARGO",
        ];
        if ours || flags.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
}

/// For Arm a static program with musl, as init is: what that needs comes with Rust. On the
/// tools' architecture the host's own C library and linker are there.
fn triple(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-unknown-linux-gnu",
        Arch::Aarch64 => "aarch64-unknown-linux-musl",
    }
}

fn flags(arch: Arch, package: &Path, target: &Path) -> String {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    [
        (package, "/src"),
        (target, "/target"),
        (home.as_path(), "/cargo"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
    .into_iter()
    .chain(["-Cstrip=symbols".to_owned()])
    .chain((arch == Arch::Aarch64).then(|| "-Clinker=rust-lld".to_owned()))
    .collect::<Vec<_>>()
    .join("\x1f")
}
