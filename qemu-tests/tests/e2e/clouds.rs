//! What a real image and a new page on it cost in blocks of a cloud. Nothing boots.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use slipform::attest;
use slipform::base::Digest;
use slipform::base::progress::Quiet;
use slipform::publish::Release;
use slipform::publish::cloud::{Ami, AwsTarget, Casting, Made, Parent};
use slipform::remote::aws::Aws;
use slipform::remote::aws::ec2::BootMode;
use slipform::remote::testing::{AwsRules, TestAws, quick};
use slipform::sources::Host;

use crate::support::lab::settings;
use crate::support::project::{Project, Subject};

/// Makes an image of a cast disk, and says what it cost.
fn made(service: &TestAws, subject: &Subject, parent: Option<&Parent>) -> Made {
    let variables = service.variables(service.address());
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let aws = Aws::open(&Host::fake("/nowhere", &variables), quick()).unwrap();
    let cast = &subject.cast;
    let images = vec![(cast.board.name.clone(), cast.manifest, None)];
    let attested = attest::force(images, "what it costs, not what it does").unwrap();
    let release = Release {
        name: subject.image.name.clone(),
        version: subject.image.version.clone(),
        digest: cast.manifest,
        lock: Digest::of("lock"),
        tests: BTreeMap::new(),
    };
    let target: AwsTarget = "aws://eu-central-1".parse().unwrap();
    let ami = Ami {
        store: settings().store(),
        aws: &aws,
        target: &target,
        progress: &Quiet,
    };
    let begun = Instant::now();
    let made = ami
        .make(&Casting {
            image: &attested.images()[0],
            release: &release,
            arch: cast.board.arch.name(),
            boot: BootMode::Uefi,
            disk: &cast.disk,
            parent,
        })
        .unwrap();
    // Past what the test runner captures; a closed stderr is nobody who could be told.
    let _ = writeln!(
        std::io::stderr(),
        "{}: {} of {} blocks, {} bytes in {} ms",
        release.name,
        made.blocks.1,
        made.blocks.0,
        made.moved,
        begun.elapsed().as_millis()
    );
    made
}

#[test]
fn a_new_page_on_hello_moves_a_quarter_of_it_at_most() {
    let service = TestAws::new(AwsRules {
        pending: 0,
        page: 10_000,
        ..AwsRules::default()
    });
    let hello = Project::shipped("hello");
    let first = hello.cast();
    let whole = made(&service, &first, None);
    let page = [("www/index.html", "<h1>hello, new page</h1>\n")];
    let next = hello.variant("hello-new-page", &[], &page);
    let parent = Parent {
        snapshot: whole.images[0].snapshot.clone().unwrap(),
        disk: first.cast.disk.clone(),
    };
    let delta = made(&service, &next.cast(), Some(&parent));
    assert!(delta.moved * 4 <= whole.moved, "{delta:?} of {whole:?}");
    assert_eq!(service.complaints(), Vec::<String>::new());
}
