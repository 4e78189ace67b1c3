//! Images in a cloud by the command: the record names them, the parameter follows the
//! channel, and a publisher that was killed is taken up by the next.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::scene::Scene;
use slipform::base::Digest;
use slipform::remote::testing::{AwsRules, AzureRules, GcpRules, TestAws, TestAzure, TestGcp};

const BLOCK: usize = 512 * 1024;
const TO: &str = "aws://eu-central-1,us-east-1";
const SSM: &str = "/small/stable";

/// A scene whose clouds are the service.
fn scene(service: &TestAws) -> Scene {
    let mut scene = Scene::new();
    scene.variables = service.variables(service.address());
    scene
}

fn at_once() -> TestAws {
    TestAws::new(AwsRules {
        pending: 0,
        page: 10_000,
        ..AwsRules::default()
    })
}

/// Publishes with images in the cloud.
fn publish(scene: &Scene, more: &[&str]) -> Value {
    let mut all = vec!["--to", &scene.remote, "--to", TO, "--board", "small"];
    all.extend(more);
    scene.publish(&all)
}

/// The id in the first region of what was published.
fn id(published: &Value) -> String {
    assert_eq!(
        published["clouds"].as_array().unwrap().len(),
        2,
        "{published}"
    );
    assert_eq!(published["clouds"][0]["region"], "eu-central-1");
    published["clouds"][0]["id"].as_str().unwrap().to_owned()
}

/// The sums of a raw disk's blocks that are not zero.
fn blocks(scene: &Scene) -> Vec<(u32, Digest)> {
    let mut disk = File::open(scene.dir.join("out/small-1-small.raw")).unwrap();
    let mut found = Vec::new();
    for index in 0.. {
        let mut block = Vec::with_capacity(BLOCK);
        (&mut disk)
            .take(BLOCK as u64)
            .read_to_end(&mut block)
            .unwrap();
        if block.is_empty() {
            break;
        }
        block.resize(BLOCK, 0);
        if block.iter().any(|byte| *byte != 0) {
            found.push((index, Digest::of(&block)));
        }
    }
    found
}

