//! Page blobs against a strict service of ours: the VHD's bytes, only what is not zero or
//! differs from the parent, once, whatever is cut off.

use slipform::base::progress::Quiet;
use slipform::output::{self, OutputFormat, fixed_footer};
use slipform::publish::PublishError;
use slipform::publish::cloud::{AzureTarget, Made, PageBlob, Parent};
use slipform::remote::RemoteOptions;
use slipform::remote::azure::PageBlobs;
use slipform::remote::testing::{AzureRules, Fault, FaultProxy, TestAzure, quick};
use slipform::sources::Host;

use crate::clouds::Scene;
use crate::emulators::Emulator;

const FOOTER: [u8; 512] = [7; 512];

/// A container by way of some address.
struct Client {
    blobs: PageBlobs,
    target: AzureTarget,
}

impl Client {
    fn new(variables: &[(String, String)], account: &str, options: RemoteOptions) -> Self {
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let host = Host::fake("/nowhere", &variables);
        Self {
            blobs: PageBlobs::open(account, "images", &host, options).unwrap(),
            target: format!("azure://{account}/images").parse().unwrap(),
        }
    }

    fn at(service: &TestAzure, at: std::net::SocketAddr) -> Self {
        Self::new(&service.variables(at), "testaccount", quick())
    }

    fn page_blob<'a>(&'a self, scene: &'a Scene) -> PageBlob<'a> {
        PageBlob {
            store: &scene.store,
            blobs: &self.blobs,
            target: &self.target,
            progress: &Quiet,
        }
    }

    fn make(&self, scene: &Scene, parent: Option<&Parent>) -> Result<Made, PublishError> {
        self.page_blob(scene).make(&scene.casting(parent), &FOOTER)
    }

    /// What is wrong with what was made; nothing when it is good.
    fn wrong(&self, scene: &Scene, made: &Made) -> Option<String> {
        let casting = scene.casting(None);
        let of = (casting.image.image(), &scene.disk);
        let page_blob = self.page_blob(scene);
        page_blob.verify(&made.images[0], of, &FOOTER).unwrap()
    }
}

fn name(made: &Made) -> &str {
    made.images[0].snapshot.as_deref().unwrap()
}

/// The disk and its footer.
fn vhd(scene: &Scene) -> Vec<u8> {
    let mut bytes = scene.raw();
    bytes.extend(FOOTER);
    bytes
}

#[test]
fn a_disk_becomes_a_vhd_of_which_only_what_is_not_zero_moves() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let client = Client::at(&service, service.address());
    let made = client.make(&scene, None).unwrap();
    let (bytes, metadata) = service.blob(name(&made)).unwrap();
    assert_eq!(bytes, vhd(&scene));
    assert_eq!(metadata["slipformstate"], "complete");
    assert_eq!(service.written(), made.moved + 512);
    assert!(made.moved < bytes.len() as u64 / 4, "{made:?}");
    assert!(
        made.images[0]
            .id
            .ends_with(&format!("/images/{}", name(&made)))
    );
    // Once more: nothing moves.
    let again = client.make(&scene, None).unwrap();
    assert_eq!((again.moved, service.written()), (0, made.moved + 512));
    assert_eq!(service.complaints(), Vec::<String>::new());
}

/// What lies there is the very file that `export --format vhd` writes.
#[test]
fn the_blob_is_the_file_that_export_writes() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let client = Client::at(&service, service.address());
    let footer = fixed_footer(&scene.store, &scene.disk).unwrap();
    let page_blob = client.page_blob(&scene);
    let made = page_blob.make(&scene.casting(None), &footer).unwrap();
    let file = scene.store.root().join("disk.vhd");
    output::write(OutputFormat::Vhd, &scene.disk, &scene.store, &file).unwrap();
    assert_eq!(
        service.blob(name(&made)).unwrap().0,
        std::fs::read(&file).unwrap()
    );
}

