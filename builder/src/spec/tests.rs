//! What a specification may and may not say; each refusal with its line and remedy.

use std::fs;
use std::path::Path;

use super::*;

const HEAD: &str = "name = \"app\"\nversion = \"1\"\n";
const LAYER: &str = "[[layer]]\nname = \"app\"\n";

fn load_text(text: &str) -> Result<Image, String> {
    let dir = tempfile::tempdir().unwrap();
    load_in(dir.path(), text)
}

fn load_in(dir: &Path, text: &str) -> Result<Image, String> {
    fs::write(dir.join(SPEC_FILE), text).unwrap();
    let dir = dir.canonicalize().unwrap();
    load(&dir).map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}/", dir.display()), "")
    })
}

#[test]
fn the_shipped_images_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/images");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let dir = entry.unwrap().path();
        let image = load(&dir).unwrap();
        assert_eq!(image.name, dir.file_name().unwrap().to_str().unwrap());
        assert_eq!(image.layers[0].name, "base");
        assert!(!image.layers[0].packages.is_empty());
        count += 1;
    }
    assert!(count >= 3);
}

#[test]
fn every_shipped_layer_is_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("layer.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    let listed: Vec<&str> = SHIPPED_LAYERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed);
}

#[test]
fn defaults_are_what_a_user_expects() {
    let image = load_text(&format!(
        "{HEAD}{LAYER}[[service]]\nname = \"s\"\nexec = [\"/usr/bin/s\"]\n"
    ))
    .unwrap();
    assert_eq!(image.boards, ["qemu-x86_64"]);
    assert_eq!(image.suite, "trixie");
    let service = &image.services[0];
    assert_eq!(
        (service.user.as_str(), service.workdir.as_str()),
        ("root", "/")
    );
    assert_eq!(
        (service.restart, &service.ready),
        (Restart::OnFailure, &Ready::Started)
    );
}

