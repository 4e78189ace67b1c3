//! Bad input gets one clear line and exit code 2: value, rule, remedy; and
//! nothing half-written lies under a final name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{SPEC, World, edit, files, write};
use slipform::lock::testing::TestPackage;

/// A change of the ordinary specification, and what must be said of it.
struct Case {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    told: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "an unknown key",
        from: "packages = [",
        to: "packges = [",
        told: &[
            "slipform.toml:13: ",
            "unknown key 'packges'",
            "did you mean 'packages'?",
        ],
    },
    Case {
        name: "an unknown value",
        from: "user = \"web\"",
        to: "user = \"web\"\nrestart = \"allways\"",
        told: &[
            "slipform.toml:",
            "unknown value 'allways'",
            "did you mean 'always'?",
        ],
    },
    Case {
        name: "a missing file",
        from: "from = \"www\"",
        to: "from = \"wwww\"",
        told: &[
            "layer 'app'",
            "files[0] wwww",
            "'wwww' is not in",
            "create it, or mend `from`",
        ],
    },
    Case {
        name: "a glob without files",
        from: "from = \"www\"",
        to: "from = \"www/**/*.png\"",
        told: &[
            "layer 'app'",
            "no file in",
            "matches 'www/**/*.png'",
            "mend the glob",
        ],
    },
    Case {
        name: "a path that climbs",
        from: "from = \"www\"",
        to: "from = \"www/../../secret\"",
        told: &[
            "layer 'app'",
            "'www/../../secret'",
            "leads out of the layer's folder by '..'",
            "copy",
        ],
    },
    Case {
        name: "a path of the host",
        from: "from = \"www\"",
        to: "from = \"/etc/passwd\"",
        told: &[
            "layer 'app'",
            "'/etc/passwd' must be relative to the layer's folder",
            "copy",
        ],
    },
    Case {
        name: "a path in the image that climbs",
        from: "to = \"/srv/www\"",
        to: "to = \"/srv/../../www\"",
        told: &["slipform.toml:", "'/srv/../../www'", ".."],
    },
    Case {
        name: "a path through a link that leads out",
        from: "from = \"www\"",
        to: "from = \"outside/file.txt\"",
        told: &[
            "layer 'app'",
            "outside is a link to",
            "outside the layer's folder",
            "copy",
        ],
    },
    Case {
        name: "a link that leads out",
        from: "from = \"www\"",
        to: "from = \"www/secret\"",
        told: &[
            "layer 'app'",
            "secret is a link to",
            "outside the layer's folder",
            "copy",
        ],
    },
    Case {
        name: "a used layer that leads out",
        from: "use = \"base\"",
        to: "use = \"bsae\"",
        told: &["slipform.toml:", "\"bsae\"", "did you mean 'base'?"],
    },
    Case {
        name: "a file where a layer below has a folder",
        from: "{ from = \"www\", to = \"/srv/www\" }",
        to: "{ from = \"www/index.html\", to = \"/opt/floor\" }",
        told: &[
            "layer 'app': /opt/floor is a folder of layer 'floor'",
            "files[0] www/index.html",
            "a file",
            "`remove`",
        ],
    },
    Case {
        name: "a folder where a layer below has a file",
        from: "to = \"/srv/www\"",
        to: "to = \"/opt/floor/readme.txt\"",
        told: &[
            "layer 'app': /opt/floor/readme.txt is a file of layer 'floor'",
            "files[0] www",
            "a folder",
            "`remove`",
        ],
    },
    Case {
        name: "a remove that hits nothing",
        from: "users = [",
        to: "remove = [\"/opt/floor/nothing\"]\nusers = [",
        told: &[
            "layer 'app': remove '/opt/floor/nothing' hits nothing",
            "mend the path",
        ],
    },
    Case {
        name: "an unknown package",
        from: "hello-server\"]",
        to: "helo-server\"]",
        told: &[
            "layer 'app'",
            "no package 'helo-server'",
            "did you mean hello-server?",
        ],
    },
    Case {
        name: "a version that there is not",
        from: "hello-server\"]",
        to: "hello-server (>= 9)\"]",
        told: &[
            "layer 'app'",
            "hello-server (>= 9)",
            "the archives have hello-server 1.0-1",
        ],
    },
    Case {
        name: "a package whose dependency there is not",
        from: "hello-server\"]",
        to: "picky\"]",
        told: &[
            "layer 'app'",
            "libc6",
            "2.41-1",
            "(>= 99)",
            "needed by picky",
        ],
    },
    Case {
        name: "packages that conflict",
        from: "hello-server\"]",
        to: "hello-server\", \"rival\"]",
        told: &["layer 'app'", "rival", "hello-server"],
    },
    Case {
        name: "a user that there is not",
        from: "user = \"web\"",
        to: "user = \"wbe\"",
        told: &["slipform.toml: ", "no user 'wbe'", "add it"],
    },
    Case {
        name: "an unknown board",
        from: "version = \"1.0.0\"",
        to: "version = \"1.0.0\"\nboards = [\"qemu\"]",
        told: &["no board 'qemu'", "qemu-x86_64", "boards/qemu.toml"],
    },
    Case {
        name: "a board with a module that the kernel lacks",
        from: "version = \"1.0.0\"",
        to: "version = \"1.0.0\"\nboards = [\"odd\"]",
        told: &[
            "board 'odd': ",
            "kernel 6.12.1+deb13-cloud-amd64",
            "no module 'virtio_blkk'",
            "did you mean 'virtio_blk'?",
        ],
    },
    Case {
        name: "a board with an unknown key",
        from: "version = \"1.0.0\"",
        to: "version = \"1.0.0\"\nboards = [\"typo\"]",
        told: &[
            "boards/typo.toml:",
            "unknown key 'modlues'",
            "did you mean 'modules'?",
        ],
    },
    Case {
        name: "a board whose ESP is too small",
        from: "version = \"1.0.0\"",
        to: "version = \"1.0.0\"\nboards = [\"tiny\"]",
        told: &["boards/tiny.toml: ", "esp-size = \"1MiB\"", "from 33MiB"],
    },
    Case {
        name: "a module of the image that the kernel lacks",
        from: "[[service]]",
        to: "[kernel]\nmodules = [\"overlayy\"]\n\n[[service]]",
        told: &[
            "board 'qemu-x86_64': ",
            "no module 'overlayy'",
            "did you mean 'overlay'?",
        ],
    },
];

