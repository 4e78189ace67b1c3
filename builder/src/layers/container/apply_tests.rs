//! Layers on each other, against a second, plain way of doing it: a tree of folders.

use std::collections::BTreeMap;

use super::*;
use crate::layers::testing::{Item, gz, line, tar};
use crate::layers::{UnpackedContainer, rootfs};
use crate::store::Store;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn apply(store: &Store, layers: &[Vec<u8>]) -> Result<Vec<Entry>, LayersError> {
    let mut unpacked = Vec::new();
    for layer in layers {
        let blob = store.put(layer)?;
        unpacked.push(rootfs::unpack_layer(store, &blob, "app")?);
    }
    UnpackedContainer { layers: unpacked }.entries(store, "app")
}

fn lines(layers: &[&[Item]]) -> Result<Vec<String>, String> {
    let (_dir, store) = store();
    let layers: Vec<Vec<u8>> = layers.iter().map(|items| tar(items)).collect();
    let entries = apply(&store, &layers).map_err(|error| error.to_string())?;
    Ok(entries.iter().map(line).collect())
}

#[track_caller]
fn gives(layers: &[&[Item]], expected: &[&str]) {
    let found = lines(layers).unwrap();
    let short: Vec<&str> = found
        .iter()
        .map(|line| {
            line.split_once(":0 ")
                .map_or(line.as_str(), |(_, rest)| rest)
        })
        .collect();
    assert_eq!(short, expected);
}

#[track_caller]
fn refuses(layers: &[&[Item]], word: &str) {
    let error = lines(layers).unwrap_err();
    assert!(
        error.starts_with("container app: refused '") && error.contains(word),
        "{error}"
    );
}

fn file(path: &str) -> Item {
    Item::file(path, path)
}

#[test]
fn whiteouts_take_away_what_is_below_and_nothing_of_their_own_layer() {
    let below = [
        Item::dir("a"),
        file("a/x"),
        file("a/y"),
        Item::dir("a/d"),
        file("a/d/z"),
    ];
    gives(
        &[&below, &[file("a/.wh.x")]],
        &["/a", "/a/d", "/a/d/z", "/a/y"],
    );
    gives(&[&below, &[file("a/.wh.d")]], &["/a", "/a/x", "/a/y"]);
    gives(&[&below, &[file(".wh.a")]], &[]);
    // Wherever it stands in the layer.
    for own in [
        [file("a/.wh.x"), file("a/x")],
        [file("a/x"), file("a/.wh.x")],
    ] {
        gives(&[&below, &own], &["/a", "/a/d", "/a/d/z", "/a/x", "/a/y"]);
    }
    for own in [
        [file("a/.wh..wh..opq"), file("a/new")],
        [file("a/new"), file("a/.wh..wh..opq")],
    ] {
        gives(&[&below, &own], &["/a", "/a/new"]);
    }
    // One that hits nothing is common: a file that two steps of a build deleted.
    gives(&[&[file("x")], &[file(".wh.y"), file("no/.wh.z")]], &["/x"]);
    // Nor is one below what was no folder until now.
    gives(
        &[
            &[file("x")],
            &[Item::dir("x"), Item::dir("x/y"), file("x/y/.wh..wh..opq")],
        ],
        &["/x", "/x/y"],
    );
    // What AUFS kept for itself is no file.
    gives(&[&[file("x"), file(".wh..wh.aufs")]], &["/x"]);
}

#[test]
fn what_is_of_another_kind_is_replaced_whole() {
    let below = [
        Item::dir("a"),
        file("a/x"),
        file("b"),
        Item::symlink("l", "a"),
    ];
    gives(&[&below, &[file("a")]], &["/a", "/b", "/l -> a"]);
    gives(
        &[&below, &[Item::dir("b"), file("b/y")]],
        &["/a", "/a/x", "/b", "/b/y", "/l -> a"],
    );
    gives(
        &[&below, &[Item::dir("l"), file("l/y")]],
        &["/a", "/a/x", "/b", "/l", "/l/y"],
    );
    // A folder that is listed again keeps what is in it.
    let again = lines(&[&below, &[Item::dir("a").mode(0o700)]]).unwrap();
    assert_eq!(again[..2], ["d 0700 0:0 /a", "f 0644 0:0 /a/x"]);
    // A device is left out, and hides what was there.
    gives(
        &[&below, &[Item::new(b'3', "b")]],
        &["/a", "/a/x", "/l -> a"],
    );
}

