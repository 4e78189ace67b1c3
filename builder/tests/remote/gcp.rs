//! Images of Google's against a strict service of ours: the very tar that `export` writes,
//! sent once and in parts, whatever is cut off, and one image of it.

use slipform::base::progress::Quiet;
use slipform::disk::{DiskMap, Extent};
use slipform::output::{self, OutputFormat};
use slipform::publish::PublishError;
use slipform::publish::cloud::{Casting, GceImage, GcpTarget, Made};
use slipform::remote::RemoteOptions;
use slipform::remote::gcp::{Gcp, NewObject};
use slipform::remote::testing::{Fault, FaultProxy, GcpRules, TestGcp, quick};
use slipform::sources::Host;

use crate::clouds::Scene;
use crate::emulators::Emulator;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A disk of one GiB with the beginnings of what the scene's has.
fn disk(scene: &Scene) -> DiskMap {
    let mut disk = scene.disk.clone();
    disk.size = GIB;
    for extent in &mut disk.extents {
        *extent = Extent {
            length: extent.length.min(MIB),
            ..*extent
        };
    }
    disk
}

/// The service by way of some address.
struct Client {
    gcp: Gcp,
    target: GcpTarget,
}

impl Client {
    fn new(variables: &[(String, String)], options: RemoteOptions) -> Self {
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let host = Host::fake("/nowhere", &variables);
        Self {
            gcp: Gcp::open("test-project", &host, options).unwrap(),
            target: "gcp://test-project/images/web".parse().unwrap(),
        }
    }

    fn at(service: &TestGcp, at: std::net::SocketAddr) -> Self {
        Self::new(&service.variables(at), quick())
    }

    fn gce<'a>(&'a self, scene: &'a Scene) -> GceImage<'a> {
        GceImage {
            store: &scene.store,
            gcp: &self.gcp,
            target: &self.target,
            progress: &Quiet,
        }
    }

    fn make(&self, scene: &Scene) -> Result<Made, PublishError> {
        let disk = disk(scene);
        self.gce(scene).make(&Casting {
            disk: &disk,
            ..scene.casting(None)
        })
    }

    /// What is wrong with what was made; nothing when it is good.
    fn wrong(&self, scene: &Scene, made: &Made) -> Option<String> {
        let casting = scene.casting(None);
        let of = (casting.image.image(), &disk(scene));
        self.gce(scene).verify(&made.images[0], of).unwrap()
    }
}

/// The one object and the one image that there are.
fn only(service: &TestGcp) -> ((String, Vec<u8>), (String, serde_json::Value)) {
    let (mut objects, mut images) = (service.objects(), service.images());
    assert_eq!((objects.len(), images.len()), (1, 1));
    (objects.remove(0), images.remove(0))
}