#[test]
fn what_is_wrong_in_a_specification_is_told_in_one_line() {
    let mut world = World::new();
    world
        .archive
        .add(
            "trixie",
            TestPackage::new("picky", "1").depends("libc6 (>= 99)"),
        )
        .add(
            "trixie",
            TestPackage::new("rival", "1").field("Conflicts", "hello-server"),
        );
    world.publish();
    write(&world.path("secret"), "secret");
    write(&world.path("elsewhere/file.txt"), "secret");
    let board = slipform::board::shipped("qemu-x86_64").unwrap();
    for case in CASES {
        assert_eq!(SPEC.matches(case.from).count(), 1, "{}", case.name);
        let project = world.project_with(case.name, &SPEC.replace(case.from, case.to));
        symlink("../elsewhere", project.join("outside")).unwrap();
        // A link among copied files stays a link; only one that is named is followed.
        symlink("../../secret", project.join("www/secret")).unwrap();
        for (name, from, to) in [
            ("odd", "\"virtio_blk\"", "\"virtio_blkk\""),
            ("typo", "\nmodules =", "\nmodlues ="),
            ("tiny", "64MiB", "1MiB"),
        ] {
            let text = board
                .replace("name = \"qemu-x86_64\"", &format!("name = \"{name}\""))
                .replace(from, to);
            write(&project.join(format!("boards/{name}.toml")), text);
        }
        let outcome = world.run(&project, &["build", "--quiet"]);
        outcome.refused(2, case.told);
        assert_nothing_left(&project);
    }
}

/// No image, no part of one, no torn lock.
#[track_caller]
fn assert_nothing_left(project: &Path) {
    assert_eq!(files(&project.join("out")), [""; 0].map(Path::new));
    for file in files(project) {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with(".slipform"), "{name}");
    }
    if let Ok(lock) = fs::read_to_string(project.join("slipform.lock")) {
        slipform::lock::LockFile::parse(&lock, Path::new("slipform.lock")).unwrap();
    }
}

#[test]
fn a_layer_file_is_as_strict_and_named() {
    let world = World::new();
    let spec = SPEC.replace("use = \"base\"", "use = \"mine\"");
    let project = world.project_with("app", &spec);
    write(
        &project.join("mine/layer.toml"),
        "packages = [\"libc6\"]\n\nexlude = []\n",
    );
    world.run(&project, &["build", "--quiet"]).refused(
        2,
        &["mine/layer.toml:3: ", "unknown key 'exlude'", "'exclude'"],
    );
    write(&project.join("mine/layer.toml"), "packages = [\"libc6\"]\n");
    world.run(&project, &["build", "--quiet"]).good();
}