#[test]
fn the_next_release_moves_only_the_pages_that_changed() {
    let service = TestAzure::new(AzureRules {
        pending: 2,
        ..AzureRules::default()
    });
    let client = Client::at(&service, service.address());
    let scene = Scene::new();
    let first = client.make(&scene, None).unwrap();
    let before = scene.raw();
    let (scene, mut parent) = scene.next();
    parent.snapshot = name(&first).to_owned();
    let written = service.written();
    let second = client.make(&scene, Some(&parent)).unwrap();
    assert_eq!(service.blob(name(&second)).unwrap().0, vhd(&scene));
    let unit = 64 * 1024;
    let after = scene.raw();
    let changed = before
        .chunks(unit)
        .zip(after.chunks(unit))
        .filter(|(a, b)| a != b);
    let changed = changed.count() * unit;
    assert!(
        (service.written() - written) * 10 <= changed as u64 * 11,
        "{second:?} for {changed} bytes"
    );
    // The parent is as it was.
    let mut parents = before;
    parents.extend(FOOTER);
    assert_eq!(service.blob(&parent.snapshot).unwrap().0, parents);
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_blob_is_read_back_and_every_byte_that_somebody_changed_is_found() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let client = Client::at(&service, service.address());
    let made = client.make(&scene, None).unwrap();
    assert_eq!(client.wrong(&scene, &made), None);
    let size = scene.raw().len();
    let half = 512 * 1024;
    // Zeros at the beginning, data and its end, zeros behind it, the disk's end, the footer.
    let places = [
        0,
        2 * half,
        7 * half - 1,
        7 * half,
        size - 1,
        size,
        size + 511,
    ];
    for at in places {
        service.corrupt(name(&made), at);
        let said = client.wrong(&scene, &made);
        assert_eq!(said, Some(format!("byte {at} is not the disk's")));
        service.corrupt(name(&made), at);
    }
    assert_eq!(client.wrong(&scene, &made), None);
    service.corrupt(name(&made), 7 * half);
    service.corrupt(name(&made), 2 * half);
    let first = format!("byte {} is not the disk's", 2 * half);
    assert_eq!(client.wrong(&scene, &made), Some(first));
    service.corrupt(name(&made), 7 * half);
    service.corrupt(name(&made), 2 * half);
    service.lose(name(&made), 3 * half);
    let lost = client.wrong(&scene, &made).unwrap();
    assert!(lost.ends_with("is not the disk's"), "{lost}");

    for (key, value, said) in [
        ("slipformstate", "open", "not complete"),
        ("slipformimage", "another", "another image"),
    ] {
        service.retag(name(&made), key, value);
        let wrong = client.wrong(&scene, &made).unwrap();
        assert!(wrong.contains(said), "{wrong}");
    }
    service.remove(name(&made));
    let wrong = client.wrong(&scene, &made).unwrap();
    assert!(wrong.contains("not there any more"), "{wrong}");
    let mut elsewhere = made;
    elsewhere.images[0].id = elsewhere.images[0].id.replace("testaccount", "other");
    let wrong = client.wrong(&scene, &elsewhere).unwrap();
    assert!(wrong.contains("the login leads to"), "{wrong}");
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[test]
fn a_blob_is_read_back_over_a_network_that_cuts_each_request_once() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let direct = Client::at(&service, service.address());
    let made = direct.make(&scene, None).unwrap();
    let proxy = FaultProxy::new(service.address());
    let through = Client::at(&service, proxy.address());
    let mut made_through = made;
    made_through.images[0].id = through.blobs.address(name(&made_through));
    assert_eq!(through.wrong(&scene, &made_through), None);
    let requests = proxy.requests().len();
    assert!(requests > 4, "{requests}");
    for at in 0..requests {
        for fault in [Fault::CutBefore, Fault::CutRequest, Fault::CutAnswer] {
            let proxy = FaultProxy::new(service.address());
            proxy.fault_at(at, fault.clone());
            let through = Client::at(&service, proxy.address());
            made_through.images[0].id = through.blobs.address(name(&made_through));
            let wrong = through.wrong(&scene, &made_through);
            assert_eq!(wrong, None, "{fault:?} at request {at} of {requests}");
            assert!(proxy.requests().len() > requests, "{fault:?} at {at}");
        }
    }
}

