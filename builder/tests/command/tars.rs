//! A tar as a layer: the same image as its files would make, and no way in for what was
//! made to do harm.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{SMALL, World, edit, told, write};
use slipform::base::EPOCH;

/// Most memory that a refusal may take, in KiB.
const MOST_MEMORY: u64 = 64 << 10;
/// Most processor time that a refusal may take. Unoptimised code walks headers slowly.
const MOST_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });

/// A header of mode, owner and time as files of the user's have them.
fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(EPOCH).unwrap());
    header
}

/// The ordinary project's page as an archive.
fn page(dir: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["css/page.css", "index.html"] {
        let bytes = fs::read(dir.join("www").join(name)).unwrap();
        let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
        let path = format!("./srv/www/{name}");
        archive
            .append_data(&mut header, path, bytes.as_slice())
            .unwrap();
    }
    let mut device = header(tar::EntryType::Char, 0);
    archive
        .append_data(&mut device, "./dev/null", &[][..])
        .unwrap();
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// The image of a project as it is now.
fn image(world: &World, dir: &Path) -> String {
    world.build(dir, &[]).image().to_owned()
}

/// What is different in the files of two images, as they are read back from their disks.
fn changed_files(world: &World, dir: &Path, old: &str, new: &str) -> Vec<String> {
    let said = world.run(dir, &["diff", "--json", old, new]);
    let images = said.json()["images"].clone();
    let files = images[0]["files"].as_array().unwrap().clone();
    let paths = files.iter();
    paths
        .map(|file| file["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A project whose page comes from `root.tar`, whatever that is.
fn project(world: &World, archive: &[u8]) -> std::path::PathBuf {
    let dir = world.small_project("small");
    let spec = SMALL.replace(
        r#"files = [{ from = "www", to = "/srv/www" }]"#,
        r#"tar = "root.tar""#,
    );
    write(&dir.join("slipform.toml"), spec);
    write(&dir.join("root.tar"), archive);
    dir
}

#[test]
fn a_tar_makes_the_layer_that_its_files_would() {
    let world = World::new();
    let by_files = world.small_project("small");
    let expected = image(&world, &by_files);
    let archive = page(&by_files);
    let dir = world.path("small");
    let none: [&str; 0] = [];
    let mut layers = std::collections::BTreeSet::new();
    for bytes in [archive.clone(), gzip(&archive), zstd(&archive)] {
        project(&world, &bytes);
        let image = image(&world, &dir);
        assert_eq!(changed_files(&world, &dir, &expected, &image), none);
        let info = world
            .run(&dir, &["inspect", "--json", &image])
            .good()
            .json();
        layers.insert(info["partitions"].to_string());
    }
    // However it is compressed, the layer's bytes are the same.
    assert_eq!(layers.len(), 1, "{layers:?}");
    let lock = fs::read_to_string(dir.join("slipform.lock")).unwrap();
    assert!(
        lock.contains("[layer.tar]\npath = \"root.tar\"\n"),
        "{lock}"
    );
    // What the lock has is what is built, offline too, and what is said of devices.
    let again = world
        .run_cut_off(&dir, &["--offline", "build", "--locked"])
        .good();
    assert!(
        again.stderr.contains("left out 1 device nodes"),
        "{again:?}"
    );

    // Another archive makes the lock stale, by name.
    let mut changed = tar::Builder::new(Vec::new());
    let mut file = header(tar::EntryType::Regular, 3);
    changed
        .append_data(&mut file, "srv/www/index.html", &b"new"[..])
        .unwrap();
    write(&dir.join("root.tar"), changed.into_inner().unwrap());
    world
        .run(&dir, &["--quiet", "build", "--locked"])
        .refused(2, &["layer 'app' has root.tar", "slipform lock"]);
    let changed = image(&world, &dir);
    assert_eq!(
        changed_files(&world, &dir, &expected, &changed),
        [
            "/srv/www/css",
            "/srv/www/css/page.css",
            "/srv/www/index.html"
        ]
    );

    // The user's own file goes before the archive's.
    let spec = dir.join("slipform.toml");
    edit(
        &spec,
        "tar =",
        "files = [{ from = \"www\", to = \"/srv/www\" }]\ntar =",
    );
    let mended = image(&world, &dir);
    assert_eq!(changed_files(&world, &dir, &expected, &mended), none);
}

#[test]
fn a_release_keeps_its_tar() {
    let scene = crate::common::scene::Scene::new();
    let archive = gzip(&page(&scene.dir));
    project(&scene.world, &archive);
    scene.tested();
    scene.publish(&[]);
    let out = scene.world.path("out");
    let checkout = ["checkout", "candidate", out.to_str().unwrap()];
    scene.run(&checkout).good();
    assert_eq!(fs::read(out.join("root.tar")).unwrap(), archive);
}

/// Builds a project with a hostile archive: what it said, the most memory in KiB that it
/// was seen to take, and its processor time.
fn build_watched(world: &World, archive: &[u8]) -> (crate::common::Outcome, u64, Duration) {
    let dir = project(world, archive);
    world.run(&dir, &["--quiet", "lock"]).good();
    world.run(&dir, &["--quiet", "fetch"]).good();
    let mut command: Command = world.command(&dir, &["--quiet", "build", "--locked"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let stat = format!("/proc/{}/stat", child.id());
    let (mut memory, mut ticks) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        memory = memory.max(now.unwrap_or(0));
        // proc_pid_stat(5): utime and stime are fields 14 and 15, in hundredths of a second.
        let text = fs::read_to_string(&stat).unwrap_or_default();
        let fields = text.rsplit(") ").next().unwrap_or_default();
        let times = fields.split(' ').skip(11).take(2);
        ticks = ticks.max(times.filter_map(|time| time.parse::<u64>().ok()).sum());
        std::thread::sleep(Duration::from_millis(2));
    }
    let said = told(child.wait_with_output().unwrap());
    (said, memory, Duration::from_millis(ticks * 10))
}

#[track_caller]
fn refused_cheaply(world: &World, what: &str, archive: &[u8], parts: &[&str]) {
    let (said, memory, time) = build_watched(world, archive);
    said.refused(2, parts);
    let figures = format!("{what}: {} bytes, {memory} KiB, {time:?}", archive.len());
    // A closed stderr is nobody who could be told.
    let _ = writeln!(std::io::stderr(), "{figures}");
    assert!(memory > 0 && memory < MOST_MEMORY, "{figures}");
    assert!(time < MOST_TIME, "{figures}");
    let temporary = crate::common::files(&world.store().join("tmp"));
    assert!(
        temporary.iter().all(|path| !path.is_file()),
        "{temporary:?}"
    );
}

#[test]
fn ten_million_entries_are_refused_in_bounded_memory() {
    let world = World::new();
    let mut part = tar::Builder::new(Vec::new());
    for number in 0..10_000 {
        let mut entry = header(tar::EntryType::Regular, 0);
        part.append_data(&mut entry, format!("{number}"), &[][..])
            .unwrap();
    }
    // Without the end marker, a thousand times: frames may stand behind each other.
    let mut part = part.into_inner().unwrap();
    part.truncate(10_000 * 512);
    let archive = zstd(&part).repeat(1000);
    let parts = ["tar root.tar", "its number of entries", "500000"];
    refused_cheaply(&world, "ten million entries", &archive, &parts);
}

#[test]
fn a_bomb_is_refused_in_bounded_memory() {
    let world = World::new();
    let size = 10_u64 << 30;
    let mut start = header(tar::EntryType::Regular, size);
    start.set_path("bomb").unwrap();
    start.set_cksum();
    // 10 GiB of zeros would be some hundred KiB: the header alone is refused.
    let zeros = zstd(&vec![0; 1 << 20]);
    let named = [zstd(start.as_bytes()), zeros.repeat(10)].concat();
    let parts = ["tar root.tar", "its unpacked size", "268435456"];
    refused_cheaply(&world, "a file beyond the limit", &named, &parts);
    // Nothing says before that padding behind the end goes on and on.
    let endless = [zstd(&[0; 1024]), zeros.repeat(400)].concat();
    refused_cheaply(&world, "endless padding", &endless, &parts);
}
