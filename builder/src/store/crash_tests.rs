//! The store survives its writer: killed at any write, or without room.
//!
//! Both tests run this very test binary again as a child, with one test by
//! name; without its environment variable that test does nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus};

use super::*;
use crate::base::Digest;
use crate::base::progress::Quiet;

/// Environment variable of the child: the store to work on.
const STORE: &str = "SLIPFORM_TEST_STORE";

fn blob(i: u64) -> Vec<u8> {
    (0..20_000u64).flat_map(|n| (n * i).to_le_bytes()).collect()
}

/// What a build does to a store, all of it.
fn work(root: &Path) -> Result<(), StoreError> {
    let store = Store::open(root)?;
    {
        let _guard = store.shared(&Quiet)?;
        let mut layers = Vec::new();
        for i in 0..3 {
            let mut writer = store.writer()?;
            for part in blob(i).chunks(64 * 1024) {
                writer.write_all(part).expect("write");
            }
            let digest = writer.finish()?;
            let step = Step::new("blob", i.to_string()).value("number", i.to_le_bytes());
            let outputs = Outputs::from([("blob".to_owned(), Output::Blob(digest))]);
            store.record(&step, &outputs)?;
            layers.push(Descriptor::new("application/x", digest, 160_000));
            let manifest = Manifest::artifact("a/b", Descriptor::empty(), layers.clone());
            let manifest = store.put_manifest(&manifest)?;
            store.tag("image", &manifest)?;
        }
        let folder = store.temp_folder()?;
        fs::write(folder.path().join("tool"), "x").expect("write");
        folder.publish(&store.unpacked(&Digest::of("tools")))?;
        store.set_root(&Root {
            path: root.to_owned(),
            digests: BTreeSet::from([Digest::of("tools")]),
        })?;
        store.put(b"to be collected")?;
    }
    let alone = store.exclusive(&Quiet)?;
    store.collect(&alone, false)?;
    Ok(())
}

/// Opens clean, holds nothing but what is right, and goes on working.
fn examine(root: &Path, case: &str) {
    let store = Store::open(root).unwrap();
    assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0, "{case}");
    for entry in fs::read_dir(store.blobs()).unwrap() {
        let name = entry.unwrap().file_name();
        let digest = Digest::from_hex(name.to_str().unwrap()).unwrap();
        store
            .read(&digest)
            .unwrap_or_else(|e| panic!("{case}: {e}"));
    }
    if let Some(named) = store.tagged("image").unwrap() {
        for layer in store.manifest(&named.digest).unwrap().layers {
            assert!(
                store.has(&layer.digest),
                "{case}: a named image lost a layer"
            );
        }
    }
    work(root).unwrap_or_else(|e| panic!("{case}: {e}"));
    let named = store.tagged("image").unwrap().unwrap();
    assert_eq!(store.manifest(&named.digest).unwrap().layers.len(), 3);
    let log = StepLog::default();
    for i in 0..3u64 {
        let step = Step::new("blob", i.to_string()).value("number", i.to_le_bytes());
        assert!(
            matches!(store.step(&step, &log), StepState::Hit(_)),
            "{case}"
        );
    }
}

fn child(root: &Path, kill_at: Option<u64>) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::crash_tests::child_works", "--nocapture"])
        .env(STORE, root)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    if let Some(at) = kill_at {
        command.env(fault::KILL_AT, at.to_string());
    }
    command.status().unwrap()
}

#[test]
fn child_works() {
    if let Some(root) = std::env::var_os(STORE) {
        work(Path::new(&root)).unwrap();
    }
}

#[test]
fn killed_at_any_of_its_writes_it_opens_clean_and_goes_on() {
    use std::os::unix::process::ExitStatusExt;
    // How many points there are: the first number at which nobody dies any more.
    let survives = |at: u64| {
        let folder = tempfile::tempdir().unwrap();
        let status = child(folder.path(), Some(at));
        if !status.success() {
            assert_eq!(status.signal(), Some(9), "point {at}: {status}");
            examine(folder.path(), &format!("killed at point {at}"));
        }
        status.success()
    };
    let (mut low, mut high) = (1, 1_000);
    while low < high {
        let middle = u64::midpoint(low, high);
        if survives(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let points = low;
    assert!(points > 60, "only {points} points are passed");
    for seed in 0..20 {
        // Spread over all, the first and the last among them.
        let at = seed * (points - 1) / 19;
        assert!(!survives(at), "nobody died at point {at} of {points}");
    }
}

#[test]
fn without_room_it_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    Store::open(folder.path()).unwrap();
    // A limit on the size of files is the full disk that everybody may make.
    // The signal that comes with it must be ignored for the error to be seen.
    let output = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::crash_tests::child_fills", "--nocapture"])
        .env(STORE, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().filter(|l| l.starts_with("ERROR ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for part in [
        "write",
        folder.path().to_str().unwrap(),
        "slipform gc",
        "SLIPFORM_STORE",
    ] {
        assert_eq!(lines[0].matches(part).count(), 1, "{}", lines[0]);
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(fs::read_dir(store.blobs()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0);
}

#[test]
#[allow(clippy::print_stdout)]
fn child_fills() {
    let Some(root) = std::env::var_os(STORE) else {
        return;
    };
    let store = Store::open(root).unwrap();
    if let Err(error) = store.put(&vec![7; 1024 * 1024]) {
        println!("ERROR {error}");
        panic!("no room");
    }
}
