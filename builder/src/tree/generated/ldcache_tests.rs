//! The cache against real ldconfig, and its corners.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::elf::tests::library;
use super::*;
use crate::tree::generated::tests::{Image, content_of};
use crate::tree::testing::entry;

/// Decodes a cache: name, path and flags in order.
fn decode(bytes: &[u8]) -> Vec<(String, String, u32)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let text = |at: u32| {
        let rest = &bytes[at as usize..];
        String::from_utf8(rest[..rest.iter().position(|b| *b == 0).unwrap()].to_vec()).unwrap()
    };
    assert_eq!(&bytes[..20], b"glibc-ld.so.cache1.1");
    (0..word(20) as usize)
        .map(|index| HEADER + index * RECORD)
        .map(|at| (text(word(at + 4)), text(word(at + 8)), word(at)))
        .collect()
}

fn cache_of(image: &Image) -> (Vec<(String, String, u32)>, Vec<String>) {
    let entries = image.with(|input| entries(input).unwrap());
    let links = entries
        .iter()
        .filter_map(|e| match &e.kind {
            Kind::Symlink(target) => Some(format!("{} -> {target}", e.path)),
            _ => None,
        })
        .collect();
    let cache = entries
        .iter()
        .find(|e| e.path == CACHE)
        .map(|e| decode(&content_of(e)));
    (cache.unwrap_or_default(), links)
}

fn file_at(path: &str, bytes: Vec<u8>) -> Entry {
    let mut made = entry(&format!("f {path}"));
    made.kind = file("/x", 0, 0, bytes).kind;
    made
}

fn lib(path: &str, soname: &str) -> Entry {
    file_at(path, library(Some(soname), true))
}

fn image() -> Image {
    let mut image = Image::new(&["d /lib", "l /usr/lib/x86_64-linux-gnu/libz.so -> libz.so.1"]);
    let folder = "/usr/lib/x86_64-linux-gnu";
    image.add(entry("f /etc/ld.so.conf.d/a.conf=# comment\n/usr/local/lib\n  /lib/x86_64-linux-gnu/ # c\n/nowhere\n"));
    for (name, soname) in [
        ("libz.so.1.3.1", "libz.so.1"),
        ("libfoo.so.1.9", "libfoo.so.1"),
        ("libfoo.so.1.10", "libfoo.so.1"),
        ("libz10.so.2", "libz10.so.2"),
        ("libz9.so.2", "libz9.so.2"),
        ("libm.so.6", "libm.so.6"),
        ("ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2"),
        ("plugin.so", "plugin.so"),
    ] {
        image.add(lib(&format!("{folder}/{name}"), soname));
    }
    image.add(entry(&format!("l {folder}/libz.so.1 -> libz.so.1.3.1")));
    image.add(entry(&format!("l {folder}/libdangling.so.1 -> nowhere")));
    image.add(entry(&format!("f {folder}/libscript.so=INPUT(libz.so.1)")));
    image.add(lib("/usr/local/lib/libm.so.6", "libm.so.6"));
    image.add(lib("/usr/lib/libold.so.1", "libold.so.1"));
    image.add(file_at(
        "/usr/lib/libold32.so.1",
        library(Some("libold32.so.1"), false),
    ));
    image.add(file_at("/usr/lib/libnone.so", library(None, true)));
    image.add(lib("/usr/lib/libnever/libhidden.so.1", "libhidden.so.1"));
    image
}

#[test]
fn golden() {
    let (cache, links) = cache_of(&image());
    let lines: Vec<String> = cache
        .iter()
        .map(|(name, path, flags)| format!("{name} {flags:x} {path}"))
        .collect();
    assert_eq!(
        lines,
        [
            "libz10.so.2 303 /lib/x86_64-linux-gnu/libz10.so.2",
            "libz9.so.2 303 /lib/x86_64-linux-gnu/libz9.so.2",
            "libz.so.1 303 /lib/x86_64-linux-gnu/libz.so.1",
            "libz.so 303 /lib/x86_64-linux-gnu/libz.so",
            "libold32.so.1 3 /lib/libold32.so.1",
            "libold.so.1 303 /lib/libold.so.1",
            "libnone.so 303 /lib/libnone.so",
            "libm.so.6 303 /usr/local/lib/libm.so.6",
            "libm.so.6 303 /lib/x86_64-linux-gnu/libm.so.6",
            "libfoo.so.1 303 /lib/x86_64-linux-gnu/libfoo.so.1",
            "ld-linux-x86-64.so.2 303 /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        ]
    );
    assert_eq!(
        links,
        ["/usr/lib/x86_64-linux-gnu/libfoo.so.1 -> libfoo.so.1.10"]
    );
}

#[test]
fn no_libraries_no_cache() {
    let (cache, links) = cache_of(&Image::new(&["d /usr/lib"]));
    assert!(cache.is_empty() && links.is_empty());
}

#[test]
fn configuration_that_includes_itself_is_an_error() {
    let image = Image::new(&[
        "f /etc/ld.so.conf=include ld.so.conf.d/*.conf\n",
        "f /etc/ld.so.conf.d/a.conf=include /etc/ld.so.conf",
    ]);
    let error = image.with(|input| entries(input).unwrap_err().to_string());
    assert!(error.contains("includes itself"), "{error}");
}

#[test]
fn names_compare_as_the_loader_does() {
    // Digits count as numbers, and come after all other characters.
    let high_to_low = [
        "libz10.so",
        "libz9.so",
        "libz.so.99999999999999999999999",
        "libz.so.10",
        "libz.so.9",
        "libz.so",
        "libaa.so",
        "liba.so",
        "",
    ];
    for (index, high) in high_to_low.iter().enumerate() {
        assert_eq!(compare(high, high), Ordering::Equal);
        for low in &high_to_low[index + 1..] {
            assert_eq!(compare(high, low), Ordering::Greater, "{high} {low}");
            assert_eq!(compare(low, high), Ordering::Less, "{high} {low}");
        }
    }
}

/// Where ldconfig is, if it is.
fn ldconfig() -> Option<PathBuf> {
    let found = ["/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file());
    if found.is_none() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("Skipped: no ldconfig on this host to compare with");
        }
    }
    found
}

