//! Every request of a publication, and every kind of fault at it: afterwards
//! what the tag names is whole, old or new, and doing it again completes.

use slipform::base::Digest;
use slipform::remote::testing::{
    Fault, FaultProxy, RegistryRules, S3Rules, TestRegistry, TestS3, put,
};
use slipform::remote::{Document, Expect, Remote, RemoteError};
use slipform::store::{Descriptor, MANIFEST, Manifest};

use crate::open;

/// Three parts of 64 KiB, others for each release.
fn large(release: u32) -> Vec<u8> {
    (release..release + 40_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// A publication in small: blobs, a manifest that names a subject, its entry, a tag.
fn publish(remote: &dyn Remote, release: u32) -> Result<Digest, RemoteError> {
    let old = remote.tagged("channel")?;
    let mut layers = Vec::new();
    for bytes in [
        b"{}".to_vec(),
        large(release),
        format!("release {release}").into_bytes(),
    ] {
        let digest = Digest::of(&bytes);
        if !remote.has_blob(&digest)? {
            put(remote, &bytes)?;
        }
        layers.push(Descriptor::new("text/plain", digest, bytes.len() as u64));
    }
    let mut manifest = Manifest::artifact("application/vnd.test", Descriptor::empty(), layers);
    let image = Document::new(MANIFEST, manifest.to_bytes()?);
    remote.put_manifest(&image.bytes, MANIFEST)?;
    manifest.subject = Some(image.descriptor());
    let note = Document::new(MANIFEST, manifest.to_bytes()?);
    remote.put_manifest(&note.bytes, MANIFEST)?;
    remote.refer(&image.digest, &note.as_referrer())?;
    let expect = old.map_or(Expect::Absent, |old| Expect::Is(old.digest));
    remote.set_tag("channel", &image, expect)?;
    Ok(image.digest)
}

/// What the tag names, with all its blobs, checked.
fn read(remote: &dyn Remote) -> Result<Option<Digest>, RemoteError> {
    let Some(document) = remote.tagged("channel")? else {
        return Ok(None);
    };
    let manifest = Manifest::parse(&document.bytes)?;
    for layer in manifest.layers {
        remote.get_blob(&layer.digest, layer.size, &mut Vec::new())?;
    }
    Ok(Some(document.digest))
}

/// Every seventh case, or all of them (minutes) where the nightly tests are asked for;
/// seven shares nothing with the number of faults, so that each kind has its turn.
fn is_chosen(case: usize) -> bool {
    case.is_multiple_of(7) || std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some()
}

/// Runs the sweep; `open` takes the address to go through, and a fresh place for each `n`.
fn sweep(proxy: &FaultProxy, open: &dyn Fn(u32, bool) -> Box<dyn Remote>) -> usize {
    publish(&*open(0, true), 0).unwrap();
    let count = proxy.requests().len();
    let (mut n, mut failed) = (0u32, 0);
    let faults = Fault::all();
    for at in 0..count {
        for (kind, fault) in faults.iter().cloned().enumerate() {
            if !is_chosen(at * faults.len() + kind) {
                continue;
            }
            n += 1;
            let case = format!("{fault:?} at request {at}");
            // An old release is there; the next one meets the fault.
            let direct = open(n, false);
            let old = publish(&*direct, 2 * n).unwrap();
            proxy.reset();
            proxy.fault_at(at, fault);
            let result = publish(&*open(n, true), 2 * n + 1);
            let there = read(&*direct).unwrap_or_else(|e| panic!("{case}: {e}"));
            match &result {
                Ok(new) => assert_eq!(there, Some(*new), "{case}"),
                Err(_) => failed += 1,
            }
            proxy.reset();
            let was = there == Some(old);
            let new = publish(&*open(n, true), 2 * n + 1)
                .unwrap_or_else(|e| panic!("{case}, again: {e}"));
            assert!(was || there == Some(new), "{case}: neither old nor new");
            assert_eq!(read(&*direct).unwrap(), Some(new), "{case}");
            let listed = direct.referrers(&new).unwrap();
            assert_eq!(listed.len(), 1, "{case}");
        }
    }
    // Most of what passes by itself must be got over without a person.
    assert!(
        failed * 2 < n as usize,
        "{failed} of {n} publications failed"
    );
    n as usize
}

#[test]
fn a_registry_with_a_fault_at_every_request() {
    for referrers in [true, false] {
        let registry = TestRegistry::new(RegistryRules {
            referrers,
            ..RegistryRules::default()
        });
        let proxy = FaultProxy::new(registry.address());
        let cases = sweep(&proxy, &|n, through| {
            let at = if through {
                proxy.address()
            } else {
                registry.address()
            };
            open(&format!("oci://{at}/r{n}"), &[])
        });
        assert!(cases > 30, "{cases}");
        assert!(
            registry.complaints().is_empty(),
            "{:?}",
            registry.complaints()
        );
    }
}

#[test]
fn an_object_store_with_a_fault_at_every_request() {
    let store = TestS3::new(S3Rules::default());
    let proxy = FaultProxy::new(store.address());
    let cases = sweep(&proxy, &|n, through| {
        let at = if through {
            proxy.address()
        } else {
            store.address()
        };
        open(&format!("s3://bucket/p{n}"), &store.variables(at))
    });
    assert!(cases > 30, "{cases}");
}

#[test]
fn a_cut_upload_goes_on_where_it_was_cut() {
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    let remote = open(&format!("oci://{}/a", proxy.address()), &[]);
    // POST, PATCH, PATCH (cut in the middle), GET, PATCH with the rest, …
    proxy.fault_at(2, Fault::CutRequest);
    let digest = put(&*remote, &large(0)).unwrap();
    let requests = registry.requests();
    let count = |method: &str| requests.iter().filter(|r| r.starts_with(method)).count();
    assert_eq!(
        (count("POST"), count("GET"), count("PUT")),
        (1, 1, 1),
        "{requests:?}"
    );
    assert!(remote.has_blob(&digest).unwrap());
    assert!(
        registry.complaints().is_empty(),
        "{:?}",
        registry.complaints()
    );
}

#[test]
fn parts_that_another_process_left_are_used() {
    let store = TestS3::new(S3Rules::default());
    let proxy = FaultProxy::new(store.address());
    let env = store.variables(proxy.address());
    let bytes = large(0);
    // List, begin, list parts, part 1, then nothing any more.
    proxy.fault_from(4, Fault::CutBefore);
    put(&*open("s3://bucket/p", &env), &bytes).unwrap_err();
    assert_eq!(store.unfinished(), 1);
    proxy.reset();
    let digest = put(&*open("s3://bucket/p", &env), &bytes).unwrap();
    let sent = |requests: &[String], n: u32| {
        requests
            .iter()
            .filter(|r| r.contains(&format!("partNumber={n}&")))
            .count()
    };
    assert_eq!(sent(&proxy.requests(), 1), 0, "part 1 was there");
    assert_eq!(sent(&proxy.requests(), 2), 1);
    assert_eq!(store.unfinished(), 0);
    assert!(open("s3://bucket/p", &env).has_blob(&digest).unwrap());
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let registry = TestRegistry::new(RegistryRules::default());
    let store = TestS3::new(S3Rules::default());
    for (upstream, uri) in [(registry.address(), "oci"), (store.address(), "s3")] {
        let proxy = FaultProxy::new(upstream);
        let env = store.variables(proxy.address());
        let uri = match uri {
            "oci" => format!("oci://{}/a", proxy.address()),
            _ => "s3://bucket/p".to_owned(),
        };
        let remote = open(&uri, &env);
        let bytes = large(0);
        let digest = put(&*remote, &bytes).unwrap();
        proxy.reset();
        proxy.fault_at(0, Fault::Truncate);
        proxy.fault_at(1, Fault::Truncate);
        let mut back = Vec::new();
        remote
            .get_blob(&digest, bytes.len() as u64, &mut back)
            .unwrap();
        assert!(back == bytes);
        assert_eq!(proxy.requests().len(), 3);
    }
}

#[test]
fn a_server_that_asks_to_wait_is_given_time() {
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    let remote = open(&format!("oci://{}/a", proxy.address()), &[]);
    proxy.fault_at(0, Fault::RetryAfter(1));
    let start = std::time::Instant::now();
    assert!(!remote.has_blob(&Digest::of("x")).unwrap());
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
    proxy.fault_from(0, Fault::Status(503));
    let error = remote.has_blob(&Digest::of("x")).unwrap_err().to_string();
    assert!(error.contains("503 (tried 4 times)"), "{error}");
}

/// docker-registry reads a blob's link while another publisher writes it, and says that
/// the manifest's digest is wrong: once is no reason to give up, again and again is.
#[test]
fn a_registry_that_finds_fault_once_is_asked_again() {
    let document = Document::new(
        MANIFEST,
        Manifest::artifact("application/vnd.test", Descriptor::empty(), Vec::new())
            .to_bytes()
            .unwrap(),
    );
    let registry = TestRegistry::new(RegistryRules::default());
    let proxy = FaultProxy::new(registry.address());
    let remote = open(&format!("oci://{}/app", proxy.address()), &[]);
    put(&*remote, b"{}").unwrap();
    let before = proxy.requests().len();
    proxy.fault_at(0, Fault::Status(400));
    remote.put_manifest(&document.bytes, MANIFEST).unwrap();
    assert_eq!(proxy.requests().len(), before + 2);

    proxy.fault_from(0, Fault::Status(400));
    let error = remote.put_manifest(&document.bytes, MANIFEST).unwrap_err();
    assert!(error.to_string().contains("it answers 400"), "{error}");
    assert_eq!(proxy.requests().len(), before + 5);
    assert_eq!(registry.complaints(), Vec::<String>::new());
}