#[test]
fn refusals_name_the_line_the_rule_and_the_remedy() {
    let service = |rest: &str| format!("{HEAD}{LAYER}[[service]]\nname = \"web\"\n{rest}");
    let layer = |rest: &str| format!("{HEAD}{LAYER}{rest}");
    let test = |rest: &str| format!("{HEAD}{LAYER}[[test]]\nname = \"works\"\n{rest}");
    let table = [
        (HEAD.to_owned(), "slipform.toml:1: there is no [[layer]]"),
        (
            format!("name = \"My App\"\nversion = \"1\"\n{LAYER}"),
            "slipform.toml:1: name: 'My App' is no name; write a lower-case",
        ),
        (
            format!("{HEAD}suite = \"sid\"\n{LAYER}"),
            "slipform.toml:3: suite: 'sid' is not supported; write \"trixie\"",
        ),
        (
            format!("{HEAD}[[layer]]\npackages = []\n"),
            "slipform.toml:3: this layer has neither 'name' nor 'use'",
        ),
        (
            format!("{HEAD}{LAYER}{LAYER}"),
            "slipform.toml:5: two layers are named 'app'; rename one",
        ),
        (
            format!("{HEAD}[[layer]]\nuse = \"bsae\"\n"),
            "did you mean 'base'?",
        ),
        (
            format!("{HEAD}[[layer]]\nuse = \"base\"\npackages = [\"x\"]\n"),
            "takes only 'name' beside it",
        ),
        (
            layer("files = [{ from = \"a\", to = \"srv\" }]\n"),
            "'srv' is no path in the image; write an absolute one",
        ),
        (
            layer("files = [{ from = \"a\", to = \"/srv/../etc\" }]\n"),
            "'/srv/../etc' is no path in the image",
        ),
        (
            layer("files = [{ from = \"a\", to = \"/a\", mode = \"rw\" }]\n"),
            "'rw' is no mode",
        ),
        (
            layer("debs = [\"../x.deb\"]\n"),
            "'../x.deb' leaves the folder of the specification",
        ),
        (layer("debs = [\"x.deb\"]\n"), "'x.deb' cannot be found"),
        (layer("tar = \"../x.tar\"\n"), "tar: '../x.tar' leaves"),
        (layer("tar = \"x.tar\"\n"), "'x.tar' cannot be found"),
        (layer("tar = \".\"\n"), "tar: '.' is no file"),
        (
            layer("remove = [\"usr/bin\"]\n"),
            "must be an absolute path or glob",
        ),
        (layer("exclude = [\"/a[\"]\n"), "'/a[' is no glob"),
        (
            layer("users = [{ name = \"a:b\", uid = 1 }]\n"),
            "user: 'a:b' is no name",
        ),
        (
            service("exec = []\n"),
            "slipform.toml:5: service 'web': exec is empty",
        ),
        (
            service("exec = [\"web\"]\n"),
            "exec: 'web' is no path in the image",
        ),
        (
            service("exec = [\"/w\"]\ncapabilities = [\"CAP_NET_BIND\"]\n"),
            "did you mean 'CAP_NET_BIND_SERVICE'?",
        ),
        (
            service("exec = [\"/w\"]\nlimits = { nofiles = 1 }\n"),
            "did you mean 'nofile'?",
        ),
        (
            service("exec = [\"/w\"]\nready = { tcp = \"example:80\" }\n"),
            "'example:80' is no address",
        ),
        (
            service("exec = [\"/w\"]\nready = { tcp = \"127.0.0.1:80\", notify = true }\n"),
            "exactly one of",
        ),
        (
            service("exec = [\"/w\"]\nafter = [\"wbe\"]\n"),
            "'wbe', which is no service; did you mean 'web'?",
        ),
        (
            service("exec = [\"/w\"]\nafter = [\"web\"]\n"),
            "wait for each other in a circle",
        ),
        (
            service("exec = [\"/w\"]\nstop-timeout = \"soon\"\n"),
            "'soon' is no duration",
        ),
        (
            test(""),
            "slipform.toml:5: test 'works' must have exactly one of http, tcp, console",
        ),
        (
            format!("{HEAD}scratch = [{{ path = \"/etc\" }}]\n{LAYER}"),
            "'/etc' cannot be a tmpfs of yours",
        ),
        (
            format!("{HEAD}scratch = [{{ path = \"/x\", size = \"1GB\" }}]\n{LAYER}"),
            "'1GB' is no size",
        ),
        (
            format!("{HEAD}kernel = {{ args = [\"a b\"] }}\n{LAYER}"),
            "'a b' is not one word",
        ),
        (
            format!("{HEAD}sysctl = {{ swappiness = 1 }}\n{LAYER}"),
            "write it dotted",
        ),
    ];
    for (text, wanted) in table {
        let error = load_text(&text).expect_err(&text);
        assert!(
            error.contains(wanted),
            "\n{text}\ngave: {error}\nwanted: {wanted}"
        );
        assert!(error.starts_with("slipform.toml:"), "{error}");
    }
}

