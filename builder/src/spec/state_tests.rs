//! What `[state]`, and the file checks that go with it, may and may not say.

use std::fs;

use slipform_qemu_tests::{Probe, Step};

use super::super::{Image, Owner, SPEC_FILE, load};
use super::*;

const HEAD: &str = "name = \"app\"\nversion = \"1\"\n[[layer]]\nname = \"app\"\n";

fn load_text(rest: &str) -> Result<Image, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SPEC_FILE), format!("{HEAD}{rest}")).unwrap();
    load(dir.path()).map_err(|error| error.to_string())
}

#[test]
fn a_path_is_enough_and_a_table_says_more() {
    assert_eq!(load_text("").unwrap().state, None);
    let state = load_text(
        "[state]\npaths = [\"/var/lib/app/\", { path = \"/srv/b\", owner = \"app:app\", mode = \"0750\", quota = \"32MiB\" }]\n",
    );
    let state = state.unwrap().state.unwrap();
    assert_eq!((state.size, state.version), (64 << 20, 1));
    assert_eq!(state.policy, StatePolicy::Fail);
    let expected = [
        StatePathSpec {
            path: "/var/lib/app".to_owned(),
            owner: None,
            mode: None,
            quota: None,
        },
        StatePathSpec {
            path: "/srv/b".to_owned(),
            owner: Some(Owner::Names("app".to_owned(), "app".to_owned())),
            mode: Some(0o750),
            quota: Some(1 << 25),
        },
    ];
    assert_eq!(state.paths, expected);
    let more =
        "[state]\npaths = [\"/srv\"]\nsize = \"16777217\"\npolicy = \"recreate\"\nversion = 3\n";
    let state = load_text(more).unwrap().state.unwrap();
    assert_eq!((state.size, state.version), (17 << 20, 3));
    assert_eq!((state.policy, state.disk), (StatePolicy::Recreate, None));
    let label = "[state]\npaths = [\"/srv\"]\ndisk = { label = \"data\" }\n";
    let state = load_text(label).unwrap().state.unwrap();
    assert_eq!(state.disk, Some(StateDisk::Label("data".to_owned())));
}

