//! Folders that every machine needs, links to what it learns when it boots, and
//! small files that programs expect. What a layer brings itself stays, but for
//! what would be wrong on every machine (a fixed machine-id, an old mtab).

use std::fmt::Write;

use super::{Entry, GenerateInput, RUNTIME_DIR, TreeError, file, folder, symlink};

/// Standard folders (hier(7)) and the kernel's mount points, with modes.
const FOLDERS: [(&str, u32); 20] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/media", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/var", 0o755),
    ("/var/cache", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/mail", 0o755),
    ("/var/spool", 0o755),
    ("/var/tmp", 0o1777),
];

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

const NSSWITCH: &str = "\
passwd:     files
group:      files
shadow:     files
gshadow:    files
hosts:      files dns
networks:   files
protocols:  files
services:   files
ethers:     files
rpc:        files
";

pub(super) fn entries(input: &GenerateInput<'_>) -> Result<Vec<Entry>, TreeError> {
    let mut entries = Vec::new();
    for (path, mode) in FOLDERS {
        if !input.is_folder(path) {
            entries.push(folder(path, mode));
        }
    }
    let scratch = input.scratch.iter().map(|scratch| &scratch.path);
    let state = input.state.into_iter().flat_map(|state| &state.paths);
    for path in scratch.chain(state.map(|path| &path.path)) {
        if !input.is_folder(path) {
            entries.push(folder(path, 0o755));
        }
    }
    for name in ["resolv.conf", "hostname"] {
        let path = format!("/etc/{name}");
        if input.content(&path).is_none() {
            entries.push(symlink(&path, &format!("{RUNTIME_DIR}/{name}")));
        }
    }
    entries.push(symlink(
        "/etc/machine-id",
        &format!("{RUNTIME_DIR}/machine-id"),
    ));
    entries.push(symlink("/etc/mtab", "/proc/self/mounts"));
    for (path, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
        if !input.exists(path) {
            entries.push(symlink(path, target));
        }
    }
    for (path, text) in [("/etc/hosts", HOSTS), ("/etc/nsswitch.conf", NSSWITCH)] {
        if !input.exists(path) {
            entries.push(file(path, 0o644, 0, text));
        }
    }
    entries.push(file(
        "/etc/os-release",
        0o644,
        0,
        os_release(input.name, input.version),
    ));
    Ok(entries)
}

/// `/etc/os-release` (os-release(5)). A package's `/usr/lib/os-release` stays
/// where it is, and says what the packages were made for.
fn os_release(name: &str, version: &str) -> String {
    let mut text = String::new();
    for (key, value) in [
        ("NAME", "Slipform"),
        ("ID", "slipform"),
        ("PRETTY_NAME", &format!("{name} {version}")),
        ("VERSION_ID", version),
        ("IMAGE_ID", name),
        ("IMAGE_VERSION", version),
    ] {
        let _ = writeln!(text, "{key}=\"{}\"", quoted(value));
    }
    text
}

/// A value as a shell would read it back between double quotes.
fn quoted(value: &str) -> String {
    let mut out = String::new();
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_golden() {
        assert_eq!(
            os_release("hello", "0.1.0-rc\"$x`\\\n"),
            "NAME=\"Slipform\"\nID=\"slipform\"\nPRETTY_NAME=\"hello 0.1.0-rc\\\"\\$x\\`\\\\\"\n\
             VERSION_ID=\"0.1.0-rc\\\"\\$x\\`\\\\\"\nIMAGE_ID=\"hello\"\nIMAGE_VERSION=\"0.1.0-rc\\\"\\$x\\`\\\\\"\n"
        );
    }
}