#[test]
fn links_of_layers_below_are_followed_within_the_root() {
    let below = [
        Item::dir("usr"),
        Item::dir("usr/lib"),
        Item::symlink("lib", "usr/lib"),
        Item::symlink("abs", "/usr"),
        Item::symlink("up", "../../../usr"),
        Item::symlink("usr/back", "../lib"),
    ];
    let with = |path: &str| lines(&[&below, &[file(path)]]).unwrap();
    for (path, there) in [
        ("lib/a", "/usr/lib/a"),
        ("abs/lib/b", "/usr/lib/b"),
        ("up/lib/c", "/usr/lib/c"),
        ("usr/back/d", "/usr/lib/d"),
    ] {
        let found = with(path);
        assert!(
            found
                .iter()
                .any(|line| line.ends_with(&format!(" {there}"))),
            "{found:?}"
        );
        assert!(
            !found
                .iter()
                .any(|line| line.ends_with(&format!(" /{path}"))),
            "{found:?}"
        );
    }
    gives(
        &[&below, &[file("lib/a")], &[file("abs/lib/.wh.a")]],
        &[
            "/abs -> /usr",
            "/lib -> usr/lib",
            "/up -> ../../../usr",
            "/usr",
            "/usr/back -> ../lib",
            "/usr/lib",
        ],
    );
    refuses(
        &[
            &[Item::symlink("a", "b"), Item::symlink("b", "a")],
            &[file("a/x")],
        ],
        "circle",
    );
    refuses(&[&[file("a")], &[file("a/x")]], "no folder");
    // Of the same layer they are what a hostile archive does.
    refuses(
        &[&[Item::symlink("a", "/etc"), file("a/x")]],
        "makes a link",
    );
}

#[test]
fn hard_links_lead_to_layers_below_and_keep_their_bytes() {
    let below = [file("a"), Item::hardlink("b", "a")];
    gives(
        &[&below, &[Item::hardlink("c", "a")]],
        &["/a", "/b => /a", "/c => /a"],
    );
    // The first name is replaced or goes: the others have the bytes.
    gives(&[&below, &[file("a")]], &["/a", "/b"]);
    gives(&[&below, &[file(".wh.a")]], &["/b"]);
    gives(
        &[&below, &[file(".wh.a"), Item::hardlink("c", "a")]],
        &["/b", "/c => /b"],
    );
    // A link means what was there when it came by.
    let (_dir, store) = store();
    let upper = [Item::hardlink("c", "a"), Item::file("a", "new")];
    let entries = apply(&store, &[tar(&[file("a")]), tar(&upper)]).unwrap();
    let sizes = entries.iter().map(|entry| match &entry.kind {
        Kind::File(content) => content.size,
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [3, 1]);
    refuses(
        &[&[Item::hardlink("c", "nowhere")]],
        "in no layer before it",
    );
    refuses(&[&[Item::dir("d")], &[Item::hardlink("c", "d")]], "no file");
    refuses(
        &[&below, &[file(".wh.x"), Item::hardlink("c", ".wh.x")]],
        "in no layer before it",
    );
}

#[test]
fn hostile_layers_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refuses(&[&[Item::dir("a")], &[file(name)]], "whiteout of no name");
    }
    refuses(
        &[&[Item::dir(".wh.d"), file(".wh.d/x")]],
        "below a whiteout",
    );
    refuses(&[&[file("../x")]], "..");
    refuses(&[&[file("/x")]], "relative");
    refuses(&[&[file("x"), file("x")]], "twice");
}

/// What the plain way makes: folders in folders.
#[derive(Clone, Debug)]
enum Plain {
    Folder(BTreeMap<String, Plain>),
    /// A file by its length, which no two share.
    File(usize),
}

impl Plain {
    fn folder(&mut self, path: &[&str]) -> Option<&mut BTreeMap<String, Self>> {
        let Self::Folder(names) = self else {
            return None;
        };
        match path.split_first() {
            None => Some(names),
            Some((first, rest)) => names.get_mut(*first)?.folder(rest),
        }
    }

    fn list(&self, at: &str, into: &mut BTreeMap<String, Option<usize>>) {
        match self {
            Self::File(length) => drop(into.insert(at.to_owned(), Some(*length))),
            Self::Folder(names) => {
                if !at.is_empty() {
                    into.insert(at.to_owned(), None);
                }
                for (name, node) in names {
                    node.list(&format!("{at}/{name}"), into);
                }
            }
        }
    }
}

