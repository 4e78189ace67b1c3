//! The judges: Debian's own tools from locked packages.

use std::process::{Command, Output};
use std::sync::OnceLock;

use slipform::pipeline::testing;
use slipform::pipeline::tools::Tools;

/// The command of a judge. `None` where the tests may not fetch and have it not:
/// that is one visible line, and nothing on a machine with a network.
pub(crate) fn judge(name: &str) -> Option<Command> {
    static JUDGES: OnceLock<Option<Tools>> = OnceLock::new();
    let judges = JUDGES.get_or_init(|| {
        testing::judges().unwrap_or_else(|error| {
            panic!(
                "the judges cannot be had: {error}; set {}=1 to pass over them",
                testing::OFFLINE
            )
        })
    });
    let command = judges.as_ref()?.command(name);
    assert!(command.is_some(), "no package of the judges has {name}");
    command
}

/// As [`judge`], of those that unpack archives.
pub(crate) fn archiver(name: &str) -> Option<Command> {
    static ARCHIVERS: OnceLock<Option<Tools>> = OnceLock::new();
    let tools = ARCHIVERS.get_or_init(|| {
        testing::tools("archivers", &["libarchive-tools", "zstd"])
            .unwrap_or_else(|error| panic!("the archivers cannot be had: {error}"))
    });
    let command = tools.as_ref()?.command(name);
    assert!(command.is_some(), "no package of the archivers has {name}");
    command
}

/// xorriso, which knows ISO images.
pub(crate) fn xorriso() -> Option<Command> {
    static XORRISO: OnceLock<Option<Tools>> = OnceLock::new();
    let tools = XORRISO.get_or_init(|| {
        testing::tools("xorriso", &["xorriso"])
            .unwrap_or_else(|error| panic!("xorriso cannot be had: {error}"))
    });
    let command = tools.as_ref()?.command("xorriso");
    assert!(command.is_some(), "the package xorriso has no xorriso");
    command
}

/// Runs a judge that must be content; gives what it said.
pub(crate) fn content(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert!(status.success(), "{command:?} ended with {status}:\n{said}");
    said
}
