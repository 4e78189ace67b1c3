//! Finding the judges.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Folders of a Debian root that hold programs.
const FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// The command of a judge: from the unpacked Debian root that
/// `SLIPFORM_JUDGES` names, run with that root's own loader and libraries, else
/// from `PATH`. `None` is one visible line.
pub(crate) fn judge(name: &str) -> Option<Command> {
    let found = match std::env::var_os("SLIPFORM_JUDGES") {
        Some(root) => in_root(Path::new(&root), name),
        None => in_path(name).map(Command::new),
    };
    if found.is_none() {
        skipped(name);
    }
    found
}

#[expect(clippy::print_stderr, reason = "a check that did not run must show")]
fn skipped(name: &str) {
    eprintln!(
        "SKIPPED: {name} is not there; set SLIPFORM_JUDGES to an unpacked Debian root with it"
    );
}

fn in_root(root: &Path, name: &str) -> Option<Command> {
    let program = FOLDERS
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.is_file())?;
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(program);
    Some(command)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = FOLDERS.iter().map(|folder| Path::new("/").join(folder));
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
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