/// A layer of the small world `a`, `b`, `c`, at most three deep, every folder listed;
/// `length` is that of the last file.
fn random_layer(
    random: &mut impl FnMut(usize) -> usize,
    plain: &mut Plain,
    length: &mut usize,
) -> Vec<Item> {
    let mut folders = vec![Vec::<&str>::new()];
    let mut items = Vec::new();
    let mut taken = BTreeSet::new();
    let mut below = BTreeMap::new();
    plain.list("", &mut below);
    let old: Vec<(String, usize)> = below
        .iter()
        .filter_map(|(path, file)| Some((path.clone(), (*file)?)))
        .collect();
    // First what goes, as a second reader of the specification would do it.
    let mut marks = Vec::new();
    let mut made = Vec::new();
    for _ in 0..random(12) {
        let folder = folders[random(folders.len())].clone();
        let name = ["a", "b", "c"][random(3)];
        let path = [folder.as_slice(), &[name]].concat();
        let text = path.join("/");
        match random(6) {
            0 => marks.push((folder, Some(name))),
            1 if !folder.is_empty() => marks.push((folder, None)),
            _ if !taken.insert(text.clone()) => {}
            2 | 3 if path.len() < 3 => {
                folders.push(path.clone());
                items.push(Item::dir(&text));
                made.push((path, Plain::Folder(BTreeMap::new())));
            }
            4 if !old.is_empty() => {
                let (target, file) = &old[random(old.len())];
                // A file that the layer has itself would be meant.
                if taken.contains(target.trim_start_matches('/')) {
                    continue;
                }
                taken.insert(target.trim_start_matches('/').to_owned());
                items.push(Item::hardlink(&text, target.trim_start_matches('/')));
                made.push((path, Plain::File(*file)));
            }
            _ => {
                *length += 1;
                items.push(Item::file(&text, "x".repeat(*length)));
                made.push((path, Plain::File(*length)));
            }
        }
    }
    marks.sort();
    marks.dedup();
    for (folder, name) in &marks {
        let at = folder.join("/");
        let mark = format!(".wh.{}", name.unwrap_or(".wh..opq"));
        items.push(Item::file(
            format!("{at}/{mark}").trim_start_matches('/'),
            "",
        ));
        if let Some(names) = plain.folder(folder) {
            match name {
                Some(name) => drop(names.remove(*name)),
                None => names.clear(),
            }
        }
    }
    for (path, node) in made {
        let (name, folder) = path.split_last().unwrap();
        let names = plain.folder(folder).expect("its folders came before it");
        let both = matches!(
            (names.get(*name), &node),
            (Some(Plain::Folder(_)), Plain::Folder(_))
        );
        if !both {
            names.insert((*name).to_owned(), node);
        }
    }
    items
}

#[test]
fn random_layers_come_to_what_a_plain_applier_makes() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit.max(1) as u64).unwrap()
    };
    let (_dir, store) = store();
    let (mut most, mut links) = (0, 0);
    for case in 0..600 {
        let mut plain = Plain::Folder(BTreeMap::new());
        let mut length = 0;
        let layers: Vec<Vec<u8>> = (0..=random(4))
            .map(|_| tar(&random_layer(&mut random, &mut plain, &mut length)))
            .collect();
        let entries = apply(&store, &layers).unwrap_or_else(|error| panic!("case {case}: {error}"));
        let mut found = BTreeMap::new();
        for entry in &entries {
            let file = match &entry.kind {
                Kind::File(content) => Some(usize::try_from(content.size).unwrap()),
                Kind::Hardlink(target) => {
                    links += 1;
                    found[target]
                }
                _ => None,
            };
            found.insert(entry.path.clone(), file);
        }
        let mut expected = BTreeMap::new();
        plain.list("", &mut expected);
        assert_eq!(found, expected, "case {case}");
        most = most.max(found.len());
    }
    // The cases were worth the while.
    assert!(
        most >= 8 && links > 20,
        "{most} entries at most, {links} links"
    );
}

#[test]
fn mutated_layers_never_panic_and_stay_in_the_root() {
    let (_dir, store) = store();
    let below = tar(&[
        Item::dir("a"),
        file("a/x"),
        Item::symlink("l", "a"),
        Item::symlink("up", "../.."),
    ]);
    let seed = tar(&[
        file("a/.wh.x"),
        file("l/y"),
        Item::hardlink("h", "a/x"),
        file("up/.wh..wh..opq"),
        Item::new(b'3', "l/dev"),
    ]);
    slipform_fuzz::fuzz(&[seed], |bytes, _| {
        let layers = [below.clone(), gz(&below), bytes.to_vec()];
        for entry in apply(&store, &layers).unwrap_or_default() {
            let parts = || entry.path.split('/').skip(1);
            assert!(entry.path.starts_with('/') && parts().all(|p| !matches!(p, "" | "." | "..")));
            assert!(
                parts().all(|part| !part.starts_with(WHITEOUT)),
                "{}",
                entry.path
            );
        }
    });
}
