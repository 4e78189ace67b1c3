//! Real packages, end to end: a folder of `.deb` files, named by
//! `SLIPFORM_TEST_DEBS`, becomes a base and the generated layer on it. `dpkg-deb`
//! judges every entry.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::generated::{Accounts, GenerateInput, ReadContent, generate};
use super::{Below, build, listing};
use crate::layers::content::{open, read_range};
use crate::layers::testing::Bench;
use crate::layers::{Content, Kind, UnpackedDeb, collect, unpack};

fn skipped(why: &str) {
    #[allow(clippy::print_stderr)]
    {
        eprintln!("Skipped: {why}");
    }
}

/// The packages to try, each name once.
fn debs() -> BTreeMap<String, PathBuf> {
    let Some(folder) = std::env::var_os("SLIPFORM_TEST_DEBS") else {
        skipped("SLIPFORM_TEST_DEBS names no folder of packages");
        return BTreeMap::new();
    };
    std::fs::read_dir(folder)
        .unwrap()
        .map(|child| child.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

fn unpack_all(bench: &mut Bench) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (_, path) in debs() {
        let digest = bench.store.put(&std::fs::read(&path).unwrap()).unwrap();
        let unpacked =
            unpack(&bench.store, &digest).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        bench.packages.push(unpacked);
        files.push(path);
    }
    files
}

#[test]
fn entries_are_what_dpkg_deb_unpacks() {
    let mut bench = Bench::new();
    let files = unpack_all(&mut bench);
    if files.is_empty() {
        return;
    }
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return skipped("no dpkg-deb on this host to compare with");
    }
    for (package, file) in bench.packages.iter().zip(files) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        assert!(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(&file)
                .arg(&root)
                .status()
                .unwrap()
                .success()
        );
        compare(&bench, package, &root);
    }
}

fn compare(bench: &Bench, package: &UnpackedDeb, root: &Path) {
    let entries = package.entries(&bench.store).unwrap();
    let mut expected = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for child in std::fs::read_dir(folder).unwrap() {
            let child = child.unwrap();
            expected += 1;
            if child.file_type().unwrap().is_dir() {
                folders.push(child.path());
            }
        }
    }
    assert_eq!(entries.len(), expected, "{}", package.name);
    for entry in &entries {
        let at = root.join(&entry.path[1..]);
        let found = std::fs::symlink_metadata(&at).unwrap();
        let who = format!("{} {}", package.name, entry.path);
        match &entry.kind {
            Kind::Directory => assert!(found.is_dir(), "{who}"),
            Kind::Symlink(target) => {
                assert_eq!(&std::fs::read_link(&at).unwrap().to_string_lossy(), target);
            }
            Kind::Hardlink(target) => assert_eq!(
                found.ino(),
                std::fs::metadata(root.join(&target[1..])).unwrap().ino(),
                "{who}"
            ),
            Kind::File(content) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut open(content, &bench.store).unwrap(), &mut bytes)
                    .unwrap();
                assert!(bytes == std::fs::read(&at).unwrap(), "{who}");
            }
            Kind::Fifo => assert!(found.file_type().is_fifo(), "{who}"),
            other => panic!("{who}: {other:?}"),
        }
        if !found.is_symlink() {
            assert_eq!(found.mode() & 0o7777, entry.meta.mode, "{who}");
        }
        // dpkg-deb sets the times of files; those of folders it may leave.
        if found.is_file() {
            assert_eq!(found.mtime(), entry.meta.mtime, "{who}");
        }
    }
}

#[test]
fn real_packages_become_a_base_and_its_generated_layer() {
    let mut bench = Bench::new();
    if unpack_all(&mut bench).is_empty() {
        return;
    }
    let entries = bench.with(collect).unwrap();
    let base = build(entries, &[], &Below::default()).unwrap();
    assert_eq!(base.tree.fault(), None);
    let text = listing::write(&base.tree);
    assert_eq!(listing::write(&listing::read(&text).unwrap()), text);
    let accounts = Accounts::new(std::slice::from_ref(&bench.spec), &bench.packages).unwrap();
    let below = Below::new(&[("base", &base.tree)]);
    let store = &bench.store;
    let read: ReadContent<'_> =
        &|content: &Content, offset, length| read_range(content, store, offset, length);
    let input = GenerateInput {
        below: &below,
        accounts: &accounts,
        read,
        name: "real",
        version: "1",
        scratch: &[],
        state: None,
        tls: false,
    };
    let top = generate(&input).unwrap();
    assert_eq!(top.tree.fault(), None);
    let Kind::File(cache) = &top.tree.nodes["etc/ld.so.cache"].kind else {
        panic!()
    };
    let bytes = read_range(cache, store, 0, usize::MAX).unwrap();
    let libc = b"/lib/x86_64-linux-gnu/libc.so.6\0";
    assert!(bytes.windows(libc.len()).any(|window| window == libc));
    // Kept for a look by hand.
    if let Some(out) = std::env::var_os("SLIPFORM_TEST_OUT") {
        let out = PathBuf::from(out);
        std::fs::write(out.join("base.listing"), text).unwrap();
        std::fs::write(out.join("top.listing"), listing::write(&top.tree)).unwrap();
        std::fs::write(
            out.join("notes"),
            [base.notes, top.notes].concat().join("\n"),
        )
        .unwrap();
        std::fs::write(out.join("passwd"), accounts.passwd()).unwrap();
        std::fs::write(out.join("ld.so.cache"), bytes).unwrap();
    }
}
