//! The house's one rule: data flows one way. A room imports `base`, `board` and
//! the rooms to its left, never one to its right; `pipeline` and `cli` alone know
//! them all; no file grows beyond what can be read at one sitting.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order in which the data flows.
const ROOMS: &[&str] = &[
    "base",
    "board",
    "spec",
    "lock",
    "store",
    "sources",
    "remote",
    "layers",
    "tree",
    "filesystem",
    "verity",
    "uki",
    "disk",
    "output",
    "attest",
    "channel",
    "publish",
    "pipeline",
    "cli",
];

/// Lines of a file, tests included.
const LONGEST: usize = 700;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn room_of(path: &Path) -> Option<usize> {
    let relative = path.strip_prefix(src()).ok()?;
    let first = relative.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS.iter().position(|room| *room == name)
}

/// Rooms that a file names by `crate::room`, outside of its tests.
fn imports(text: &str) -> BTreeSet<usize> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = BTreeSet::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            rooms.extend(ROOMS.iter().position(|room| *room == name));
        }
    }
    rooms
}

#[test]
fn no_room_imports_from_its_right() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in sources(&src()) {
        let is_test = path.file_stem().is_some_and(|n| {
            let name = n.to_string_lossy();
            name == "tests" || name == "testing" || name.ends_with("_tests")
        });
        let Some(room) = room_of(&path).filter(|_| !is_test) else {
            continue;
        };
        seen.insert(room);
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            if import > room {
                wrong.push(format!("{} imports {}", path.display(), ROOMS[import]));
            }
        }
    }
    assert_eq!(seen.len(), ROOMS.len(), "every room has files");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_is_in_the_drawing() {
    let text = fs::read_to_string(src().join("lib.rs")).unwrap();
    let modules: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(modules, ROOMS.iter().copied().collect());
}

#[test]
fn files_stay_small_enough_to_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut long = Vec::new();
    for folder in ["builder", "init", "qemu-tests"] {
        for path in sources(&root.join(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            if lines > LONGEST && !path.components().any(|c| c.as_os_str() == "target") {
                long.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
