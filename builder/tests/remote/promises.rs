//! One suite for all remotes.

use slipform::remote::testing::{
    RegistryRules, S3Rules, TestRegistry, TestS3, Traits, conformance, put, race,
};
use slipform::remote::{Document, Expect, RemoteError};
use slipform::store::INDEX;

use crate::open;

/// More than one part of 64 KiB.
const LARGE: usize = 200_000;

const ATOMIC: Traits = Traits {
    atomic: true,
    large: LARGE,
};

const NOT_ATOMIC: Traits = Traits {
    atomic: false,
    large: LARGE,
};

#[test]
fn a_folder_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file://{}/new/folder", folder.path().display());
    conformance(&|| open(&uri, &[]), ATOMIC);
}

#[test]
fn a_registry_keeps_them() {
    for rules in [
        RegistryRules::default(),
        RegistryRules {
            referrers: false,
            ..RegistryRules::default()
        },
        RegistryRules {
            parts: false,
            ..RegistryRules::default()
        },
        RegistryRules {
            least: 100_000,
            page: 1,
            ..RegistryRules::default()
        },
    ] {
        let registry = TestRegistry::new(rules.clone());
        conformance(&|| open(&registry.uri("team/app"), &[]), NOT_ATOMIC);
        assert!(
            registry.complaints().is_empty(),
            "{rules:?}: {:?}",
            registry.complaints()
        );
        if rules.least > 0 {
            let requests = registry.requests();
            let patches = requests.iter().filter(|r| r.starts_with("PATCH")).count();
            // 200,000 bytes in parts of 100,000: fewer than in parts of 64 KiB.
            assert!(patches > 0 && patches < 30, "{patches}");
        }
    }
}

#[test]
fn an_object_store_keeps_them() {
    for (conditions, digests) in [(true, true), (false, true), (true, false)] {
        let store = TestS3::new(S3Rules {
            conditions,
            digests,
            ..S3Rules::default()
        });
        let env = store.variables(store.address());
        let traits = if conditions { ATOMIC } else { NOT_ATOMIC };
        conformance(&|| open("s3://bucket/team/app", &env), traits);
        assert!(store.complaints().is_empty(), "{:?}", store.complaints());
        assert!(store.keys().iter().all(|key| key.starts_with("team/app/")));
        assert_eq!(store.unfinished(), 0, "uploads in parts are ended");
    }
}

#[test]
fn an_open_bucket_needs_no_keys_and_no_prefix() {
    let store = TestS3::new(S3Rules {
        keys: None,
        ..S3Rules::default()
    });
    let env = vec![store.variables(store.address()).remove(0)];
    conformance(&|| open("s3://bucket", &env), ATOMIC);
}

#[test]
fn of_two_writers_one_wins_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", folder.path().display());
    race(&|| open(&uri, &[]), 100);
}

#[test]
fn of_two_writers_one_wins_in_an_object_store() {
    let store = TestS3::new(S3Rules::default());
    let env = store.variables(store.address());
    race(&|| open("s3://bucket/p", &env), 100);
}

#[test]
fn what_was_changed_behind_our_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", folder.path().display());
    let registry = TestRegistry::new(RegistryRules::default());
    let store = TestS3::new(S3Rules::default());
    let env = store.variables(store.address());
    let index = Document::new(
        INDEX,
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
    );
    for (remote, corrupt) in [
        (
            open(&uri, &[]),
            Box::new(|hex: &str, _: &str| {
                let path = folder.path().join("blobs/sha256").join(hex);
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[0] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }) as Box<dyn Fn(&str, &str)>,
        ),
        (
            open(&registry.uri("a"), &[]),
            Box::new(|hex: &str, _: &str| {
                registry.corrupt(&format!("sha256:{hex}").parse().unwrap());
            }),
        ),
        (
            open("s3://bucket/p", &env),
            Box::new(|hex: &str, kind: &str| store.corrupt(&format!("p/{kind}/{hex}"))),
        ),
    ] {
        let blob = put(&*remote, b"content").unwrap();
        remote.put_manifest(&index.bytes, INDEX).unwrap();
        remote.set_tag("t", &index, Expect::Absent).unwrap();
        corrupt(&blob.hex(), "blobs/sha256");
        let error = remote.get_blob(&blob, 7, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
        corrupt(&index.digest.hex(), "manifests");
        for error in [
            remote.manifest(&index.digest).unwrap_err(),
            remote.tagged("t").unwrap_err(),
        ] {
            assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
        }
    }
}

#[test]
fn addresses_that_are_none_name_value_and_remedy() {
    for (uri, part) in [
        ("", "no scheme"),
        ("http://a/b", "none of oci, s3 and file"),
        ("oci://user:secret@host/A", "repository"),
        ("s3://a", "bucket"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
        ("file:relative", "no scheme"),
        ("file://host/path", "absolute path"),
    ] {
        let host = slipform::sources::Host::fake("/nowhere", &[]);
        let error = slipform::remote::open(uri, &host).unwrap_err().to_string();
        assert!(error.contains(part), "{uri}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
