//! Layers on layers.

use proptest::prelude::*;

use super::*;
use crate::base::EPOCH;
use crate::tree::testing::{dump, entries, entry, tree};

fn on(below: &[(&str, &Tree)], lines: &[&str], remove: &[&str]) -> Result<Built, TreeError> {
    let remove: Vec<String> = remove.iter().map(|r| (*r).to_owned()).collect();
    let built = build(entries(lines), &remove, &Below::new(below))?;
    assert_eq!(built.tree.fault(), None, "{lines:?}");
    Ok(built)
}

/// What a layer over `base` holds.
fn over(base: &Tree, lines: &[&str], remove: &[&str]) -> Vec<String> {
    dump(&on(&[("base", base)], lines, remove).unwrap().tree)
}

fn refusal(base: &Tree, lines: &[&str], remove: &[&str]) -> String {
    on(&[("base", base)], lines, remove)
        .unwrap_err()
        .to_string()
}

fn merged() -> Tree {
    tree(&[
        "l /bin -> usr/bin",
        "l /lib -> /usr/lib",
        "d /usr",
        "d /usr/bin",
        "d 0711 /usr/lib",
        "f /usr/bin/sh",
    ])
}

#[test]
fn the_bottom_layer_gets_the_links_of_a_merged_usr() {
    let built = on(
        &[],
        &["d /lib", "f /lib/x", "f /usr/lib/y", "f /bin/sh"],
        &[],
    )
    .unwrap();
    assert_eq!(
        dump(&built.tree),
        [
            "l /bin -> usr/bin",
            "l /lib -> usr/lib",
            "l /lib64 -> usr/lib64",
            "l /sbin -> usr/sbin",
            "d 0755 /usr",
            "d 0755 /usr/bin",
            "f 0644 /usr/bin/sh=",
            "d 0755 /usr/lib",
            "f 0644 /usr/lib/x=",
            "f 0644 /usr/lib/y="
        ]
    );
    let own = on(&[], &["l /lib64 -> usr/lib", "f /lib64/ld.so"], &[]).unwrap();
    assert!(dump(&own.tree).contains(&"f 0644 /usr/lib/ld.so=".to_owned()));
}

#[test]
fn paths_follow_folder_links_of_the_layers_below() {
    assert_eq!(
        over(
            &merged(),
            &["d /lib", "f /lib/x", "f /bin/foo", "l /lib/libx -> x"],
            &[]
        ),
        [
            "d 0755 /usr",
            "d 0755 /usr/bin",
            "f 0644 /usr/bin/foo=",
            "d 0755 /usr/lib",
            "l /usr/lib/libx -> x",
            "f 0644 /usr/lib/x="
        ]
    );
}

#[test]
fn paths_follow_folder_links_of_the_same_layer() {
    assert_eq!(
        over(
            &merged(),
            &[
                "f /opt/cur/lib/x",
                "l /opt/cur -> v2",
                "l /opt/v2/lib -> /lib/opt",
                "d /opt/v2"
            ],
            &[]
        ),
        [
            "d 0755 /opt",
            "l /opt/cur -> v2",
            "d 0755 /opt/v2",
            "l /opt/v2/lib -> /lib/opt",
            "d 0755 /usr",
            "d 0711 /usr/lib",
            "d 0755 /usr/lib/opt",
            "f 0644 /usr/lib/opt/x="
        ]
    );
    // A link that lies behind another link.
    assert_eq!(
        over(&tree(&[]), &["l /a -> b", "l /a/c -> d", "f /a/c/x"], &[]),
        [
            "l /a -> b",
            "d 0755 /b",
            "l /b/c -> d",
            "d 0755 /b/d",
            "f 0644 /b/d/x="
        ]
    );
}

#[test]
fn links_in_circles_are_refused() {
    for lines in [
        &["l /a -> b", "l /b -> a", "f /a/x"][..],
        &["l /a -> a/b", "f /a/x"],
        &["l /a -> .//a", "d /a"],
        &["l /a/x -> y", "l /a -> a/x/z", "f /a/q"],
    ] {
        let message = refusal(&tree(&[]), lines, &[]);
        assert!(message.contains("circles"), "{message}");
    }
    // Nothing goes through this one.
    assert_eq!(over(&tree(&[]), &["l /a -> a"], &[]), ["l /a -> a"]);
}

#[test]
fn links_do_not_lead_above_the_root() {
    assert_eq!(
        over(&tree(&[]), &["l /a -> ../../../etc", "f /a/x"], &[]),
        ["l /a -> ../../../etc", "d 0755 /etc", "f 0644 /etc/x="]
    );
}