#[test]
fn interrupted_at_every_request_the_next_run_ends_with_one_blob() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let proxy = FaultProxy::new(service.address());
    Client::at(&service, proxy.address())
        .make(&scene, None)
        .unwrap();
    let requests = proxy.requests().len();
    let hasty = RemoteOptions {
        retries: 0,
        ..quick()
    };
    let mut failed = 0;
    for at in 0..requests {
        for fault in [Fault::CutBefore, Fault::CutRequest, Fault::CutAnswer] {
            let case = format!("{fault:?} from request {at} of {requests} on");
            let service = TestAzure::new(AzureRules::default());
            let proxy = FaultProxy::new(service.address());
            proxy.fault_from(at, fault);
            let through = Client::new(&service.variables(proxy.address()), "testaccount", hasty);
            failed += usize::from(through.make(&scene, None).is_err());
            let made = Client::at(&service, service.address()).make(&scene, None);
            let made = made.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(service.blobs(), [name(&made)], "{case}");
            assert_eq!(service.blob(name(&made)).unwrap().0, vhd(&scene), "{case}");
            assert_eq!(service.complaints(), Vec::<String>::new(), "{case}");
        }
    }
    assert!(failed > requests, "{failed} were disturbed");
}

#[test]
fn a_busy_service_gets_all_of_it_and_a_wrong_login_or_name_is_said() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules {
        pending: 0,
        trouble: 3,
    });
    let patient = RemoteOptions {
        retries: 10,
        ..quick()
    };
    let variables = service.variables(service.address());
    let client = Client::new(&variables, "testaccount", patient);
    let made = client.make(&scene, None).unwrap();
    assert_eq!(service.blob(name(&made)).unwrap().0, vhd(&scene));
    service.retag(name(&made), "slipformimage", "another");
    let error = client.make(&scene, None).unwrap_err().to_string();
    assert!(
        error.contains("is taken in azure://testaccount/images"),
        "{error}"
    );

    let service = TestAzure::new(AzureRules::default());
    let mut variables = service.variables(service.address());
    variables[0].1 = variables[0].1.replace("AccountKey=", "AccountKey=AAAA");
    let client = Client::new(&variables, "testaccount", quick());
    let error = client.make(&scene, None).unwrap_err().to_string();
    assert!(
        error.contains("AuthenticationFailed") || error.contains("403"),
        "{error}"
    );
}

#[test]
fn a_dry_run_shows_the_very_requests_and_sends_none() {
    let scene = Scene::new();
    let service = TestAzure::new(AzureRules::default());
    let client = Client::at(&service, service.address());
    let dry = client
        .page_blob(&scene)
        .dry_run(&scene.casting(None), &FOOTER)
        .unwrap();
    assert_eq!(service.seen(), Vec::<String>::new());
    let made = client.make(&scene, None).unwrap();
    assert_eq!(dry.bytes, made.moved);
    let writes = |list: &[String], word: &str| list.iter().filter(|l| l.contains(word)).count();
    let shown: Vec<String> = dry.calls.iter().map(ToString::to_string).collect();
    assert_eq!(
        writes(&shown, "Put Page"),
        writes(&service.seen(), "PUT page")
    );
    assert!(shown[2].contains("Put Blob") && shown[2].contains("x-ms-blob-type=PageBlob"));
    assert!(shown.last().unwrap().contains("slipformstate=complete"));
}

#[test]
fn azurite_takes_a_disk_and_the_pages_that_the_next_one_changes() {
    let Some(azurite) = Emulator::azurite() else {
        return;
    };
    // The account and key that everybody's Azurite has.
    let key =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    let account = "devstoreaccount1";
    let text = format!(
        "AccountName={account};AccountKey={key};BlobEndpoint=http://{}/{account};",
        azurite.address
    );
    let variables = [("AZURE_STORAGE_CONNECTION_STRING".to_owned(), text)];
    let client = Client::new(&variables, account, quick());
    let scene = Scene::new();
    let first = client.make(&scene, None).unwrap();
    assert_eq!(client.make(&scene, None).unwrap().moved, 0);
    let (scene, mut parent) = scene.next();
    parent.snapshot = name(&first).to_owned();
    let second = client.make(&scene, Some(&parent)).unwrap();
    assert!(
        second.moved > 0 && second.moved < first.moved,
        "{second:?} after {first:?}"
    );
    assert_eq!(client.wrong(&scene, &second), None);
    let wrong = [(
        variables[0].0.clone(),
        variables[0].1.replace("AccountKey=E", "AccountKey=F"),
    )];
    let error = Client::new(&wrong, account, quick())
        .make(&scene, None)
        .unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
}