#[test]
fn a_file_name_that_is_not_utf_8_is_shown_escaped() {
    let world = World::new();
    let project = world.project("app");
    let name = OsStr::from_bytes(b"na\xefve.txt");
    fs::write(project.join("www").join(name), "x").unwrap();
    world.run(&project, &["build", "--quiet"]).refused(
        2,
        &[
            "layer 'app', files[0] www",
            "'na\\xefve.txt'",
            "is not UTF-8; rename it",
        ],
    );
    assert_nothing_left(&project);
}

#[test]
fn a_pipe_among_the_files_is_refused_and_not_read() {
    let world = World::new();
    let project = world.project("app");
    let Some(mkfifo) =
        crate::common::host_program("mkfifo", "a_pipe_among_the_files_is_refused_and_not_read")
    else {
        return;
    };
    let made = std::process::Command::new(mkfifo)
        .arg(project.join("www/pipe"))
        .status();
    assert!(made.unwrap().success());
    world
        .run(&project, &["build", "--quiet"])
        .refused(2, &["layer 'app', files[0] www", "www/pipe", "pipe"]);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let world = World::new();
    let project = world.project("app");
    let path = project.join("www/big.bin");
    let file = fs::File::create(&path).unwrap();
    // Long enough to read for the clock of the file system to tick meanwhile.
    file.set_len(96 << 20).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                file.write_all_at(&round.to_le_bytes(), (round % 8) << 20)
                    .unwrap();
            }
        });
        let outcome = world.run(&project, &["build", "--quiet"]);
        done.store(true, Ordering::Relaxed);
        outcome.refused(
            1,
            &["www/big.bin", "changes while it is read", "build again"],
        );
    });
    assert_nothing_left(&project);
    file.set_len(100).unwrap();
    world.run(&project, &["build", "--quiet"]).good();
}

#[test]
fn a_lock_that_does_not_fit_names_the_command_that_mends_it() {
    let world = World::new();
    let project = world.project("app");
    let locked = ["build", "--quiet", "--locked"];
    let remedy = format!("mend it with: slipform lock {}\n", project.display());
    world
        .run(&project, &locked)
        .refused(2, &["slipform.lock: there is no lock", &remedy]);
    assert!(!project.join("slipform.lock").exists());
    world.run(&project, &["lock", "--quiet"]).good();
    world.run(&project, &locked).good();
    edit(
        &project.join("slipform.toml"),
        "hello-server\"]",
        "hello-server\", \"ucf\"]",
    );
    let refused = world.run(&project, &locked).refused(
        2,
        &[
            "slipform.lock: the lock is stale: layer 'app' wishes ucf; ",
            &remedy,
        ],
    );
    assert_eq!(
        refused.stderr.matches("slipform lock").count(),
        1,
        "{refused:?}"
    );
    // The command that it names mends it, wherever it is run.
    let dir = project.to_str().unwrap();
    world
        .run(&world.path("."), &["lock", "--quiet", dir])
        .good();
    world.run(&project, &locked).good();
}

#[test]
fn a_lock_of_a_newer_slipform_is_refused() {
    let world = World::new();
    let project = world.project("app");
    world.run(&project, &["lock", "--quiet"]).good();
    let path = project.join("slipform.lock");
    let good = fs::read_to_string(&path).unwrap();
    assert!(good.contains("@generated"), "{good}");
    edit(&path, "\nversion = 1\n", "\nversion = 3\nnew_key = true\n");
    let newer = fs::read_to_string(&path).unwrap();
    for args in [
        &["build", "--quiet"][..],
        &["build", "--quiet", "--locked"],
        &["lock", "--quiet", "--update"],
        &["fetch", "--quiet"],
    ] {
        world.run(&project, args).refused(
            2,
            &[
                "slipform.lock has version 3",
                "reads 2",
                "use the slipform that wrote it",
            ],
        );
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    // A torn one is told by its line.
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    world
        .run(&project, &["build", "--quiet"])
        .refused(2, &["slipform.lock is no lock file: ", "slipform lock"]);
}

#[test]
fn the_users_configuration_is_checked() {
    let world = World::new();
    let project = world.project("app");
    world.configure("snapshot = \"http://x\"\nmirrror = \"http://y\"\n");
    world.run(&project, &["build", "--quiet"]).refused(
        2,
        &[
            "slipform/config.toml:2: ",
            "unknown key 'mirrror'",
            "'mirror'",
        ],
    );
}
