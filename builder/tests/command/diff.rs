//! `slipform diff`: two versions of a project, compared in the store and as files.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Outcome, SPEC, World, edit, write};
use serde_json::{Value, json};

/// A project in two versions: image and raw and qcow2 file of each.
struct Versions {
    world: World,
    images: Vec<String>,
    raw: Vec<String>,
    qcow2: Vec<String>,
}

/// The ordinary project, with a file whose mode is given, and a sysctl.
fn spec() -> String {
    let files = r#"files = [{ from = "www", to = "/srv/www" }]
users"#;
    let more = r#"files = [
    { from = "www", to = "/srv/www" },
    { from = "secret.txt", to = "/etc/secret.txt", mode = "0640" },
]
users"#;
    let spec = SPEC.replace(files, more);
    assert_ne!(spec, SPEC);
    format!("{spec}\n[sysctl]\n\"vm.overcommit_memory\" = 1\n")
}

fn versions() -> Versions {
    let mut world = World::new();
    let project = world.project_with("app", &spec());
    write(&project.join("secret.txt"), "secret\n");
    write(&project.join("www/old.html"), "old\n");
    let mut versions = (Vec::new(), Vec::new(), Vec::new());
    for version in ["one", "two"] {
        if version == "two" {
            second(&mut world, &project);
        }
        let built = world.build(&project, &["--format", "raw,qcow2", "--out", version]);
        versions.0.push(built.image().to_owned());
        versions.1.push(built.artifact(0, "path").to_owned());
        versions.2.push(built.artifact(1, "path").to_owned());
    }
    let (images, raw, qcow2) = versions;
    Versions {
        world,
        images,
        raw,
        qcow2,
    }
}

/// Changes a bit of everything: files, a package, a service, a mode, a setting, the command line.
fn second(world: &mut World, project: &Path) {
    // As long as the first: only its content tells.
    write(&project.join("www/index.html"), "<h1>HELLO</h1>\n");
    write(
        &project.join("www/css/page.css"),
        "h1 { color: blue; margin: 0 }\n",
    );
    write(&project.join("www/new.html"), "new\n");
    std::fs::remove_file(project.join("www/old.html")).unwrap();
    let spec = project.join("slipform.toml");
    edit(&spec, "version = \"1.0.0\"", "version = \"1.1.0\"");
    edit(&spec, "0640", "0600");
    edit(&spec, "\"8080\"]", "\"9090\"]");
    edit(&spec, "overcommit_memory\" = 1", "overcommit_memory\" = 2");
    let args = "\n[kernel]\nargs = [\"mitigations=auto\"]\n";
    let text = std::fs::read_to_string(&spec).unwrap();
    write(&spec, text + args);
    world
        .archive
        .add("trixie", crate::common::packages::hello_server("1.1-1"));
    world.publish();
    world
        .run(project, &["lock", "--update", "hello-server"])
        .good();
}

impl Versions {
    fn diff(&self, args: &[&str]) -> Outcome {
        let mut all = vec!["diff", "--quiet"];
        all.extend(args);
        self.world.run(&self.world.path("app"), &all)
    }

    fn json(&self, old: &str, new: &str) -> Value {
        let told = self.diff(&["--json", old, new]);
        let json = told.json();
        let code = if json["same"] == true { 0 } else { 1 };
        assert_eq!(told.code, Some(code), "{}", told.stderr);
        json
    }
}