#[test]
fn refusals_name_the_rule_and_the_remedy() {
    let paths = |list: &str| format!("[state]\npaths = [{list}]\n");
    let good = paths("\"/var/lib/app\"");
    let table = [
        (paths(""), "name 1 to 64 folders that are kept"),
        (
            "[state]\nsize = \"1GiB\"\n".to_owned(),
            "the key 'paths' is missing here; add it",
        ),
        (
            paths("\"var/lib\""),
            "'var/lib' is no path in the image; write an absolute one",
        ),
        (
            paths("\"/var\""),
            "'/var' cannot be kept; name the folder of one program",
        ),
        (paths("\"/\""), "'/' cannot be kept"),
        (paths("\"/run/app\""), "'/run/app' cannot be kept"),
        (paths("\"/tmp\""), "'/tmp' cannot be kept"),
        (
            paths("\"/srv/a\", \"/srv/a/\""),
            "'/srv/a' and '/srv/a' are one folder",
        ),
        (
            paths("\"/srv/a/b\", \"/srv/a\""),
            "'/srv/a' and '/srv/a/b' are one folder, or one lies in the other",
        ),
        (paths("5"), "a path, or a table such as"),
        (paths("{ path = \"/srv\", ownr = \"a:b\" }"), "owner"),
        (
            paths("{ path = \"/srv\", owner = \"a\" }"),
            "'a' is no owner",
        ),
        (
            paths("{ path = \"/srv\", mode = \"rwx\" }"),
            "'rwx' is no mode",
        ),
        (
            paths("{ path = \"/srv\", quota = \"1KiB\" }"),
            "quota: 1024 bytes are too few or too many",
        ),
        (
            paths(
                "{ path = \"/srv/vu5eh3\", quota = \"1MiB\" }, { path = \"/srv/ka210i\", quota = \"1MiB\" }",
            ),
            "would be counted as one",
        ),
        (
            format!("{good}size = \"15MiB\"\n"),
            "15728640 bytes are too few or too many",
        ),
        (format!("{good}size = \"2000TiB\"\n"), "too few or too many"),
        (format!("{good}size = \"1GB\"\n"), "'1GB' is no size"),
        (
            format!("{good}disk = {{ serial = \"a b\" }}\n"),
            "'a b' is no serial number; write 1 to 20",
        ),
        (
            format!("{good}disk = {{ label = \"17 letters and so\" }}\n"),
            "is no label; write 1 to 16 letters",
        ),
        (
            format!("{good}disk = {{ label = \"slipform-state\" }}\n"),
            "choose another label",
        ),
        (
            format!("{good}disk = {{ label = \"data\", serial = \"data\" }}\n"),
            "name it by either serial or label",
        ),
        (
            format!("{good}disk = {{}}\n"),
            "name it by either serial or label",
        ),
        (
            format!("{good}policy = \"recreate\"\ndisk = {{ label = \"data\" }}\n"),
            "never formatted over; leave policy = \"recreate\" out",
        ),
        (
            format!("{good}version = 0\n"),
            "version: 0 is none; count from 1",
        ),
        (
            format!("{good}policy = \"format\"\n"),
            "known here: fail, recreate",
        ),
        (format!("{good}polcy = \"fail\"\n"), "policy"),
        (
            format!("{good}[[scratch]]\npath = \"/var/lib\"\n"),
            "'/var/lib/app' would lie under the [[scratch]] '/var/lib'; remove one",
        ),
    ];
    for (text, expected) in table {
        let error = load_text(&text).expect_err(&text);
        assert!(error.contains(expected), "{text}\n{error}");
    }
    let below = format!("{good}[[scratch]]\npath = \"/var/lib/app/cache\"\n");
    assert!(load_text(&below).is_ok());
}

#[test]
fn files_are_looked_at_where_state_is_kept() {
    let state = "[state]\npaths = [\"/var/lib/app\"]\n[[test]]\nname = \"keeps\"\n";
    let text = format!(
        "{state}steps = [{{ file = {{ path = \"/var/lib/app/x\" }} }}, {{ reboot = true }}, {{ file = {{ path = \"/var/lib/app/x\", contains = \"y\" }} }}]\n"
    );
    let image = load_text(&text).unwrap();
    let file = |contains: Option<&str>| {
        Step::Probe(Probe::File {
            path: "/var/lib/app/x".to_owned(),
            exists: true,
            contains: contains.map(str::to_owned),
        })
    };
    assert_eq!(
        image.tests[0].steps,
        [file(None), Step::Reboot, file(Some("y"))]
    );
    let table = [
        (
            state,
            "path = \"/etc/passwd\"",
            "'/etc/passwd' is not on the state partition; name a file below /var/lib/app",
        ),
        (
            "[[test]]\nname = \"keeps\"\n",
            "path = \"/var/lib/app/x\"",
            "add [state] with its folder to paths",
        ),
        (
            state,
            "path = \"/var/lib/application\"",
            "is not on the state partition",
        ),
        (
            state,
            "path = \"/var/lib/app/../x\"",
            "is no path in the image",
        ),
        (
            state,
            "path = \"/var/lib/app/x\", exists = false, contains = \"y\"",
            "leave contains out",
        ),
        (
            state,
            "path = \"/var/lib/app/x\", contains = \"\"",
            "contains must have 1 to 512 bytes",
        ),
        (state, "path = \"/var/lib/app/x\", exist = true", "exists"),
    ];
    for (head, file, expected) in table {
        let error = load_text(&format!("{head}file = {{ {file} }}\n")).expect_err(file);
        assert!(error.contains(expected), "{file}\n{error}");
    }
}
