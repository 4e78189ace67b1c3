//! moto's EC2, EBS and Systems Manager, with its signature checks on: a second reader of what
//! goes over the wire. What it does not check (sums, counts, tokens, states) the strict service
//! of ours does; it forgets parents and tags of images, so that it sees one whole release.

use super::parts::Moto;
use crate::common::scene::Scene;

const TO: &str = "aws://us-east-1";

#[test]
fn moto_makes_an_image_of_what_we_send() {
    let Some(moto) = Moto::new() else {
        return;
    };
    let mut scene = Scene::new();
    scene.variables = moto.variables(moto.address());
    scene.tested();
    let to = ["--to", &scene.remote, "--to", TO, "--board", "small"];
    let mut all = to.to_vec();
    all.extend(["--ssm", "/small/stable", "--share", "210987654321"]);
    let published = scene.publish(&all);
    let made = &published["clouds"][0];
    assert!(
        made["id"].as_str().unwrap().starts_with("ami-"),
        "{published}"
    );
    let blocks = published["cloud_blocks"].as_u64().unwrap();
    assert_eq!(published["cloud_changed"], blocks);
    assert_eq!(published["cloud_moved"], blocks * 512 * 1024);
    scene
        .run(&["promote", "candidate", "stable", "--ssm", "/small/stable"])
        .good();
    // Whoever has the wrong keys is told what to look at.
    let wrong = ("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned());
    scene.variables.push(wrong);
    scene.change("<h1>second</h1>\n");
    scene.tested();
    let mut all = vec!["publish"];
    all.extend(to);
    scene
        .run(&all)
        .refused(1, &["AuthFailure", "AWS_SECRET_ACCESS_KEY"]);
}