#[test]
fn parents_copy_what_is_below() {
    let mut base = tree(&["d 1777 /tmp", "d 0700 /srv"]);
    let srv = base.nodes.get_mut("srv").unwrap();
    srv.meta.uid = 7;
    srv.meta.mtime = 5;
    srv.meta.xattrs.insert("user.x".into(), b"1".to_vec());
    srv.meta.xattrs.insert(OPAQUE.into(), b"y".to_vec());
    let built = on(
        &[("base", &base)],
        &["f /tmp/x", "f /srv/a/b", "d 0755 /root"],
        &[],
    )
    .unwrap();
    assert_eq!(
        dump(&built.tree),
        [
            "d 0755 /root",
            "d 0700 /srv",
            "d 0755 /srv/a",
            "f 0644 /srv/a/b=",
            "d 1777 /tmp",
            "f 0644 /tmp/x="
        ]
    );
    let srv = &built.tree.nodes["srv"].meta;
    assert_eq!((srv.uid, srv.mtime, srv.xattrs.len()), (7, EPOCH, 1));
    assert_eq!(built.tree.nodes["srv/a"].meta, default_folder());
}

#[test]
fn a_packages_folder_leaves_the_one_below_as_it_is_and_a_users_does_not() {
    let base = tree(&["d 0700 /srv"]);
    let mut folder = entry("d 0755 /srv");
    assert_eq!(over(&base, &["d 0755 /srv"], &[]), ["d 0755 /srv"]);
    folder.origin = "package x".into();
    let on_base = |remove: &[String]| {
        let built = build(
            vec![folder.clone()],
            remove,
            &Below::new(&[("base", &base)]),
        )
        .unwrap();
        dump(&built.tree)
    };
    assert_eq!(on_base(&[]), ["d 0700 /srv"]);
    assert_eq!(on_base(&["/srv".into()]), ["d 0755 /srv opaque"]);
}

#[test]
fn a_remove_becomes_whiteouts_of_what_is_there_and_no_more() {
    let base = tree(&[
        "d /etc",
        "f /etc/a.conf",
        "f /etc/b.conf",
        "f /etc/keep",
        "d /opt",
        "f /opt/x",
        "d /opt/y",
        "f /opt/y/z",
    ]);
    assert_eq!(over(&base, &[], &["/opt"]), ["w /opt"]);
    assert_eq!(
        over(&base, &[], &["/etc/*.conf"]),
        ["d 0755 /etc", "w /etc/a.conf", "w /etc/b.conf"]
    );
    assert_eq!(
        over(&base, &[], &["/opt/**"]),
        ["d 0755 /opt", "w /opt/x", "w /opt/y"]
    );
    assert_eq!(
        over(&base, &[], &["/opt/y/z", "/opt/y"]),
        ["d 0755 /opt", "w /opt/y"]
    );
    let built = on(&[("base", &base)], &[], &["/opt"]).unwrap();
    assert_eq!(built.tree.nodes["opt"].meta.mode, 0);
}

#[test]
fn a_remove_follows_links_below() {
    assert_eq!(
        over(&merged(), &[], &["/bin/sh"]),
        ["d 0755 /usr", "d 0755 /usr/bin", "w /usr/bin/sh"]
    );
    assert_eq!(over(&merged(), &[], &["/bin"]), ["w /bin"]);
}

#[test]
fn a_remove_that_hits_nothing_is_an_error_that_names_it() {
    let base = tree(&["d /etc"]);
    for remove in ["/opt", "/etc/*.conf", "/et"] {
        assert!(
            refusal(&base, &["f /opt"], &[remove])
                .contains(&format!("remove '{remove}' hits nothing"))
        );
    }
    let gone = tree(&["w /etc"]);
    let error = on(&[("base", &base), ("top", &gone)], &[], &["/etc"]).unwrap_err();
    assert!(matches!(error, TreeError::RemovesNothing(_)));
    for bad in ["etc", "/", "/.", "/etc/..", "/[", "/../etc"] {
        let error = on(&[("base", &base)], &[], &[bad]).unwrap_err();
        assert!(
            matches!(error, TreeError::BadRemove { .. }),
            "{bad}: {error}"
        );
    }
}

