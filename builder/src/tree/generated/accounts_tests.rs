//! Accounts of an image.

use super::base::NOLOGIN;
use super::*;
use crate::spec::GroupRule;

fn user(name: &str, uid: u32) -> UserRule {
    UserRule {
        name: name.into(),
        uid,
        group: None,
        home: "/nonexistent".into(),
        shell: NOLOGIN.into(),
        groups: Vec::new(),
    }
}

fn layer(users: &[UserRule], groups: &[(&str, u32)]) -> LayerSpec {
    LayerSpec {
        name: "app".into(),
        users: users.to_vec(),
        groups: groups
            .iter()
            .map(|(name, gid)| GroupRule {
                name: (*name).into(),
                gid: *gid,
            })
            .collect(),
        ..LayerSpec::default()
    }
}

fn package(name: &str, sysusers: &str) -> UnpackedDeb {
    UnpackedDeb {
        name: name.into(),
        version: "1".into(),
        architecture: "all".into(),
        tar: Digest::of(""),
        size: 0,
        control: BTreeMap::new(),
        conffiles: Vec::new(),
        sysusers: BTreeMap::from([(
            format!("/usr/lib/sysusers.d/{name}.conf"),
            sysusers.to_owned(),
        )]),
    }
}

fn refusal(layers: &[LayerSpec], packages: &[UnpackedDeb]) -> String {
    Accounts::new(layers, packages).unwrap_err().to_string()
}

#[test]
fn golden() {
    let web = UserRule {
        groups: vec!["adm".into(), "wheel".into()],
        ..user("web", 1000)
    };
    let accounts = Accounts::new(&[layer(&[web], &[("wheel", 2000)])], []).unwrap();
    assert_eq!(
        accounts.passwd(),
        "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
backup:x:34:34:backup:/var/backups:/usr/sbin/nologin
web:x:1000:1000::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"
    );
    let groups = accounts.groups_file();
    assert!(
        groups.starts_with("root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:web\n"),
        "{groups}"
    );
    assert!(
        groups.ends_with("users:x:100:\nweb:x:1000:\nwheel:x:2000:web\nnogroup:x:65534:\n"),
        "{groups}"
    );
    assert_eq!(groups.lines().count(), 40);
    assert!(accounts.shadow().contains("\nweb:!*:18262::::::\n"));
    assert!(accounts.gshadow().contains("\nwheel:!*::web\n"));
    assert_eq!(accounts.groups_of("web"), [4, 2000]);
    assert_eq!(
        accounts.ids(&Owner::Names("web".into(), "www-data".into())),
        Ok((1000, 33))
    );
    assert_eq!(accounts.ids(&Owner::Ids(5, 6)), Ok((5, 6)));
    let unknown = accounts
        .ids(&Owner::Names("nobody".into(), "none".into()))
        .unwrap_err();
    assert!(
        unknown.contains("group 'none'") && unknown.contains("`groups`"),
        "{unknown}"
    );
}

#[test]
fn accounts_that_collide_are_errors() {
    for (users, groups, expected) in [
        (
            vec![user("a", 1000), user("b", 1000)],
            vec![],
            "uid of user 'a'",
        ),
        (vec![user("a", 0)], vec![], "uid of user 'root'"),
        (vec![user("www-data", 1000)], vec![], "uid 33"),
        (
            vec![user("a", 1000), user("a", 1001)],
            vec![],
            "other values",
        ),
        (vec![user("a", 1000)], vec![("b", 1000)], "gid of group 'b'"),
        (vec![], vec![("a", 1), ("b", 2000)], "gid of group 'daemon'"),
        (vec![], vec![("tty", 2000)], "gid 5"),
        (
            vec![UserRule {
                group: Some("none".into()),
                ..user("a", 1000)
            }],
            vec![],
            "group 'none'",
        ),
        (
            vec![UserRule {
                groups: vec!["none".into()],
                ..user("a", 1000)
            }],
            vec![],
            "group 'none'",
        ),
        (vec![user("a:b", 1000)], vec![], "name"),
        (
            vec![UserRule {
                home: "/x:0".into(),
                ..user("a", 1000)
            }],
            vec![],
            "home",
        ),
    ] {
        let message = refusal(&[layer(&users, &groups)], &[]);
        assert!(
            message.contains(expected) && message.contains("app"),
            "{message}"
        );
    }
}

#[test]
fn the_same_account_in_two_layers_is_one() {
    let layers = [
        layer(&[user("a", 1000)], &[("g", 2000)]),
        layer(&[user("a", 1000)], &[("g", 2000)]),
    ];
    assert_eq!(
        Accounts::new(&layers, []).unwrap().user("a").unwrap().uid,
        1000
    );
    let own = layer(
        &[UserRule {
            home: "/srv".into(),
            ..user("www-data", 33)
        }],
        &[],
    );
    assert_eq!(
        Accounts::new(&[own], [])
            .unwrap()
            .user("www-data")
            .unwrap()
            .home,
        "/srv"
    );
}