#[test]
fn refusals_of_tests_name_the_test_and_the_remedy() {
    let web = "[[service]]\nname = \"web\"\nexec = [\"/w\"]\n";
    let table = [
        (
            "console = \"(\"",
            "test 'works': console: '(' is no regular expression",
        ),
        (
            "console = \"a\"\nconsole-absent = \"b\"",
            "must have exactly one of",
        ),
        (
            "console-absent = \"(\"",
            "console-absent: '(' is no regular",
        ),
        (
            "http = { port = 80, path = \"x y\" }",
            "http: path 'x y' must start with / and have no spaces",
        ),
        ("http = { port = 0 }", "port 0 is none; write 1 to 65535"),
        (
            "http = { port = 80, method = \"get\" }",
            "method 'get' is none; write it in capitals",
        ),
        ("http = { port = 80, status = 99 }", "status 99 is none"),
        (
            "http = { port = 80, headers = { \"a b\" = \"c\" } }",
            "header 'a b' is none",
        ),
        (
            "http = { port = 80, headers = { \"Content-Length\" = \"1\" } }",
            "set by slipform itself",
        ),
        (
            "http = { port = 80, json = { \"a[\" = 1 } }",
            "json: 'a[' is no path into JSON",
        ),
        (
            "http = { port = 80, jsn = {} }",
            "unknown key 'jsn'; did you mean 'json'?",
        ),
        ("tcp = { port = 80, steps = [] }", "tcp: it needs steps"),
        (
            "service = { name = \"wbe\" }",
            "service: 'wbe' is no service; did you mean 'web'?",
        ),
        (
            "service = { name = \"web\", state = \"up\" }",
            "'up' is no state; write waiting, started",
        ),
        (
            "log = { service = \"db\", matches = \"x\" }",
            "log: 'db' is no service",
        ),
        (
            "steps = [{ wait = \"1s\" }, { reboot = true, power-cut = true }]",
            "test 'works': step 2 must have exactly one of",
        ),
        (
            "steps = [{ reboot = false }]",
            "step 1 must have exactly one of",
        ),
        (
            "steps = [{ wait = \"soon\" }]",
            "step 1: wait: 'soon' is no duration",
        ),
        (
            "console = \"a\"\nsteps = [{ reboot = true }]",
            "or several of them in steps",
        ),
        (
            "console = \"a\"\ntimeout = \"2h\"",
            "timeout: '2h' must be more than nothing and at most an hour",
        ),
        (
            "console = \"a\"\nretries = 5000",
            "retries must be at most 1000",
        ),
    ];
    for (rest, wanted) in table {
        let text = format!("{HEAD}{LAYER}{web}[[test]]\nname = \"works\"\n{rest}\n");
        let error = load_text(&text).expect_err(&text);
        assert!(
            error.contains(wanted),
            "\n{text}\ngave: {error}\nwanted: {wanted}"
        );
        assert!(error.starts_with("slipform.toml:"), "{error}");
    }
    let error = load_text(&format!(
        "{HEAD}{LAYER}[[test]]\nname = \"no oops\"\nconsole = \"a\"\n"
    ));
    assert!(error.is_err_and(|error| error.contains("that of a built-in check")));
}

#[test]
fn tests_have_steps_limits_and_values() {
    use slipform_qemu_tests::{Probe, Step};
    let text = format!(
        "{HEAD}{LAYER}[[service]]\nname = \"web\"\nexec = [\"/w\"]\n\
         [[test]]\nname = \"a\"\ntimeout = \"3s\"\nretries = 0\n\
         http = {{ port = 80, body = \"x\", headers = {{ Accept = \"text/plain\" }}, json = {{ \"a.b[0]\" = [1, 2.5, true, \"t\"] }} }}\n\
         [[test]]\nname = \"b\"\nsteps = [\n\
         {{ service = {{ name = \"web\" }} }}, {{ reboot = true }}, {{ wait = \"2s\" }}, {{ power-cut = true }},\n\
         {{ log = {{ service = \"web\", matches = \"up\" }} }}, {{ console-absent = \"down\" }} ]\n"
    );
    let image = load_text(&text).unwrap();
    let [a, b] = image.tests.as_slice() else {
        panic!("{:?}", image.tests);
    };
    let [Step::Probe(Probe::Http(http))] = a.steps.as_slice() else {
        panic!("{a:?}");
    };
    assert_eq!((http.method.as_str(), a.retries), ("POST", Some(0)));
    assert_eq!(a.limit, Some(std::time::Duration::from_secs(3)));
    assert_eq!(http.json["a.b[0]"].to_string(), "[1,2.5,true,\"t\"]");
    assert_eq!((b.steps.len(), &b.steps[3]), (6, &Step::PowerCut));
}