#[test]
fn the_parameter_follows_the_channel_and_a_new_page_moves_its_blocks_only() {
    let service = at_once();
    let scene = scene(&service);
    scene.tested();
    let first = publish(&scene, &["--channel", "candidate"]);
    let before = blocks(&scene);
    let on_first = service.disk(&id(&first));
    assert_eq!(on_first.into_iter().collect::<Vec<_>>(), before);
    assert!(service.parameter("eu-central-1", SSM).is_none());
    let named = || {
        let home = service.parameter("eu-central-1", SSM);
        assert!(home.is_some() && service.parameter("us-east-1", SSM).is_some());
        home.unwrap()
    };
    scene
        .run(&["promote", "candidate", "stable", "--ssm", SSM])
        .good();
    assert_eq!(named(), id(&first));

    scene.change("<h1>second</h1>\n");
    scene.tested();
    let second = publish(
        &scene,
        &["--channel", "candidate", "--share", "210987654321"],
    );
    let after = blocks(&scene);
    let changed = after.iter().filter(|block| !before.contains(block)).count();
    let moved = second["cloud_moved"].as_u64().unwrap();
    assert!(
        moved * 10 <= (changed * BLOCK) as u64 * 11
            && moved < first["cloud_moved"].as_u64().unwrap(),
        "{moved} bytes for {changed} of {} blocks",
        after.len()
    );
    let on_second = service.disk(&id(&second));
    assert_eq!(on_second.into_iter().collect::<Vec<_>>(), after);
    assert!(service.image(&id(&second)).1.contains("210987654321"));

    // From now on the channel knows its parameter.
    scene.run(&["promote", "candidate", "stable"]).good();
    assert_eq!(named(), id(&second));
    scene
        .run(&["rollback", "stable", "--why", "second is ugly"])
        .good();
    assert_eq!(named(), id(&first));
    let log = scene.run(&["log", "stable", "--json"]).good().json();
    let says = &log["entries"][0]["says"];
    assert_eq!(says["clouds"][0]["id"], id(&first));
    assert_eq!(says["parameter"], SSM);

    // Read back, block by block; and what somebody changed there is found.
    let verify = ["verify", "candidate", "--clouds"];
    let good = scene.run(&verify).good().stdout;
    let line = format!("every block of {} in eu-central-1 for small", id(&second));
    assert!(good.contains(&line), "{good}");
    service.corrupt(&id(&second), after[1].0);
    let bad = scene.run(&verify);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let line = format!("block {} of snap-", after[1].0);
    assert!(bad.stdout.contains(&line), "{bad:?}");
    let log = scene.run(&["log", "candidate"]).good().stdout;
    let line = format!("{{{} in eu-central-1 and 1 more}}", id(&second));
    assert!(log.lines().next().unwrap().contains(&line), "{log}");

    // The second is named by candidate, until a third one is: then it ends.
    scene.change("<h1>third</h1>\n");
    scene.tested();
    let third = publish(&scene, &["--channel", "candidate", "--deprecate", "30d"]);
    assert!(service.deprecated(&id(&second)).is_some());
    assert!(service.deprecated(&id(&first)).is_none(), "stable names it");
    assert!(service.deprecated(&id(&third)).is_none());
    scene.run(&["promote", "candidate@2", "stable"]).good();
    assert_eq!(named(), id(&second));
    assert!(
        service.deprecated(&id(&second)).is_none(),
        "it is in use again"
    );
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_parameter_that_could_not_be_switched_is_said_with_what_to_do() {
    let denied = TestAws::new(AwsRules {
        pending: 0,
        deny: Some("PutParameter"),
        ..AwsRules::default()
    });
    let scene = scene(&denied);
    scene.tested();
    let publish = ["publish", "--to", TO, "--board", "small", "--ssm", SSM];
    scene.run(&publish).refused(
        1,
        &[
            "channel 'candidate' names the release",
            SSM,
            "the keys lack the right ssm:PutParameter",
            "`slipform promote candidate candidate`",
        ],
    );
    // The record stands, and names what to switch.
    let log = scene.run(&["log", "candidate", "--json"]).good().json();
    assert_eq!(log["entries"][0]["says"]["parameter"], SSM);
    let promote = ["promote", "candidate", "candidate"];
    scene.run(&promote).refused(1, &["ssm:PutParameter"]);
}

#[test]
fn a_publisher_that_was_killed_among_the_blocks_is_taken_up() {
    let service = TestAws::new(AwsRules {
        pending: 1,
        page: 10_000,
        burst: 1_000,
        ..AwsRules::default()
    });
    let scene = scene(&service);
    scene.tested();
    let args = [
        "--quiet", "publish", "--to", TO, "--board", "small", "--ssm", SSM,
    ];
    let mut command = scene.world.command(&scene.dir, &args);
    command
        .env("SLIPFORM_REMOTE", &scene.remote)
        .env("SLIPFORM_BY", "ann")
        .envs(scene.variables.iter().cloned())
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut first = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while service.count("PutSnapshotBlock") < 2 {
        assert!(Instant::now() < end, "it sends nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let published = publish(&scene, &["--ssm", SSM]);
    let all = blocks(&scene);
    assert_eq!(service.images().len(), 2);
    assert_eq!(service.snapshots().len(), 2);
    let disk = service.disk(&id(&published));
    assert_eq!(disk.into_iter().collect::<Vec<_>>(), all);
    assert_eq!(service.parameter("eu-central-1", SSM), Some(id(&published)));
    // Those under way when it was killed may have come twice.
    let put = service.count("PutSnapshotBlock");
    assert!(put <= all.len() + 32, "{put} for {}", all.len());
    let again = publish(&scene, &["--ssm", SSM]);
    assert_eq!(
        (id(&again), &again["unchanged"]),
        (id(&published), &true.into())
    );
    assert_eq!(service.count("PutSnapshotBlock"), put);
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_dry_run_sends_nothing_and_bad_input_says_what_to_write() {
    let service = at_once();
    let scene = scene(&service);
    scene.tested();
    let dry = [
        "publish",
        "--dry-run",
        "--to",
        TO,
        "--board",
        "small",
        "--ssm",
        SSM,
    ];
    let shown = scene.run(&dry).good().stdout;
    for part in [
        "ebs StartSnapshot in eu-central-1:",
        "ebs PutSnapshotBlock",
        "ec2 RegisterImage in eu-central-1:",
        "ImdsSupport=v2.0",
        "ec2 CopyImage in us-east-1:",
        "ssm PutParameter in us-east-1:",
        "Name=/small/stable",
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let mut json = dry.to_vec();
    json.push("--json");
    let json = scene.run(&json).good().json();
    let calls = json["clouds"][0]["calls"].as_array().unwrap();
    let puts = calls
        .iter()
        .filter(|call| call["action"] == "PutSnapshotBlock");
    assert_eq!(puts.count(), blocks(&scene).len());
    assert_eq!(service.seen(), []);
    // Also without any keys: nothing is signed.
    let mut bare = Scene::new();
    bare.variables.clear();
    bare.tested();
    bare.run(&dry).good();

    for (args, parts) in [
        (
            &["--to", "aws://moon"][..],
            &["'aws://moon'", "eu-central-1"][..],
        ),
        (&["--to", TO], &["aws-…", "(there is small)", "--board"]),
        (
            &["--to", TO, "--board", "other"],
            &["board other", "(there is small)"],
        ),
        (&["--to", TO, "--share", "me"], &["'me'", "12 digits"]),
        (
            &["--to", TO, "--ssm", "stable"],
            &["'stable'", "begins with /"],
        ),
        (&["--ssm", SSM], &["--to aws://region"]),
        (
            &["--to", "file:///a", "--to", "file:///b"],
            &["several remotes"],
        ),
        (&["--to", TO, "--to", TO], &["aws://region,region"]),
    ] {
        let mut all = vec!["publish"];
        all.extend(args);
        scene.run(&all).refused(2, parts);
    }
    assert_eq!(service.seen(), []);
    scene.publish(&[]);
    let refused = ["promote", "candidate", "stable", "--ssm", SSM];
    scene
        .run(&refused)
        .refused(2, &["no images in a cloud", "--to aws://region"]);
}

#[test]
fn a_container_of_azure_holds_the_vhd_and_the_record_names_it() {
    let service = TestAzure::new(AzureRules::default());
    let mut scene = Scene::new();
    scene.variables = service.variables(service.address());
    scene.tested();
    let to = "azure://testaccount/images";
    let all = ["--to", &scene.remote, "--to", to, "--board", "small"];
    let mut dry = vec!["publish", "--dry-run"];
    dry.extend(all);
    let shown = scene.run(&dry).good().stdout;
    assert!(shown.contains("blob Put Blob of small-1-small-"), "{shown}");
    assert_eq!(service.seen(), Vec::<String>::new());
    let published = scene.publish(&all);
    let made = &published["clouds"][0];
    assert_eq!(
        (&made["provider"], &made["arch"]),
        (&"azure".into(), &"x64".into())
    );
    let (bytes, _) = service.blob(made["snapshot"].as_str().unwrap()).unwrap();
    let disk = std::fs::read(scene.dir.join("out/small-1-small.raw")).unwrap();
    assert!(bytes.starts_with(&disk) && bytes.len() == disk.len() + 512);
    scene.change("<h1>second</h1>\n");
    scene.tested();
    let second = scene.publish(&all);
    let moved = |published: &Value| published["cloud_moved"].as_u64().unwrap();
    assert!(
        moved(&second) < moved(&published) / 2,
        "{second} after {published}"
    );

    // Read back, without any keys of AWS's; and what somebody changed there is found.
    let verify = ["verify", "candidate", "--clouds"];
    let made = &second["clouds"][0];
    let line = format!("{} in testaccount for small", made["id"].as_str().unwrap());
    let good = scene.run(&verify).good().stdout;
    assert!(good.contains(&format!("every block of {line}")), "{good}");
    service.corrupt(made["snapshot"].as_str().unwrap(), 0);
    let bad = scene.run(&verify);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let line = format!("{line}: byte 0 is not the disk's");
    assert!(bad.stdout.contains(&line), "{bad:?}");

    let bad = ["publish", "--to", "azure://x/images"];
    scene
        .run(&bad)
        .refused(2, &["'azure://x/images'", "3 to 24"]);
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_bucket_of_google_holds_the_tar_and_the_record_names_the_image_made_of_it() {
    let service = TestGcp::new(GcpRules::default());
    let mut scene = Scene::new();
    scene.variables = service.variables(service.address());
    scene.tested();
    let to = "gcp://test-project/images/web";
    let all = ["--to", &scene.remote, "--to", to, "--board", "small"];
    // A disk of odd MiB is none for Google, and that is said before anything moves.
    let mut dry = vec!["publish", "--dry-run"];
    dry.extend(all);
    scene
        .run(&dry)
        .refused(2, &["whole GiB", "disk-multiple = \"1GiB\""]);
    let board = scene.dir.join("boards/small.toml");
    let text = std::fs::read_to_string(&board).unwrap();
    let whole = "disk-multiple = \"1GiB\"";
    let text = text.replace("disk-multiple = \"1MiB\"", whole);
    assert!(text.contains(whole), "{text}");
    std::fs::write(&board, text).unwrap();
    scene.tested();
    let shown = scene.run(&dry).good().stdout;
    assert!(
        shown.contains("compute images.insert of small-1"),
        "{shown}"
    );
    assert_eq!(service.seen(), Vec::<String>::new());

    let published = scene.publish(&all);
    let made = &published["clouds"][0];
    assert_eq!(
        (&made["provider"], &made["region"], &made["arch"]),
        (&"gcp".into(), &"test-project".into(), &"X86_64".into())
    );
    let objects = service.objects();
    assert_eq!(objects.len(), 1);
    let (name, bytes) = &objects[0];
    assert_eq!(made["snapshot"], format!("gs://images/{name}"));
    assert_eq!(published["cloud_moved"], bytes.len());
    let images: Vec<String> = service.images().into_iter().map(|(id, _)| id).collect();
    assert_eq!(images, [made["id"].as_str().unwrap()]);

    let verify = ["verify", "candidate", "--clouds"];
    let line = format!("{} in test-project for small", images[0]);
    let good = scene.run(&verify).good().stdout;
    assert!(good.contains(&line), "{good}");
    service.corrupt(name);
    let bad = scene.run(&verify);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(
        bad.stdout.contains(&line) && bad.stdout.contains("is not the disk's"),
        "{bad:?}"
    );
    let bad = ["publish", "--to", "gcp://test-project"];
    scene.run(&bad).refused(2, &["'gcp://test-project'"]);
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn what_only_aws_has_is_refused_beside_another_cloud() {
    let scene = Scene::new();
    scene.tested();
    for to in ["azure://testaccount/images", "gcp://test-project/images"] {
        for (option, value) in [
            ("--share", "210987654321"),
            ("--ssm", SSM),
            ("--deprecate", "30d"),
        ] {
            let all = ["publish", "--to", &scene.remote, "--to", to, option, value];
            scene
                .run(&all)
                .refused(2, &[option, "about images in AWS", "--to aws://region"]);
        }
    }
    scene
        .run(&["publish", "--to", &scene.remote, "--board", "small"])
        .refused(2, &["--board", "about images in a cloud"]);
}