#[test]
fn packages_make_users_unless_they_are_there() {
    let packages = [
        package("p", "u _p - \"P user\" /var/lib/p\nm _p tty\ng extra 77\n"),
        package("q", "u web 500\nu _q 77:extra\n"),
    ];
    let accounts = Accounts::new(&[layer(&[user("web", 1000)], &[])], &packages).unwrap();
    let p = accounts.user("_p").unwrap();
    assert!(
        (FIRST_AUTOMATIC..=LAST_AUTOMATIC).contains(&p.uid) && p.gid == p.uid,
        "{p:?}"
    );
    assert_eq!(
        (p.gecos.as_str(), p.home.as_str()),
        ("P user", "/var/lib/p")
    );
    assert_eq!(accounts.groups_of("_p"), [5]);
    assert_eq!(accounts.user("web").unwrap().uid, 1000);
    assert_eq!(
        (
            accounts.user("_q").unwrap().uid,
            accounts.user("_q").unwrap().gid
        ),
        (77, 77)
    );
    assert!(
        refusal(&[], &[package("p", "u bad name")])
            .contains("package p, /usr/lib/sysusers.d/p.conf")
    );
    assert!(refusal(&[], &[package("p", "u a 33")]).contains("'www-data'"));
}

#[test]
fn an_automatic_id_does_not_move_when_a_package_is_added() {
    let uid = |packages: &[UnpackedDeb]| {
        Accounts::new(&[], packages)
            .unwrap()
            .user("_p")
            .unwrap()
            .uid
    };
    let (p, q) = (package("p", "u _p -"), package("q", "u _a -\nu _z -"));
    assert_eq!(uid(std::slice::from_ref(&p)), uid(&[p.clone(), q.clone()]));
    assert_eq!(uid(&[p.clone(), q.clone()]), uid(&[q, p]));
}

#[test]
fn automatic_ids_never_collide_and_run_out_with_an_error() {
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("u u{n} -\n"))
            .collect::<String>()
    };
    let accounts = Accounts::new(&[], &[package("p", &many(790))]).unwrap();
    let ids: BTreeSet<u32> = accounts.users.values().map(|user| user.uid).collect();
    assert_eq!(ids.len(), accounts.users.len());
    assert!(refusal(&[], &[package("p", &many(900))]).contains("no system id is free"));
}

#[test]
fn a_containers_own_accounts_come_first() {
    let files = |passwd: &str, group: &str| AccountFiles {
        passwd: Some(passwd.to_owned()),
        group: Some(group.to_owned()),
    };
    let below = files("nginx:x:1:1::/:/bin/sh\nold:x:900:900:::\n", "nginx:x:1:\n");
    let top = files(
        "root:$6$hash:0:0:root:/root:/bin/ash\nwww-data:x:82:82:Web:/home/www:/sbin/nologin\n\
         nginx:x:101:101::/:/sbin/nologin\nbroken\nbad name:x:7:7:::\nworst:x:4294967295:1:::\n\
         xfs:x:33:33:X\u{7}:/:/sbin/nologin\n",
        "www-data:x:82:nginx,nobody-here\nnginx:x:101:nginx\nxfs:x:33:\ntty:x:5:\nbad:x:x:\n",
    );
    let containers = [("below".to_owned(), below), ("app".to_owned(), top)];
    let more = layer(&[user("web", 1000)], &[]);
    let accounts = Accounts::with_containers(&[more], [], &containers).unwrap();
    let passwd = accounts.passwd();
    for line in [
        "root:x:0:0:root:/root:/bin/ash\n",
        "www-data:x:82:82:Web:/home/www:/sbin/nologin\n",
        "nginx:x:101:101::/:/sbin/nologin\n",
        "xfs:x:33:33:X:/:/sbin/nologin\n",
        "old:x:900:900:::\n",
        "web:x:1000:1000::/nonexistent:",
        // Debian's, where nobody has the name or the number.
        "daemon:x:1:1:daemon:",
    ] {
        assert!(passwd.contains(line), "{line:?} in {passwd}");
    }
    assert!(
        !passwd.contains("hash") && !passwd.contains("worst"),
        "{passwd}"
    );
    assert_eq!(passwd.matches("www-data").count(), 1, "{passwd}");
    assert_eq!(accounts.groups_of("nginx"), [82, 101]);
    let gid = |name: &str| accounts.group(name).map(|group| group.gid);
    assert_eq!(
        (gid("www-data"), gid("xfs"), gid("shadow")),
        (Some(82), Some(33), Some(42))
    );
    // None of it without containers.
    assert_eq!(
        Accounts::with_containers(&[], [], &[]).unwrap(),
        Accounts::new(&[], []).unwrap()
    );
}
