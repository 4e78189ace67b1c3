//! A container image that skopeo pushed to Debian's registry becomes a layer.

use super::parts::Registry;
use super::tools::{at_home, content, skopeo};
use crate::common::{World, edit, write};
use crate::containers::{changed_files, layer, layout, page, project};

#[test]
fn an_image_of_a_registry_is_locked_by_digest_and_builds_offline() {
    let (Some(_), Some(registry)) = (skopeo(), Registry::new()) else {
        return;
    };
    let world = World::new();
    let by_files = world.small_project("small");
    let expected = world.build(&by_files, &[]).image().to_owned();
    let layers = page(&by_files);
    let home = registry.home();
    let push = |folder: &str, layers: &[Vec<u8>], format: &str| {
        for (path, bytes) in layout(layers, "amd64") {
            write(&home.join(folder).join(path), bytes);
        }
        let to = format!("docker://{}:1.4", registry.name("team/app"));
        let from = format!("oci:{}", home.join(folder).display());
        let mut command = skopeo().unwrap();
        command.args(["--insecure-policy", "--override-arch=amd64", "copy"]);
        command.args(["--dest-tls-verify=false", "--format", format, &from, &to]);
        content(at_home(&mut command, &home));
    };
    push("first", &layers, "v2s2");
    let image = format!("{}:1.4", registry.uri("team/app"));
    let dir = project(&world, &image);
    let built = world.build(&dir, &[]).image().to_owned();
    let none: [&str; 0] = [];
    assert_eq!(changed_files(&world, &dir, &expected, &built), none);

    // By another name that the user's configuration knows.
    let other = World::new();
    let address = registry.name("team");
    other.configure(&format!(
        "[registries]\n\"images.example\" = \"{address}\"\n"
    ));
    let aliased = project(&other, "oci://images.example/app:1.4");
    other.build(&aliased, &[]);
    let lock = std::fs::read_to_string(aliased.join("slipform.lock")).unwrap();
    assert!(
        lock.contains("image = \"oci://images.example/app:1.4\"") && !lock.contains(&address),
        "{lock}"
    );

    // The tag moves on; the lock does not, until it is told to.
    let html = [(tar::EntryType::Regular, "srv/www/index.html", &b"new"[..])];
    let newer = [layers.clone(), vec![layer(&html)]].concat();
    push("second", &newer, "oci");
    assert_eq!(world.build(&dir, &["--locked"]).image(), built);
    let newer = world.run(&dir, &["lock", "--check"]);
    assert!(newer.stdout.contains(&image), "{newer:?}");
    world.run(&dir, &["lock", "--update", "app"]).good();
    let updated = world.build(&dir, &["--locked"]).image().to_owned();
    assert_eq!(
        changed_files(&world, &dir, &built, &updated),
        ["/srv/www/index.html"]
    );
    // Without the registry: what is in the store is enough.
    drop(registry);
    let again = ["--offline", "build", "--locked"];
    world.run_cut_off(&dir, &again).good();
    edit(&dir.join("slipform.toml"), ":1.4", ":1.5");
    world
        .run(&dir, &["--quiet", "--offline", "build"])
        .refused(1, &["needs the network"]);
}