#[test]
fn a_disk_becomes_the_tar_that_export_writes_and_an_image_of_it() {
    let scene = Scene::new();
    let service = TestGcp::new(GcpRules {
        pending: 2,
        ..GcpRules::default()
    });
    let client = Client::at(&service, service.address());
    let made = client.make(&scene).unwrap();
    let ((object, bytes), (image, said)) = only(&service);
    let file = scene.store.root().join("disk.tar.gz");
    output::write(OutputFormat::GcpTar, &disk(&scene), &scene.store, &file).unwrap();
    assert!(bytes == std::fs::read(&file).unwrap(), "another tar");
    assert_eq!(service.received().0, made.moved);
    assert!(service.received().1 > 2, "{:?}", service.received());
    assert_eq!(made.images[0].id, image);
    assert_eq!(
        made.images[0].snapshot,
        Some(format!("gs://images/{object}"))
    );
    assert!(
        object.starts_with("web/web-1.0-rc1-aws-x86_64-"),
        "{object}"
    );
    assert!(image.starts_with("web-1-0-rc1-aws-x86-64-"), "{image}");
    assert_eq!(said["family"], "web-aws-x86-64");
    // Once more: nothing moves.
    let again = client.make(&scene).unwrap();
    assert_eq!((again.moved, again.images), (0, made.images.clone()));
    assert_eq!(service.received().0, made.moved);

    assert_eq!(client.wrong(&scene, &made), None);
    service.corrupt(&object);
    let wrong = client.wrong(&scene, &made).unwrap();
    assert!(wrong.contains("is not the disk's"), "{wrong}");
    service.relabel(&image, "another");
    let wrong = client.wrong(&scene, &made).unwrap();
    assert!(wrong.contains("names another image"), "{wrong}");
    let error = client.make(&scene).unwrap_err().to_string();
    assert!(
        error.contains("is taken in gcp://test-project/images/web"),
        "{error}"
    );
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn interrupted_at_every_request_the_next_run_ends_with_one_image_of_googles() {
    let scene = Scene::new();
    let service = TestGcp::new(GcpRules::default());
    let proxy = FaultProxy::new(service.address());
    Client::at(&service, proxy.address()).make(&scene).unwrap();
    let requests = proxy.requests().len();
    let whole = service.received().0;
    let hasty = RemoteOptions {
        retries: 0,
        ..quick()
    };
    let mut failed = 0;
    // All faults at every request want minutes, nearly all for compressing the same disk.
    let nightly = std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some();
    let faults = [Fault::CutBefore, Fault::CutRequest, Fault::CutAnswer];
    for at in 0..requests {
        for (kind, fault) in faults.iter().enumerate() {
            if !nightly && kind != at % faults.len() {
                continue;
            }
            let fault = fault.clone();
            let case = format!("{fault:?} from request {at} of {requests} on");
            let service = TestGcp::new(GcpRules::default());
            let proxy = FaultProxy::new(service.address());
            proxy.fault_from(at, fault.clone());
            let through = Client::new(&service.variables(proxy.address()), hasty);
            failed += usize::from(through.make(&scene).is_err());
            let direct = Client::at(&service, service.address());
            let made = direct.make(&scene);
            let made = made.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(made.images[0].id, only(&service).1.0, "{case}");
            assert_eq!(service.complaints(), Vec::<String>::new(), "{case}");

            // Cut once, and the same run goes on: at most one part comes twice.
            let service = TestGcp::new(GcpRules::default());
            let proxy = FaultProxy::new(service.address());
            proxy.fault_at(at, fault);
            let through = Client::at(&service, proxy.address());
            let made = through.make(&scene);
            made.unwrap_or_else(|error| panic!("once, {case}: {error}"));
            only(&service);
            let received = service.received().0;
            assert!(
                received <= whole + 256 * 1024,
                "{received} of {whole}: {case}"
            );
            assert_eq!(service.complaints(), Vec::<String>::new(), "{case}");
        }
    }
    let cases = if nightly {
        requests * faults.len()
    } else {
        requests
    };
    assert!(failed * 3 > cases, "{failed} of {cases} were disturbed");
}

#[test]
fn a_service_that_is_busy_greedy_or_forgetful_gets_all_of_it() {
    let scene = Scene::new();
    let patient = RemoteOptions {
        retries: 10,
        part: 1024 * 1024,
        ..quick()
    };
    for rules in [
        GcpRules {
            trouble: 3,
            ..GcpRules::default()
        },
        GcpRules {
            greedy: true,
            ..GcpRules::default()
        },
        GcpRules {
            forgets: 2,
            ..GcpRules::default()
        },
    ] {
        let case = format!("{rules:?}");
        let options = match rules.forgets {
            0 => patient,
            _ => quick(),
        };
        let service = TestGcp::new(rules);
        let client = Client::new(&service.variables(service.address()), options);
        let made = client.make(&scene);
        let made = made.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(client.wrong(&scene, &made), None, "{case}");
        assert_eq!(service.complaints(), Vec::<String>::new(), "{case}");
    }
    let service = TestGcp::new(GcpRules {
        fails: Some("The tar archive is not a valid image."),
        ..GcpRules::default()
    });
    let error = Client::at(&service, service.address()).make(&scene);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("not a valid image") && error.contains("delete it"),
        "{error}"
    );
}

#[test]
fn a_service_accounts_key_is_changed_for_a_token_once_and_a_wrong_one_is_said() {
    let scene = Scene::new();
    let service = TestGcp::new(GcpRules::default());
    let file = scene.store.root().join("key.json");
    std::fs::write(&file, service.key_file()).unwrap();
    let mut variables = service.variables(service.address());
    variables.retain(|(name, _)| !name.ends_with("_TOKEN"));
    let named = file.to_str().unwrap().to_owned();
    variables.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), named));
    let client = Client::new(&variables, quick());
    let made = client.make(&scene).unwrap();
    assert_eq!(client.wrong(&scene, &made), None);
    assert_eq!(service.complaints(), Vec::<String>::new());

    let mut variables = service.variables(service.address());
    for (name, value) in &mut variables {
        if name.ends_with("_TOKEN") {
            *value = "s3cret".to_owned();
        }
    }
    let error = Client::new(&variables, quick()).make(&scene);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("401") && error.contains("log in anew") && !error.contains("s3cret"),
        "{error}"
    );
}