/// `~ /path field…` of each change.
fn lines(changes: &Value) -> Vec<String> {
    let line = |change: &Value| {
        let fields = change["fields"].as_array().unwrap().iter();
        let fields: Vec<&str> = fields
            .map(|field| field["name"].as_str().unwrap())
            .collect();
        let (mark, name) = (change["mark"].as_str(), change["name"].as_str());
        format!("{} {} {}", mark.unwrap(), name.unwrap(), fields.join(","))
    };
    changes.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn two_versions_differ_in_exactly_what_was_changed() {
    let versions = versions();
    let json = versions.json(&versions.images[0], &versions.images[1]);
    assert_eq!(json["same"], false);
    let image = &json["images"][0];
    assert_eq!(image["problems"], json!([]));
    let version = json!([{ "name": "version", "old": "1.0.0", "new": "1.1.0" }]);
    assert_eq!(image["image"], version);
    assert_eq!(
        lines(&image["packages"]),
        ["changed hello-server version,sha256"]
    );
    assert_eq!(image["packages"][0]["fields"][0]["new"], "1.1-1");
    assert_eq!(lines(&image["services"]), ["changed web exec"]);
    // The clock's floor is that of the archive, which was published anew.
    let settings = lines(&image["settings"]).into_iter();
    let settings: Vec<String> = settings
        .filter(|line| !line.contains("clock floor"))
        .collect();
    assert_eq!(settings, ["changed sysctl vm.overcommit_memory value"]);
    let boot: Vec<&str> = image["boot"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["name"].as_str().unwrap())
        .collect();
    assert_eq!(boot, ["command line", "os-release", "boot image"]);
    let files: Vec<String> = lines(&image["files"]);
    assert_eq!(
        files,
        [
            "changed /etc/os-release sha256",
            "changed /etc/secret.txt mode",
            "changed /srv/www/css/page.css size",
            "changed /srv/www/index.html sha256",
            "added /srv/www/new.html type,mode,owner,size",
            "removed /srv/www/old.html type,mode,owner,size",
            "changed /usr/bin/hello-server sha256",
        ]
    );
    // The layers below are the same ones.
    let layers = lines(&image["layers"]);
    assert!(
        layers
            .iter()
            .all(|line| !line.contains("base") && !line.contains("floor")),
        "{layers:?}"
    );
    // And the other way round.
    let back = versions.json(&versions.images[1], &versions.images[0]);
    let files: Vec<String> = lines(&back["images"][0]["files"]);
    assert!(files.contains(&"removed /srv/www/new.html type,mode,owner,size".to_owned()));
    assert_eq!(files.len(), 7);
}

#[test]
fn files_and_store_say_the_same() {
    let versions = versions();
    // One image, in whatever form.
    for (a, b) in [
        (&versions.raw[0], &versions.qcow2[0]),
        (&versions.images[0], &versions.raw[0]),
        (&versions.images[0], &versions.images[0]),
    ] {
        assert_eq!(versions.json(a, b)["same"], true);
    }
    let told = versions
        .diff(&[&versions.raw[0], &versions.qcow2[0]])
        .good();
    assert!(
        told.stdout
            .contains("packages: not recorded in a disk file"),
        "{}",
        told.stdout
    );
    assert!(told.stdout.ends_with("no difference\n"), "{}", told.stdout);
    // Two images: only packages need the lock.
    let of = |a: &str, b: &str| {
        let mut image = versions.json(a, b)["images"][0].take();
        for key in ["old", "new", "packages"] {
            image[key] = Value::Null;
        }
        image
    };
    let store = of(&versions.images[0], &versions.images[1]);
    assert_eq!(of(&versions.raw[0], &versions.raw[1]), store);
    assert_eq!(of(&versions.qcow2[0], &versions.raw[1]), store);
    assert_eq!(of(&versions.images[0], &versions.qcow2[1]), store);
}

#[test]
fn people_read_sections_with_marks() {
    let versions = versions();
    let start = Instant::now();
    let told = versions.diff(&[&versions.images[0], &versions.images[1]]);
    let took = start.elapsed();
    assert_eq!(told.code, Some(1));
    for part in [
        "\nimage\n  ~ version        1.0.0 -> 1.1.0\n",
        "\npackages\n  ~ hello-server  1.0-1 -> 1.1-1\n",
        "\nservices\n  ~ web\n      exec             /usr/bin/hello-server --port 8080 -> /usr/bin/hello-server --port 9090\n",
        "  ~ sysctl vm.overcommit_memory  1 -> 2\n",
        "~ command line   +mitigations=auto\n",
        "\nlayers\n",
        "  ~ /etc/secret.txt        mode 0640 -> 0600\n",
        "  ~ /srv/www/css/page.css  20 B -> 30 B\n",
        "  ~ /srv/www/index.html    other content\n",
        "  + /srv/www/new.html      4 B\n",
        "  - /srv/www/old.html      4 B\n",
        "1 package, 1 service, ",
        "7 files (1 added, 1 removed) differ\n",
    ] {
        assert!(told.stdout.contains(part), "{part}\nin\n{}", told.stdout);
    }
    // Far above what it takes, so that a busy host fails nothing.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn many_files_are_cut_short_unless_all_are_wanted() {
    let world = World::new();
    let project = world.small_project("small");
    let one = world.build(&project, &[]).image().to_owned();
    for number in 0..250 {
        write(&project.join(format!("www/{number:03}.txt")), "x");
    }
    let two = world.build(&project, &[]).image().to_owned();
    let diff = |all: &[&str]| {
        let mut args = vec!["diff", "--quiet", &one, &two];
        args.extend(all);
        let told = world.run(&project, &args);
        assert_eq!(told.code, Some(1), "{}", told.stderr);
        told.stdout
    };
    let files = |text: &str| {
        text.lines()
            .filter(|line| line.contains("/srv/www/"))
            .count()
    };
    let (short, whole) = (diff(&[]), diff(&["--all"]));
    assert!(short.contains("  … and 50 more (--all)\n"), "{short}");
    assert_eq!((files(&short), files(&whole)), (200, 250));
    let json: Value = serde_json::from_str(&diff(&["--json"])).unwrap();
    assert_eq!(json["images"][0]["files"].as_array().unwrap().len(), 250);
}

#[test]
fn releases_over_several_boards_are_compared_by_board() {
    let world = World::new();
    let project = world.small_project("small");
    let board = std::fs::read_to_string(project.join("boards/small.toml")).unwrap();
    write(
        &project.join("boards/other.toml"),
        board.replace("name = \"small\"", "name = \"other\""),
    );
    let alone = world.build(&project, &[]).image().to_owned();
    edit(
        &project.join("slipform.toml"),
        "[\"small\"]",
        "[\"small\", \"other\"]",
    );
    let both = world.build(&project, &[]).image().to_owned();
    write(&project.join("www/index.html"), "changed\n");
    let later = world.build(&project, &[]).image().to_owned();
    let diff = |a: &str, b: &str| world.run(&project, &["diff", "--json", a, b]);
    let told = diff(&both, &later);
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    let json = told.json();
    let images = json["images"].as_array().unwrap();
    let boards: Vec<_> = images
        .iter()
        .map(|image| image["board"].as_str().unwrap())
        .collect();
    assert_eq!(boards, ["other", "small"]);
    for image in images {
        assert_eq!(lines(&image["files"]), ["changed /srv/www/index.html size"]);
    }
    let json = diff(&alone, &both).json();
    assert_eq!(json["boards_added"], json!(["other"]));
    assert_eq!(json["images"][0]["same"], true);
    assert_eq!(diff(&both, &both).code, Some(0));
}

#[test]
fn what_is_no_image_is_exit_code_2() {
    let world = World::new();
    let project = world.small_project("small");
    let image = world.build(&project, &[]).image().to_owned();
    let text = project.join("slipform.toml");
    let diff = |a: &str, b: &str| world.run(&project, &["diff", "--quiet", a, b]);
    diff(&image, "nowhere").refused(2, &["'nowhere'", "neither a file nor a digest"]);
    diff(text.to_str().unwrap(), &image).refused(2, &["slipform.toml", "partition table"]);
    let unknown = format!("sha256:{}", "0".repeat(64));
    diff(&image, &unknown).refused(2, &["0000"]);
    diff(project.to_str().unwrap(), &image).refused(2, &["small"]);
    // Any other blob of the store is no image.
    let config = world
        .store()
        .join("blobs/sha256")
        .join(image.trim_start_matches("sha256:"));
    let manifest: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let machine = manifest["layers"][1]["digest"].as_str().unwrap();
    diff(&image, machine).refused(2, &["disk map"]);
}