#[test]
fn allowances_are_of_checks_that_can_be_allowed_and_end() {
    let allow = |rest: &str| format!("{HEAD}{LAYER}[[allow]]\n{rest}");
    let full = |check: &str, reason: &str, expires: &str| {
        allow(&format!(
            "check = \"{check}\"\nreason = \"{reason}\"\nexpires = \"{expires}\"\n"
        ))
    };
    let image = load_text(&full("no kernel WARNING", "known", "2030-06-30")).unwrap();
    assert_eq!(image.allowances[0].expires, "2030-06-30");
    let table = [
        (
            full("no kernel panic", "x", "2030-06-30"),
            "'no kernel panic' cannot be allowed to fail",
        ),
        (
            full("no kernel warning", "x", "2030-06-30"),
            "did you mean 'no kernel WARNING'?",
        ),
        (full("no segfault", " ", "2030-06-30"), "reason is empty"),
        (
            full("no segfault", "x", "2030-02-30"),
            "'2030-02-30' is no day",
        ),
        (
            allow("check = \"no segfault\"\nreason = \"x\"\n"),
            "expires",
        ),
    ];
    for (text, wanted) in table {
        let error = load_text(&text).expect_err(&text);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_folder_without_a_specification_says_how_to_make_one() {
    let error = load(tempfile::tempdir().unwrap().path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("slipform new"), "{error}");
}

#[test]
fn a_used_layer_of_the_users_own_is_read_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("common")).unwrap();
    fs::write(
        dir.path().join("common/layer.toml"),
        "packages = [\"curl\"]\n",
    )
    .unwrap();
    let text = format!("{HEAD}[[layer]]\nuse = \"common\"\n");
    let image = load_in(dir.path(), &text).unwrap();
    assert_eq!(image.layers[0].name, "common");
    assert_eq!(image.layers[0].packages, ["curl"]);
    fs::write(dir.path().join("common/layer.toml"), "\npakages = []\n").unwrap();
    let error = load_in(dir.path(), &text).unwrap_err();
    assert!(
        error.contains("common/layer.toml:2: unknown key 'pakages'; did you mean 'packages'?"),
        "{error}"
    );
}

#[test]
fn a_specification_that_is_no_text_or_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(SPEC_FILE), [0xff, 0xfe]).unwrap();
    assert!(
        load(dir.path())
            .unwrap_err()
            .to_string()
            .contains("is not UTF-8")
    );
    fs::write(dir.path().join(SPEC_FILE), vec![b'#'; 1 << 21]).unwrap();
    assert!(
        load(dir.path())
            .unwrap_err()
            .to_string()
            .contains("longer than 1 MiB")
    );
}