#[test]
fn a_dry_run_shows_the_calls_to_google_and_sends_none() {
    let scene = Scene::new();
    let service = TestGcp::new(GcpRules::default());
    let client = Client::at(&service, service.address());
    let disk = disk(&scene);
    let casting = Casting {
        disk: &disk,
        ..scene.casting(None)
    };
    let dry = client.gce(&scene).dry_run(&casting).unwrap();
    assert_eq!(service.seen(), Vec::<String>::new());
    let made = client.make(&scene).unwrap();
    assert_eq!(dry.bytes, made.moved);
    let shown: Vec<String> = dry.calls.iter().map(ToString::to_string).collect();
    let all = shown.join("\n");
    for part in [
        "storage objects.insert of web/web-1.0-rc1",
        "ifGenerationMatch=0",
        "compute images.insert of web-1-0-rc1",
        "UEFI_COMPATIBLE",
        "GVNIC",
        "VIRTIO_SCSI_MULTIQUEUE",
        "globalOperations.get",
    ] {
        assert!(all.contains(part), "no {part} in {all}");
    }
    // The disk of another board is refused before anything is asked.
    let error = client.gce(&scene).make(&scene.casting(None)).unwrap_err();
    assert!(error.to_string().contains("whole GiB"), "{error}");
}

fn new_object(name: &str, size: u64, sum: u32) -> NewObject<'_> {
    NewObject {
        bucket: "images",
        name,
        image: "sha256:of-it".to_owned(),
        size,
        sum,
    }
}

/// Bytes that no step of an upload repeats.
fn upload_of(scene: &Scene, size: usize) -> (std::fs::File, Vec<u8>) {
    let bytes: Vec<u8> = (0..size).map(|at| (at / 7 % 251) as u8).collect();
    let path = scene.store.root().join("object");
    std::fs::write(&path, &bytes).unwrap();
    (std::fs::File::open(path).unwrap(), bytes)
}

#[test]
fn an_emulator_of_cloud_storage_takes_an_object_in_parts_and_goes_on_after_cuts() {
    let Some(emulator) = Emulator::google() else {
        return;
    };
    let scene = Scene::new();
    let (file, bytes) = upload_of(&scene, 5 * 256 * 1024 + 77);
    let sum = crc32c::crc32c(&bytes);
    let in_parts = RemoteOptions {
        part: 256 * 1024,
        ..quick()
    };
    let proxy = FaultProxy::new(emulator.address);
    let at = |address| {
        [
            (
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE".to_owned(),
                format!("http://{address}/"),
            ),
            (
                "CLOUDSDK_AUTH_ACCESS_TOKEN".to_owned(),
                "a-token".to_owned(),
            ),
        ]
    };
    let by = |proxy: &FaultProxy| Client::new(&at(proxy.address()), in_parts).gcp;
    let gcp = by(&proxy);
    let size = bytes.len() as u64;
    assert_eq!(gcp.object("images", "web/a b.tar.gz").unwrap(), None);
    let before = proxy.requests().len();
    let sent = std::cell::Cell::new(0);
    let count = |more| sent.set(sent.get() + more);
    assert!(
        gcp.upload(&new_object("web/a b.tar.gz", size, sum), &file, &count)
            .unwrap()
    );
    assert_eq!(sent.get(), size);
    let requests = proxy.requests().len() - before;
    assert_eq!(requests, 1 + 6, "{:?}", proxy.requests());
    let there = gcp.object("images", "web/a b.tar.gz").unwrap().unwrap();
    assert_eq!((there.size, there.sum), (size, Some(sum)));
    assert_eq!(there.image.as_deref(), Some("sha256:of-it"));

    // Cut at every part but the first: an upload that has nothing is said to have a byte.
    for at in 2..requests {
        for fault in [Fault::CutBefore, Fault::CutRequest, Fault::CutAnswer] {
            let case = format!("{fault:?} at {at}");
            let proxy = FaultProxy::new(emulator.address);
            proxy.fault_at(at, fault);
            let name = format!("web/{at}.tar.gz");
            let made = by(&proxy).upload(&new_object(&name, size, sum), &file, &|_| ());
            assert!(made.unwrap_or_else(|error| panic!("{case}: {error}")));
            let there = gcp.object("images", &name).unwrap().unwrap();
            assert_eq!((there.size, there.sum), (size, Some(sum)), "{case}");
            gcp.remove_object("images", &name).unwrap();
            assert_eq!(gcp.object("images", &name).unwrap(), None);
        }
    }
    let error = gcp.upload(&new_object("web/wrong", size, sum ^ 1), &file, &|_| ());
    assert!(error.unwrap_err().to_string().contains("400"));
    assert_eq!(gcp.object("images", "web/wrong").unwrap(), None);
}