#[test]
fn a_removed_folder_that_is_made_anew_is_opaque() {
    let base = tree(&["d 0700 /opt", "f /opt/x", "d /opt/y", "f /opt/y/z"]);
    assert_eq!(
        over(&base, &["f /opt/new"], &["/opt"]),
        ["d 0755 /opt opaque", "f 0644 /opt/new="]
    );
    assert_eq!(
        over(&base, &["d 0711 /opt/y"], &["/opt/*"]),
        ["d 0700 /opt", "w /opt/x", "d 0711 /opt/y opaque"]
    );
    // A file in the place of a removed folder, a folder in the place of a removed file, a link gone.
    assert_eq!(over(&base, &["f /opt"], &["/opt"]), ["f 0644 /opt="]);
    assert_eq!(
        over(&base, &["f /opt/x/in"], &["/opt/x"]),
        ["d 0700 /opt", "d 0755 /opt/x", "f 0644 /opt/x/in="]
    );
    assert_eq!(
        over(&merged(), &["f /lib/x"], &["/lib"]),
        ["d 0755 /lib", "f 0644 /lib/x="]
    );
}

#[test]
fn files_and_folders_of_two_layers_at_one_path_are_an_error_that_names_both() {
    let base = tree(&["d /d", "f /d/in", "f /f", "p /p"]);
    for (line, path) in [
        ("f /d", "/d"),
        ("l /d -> x", "/d"),
        ("d /f", "/f"),
        ("f /f/x", "/f"),
        ("d /p", "/p"),
    ] {
        let message = refusal(&base, &[line], &[]);
        assert!(
            message.contains("layer 'base'")
                && message.contains("test")
                && message.starts_with(&format!("{path} is")),
            "{message}"
        );
    }
    assert_eq!(
        over(&base, &["f /f=new", "l /p -> f"], &[]),
        ["f 0644 /f=new", "l /p -> f"]
    );
}

#[test]
fn things_of_one_layer_that_meet_behind_links_are_an_error_too() {
    for lines in [
        &["f /bin/x=1", "f /usr/bin/x=2"][..],
        &["f /bin/x", "d /usr/bin/x"],
        &["f /a", "f /a/b"],
        &["f /usr/bin/x", "f /usr/bin/y", "h /bin/x => /usr/bin/y"],
        &["l /q -> 1", "f /q"],
    ] {
        let message = refusal(&merged(), lines, &[]);
        assert!(message.contains("test"), "{lines:?}: {message}");
    }
    assert_eq!(
        over(&merged(), &["d 0700 /usr/bin", "d 0711 /bin"], &[]),
        ["d 0755 /usr", "d 0700 /usr/bin"]
    );
}

#[test]
fn hard_links_have_one_shape() {
    let expected = ["f 0644 /a=x", "h /b => a", "h /c => a"];
    assert_eq!(
        over(&tree(&[]), &["f /a=x", "h /b => /a", "h /c => /a"], &[]),
        expected
    );
    assert_eq!(
        over(&tree(&[]), &["f /c=x", "h /b => /c", "h /a => /b"], &[]),
        expected
    );
    assert_eq!(
        over(&tree(&[]), &["h /a => /b", "h /b => /c", "f /c=x"], &[]),
        expected
    );
    assert_eq!(
        over(&merged(), &["f /usr/bin/z=1", "h /bin/y => /bin/z"], &[])[2..],
        ["f 0644 /usr/bin/y=1", "h /usr/bin/z => usr/bin/y"]
    );
    for lines in [
        &["h /a => /b"][..],
        &["h /a => /a"],
        &["d /b", "h /a => /b"],
        &["h /a => /usr/bin/sh"],
        &["h /a => /b", "h /b => /a"],
    ] {
        assert!(on(&[("base", &merged())], lines, &[]).is_err(), "{lines:?}");
    }
}

#[test]
fn attributes_are_sorted_out() {
    let mut file = entry("f 4755 /x");
    for name in [
        "security.capability",
        "system.posix_acl_access",
        "user.k",
        "trusted.overlay.opaque",
        "trusted.x",
        "security.selinux",
        "security.ima",
        "user.",
    ] {
        file.meta.xattrs.insert(name.into(), b"v".to_vec());
    }
    let built = build(vec![file], &[], &Below::default()).unwrap();
    let node = &built.tree.nodes["x"];
    let names: Vec<_> = node.meta.xattrs.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["security.capability", "system.posix_acl_access", "user.k"]
    );
    assert_eq!(node.meta.mode, 0o4755);
    assert_eq!(built.notes.len(), 3, "{:?}", built.notes);
    assert!(
        built
            .notes
            .iter()
            .any(|n| n.contains("security.selinux") && n.contains("/x"))
    );
}

