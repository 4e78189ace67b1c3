//! The fuzzer with the compiler's counters, as the long way builds it: each planted bug is
//! found, and told with its input.

use std::path::Path;
use std::process::Command;

const FLAGS: [&str; 5] = [
    "--cfg=fuzz_coverage",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "--check-cfg=cfg(fuzz_coverage)",
];

#[test]
fn planted_bugs_are_found_with_coverage_and_told() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join("slipform-fuzz-planted");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition=2024", "--test", "--crate-name=slipform_fuzz"])
        .args(FLAGS)
        .arg("-o")
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .output()
        .expect("rustc starts");
    let text = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{text}");
    for (bug, said, begin) in [
        ("behind_a_magic", "this input panics", "d54c1f"),
        ("in_the_open", "this input panics", "ff"),
        ("without_end", "this input takes longer than 500ms", "ff"),
        ("without_bound", "this input takes too much memory", "ff"),
    ] {
        let ran = Command::new(&program)
            .args(["--ignored", "--exact"])
            .arg(format!("tests::planted::{bug}"))
            .output()
            .expect("the planted bugs start");
        let text = [ran.stdout, ran.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let input = text.split(&format!("fuzz: {said} (")).nth(1);
        let input = input.and_then(|rest| rest.split(" bytes): ").nth(1));
        assert!(
            !ran.status.success() && input.is_some_and(|hex| hex.starts_with(begin)),
            "{bug}: {text}"
        );
    }
}