#[test]
fn random_text_never_panics() {
    let seed = include_str!("../../../layers/images/redis/slipform.toml");
    slipform_fuzz::fuzz(&[seed], |bytes, _| {
        let _ = load_text(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn the_readmes_tour_is_right() {
    let readme = include_str!("../../../README.md");
    let tour = readme.split("```toml\n").nth(1).unwrap();
    let tour = tour.split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for file in ["mine_1.0_amd64.deb", "rootfs.tar.zst", "acme.asc"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let image = load_in(dir.path(), tour).unwrap();
    assert_eq!(
        (image.layers.len(), image.services.len(), image.tests.len()),
        (2, 1, 4)
    );
    // Every key of a layer, a service and the image is shown, but those of tables within tables.
    let keys = tour
        .lines()
        .filter_map(|line| line.split(['=', ' ']).next());
    let shown: std::collections::BTreeSet<&str> = keys.collect();
    for key in [
        "use",
        "packages",
        "without",
        "debs",
        "tar",
        "files",
        "dirs",
        "symlinks",
        "users",
        "exclude",
        "remove",
        "exec",
        "user",
        "env",
        "capabilities",
        "limits",
        "restart",
        "after",
        "ready",
        "http",
        "tcp",
        "args",
        "modules",
    ] {
        assert!(shown.contains(key), "the tour does not show '{key}'");
    }
}

const SERVICE: &str = "[[service]]\nname = \"s\"\nexec = [\"/usr/bin/s\"]\n";

#[test]
fn a_machine_asks_who_it_is_as_the_image_wants() {
    let image = load_text(&format!(
        "{HEAD}{LAYER}{SERVICE}credentials = [\"db-password\"]\nidentity-env = {{ NODE = \"instance-id\" }}\n\
         [metadata]\nsources = [\"smbios\", \"ec2\"]\ntimeout = \"5s\"\n\
         [time]\nservers = [\"192.0.2.1\"]\n\
         [[interface]]\nname = \"eth0\"\naddresses = [\"192.0.2.9/24\"]\nroutes = [{{ to = \"default\", via = \"192.0.2.1\" }}]\n\
         [[test]]\nname = \"t\"\nmetadata = \"ec2\"\nconsole = \"x\"\n\
         [[test]]\nname = \"u\"\nmetadata = {{ source = \"gce\", day = \"late\", credentials = {{ a = \"b\" }} }}\nconsole = \"x\"\n"
    ))
    .unwrap();
    use slipform_qemu_tests::{Day, MetadataSource};
    let wanted = [MetadataSource::Smbios, MetadataSource::Ec2];
    assert_eq!(image.metadata.sources.as_deref(), Some(&wanted[..]));
    assert_eq!(image.services[0].credentials, ["db-password"]);
    assert!(!image.interfaces[0].dhcp);
    let clouds: Vec<_> = image.tests.iter().flat_map(|test| &test.metadata).collect();
    assert_eq!(clouds[0].source, MetadataSource::Ec2);
    assert_eq!((clouds[1].day, clouds[1].credentials.len()), (Day::Late, 1));
}

#[test]
fn wrong_words_about_the_identity_are_named() {
    let cases = [
        ("[metadata]\nsources = [\"ecc2\"]\n", "did you mean 'ec2'"),
        ("[metadata]\nsources = [\"ec2\", \"ec2\"]\n", "stands twice"),
        ("[metadata]\ntimeout = \"1h\"\n", "at most 10m"),
        ("[metadata]\nsource = [\"ec2\"]\n", "did you mean 'sources'"),
        (
            "[[service]]\nname = \"s\"\nexec = [\"/s\"]\ncredentials = [\"../x\"]\n",
            "no name",
        ),
        (
            "[[service]]\nname = \"s\"\nexec = [\"/s\"]\nidentity-env = { A = \"instance\" }\n",
            "instance-type",
        ),
        (
            "[[service]]\nname = \"s\"\nexec = [\"/s\"]\nenv = { A = \"1\" }\nidentity-env = { A = \"zone\" }\n",
            "does not have",
        ),
        (
            "[[test]]\nname = \"t\"\nconsole = \"x\"\nmetadata = \"ec3\"\n",
            "did you mean 'ec2'",
        ),
        (
            "[[test]]\nname = \"t\"\nconsole = \"x\"\nmetadata = { source = \"ec2\", day = \"rainy\" }\n",
            "slow",
        ),
        (
            "[[test]]\nname = \"t\"\nconsole = \"x\"\nmetadata = { source = \"smbios\", user-data = \"x\" }\n",
            "no user-data",
        ),
        (
            "[[test]]\nname = \"t\"\nconsole = \"x\"\nmetadata = { source = \"ec2\", user-data = \"x\", credentials = { a = \"b\" } }\n",
            "one of the two",
        ),
    ];
    for (text, expected) in cases {
        let error = load_text(&format!("{HEAD}{LAYER}{text}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_debug_layer_marks_the_image_whoever_made_it() {
    let text = |layer: &str| format!("{HEAD}{LAYER}{layer}");
    let shipped = load_text(&text("[[layer]]\nuse = \"debug\"\n")).unwrap();
    assert!(shipped.is_debug());
    assert_eq!(shipped.layers[1].console, ["/usr/bin/busybox", "sh"]);
    let own = "[[layer]]\nname = \"gdb\"\ndebug = true\npackages = [\"gdb\"]\n";
    assert!(load_text(&text(own)).unwrap().is_debug());
    assert!(!load_text(&text("")).unwrap().is_debug());
    // Not published as a base, where nobody would see it.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(LAYER_FILE), "debug = true\n").unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("cannot be published as a base"), "{error}");
}

#[test]
fn a_console_is_for_one_debug_layer() {
    let table = [
        (
            "[[layer]]\nname = \"b\"\nconsole = [\"/bin/sh\"]\n",
            "say so",
        ),
        (
            "[[layer]]\nname = \"b\"\ndebug = true\nconsole = [\"sh\"]\n",
            "console: ",
        ),
        (
            "[[layer]]\nuse = \"debug\"\n[[layer]]\nname = \"b\"\ndebug = true\nconsole = [\"/bin/sh\"]\n",
            "leave one out",
        ),
        (
            "[[layer]]\nuse = \"debug\"\n[[service]]\nname = \"debug-console\"\nexec = [\"/bin/s\"]\n",
            "choose another",
        ),
    ];
    for (layers, wanted) in table {
        let error = load_text(&format!("{HEAD}{LAYER}{layers}")).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
}