#[test]
fn lost_and_found_is_left_to_ext4() {
    let built = on(
        &[],
        &["d /lost+found", "f /lost+found/x", "f /etc/lost+found"],
        &[],
    )
    .unwrap();
    assert!(!built.tree.nodes.contains_key("lost+found"));
    assert!(built.tree.nodes.contains_key("etc/lost+found"));
    assert_eq!(built.notes.len(), 2);
}

#[test]
fn paths_that_no_tree_can_hold_are_refused() {
    let long = format!("f /{}", "n".repeat(256));
    let deep = format!("f {}", "/d".repeat(2100));
    for line in [
        "f x",
        "f /",
        "f /a//b",
        "f /a/./b",
        "f /a/../b",
        "f /a/",
        "f /a\0",
        "w /a",
        "f ",
        &long,
        &deep,
    ] {
        let error = on(&[], &[line], &[]).unwrap_err();
        assert!(
            matches!(error, TreeError::BadPath { .. }),
            "{line}: {error}"
        );
    }
    // A link that blows a path up.
    let target = "t".repeat(300);
    assert!(on(&[], &[&format!("l /a -> {target}"), "f /a/x"], &[]).is_err());
}

#[test]
fn what_was_asked_below_is_all_that_the_tree_depends_on() {
    let base = merged();
    let below = Below::new(&[("base", &base)]);
    let build_on =
        |below: &Below<'_>| build(entries(&["f /lib/x", "f /opt/y"]), &[], below).unwrap();
    let built = build_on(&below);
    let facts = below.facts();
    let mut other = base.clone();
    other
        .nodes
        .insert("unrelated".into(), base.nodes["usr/bin/sh"].clone());
    let other_below = Below::new(&[("base", &other)]);
    assert!(other_below.still_true(&facts));
    assert_eq!(build_on(&other_below), built);
    other.nodes.get_mut("usr/lib").unwrap().meta.mode = 0o700;
    assert!(!Below::new(&[("base", &other)]).still_true(&facts));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let path =
        proptest::collection::vec("[abcl]", 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let target = prop_oneof![
        "[abcl]",
        "/[abcl]",
        "\\.\\./[abcl]",
        "/[abcl]/[abcl]",
        Just("..".to_owned()),
        Just("/".to_owned())
    ];
    (path, 0..7_u8, target).prop_map(|(path, kind, target)| match kind {
        0 | 1 => entry(&format!("d {path}")),
        2 | 3 => entry(&format!("f {path}={target}")),
        4 | 5 => entry(&format!("l {path} -> {target}")),
        _ => entry(&format!(
            "h {path} => /{}",
            target.trim_start_matches(['.', '/'])
        )),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    /// Whatever comes: an error, or a tree that keeps its promises, does not
    /// depend on the order of folders and files, and lies well on what is below.
    #[test]
    fn any_entries_make_a_sound_tree_or_an_error(
        lower in proptest::collection::vec(any_entry(), 0..8),
        upper in proptest::collection::vec(any_entry(), 0..8),
        remove in proptest::collection::vec("/[abcl](/[abcl*])?", 0..3),
    ) {
        let Ok(base) = build(lower, &[], &Below::default()) else { return Ok(()) };
        prop_assert_eq!(base.tree.fault(), None);
        let below = Below::new(&[("base", &base.tree)]);
        let result = build(upper.clone(), &remove, &below);
        let facts = below.facts();
        prop_assert!(below.still_true(&facts));
        let Ok(built) = result else { return Ok(()) };
        prop_assert_eq!(built.tree.fault(), None);
        let mut reversed = upper.clone();
        reversed.reverse();
        if let Ok(again) = build(reversed, &remove, &below) {
            prop_assert_eq!(dump(&again.tree), dump(&built.tree));
        }
        let text = crate::tree::listing::write(&built.tree);
        prop_assert_eq!(crate::tree::listing::write(&crate::tree::listing::read(&text).unwrap()), text);
        for (path, node) in &built.tree.nodes {
            // A whiteout only for what is there; never a file in a folder's place unless it was removed.
            if crate::tree::below::is_whiteout(node) {
                prop_assert!(below.kind(path).is_some());
            }
            // No path leads through a link of the layer below, unless that is gone.
            for above in ancestors(path) {
                let link = matches!(below.kind(above), Some(Seen::Symlink(_)));
                prop_assert!(!link || remove.iter().any(|_| true));
            }
        }
    }
}
