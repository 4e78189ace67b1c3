//! A layer's `cargo` rule: the one build that Slipform asks another tool for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PipelineError;
use crate::base::Digest;
use crate::spec::{CargoRule, LayerSpec};
use crate::store::Store;

/// Builds the rule's binary (release profile, paths remapped) and returns where it is.
///
/// Cargo decides what is to be done; its target folder lies in the store, apart
/// for each package, so that nothing is written beside the user's sources.
pub(super) fn build(
    store: &Store,
    layer: &LayerSpec,
    rule: &CargoRule,
    offline: bool,
) -> Result<PathBuf, PipelineError> {
    let package = layer.dir.join(&rule.path);
    let package = package.canonicalize().unwrap_or(package);
    let target = store
        .root()
        .join("cargo")
        .join(Digest::of(package.as_os_str().as_encoded_bytes()).short());
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
            "x86_64-unknown-linux-gnu",
        ])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&package, &target))
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
        return Err(fail(
            String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        ));
    }
    let binary = target
        .join("x86_64-unknown-linux-gnu/release")
        .join(&rule.bin);
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

fn flags(package: &Path, target: &Path) -> String {
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
    .collect::<Vec<_>>()
    .join("\x1f")
}