/// Writes the view of an image to a folder.
fn stage(image: &Image, root: &Path) {
    for (path, node) in &image.tree().nodes {
        let at = root.join(path);
        match &node.kind {
            Kind::Directory => std::fs::create_dir_all(at).unwrap(),
            Kind::Symlink(target) => std::os::unix::fs::symlink(target, at).unwrap(),
            Kind::File(content) => std::fs::write(at, image.bytes(content)).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// What real ldconfig makes of the image: its cache, and links that are new.
fn judged(ldconfig: &Path, image: &Image) -> (Vec<(String, String, u32)>, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    stage(image, root.path());
    if !root.path().join("etc/ld.so.conf").exists() {
        std::fs::write(
            root.path().join("etc/ld.so.conf"),
            "include /etc/ld.so.conf.d/*.conf\n",
        )
        .unwrap();
    }
    let status = Command::new(ldconfig)
        .env_clear()
        .arg("-r")
        .arg(root.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    let cache = decode(&std::fs::read(root.path().join("etc/ld.so.cache")).unwrap());
    let mut links = Vec::new();
    let tree = image.tree();
    let mut folders = vec![root.path().join("usr")];
    while let Some(folder) = folders.pop() {
        for child in std::fs::read_dir(folder).unwrap() {
            let child = child.unwrap();
            let path = child.path();
            let inside = path
                .strip_prefix(root.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if child.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if !tree.nodes.contains_key(&inside) {
                links.push(format!(
                    "/{inside} -> {}",
                    std::fs::read_link(path).unwrap().display()
                ));
            }
        }
    }
    links.sort();
    (cache, links)
}

#[test]
fn the_cache_and_links_are_those_of_real_ldconfig() {
    let Some(ldconfig) = ldconfig() else { return };
    let image = image();
    assert_eq!(cache_of(&image), judged(&ldconfig, &image));
}

/// The host's own libraries: hundreds on a developer's machine, a few in a container.
#[test]
fn the_cache_of_the_hosts_libraries_is_that_of_real_ldconfig() {
    let Some(ldconfig) = ldconfig() else { return };
    let mut image = Image::new(&["d /lib"]);
    image.add(entry(
        "f /etc/ld.so.conf=include /etc/ld.so.conf.d/*.conf\n",
    ));
    image.add(entry("f /etc/ld.so.conf.d/a.conf=/lib/x86_64-linux-gnu\n"));
    let host = Path::new("/usr/lib/x86_64-linux-gnu");
    let mut taken = 0;
    for child in std::fs::read_dir(host).into_iter().flatten().flatten() {
        let name = child.file_name().into_string().unwrap();
        let path = format!("{}/{name}", host.display());
        let kind = child.file_type().unwrap();
        if kind.is_symlink() && !name.contains("dangling") {
            let target = std::fs::read_link(child.path()).unwrap();
            // Links out of the folder would dangle in the image.
            if target.components().count() == 1 && host.join(&target).is_file() {
                image.add(entry(&format!("l {path} -> {}", target.display())));
            }
        } else if kind.is_file()
            && is_library_name(&name)
            && child.metadata().unwrap().len() < 4 << 20
        {
            image.add(file_at(&path, std::fs::read(child.path()).unwrap()));
            taken += 1;
        }
    }
    if taken > 0 {
        let (ours, _) = cache_of(&image);
        let (theirs, _) = judged(&ldconfig, &image);
        assert_eq!(ours, theirs);
    }
}

/// A loader must be able to start programs by our cache: real ld.so reads it.
#[test]
fn real_ldconfig_reads_the_cache() {
    let Some(ldconfig) = ldconfig() else { return };
    let image = image();
    let bytes = image.with(|input| {
        let entries = entries(input).unwrap();
        content_of(entries.iter().find(|e| e.path == CACHE).unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    std::fs::write(&path, &bytes).unwrap();
    let shown = Command::new(ldconfig)
        .env_clear()
        .arg("-p")
        .arg("-C")
        .arg(&path)
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!(lines.len(), decode(&bytes).len(), "{shown}");
    assert_eq!(
        lines[0].trim(),
        "libz10.so.2 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz10.so.2"
    );
}
